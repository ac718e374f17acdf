//! What `ssr check` and `ssr acl test` say of rules and their files.

use crate::common::peers;
use crate::rules::{names, write};

#[test]
fn acl_test_names_the_line_that_decides() {
    let directory = tempfile::tempdir().unwrap();
    let (dns, _) = names(&[("near.test", &[2])]);
    write(
        directory.path(),
        "lan.acl",
        "[proxy_all]\n[bypass_list]\n127.0.0.2\n||direct.test\n[outbound_block_list]\n||evil.test\n",
    );
    write(directory.path(), "ads.txt", "# ads\nads.test\n");
    write(
        directory.path(),
        "config.json",
        &format!(
            "{{\n\"server\": \"127.0.0.1\", \"server_port\": 8388, \"method\": \"aes-256-gcm\", \"password\": \"p\",\n\
             \"dns\": \"{dns}\", \"acl\": \"lan.acl\",\n\"rules\": [\n{{\"list\": \"ads.txt\", \"to\": \"block\"}},\n\
             {{\"port\": 25, \"to\": \"block\"}}\n]}}"
        ),
    );
    let ask = |arguments: &[&str]| {
        let mut command = peers::ssr(&["acl", "test", "-c", "config.json"]);
        let output = command
            .args(arguments)
            .current_dir(directory.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let at = "ssr local at 127.0.0.1:1080";
    for (arguments, expected) in [
        (
            &["www.ads.test"][..],
            format!(
                "www.ads.test:443 over TCP, {at}: block\n  config.json:5: rules[0]\n  ads.txt:2: list\n"
            ),
        ),
        (
            &["-u", "192.0.2.1:25"],
            format!("192.0.2.1:25 over UDP, {at}: block\n  config.json:6: rules[1]\n"),
        ),
        (
            &["a.direct.test:80"],
            format!("a.direct.test:80 over TCP, {at}: direct\n  lan.acl:4: acl\n"),
        ),
        (
            &["near.test"],
            format!(
                "near.test:443 over TCP, {at}: direct\n  lan.acl:3: acl\n  resolved: 127.0.0.2 (a rule compares addresses)\n"
            ),
        ),
        (
            &["192.0.2.1"],
            format!(
                "192.0.2.1:443 over TCP, {at}: proxy\n  lan.acl: acl: in no list, so its mode decides\n"
            ),
        ),
        (
            &["--role", "server", "evil.test"],
            "evil.test:443 over TCP, ssr server at 127.0.0.1:8388: block\n  lan.acl:6: acl\n"
                .to_owned(),
        ),
    ] {
        assert_eq!(ask(arguments), expected, "{arguments:?}");
    }
    let unresolved = ask(&["no-such.test"]);
    assert!(unresolved.contains(": proxy\n"), "{unresolved}");
    assert!(unresolved.contains("  not resolved: "), "{unresolved}");
}

#[test]
fn check_reads_the_files_and_says_which_line_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "bad.txt", "ok.test\nfull:\n");
    write(
        directory.path(),
        "bad.acl",
        "[proxy_all]\n[bypass_list]\n(\n",
    );
    let check = |more: &str| {
        let config = format!(
            "{{\"server\": \"127.0.0.1\", \"server_port\": 8388, \"method\": \"aes-256-gcm\", \"password\": \"p\",\n{more}}}"
        );
        write(directory.path(), "config.json", &config);
        crate::common::process::make_private(&directory.path().join("config.json"));
        let output = peers::ssr(&["check", "--role", "local", "-c", "config.json"])
            .current_dir(directory.path())
            .output()
            .unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    for (more, message) in [
        (
            "\"acl\": \"none.acl\"",
            "config.json:2:8: acl: none.acl: cannot be read",
        ),
        (
            "\"acl\": \"bad.acl\"",
            "config.json:2:8: acl: bad.acl:3: regular expressions: ",
        ),
        (
            "\"rules\": [{\"list\": \"bad.txt\", \"to\": \"direct\"}]",
            "config.json:2:20: rules[0].list: bad.txt:2: ",
        ),
        (
            "\"rules\": [{\"list\": [\"bad.txt\", \"geosite.dat\"], \"to\": \"direct\"}]",
            "config.json:2:32: rules[0].list[1]: `geosite.dat`: a .dat or .mmdb file needs the code",
        ),
    ] {
        let stderr = check(more);
        assert!(stderr.contains(message), "{more}: {stderr}");
    }
    assert_eq!(
        check("\"rules\": [{\"list\": [\"ok.txt\"], \"to\": \"direct\", \"disabled\": true}]"),
        ""
    );
}
