use super::*;
use crate::wire::udp_over_tcp::Version;

fn version(text: &str, role: Role) -> Option<Version> {
    let config = read(&with(&format!("\"udp_over_tcp\": {text}")), role);
    config.servers[0].udp_over_tcp
}

#[test]
fn values_of_sing_box_mean_the_same() {
    for (text, expected) in [
        ("true", Some(Version::V2)),
        ("false", None),
        (r#"{"enabled": true}"#, Some(Version::V2)),
        (r#"{"enabled": true, "version": 0}"#, Some(Version::V2)),
        (r#"{"enabled": true, "version": 1}"#, Some(Version::V1)),
        (r#"{"enabled": true, "version": 2}"#, Some(Version::V2)),
        (r#"{"enabled": false, "version": 2}"#, None),
    ] {
        assert_eq!(version(text, Role::Local), expected, "{text}");
        assert_eq!(version(text, Role::Server), None, "the server needs none");
    }
}

#[test]
fn mistakes_are_named() {
    for (keys, path, part) in [
        (
            r#""udp_over_tcp": {"enabled": true, "version": 3}"#,
            "udp_over_tcp.version",
            "use 1 or 2",
        ),
        (r#""udp_over_tcp": 2"#, "udp_over_tcp", "expected"),
        (
            r#""udp_over_tcp": {"enable": true}"#,
            "udp_over_tcp.enable",
            "did you mean `enabled`",
        ),
        (
            r#""udp_over_tcp": true, "transport": {"type": "ws", "udp_over": "ws"}"#,
            "udp_over_tcp",
            "exclude each other",
        ),
    ] {
        let found = match parse(&with(keys), Role::Local, &no_env) {
            Ok(config) => shown(&config.warnings),
            Err(found) => shown(&found),
        };
        assert!(found.contains(path) && found.contains(part), "{found}");
    }
}

#[test]
fn it_has_no_effect_without_udp() {
    let config = local(&with(r#""udp_over_tcp": true, "mode": "tcp_only""#));
    assert!(shown(&config.warnings).contains("no effect"));
}

#[test]
fn proxies_and_transports_carry_it() {
    for beside in [
        r#""outbound_proxy": "http://127.0.0.1:3128""#,
        r#""transport": {"type": "ws", "tls": true}"#,
        r#""transport": {"type": "quic"}"#,
    ] {
        let config = local(&with(&format!("\"udp_over_tcp\": true, {beside}")));
        assert!(config.servers[0].mode.udp, "{beside}");
        let summary = config.summary();
        assert!(summary.contains("UDP over TCP version 2"), "{summary}");
        assert!(!summary.contains("UDP directly"), "{summary}");
    }
}
