//! Parses the URLs of forwards: `tcp://`, `udp://`, `ws://`, `wss://` and `quic://`.

use crate::wire::address::Address;

use super::model::Scheme;
use crate::config::url::percent;

/// The parts of a URL, each well formed. Whether an option makes sense is checked later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EndpointUrl {
    pub(super) scheme: Scheme,
    pub(super) address: Address,
    /// The path with its leading `/`; empty if the URL has none.
    pub(super) path: String,
    /// The options after `?`, in order, decoded.
    pub(super) options: Vec<(String, String)>,
}

/// What is wrong with a URL, and what to do. It never quotes the value of an option: a header may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EndpointError {
    pub(super) message: String,
    pub(super) hint: String,
}

fn fail<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T, EndpointError> {
    Err(EndpointError {
        message: message.into(),
        hint: hint.into(),
    })
}

impl EndpointUrl {
    /// Parses `scheme://host:port[/path][?option=value&…]`.
    ///
    /// # Errors
    /// Which part is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, EndpointError> {
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once("://") else {
            return fail(
                "the URL has no scheme",
                "begin it with `tcp://`, `udp://`, `ws://`, `wss://` or `quic://`",
            );
        };
        let Some(scheme) = Scheme::from_name(&scheme.to_ascii_lowercase()) else {
            return fail(
                format!("unknown scheme `{scheme}`"),
                "use `tcp`, `udp`, `ws`, `wss`, `quic`, `http` or `https`",
            );
        };
        if rest.contains('#') {
            return fail(
                "the URL has a fragment (`#`)",
                "write a `#` that belongs to an option as `%23`",
            );
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let url = Self {
            scheme,
            address: address(scheme, host)?,
            path: path_of(scheme, path)?,
            options: options(query)?,
        };
        Ok(url)
    }
}

fn address(scheme: Scheme, text: &str) -> Result<Address, EndpointError> {
    if text.contains('@') {
        return fail(
            "the URL has a user name (`@`)",
            "remove it; for a login over HTTP, use the option `header`",
        );
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    if host.is_empty() {
        return fail(
            "the URL has no host",
            "for all addresses of this machine, use `0.0.0.0`, or `[::]` with IPv6",
        );
    }
    if port.is_none() && text.matches(':').count() > 1 && !text.ends_with(']') {
        return fail(
            "the URL's host is an IPv6 address without brackets",
            "write `[::1]:80`",
        );
    }
    let port = match (port, scheme.default_port()) {
        (Some(port), _) => match port.parse::<u16>() {
            Ok(port) => port,
            Err(_) => {
                return fail(
                    "the URL's port is not a number from 0 to 65535",
                    "write `host:port`",
                );
            }
        },
        (None, Some(port)) => port,
        (None, None) => {
            let name = scheme.name();
            return fail(
                "the URL has no port",
                format!("write `{name}://{host}:PORT`"),
            );
        }
    };
    let written = format!("{host}:{port}");
    written.parse().or_else(|_| {
        fail(
            "the URL's host is not a name or an IP address",
            "write `name:port`, `192.0.2.1:port` or `[2001:db8::1]:port`",
        )
    })
}

fn path_of(scheme: Scheme, path: &str) -> Result<String, EndpointError> {
    if !scheme.is_ws() && !matches!(path, "" | "/") {
        return fail(
            format!("a `{}` URL has no path", scheme.name()),
            "remove everything after the port",
        );
    }
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return fail(
            "the URL's path has a space or a character outside ASCII",
            "percent-encode it: a space is `%20`",
        );
    }
    // `%3F` is decoded here, because a bare `?` begins the options.
    Ok(path.replace("%3F", "?").replace("%3f", "?"))
}

fn options(query: &str) -> Result<Vec<(String, String)>, EndpointError> {
    let mut options = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (percent(name, "query"), percent(value, "query")) {
            (Ok(name), Ok(value)) => options.push((name, value)),
            _ => {
                return fail(
                    format!("bad percent-encoding in the URL's option `{name}`"),
                    "`%` must be followed by two hex digits, and the decoded bytes must be UTF-8",
                );
            }
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn url(text: &str) -> EndpointUrl {
        EndpointUrl::parse(text).unwrap()
    }

    #[test]
    fn takes_urls_apart() {
        let one = url("tcp://[::1]:9090");
        assert_eq!(
            (one.scheme, one.address.to_string()),
            (Scheme::Tcp, "[::1]:9090".to_owned())
        );
        let two = url("WSS://cdn.example/tunnel%3Fed=1?host=a.example&header=X-Key:%20a%26b");
        assert_eq!(two.address.to_string(), "cdn.example:443");
        assert_eq!(two.path, "/tunnel?ed=1");
        let options = [("host", "a.example"), ("header", "X-Key: a&b")];
        assert_eq!(
            two.options,
            options.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert_eq!(url("ws://a").address.port(), 80);
        assert_eq!(url("udp://0.0.0.0:0/").path, "/");
    }

    #[test]
    fn says_which_part_of_a_url_is_wrong() {
        for (text, part) in [
            ("127.0.0.1:80", "scheme"),
            ("ftp://a:1", "`ftp`"),
            ("tcp://a", "port"),
            ("tcp://a:99999", "port"),
            ("tcp://:80", "host"),
            ("tcp://::1:80", "brackets"),
            ("tcp://[::1", "brackets"),
            ("tcp://a b:80", "host"),
            ("tcp://u:p@a:80", "user name"),
            ("tcp://a:80/x", "path"),
            ("ws://a/x y", "path"),
            ("ws://a/x#y", "fragment"),
            ("ws://a/?host=%zz", "`host`"),
        ] {
            let error = EndpointUrl::parse(text).unwrap_err();
            assert!(error.message.contains(part), "{text}: {error:?}");
        }
    }
}
