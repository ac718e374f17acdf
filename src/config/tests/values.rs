//! Defaults, and what keys of our own mean.

use std::time::Duration;

use super::*;
use crate::config::links::Links;
use crate::crypto::{Key, Method};
use crate::outbound::shadowsocks::Weights;

#[test]
fn defaults_are_safe_and_bounded() {
    let config = local(&with(""));
    assert_eq!(shown(&config.warnings), "");
    assert_eq!(config.locals[0].address.to_string(), "127.0.0.1:1080");
    assert_eq!(config.locals[0].mode, Mode::TCP_AND_UDP);
    assert_eq!(config.servers[0].mode, Mode::TCP_AND_UDP);
    let seconds = Duration::from_secs;
    let timeouts = Timeouts {
        handshake: seconds(15),
        connect: seconds(10),
        idle: seconds(7200),
        half_close: seconds(60),
    };
    assert_eq!(config.timeouts, timeouts);
    assert_eq!(config.udp_timeout, seconds(300));
    let limits = Limits {
        connections: 65_536,
        udp_associations: 4096,
        handshakes: 4096,
        visitors: 65_536,
        memory_mib: 256,
    };
    assert_eq!(config.limits, limits);
    assert_eq!(config.socket.keep_alive, Some(seconds(15)));
    assert_eq!(config.replay, ReplayPolicy::Reject);
    assert_eq!(config.first_payload_wait, Duration::from_millis(2));
    assert_eq!(
        (config.workers, config.nofile, config.deny_private),
        (0, None, false)
    );
    assert_eq!((config.log.level, config.log.writers.len()), (0, 1));
    assert_eq!(config.dns, crate::dns::Source::System);
}

#[test]
fn keys_of_our_own_are_read() {
    let config = server(&with(
        r#""timeouts": {"handshake": 1, "connect": 2, "idle": 3, "half_close": 4}, "timeout": 99, "workers": 3,
           "limits": {"connections": 5, "udp_associations": 6, "handshakes": 7, "visitors": 9, "memory_mib": 8},
           "deny_private": true, "first_payload_wait_ms": 0, "outbound_send_buffer_size": 4096"#,
    ));
    assert_eq!(
        config.timeouts.idle,
        Duration::from_secs(3),
        "the named one wins"
    );
    assert_eq!(config.timeouts.half_close, Duration::from_secs(4));
    let limits = Limits {
        connections: 5,
        udp_associations: 6,
        handshakes: 7,
        visitors: 9,
        memory_mib: 8,
    };
    assert_eq!(config.limits, limits);
    assert!(config.deny_private);
    assert_eq!(config.workers, 3);
    assert_eq!(config.first_payload_wait, Duration::ZERO);
    assert_eq!(config.socket.outbound_send_buffer, Some(4096));
}

#[test]
fn nothing_is_unbounded() {
    for key in [
        "\"limits\": {\"connections\": 0}",
        "\"udp_max_associations\": 0",
        "\"timeout\": 0",
    ] {
        failure(&with(key), Role::Server);
    }
}

#[test]
fn udp_sessions_of_2022_live_a_minute() {
    let text = format!(
        r#"{{"server": "192.0.2.1", "server_port": 1, "password": "{KEY}", "method": "2022-blake3-aes-256-gcm", "udp_timeout": 20}}"#
    );
    let config = server(&text);
    assert_eq!(config.udp_timeout, Duration::from_secs(60));
    assert!(shown(&config.warnings).contains("udp_timeout: raised to 60 s"));
    assert_eq!(
        server(&with("\"udp_timeout\": 20")).udp_timeout,
        Duration::from_secs(20)
    );
}

#[test]
fn users_at_the_top_are_those_of_the_server_there() {
    let text = format!(
        r#"{{"server": "::", "server_port": 1, "password": "{KEY}", "method": "2022-blake3-aes-256-gcm",
            "users": [{{"name": "a", "password": "{USER_KEY}"}}]}}"#
    );
    assert_eq!(server(&text).servers[0].users[0].name, "a");
}

#[test]
fn local_is_the_first_user_of_a_shared_file() {
    let text = format!(
        r#"{{"server": "192.0.2.1", "server_port": 1, "password": "{KEY}", "method": "2022-blake3-aes-256-gcm",
            "users": [{{"name": "a", "password": "{USER_KEY}"}}]}}"#
    );
    let config = local(&text);
    let user = Key::from_base64(Method::Blake3Aes256Gcm, USER_KEY).unwrap();
    assert_eq!(config.servers[0].keys.key.as_bytes(), user.as_bytes());
    assert_eq!(config.servers[0].keys.identity.len(), 1);
    assert!(config.servers[0].users.is_empty());
    assert!(shown(&config.warnings).contains("`ssr local` connects as `a`"));
}

#[test]
fn a_user_can_be_the_next_server() {
    let text = format!(
        r#"{{"server": "::", "server_port": 1, "password": "{KEY}", "method": "2022-blake3-aes-256-gcm",
            "users": [{{"name": "exit", "password": "{USER_KEY}", "server": "exit.example", "server_port": 8388}}]}}"#
    );
    let config = server(&text);
    let hop = config.servers[0].users[0].next_hop.as_ref().unwrap();
    assert_eq!(hop.to_string(), "exit.example:8388");
    assert!(config.summary().contains("exit -> exit.example:8388"));
}

#[test]
fn environment_variables_stand_for_passwords() {
    let env = |name: &str| (name == "SECRET").then(|| "hunter2".to_owned());
    let text = with("").replace("\"p\"", "\"${SECRET}\"");
    let config = parse(&text, Role::Local, &env).unwrap();
    let key = Key::from_password(Method::Aes256Gcm, b"hunter2");
    assert_eq!(config.servers[0].keys.key.as_bytes(), key.as_bytes());
    assert_eq!(shown(&config.warnings), "");

    let found = parse(&text, Role::Local, &|_| None).unwrap_err();
    assert!(shown(&found).contains("password: there is no environment variable `SECRET`"));
}

#[test]
fn locals_have_their_own_addresses_and_modes() {
    let config = local(&with(
        r#""mode": "tcp_only", "ipv6_first": true, "local_port": 1080, "locals": [
            {"local_address": "localhost", "local_port": "1081", "mode": "udp_only",
             "local_udp_address": "0.0.0.0", "local_udp_port": 2081, "udp_associate_addr": "203.0.113.1"},
            {"disabled": true, "protocol": "http"}]"#,
    ));
    assert_eq!(config.locals.len(), 2);
    assert_eq!(config.locals[0].address.to_string(), "[::1]:1080");
    assert_eq!(config.locals[0].mode, Mode::TCP_ONLY);
    let second = &config.locals[1];
    assert_eq!(second.address.to_string(), "localhost:1081");
    assert_eq!(second.mode, Mode::UDP_ONLY);
    assert_eq!(
        second.udp_address.as_ref().unwrap().to_string(),
        "0.0.0.0:2081"
    );
    assert_eq!(
        second.udp_associate_address.as_ref().unwrap().to_string(),
        "203.0.113.1:0"
    );
}

#[test]
fn a_protocol_beside_locals_opens_no_listener_of_its_own() {
    let listed = r#""protocol": "socks", "locals": [{"local_port": 1081}]"#;
    let config = local(&with(listed));
    assert_eq!(config.locals.len(), 1);
    assert_eq!(config.locals[0].address.to_string(), "127.0.0.1:1081");
    let found = shown(&config.warnings);
    assert!(
        found.contains("protocol: no effect without `local_port`"),
        "{found}"
    );
    for place in [r#""local_port": 1080"#, r#""local_address": "127.0.0.1""#] {
        let config = local(&with(&format!("{listed}, {place}")));
        assert_eq!(config.locals.len(), 2, "{place}");
        assert_eq!(shown(&config.warnings), "", "{place}");
    }
    let alone = local(&with(r#""protocol": "socks""#));
    assert_eq!(alone.locals[0].address.to_string(), "127.0.0.1:1080");
}

#[test]
fn modes_of_servers_follow_the_role() {
    let text = r#"{"mode": "tcp_only", "servers": [{"server": "192.0.2.1", "server_port": 1, "password": "p", "method": "aes-256-gcm"}]}"#;
    assert_eq!(server(text).servers[0].mode, Mode::TCP_ONLY);
    assert_eq!(local(text).servers[0].mode, Mode::TCP_AND_UDP);
}

#[test]
fn options_of_a_server_go_over_the_global_ones() {
    let config = local(
        r#"{"outbound_fwmark": 1, "outbound_bind_interface": "eth0", "servers": [
            {"server": "a", "server_port": 1, "password": "p", "method": "aes-256-gcm", "outbound_fwmark": 2,
             "outbound_bind_addr": "192.0.2.3", "tcp_weight": 0.5, "remarks": "one", "id": "x"}]}"#,
    );
    let first = &config.servers[0];
    assert_eq!(first.socket.fwmark, Some(2));
    assert_eq!(first.socket.bind_interface.as_deref(), Some("eth0"));
    assert_eq!(
        first.socket.bind_address,
        Some("192.0.2.3".parse().unwrap())
    );
    assert_eq!(
        first.weights,
        Weights {
            tcp: Some(0.5),
            udp: Some(1.0)
        }
    );
    assert_eq!(first.name, "one");
    assert_eq!(config.socket.fwmark, Some(1));
}

#[test]
fn summary_says_what_would_run() {
    let summary = server(&with("")).summary();
    for part in [
        "ssr server",
        "192.0.2.1:8388",
        "aes-256-gcm",
        "tcp_and_udp",
        "`deny_private` is false",
        "65536",
    ] {
        assert!(summary.contains(part), "no {part:?} in\n{summary}");
    }
    let open = local(&with("\"local_address\": \"0.0.0.0\"")).summary();
    assert!(open.contains("can use it"), "{open}");
}

#[test]
fn services_of_reverse_tunnels_are_read_in_both_forms() {
    let list = r#"[{"name": "ssh", "bind": ":6000", "target": "localhost:22", "proxy_protocol": "v2", "group": true},
                   {"name": "web", "bind": "[::]:0", "target": "10.0.0.1:80", "protocol": "http", "host": "A.example"}]"#;
    for (text, links, heartbeat) in [
        (format!("\"reverse\": {list}"), Links::Count(1), 20),
        (
            format!("\"reverse\": {{\"services\": {list}, \"links\": 3, \"heartbeat\": 1}}"),
            Links::Count(3),
            1,
        ),
        (
            format!("\"reverse\": {{\"services\": {list}, \"links\": \"auto\"}}"),
            Links::Auto,
            20,
        ),
    ] {
        let config = local(&with(&text));
        assert_eq!(shown(&config.warnings), "");
        let reverse = &config.reverse;
        assert_eq!(
            (reverse.links, reverse.heartbeat.as_secs()),
            (links, heartbeat)
        );
        let [ssh, web] = reverse.services.as_slice() else {
            panic!("two services");
        };
        assert_eq!(
            (ssh.bind.to_string(), ssh.target.to_string()),
            ("0.0.0.0:6000".into(), "localhost:22".into())
        );
        assert_eq!(
            (ssh.proxy, ssh.group),
            (Some(crate::wire::proxy_protocol::Version::Two), true)
        );
        assert_eq!(
            (web.protocol.name(), web.host.as_str()),
            ("http", "a.example")
        );
        assert!(
            config
                .summary()
                .contains("publish     \"web\" http [::]:0 -> 10.0.0.1:80, host a.example\n")
        );
        assert!(server(&with(&text)).reverse.services.is_empty());
    }
}

#[test]
fn grants_of_reverse_tunnels_are_read() {
    assert!(server(&with("")).reverse.allow.is_empty());
    let config = server(&with(
        r#""reverse": {"allow": [{"user": "*", "bind": "0.0.0.0:6000-7000", "host": "*.example.com"},
                                 {"user": "ann", "bind": "[::1]:80", "protocol": "http", "host": "*"}]}"#,
    ));
    let [all, ann] = config.reverse.allow.as_slice() else {
        panic!("two grants");
    };
    assert_eq!(
        (&all.user, all.ports, all.protocol),
        (&None, (6000, 7000), None)
    );
    assert_eq!(
        (ann.user.as_deref(), ann.ip.to_string()),
        (Some("ann"), "::1".into())
    );
    let summary = config.summary();
    assert!(
        summary.contains(
            "allow       0.0.0.0:6000-7000, any protocol, for every user, hosts *.example.com\n"
        ),
        "{summary}"
    );
    assert!(
        summary.contains("allow       [::1]:80, http, for ann, hosts *\n"),
        "{summary}"
    );
}
