//! One line of a list or of an ACL file: a name, a network or a regular expression.

use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::IpNet;
use regex::bytes::{Regex, RegexBuilder};

use super::domains::Kind;
use super::engine::{BuildError, Builder};
use super::rule::Host;

/// A destination, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A name, or that and those below it.
    Domain(Kind, String),
    /// Names that contain this.
    Keyword(String),
    /// Names that match this somewhere.
    Regex(String),
    /// Addresses.
    Network(IpNet),
}

/// Regular expressions that shadowsocks-rust takes for a suffix (group 1) or an exact name (group 2).
static PLAIN_NAME: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let name = r"((?:[\w-]+(?:\\\.)?)+)";
    let any_label = r"(?:\((?:\?:)?\^\|\\\.\)|(?:\^\.[+*])?\\\.)";
    RegexBuilder::new(&format!(r"^(?:{any_label}{name}|\^{name})\$?$"))
        .unicode(false)
        .build()
        .ok()
});

impl Entry {
    /// Reads a rule of an ACL file: `1.2.3.4`, `10.0.0.0/8`, `|exact`, `||suffix`, or a regular expression.
    #[must_use]
    pub fn of_acl(line: &str) -> Self {
        if let Some(name) = line.strip_prefix("||") {
            return Self::Domain(Kind::Suffix, name.to_owned());
        }
        if let Some(name) = line.strip_prefix('|') {
            return Self::Domain(Kind::Exact, name.to_owned());
        }
        network(line).map_or_else(|| Self::of_regex(line), Self::Network)
    }

    fn of_regex(text: &str) -> Self {
        let found = PLAIN_NAME
            .as_ref()
            .and_then(|plain| plain.captures(text.as_bytes()));
        let name = |group| {
            let bytes = found.as_ref()?.get(group)?.as_bytes();
            Some(std::str::from_utf8(bytes).ok()?.replace("\\.", "."))
        };
        if let Some(name) = name(1) {
            return Self::Domain(Kind::Suffix, name);
        }
        if let Some(name) = name(2) {
            return Self::Domain(Kind::Exact, name);
        }
        Self::Regex(text.to_owned())
    }

    /// Reads a line of a plain list; `None`: it is empty or a comment. A bare name covers those below it. The prefixes
    /// of the lists that are in use are understood: `full:`, `domain:`, `keyword:`, `regexp:`, `||`, `|`, `+.`, `*.`,
    /// `.`, and Clash's `DOMAIN,`, `DOMAIN-SUFFIX,`, `DOMAIN-KEYWORD,`, `IP-CIDR,`, `IP-CIDR6,`.
    #[must_use]
    pub fn of_list(line: &str) -> Option<Self> {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', '!']) || line.starts_with("//") {
            return None;
        }
        let rest = |prefix: &str| {
            let rest = line.strip_prefix(prefix)?.trim_start();
            Some(
                rest.split([' ', '\t', ',', '#', '^'])
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
            )
        };
        let any = |prefixes: &[&str]| prefixes.iter().find_map(|prefix| rest(prefix));
        let suffix = |name| Self::Domain(Kind::Suffix, name);
        let exact = |name| Self::Domain(Kind::Exact, name);
        let entry = if let Some(text) = line.strip_prefix("regexp:") {
            Some(Self::Regex(text.trim().to_owned()))
        } else {
            any(&["full:", "DOMAIN,"])
                .map(exact)
                .or_else(|| any(&["keyword:", "DOMAIN-KEYWORD,"]).map(Self::Keyword))
                .or_else(|| any(&["domain:", "DOMAIN-SUFFIX,", "||", "+.", "*.", "."]).map(suffix))
                .or_else(|| rest("|").map(exact))
        };
        entry.or_else(|| {
            let text = any(&["IP-CIDR,", "IP-CIDR6,", ""])?;
            Some(network(&text).map_or_else(|| suffix(text.to_owned()), Self::Network))
        })
    }

    /// Adds the destination to the rule that was begun last.
    ///
    /// # Errors
    /// When a name is not a name.
    pub fn add_to(self, builder: &mut Builder) -> Result<(), BuildError> {
        match self {
            Self::Domain(kind, name) => builder.domain(kind, &name)?,
            Self::Keyword(text) => builder.keyword(&text),
            Self::Regex(text) => builder.regex(text),
            Self::Network(network) => builder.network(network),
        }
        Ok(())
    }

    /// Whether `host`, or one of its `addresses`, is meant. Slow: it serves to say which line of a file decided.
    #[must_use]
    pub fn covers(&self, host: Host<'_>, addresses: &[IpAddr]) -> bool {
        let contains = |network: &IpNet, ip: &IpAddr| network.contains(&ip.to_canonical());
        match (self, host) {
            (Self::Network(network), Host::Ip(ip) | Host::Claimed(_, ip)) => contains(network, &ip),
            (Self::Network(network), Host::Domain(_)) => {
                addresses.iter().any(|ip| contains(network, ip))
            }
            (_, Host::Ip(_)) => false,
            (entry, Host::Domain(name) | Host::Claimed(name, _)) => {
                let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
                match entry {
                    Self::Domain(kind, rule) => {
                        let rule = rule.strip_suffix('.').unwrap_or(rule).to_ascii_lowercase();
                        let above = name.strip_suffix(&rule);
                        above.is_some_and(|above| {
                            above.is_empty() || (*kind == Kind::Suffix && above.ends_with('.'))
                        })
                    }
                    Self::Keyword(text) => name.contains(&text.to_ascii_lowercase()),
                    Self::Regex(text) => RegexBuilder::new(text)
                        .case_insensitive(true)
                        .unicode(false)
                        .build()
                        .is_ok_and(|regex| regex.is_match(name.as_bytes())),
                    Self::Network(_) => false,
                }
            }
        }
    }
}

/// A network, or a single address as one.
#[must_use]
pub fn network(text: &str) -> Option<IpNet> {
    let text = text.trim();
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn suffix(name: &str) -> Entry {
        Entry::Domain(Kind::Suffix, name.to_owned())
    }

    fn exact(name: &str) -> Entry {
        Entry::Domain(Kind::Exact, name.to_owned())
    }

    #[test]
    fn acl_lines_are_read_as_by_shadowsocks_rust() {
        for (line, entry) in [
            ("||example.com", suffix("example.com")),
            ("|example.com", exact("example.com")),
            (r"(^|\.)gmail\.com$", suffix("gmail.com")),
            (r"(?:^|\.)gmail\.com$", suffix("gmail.com")),
            (r"\.gmail\.com$", suffix("gmail.com")),
            (r"^.+\.gmail\.com$", suffix("gmail.com")),
            (r"^www\.gmail\.com$", exact("www.gmail.com")),
            (r"^ads?\d+\.", Entry::Regex(r"^ads?\d+\.".to_owned())),
            ("10.0.0.0/8", Entry::Network("10.0.0.0/8".parse().unwrap())),
            ("::1", Entry::Network("::1/128".parse().unwrap())),
        ] {
            assert_eq!(Entry::of_acl(line), entry, "{line}");
        }
    }

    #[test]
    fn list_lines_of_all_kinds_are_read() {
        for (line, entry) in [
            ("example.com", Some(suffix("example.com"))),
            ("  example.com  # why", Some(suffix("example.com"))),
            ("full:a.example", Some(exact("a.example"))),
            ("domain:b.example @cn", Some(suffix("b.example"))),
            ("keyword:track", Some(Entry::Keyword("track".to_owned()))),
            ("regexp:^a, b$", Some(Entry::Regex("^a, b$".to_owned()))),
            ("+.c.example", Some(suffix("c.example"))),
            ("||d.example^", Some(suffix("d.example"))),
            ("DOMAIN-SUFFIX,e.example", Some(suffix("e.example"))),
            (
                "IP-CIDR,10.0.0.0/8,no-resolve",
                Some(Entry::Network("10.0.0.0/8".parse().unwrap())),
            ),
            (
                "192.0.2.1",
                Some(Entry::Network("192.0.2.1/32".parse().unwrap())),
            ),
            ("# comment", None),
            ("", None),
            ("! comment", None),
        ] {
            assert_eq!(Entry::of_list(line), entry, "{line}");
        }
    }

    #[test]
    fn covers_says_what_the_index_says() {
        let name = Host::Domain("www.Example.com.");
        assert!(suffix("example.COM").covers(name, &[]));
        assert!(!exact("example.com").covers(name, &[]));
        assert!(!suffix("ample.com").covers(name, &[]));
        assert!(Entry::Keyword("Examp".to_owned()).covers(name, &[]));
        let network = Entry::Network("10.0.0.0/8".parse().unwrap());
        assert!(network.covers(name, &["10.1.1.1".parse().unwrap()]));
        assert!(network.covers(Host::Ip("::ffff:10.1.1.1".parse().unwrap()), &[]));
        assert!(!network.covers(name, &[]));
    }
}
