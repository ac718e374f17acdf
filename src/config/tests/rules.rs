//! `rules`, `acl` and `geoip_file`.

use super::*;
use crate::route::{Action, Network};

fn rules(text: &str) -> String {
    with(&format!("\"remarks\": \"home\", \"rules\": [{text}]"))
}

#[test]
fn wrong_rules_are_named_with_their_place() {
    for (rule, message) in [
        (
            r#"{"ip": "10.0.0.0/8"}"#,
            "rules[0].to: missing: where the rule sends a request",
        ),
        (r#"{"to": "tokyo"}"#, "rules[0].to: unknown server `tokyo`"),
        (
            r#"{"ip": ["10.0.0.0/8", "10.0.0.0/33"], "to": "direct"}"#,
            "rules[0].ip[1]: `10.0.0.0/33`: not an IP address or network",
        ),
        (
            r#"{"domain": "", "to": "direct"}"#,
            "rules[0].domain: ``: not a domain name",
        ),
        (
            r#"{"domain_suffix": [], "to": "direct"}"#,
            "rules[0].domain_suffix: an empty list matches nothing",
        ),
        (
            r#"{"domain_keyword": "", "to": "direct"}"#,
            "rules[0].domain_keyword: empty",
        ),
        (
            r#"{"domain_regex": "(", "to": "direct"}"#,
            "rules[0].domain_regex: regular expressions: ",
        ),
        (
            r#"{"port": "9-8", "to": "direct"}"#,
            "rules[0].port: not a port or a range of ports",
        ),
        (
            r#"{"port": [80, 70000], "to": "direct"}"#,
            "rules[0].port: not a port or a range of ports",
        ),
        (
            r#"{"network": "icmp", "to": "direct"}"#,
            "rules[0].network: unknown network `icmp`",
        ),
        (
            r#"{"local": "127.0.0.1:1", "to": "block"}"#,
            "rules[0].local: no listener has the address `127.0.0.1:1` (use `127.0.0.1:1080`)",
        ),
        (
            r#"{"geoip": "china", "to": "direct"}"#,
            "rules[0].geoip: `china`: a country is its two letters",
        ),
        (
            r#"{"geoip": "cn", "to": "direct"}"#,
            "rules[0].geoip: needs `geoip_file`",
        ),
        (
            r#"{"list": "geosite.dat", "to": "direct"}"#,
            "rules[0].list: `geosite.dat`: a .dat or .mmdb file needs the code",
        ),
        (
            r#"{"domian": "a", "to": "direct"}"#,
            "rules[0].domian: unknown key (did you mean `domain`",
        ),
    ] {
        let found = failure(&rules(rule), Role::Local);
        assert!(found.contains(message), "{rule}: {found}");
        assert!(found.starts_with("1:"), "{found}");
    }
}

#[test]
fn rules_are_read_in_order_and_with_their_lines() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let text = rules(
        "\n{\"domain_suffix\": \".example.com\", \"port\": [80, \"8000-9000\", \"443\"], \"network\": \"udp\", \"to\": \"home\"},\n\
         {\"disabled\": true},\n{\"to\": \"block\"}",
    );
    std::fs::write(&path, &text).unwrap();
    let config = load(Some(&path), Role::Local, &Overrides::default()).unwrap();
    let live = config.locals[0].rules.as_ref().unwrap();
    let [first, second] = &*live.source().rules else {
        panic!("two rules");
    };
    assert_eq!(first.rule.ports, [80..=80, 8000..=9000, 443..=443]);
    assert_eq!(first.rule.network, Some(Network::Udp));
    assert_eq!(first.rule.to, Action::Server("home".into()));
    assert_eq!(
        first.rule.origin.to_string(),
        format!("{}:2", path.display())
    );
    assert_eq!(
        (second.rule.origin.line, second.at.as_str()),
        (4, "rules[2]")
    );
    assert!(config.summary().contains("  rules       2\n"));
    // The same file runs on the server, where rules can only refuse.
    let config = load(Some(&path), Role::Server, &Overrides::default()).unwrap();
    assert!(config.servers[0].rules.is_some());
    assert_eq!(config.live_rules().len(), 1);
}

#[test]
fn acl_file_is_read_and_shared() {
    let directory = tempfile::tempdir().unwrap();
    let (path, acl) = (directory.path().join("c.json"), directory.path().join("a"));
    std::fs::write(&acl, "[bypass_list]\n10.0.0.0/8\nbücher.example\n").unwrap();
    let text = with(&format!(
        "\"acl\": \"{}\", \"locals\": [{{\"local_port\": 1}}, {{\"local_port\": 2}}]",
        acl.display()
    ));
    std::fs::write(&path, text).unwrap();
    let config = load(Some(&path), Role::Local, &Overrides::default()).unwrap();
    assert_eq!(config.live_rules().len(), 1);
    let warning = shown(&config.warnings);
    assert!(
        warning.contains("acl: 1 lines are left out, the first is line 3: they are not ASCII"),
        "{warning}"
    );
}
