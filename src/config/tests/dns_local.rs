//! `dns` locals.

use super::*;

fn dns(keys: &str) -> String {
    with(&format!(
        "\"mode\": \"tcp_only\", \"locals\": [{{\"protocol\": \"dns\"{keys}}}]"
    ))
}

/// The two name servers of a config: the direct one, and the one behind the server.
fn servers(keys: &str) -> (String, String) {
    let config = local(&dns(keys));
    assert_eq!(shown(&config.warnings), "");
    let found = config.locals[0].dns.clone().unwrap();
    let (local, remote) = (found.local, found.remote);
    let local = local.map_or_else(String::new, |server| server.to_string());
    (
        local,
        remote.map_or_else(String::new, |server| server.to_string()),
    )
}

#[test]
fn name_servers_are_those_of_shadowsocks_rust() {
    for (keys, direct, remote) in [
        ("", "", "8.8.8.8:53"),
        (", \"remote_dns_port\": 5353", "", "8.8.8.8:5353"),
        (
            ", \"remote_dns_address\": \"dns.example\"",
            "",
            "dns.example:53",
        ),
        (", \"local_dns_address\": \"192.0.2.1\"", "192.0.2.1:53", ""),
        (
            ", \"local_dns_address\": \"2001:db8::1\", \"local_dns_port\": 54, \"remote_dns_address\": \"9.9.9.9\"",
            "[2001:db8::1]:54",
            "9.9.9.9:53",
        ),
    ] {
        let expected = (direct.to_owned(), remote.to_owned());
        assert_eq!(servers(keys), expected, "{keys}");
    }
}

#[test]
fn defaults_are_those_of_dns() {
    let config = local(&dns(""));
    let entry = &config.locals[0];
    assert_eq!(entry.address.to_string(), "127.0.0.1:53");
    assert_eq!(entry.mode, Mode::TCP_AND_UDP);
    assert_eq!(entry.dns.as_ref().unwrap().streams, 5);
    let config = local(&dns(", \"mode\": \"udp_only\", \"client_cache_size\": 2"));
    assert_eq!(config.locals[0].mode, Mode::UDP_ONLY);
    assert_eq!(config.locals[0].dns.as_ref().unwrap().streams, 2);
    assert!(local(&with("")).locals[0].dns.is_none());
}

#[test]
fn what_cannot_be_asked_is_refused() {
    for (keys, found) in [
        (
            ", \"local_dns_address\": \"/run/dns.sock\"",
            "locals[0].local_dns_address: a unix socket cannot be asked",
        ),
        (
            ", \"local_dns_address\": \"dns.example\"",
            "locals[0].local_dns_address: must be the IP address",
        ),
        (
            ", \"local_dns_port\": 0",
            "locals[0].local_dns_port: port 0",
        ),
        (
            ", \"client_cache_size\": 0",
            "locals[0].client_cache_size: must be at least 1",
        ),
        (
            ", \"remote_dns_address\": \"tls://dns.example\"",
            "locals[0].remote_dns_address: a URL is not an address",
        ),
    ] {
        let shown = failure(&dns(keys), Role::Local);
        assert!(shown.contains(found), "{keys}: {shown}");
    }
}
