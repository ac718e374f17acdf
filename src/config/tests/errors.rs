//! Every error says where, what, and what to do.

use super::*;

#[test]
fn a_syntax_error_has_a_place() {
    assert_eq!(
        failure("{\n  \"server\": \"a\"\n  \"x\": 1}", Role::Local),
        "2:16: not valid JSON: Expected comma"
    );
    assert_eq!(failure("", Role::Local), "the config is empty");
    assert_eq!(
        failure("[]", Role::Local),
        "1:1: a config must be an object: `{ … }`"
    );
}

#[test]
fn a_type_error_has_line_column_and_key_path() {
    let text = "{\n\"servers\": [\n  {\"server\": \"192.0.2.1\", \"server_port\": true, \"password\": \"p\", \"method\": \"aes-256-gcm\"}]}";
    assert_eq!(
        failure(text, Role::Local),
        "3:42: servers[0].server_port: expected a whole number from 0 to 65535, found `true`"
    );
}

#[test]
fn an_array_is_no_object() {
    let found = failure(
        &with("\"timeouts\": [1, 2], \"servers\": [[\"a\", 1]], \"log\": [], \"locals\": {}"),
        Role::Local,
    );
    for path in ["timeouts", "servers[0]", "log"] {
        assert!(
            found.contains(&format!(
                "{path}: expected an object: `{{ … }}`, found an array"
            )),
            "{found}"
        );
    }
    assert!(
        found.contains("locals: expected an array: `[ … ]`, found an object"),
        "{found}"
    );
    assert_eq!(found.lines().count(), 4, "{found}");
}

#[test]
fn all_errors_are_found_at_once() {
    let text = r#"{"server": "192.0.2.1", "server_port": 70000, "password": "p", "method": "aes-256-gcm",
        "fast_open": "yes", "mode": "udp", "locals": [5], "timeouts": {"idle": 0}, "sever": 1}"#;
    let found = failure(text, Role::Local);
    for expected in [
        "server_port: expected a whole number from 0 to 65535, found `70000`",
        "fast_open: expected `true` or `false`, found a string",
        "mode: unknown mode `udp` (use `tcp_only`, `udp_only` or `tcp_and_udp`)",
        "locals[0]: expected an object: `{ … }`, found `5`",
        "timeouts.idle: must be at least 1 second",
        "sever: unknown key (did you mean `server`?)",
    ] {
        assert!(found.contains(expected), "no {expected:?} in\n{found}");
    }
    assert_eq!(found.lines().count(), 6, "{found}");
}

#[test]
fn a_slip_of_the_pen_is_an_error_with_the_right_key() {
    let found = failure(&with("\"passwrod\": \"x\", \"localPort\": 1"), Role::Local);
    assert!(
        found.contains("passwrod: unknown key (did you mean `password`?)"),
        "{found}"
    );
    assert!(
        found.contains("localPort: unknown key (did you mean `local_port`?)"),
        "{found}"
    );
}

#[test]
fn a_foreign_key_is_a_warning() {
    let config = local(&with("\"shareOverLan\": true, \"quota_bytes\": 5"));
    let found = shown(&config.warnings);
    assert!(
        found.contains("shareOverLan: unknown key, ignored"),
        "{found}"
    );
    assert!(
        found.contains(
            "quota_bytes: unknown key, ignored (this key belongs in an entry of `users`)"
        ),
        "{found}"
    );
    assert!(
        config
            .warnings
            .iter()
            .all(|finding| finding.severity == Severity::Foreign)
    );
}

#[test]
fn underscores_and_slashes_begin_comments() {
    let config = local(&with(
        "\"_note\": 1, \"//\": 2, \"// why\": {\"server\": 3}",
    ));
    assert_eq!(shown(&config.warnings), "");
}

#[test]
fn a_key_given_twice_is_an_error() {
    let found = failure(&with("\"password\": \"other\""), Role::Local);
    assert!(
        found.contains("password: the key is given twice"),
        "{found}"
    );
    let found = failure(
        r#"{"servers": [{"server": "a", "address": "b", "server_port": 1, "password": "p", "method": "aes-128-gcm"}]}"#,
        Role::Local,
    );
    assert_eq!(
        found,
        "1:30: servers[0].address: the key is given twice: it is another name for `server`"
    );
}

#[test]
fn a_manager_listens_on_this_machine_or_is_warned_of_and_needs_a_port() {
    let key = |text: &str| with(&format!("\"manager_address\": {text}"));
    let found = failure(&key("\"127.0.0.1\""), Role::Server);
    assert!(
        found.contains("manager_address: the port is missing"),
        "{found}"
    );
    for text in [
        "null",
        "\"\"",
        "\"127.0.0.1:1\"",
        "\"localhost:1\"",
        "\"/run/x\"",
    ] {
        assert_eq!(shown(&server(&key(text)).warnings), "", "{text}");
    }
    let found = shown(&server(&key("\"0.0.0.0:1\"")).warnings);
    assert!(
        found.contains("anybody can add and remove ports"),
        "{found}"
    );
    // It may begin without servers; nobody else may.
    let alone = r#"{"server": "127.0.0.1", "manager_address": "127.0.0.1", "manager_port": 1}"#;
    assert!(server(alone).servers.is_empty());
    assert!(failure(r#"{"manager_address": ""}"#, Role::Server).contains("no servers"));
}

#[test]
fn a_port_of_a_manager_has_what_the_file_says_of_all() {
    let text = r#"{"server": ["127.0.0.1", "::1"], "method": "aes-128-gcm", "mode": "tcp_only",
        "outbound_fwmark": 7, "manager_address": "/x/y", "servers": [{"server": "127.0.0.1", "server_port": 2,
        "password": "p", "method": "aes-256-gcm"}]}"#;
    let config = server(text);
    let manager = config.manager.unwrap();
    assert_eq!(config.servers.len(), 1);
    let mut port = ManagedPort {
        port: 3,
        password: Secret::from("p".to_owned()),
        ..Default::default()
    };
    let made = manager.servers(&port).unwrap();
    let addresses: Vec<_> = made.iter().map(|one| one.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1:3", "[::1]:3"]);
    assert_eq!(made[0].method.to_string(), "aes-128-gcm");
    assert_eq!(
        (made[0].mode, made[0].socket.fwmark),
        (Mode::TCP_ONLY, Some(7))
    );
    // The environment is not for who sends commands.
    let secret = |text: &str| Secret::from(text.to_owned());
    let password = std::mem::replace(&mut port.password, secret("${PATH}"));
    assert!(manager.servers(&port).is_err());
    port.password = password;
    port.method = Some("rot13".to_owned());
    assert!(manager.servers(&port).is_err());
}

#[test]
fn a_disabled_entry_may_ask_for_anything() {
    let config = local(
        r#"{"servers": [
            {"disabled": true, "server": "a", "server_port": 1, "method": "rc4", "plugin": "x", "acl": "y"},
            {"server": "b", "server_port": 1, "method": "aes-256-gcm", "password": "p"}]}"#,
    );
    assert_eq!(config.servers.len(), 1);
}

#[test]
fn a_key_of_wrong_length_says_what_makes_a_right_one() {
    let found = failure(
        r#"{"server": "192.0.2.1", "server_port": 1, "method": "2022-blake3-aes-256-gcm", "password": "AAAAAAAAAAAAAAAAAAAAAA=="}"#,
        Role::Local,
    );
    for part in [
        "1:",
        "password: ",
        "16",
        "32",
        "`ssr genkey -m 2022-blake3-aes-256-gcm`",
    ] {
        assert!(found.contains(part), "no {part:?} in {found}");
    }
    assert!(!found.contains("AAAA"), "{found}");
}

#[test]
fn a_chain_says_which_key_is_wrong() {
    let found = failure(
        &format!(
            r#"{{"server": "192.0.2.1", "server_port": 1, "method": "2022-blake3-aes-256-gcm", "password": "{KEY}:AAAA"}}"#
        ),
        Role::Local,
    );
    assert!(
        found.contains("password: key 2 of 2 (colons separate keys): "),
        "{found}"
    );
}

#[test]
fn identity_needs_an_aes_method() {
    let found = failure(
        &format!(
            r#"{{"server": "192.0.2.1", "server_port": 1, "method": "2022-blake3-chacha20-poly1305", "password": "{KEY}:{USER_KEY}"}}"#
        ),
        Role::Local,
    );
    assert!(
        found.contains("no identity headers") && !found.contains(USER_KEY),
        "{found}"
    );
    let found = failure(
        &format!(
            r#"{{"server": "::", "server_port": 1, "method": "2022-blake3-chacha20-poly1305", "password": "{KEY}",
                "users": [{{"name": "a", "password": "{USER_KEY}"}}]}}"#
        ),
        Role::Server,
    );
    assert!(
        found.contains("users: 2022-blake3-chacha20-poly1305 does not support `users`"),
        "{found}"
    );
}

#[test]
fn a_server_has_one_key_of_its_own() {
    let found = failure(
        &format!(
            r#"{{"server": "192.0.2.1", "server_port": 1, "method": "2022-blake3-aes-256-gcm", "password": "{KEY}:{USER_KEY}"}}"#
        ),
        Role::Server,
    );
    assert!(
        found.contains("password: several keys: only a client has a chain of keys"),
        "{found}"
    );
}

#[test]
fn a_file_for_the_other_role_is_told_from_a_broken_one() {
    let listening = with("").replace("192.0.2.1", "::");
    let found = parse(&listening, Role::Local, &no_env).unwrap_err();
    assert!(is_for_other_role(&found), "{}", shown(&found));
    server(&listening);
    let broken = with("\"outbound_proxy\": \"x\"").replace("192.0.2.1", "::");
    assert!(!is_for_other_role(
        &parse(&broken, Role::Local, &no_env).unwrap_err()
    ));
}

#[test]
fn users_are_unique_and_complete() {
    let found = failure(
        &format!(
            r#"{{"server": "192.0.2.1", "server_port": 1, "method": "2022-blake3-aes-256-gcm", "password": "{KEY}", "users": [
            {{"name": "a", "password": "{USER_KEY}"}}, {{"name": "a", "password": "{USER_KEY}"}},
            {{"name": "b", "password": "{KEY}"}}, {{"name": "c"}}, {{"password": "{USER_KEY}"}},
            {{"name": "d", "password": "{USER_KEY}", "server": "192.0.2.7"}}]}}"#
        ),
        Role::Server,
    );
    for expected in [
        "users[1].name: another user is already named `a`",
        "users[1].password: another user already has this key",
        "users[2].password: this is the server's own key",
        "users[3].password: missing: the user's key",
        "users[4].name: missing: the user's name",
        "users[5].server_port: missing: the next server's port",
    ] {
        assert!(found.contains(expected), "no {expected:?} in\n{found}");
    }
}

#[test]
fn insecure_methods_are_refused_by_name() {
    let found = failure(
        r#"{"server": "192.0.2.1", "server_port": 1, "password": "p", "method": "rc4-md5"}"#,
        Role::Local,
    );
    assert!(
        found.starts_with("1:70: method: ") && found.contains("rc4-md5"),
        "{found}"
    );
}

#[test]
fn no_encryption_is_a_warning() {
    let config = server(r#"{"server": "192.0.2.1", "server_port": 1, "method": "none"}"#);
    assert!(shown(&config.warnings).contains("method: no encryption"));
}

#[test]
fn missing_keys_are_named() {
    let found = failure(r#"{"servers": [{"method": "aes-256-gcm"}]}"#, Role::Server);
    assert!(
        found.contains("1:14: servers[0].server: missing"),
        "{found}"
    );
    assert!(
        found.contains("1:14: servers[0].password: missing"),
        "{found}"
    );
    let found = failure(
        r#"{"server": "192.0.2.1", "password": "p", "method": "aes-256-gcm"}"#,
        Role::Local,
    );
    assert_eq!(found, "1:1: server_port: missing: the server's port");
    assert!(failure("{}", Role::Local).contains("servers: no server"));
    assert!(failure(r#"{"servers": []}"#, Role::Server).contains("servers: no server"));
}

#[test]
fn a_wrong_value_is_not_called_missing_too() {
    let found = failure(
        r#"{"server": "192.0.2.1", "server_port": [1], "password": "p", "method": "aes-256-gcm"}"#,
        Role::Local,
    );
    assert_eq!(found.lines().count(), 1, "{found}");
}

#[test]
fn addresses_are_checked() {
    for (host, expected) in [
        (
            "https://example.com",
            "a URL is not an address (write only the host",
        ),
        ("exa mple.com", "not an IP address or host name"),
        ("", "not an IP address or host name"),
        ("example.com:x", "server"),
        ("0.0.0.0", "0.0.0.0 is an address to listen on"),
    ] {
        let text = format!(
            r#"{{"server": "{host}", "server_port": 1, "password": "p", "method": "aes-256-gcm"}}"#
        );
        let found = failure(&text, Role::Local);
        assert!(
            found.starts_with("1:12: server: ") && found.contains(expected),
            "{host}: {found}"
        );
    }
}

#[test]
fn two_cannot_listen_at_one_address() {
    let text = r#"{"servers": [
        {"server": "::", "server_port": 1, "password": "p", "method": "aes-256-gcm"},
        {"server": "::", "server_port": 1, "password": "q", "method": "aes-256-gcm"}]}"#;
    assert!(
        failure(text, Role::Server).contains("TCP [::]:1 is already used by `servers[0].server`")
    );
    let split = r#"{"servers": [
        {"server": "::", "server_port": 1, "password": "p", "method": "aes-256-gcm", "mode": "tcp_only"},
        {"server": "::", "server_port": 1, "password": "q", "method": "aes-256-gcm", "mode": "udp_only"}]}"#;
    server(split);
    let found = failure(
        &with("\"local_port\": 1080, \"locals\": [{\"local_port\": 1080}]"),
        Role::Local,
    );
    assert!(
        found.contains("locals[0].local_port: TCP 127.0.0.1:1080 is already used by `local_port`"),
        "{found}"
    );
}

#[test]
fn no_error_quotes_a_password() {
    for text in [
        r#"{"server": "h", "server_port": 1, "method": "aes-256-gcm", "password": ["hunter2"]}"#,
        r#"{"server": "h", "server_port": 1, "method": "aes-256-gcm", "password": 2.5}"#,
        r#"{"server": "h", "server_port": "hunter2", "method": "aes-256-gcm", "password": "x"}"#,
        r#"{"server": "h", "server_port": 1, "method": "2022-blake3-aes-128-gcm", "password": "hunter2"}"#,
        r#"{"server": "h", "server_port": 1, "method": "aes-256-gcm", "password": "p", "users": "bob:hunter2"}"#,
        r#"{"server": "h", "method": "aes-256-gcm", "port_password": {"x": "hunter2", "1": [2.5]}}"#,
        r#"{"server": "h", "server_port": 1, "method": "aes-256-gcm", "servers": ["ss://aes-256-gcm:hunter2@h:1"]}"#,
        r#"{"server": "h", "server_port": 1, "password": "hunter2", "method": "hunter", "password": "hunter2"}"#,
    ] {
        let found = failure(text, Role::Server);
        assert!(
            !found.contains("hunter2") && !found.contains("2.5"),
            "{found}"
        );
    }
}

#[test]
fn dns_errors_have_a_place() {
    for (value, part) in [
        ("\"google_h3\"", "HTTP/3"),
        ("\"unix:///x\"", ""),
        ("\"not an address\"", ""),
        ("5", ""),
    ] {
        let found = failure(&with(&format!("\"dns\": {value}")), Role::Server);
        assert!(
            found.starts_with("1:95: dns: ") && found.contains(part),
            "{found}"
        );
    }
}

#[test]
fn keys_without_effect_say_so() {
    let config = server(&with(
        "\"use_syslog\": true, \"workdir\": \"/tmp\", \"dscp\": {\"1\": \"EF\"}",
    ));
    assert_eq!(config.warnings.len(), 3);
    assert!(
        config
            .warnings
            .iter()
            .all(|finding| finding.severity == Severity::Warning)
    );
    assert!(
        failure(&with("\"auth\": true"), Role::Server)
            .contains("auth: one-time authentication was withdrawn")
    );
}

#[test]
fn findings_are_bounded() {
    let many: Vec<String> = (0..5000)
        .map(|index| format!("\"k{index}\": [{{}}]"))
        .collect();
    let found = parse(&format!("{{{}}}", many.join(",")), Role::Local, &no_env).unwrap_err();
    assert!(found.len() <= 101, "{}", found.len());
    for open in ["[", "{\"dns\":", "{\"servers\":[{\"users\":"] {
        for depth in [100, 100_000] {
            failure(&open.repeat(depth), Role::Local);
        }
    }
    let bad = format!(r#"{{"servers": [{}]}}"#, vec!["5"; 20_000].join(","));
    assert!(parse(&bad, Role::Local, &no_env).is_err());
}

/// Each value of `reverse` is refused at the path with the words.
fn reverse_is_refused(role: Role, cases: &[(&str, &str, &str)]) {
    for (value, path, words) in cases {
        let found = failure(&with(&format!("\"reverse\": {value}")), role);
        let fits = found.contains(&format!("reverse{path}: ")) && found.contains(words);
        assert!(fits, "{value}: {found}");
    }
}

#[test]
fn what_is_wrong_with_a_service_is_said_where_it_is() {
    let good = r#""name": "a", "bind": ":1", "target": "b:1""#;
    let service = |more: &str| format!("[{{{good}, {more}}}]");
    let cases = [
        ("[{}]".to_owned(), "[0].name", "missing"),
        (
            format!("[{{{good}}}, {{{good}}}]"),
            "[1].name",
            "another service is already named",
        ),
        (
            service(r#""protocol": "ftp""#),
            "[0].protocol",
            "`tcp`, `udp` or `http`",
        ),
        (service(r#""protocol": "http""#), "[0].host", "missing"),
        (
            service(r#""proxy_protocol": "v3""#),
            "[0].proxy_protocol",
            "`v1` or `v2`",
        ),
        (service(r#""bindd": 1"#), "[0].bindd", "bind"),
        (
            r#"[{"name": "a", "bind": "x:1", "target": "b:1"}]"#.to_owned(),
            "[0].bind",
            "IP address",
        ),
        (r#"{"links": 0}"#.to_owned(), ".links", "1 to 64"),
    ];
    let cases: Vec<_> = cases
        .iter()
        .map(|(value, path, words)| (value.as_str(), *path, *words))
        .collect();
    reverse_is_refused(Role::Local, &cases);
}

#[test]
fn what_is_wrong_with_a_grant_is_said_where_it_is() {
    reverse_is_refused(
        Role::Server,
        &[
            (r#"{"heartbeat": 0}"#, ".heartbeat", "1 to 3600"),
            (
                r#"{"allow": [{"bind": "0.0.0.0:7-6"}]}"#,
                ".allow[0].bind",
                "range of ports",
            ),
            (
                r#"{"allow": [{"bind": "*:6", "host": "a.*"}]}"#,
                ".allow[0].host",
                "pattern",
            ),
            (r#"{"allow": [{}]}"#, ".allow[0].bind", "missing"),
        ],
    );
}

#[test]
fn a_balancer_is_checked() {
    for (written, expected) in [
        (
            r#"{"max_server_rtt": 0}"#,
            "balancer.max_server_rtt: must be at least 1 second",
        ),
        (
            r#"{"check_interval": 5, "check_best_interval": 6}"#,
            "balancer.check_best_interval: must not be longer",
        ),
        (
            r#"{"strategy": "fastest"}"#,
            "balancer.strategy: unknown strategy",
        ),
        (
            r#"{"strategy": "hash", "hash_by": "port"}"#,
            "balancer.hash_by: unknown value",
        ),
        (
            r#"{"probe": false}"#,
            "balancer.probe: the strategy `latency` needs probes",
        ),
        (
            r#"{"probe": "http://example.com/"}"#,
            "balancer.probe: not a target",
        ),
    ] {
        let text = with(&format!("\"balancer\": {written}"));
        let found = failure(&text, Role::Local);
        assert!(found.contains(expected), "{written}: {found}");
    }
    let balancer = |written: &str| local(&with(&format!("\"balancer\": {written}"))).balancer;
    for off in ["null", "false"] {
        assert_eq!(balancer(off), None);
    }
    let probe = balancer("true").unwrap().probe.unwrap();
    let shown = format!("{}{}", probe.target, probe.path);
    assert_eq!(shown, "detectportal.firefox.com:80/success.txt");
    assert_eq!((probe.longest.as_secs(), probe.interval.as_secs()), (5, 10));
    assert_eq!(balancer("{}"), balancer("true"));
}
