//! Limits of users.

use super::*;
use crate::crypto::{Key, Method};
use crate::relay::users::{Limits, Period};

fn with_user(keys: &str) -> String {
    format!(
        r#"{{"server": "::", "server_port": 8388, "method": "2022-blake3-aes-256-gcm", "password": "{KEY}",
            "users": [{{"name": "ann", "password": "{USER_KEY}", {keys}}}]}}"#
    )
}

#[test]
fn limits_are_what_the_keys_say() {
    let limits = |keys: &str| server(&with_user(keys)).servers[0].users[0].limits;
    let none = Limits::default();
    let quota = |bytes, period| Limits {
        quota: Some((bytes, period)),
        ..none
    };
    for (keys, expected) in [
        (r#""server": null"#, none),
        (
            r#""rate_limit": 1000"#,
            Limits {
                rate: Some(1000),
                ..none
            },
        ),
        (r#""quota_bytes": 5"#, quota(5, Period::Monthly(1))),
        (
            r#""quota_bytes": 5, "quota_day": 31"#,
            quota(5, Period::Monthly(31)),
        ),
        (
            r#""quota_bytes": "5", "quota_period": "daily""#,
            quota(5, Period::Daily),
        ),
        (
            r#""quota_bytes": 5, "quota_period": "once""#,
            quota(5, Period::Once),
        ),
        (
            r#""max_connections": 3, "max_ips": 2"#,
            Limits {
                max_connections: Some(3),
                max_ips: Some(2),
                ..none
            },
        ),
        (
            r#""expires": "1970-01-02""#,
            Limits {
                expires: Some(86_400),
                ..none
            },
        ),
        (
            r#""expires": "1970-01-02T01:00:00+01:00""#,
            Limits {
                expires: Some(86_400),
                ..none
            },
        ),
    ] {
        assert_eq!(limits(keys), expected, "{keys}");
    }
}

#[test]
fn limits_that_mean_nothing_are_named() {
    for (keys, path, part) in [
        (
            r#""rate_limit": 0"#,
            "users[0].rate_limit",
            "at least 1 byte",
        ),
        (r#""max_ips": 0"#, "users[0].max_ips", "at least 1"),
        (
            r#""quota_bytes": 5, "quota_day": 32"#,
            "users[0].quota_day",
            "from 1 to 31",
        ),
        (
            r#""quota_bytes": 5, "quota_day": 0"#,
            "users[0].quota_day",
            "from 1 to 31",
        ),
        (
            r#""quota_bytes": 5, "quota_period": "weekly""#,
            "users[0].quota_period",
            "daily",
        ),
        (
            r#""expires": "tomorrow""#,
            "users[0].expires",
            "neither a date nor a time",
        ),
        (
            r#""expires": "2027-02-30""#,
            "users[0].expires",
            "neither a date nor a time",
        ),
    ] {
        let found = failure(&with_user(keys), Role::Server);
        assert!(found.contains(path) && found.contains(part), "{found}");
    }
    for (keys, path) in [
        (r#""quota_day": 5"#, "users[0].quota_day"),
        (r#""quota_period": "daily""#, "users[0].quota_period"),
        (
            r#""quota_bytes": 5, "quota_period": "daily", "quota_day": 2"#,
            "users[0].quota_day",
        ),
    ] {
        let config = server(&with_user(keys));
        assert!(shown(&config.warnings).contains(path), "{keys}");
    }
}

/// A server with users of a method whose requests do not say whose they are.
fn by_trial(keys: &str) -> String {
    format!(
        r#"{{"server": "192.0.2.1", "server_port": 8388, "local_port": 1, "method": "aes-128-gcm", {keys}}}"#
    )
}

#[test]
fn users_of_older_methods_have_passwords_and_the_server_none() {
    let users =
        r#""users": [{"name": "ann", "password": "anns"}, {"name": "bob", "password": "bobs"}]"#;
    let found = server(&by_trial(users));
    assert!(found.warnings.is_empty(), "{}", shown(&found.warnings));
    let keys = |password: &str| Key::from_password(Method::Aes128Gcm, password.as_bytes());
    let users_of = |config: &Config| {
        let users = config.servers[0].users.iter();
        users.map(|user| user.key.clone()).collect::<Vec<_>>()
    };
    assert_eq!(users_of(&found), [keys("anns"), keys("bobs")]);
    let found = server(&by_trial(&format!(r#""password": "unused", {users}"#)));
    let said = shown(&found.warnings);
    assert!(said.contains("password: no effect: with `users`"), "{said}");
    for (password, expected, says) in [
        ("", "anns", true),
        (r#""password": "bobs","#, "bobs", false),
        (r#""password": "neither","#, "anns", true),
    ] {
        let found = local(&by_trial(&format!("{password} {users}")));
        let used = &found.servers[0].keys;
        assert!(
            used.identity.is_empty() && used.key == keys(expected),
            "{password}"
        );
        let said = shown(&found.warnings);
        assert_eq!(said.contains("connects as `ann`"), says, "{said}");
    }
}

#[test]
fn users_of_older_methods_that_cannot_be_are_named() {
    for (user, path, part) in [
        (
            r#"{"name": "b", "password": ""}"#,
            "users[1].password",
            "is empty",
        ),
        (
            r#"{"name": "b"}"#,
            "users[1].password",
            "missing: the user's password",
        ),
        (
            r#"{"name": "b", "password": "anns"}"#,
            "users[1].password",
            "already has this password",
        ),
        (
            r#"{"name": "b", "password": "c", "server": "192.0.2.2", "server_port": 1}"#,
            "users[1].server",
            "cannot relay a user",
        ),
    ] {
        let users = format!(r#""users": [{{"name": "ann", "password": "anns"}}, {user}]"#);
        let found = failure(&by_trial(&users), Role::Server);
        assert!(found.contains(path) && found.contains(part), "{found}");
    }
}

#[test]
fn only_users_of_a_server_share_fairly() {
    let text = with_user(r#""max_ips": 2"#).replacen('{', r#"{"fair": true, "local_port": 1, "#, 1);
    assert!(server(&text).fair);
    assert!(!server(&with_user(r#""max_ips": 2"#)).fair);
    let text = text.replacen("\"::\"", "\"192.0.2.1\"", 1);
    let found = local(&text);
    let said = shown(&found.warnings);
    assert!(
        !found.fair && said.contains("fair: no effect here"),
        "{said}"
    );
}
