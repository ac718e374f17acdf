//! The header fields of a head.

use httparse::Header;

use super::super::http_strict::{trim, words};

/// Fields that are meant for the next hop only (RFC 9110 §7.6.1), with those that browsers still send to proxies.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "te",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-authentication-info",
];

/// The fields of a head.
pub(super) struct Fields<'a>(pub(super) &'a [Header<'a>]);

impl<'a> Fields<'a> {
    /// The values of all fields with this name.
    pub(super) fn all(&self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .filter_map(|field| std::str::from_utf8(field.value).ok())
            .map(trim)
    }

    /// Whether a field is a list that contains this word.
    pub(super) fn has_token(&self, name: &'a str, token: &str) -> bool {
        self.all(name)
            .flat_map(words)
            .any(|word| word.eq_ignore_ascii_case(token))
    }

    /// Whether a field with this name has a value that is not text.
    pub(super) fn has_unreadable(&self, name: &str) -> bool {
        self.0.iter().any(|field| {
            field.name.eq_ignore_ascii_case(name) && std::str::from_utf8(field.value).is_err()
        })
    }

    /// Whether the connection may be used for another message (RFC 9112 §9.3).
    pub(super) fn persists(&self, version: u8) -> bool {
        let says = |token| {
            self.has_token("connection", token) || self.has_token("proxy-connection", token)
        };
        if version == 0 {
            says("keep-alive")
        } else {
            !says("close")
        }
    }
}

/// Whether a field ends at this proxy. Fields that `Connection` names do, but for those that frame the message or name
/// its host, which a sender must not name there.
pub(super) fn is_hop_by_hop(field: &Header<'_>, fields: &Fields<'_>) -> bool {
    let is = |name: &&str| field.name.eq_ignore_ascii_case(name);
    let essential = ["content-length", "host", "transfer-encoding"];
    HOP_BY_HOP.iter().any(&is)
        || (fields.has_token("connection", field.name) && !essential.iter().any(is))
}

pub(super) fn write_field(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}
