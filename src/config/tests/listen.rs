//! `local_address` as a path, and the names of sockets that systemd passes.

use super::*;
use crate::config::Place;

#[test]
fn path_is_a_place_to_listen_without_udp() {
    for path in ["/run/ssr.sock", "unix:///run/ssr.sock", " /run/ssr.sock"] {
        let config = local(&with(&format!(
            "\"local_address\": \"{path}\", \"local_socket_mode\": \"0660\""
        )));
        let local = &config.locals[0];
        let place = Place::Path("/run/ssr.sock".into(), Some(0o660));
        assert_eq!(local.address, place);
        assert_eq!(local.mode, Mode::TCP_ONLY);
    }
    let config = local(&with(
        "\"locals\": [{\"local_address\": \"/s\", \"local_udp_port\": 5}]",
    ));
    assert_eq!(config.locals[0].mode, Mode::TCP_AND_UDP);
}

#[test]
fn names_of_passed_sockets_make_a_listener() {
    let config = local(&with("\"systemd_tcp_socket_name\": \"x\""));
    let [local] = &*config.locals else { panic!() };
    assert_eq!(local.passed.tcp.as_deref(), Some("x"));
}

#[test]
fn what_a_path_cannot_do_is_refused() {
    let long = format!("/{}", "x".repeat(107));
    for (entry, expected) in [
        (
            r#""local_address": "/s", "mode": "udp_only""#,
            "UDP needs an address",
        ),
        (
            r#""local_address": "/s", "mode": "tcp_and_udp""#,
            "UDP needs an address",
        ),
        (
            r#""local_address": "/s", "protocol": "redir""#,
            "cannot listen at a path",
        ),
        (
            r#""local_address": "/s", "local_socket_mode": "999""#,
            "not the permissions",
        ),
        (
            r#""protocol": "redir", "systemd_tcp_socket_name": "x""#,
            "makes its own sockets",
        ),
        (
            &format!("\"local_address\": \"{long}\""),
            "at most 107 bytes",
        ),
        (
            r#""local_address": "/s"}, {"local_address": "/s""#,
            "already used by `locals[0].local_address`",
        ),
    ] {
        let found = failure(&with(&format!("\"locals\": [{{{entry}}}]")), Role::Local);
        assert!(found.contains(expected), "{entry}: {found}");
    }
}

#[test]
fn keys_without_effect_are_warned_of() {
    for (keys, expected) in [
        (
            r#""local_address": "/s", "local_port": 5"#,
            "local_port: no effect",
        ),
        (
            r#""local_port": 5, "local_socket_mode": "600""#,
            "local_socket_mode: no effect",
        ),
        (
            r#""local_port": 5, "mode": "tcp_only", "systemd_udp_socket_name": "x""#,
            "systemd_udp_socket_name: no effect",
        ),
    ] {
        let warnings = shown(&local(&with(keys)).warnings);
        assert!(warnings.contains(expected), "{keys}: {warnings}");
    }
}
