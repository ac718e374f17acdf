//! Downloads a document by HTTPS or HTTP: a list of servers, for example.
//!
//! It goes straight to its server: the usual environment variables for proxies are ignored, since they often name this very
//! program. Authorities are those that browsers trust, or those of the file in `SSL_CERT_FILE`.

use std::fmt;
use std::io::Read as _;
use std::time::Duration;

use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use crate::limits::{FETCH_TIMEOUT, MAX_REDIRECTS};
use crate::net::tls;

/// The document is read in pieces of so many bytes.
const PIECE: usize = 16 * 1024;

/// Why there is no document. The URL is in no message: it often is a secret.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL is none, or of another scheme.
    #[error("not a URL that can be fetched: use https://")]
    Url,
    /// The server answered with something else.
    #[error("the server answered with HTTP status {0}{hint}", hint = status_hint(*.0))]
    Status(u16),
    /// The document is too long.
    #[error("the document is longer than {0} bytes")]
    TooLong(u64),
    /// There was no document in time.
    #[error("not complete within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The name has no address.
    #[error("its name cannot be resolved")]
    Name,
    /// It redirects too often, to something else than https, or to nothing.
    #[error("the server redirects too often, or to a URL that is not https")]
    Redirect,
    /// No connection, or a broken one.
    #[error("{0}")]
    Connection(String),
    /// The certificate is not trusted, or TLS failed.
    #[error("TLS: {0}")]
    Tls(String),
    /// What came was not HTTP.
    #[error("the answer is not HTTP")]
    Http,
    /// The authorities cannot be used.
    #[error("SSL_CERT_FILE: {0}")]
    Authorities(String),
}

const fn status_hint(status: u16) -> &'static str {
    match status {
        401 | 403 => ": is the URL complete, and still valid?",
        404 | 410 => ": there is no such document any more",
        _ => "",
    }
}

/// Downloads the document at `url`, of at most `longest` bytes. `progress` hears how many bytes have come, and how many
/// there will be if that is known.
///
/// # Errors
/// [`FetchError`].
pub fn fetch(
    url: &str,
    longest: u64,
    mut progress: impl FnMut(u64, Option<u64>),
) -> Result<Vec<u8>, FetchError> {
    let is_https = has_scheme(url, "https://");
    if !is_https && !has_scheme(url, "http://") {
        return Err(FetchError::Url);
    }
    let config = ureq::Agent::config_builder()
        .tls_config(tls_config(false)?)
        .https_only(is_https)
        .proxy(None)
        .max_redirects(MAX_REDIRECTS)
        .timeout_global(Some(FETCH_TIMEOUT))
        .user_agent(concat!("ssr/", env!("CARGO_PKG_VERSION")))
        .build();
    let agent = ureq::Agent::new_with_config(config);
    let mut response = agent.get(url).call().map_err(reason)?;
    let status = response.status().as_u16();
    if status != 200 {
        return Err(FetchError::Status(status));
    }
    let expected = response.body().content_length();
    if expected.is_some_and(|length| length > longest) {
        return Err(FetchError::TooLong(longest));
    }
    let body = response.body_mut().with_config();
    let mut reader = body.limit(longest.saturating_add(1)).reader();
    let mut document = Vec::new();
    let mut piece = [0; PIECE];
    loop {
        let count = match reader.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => return Err(reason(ureq::Error::from(error)).or_too_long(longest)),
        };
        document.extend_from_slice(piece.get(..count).unwrap_or_default());
        let length = document.len() as u64;
        if length > longest {
            return Err(FetchError::TooLong(longest));
        }
        progress(length, expected);
    }
    if expected.is_some_and(|expected| expected != document.len() as u64) {
        let message = "the connection ended before the document was complete".to_owned();
        return Err(FetchError::Connection(message));
    }
    Ok(document)
}

/// What may be shown of a URL: where it leads, without the path and the login, which often are secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("", self.0));
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        let host: String = host.chars().filter(|letter| !letter.is_control()).collect();
        write!(f, "{scheme}://{host}/…")
    }
}

/// Whether a URL begins so, in whatever case.
#[must_use]
pub fn has_scheme(url: &str, scheme: &str) -> bool {
    url.get(..scheme.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

/// TLS of a client. `is_own`: the connection stays on this machine, where the certificate does not matter.
///
/// # Errors
/// [`FetchError::Authorities`].
pub fn tls_config(is_own: bool) -> Result<TlsConfig, FetchError> {
    let roots = match std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) {
        None => RootCerts::WebPki,
        Some(path) => {
            let pem = std::fs::read(path).map_err(|e| FetchError::Authorities(e.to_string()))?;
            let certificates = parse_pem(&pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            let certificates: Vec<_> = certificates.collect();
            if certificates.is_empty() {
                let message = "the file contains no certificate".to_owned();
                return Err(FetchError::Authorities(message));
            }
            RootCerts::from(certificates)
        }
    };
    Ok(TlsConfig::builder()
        .root_certs(roots)
        .disable_verification(is_own)
        .unversioned_rustls_crypto_provider(tls::provider())
        .build())
}

impl FetchError {
    /// A body that was cut by its limit is too long.
    fn or_too_long(self, longest: u64) -> Self {
        match self {
            Self::TooLong(_) => Self::TooLong(longest),
            other => other,
        }
    }
}

fn reason(error: ureq::Error) -> FetchError {
    use ureq::Error;
    match error {
        Error::StatusCode(status) => FetchError::Status(status),
        Error::BadUri(_) => FetchError::Url,
        Error::Timeout(_) => FetchError::Timeout(FETCH_TIMEOUT),
        Error::HostNotFound => FetchError::Name,
        Error::RedirectFailed | Error::TooManyRedirects | Error::RequireHttpsOnly(_) => {
            FetchError::Redirect
        }
        Error::BodyExceedsLimit(limit) => FetchError::TooLong(limit),
        Error::Rustls(error) => FetchError::Tls(error.to_string()),
        Error::Tls(error) => FetchError::Tls(error.to_owned()),
        Error::ConnectionFailed => FetchError::Connection("no connection".to_owned()),
        Error::Io(error) => match error.kind() {
            std::io::ErrorKind::InvalidData => FetchError::Tls(error.to_string()),
            _ => FetchError::Connection(error.to_string()),
        },
        _ => FetchError::Http,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_url_holds_no_secret() {
        for (url, shown) in [
            (
                "https://user:pass@sub.example:8443/token?key=1",
                "https://sub.example:8443/…",
            ),
            ("http://127.0.0.1#secret", "http://127.0.0.1/…"),
            ("secret", "://secret/…"),
        ] {
            assert_eq!(Shown(url).to_string(), shown);
        }
    }
}
