//! What a config means, claim by claim.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod admin;
mod dns_local;
mod errors;
mod flags;
mod forwards;
mod listen;
mod multiplex;
mod on_the_way;
mod references;
mod rules;
mod transport;
mod tun;
mod udp_over_tcp;
mod users;
mod values;
mod ways_in;

use std::path::Path;

use super::*;

/// 32 bytes in base64.
const KEY: &str = "3SYJ/f8nmVuzKvKglykRQDSgg10e/ADilkdRWrrY9HU=";
/// Another 32.
const USER_KEY: &str = "4w0GKJ9U3Ox7CIXGU4A3LDQAqP6qrp/tUi/ilpOR9p4=";

fn no_env(_: &str) -> Option<String> {
    None
}

fn local(text: &str) -> Config {
    read(text, Role::Local)
}

fn server(text: &str) -> Config {
    read(text, Role::Server)
}

fn read(text: &str, role: Role) -> Config {
    parse(text, role, &no_env).unwrap_or_else(|found| panic!("{}", shown(&found)))
}

/// Every finding of a config that does not run, one a line.
fn failure(text: &str, role: Role) -> String {
    match parse(text, role, &no_env) {
        Ok(config) => panic!("runs: {config:?}"),
        Err(found) => shown(&found),
    }
}

fn shown(found: &[Diagnostic]) -> String {
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// One server with `more` keys in it, and nothing else.
fn with(more: &str) -> String {
    format!(
        r#"{{"server": "192.0.2.1", "server_port": 8388, "password": "p", "method": "aes-256-gcm"{}{more}}}"#,
        if more.is_empty() { "" } else { ", " }
    )
}

#[test]
fn the_example_runs_in_both_roles() {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.json"))
            .unwrap();
    for role in [Role::Local, Role::Server] {
        let config = read(&text, role);
        let [only] = &config.warnings[..] else {
            panic!("{}", shown(&config.warnings));
        };
        assert!(
            only.to_string().contains("the key of config.example.json"),
            "{only}"
        );
    }
}

#[test]
fn debug_and_summary_show_no_secret() {
    let text = format!(
        r#"{{"server": "192.0.2.1", "server_port": 1, "password": "{KEY}", "method": "2022-blake3-aes-256-gcm",
            "users": [{{"name": "alice", "password": "{USER_KEY}"}}]}}"#
    );
    for role in [Role::Local, Role::Server] {
        let config = read(&text, role);
        let all = format!("{config:?}{}", config.summary());
        assert!(!all.contains(KEY) && !all.contains(USER_KEY), "{all}");
        assert!(all.contains("alice"));
    }
}

mod never_panics {
    use super::*;
    use proptest::prelude::*;

    /// Text that gets past the parser more often than noise does.
    fn jsonish() -> impl Strategy<Value = serde_json::Value> {
        let keys = "(server|servers|server_port|users|locals|password|method|log|writers|file|dns|mode|x\\.y|~a/b)";
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            "\\PC{0,12}".prop_map(Into::into),
            "(aes-256-gcm|2022-blake3-aes-128-gcm|none|socks|\\[::1\\]:1|a:1|::|\\$\\{X\\})"
                .prop_map(Into::into),
        ];
        leaf.prop_recursive(5, 64, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map(keys, inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let text = String::from_utf8_lossy(&bytes);
            for role in [Role::Local, Role::Server] {
                drop(parse(&text, role, &no_env));
            }
        }

        #[test]
        fn on_any_json(value in jsonish()) {
            let text = value.to_string();
            for role in [Role::Local, Role::Server] {
                if let Err(found) = parse(&text, role, &no_env) {
                    prop_assert!(found.iter().any(|finding| finding.severity == Severity::Error), "{}", text);
                }
            }
        }

        #[test]
        fn on_any_url(text in "ss://\\PC{0,60}") {
            drop(text.parse::<ServerUrl>());
        }
    }
}
