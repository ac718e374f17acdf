//! Plugins that are programs, and proxies on the way.

use super::*;

/// The environment with a `PATH` of one directory that has these programs.
fn with_programs(names: &[&str]) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    for name in names {
        std::fs::write(directory.path().join(name), "").unwrap();
    }
    let path = directory.path().to_str().unwrap().to_owned();
    (directory, path)
}

#[test]
fn plugin_that_is_a_program_is_taken_as_written() {
    let text = with(
        r#""plugin": "obfs-local", "plugin_opts": "obfs=http;a=\\;b", "plugin_args": ["-v", "x y"]"#,
    );
    let config = local(&text);
    let server = &config.servers[0];
    let plugin = server.plugin.as_ref().unwrap();
    assert!(server.transport.is_none());
    assert_eq!(plugin.program, "obfs-local");
    assert_eq!(
        plugin.options.as_ref().unwrap().expose(),
        r"obfs=http;a=\;b"
    );
    let arguments: Vec<&str> = plugin.arguments.iter().map(Secret::expose).collect();
    assert_eq!(arguments, ["-v", "x y"]);
    assert_eq!((plugin.tcp, plugin.udp), (true, false));
    assert!(config.summary().contains("through the plugin obfs-local"));
}

#[test]
fn plugin_mode_says_what_goes_through() {
    for (keys, expected) in [
        (r#""plugin_mode": "tcp_and_udp""#, (true, true)),
        (r#""plugin_mode": "udp_only""#, (false, true)),
        (
            r#""plugin_mode": "tcp_and_udp", "mode": "tcp_only""#,
            (true, false),
        ),
    ] {
        let text = with(&format!(r#""plugin": "x", {keys}"#));
        let config = server(&text);
        let plugin = config.servers[0].plugin.as_ref().unwrap();
        assert_eq!((plugin.tcp, plugin.udp), expected, "{keys}");
    }
    for (keys, words) in [
        (r#""plugin_mode": "udp""#, "unknown mode"),
        (
            r#""plugin_mode": "udp_only", "mode": "tcp_only""#,
            "the plugin carries nothing",
        ),
        (r#""plugin_args": ["a", 1]"#, "an array of strings"),
        (r#""plugin_args": "a""#, "an array of strings"),
    ] {
        let text = with(&format!(r#""plugin": "x", {keys}"#));
        let found = failure(&text, Role::Server);
        assert!(found.contains(words), "{keys}: {found}");
    }
}

#[test]
fn installed_v2ray_plugin_is_meant_by_its_name() {
    let (_directory, path) = with_programs(&["v2ray-plugin"]);
    let env = |name: &str| (name == "PATH").then(|| path.clone());
    for (name, is_program) in [("v2ray-plugin", true), ("builtin:v2ray-plugin", false)] {
        let text = with(&format!(r#""plugin": "{name}""#));
        let config = parse(&text, Role::Local, &env).unwrap();
        assert_eq!(config.servers[0].plugin.is_some(), is_program, "{name}");
        assert_eq!(config.servers[0].transport.is_some(), !is_program, "{name}");
    }
}

#[test]
fn plugin_that_is_not_installed_is_named_with_path() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    std::fs::write(&file, with(r#""plugin": "no-such-plugin""#)).unwrap();
    let found = load(Some(&file), Role::Local, &Overrides::default()).unwrap_err();
    let found = shown(&found);
    assert!(
        found.contains("`no-such-plugin` is not installed"),
        "{found}"
    );
    assert!(found.contains(&std::env::var("PATH").unwrap()), "{found}");
}

#[test]
fn proxies_are_those_of_the_entry_else_of_the_top() {
    let text = format!(
        r#"{{"outbound_proxy": ["socks5://u:p@a:1", "http://b"], "mode": "tcp_only", "servers": [{}, {}, {}]}}"#,
        with(""),
        with(r#""outbound_proxy": "https://c""#),
        with(r#""outbound_proxy": []"#),
    );
    for role in [Role::Local, Role::Server] {
        // As servers, all three would have one address.
        let text = match role {
            Role::Server => text.replacen("8388", "8389", 1).replacen("8388", "8390", 1),
            _ => text.clone(),
        };
        let config = read(&text, role);
        let names = |index: usize| -> Vec<String> {
            let hops = config.servers[index].proxies.iter();
            hops.map(ToString::to_string).collect()
        };
        assert_eq!(names(0), ["socks5://a:1", "http://b:80"]);
        assert_eq!(names(1), ["https://c:443"]);
        assert!(names(2).is_empty());
        assert!(
            !format!("{config:?}").contains("\"p\""),
            "a secret is shown"
        );
    }
}

#[test]
fn server_on_the_way_is_a_url_of_its_own() {
    let key = KEY
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D");
    let modern = format!("ss://2022-blake3-aes-256-gcm:{key}@a.example:1#name");
    // `aes-128-gcm:test`, without a port.
    let old = "ss://YWVzLTEyOC1nY206dGVzdA@[::1]";
    for role in [Role::Local, Role::Server] {
        let config = read(
            &with(&format!(
                r#""mode": "tcp_only", "outbound_proxy": ["{modern}", "socks5://b", "{old}"]"#
            )),
            role,
        );
        let hops = &config.servers[0].proxies;
        let names: Vec<String> = hops.iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            ["ss://a.example:1", "socks5://b:1080", "ss://[::1]:8388"]
        );
        assert!(hops[0].shadowsocks.is_some() && hops[1].shadowsocks.is_none());
    }
    let config = local(&with(&format!(
        r#""outbound_proxy": ["{modern}", "socks5://b"]"#
    )));
    assert!(config.servers[0].mode.udp);
    for (url, words) in [
        ("ss://hunter2@a:1", "neither `method:password`"),
        ("ss://rc4-md5:hunter2@a:1", "unknown method"),
        (
            "ss://2022-blake3-aes-256-gcm:hunter2@a:1",
            "no key of its method",
        ),
        ("ss://aes-128-gcm:hunter2@a:0", "host and port"),
        ("ss://aes-128-gcm:hunter2@a:1/?plugin=x", "a plugin"),
    ] {
        let found = failure(&with(&format!(r#""outbound_proxy": "{url}""#)), Role::Local);
        assert!(found.contains(words), "{url}: {found}");
        assert!(!found.contains("hunter2"), "{found}");
    }
}

#[test]
fn datagrams_go_through_a_proxy_or_not_at_all() {
    for (role, proxies, words) in [
        (Role::Local, r#""http://a""#, "through `socks5` and `ss`"),
        (
            Role::Local,
            r#"["socks5://a", "https://b"]"#,
            "through `socks5` and `ss`",
        ),
        (Role::Server, r#""socks5://a""#, "datagrams to targets"),
    ] {
        let text = with(&format!(r#""outbound_proxy": {proxies}"#));
        let found = failure(&text, role);
        assert!(
            found.contains(words) && found.contains("tcp_only"),
            "{found}"
        );
        let text = with(&format!(
            r#""mode": "tcp_only", "outbound_proxy": {proxies}"#
        ));
        assert!(!read(&text, role).servers[0].mode.udp);
        // The mode of the listeners does not count where the entry has none: then it gets no datagrams.
        let text = format!(
            r#"{{"mode": "tcp_only", "servers": [{}]}}"#,
            with(&format!(r#""outbound_proxy": {proxies}"#))
        );
        let config = read(&text, role);
        assert_eq!(config.servers[0].weights.udp, None);
    }
    let one = local(&with(r#""outbound_proxy": "socks5://a""#));
    assert!(one.servers[0].mode.udp);
    let inside = r#""transport": {"type": "ws", "udp_over": "ws"}, "outbound_proxy": "http://a""#;
    assert!(local(&with(inside)).servers[0].mode.udp);
}

#[test]
fn wrong_proxies_are_refused_without_quoting_them() {
    for (proxies, words) in [
        (r#""socks5://u:secret@a:x""#, "host and port"),
        (r#"["socks5://a", "ss://secret@a:1"]"#, "outbound_proxy[1]"),
        (
            r#"["socks5://a", "ss://secret@a:1"]"#,
            "neither `method:password`",
        ),
        (r#"{"secret": 1}"#, "a string or an array of strings"),
        (
            r#"["http://a","http://a","http://a","http://a","http://a","http://a","http://a","http://a","http://a"]"#,
            "more than 8 proxies",
        ),
        (
            r#""socks5://a", "plugin": "x""#,
            "connects to the server by itself",
        ),
    ] {
        let text = with(&format!(r#""outbound_proxy": {proxies}"#));
        let found = failure(&text, Role::Local);
        assert!(found.contains(words), "{proxies}: {found}");
        assert!(!found.contains("secret"), "{found}");
    }
    // On the server, the plugin is on the other side.
    let text = with(r#""mode": "tcp_only", "outbound_proxy": "socks5://a", "plugin": "x""#);
    assert!(server(&text).servers[0].plugin.is_some());
}
