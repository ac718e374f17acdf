use super::*;

/// A config whose only server has this transport.
fn transport(text: &str, role: Role) -> Transport {
    let config = read(&with(&format!("\"transport\": {text}")), role);
    config.servers[0].transport.clone().unwrap()
}

fn plugin(options: &str, role: Role) -> Transport {
    let keys = format!("\"plugin\": \"builtin:v2ray-plugin\", \"plugin_opts\": {options:?}");
    let config = read(&with(&keys), role);
    config.servers[0].transport.clone().unwrap()
}

#[test]
fn transport_that_changes_nothing_is_none() {
    for text in ["{}", "null", "{\"type\": \"tcp\"}", "{\"tls\": false}"] {
        let config = local(&with(&format!("\"transport\": {text}")));
        assert!(config.servers[0].transport.is_none(), "{text}");
    }
}

#[test]
fn websocket_has_the_server_for_its_host() {
    let bare = transport(r#"{"type": "ws"}"#, Role::Local);
    let ws = bare.ws.unwrap();
    assert!(bare.tls.is_none() && !ws.mux && !bare.udp_inside);
    for (address, tls, host) in [
        ("192.0.2.1:8388", false, "192.0.2.1:8388"),
        ("example.com:443", true, "example.com"),
        ("example.com:443", false, "example.com:443"),
        ("[2001:db8::1]:80", false, "[2001:db8::1]"),
    ] {
        let endpoint = ws.request_to(&address.parse().unwrap(), tls);
        assert_eq!(
            (endpoint.host.as_deref(), &*endpoint.path),
            (Some(host), "/")
        );
    }
}

#[test]
fn udp_goes_in_datagrams_of_quic_or_in_streams_of_it() {
    for (udp_over, datagrams, way) in [
        ("", true, "UDP in its datagrams"),
        (r#", "udp_over": "quic""#, true, "UDP in its datagrams"),
        (r#", "udp_over": "stream""#, false, "UDP in its streams"),
    ] {
        let config = local(&with(&format!(
            r#""transport": {{"type": "quic"{udp_over}}}"#
        )));
        let quic = config.servers[0].transport.clone().unwrap();
        assert!(quic.udp_inside && quic.udp_datagrams == datagrams);
        assert!(config.summary().contains(way), "{}", config.summary());
    }
    let alone = r#""mode": "udp_only", "transport": {"type": "quic"}"#;
    assert!(local(&with(alone)).servers[0].mode.udp);
    let refused = failure(&with(alone), Role::Server);
    assert!(refused.contains("use `tcp_and_udp`"), "{refused}");
}

#[test]
fn all_keys_of_a_transport_are_read() {
    let text = r#"{"type": "ws", "path": "/a?b", "host": "cdn.example", "headers": {"X-Y": "z"}, "mux": 1,
        "udp_over": "ws", "trusted_proxies": ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"],
        "tls": {"server_name": "name.example", "ca": "/ca.pem",
            "pin_sha256": ["47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;
    let all = transport(text, Role::Local);
    let (tls, ws) = (all.tls.clone().unwrap(), all.ws.clone().unwrap());
    assert!(ws.mux && all.udp_inside);
    assert_eq!(ws.endpoint.fields, [("X-Y".to_owned(), "z".to_owned())]);
    assert_eq!(tls.trust.pins[0], tls.trust.pins[1]);
    let address = "192.0.2.1:443".parse().unwrap();
    assert_eq!(all.server_name(&address), "name.example");
    let trusted = |ip: &str| {
        let ip = ip.parse().unwrap();
        ws.trusted_proxies.iter().any(|known| known.contains(ip))
    };
    for ip in [
        "10.255.0.1",
        "::ffff:10.0.0.1",
        "2001:db8:ffff::1",
        "192.0.2.7",
    ] {
        assert!(trusted(ip), "{ip}");
    }
    for ip in ["11.0.0.1", "192.0.2.8", "2001:db9::1", "::1"] {
        assert!(!trusted(ip), "{ip}");
    }
}

#[test]
fn tls_asks_for_the_host_of_websocket_or_the_address() {
    let address = "example.com:443".parse().unwrap();
    for (text, name) in [
        (r#"{"tls": true}"#, "example.com"),
        (
            r#"{"type": "ws", "tls": true, "host": "cdn.example:8443"}"#,
            "cdn.example",
        ),
        (r#"{"type": "ws", "tls": {}}"#, "example.com"),
    ] {
        assert_eq!(transport(text, Role::Local).server_name(&address), name);
    }
}

#[test]
fn server_with_tls_says_which_file_it_lacks() {
    let text = with(r#""transport": {"tls": {"cert": "/cert.pem"}}"#);
    let found = failure(&text, Role::Server);
    assert!(found.starts_with("1:"), "{found}");
    assert!(found.contains("transport.tls.key: missing"), "{found}");
    assert!(!found.contains("transport.tls.cert: missing"), "{found}");
    assert!(local(&text).servers[0].transport.is_some());
    let found = failure(
        &with(r#""plugin": "v2ray-plugin", "plugin_opts": "server;tls;host=a""#),
        Role::Server,
    );
    assert!(
        found.contains("needs `cert`") && found.contains("needs `key`"),
        "{found}"
    );
}

#[test]
fn nonsense_in_a_transport_is_refused_where_it_stands() {
    for (text, at, words) in [
        (
            r#"{"type": "kcp"}"#,
            "transport.type",
            "unknown transport `kcp`",
        ),
        (
            r#"{"type": "quic", "tls": false}"#,
            "transport.tls",
            "QUIC always has TLS",
        ),
        (
            r#"{"type": "quic", "congestion": "reno"}"#,
            "transport.congestion",
            "unknown congestion control `reno`",
        ),
        (
            r#"{"type": "quic", "path": "/x"}"#,
            "transport.path",
            "no effect",
        ),
        (
            r#"{"type": "quic", "udp_over": "ws"}"#,
            "transport.udp_over",
            "use `quic`",
        ),
        (
            r#"{"type": "quic", "fallback": "kcp"}"#,
            "transport.fallback",
            "unknown fallback of QUIC `kcp`",
        ),
        (
            r#"{"type": "quic", "fallback": {"root": "/srv"}}"#,
            "transport.fallback",
            "remove it; `\"ws\"` or `\"tcp\"` is what",
        ),
        (
            r#"{"type": "quic", "fallback": 1}"#,
            "transport.fallback",
            "a name, or an object",
        ),
        (
            r#"{"type": "quic", "fallback": "tcp", "path": "/x"}"#,
            "transport.path",
            "no effect",
        ),
        (
            r#"{"type": "quic", "fallback": "ws", "path": "x"}"#,
            "transport.path",
            "not a path",
        ),
        (
            r#"{"type": "quic", "fallback_retry": 60}"#,
            "transport.fallback_retry",
            "no effect without `fallback`",
        ),
        (
            r#"{"type": "quic", "fallback": "ws", "fallback_retry": 0}"#,
            "transport.fallback_retry",
            "at least 1 second",
        ),
        (
            r#"{"type": "ws", "fallback": "tcp"}"#,
            "transport.fallback",
            "only QUIC has another transport beside it",
        ),
        (
            r#"{"type": "ws", "fallback_retry": 5}"#,
            "transport.fallback_retry",
            "no effect",
        ),
        (
            r#"{"type": "quic", "udp_over": "udp"}"#,
            "transport.udp_over",
            "or `stream`",
        ),
        (
            r#"{"type": "ws", "alpn": "h3"}"#,
            "transport.alpn",
            "no effect",
        ),
        (
            r#"{"type": "ws", "path": "x"}"#,
            "transport.path",
            "not a path",
        ),
        (
            r#"{"type": "ws", "host": "a\r\nb"}"#,
            "transport.host",
            "not a host",
        ),
        (
            r#"{"type": "ws", "headers": {"a b": "c"}}"#,
            "transport.headers",
            "not HTTP header fields",
        ),
        (
            r#"{"type": "ws", "mux": 1000}"#,
            "transport.mux",
            "out of range",
        ),
        (
            r#"{"udp_over": "ws", "tls": true}"#,
            "transport.udp_over",
            "needs a WebSocket",
        ),
        (
            r#"{"type": "ws", "trusted_proxies": ["x/8"]}"#,
            "transport.trusted_proxies[0]",
            "network",
        ),
        (
            r#"{"tls": {"pin_sha256": "abc"}}"#,
            "transport.tls.pin_sha256",
            "SHA-256",
        ),
        (r#"{"tls": 1}"#, "transport.tls", "expected"),
        (
            r#"{"tls": {"pins": "x"}}"#,
            "transport.tls.pins",
            "unknown key",
        ),
        (r#"{"typ": "ws"}"#, "transport.typ", "did you mean `type`"),
        (
            r#"{"type": "quic"}, "multiplex": {"enabled": true}"#,
            "multiplex",
            "exclude each other",
        ),
        (
            r#"{"type": "quic"}, "outbound_proxy": "socks5://127.0.0.1:1080""#,
            "outbound_proxy",
            "cannot go through a proxy",
        ),
    ] {
        let found = match parse(
            &with(&format!("\"transport\": {text}")),
            Role::Local,
            &no_env,
        ) {
            Ok(config) => shown(&config.warnings),
            Err(found) => shown(&found),
        };
        assert!(
            found.contains(at) && found.contains(words),
            "{text}: {found}"
        );
    }
}

#[test]
fn plugin_options_mean_what_they_mean_to_v2ray_plugin() {
    let plain = plugin("", Role::Local);
    let ws = plain.ws.unwrap();
    assert!(plain.tls.is_none() && ws.mux);
    assert_eq!(
        (ws.endpoint.host.as_deref(), &*ws.endpoint.path),
        (Some("cloudfront.com"), "/")
    );
    let all = plugin(
        r"tls;host=a.example;path=/x\;y\=z\\;mux=0;cert=/ca.pem;loglevel=none;mode=websocket",
        Role::Local,
    );
    let ws = all.ws.clone().unwrap();
    assert!(!ws.mux);
    assert_eq!(ws.endpoint.path, r"/x;y=z\");
    let trust = all.tls.clone().unwrap().trust;
    assert_eq!(trust.ca.map(|ca| ca.place()).as_deref(), Some("/ca.pem"));
    assert_eq!(
        all.server_name(&"192.0.2.1:1".parse().unwrap()),
        "a.example"
    );
    // The server looks at the path alone.
    let server = plugin("server;path=/x;host=a.example", Role::Server);
    assert_eq!(server.ws.unwrap().endpoint.host, None);
}

#[test]
fn options_that_the_built_in_plugin_lacks_are_refused_with_a_way_out() {
    for (keys, words) in [
        (
            r#""plugin": "builtin:obfs""#,
            "`builtin:obfs` is not built in",
        ),
        (
            r#""plugin": "v2ray-plugin", "plugin_opts": "mode=quic""#,
            "quic",
        ),
        (
            r#""plugin": "v2ray-plugin", "plugin_opts": "obfs=http""#,
            "unknown option `obfs`",
        ),
        (
            r#""plugin": "v2ray-plugin", "transport": {"tls": true}"#,
            "`plugin` and `transport`",
        ),
    ] {
        let found = failure(&with(keys), Role::Local);
        assert!(found.contains(words), "{keys}: {found}");
    }
}

#[test]
fn arguments_for_the_built_in_plugin_are_refused_with_a_way_out() {
    for name in ["v2ray-plugin", "builtin:v2ray-plugin"] {
        let keys = |arguments: &str| {
            let plugin = format!(r#""plugin": "{name}", "plugin_args": {arguments}"#);
            let entry = with(&plugin);
            [entry.clone(), format!(r#"{{"servers": [{entry}]}}"#)]
        };
        for text in keys(r#"["-tls", "-host", "a.example"]"#) {
            for role in [Role::Local, Role::Server] {
                let found = failure(&text, role);
                assert!(
                    found.contains("plugin_args: ") && found.contains("`plugin_opts`"),
                    "{found}"
                );
            }
        }
        for text in keys("[]") {
            assert_eq!(shown(&local(&text).warnings), "");
        }
    }
    // Nor does it matter where there is no plugin at all.
    local(&with(r#""plugin": "", "plugin_args": ["-tls"]"#));
}

#[test]
fn a_server_of_flags_has_no_plugin_arguments_of_the_file() {
    let mut flags = Overrides::default();
    flags.server("192.0.2.1:1", Some("aes-256-gcm"), Some("p"));
    flags.set("plugin", "builtin:v2ray-plugin", "--plugin");
    let text = with(r#""plugin": "obfs-local", "plugin_args": ["-x"]"#);
    let config = parse_with(&text, Role::Local, &no_env, &flags);
    assert!(config.is_ok(), "{}", shown(&config.err().unwrap()));
}

#[test]
fn summary_shows_the_transport() {
    let config = local(&with(
        r#""transport": {"type": "ws", "path": "/x", "tls": true, "mux": 1}"#,
    ));
    let summary = config.summary();
    assert!(
        summary.contains("over wss /x with mux.cool, TLS for 192.0.2.1, UDP directly"),
        "{summary}"
    );
}

#[test]
fn fallback_of_quic_is_a_transport_of_the_same_server() {
    let both = r#""transport": {"type": "quic", "fallback": "ws", "path": "/x", "host": "a.example", "tls": {"cert": "/c", "key": "/k"}}"#;
    for role in [Role::Local, Role::Server] {
        let text = with(both);
        let config =
            parse(&text, role, &no_env).unwrap_or_else(|found| panic!("{}", shown(&found)));
        assert!(config.warnings.is_empty(), "{}", shown(&config.warnings));
        let server = &config.servers[0];
        let beside = server.beside_quic().unwrap();
        let layers = beside.transport.clone().unwrap();
        assert_eq!((server.is_quic(), beside.is_quic()), (true, false));
        assert_eq!(layers.name(), "wss");
        assert_eq!(layers.ws.clone().unwrap().endpoint.path, "/x");
        let name = |one: &Transport| one.server_name(&"192.0.2.1:1".parse().unwrap());
        assert_eq!(name(&layers), "a.example");
        assert_eq!(name(server.transport.as_ref().unwrap()), "a.example");
        let summary = config.summary();
        let expected = match role {
            Role::Server => "beside    TCP 192.0.2.1:8388, over wss a.example/x",
            _ => {
                "fallback  TCP, over wss a.example/x, where UDP is blocked; QUIC is tried again after 300 s"
            }
        };
        assert!(summary.contains(expected), "{summary}");
    }
    let tcp = with(r#""transport": {"type": "quic", "fallback": "tcp", "fallback_retry": 60}"#);
    let server = local(&tcp).servers[0].clone();
    assert!(server.beside_quic().unwrap().transport.is_none());
    // The port is that of TCP, too.
    let keys = r#"{"server": "0.0.0.0", "server_port": 1, "method": "aes-256-gcm", "password": "x", "transport": {"type": "quic", "fallback": "tcp", "tls": {"cert": "/c", "key": "/k"}}}"#;
    let plain = r#"{"server": "0.0.0.0", "server_port": 1, "method": "aes-256-gcm", "password": "x", "mode": "tcp_only"}"#;
    let found = failure(
        &format!(r#"{{"servers": [{keys}, {plain}]}}"#),
        Role::Server,
    );
    assert!(found.contains("TCP"), "{found}");
}
