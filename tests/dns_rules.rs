//! Which name server the `dns` local asks, by the rules; asked by `dig`.

use std::{fs, process::Command};

use crate::common::{
    eventually,
    name_server::NameServer,
    peers::{Half, Pair, Program, Spec, Start},
};
use serde_json::{Value, json};

const METHOD: &str = "2022-blake3-aes-128-gcm";

/// The name server that is asked directly, the one behind the server, and a pair with these rules.
struct Scene {
    local: NameServer,
    remote: NameServer,
    pair: Pair,
}

impl Scene {
    fn new(rules: &Value) -> Self {
        let (local, remote) = (NameServer::start(), NameServer::start());
        let spec = Spec::new(METHOD);
        let entry = json!({
            "local_address": "127.0.0.1", "protocol": "dns",
            "local_dns_address": "127.0.0.1", "local_dns_port": local.address.port(),
            "remote_dns_address": "127.0.0.1", "remote_dns_port": remote.address.port(),
        });
        let pair = Pair::with(Start::server(Program::Ssr, &spec), |at| {
            Start::local(Program::Ssr, &spec, at)
                .flags(&["-v"])
                .with(json!({"locals": [entry], "rules": rules}))
        });
        Self {
            local,
            remote,
            pair,
        }
    }

    fn dig(&self, arguments: &[&str]) -> String {
        dig(&self.pair.local, arguments)
    }

    /// How often each of the two was asked for `name`.
    fn asked(&self, name: &str) -> (usize, usize) {
        (self.local.asked(name), self.remote.asked(name))
    }

    /// Whose answer was taken for `name`, once the log says so.
    fn route(&self, name: &str) -> String {
        let mut route = String::new();
        eventually("the log names the route", || {
            let log = self.pair.local.process.log();
            let mut lines = log.lines();
            let line = lines.find(|line| line.contains("asked for a name") && line.contains(name));
            let found = line.and_then(|line| line.split("route=").nth(1));
            route = found
                .unwrap_or_default()
                .split(' ')
                .next()
                .unwrap()
                .to_owned();
            !route.is_empty()
        });
        route
    }
}

fn dig(local: &Half, arguments: &[&str]) -> String {
    let output = Command::new("dig")
        .args(["@127.0.0.1", "-p", &local.address.port().to_string()])
        .args(["+tries=1", "+time=10"])
        .args(arguments)
        .output()
        .expect("scripts/test installs dig");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn rules_by_name_choose_the_name_server() {
    let scene = Scene::new(&json!([
        {"domain_suffix": "direct.test", "to": "direct"},
        {"domain_suffix": "blocked.test", "to": "block"},
        // What is only about some connections to a name does not refuse the name.
        {"domain": "mail.test", "port": 25, "to": "block"},
        {"network": "udp", "to": "block"},
    ]));
    for (name, asked) in [
        ("www.direct.test", (1, 0)),
        ("www.other.test", (0, 1)),
        ("mail.test", (0, 1)),
    ] {
        assert_eq!(scene.dig(&["+short", name]), "192.0.2.1\n");
        assert_eq!(scene.asked(name), asked, "{name}");
        // Other records go the same way.
        let _denial = scene.dig(&[name, "MX"]);
        assert_eq!(scene.asked(name), (2 * asked.0, 2 * asked.1), "{name}");
    }
    let blocked = scene.dig(&["www.blocked.test"]);
    assert!(
        blocked.contains("status: NXDOMAIN") && blocked.contains("EDE: 15 (Blocked)"),
        "{blocked}"
    );
    assert_eq!(scene.asked("www.blocked.test"), (0, 0));
}

#[test]
fn addresses_from_the_direct_name_server_decide_where_rules_compare_them() {
    let scene = Scene::new(&json!([
        {"domain": "hidden.test", "to": "proxy"},
        {"ip": "192.0.2.7", "to": "block"},
        {"ip": "192.0.2.0/24", "to": "direct"},
    ]));
    assert_eq!(scene.dig(&["+short", "near.test"]), "192.0.2.1\n");
    assert_eq!(scene.route("near.test"), "Local");
    // Its address is not one of those that go direct.
    assert_eq!(scene.dig(&["+short", "far.test", "AAAA"]), "2001:db8::1\n");
    assert_eq!(scene.route("far.test"), "Remote");
    assert_eq!(scene.asked("far.test"), (1, 1));
    let blocked = scene.dig(&["alias.test"]);
    assert!(blocked.contains("status: NXDOMAIN"), "{blocked}");
    // A name without an address gets the answer that comes through the server.
    let missing = scene.dig(&["missing.test"]);
    assert!(missing.contains("status: NXDOMAIN"), "{missing}");
    assert_eq!(scene.route("missing.test"), "Remote");
    // What a rule by name has decided, and what has no addresses, is not asked directly.
    assert_eq!(scene.dig(&["+short", "hidden.test"]), "192.0.2.1\n");
    let _denial = scene.dig(&["other.test", "MX"]);
    for name in ["hidden.test", "other.test"] {
        assert_eq!(scene.asked(name), (0, 1), "{name}");
    }
}

#[test]
fn changed_rules_hold_for_names_in_the_cache_too() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list");
    fs::write(&list, "other.test\n").unwrap();
    let scene = Scene::new(&json!([{"list": list, "to": "block"}]));
    let is_blocked = || scene.dig(&["a.test"]).contains("status: NXDOMAIN");
    assert!(!is_blocked());
    fs::write(&list, "a.test\nother.test\n").unwrap();
    eventually("the name is refused", is_blocked);
    fs::write(&list, "other.test\n").unwrap();
    eventually("the name is answered again", || !is_blocked());
}
