#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use super::*;
use crate::limits::MAX_FINDINGS;

fn servers(text: &str) -> (Vec<Value>, Vec<String>) {
    let imported = import(text).unwrap_or_else(|error| panic!("{error}: {error:?}"));
    let servers = imported.config["servers"].as_array().unwrap().clone();
    (servers, imported.left_out)
}

#[test]
fn links_are_read_one_a_line() {
    let text = "# mine\nss://YWVzLTEyOC1nY206dGVzdA@192.0.2.1:8888#One\n\n\
                ss://2022-blake3-aes-256-gcm:a%3D@[::1]:9/?plugin=v2ray-plugin%3Btls#Two\n\
                vmess://abc\nss://!\nss://cmM0LW1kNTpw@192.0.2.1:1#Old\n";
    let (found, left_out) = servers(text);
    assert_eq!(
        found,
        [
            json!({"remarks": "One", "server": "192.0.2.1", "server_port": 8888, "method": "aes-128-gcm", "password": "test"}),
            json!({"remarks": "Two", "server": "::1", "server_port": 9, "method": "2022-blake3-aes-256-gcm", "password": "a=",
                "plugin": "v2ray-plugin", "plugin_opts": "tls"}),
        ]
    );
    assert_eq!(left_out.len(), 3, "{left_out:?}");
    assert!(left_out[0].starts_with("line 5: a link of `vmess`"));
    assert!(left_out[1].starts_with("line 6: "));
    assert!(left_out[2].contains("(Old)") && left_out[2].contains("insecure"));
    let wrapped = crypto::base64::encode(text.as_bytes());
    assert_eq!(servers(&wrapped).0, found);
}

#[test]
fn sip008_is_read() {
    let (found, left_out) = servers(
        r#"{"version": 1, "username": "x", "bytes_used": 5, "servers": [
            {"id": "27b8a625", "remarks": "A", "server": "example.com", "server_port": 8388, "password": "p",
             "method": "chacha20-ietf-poly1305", "plugin": "obfs-local", "plugin_opts": "obfs=tls"},
            {"remarks": "B", "server": "example.com", "server_port": 0, "password": "p", "method": "aes-256-gcm"}]}"#,
    );
    assert_eq!(
        found,
        [
            json!({"remarks": "A", "server": "example.com", "server_port": 8388, "password": "p",
            "method": "chacha20-ietf-poly1305", "plugin": "obfs-local", "plugin_opts": "obfs=tls"})
        ]
    );
    assert_eq!(
        left_out,
        ["server 2 (B): its port is missing or wrong", "`username`"]
    );
}

#[test]
fn the_config_of_the_windows_client_is_read() {
    let text = r#"{"version": "4.4.1.0", "configs": [{"server": "192.0.2.1", "server_port": 8388, "password": "p", "method": "aes-256-gcm",
            "plugin": "", "plugin_opts": "", "plugin_args": "", "remarks": "home", "timeout": 5, "group": "mine"}],
            "strategy": null, "index": 0, "global": false, "enabled": true, "shareOverLan": true, "localPort": 1081,
            "pacUrl": null, "proxy": {"useProxy": false}, "hotkey": {"x": ""}}"#;
    let imported = import(text).unwrap();
    assert_eq!(
        imported.config,
        json!({"local_port": 1081, "servers": [{"remarks": "home", "server": "192.0.2.1", "server_port": 8388,
            "password": "p", "method": "aes-256-gcm"}]})
    );
    assert_eq!(imported.left_out, ["`proxy`", "`shareOverLan`"]);
}

#[test]
fn profiles_of_the_android_client_are_read() {
    let (found, left_out) = servers(
        r#"[{"server": "192.0.2.1", "server_port": 443, "password": "p", "method": "aes-128-gcm", "remarks": "phone",
            "route": "bypass-lan", "remote_dns": "dns.google", "ipv6": true, "metered": false,
            "proxy_apps": {"enabled": true, "bypass": true}, "udpdns": false,
            "plugin": "v2ray-plugin", "plugin_opts": "tls;host=a.example"}]"#,
    );
    assert_eq!(
        found,
        [
            json!({"remarks": "phone", "server": "192.0.2.1", "server_port": 443, "password": "p", "method": "aes-128-gcm",
            "plugin": "v2ray-plugin", "plugin_opts": "tls;host=a.example"})
        ]
    );
    let named: Vec<&str> = left_out.iter().map(String::as_str).collect();
    assert_eq!(
        named,
        [
            "profile 1: `ipv6`",
            "profile 1: `remote_dns`",
            "profile 1: `route`"
        ]
    );
}

#[test]
fn proxies_of_clash_are_read() {
    let (found, left_out) = servers(
        r#"
mixed-port: 7890
proxies:
  - {name: "a", type: ss, server: 192.0.2.1, port: 443, cipher: aes-256-gcm, password: "p", udp: true, udp-over-tcp: true, udp-over-tcp-version: 1}
  - name: ws
    type: ss
    server: cdn.example
    port: 443
    cipher: chacha20-ietf-poly1305
    password: 12345
    plugin: v2ray-plugin
    plugin-opts:
      mode: websocket
      tls: true
      host: cdn.example
      path: "/a;b"
      skip-cert-verify: true
  - {name: http, type: ss, server: 192.0.2.2, port: 80, cipher: aes-128-gcm, password: p, smux: {enabled: true, protocol: yamux, max-streams: 16}, plugin: obfs, plugin-opts: {mode: http, host: bing.com}}
  - {name: shadow, type: ss, server: 192.0.2.3, port: 80, cipher: aes-128-gcm, password: p, plugin: shadow-tls}
  - {name: t, type: trojan, server: 192.0.2.4, port: 443, password: p}
proxy-groups:
  - {name: auto, type: url-test, proxies: [a]}
rules:
  - MATCH,auto
"#,
    );
    assert_eq!(
        found,
        [
            json!({"remarks": "a", "server": "192.0.2.1", "server_port": 443, "method": "aes-256-gcm", "password": "p",
                "udp_over_tcp": {"enabled": true, "version": 1}}),
            json!({"remarks": "ws", "server": "cdn.example", "server_port": 443, "method": "chacha20-ietf-poly1305",
                "password": "12345", "mode": "tcp_only", "plugin": "v2ray-plugin",
                "plugin_opts": "tls;host=cdn.example;path=/a\\;b"}),
            json!({"remarks": "http", "server": "192.0.2.2", "server_port": 80, "method": "aes-128-gcm", "password": "p",
                "mode": "tcp_only", "multiplex": {"enabled": true, "protocol": "yamux", "max_streams": 16}, "plugin": "obfs-local", "plugin_opts": "obfs=http;obfs-host=bing.com"}),
        ]
    );
    for part in [
        "plugin-opts: `skip-cert-verify`",
        "(shadow): its plugin `shadow-tls`",
        "(t): of type `trojan`",
        "`proxy-groups`",
        "`rules`",
        "`mixed-port`",
    ] {
        assert!(
            left_out.iter().any(|line| line.contains(part)),
            "{left_out:?} lacks {part}"
        );
    }
}

#[test]
fn outbounds_of_sing_box_are_read() {
    let (found, left_out) = servers(
        r#"{"log": {"level": "info"}, "outbounds": [
            {"type": "shadowsocks", "tag": "ss", "server": "192.0.2.1", "server_port": 1080, "method": "2022-blake3-aes-128-gcm",
             "password": "8JCsPssfgS8tiRwiMlhARg==", "network": "tcp", "multiplex": {"enabled": true, "protocol": "smux", "max_connections": 4, "brutal": {"enabled": true}}},
            {"type": "shadowsocks", "tag": "uot", "server": "192.0.2.2", "server_port": 1080, "method": "aes-128-gcm",
             "password": "p", "udp_over_tcp": true},
            {"type": "direct", "tag": "direct"}]}"#,
    );
    assert_eq!(
        found,
        [
            json!({"remarks": "ss", "server": "192.0.2.1", "server_port": 1080, "method": "2022-blake3-aes-128-gcm",
            "password": "8JCsPssfgS8tiRwiMlhARg==", "mode": "tcp_only",
            "multiplex": {"enabled": true, "protocol": "smux", "max_connections": 4}}),
            json!({"remarks": "uot", "server": "192.0.2.2", "server_port": 1080, "method": "aes-128-gcm", "password": "p",
            "udp_over_tcp": {"enabled": true, "version": 2}})
        ]
    );
    assert_eq!(
        left_out,
        [
            "outbound 1: multiplex: `brutal`",
            "outbound 3 (direct): of type `direct`, not `shadowsocks`",
            "`log`"
        ]
    );
}

#[test]
fn what_is_nothing_of_these_is_refused() {
    assert!(matches!(import("hello"), Err(ImportError::Unknown)));
    assert!(matches!(import(""), Err(ImportError::Unknown)));
    assert!(matches!(import("{}"), Err(ImportError::Unknown)));
    assert!(matches!(import("{"), Err(ImportError::Json(_))));
    let yaml = import("proxies:\n  - {name: \"a\n").unwrap_err();
    assert!(matches!(yaml, ImportError::Yaml { line: 1.. }), "{yaml:?}");
    let none = import("vmess://x").unwrap_err();
    assert!(matches!(none, ImportError::Empty { left_out } if left_out.len() == 1));
}

#[test]
fn what_is_left_out_is_bounded() {
    let links = format!(
        "{}ss://YWVzLTEyOC1nY206dGVzdA@192.0.2.1:8888",
        "x://y\n".repeat(10_000)
    );
    let (found, left_out) = servers(&links);
    assert_eq!((found.len(), left_out.len()), (1, MAX_FINDINGS + 1));
    // Aliases that grow without bound are an error, not memory.
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let alias = format!("*a{}", level - 1);
        let all = [alias.as_str(); 9].join(", ");
        bomb += &format!("a{level}: &a{level} [{all}]\n");
    }
    bomb.push_str("proxies: []\n");
    assert!(matches!(import(&bomb), Err(ImportError::Yaml { .. })));
    let deep = format!("proxies: {}", "[".repeat(100_000));
    assert!(matches!(import(&deep), Err(ImportError::Yaml { .. })));
}

#[test]
fn no_key_of_another_client_looks_like_a_misspelling() {
    use crate::config::written::schema::{Kind, similar};
    for key in [
        "configs",
        "strategy",
        "index",
        "global",
        "enabled",
        "shareOverLan",
        "pacUrl",
        "useOnlinePac",
        "secureLocalPac",
        "route",
        "remote_dns",
        "metered",
        "proxy_apps",
        "udpdns",
        "tx",
        "rx",
        "group",
        "subscription",
        "hotkey",
        "proxies",
        "proxy-groups",
        "outbounds",
        "inbounds",
        "tag",
        "type",
        "network",
    ] {
        for kind in [Kind::Top, Kind::Server] {
            assert_eq!(similar(kind, key), None, "{key}");
        }
    }
}
