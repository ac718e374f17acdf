//! `admin`.

use super::*;

fn with_admin(admin: &str) -> String {
    format!(
        r#"{{"server": "::", "server_port": 8388, "method": "2022-blake3-aes-256-gcm", "password": "{KEY}", "admin": {admin}}}"#
    )
}

#[test]
fn the_api_listens_on_loopback_unless_the_file_says_otherwise() {
    for (written, address) in [
        ("{}", "127.0.0.1:9080"),
        (r#"{"address": ""}"#, "127.0.0.1:9080"),
        (r#"{"address": "127.0.0.1:1234"}"#, "127.0.0.1:1234"),
        (r#"{"address": "::1"}"#, "[::1]:9080"),
        (r#"{"address": "[::1]:7"}"#, "[::1]:7"),
        (r#"{"address": "localhost"}"#, "localhost:9080"),
    ] {
        let admin = server(&with_admin(written)).admin.unwrap();
        assert_eq!(admin.address.to_string(), address, "{written}");
        assert!(admin.token.is_none());
    }
    let none = "{\"server\": \"::\", \"server_port\": 8388, \"method\": \"aes-256-gcm\", \"password\": \"p\"}";
    assert!(server(none).admin.is_none());
}

#[test]
fn an_address_that_others_can_reach_needs_tls_and_a_token() {
    for address in ["0.0.0.0", "[::]:9080", "192.0.2.1:9080", "admin.example"] {
        let found = failure(
            &with_admin(&format!(r#"{{"address": "{address}"}}"#)),
            Role::Server,
        );
        assert!(found.contains("admin.token: others can reach"), "{found}");
        assert!(found.contains("admin.tls: missing"), "{found}");
        let short = format!(r#"{{"address": "{address}", "token": "short"}}"#);
        let found = failure(&with_admin(&short), Role::Server);
        assert!(found.contains("at least 16 characters"), "{found}");
        assert!(!found.contains("short"), "{found}");
    }
    let whole =
        r#"{"address": "0.0.0.0", "token": "0123456789abcdef", "tls": {"cert": "c", "key": "k"}}"#;
    let admin = server(&with_admin(whole)).admin.unwrap();
    assert!(admin.tls.unwrap().identity.is_some());
    let found = failure(&with_admin(r#"{"tls": {"cert": "c"}}"#), Role::Server);
    assert!(found.contains("admin.tls.key: missing"), "{found}");
}

#[test]
fn a_token_must_fit_into_a_header_field() {
    let found = failure(&with_admin(r#"{"token": "two words"}"#), Role::Server);
    assert!(
        found.contains("admin.token: the token has characters"),
        "{found}"
    );
    assert!(!found.contains("two words"), "{found}");
    let found = failure(&with_admin(r#"{"address": "127.0.0.1:0"}"#), Role::Server);
    assert!(found.contains("port 0"), "{found}");
}
