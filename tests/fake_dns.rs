//! `protocol: fake-dns`, asked by `dig`: addresses that stand for names, and the file that keeps them.
//! What `redir` does with them is in [`crate::redir_names`].

use std::{
    collections::HashSet,
    fs,
    io::{Read as _, Write as _},
    path::Path,
    process::Command,
};

use crate::common::{
    eventually,
    peers::{Half, Program, Spec, Start},
    process::{free_port, v4},
    socks::{Socks, Target, dial},
};
use rustix::process::Signal;
use serde_json::{Value, json};

const METHOD: &str = "2022-blake3-aes-128-gcm";

fn start(keys: &Value, file: &Path) -> Half {
    let spec = Spec::new(METHOD);
    let mut entry = json!({
        "local_address": "127.0.0.1", "protocol": "fake-dns", "fake_dns_database_path": file,
        "fake_dns_ipv4_network": "198.18.0.0/15", "fake_dns_ipv6_network": "fd12:3456:789a::/64",
    });
    let all = entry.as_object_mut().unwrap();
    all.extend(keys.as_object().unwrap().clone());
    Start::local(Program::Ssr, &spec, v4(free_port()))
        .flags(&["-v"])
        .with(json!({"locals": [entry], "server": "proxy.example"}))
        .run()
}

fn dig(local: &Half, arguments: &[&str]) -> String {
    dig_at(local.address.port(), arguments)
}

/// What `dig` says that the name server at `port` answers.
pub(crate) fn dig_at(port: u16, arguments: &[&str]) -> String {
    let output = Command::new("dig")
        .args(["@127.0.0.1", "-p", &port.to_string()])
        .args(["+tries=1", "+time=10"])
        .args(arguments)
        .output()
        .expect("scripts/test installs dig");
    String::from_utf8(output.stdout).unwrap()
}

fn short(local: &Half, name: &str) -> String {
    dig(local, &["+short", name]).trim().to_owned()
}

#[test]
fn names_get_addresses_of_the_networks() {
    let dir = tempfile::tempdir().unwrap();
    let local = start(&json!({}), &dir.path().join("names"));
    let first = short(&local, "www.example.com");
    assert!(
        first.starts_with("198.18.") || first.starts_with("198.19."),
        "{first}"
    );
    assert_eq!(short(&local, "WWW.Example.com"), first);
    assert_eq!(
        dig(&local, &["+short", "+tcp", "www.example.com"]).trim(),
        first
    );
    assert_ne!(short(&local, "other.example.com"), first);
    let v6 = dig(&local, &["+short", "www.example.com", "AAAA"]);
    assert!(v6.starts_with("fd12:3456:789a::"), "{v6}");
    let whole = dig(&local, &["www.example.com"]);
    let record = whole.lines().find(|line| line.contains("\tA\t")).unwrap();
    assert_eq!(record.split_whitespace().nth(1), Some("10"), "{whole}");
    for (arguments, status) in [
        // There is nothing but addresses.
        (&["www.example.com", "TXT"][..], "NOERROR"),
        (&["www.example.com", "HTTPS"], "NOERROR"),
        (&["localhost"], "NXDOMAIN"),
        (&["."], "NXDOMAIN"),
        (&["a\\ b.example"], "NXDOMAIN"),
        // Its own server would be behind a fake address.
        (&["proxy.example"], "REFUSED"),
        (&["Proxy.Example", "AAAA"], "REFUSED"),
    ] {
        let answer = dig(&local, arguments);
        assert!(answer.contains(&format!("status: {status}")), "{answer}");
        assert!(answer.contains("ANSWER: 0"), "{answer}");
    }
}

#[test]
fn fake_address_is_its_name_for_socks_and_http_clients() {
    let dir = tempfile::tempdir().unwrap();
    let spec = Spec::new(METHOD);
    let server = Start::server(Program::Ssr, &spec).flags(&["-v"]).run();
    let port = free_port();
    let fake = json!({
        "local_address": "127.0.0.1", "protocol": "fake-dns", "fake_dns_database_path": dir.path().join("names"),
        "fake_dns_ipv4_network": "198.18.0.0/15",
    });
    let socks = json!({"local_address": "127.0.0.1", "local_port": port});
    let local = Start::local(Program::Ssr, &spec, server.address)
        .with(json!({"locals": [fake, socks]}))
        .run();
    let fake = |name: &str| -> std::net::IpAddr { short(&local, name).parse().unwrap() };
    let proxy = Socks::new(v4(port));
    let target = |name: &str| Target::from(std::net::SocketAddr::new(fake(name), 7));
    let has_gone_to = |name: &str| {
        eventually(name, || server.process.log().contains(&format!("{name}:7")));
    };

    let mut stream = proxy.connect(&target("socks5.invalid"));
    stream.write_all(b"x").unwrap();
    has_gone_to("socks5.invalid");

    let ask = |request: &[u8]| {
        let mut stream = dial(v4(port));
        stream.write_all(request).unwrap();
        stream
    };
    let connect = format!("CONNECT {}:7 HTTP/1.1\r\n\r\nx", fake("connect.invalid"));
    let _connect = ask(connect.as_bytes());
    has_gone_to("connect.invalid");
    let get = format!(
        "GET http://{}:7/ HTTP/1.1\r\nHost: x\r\n\r\n",
        fake("get.invalid")
    );
    let _get = ask(get.as_bytes());
    has_gone_to("get.invalid");
    let std::net::IpAddr::V4(socks4) = fake("socks4.invalid") else {
        panic!("an A record")
    };
    let request = [&[4, 1, 0, 7][..], &socks4.octets(), &[0], b"x"].concat();
    let _socks4 = ask(&request);
    has_gone_to("socks4.invalid");

    let association = proxy.associate();
    let to = target("udp.invalid");
    eventually("a datagram goes to its name", || {
        association.send(&to, b"x");
        server.process.log().contains("udp.invalid:7")
    });

    // Another address of the network stands for nothing.
    let nameless = Target::from(std::net::SocketAddr::from(([198, 19, 255, 254], 7)));
    assert_eq!(
        proxy.request(1, &nameless).unwrap().1,
        4,
        "host unreachable"
    );
    let mut refused = ask(b"GET http://198.19.255.254:7/ HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut answer = String::new();
    refused.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(answer.contains("resolve the name again"), "{answer}");
}

#[test]
fn address_has_its_name_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("names");
    let keys = json!({"fake_dns_record_expire_duration": 3600});
    let names = ["a.example", "b.example", "c.example"];
    let local = start(&keys, &file);
    let before = names.map(|name| short(&local, name));
    eventually("the names are saved", || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        names.iter().all(|name| text.contains(name))
    });
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // Killed, it cannot save anything any more.
    drop(local);
    let mut local = start(&keys, &file);
    eventually("the log says so", || {
        local.process.log().contains("fake names of an earlier run")
    });
    let others: HashSet<_> = (0..50)
        .map(|n| short(&local, &format!("{n}.example")))
        .collect();
    assert_eq!(others.len(), 50);
    assert!(before.iter().all(|address| !others.contains(address)));
    assert_eq!(names.map(|name| short(&local, name)), before);
    // Ended by a signal, it saves what is new without a pause.
    let last = short(&local, "last.example");
    local.process.signal(Signal::TERM);
    let _ended = local.process.wait(crate::common::DEADLINE);
    let local = start(&keys, &file);
    assert_eq!(short(&local, "last.example"), last);
}

#[test]
fn damaged_file_is_reported_kept_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    for (number, damage) in ["no names at all", "ssr fake names 1\n5 198.18.0.1 a.exa"]
        .iter()
        .enumerate()
    {
        let file = dir.path().join(number.to_string());
        fs::write(&file, damage).unwrap();
        let local = start(&json!({}), &file);
        let log = local.process.log();
        assert!(log.contains("the file of fake names is damaged"), "{log}");
        let aside = fs::read_to_string(dir.path().join(format!("{number}.damaged")));
        assert_eq!(aside.unwrap(), *damage);
        assert!(!short(&local, "a.example").is_empty());
        eventually("a new file is written", || {
            let text = fs::read_to_string(&file).unwrap_or_default();
            text.starts_with("ssr fake names 1\n") && text.contains("a.example")
        });
    }
}

#[test]
fn file_that_cannot_be_written_is_reported_and_names_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let local = start(&json!({}), &dir.path().join("missing/names"));
    eventually("the log says so", || {
        local.process.log().contains("cannot save fake names")
    });
    assert!(!short(&local, "a.example").is_empty());
    // The database of shadowsocks-rust is a directory, which stays as it is.
    let database = dir.path().join("database");
    fs::create_dir(&database).unwrap();
    fs::write(database.join("CURRENT"), "rocks").unwrap();
    let local = start(&json!({}), &database);
    assert!(!short(&local, "a.example").is_empty());
    eventually("the names are in a file of their own", || {
        let text = fs::read_to_string(database.join("ssr-fake-names"));
        text.is_ok_and(|text| text.contains("a.example"))
    });
    assert_eq!(
        fs::read_to_string(database.join("CURRENT")).unwrap(),
        "rocks"
    );
}

#[test]
fn full_network_refuses_new_names_and_keeps_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let keys = json!({
        "fake_dns_ipv4_network": "192.0.2.0/29", "fake_dns_record_expire_duration": 3600,
    });
    let local = start(&keys, &dir.path().join("names"));
    let all: Vec<_> = (0..6)
        .map(|n| short(&local, &format!("{n}.example")))
        .collect();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 6);
    for name in ["x.example", "y.example"] {
        let answer = dig(&local, &[name]);
        assert!(answer.contains("status: SERVFAIL"), "{answer}");
    }
    assert_eq!(short(&local, "3.example"), all[3]);
    let log = local.process.log();
    assert_eq!(
        log.matches("all fake addresses are in use").count(),
        1,
        "{log}"
    );
}
