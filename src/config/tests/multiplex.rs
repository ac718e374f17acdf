use super::*;
use crate::outbound::multiplex::Sharing;
use crate::outbound::warm::WarmPolicy;
use crate::wire::multiplex::Protocol;

fn sharing(keys: &str) -> Sharing {
    let config = local(&with(&format!(
        "\"multiplex\": {{\"enabled\": true{keys}}}"
    )));
    config.servers[0].multiplex.unwrap().sharing
}

#[test]
fn keys_of_sing_box_mean_the_same() {
    let connections = |max, min_streams| Sharing::Connections { max, min_streams };
    for (keys, expected) in [
        ("", Sharing::Streams(8)),
        (r#", "max_streams": 30"#, Sharing::Streams(30)),
        (r#", "max_connections": 4"#, connections(4, 0)),
        (
            r#", "max_connections": 4, "min_streams": 2"#,
            connections(4, 2),
        ),
        (r#", "min_streams": 5"#, connections(64, 5)),
    ] {
        assert_eq!(sharing(keys), expected, "{keys}");
    }
    let text =
        with(r#""multiplex": {"enabled": true, "padding": true, "brutal": {"enabled": false}}"#);
    let config = local(&text);
    let server = &config.servers[0];
    let head = server.multiplex.unwrap().head;
    assert_eq!((head.protocol, head.padding), (Protocol::H2, true));
    assert_eq!(server.warm, WarmPolicy::Count(0));
    let served = read(&text, Role::Server);
    assert_eq!(served.servers[0].multiplex, None, "the server needs none");
    let off = local(&with(r#""multiplex": {"protocol": "smux"}"#));
    assert_eq!(off.servers[0].multiplex, None, "it is off by default");
}

#[test]
fn mistakes_are_named() {
    for (keys, path, part) in [
        (
            r#""multiplex": {"enabled": true, "protocol": "mux"}"#,
            "multiplex.protocol",
            "h2mux",
        ),
        (
            r#""multiplex": {"enabled": true, "brutal": {"enabled": true, "up_mbps": 10}}"#,
            "multiplex.brutal",
            "not supported",
        ),
        (
            r#""multiplex": {"enabled": true, "max_connections": 4, "max_streams": 2}"#,
            "multiplex.max_streams",
            "excludes",
        ),
        (
            r#""multiplex": {"enabled": true, "min_streams": 4, "max_streams": 2}"#,
            "multiplex.max_streams",
            "excludes",
        ),
        (
            r#""multiplex": {"enabled": true, "max_connections": 65}"#,
            "multiplex.max_connections",
            "out of range",
        ),
        (
            r#""multiplex": {"enabled": true, "maxstreams": 2}"#,
            "multiplex.maxstreams",
            "max_streams",
        ),
        (
            r#""multiplex": {"enabled": true}, "mode": "tcp_and_udp", "udp_over_tcp": true"#,
            "multiplex",
            "exclude each other",
        ),
        (
            r#""multiplex": {"enabled": true}, "transport": {"type": "ws", "udp_over": "ws"}"#,
            "multiplex",
            "exclude each other",
        ),
        (
            r#""multiplex": {"enabled": true}, "warm_connections": 2"#,
            "warm_connections",
            "no effect",
        ),
    ] {
        let found = match parse(&with(keys), Role::Local, &no_env) {
            Ok(config) => shown(&config.warnings),
            Err(found) => shown(&found),
        };
        assert!(found.contains(path) && found.contains(part), "{found}");
    }
}
