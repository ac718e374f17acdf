//! Names that `redir` looks for, and `fake-dns`.

use super::*;

fn redir(keys: &str) -> String {
    with(&format!("\"locals\": [{{\"protocol\": \"redir\"{keys}}}]"))
}

fn sniff(keys: &str) -> (Option<bool>, bool, String) {
    let config = local(&redir(keys));
    let Sniff { wanted, overrides } = config.locals[0].sniff;
    (wanted, overrides, shown(&config.warnings))
}

#[test]
fn names_are_looked_for_if_rules_ask_or_the_config_says() {
    for (keys, wanted, overrides) in [
        ("", None, false),
        (", \"sniff\": true", Some(true), false),
        (", \"sniff\": false", Some(false), false),
        (", \"sniff_override_destination\": true", Some(true), true),
    ] {
        let expected = (wanted, overrides, String::new());
        assert_eq!(sniff(keys), expected, "{keys}");
    }
}

#[test]
fn keys_of_names_without_effect_are_warned_of() {
    let keys = ", \"sniff\": false, \"sniff_override_destination\": true";
    let (.., warnings) = sniff(keys);
    assert!(
        warnings.contains("with `\"sniff\": false` no names are found"),
        "{warnings}"
    );
    let config = local(&with("\"locals\": [{\"sniff\": true}]"));
    let warnings = shown(&config.warnings);
    assert!(
        warnings.contains("locals[0].sniff: ") && warnings.contains("clients of `socks` say names"),
        "{warnings}"
    );
}

fn fake(keys: &str) -> String {
    with(&format!(
        "\"locals\": [{{\"protocol\": \"fake-dns\"{keys}}}]"
    ))
}

#[test]
fn fake_addresses_are_those_of_shadowsocks_rust() {
    let config = local(&fake(""));
    let entry = &config.locals[0];
    assert_eq!(entry.address.to_string(), "127.0.0.1:53");
    assert_eq!(entry.mode, Mode::TCP_AND_UDP);
    let found = entry.fake_dns.as_ref().unwrap();
    assert_eq!(found.names.v4.to_string(), "172.16.0.0/12");
    assert_eq!(found.names.v6.to_string(), "fc00::/7");
    assert_eq!(found.names.lifetime.as_secs(), 10);
    assert_eq!(found.file, Path::new("shadowsocks-fakedns.sled"));
    let keys = ", \"fake_dns_ipv4_network\": \"198.18.5.1/15\", \"fake_dns_ipv6_network\": \"fd00:1::/64\", \
        \"fake_dns_record_expire_duration\": 60, \"fake_dns_database_path\": \"/tmp/x\"";
    let config = local(&fake(keys));
    let found = config.locals[0].fake_dns.as_ref().unwrap();
    assert_eq!(found.names.v4.to_string(), "198.18.0.0/15");
    assert_eq!(found.names.v6.to_string(), "fd00:1::/64");
    assert_eq!(found.names.lifetime.as_secs(), 60);
    assert_eq!(found.file, Path::new("/tmp/x"));
}

#[test]
fn networks_that_cannot_be_used_are_refused() {
    for (key, value) in [
        ("fake_dns_ipv4_network", "fc00::/7"),
        ("fake_dns_ipv4_network", "10.0.0.0"),
        ("fake_dns_ipv6_network", "10.0.0.0/8"),
        ("fake_dns_ipv6_network", "fc00::/129"),
    ] {
        let found = failure(&fake(&format!(", \"{key}\": \"{value}\"")), Role::Local);
        let expected = format!("locals[0].{key}: `{value}`: not an IPv");
        assert!(found.contains(&expected), "{found}");
    }
    let zero = failure(
        &fake(", \"fake_dns_record_expire_duration\": 0"),
        Role::Local,
    );
    assert!(zero.contains("at least 1 second"), "{zero}");
}

#[test]
fn entries_share_names_or_have_networks_of_their_own() {
    let two = |keys: &str| {
        with(&format!(
            "\"locals\": [{{\"protocol\": \"fake-dns\"}}, \
             {{\"protocol\": \"fake-dns\", \"local_address\": \"::1\"{keys}}}]"
        ))
    };
    assert_eq!(local(&two("")).locals.len(), 2);
    let others =
        ", \"fake_dns_ipv4_network\": \"10.0.0.0/8\", \"fake_dns_ipv6_network\": \"fd00::/64\"";
    let file = ", \"fake_dns_database_path\": \"x\"";
    assert_eq!(local(&two(&format!("{others}{file}"))).locals.len(), 2);
    for (keys, what) in [(others, "file"), (file, "addresses")] {
        let found = failure(&two(keys), Role::Local);
        let expected = format!("`fake-dns` with the same {what} as `locals[0]`");
        assert!(found.contains(&expected), "{found}");
    }
}
