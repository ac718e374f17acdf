//! Files that shadowsocks-rust 1.25 and shadowsocks-libev 3.3 run.

use std::time::Duration;

use super::*;
use crate::crypto::{Key, Method};

/// What Debian's shadowsocks-libev installs.
const DEBIAN: &str = r#"{
    "server":["::1", "127.0.0.1"],
    "mode":"tcp_and_udp",
    "server_port":8388,
    "local_port":1080,
    "password":"ekuogWeb9Uhk",
    "timeout":86400,
    "method":"chacha20-ietf-poly1305"
}
"#;

/// The first example of shadowsocks-rust's README.
const RUST_BASIC: &str = r#"{
    "server": "my_server_ip",
    "server_port": 8388,
    "password": "rwQc8qPXVsRpGx3uW+Y3Lj4Y42yF9Bs0xg1pmx8/+bo=",
    "method": "aes-256-gcm",
    // ONLY FOR `sslocal`
    // Delete these lines if you are running `ssserver` or `ssmanager`
    "local_address": "127.0.0.1",
    "local_port": 1080
}"#;

/// Its second, with the trailing comma and the disabled server.
const RUST_EXTENDED: &str = r#"{
    "servers": [
        {
            "server": "127.0.0.1",
            "server_port": 8388,
            "password": "rwQc8qPXVsRpGx3uW+Y3Lj4Y42yF9Bs0xg1pmx8/+bo=",
            "method": "aes-256-gcm",
            "timeout": 7200
        },
        {
            "server": "127.0.0.1",
            "server_port": 8389,
            "password": "/dliNXn5V4jg6vBW4MnC1I8Jljg9x7vSihmk6UZpRBM=",
            "method": "chacha20-ietf-poly1305"
        },
        {
            "disabled": true,
            "server": "eg.disable.me",
            "server_port": 8390,
            "password": "mGvbWWay8ueP9IHnV5F1uWGN2BRToiVCAWJmWOTLU24=",
            "method": "chacha20-ietf-poly1305"
        }
    ],
    // ONLY FOR `sslocal`
    // Delete these lines if you are running `ssserver` or `ssmanager`
    "local_port": 1080,
    "local_address": "127.0.0.1",
}"#;

#[test]
fn debians_libev_config_runs_in_both_roles() {
    for role in [Role::Local, Role::Server] {
        let config = read(DEBIAN, role);
        assert_eq!(shown(&config.warnings), "");
        let addresses: Vec<_> = config
            .servers
            .iter()
            .map(|server| server.address.to_string())
            .collect();
        assert_eq!(addresses, ["[::1]:8388", "127.0.0.1:8388"]);
        assert!(
            config
                .servers
                .iter()
                .all(|server| server.mode == Mode::TCP_AND_UDP)
        );
        assert!(
            config
                .servers
                .iter()
                .all(|server| server.method == Method::ChaCha20Poly1305)
        );
        assert_eq!(config.timeouts.idle, Duration::from_secs(86_400));
    }
    assert_eq!(
        local(DEBIAN).locals[0].address.to_string(),
        "127.0.0.1:1080"
    );
}

#[test]
fn rusts_basic_example_runs_in_both_roles() {
    for role in [Role::Local, Role::Server] {
        let config = read(RUST_BASIC, role);
        assert_eq!(shown(&config.warnings), "");
        assert_eq!(config.servers[0].address.to_string(), "my_server_ip:8388");
        let key = Key::from_password(
            Method::Aes256Gcm,
            b"rwQc8qPXVsRpGx3uW+Y3Lj4Y42yF9Bs0xg1pmx8/+bo=",
        );
        assert_eq!(config.servers[0].keys.key.as_bytes(), key.as_bytes());
    }
    assert_eq!(
        local(RUST_BASIC).locals[0].address.to_string(),
        "127.0.0.1:1080"
    );
}

#[test]
fn rusts_extended_example_runs_in_both_roles() {
    for role in [Role::Local, Role::Server] {
        let config = read(RUST_EXTENDED, role);
        assert_eq!(config.servers.len(), 2, "the disabled one is dropped");
        assert_eq!(config.servers[0].idle, Some(Duration::from_secs(7200)));
        assert_eq!(config.servers[1].method, Method::ChaCha20Poly1305);
    }
}

#[test]
fn what_rust_spells_in_two_ways_is_read_in_both() {
    let config = local(
        r#"{"shadowsocks": [{"address": "192.0.2.1", "port": 1, "name": "n", "password": "p", "method": "aes-128-gcm"}]}"#,
    );
    assert_eq!(
        (
            config.servers[0].name.as_str(),
            config.servers[0].address.port()
        ),
        ("n", 1)
    );
}

#[test]
fn the_identity_example_of_rust_runs_in_both_roles() {
    let shared = format!(
        r#"{{"servers": [{{"server": "::", "server_port": 8390, "method": "2022-blake3-aes-256-gcm", "password": "{KEY}",
            "users": [{{"name": "username", "password": "{USER_KEY}"}}]}}]}}"#
    );
    let config = server(&shared);
    assert_eq!(config.servers[0].users[0].name, "username");
    assert!(config.servers[0].keys.identity.is_empty());

    let client = format!(
        r#"{{"server": "192.0.2.1", "server_port": 8390, "method": "2022-blake3-aes-256-gcm", "password": "{KEY}:{USER_KEY}"}}"#
    );
    let keys = &local(&client).servers[0].keys;
    let own = Key::from_base64(Method::Blake3Aes256Gcm, KEY).unwrap();
    let user = Key::from_base64(Method::Blake3Aes256Gcm, USER_KEY).unwrap();
    assert_eq!(keys.identity.len(), 1);
    assert_eq!(keys.identity[0].as_bytes(), own.as_bytes());
    assert_eq!(keys.key.as_bytes(), user.as_bytes());
}

#[test]
fn libev_forms_are_read() {
    let config = server(
        r#"{"server": ["example.com:1000", "[::1]:2000", "::2", "192.0.2.1"], "server_port": "8388", "timeout": "300",
            "password": 123456, "method": "aes-256-gcm", "nameserver": "8.8.8.8", "mtu": 1492, "reuse_port": true,
            "tcp_incoming_sndbuf": 1, "tcp_incoming_rcvbuf": 2, "tcp_outgoing_sndbuf": 3, "tcp_outgoing_rcvbuf": 4,
            "local_ipv4_address": "192.0.2.9", "local_ipv6_address": "2001:db8::9", "local_address": "10.0.0.1"}"#,
    );
    assert_eq!(shown(&config.warnings), "");
    let addresses: Vec<_> = config
        .servers
        .iter()
        .map(|server| server.address.to_string())
        .collect();
    assert_eq!(
        addresses,
        [
            "example.com:1000",
            "[::1]:2000",
            "[::2]:8388",
            "192.0.2.1:8388"
        ]
    );
    let key = Key::from_password(Method::Aes256Gcm, b"123456");
    assert_eq!(config.servers[0].keys.key.as_bytes(), key.as_bytes());
    let socket = &config.socket;
    assert!(socket.reuse_port);
    assert_eq!(socket.udp_mtu, Some(1492 - 28));
    assert_eq!(
        (socket.inbound_send_buffer, socket.inbound_recv_buffer),
        (Some(1), Some(2))
    );
    assert_eq!(
        (socket.outbound_send_buffer, socket.outbound_recv_buffer),
        (Some(3), Some(4))
    );
    assert_eq!(socket.bind_address, Some("192.0.2.9".parse().unwrap()));
    assert_eq!(
        socket.bind_address_other,
        Some("2001:db8::9".parse().unwrap())
    );
    assert_ne!(config.dns, crate::dns::Source::System);
    assert_eq!(config.timeouts.idle, Duration::from_secs(300));
}

#[test]
fn libevs_key_is_the_key_itself() {
    let config =
        server(r#"{"server_port": 1, "method": "aes-128-gcm", "key": "AAECAwQFBgcICQoLDA0O_w"}"#);
    let bytes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255];
    assert_eq!(config.servers[0].keys.key.as_bytes(), bytes);
    assert_eq!(
        config.servers[0].address.to_string(),
        "0.0.0.0:1",
        "where libev listens by default"
    );
}

#[test]
fn port_password_is_a_server_a_port() {
    let text = r#"{"server": "192.0.2.1", "port_password": {"8381": "a", "8382": "b"}, "method": "aes-256-gcm"}"#;
    for role in [Role::Local, Role::Server] {
        let config = read(text, role);
        let ports: Vec<_> = config
            .servers
            .iter()
            .map(|server| server.address.port())
            .collect();
        assert_eq!(ports, [8381, 8382]);
    }
    let both = r#"{"server": "192.0.2.1", "server_port": 8381, "password": "a",
        "port_password": {"8381": "a", "8382": "b"}, "method": "aes-256-gcm"}"#;
    assert_eq!(local(both).servers.len(), 1, "local is told which one");
    assert_eq!(server(both).servers.len(), 2);
}

#[test]
fn json5_spellings_are_read() {
    let config = local(
        "\u{feff}{server: '192.0.2.1', server_port: 0x20C4, /* why */ password: 'it\\'s', \"method\": 'aes-256-gcm', udp_timeout: +90,}",
    );
    assert_eq!(config.servers[0].address.to_string(), "192.0.2.1:8388");
    assert_eq!(config.udp_timeout, Duration::from_secs(90));
}

#[test]
fn a_libev_default_method_is_named_in_a_warning() {
    let config = server(r#"{"server_port": 1, "password": "p"}"#);
    assert_eq!(config.servers[0].method, Method::ChaCha20Poly1305);
    assert!(shown(&config.warnings).contains("chacha20-ietf-poly1305"));
}

#[test]
fn keys_of_rust_are_all_known() {
    let text = r#"{
        "server": "192.0.2.1", "server_port": 1, "password": "p", "method": "aes-256-gcm",
        "local_address": "127.0.0.1", "local_port": 1080, "protocol": "socks", "mode": "tcp_only",
        "plugin": "", "plugin_opts": "", "plugin_args": [], "plugin_mode": "tcp_only", "timeout": 60,
        "udp_timeout": 300, "udp_max_associations": 512, "udp_mtu": 1400, "locals": [], "servers": [],
        "dns": "google", "dns_cache_size": 0, "no_delay": true, "fast_open": true, "mptcp": true,
        "ipv6_first": false, "ipv6_only": true, "keep_alive": 15, "nofile": 10240, "outbound_fwmark": 255,
        "outbound_bind_addr": "192.0.2.2", "outbound_bind_interface": "eth1",
        "outbound_udp_allow_fragmentation": false, "inbound_udp_allow_fragmentation": true, "outbound_proxy": [],
        "security": {"replay_attack": {"policy": "default"}}, "acl": null, "manager_address": "", "manager_port": 5300,
        "balancer": {}, "version": 1,
        "online_config": null, "launchd_tcp_socket_name": null, "launchd_udp_socket_name": "",
        "log": {"level": 1, "format": {"without_time": false}, "writers": [
            {"console": {"level": 2, "format": {"without_time": true}}},
            {"file": {"level": 2, "directory": "/var/log/ss", "rotation": "daily", "prefix": "p", "suffix": "log", "max_files": 5}}]},
        "runtime": {"mode": "multi_thread", "worker_count": 10}}"#;
    let config = local(text);
    assert_eq!(shown(&config.warnings), "");
    assert_eq!(config.workers, 10);
    assert_eq!(config.limits.udp_associations, 512);
    assert_eq!(config.nofile, Some(10_240));
    assert_eq!(config.locals[0].mode, Mode::TCP_ONLY);
    assert_eq!(config.servers[0].mode, Mode::TCP_ONLY);
    assert_eq!(config.servers[0].socket.fwmark, Some(255));
    assert_eq!(config.log.writers.len(), 2);
    assert_eq!(
        (
            config.log.writers[0].level,
            config.log.writers[0].without_time
        ),
        (2, true)
    );
    let Sink::File {
        rotation,
        max_files,
        ..
    } = &config.log.writers[1].sink
    else {
        panic!()
    };
    assert_eq!((*rotation, *max_files), (Rotation::Daily, Some(5)));
}
