//! The `dns` key of the config: which name servers to query.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use hickory_resolver::config::{CLOUDFLARE, GOOGLE, QUAD9, ResolverConfig, ServerGroup};
use serde::Deserialize;
use serde_json::Value;

use super::answer::Error;

use crate::limits::MAX_NAME_SERVERS;

/// Which name servers resolve names.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Source {
    /// Those of `/etc/resolv.conf`, or 8.8.8.8 and 8.8.4.4 if it has none.
    #[default]
    System,
    /// These, in this order.
    Servers(Vec<Server>),
    /// hickory's own configuration object, as in shadowsocks-rust: `{"name_servers": [..], "search": [..]}`.
    Hickory(Value),
}

/// One name server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its address. The zone of a link-local IPv6 address is ignored.
    pub address: SocketAddr,
    /// Its transport.
    pub transport: Transport,
}

/// The transport to a name server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// UDP, and TCP for answers that do not fit into a datagram.
    UdpTcp,
    /// UDP only; answers that do not fit into a datagram are lost.
    Udp,
    /// TCP only.
    Tcp,
    /// DNS over TLS (RFC 7858).
    Tls {
        /// The name or address that the certificate is for.
        server_name: String,
    },
    /// DNS over HTTPS (RFC 8484), over HTTP/2.
    Https {
        /// The name or address that the certificate is for, and the `:authority`.
        server_name: String,
        /// The path of the endpoint, such as `/dns-query`.
        path: String,
    },
}

/// A scheme in a server list.
#[derive(Clone, Copy)]
enum Scheme {
    UdpTcp,
    Udp,
    Tcp,
    Tls,
    Https,
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Self::UdpTcp | Self::Udp | Self::Tcp => 53,
            Self::Tls => 853,
            Self::Https => 443,
        }
    }
}

fn bad(message: impl Into<String>) -> Error {
    Error::Source(message.into())
}

/// Reads `system`, a provider (`google`, `cloudflare`, `quad9`, each also with `_tls` and `_https`), or a list:
///
/// ```text
/// [scheme://]address[:port][/path][#name],...      scheme: udp, tcp, tls, https
/// ```
///
/// As in shadowsocks-rust, a scheme applies until the next one; before the first, UDP is used with TCP as the fallback.
/// `#name` is the name that the certificate must be valid for; by default it is the provider's name for a known address,
/// else the address. `/path` is for https only and is `/dns-query` by default.
impl FromStr for Source {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text == "system" {
            return Ok(Self::System);
        }
        if let Some(servers) = provider(text)? {
            return Ok(Self::Servers(servers));
        }
        let mut scheme = Scheme::UdpTcp;
        let mut servers = Vec::new();
        for item in text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
        {
            let rest;
            (scheme, rest) = split_scheme(item, scheme)?;
            servers.push(server(rest, scheme)?);
        }
        Self::from_servers(servers)
    }
}

impl Source {
    /// Reads the `dns` key as written: a string as in [`FromStr`], or hickory's configuration object, in the form of
    /// hickory 0.26 or in the older one (`socket_addr`, `protocol`).
    ///
    /// # Errors
    ///
    /// [`Error::Source`], which says what is wrong and what is accepted.
    pub fn from_value(value: &Value) -> Result<Self, Error> {
        match value {
            Value::String(text) => text.parse(),
            Value::Object(_) => match legacy(value)? {
                Some(servers) => Self::from_servers(servers),
                None => hickory(value).map(|_| Self::Hickory(value.clone())),
            },
            _ => Err(bad(
                "expected a string, such as \"system\" or \"1.1.1.1,8.8.8.8\", or an object",
            )),
        }
    }

    fn from_servers(servers: Vec<Server>) -> Result<Self, Error> {
        match servers.len() {
            0 => Err(bad(
                "no name server given; use \"system\" for those of the system",
            )),
            1..=MAX_NAME_SERVERS => Ok(Self::Servers(servers)),
            count => Err(bad(format!(
                "too many name servers: {count}; at most {MAX_NAME_SERVERS} are allowed"
            ))),
        }
    }
}

/// The servers of a provider, if `text` is the name of one.
fn provider(text: &str) -> Result<Option<Vec<Server>>, Error> {
    let (base, suffix) = text.split_once('_').unwrap_or((text, ""));
    let group = match base {
        "google" => &GOOGLE,
        "cloudflare" => &CLOUDFLARE,
        "quad9" => &QUAD9,
        _ => return Ok(None),
    };
    let scheme = match suffix {
        "" => Scheme::UdpTcp,
        "tls" => Scheme::Tls,
        "https" => Scheme::Https,
        "h3" => {
            let hint = format!(
                "DNS over HTTP/3 is not supported; use \"{base}_https\", the same servers over HTTP/2"
            );
            return Err(bad(hint));
        }
        _ => {
            return Err(bad(format!(
                "unknown provider \"{text}\"; use \"{base}\", \"{base}_tls\" or \"{base}_https\""
            )));
        }
    };
    let server = |&ip: &IpAddr| Server {
        address: SocketAddr::new(ip, scheme.default_port()),
        transport: transport(scheme, group.server_name.to_owned(), group.path.to_owned()),
    };
    Ok(Some(group.ips.iter().map(server).collect()))
}

fn transport(scheme: Scheme, server_name: String, path: String) -> Transport {
    match scheme {
        Scheme::UdpTcp => Transport::UdpTcp,
        Scheme::Udp => Transport::Udp,
        Scheme::Tcp => Transport::Tcp,
        Scheme::Tls => Transport::Tls { server_name },
        Scheme::Https => Transport::Https { server_name, path },
    }
}

/// Splits the scheme off `item`; without one, `current` still applies.
fn split_scheme(item: &str, current: Scheme) -> Result<(Scheme, &str), Error> {
    let Some((name, rest)) = item.split_once("://") else {
        return Ok((current, item));
    };
    let scheme = match name {
        "udp" => Scheme::Udp,
        "tcp" => Scheme::Tcp,
        "tls" => Scheme::Tls,
        "https" => Scheme::Https,
        "unix" => {
            return Err(bad(
                "name servers on a Unix socket are not supported; use an address and a port",
            ));
        }
        "h3" | "quic" => {
            return Err(bad(format!(
                "{name}:// is not supported; use tls:// or https://"
            )));
        }
        _ => {
            return Err(bad(format!(
                "unknown scheme \"{name}://\"; use udp, tcp, tls or https"
            )));
        }
    };
    Ok((scheme, rest))
}

/// Reads `address[:port][/path][#name]`.
fn server(text: &str, scheme: Scheme) -> Result<Server, Error> {
    let (rest, name) = match text.split_once('#') {
        Some((rest, name)) => (rest, Some(name)),
        None => (text, None),
    };
    let (host, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    match scheme {
        Scheme::Https => {}
        _ if !path.is_empty() => {
            return Err(bad(format!("\"{text}\": only https:// takes a path")));
        }
        Scheme::Tls => {}
        _ if name.is_some() => {
            return Err(bad(format!(
                "\"{text}\": only tls:// and https:// take a \"#name\""
            )));
        }
        _ => {}
    }
    let address = address(host, scheme)?;
    let known = [&GOOGLE, &CLOUDFLARE, &QUAD9]
        .into_iter()
        .find(|group| group.ips.contains(&address.ip()));
    let server_name = match (name, known) {
        (Some(""), _) => return Err(bad(format!("\"{text}\": the name after \"#\" is missing"))),
        (Some(name), _) => name.to_owned(),
        (None, Some(ServerGroup { server_name, .. })) => (*server_name).to_owned(),
        // The `:authority` of "https://[v6]/" would need brackets, which a TLS name cannot have.
        (None, None) if address.is_ipv6() && matches!(scheme, Scheme::Https) => {
            return Err(bad(format!(
                "\"{text}\": https:// to an IPv6 address needs the server's name: \"https://{text}#dns.example\""
            )));
        }
        (None, None) => address.ip().to_string(),
    };
    let path = if path.is_empty() { "/dns-query" } else { path };
    Ok(Server {
        address,
        transport: transport(scheme, server_name, path.to_owned()),
    })
}

/// Reads `ip`, `ip:port`, `[ip]` or `[ip]:port`.
fn address(host: &str, scheme: Scheme) -> Result<SocketAddr, Error> {
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    let ip = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    match ip.parse() {
        Ok(ip) => Ok(SocketAddr::new(ip, scheme.default_port())),
        Err(_) => Err(bad(format!(
            "\"{host}\" is not an IP address; give name servers by address, with a name only for the certificate: \
             \"1.1.1.1\", \"8.8.8.8:53\", \"tls://1.1.1.1#cloudflare-dns.com\""
        ))),
    }
}

/// Reads hickory's configuration object.
pub(super) fn hickory(value: &Value) -> Result<ResolverConfig, Error> {
    let config = ResolverConfig::deserialize(value).map_err(|error| {
        bad(format!(
            "not a valid hickory resolver configuration: {error}"
        ))
    })?;
    match config.name_servers.len() {
        0 => Err(bad("\"name_servers\" is empty")),
        1..=MAX_NAME_SERVERS => Ok(config),
        count => Err(bad(format!(
            "too many name servers: {count}; at most {MAX_NAME_SERVERS} are allowed"
        ))),
    }
}

/// A `name_servers` entry in the form before hickory 0.26, found in older config files.
#[derive(Deserialize)]
struct LegacyServer {
    socket_addr: SocketAddr,
    protocol: String,
    #[serde(default)]
    tls_dns_name: Option<String>,
    #[serde(default)]
    http_endpoint: Option<String>,
}

/// Reads the servers of a configuration object in the older form; `None` if it is not in that form.
fn legacy(value: &Value) -> Result<Option<Vec<Server>>, Error> {
    let Some(Value::Array(entries)) = value.get("name_servers") else {
        return Ok(None);
    };
    if !entries
        .iter()
        .any(|entry| entry.get("socket_addr").is_some())
    {
        return Ok(None);
    }
    let mut servers: Vec<Server> = Vec::new();
    for entry in entries {
        let entry = LegacyServer::deserialize(entry)
            .map_err(|error| bad(format!("\"name_servers\": {error}")))?;
        let address = entry.socket_addr;
        let server_name = entry
            .tls_dns_name
            .unwrap_or_else(|| address.ip().to_string());
        let transport = match entry.protocol.as_str() {
            "udp" => Transport::Udp,
            "tcp" => Transport::Tcp,
            "tls" => Transport::Tls { server_name },
            "https" => {
                let path = entry
                    .http_endpoint
                    .unwrap_or_else(|| "/dns-query".to_owned());
                Transport::Https { server_name, path }
            }
            other => {
                return Err(bad(format!(
                    "protocol \"{other}\" is not supported; use udp, tcp, tls or https"
                )));
            }
        };
        // The older form lists one server twice, for UDP and for TCP.
        let other_half = servers.iter_mut().find(|server| {
            server.address == address
                && matches!(
                    (&server.transport, &transport),
                    (Transport::Udp, Transport::Tcp) | (Transport::Tcp, Transport::Udp)
                )
        });
        match other_half {
            Some(server) => server.transport = Transport::UdpTcp,
            None => servers.push(Server { address, transport }),
        }
    }
    Ok(Some(servers))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn servers(text: &str) -> Vec<Server> {
        match text.parse().unwrap() {
            Source::Servers(servers) => servers,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn refusal(text: &str) -> String {
        text.parse::<Source>().unwrap_err().to_string()
    }

    fn at(address: &str, transport: Transport) -> Server {
        Server {
            address: address.parse().unwrap(),
            transport,
        }
    }

    fn tls(name: &str) -> Transport {
        Transport::Tls {
            server_name: name.to_owned(),
        }
    }

    fn https(name: &str, path: &str) -> Transport {
        Transport::Https {
            server_name: name.to_owned(),
            path: path.to_owned(),
        }
    }

    #[test]
    fn system_is_system() {
        assert_eq!("system".parse(), Ok(Source::System));
        assert_eq!(Source::default(), Source::System);
    }

    #[test]
    fn providers_come_in_three_transports() {
        assert_eq!(servers("google")[0], at("8.8.8.8:53", Transport::UdpTcp));
        assert_eq!(
            servers("cloudflare_tls")[0],
            at("1.1.1.1:853", tls("cloudflare-dns.com"))
        );
        assert_eq!(
            servers("quad9_https")[0],
            at("9.9.9.9:443", https("dns.quad9.net", "/dns-query"))
        );
        assert!(
            servers("google")
                .iter()
                .any(|server| server.address.is_ipv6())
        );
    }

    #[test]
    fn plain_addresses_use_udp_then_tcp() {
        assert_eq!(
            servers("192.0.2.1, 192.0.2.2:5353,2001:db8::1,[2001:db8::2],[2001:db8::3]:54"),
            [
                at("192.0.2.1:53", Transport::UdpTcp),
                at("192.0.2.2:5353", Transport::UdpTcp),
                at("[2001:db8::1]:53", Transport::UdpTcp),
                at("[2001:db8::2]:53", Transport::UdpTcp),
                at("[2001:db8::3]:54", Transport::UdpTcp),
            ]
        );
    }

    #[test]
    fn scheme_applies_until_the_next() {
        assert_eq!(
            servers("tcp://192.0.2.1,192.0.2.2,udp://192.0.2.3"),
            [
                at("192.0.2.1:53", Transport::Tcp),
                at("192.0.2.2:53", Transport::Tcp),
                at("192.0.2.3:53", Transport::Udp),
            ]
        );
    }

    #[test]
    fn encrypted_servers_know_their_names() {
        assert_eq!(
            servers("tls://192.0.2.1")[0],
            at("192.0.2.1:853", tls("192.0.2.1"))
        );
        assert_eq!(
            servers("tls://[2001:db8::1]:8853#dns.example")[0],
            at("[2001:db8::1]:8853", tls("dns.example"))
        );
        assert_eq!(
            servers("tls://1.0.0.1")[0],
            at("1.0.0.1:853", tls("cloudflare-dns.com"))
        );
        assert_eq!(
            servers("https://192.0.2.1:8443/custom#dns.example")[0],
            at("192.0.2.1:8443", https("dns.example", "/custom"))
        );
        assert_eq!(
            servers("https://8.8.8.8")[0],
            at("8.8.8.8:443", https("dns.google", "/dns-query"))
        );
    }

    #[test]
    fn refuses_with_a_hint() {
        for (text, hint) in [
            ("google_h3", "google_https"),
            ("google_dot", "google_tls"),
            ("unix:///run/dns", "Unix socket"),
            ("quic://1.1.1.1", "tls://"),
            ("gopher://1.1.1.1", "udp, tcp, tls or https"),
            ("", "\"system\""),
            ("dns.google", "by address"),
            ("https://dns.google/dns-query", "by address"),
            ("1.1.1.1:99999", "by address"),
            ("1.1.1.1/dns-query", "only https://"),
            ("1.1.1.1#name", "only tls://"),
            ("tls://1.1.1.1#", "is missing"),
            ("https://[2001:db8::1]", "#dns.example"),
        ] {
            let refusal = refusal(text);
            assert!(refusal.contains(hint), "{text}: {refusal}");
        }
        assert!(refusal(&["192.0.2.1"; MAX_NAME_SERVERS + 1].join(",")).contains("too many"));
    }

    #[test]
    fn takes_both_forms_of_the_object() {
        let current = json!({"name_servers": [{"ip": "192.0.2.1", "connections": [{"protocol": {"type": "udp"}}]}]});
        assert_eq!(Source::from_value(&current), Ok(Source::Hickory(current)));

        let older = json!({"domain": null, "search": [], "name_servers": [
            {"socket_addr": "192.0.2.1:53", "protocol": "udp", "tls_dns_name": null, "trust_negative_responses": false},
            {"socket_addr": "192.0.2.1:53", "protocol": "tcp"},
            {"socket_addr": "192.0.2.2:853", "protocol": "tls", "tls_dns_name": "dns.example"},
        ]});
        let expected = vec![
            at("192.0.2.1:53", Transport::UdpTcp),
            at("192.0.2.2:853", tls("dns.example")),
        ];
        assert_eq!(Source::from_value(&older), Ok(Source::Servers(expected)));
    }

    #[test]
    fn refuses_objects_without_servers() {
        for value in [
            json!({"name_servers": []}),
            json!({"nameservers": ["1.1.1.1"]}),
            json!({"name_servers": [{"socket_addr": "192.0.2.1:853", "protocol": "quic"}]}),
            json!(53),
        ] {
            assert!(
                matches!(Source::from_value(&value), Err(Error::Source(_))),
                "{value}"
            );
        }
    }
}
