//! `ss://` URLs (SIP002), in the three forms that are in use.
//!
//! ```text
//! ss://method:password@host:port/?plugin=…#name        percent-encoded; what AEAD-2022 requires
//! ss://base64url(method:password)@host:port/?…#name    SIP002
//! ss://base64(method:password@host:port)#name          the form before SIP002
//! ```

use std::str::FromStr;

use ::base64::Engine as _;
use ::base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use crate::crypto::{self, Family, Method};
use crate::wire::address::Address;

use super::secret::Secret;

/// What is escaped: everything but the unreserved characters (RFC 3986 §2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The port of a URL without one, as in shadowsocks-rust.
const DEFAULT_PORT: u16 = 8388;

/// The parts of a URL; method and password are not validated yet.
#[derive(Clone, Debug)]
pub struct ServerUrl {
    /// Where the server is.
    pub address: Address,
    /// The method's name.
    pub method: String,
    /// The password, or keys.
    pub password: Secret,
    /// The `plugin` parameter: program, then options after `;`.
    pub plugin: Option<String>,
    /// The tag after `#`.
    pub name: Option<String>,
}

/// What is wrong with an `ss://` URL. No variant quotes it, because it holds a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("not an `ss://` URL")]
    Scheme,
    /// A `%` without two hex digits, or bytes that are not UTF-8.
    #[error("bad percent-encoding in the URL's {0}")]
    Percent(&'static str),
    /// Neither `method:password` nor base64 of it.
    #[error("the part before `@` is neither `method:password` nor base64 of it")]
    UserInfo,
    /// Host or port.
    #[error("the URL's address is not `host:port`")]
    Address,
}

impl ServerUrl {
    /// The URL in the form of SIP002. It holds the password.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<String> {
        let (method, password) = (&self.method, self.password.expose());
        let modern = |method: Method| method.family() == Family::Aead2022;
        let userinfo = match method.parse::<Method>().is_ok_and(modern) {
            true => format!("{method}:{}", utf8_percent_encode(password, ESCAPED)),
            false => {
                let plain = Zeroizing::new(format!("{method}:{password}"));
                URL_SAFE_NO_PAD.encode(plain.as_bytes())
            }
        };
        let mut url = Zeroizing::new(format!("ss://{userinfo}@{}", self.address));
        if let Some(plugin) = &self.plugin {
            let plugin = utf8_percent_encode(plugin, ESCAPED).to_string();
            url.push_str("/?plugin=");
            url.push_str(&plugin);
        }
        if let Some(name) = &self.name {
            url.push('#');
            url.push_str(&utf8_percent_encode(name, ESCAPED).to_string());
        }
        url
    }
}

impl FromStr for ServerUrl {
    type Err = UrlError;

    /// Parses any of the three forms.
    ///
    /// # Errors
    /// [`UrlError`] says which part is wrong.
    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.trim().split_once("://").ok_or(UrlError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("ss") {
            return Err(UrlError::Scheme);
        }
        let (rest, tag) = cut(rest, '#');
        let (rest, query) = cut(rest, '?');
        let rest = rest.trim_end_matches('/');
        let legacy;
        let (userinfo, host) = match rest.rsplit_once('@') {
            Some((userinfo, host)) => (user_info(userinfo)?, host),
            None => {
                legacy = base64(rest).ok_or(UrlError::UserInfo)?;
                let (userinfo, host) = legacy.rsplit_once('@').ok_or(UrlError::UserInfo)?;
                (userinfo.to_owned(), host)
            }
        };
        let (method, password) = userinfo.split_once(':').ok_or(UrlError::UserInfo)?;
        Ok(Self {
            address: address(host)?,
            method: method.to_owned(),
            password: Secret::from(password.to_owned()),
            plugin: plugin(query)?,
            name: match percent(tag, "tag")? {
                name if name.is_empty() => None,
                name => Some(name),
            },
        })
    }
}

/// `method:password`, from either spelling: base64 has no `:`.
fn user_info(text: &str) -> Result<String, UrlError> {
    match text.split_once(':') {
        Some((method, password)) => Ok(format!(
            "{}:{}",
            percent(method, "method")?,
            percent(password, "password")?
        )),
        None => base64(&percent(text, "userinfo")?).ok_or(UrlError::UserInfo),
    }
}

fn address(host: &str) -> Result<Address, UrlError> {
    let host = percent(host, "host")?;
    let whole = match host.parse() {
        Ok(address) => return Ok(address),
        Err(_) => format!("{host}:{DEFAULT_PORT}"),
    };
    // A port that is there but wrong must not become a part of the name.
    match host.ends_with(']') || !host.contains(':') {
        true => whole.parse().map_err(|_| UrlError::Address),
        false => Err(UrlError::Address),
    }
}

fn plugin(query: &str) -> Result<Option<String>, UrlError> {
    let found = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("plugin="))
        .unwrap_or_default();
    let plugin = percent(&found.replace('+', " "), "query")?;
    Ok(Some(plugin).filter(|plugin| !plugin.is_empty()))
}

/// Splits at the first `mark`; the second part is empty if there is none.
fn cut(text: &str, mark: char) -> (&str, &str) {
    text.split_once(mark).unwrap_or((text, ""))
}

/// Decodes base64 in either alphabet, padded or not, to text.
fn base64(text: &str) -> Option<String> {
    String::from_utf8(crypto::base64::decode(text)?.to_vec()).ok()
}

/// Decodes percent-encoding (RFC 3986 §2.1).
pub(super) fn percent(text: &str, part: &'static str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest
            .split_first_chunk::<2>()
            .ok_or(UrlError::Percent(part))?;
        let digit = |digit: u8| {
            char::from(digit)
                .to_digit(16)
                .and_then(|value| u8::try_from(value).ok())
        };
        match digits.map(digit) {
            [Some(high), Some(low)] => bytes.push(high << 4 | low),
            _ => return Err(UrlError::Percent(part)),
        }
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| UrlError::Percent(part))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn url(text: &str) -> ServerUrl {
        text.parse().unwrap()
    }

    #[test]
    fn reads_the_examples_of_sip002() {
        let one = url("ss://YWVzLTEyOC1nY206dGVzdA@192.168.100.1:8888#Example1");
        assert_eq!(one.address.to_string(), "192.168.100.1:8888");
        assert_eq!(
            (one.method.as_str(), one.password.expose()),
            ("aes-128-gcm", "test")
        );
        assert_eq!(one.name.as_deref(), Some("Example1"));

        let two = url(
            "ss://cmM0LW1kNTpwYXNzd2Q@192.168.100.1:8888/?plugin=obfs-local%3Bobfs%3Dhttp#Example2",
        );
        assert_eq!(
            (two.method.as_str(), two.password.expose()),
            ("rc4-md5", "passwd")
        );
        assert_eq!(two.plugin.as_deref(), Some("obfs-local;obfs=http"));
    }

    #[test]
    fn reads_percent_encoded_2022_keys() {
        let url = url(
            "ss://2022-blake3-aes-256-gcm:YctPZ6U7xPPcU%2Bgp3u%2B0tx%2FtRizJN9K8y%2BuKlW2qjlI%3D@[::1]:8888/#Example%203",
        );
        assert_eq!(
            url.password.expose(),
            "YctPZ6U7xPPcU+gp3u+0tx/tRizJN9K8y+uKlW2qjlI="
        );
        assert_eq!(url.address.to_string(), "[::1]:8888");
        assert_eq!(url.name.as_deref(), Some("Example 3"));
    }

    #[test]
    fn reads_the_form_before_sip002() {
        // bf-cfb:test/!@#:@192.168.100.1:8888, the example of the old document
        let url = url("ss://YmYtY2ZiOnRlc3QvIUAjOkAxOTIuMTY4LjEwMC4xOjg4ODg#example-server");
        assert_eq!(
            (url.method.as_str(), url.password.expose()),
            ("bf-cfb", "test/!@#:")
        );
        assert_eq!(url.address.to_string(), "192.168.100.1:8888");
        assert_eq!(url.name.as_deref(), Some("example-server"));
    }

    #[test]
    fn reads_padded_and_escaped_base64() {
        let url = url("ss://YWVzLTI1Ni1nY206cGFzc3dvcmQ%3D@example.com");
        assert_eq!(
            (url.method.as_str(), url.password.expose()),
            ("aes-256-gcm", "password")
        );
        assert_eq!(url.address.to_string(), "example.com:8388");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let with_all = ServerUrl {
            address: "[2001:db8::1]:443".parse().unwrap(),
            method: "2022-blake3-aes-256-gcm".to_owned(),
            password: Secret::from("a+b/c=:d+/=".to_owned()),
            plugin: Some("v2ray-plugin;tls;host=a.example;path=/a b".to_owned()),
            name: Some("Zürich #1 / 50%".to_owned()),
        };
        let bare = ServerUrl {
            address: "example.com:8388".parse().unwrap(),
            method: "aes-256-gcm".to_owned(),
            password: Secret::from("p@ss:wörd".to_owned()),
            plugin: None,
            name: None,
        };
        for one in [with_all, bare] {
            let text = one.encode();
            assert!(text.is_ascii(), "{}", *text);
            let again = url(&text);
            assert_eq!(again.address, one.address);
            assert_eq!(again.method, one.method);
            assert_eq!(again.password.expose(), one.password.expose());
            assert_eq!((again.plugin, again.name), (one.plugin, one.name));
            let oracle: shadowsocks::ServerConfig = match one.method.starts_with("2022") {
                // The other implementation checks the keys.
                true => continue,
                false => shadowsocks::ServerConfig::from_url(&text).unwrap(),
            };
            assert_eq!(oracle.password(), one.password.expose());
            assert_eq!(*text, oracle.to_url());
        }
    }

    #[test]
    fn says_which_part_is_wrong() {
        for (text, error) in [
            ("http://x", UrlError::Scheme),
            ("nothing", UrlError::Scheme),
            ("ss://!!!@host:1", UrlError::UserInfo),
            (
                "ss://aes-128-gcm:p%zz@host:1",
                UrlError::Percent("password"),
            ),
            ("ss://aes-128-gcm:p@host:99999", UrlError::Address),
            ("ss://aes-128-gcm:p@", UrlError::Address),
            ("ss://", UrlError::UserInfo),
        ] {
            assert_eq!(text.parse::<ServerUrl>().unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn debug_hides_the_password() {
        let shown = format!("{:?}", url("ss://aes-128-gcm:hunter2@host:1"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
