//! `tun` locals.

use super::*;
use crate::config::{TunDevice, TunLocal};
use crate::net::tun::routes;

fn tun(keys: &str) -> String {
    with(&format!(r#""locals": [{{"protocol": "tun"{keys}}}]"#))
}

fn device(keys: &str) -> TunLocal {
    local(&tun(keys)).locals[0].tun.clone().unwrap()
}

fn addresses(keys: &str) -> Vec<String> {
    let ends = device(keys).ends;
    let shown = ends
        .iter()
        .map(|ends| format!("{}/{} {}", ends.own, ends.prefix, ends.other));
    shown.collect()
}

#[test]
fn device_has_addresses_of_both_versions_by_default() {
    let found = device("");
    assert_eq!(found.device, TunDevice::Named(None));
    assert_eq!((found.mtu, found.auto_route), (Some(1400), false));
    assert_eq!(
        addresses(""),
        [
            "172.19.0.1/30 172.19.0.2",
            "fdfe:dcba:9876::1/126 fdfe:dcba:9876::2"
        ]
    );
    assert_eq!(
        addresses(r#", "tun_interface_address": "10.255.0.1/24""#),
        ["10.255.0.1/24 10.255.0.2"]
    );
    assert_eq!(
        addresses(
            r#", "tun_interface_address": "10.255.0.1/32", "tun_interface_destination": "10.255.0.9/24""#
        ),
        ["10.255.0.1/32 10.255.0.9"]
    );
}

#[test]
fn passed_device_keeps_what_it_has() {
    let found = device(r#", "tun_device_fd": 7"#);
    assert_eq!(found.device, TunDevice::Descriptor(7));
    assert!(found.ends.is_empty() && found.mtu.is_none());
    let found = device(r#", "tun_device_fd_from_path": "/run/x""#);
    assert_eq!(found.device, TunDevice::FromPath("/run/x".into()));
}

#[test]
fn wrong_values_are_refused_with_their_key() {
    for (keys, key) in [
        (r#""tun_interface_name": "a name""#, "tun_interface_name"),
        (
            r#""tun_interface_name": "sixteen-letters-"#,
            "tun_interface_name",
        ),
        (
            r#""tun_interface_address": "10.0.0.1"#,
            "tun_interface_address",
        ),
        (
            r#""tun_interface_address": "10.0.0.1/32"#,
            "tun_interface_address",
        ),
        (
            r#""tun_interface_destination": "nobody"#,
            "tun_interface_destination",
        ),
        (
            r#""remote_dns_address": "dns.example"#,
            "remote_dns_address",
        ),
    ] {
        let keys = keys.trim_end_matches('"');
        let found = failure(&tun(&format!(", {keys}\"")), Role::Local);
        assert!(
            found.contains(&format!("locals[0].{key}: ")),
            "{keys}: {found}"
        );
    }
    let two = r#", "tun_interface_address": ["10.0.0.1/24", "10.1.0.1/24"]"#;
    let found = failure(&tun(two), Role::Local);
    assert!(
        found.contains("locals[0].tun_interface_address[1]: "),
        "{found}"
    );
    let found = failure(&tun(r#", "mtu": 100"#), Role::Local);
    assert!(found.contains("locals[0].mtu: out of range"), "{found}");
    let both = r#", "tun_device_fd": 3, "tun_device_fd_from_path": "/x""#;
    assert!(failure(&tun(both), Role::Local).contains("use one of the two"));
}

#[test]
fn auto_route_marks_our_sockets() {
    let text = tun(r#", "auto_route": true"#);
    let config = local(&text);
    assert_eq!(config.socket.fwmark, Some(routes::MARK));
    assert_eq!(config.servers[0].socket.fwmark, Some(routes::MARK));
    assert_eq!(
        server(&text).socket.fwmark,
        None,
        "the same file on the server"
    );
    assert_eq!(local(&tun("")).socket.fwmark, None);
    let own =
        with(r#""outbound_fwmark": 255, "locals": [{"protocol": "tun", "auto_route": true}]"#);
    assert_eq!(local(&own).socket.fwmark, Some(255));
}

#[test]
fn auto_route_is_refused_where_it_would_break_the_network() {
    for (keys, message) in [
        (
            r#""locals": [{"protocol": "tun", "auto_route": true}, {"protocol": "tun", "auto_route": true}]"#,
            "locals[1].auto_route: set for a second device",
        ),
        (
            r#""user": "nobody", "locals": [{"protocol": "tun", "auto_route": true}]"#,
            "locals[0].auto_route: cannot be used with `user`",
        ),
        (
            r#""outbound_fwmark": 0, "locals": [{"protocol": "tun", "auto_route": true}]"#,
            "needs an `outbound_fwmark` other than 0",
        ),
    ] {
        let found = failure(&with(keys), Role::Local);
        assert!(found.contains(message), "{found}");
    }
    let plugin = r#"{"server": "a.example", "server_port": 1, "method": "aes-256-gcm", "password": "p", "plugin": "obfs-local",
        "locals": [{"protocol": "tun", "auto_route": true}]}"#;
    let found = failure(plugin, Role::Local);
    assert!(
        found.contains("write the address of the server in place of its name"),
        "{found}"
    );
}
