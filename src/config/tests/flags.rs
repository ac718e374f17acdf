//! Flags over files, and files around files.

use std::time::Duration;

use super::*;
use crate::crypto::{Key, Method};

fn parsed(text: &str, role: Role, flags: &Overrides) -> Config {
    parse_with(text, role, &no_env, flags).unwrap_or_else(|found| panic!("{}", shown(&found)))
}

#[test]
fn a_server_of_flags_replaces_those_of_the_file() {
    let mut flags = Overrides::default();
    flags.server("[::1]:9999", Some("aes-128-gcm"), Some("q"));
    let file = r#"{"servers": [{"server": "a", "server_port": 1, "password": "p", "method": "aes-256-gcm"}], "no_delay": true}"#;
    let config = parsed(file, Role::Local, &flags);
    assert_eq!(config.servers.len(), 1);
    assert_eq!(config.servers[0].address.to_string(), "[::1]:9999");
    assert_eq!(config.servers[0].method, Method::Aes128Gcm);
    assert!(config.socket.no_delay, "the rest of the file stays");
}

#[test]
fn an_error_in_a_flag_names_the_flag() {
    let mut flags = Overrides::default();
    flags.server("example.com", Some("rc4"), None);
    flags.set("dns", "not an address", "--dns");
    flags.local("protocol", "gopher");
    flags.set("online_config.config_url", "x", "--online-config-url");
    let file = with("");
    let found = shown(&parse_with(&file, Role::Local, &no_env, &flags).unwrap_err());
    for part in [
        "--server-addr: missing: the server's port",
        "--encrypt-method: ",
        "--dns: ",
        "--local-addr: ",
        "--online-config-url: not a URL that can be downloaded",
    ] {
        assert!(found.contains(part), "no {part:?} in\n{found}");
    }
    let mut flags = Overrides::default();
    flags.server("example.com:1", Some("aes-256-gcm"), None);
    let found = shown(&parse_with("{}", Role::Local, &no_env, &flags).unwrap_err());
    assert!(found.starts_with("--password: missing"), "{found}");
}

#[test]
fn the_environment_has_the_password_of_a_server_of_flags() {
    let env = |name: &str| (name == "SS_SERVER_PASSWORD").then(|| "q".to_owned());
    let mut flags = Overrides::default();
    flags.server("example.com:1", Some("aes-256-gcm"), None);
    let config = parse_with("{}", Role::Server, &env, &flags).unwrap();
    let key = Key::from_password(Method::Aes256Gcm, b"q");
    assert_eq!(config.servers[0].keys.key.as_bytes(), key.as_bytes());
}

#[test]
fn a_url_is_a_server() {
    let mut flags = Overrides::default();
    flags
        .server_url("ss://YWVzLTEyOC1nY206dGVzdA@192.168.100.1:8888#Example1")
        .unwrap();
    let config = parsed("{}", Role::Local, &flags);
    assert_eq!(config.servers[0].name, "Example1");
    assert_eq!(config.servers[0].address.to_string(), "192.168.100.1:8888");
    let mut flags = Overrides::default();
    let url = "ss://YWVzLTEyOC1nY206dGVzdA@192.168.100.1:8888/?plugin=v2ray-plugin%3Bpath%3D%2Fx";
    flags.server_url(url).unwrap();
    let config = parsed("{}", Role::Local, &flags);
    let ws = config.servers[0].transport.clone().unwrap().ws.unwrap();
    assert_eq!(ws.endpoint.path, "/x");
}

#[test]
fn flags_go_over_keys() {
    let mut flags = Overrides::default();
    flags.local("local_address", "0.0.0.0");
    flags.local("local_port", 1234);
    flags.mode("udp_only", "-u");
    flags.set("log.level", 2, "-v");
    flags.set("log.format.without_time", true, "--log-without-time");
    flags.set("timeouts.idle", 7, "--timeout");
    flags.set("workers", 1, "--single-threaded");
    let file = with(
        r#""locals": [{"local_port": 1}, {"local_port": 2, "mode": "tcp_only"}], "mode": "tcp_only", "log": {"level": 0}"#,
    );
    let config = parsed(&file, Role::Local, &flags);
    assert_eq!(config.locals.len(), 1);
    assert_eq!(config.locals[0].address.to_string(), "0.0.0.0:1234");
    assert_eq!(config.locals[0].mode, Mode::UDP_ONLY);
    assert_eq!(config.servers[0].mode, Mode::UDP_ONLY);
    assert_eq!((config.log.level, config.log.without_time), (2, true));
    assert_eq!(config.timeouts.idle, Duration::from_secs(7));
    assert_eq!(config.workers, 1);
}

#[test]
fn a_mode_flag_goes_over_every_mode_of_the_file() {
    let mut flags = Overrides::default();
    flags.mode("tcp_and_udp", "-U");
    let file = r#"{"servers": [{"server": "a", "server_port": 1, "password": "p", "method": "aes-256-gcm", "mode": "tcp_only"}]}"#;
    assert_eq!(
        parsed(file, Role::Server, &flags).servers[0].mode,
        Mode::TCP_AND_UDP
    );
}

#[test]
fn load_reads_the_password_file_and_names_files_in_errors() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("local.json");
    let auth = directory.path().join("auth.json");
    let config = with(&format!(
        "\"locals\": [{{\"socks5_auth_config_path\": {auth:?}}}]"
    ));
    std::fs::write(&path, config).unwrap();
    let failing = |content: &str| {
        std::fs::write(&auth, content).unwrap();
        let found = load(Some(&path), Role::Local, &Overrides::default()).unwrap_err();
        shown(&found)
    };

    let missing = shown(&load(Some(&path), Role::Local, &Overrides::default()).unwrap_err());
    assert!(
        missing.contains("auth.json: cannot read the file"),
        "{missing}"
    );
    assert!(failing("{}").contains("auth.json: password.users: no users, so nobody could log in"));
    let wrong =
        failing("{\"password\":\n{\"users\": [{\"user_name\": 5, \"password\": \"hunter2\"}]}}");
    assert!(
        wrong.contains("auth.json:2:26: password.users[0].user_name: expected a string, found `5`"),
        "{wrong}"
    );
    let empty = failing(r#"{"password": {"users": [{"user_name": "", "password": "hunter2"}]}}"#);
    assert!(
        empty.contains("user_name: must have 1 to 255 bytes") && !empty.contains("hunter2"),
        "{empty}"
    );

    std::fs::write(
        &auth,
        r#"{"password": {"users": [{"user_name": "bob", "password": "hunter2"}]}}"#,
    )
    .unwrap();
    let config = load(Some(&path), Role::Local, &Overrides::default()).unwrap();
    let login = &config.locals[0].auth[0];
    assert_eq!(
        (login.user.as_str(), login.password.expose()),
        ("bob", "hunter2")
    );
    assert!(!format!("{config:?}").contains("hunter2"));

    std::fs::write(&path, "{\"auth\": true}").unwrap();
    let found = shown(&load(Some(&path), Role::Local, &Overrides::default()).unwrap_err());
    assert!(found.contains("local.json:1:2: auth: one-time"), "{found}");
}

#[test]
fn lookup_prefers_the_role_and_our_own_directory() {
    let places: Vec<String> = lookup_places(Role::Server)
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    assert_eq!(places[..2], ["server.json", "config.json"]);
    let ours = places
        .iter()
        .position(|place| place == "/etc/ssr/server.json")
        .unwrap();
    let theirs = places
        .iter()
        .position(|place| place == "/etc/shadowsocks-rust/server.json")
        .unwrap();
    assert!(ours < theirs);
}

#[test]
fn the_default_mode_of_another_program_gives_way_to_the_file() {
    let mut flags = Overrides::default();
    flags.default_mode("tcp_only");
    assert_eq!(
        parsed(&with(""), Role::Server, &flags).servers[0].mode,
        Mode::TCP_ONLY
    );
    let file = with(r#""mode": "udp_only""#);
    assert_eq!(
        parsed(&file, Role::Server, &flags).servers[0].mode,
        Mode::UDP_ONLY
    );
}

#[test]
fn the_user_is_read_from_file_and_flag() {
    let file = with(r#""user": "nobody""#);
    let mut flags = Overrides::default();
    let user = |flags: &Overrides| parsed(&file, Role::Server, flags).user;
    assert_eq!(user(&flags).as_deref(), Some("nobody"));
    flags.set("user", "daemon", "--user");
    assert_eq!(user(&flags).as_deref(), Some("daemon"));
}

#[test]
fn keys_of_libevs_other_programs_are_refused_but_by_libevs_ss_local() {
    let file = with(r#""tunnel_address": "a:1", "tcp_tproxy": true"#);
    let found = shown(&parse_with(&file, Role::Local, &no_env, &Overrides::default()).unwrap_err());
    for part in [
        "tunnel_address: it is for ss-tunnel",
        "tcp_tproxy: it is for ss-redir",
    ] {
        assert!(found.contains(part), "no {part:?} in\n{found}");
    }
    let mut libev = Overrides::default();
    libev.default_method("chacha20-ietf-poly1305");
    let config = parsed(&file, Role::Local, &libev);
    assert_eq!(shown(&config.warnings), "");
}
