//! Errors of TLS, in words: what rustls prints of most errors is `Debug` text.

use std::io;
use std::path::PathBuf;

use rustls::pki_types::{UnixTime, pem};
use rustls::{CertificateError, InconsistentKeys, InvalidMessage, OtherError};

/// The settings of TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The key of the config that names the file.
        key: &'static str,
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file, or a text of the config, does not hold what it should.
    #[error("{place}: {problem}")]
    Content {
        /// The key of the config that names it.
        key: &'static str,
        /// The file, or where else the text is.
        place: String,
        /// What is wrong, and what should be there.
        problem: String,
    },
    /// A value is not valid.
    #[error("{problem}")]
    Value {
        /// The key of the config.
        key: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl Error {
    /// The key of the config to blame: `ca`, `cert`, `key`, `server_name`, `pin_sha256`.
    #[must_use]
    pub const fn key(&self) -> &'static str {
        match self {
            Self::Read { key, .. } | Self::Content { key, .. } | Self::Value { key, .. } => key,
        }
    }
}

/// The server's public key is not one of those in `pin_sha256`.
#[derive(Debug, thiserror::Error)]
#[error(
    "the server's public key has the SHA-256 {0}, which is not in `pin_sha256`; add it there if the key was changed on purpose"
)]
pub(super) struct WrongKey(pub(super) String);

/// What is wrong with the peer, where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It does not speak TLS.
    NotTls,
    /// Its certificate is for another name.
    Name,
    /// Its certificate has expired.
    Expired,
    /// Its certificate is not valid yet.
    NotYetValid,
    /// Its certificate is not of a trusted authority.
    Untrusted,
    /// Its public key is not one that was pinned.
    Pin,
}

impl Problem {
    fn of(error: &rustls::Error) -> Option<Self> {
        use rustls::Error as E;
        use rustls::{CertificateError as C, InvalidMessage as M};
        Some(match error {
            E::InvalidMessage(M::InvalidContentType | M::UnknownProtocolVersion) => Self::NotTls,
            E::InvalidCertificate(error) => match error {
                C::Expired | C::ExpiredContext { .. } => Self::Expired,
                C::NotValidYet | C::NotValidYetContext { .. } => Self::NotYetValid,
                C::NotValidForName | C::NotValidForNameContext { .. } => Self::Name,
                C::UnknownIssuer | C::BadSignature => Self::Untrusted,
                C::Other(OtherError(error)) if error.is::<WrongKey>() => Self::Pin,
                _ => return None,
            },
            _ => return None,
        })
    }
}

/// An error of a session, in words.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Failure {
    text: String,
    problem: Option<Problem>,
}

/// An error of a session, as one of the stream.
pub(super) fn invalid(error: &rustls::Error) -> io::Error {
    let failure = Failure {
        text: describe(error),
        problem: Problem::of(error),
    };
    io::Error::new(io::ErrorKind::InvalidData, failure)
}

/// What an error of a TLS stream says of the peer.
#[must_use]
pub fn problem(error: &io::Error) -> Option<Problem> {
    let failure = error.get_ref()?.downcast_ref::<Failure>()?;
    failure.problem
}

/// An error of rustls in words.
pub(super) fn describe(error: &rustls::Error) -> String {
    use rustls::Error as E;
    match error {
        E::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => "the peer does not speak TLS; set `tls` on both sides or on neither".into(),
        E::InvalidMessage(_) | E::PeerSentOversizedRecord => {
            "the peer sent a malformed TLS message".into()
        }
        E::InappropriateMessage { .. } | E::InappropriateHandshakeMessage { .. } => {
            "the peer sent an unexpected TLS message".into()
        }
        E::PeerMisbehaved(_) => "the peer violated the TLS protocol".into(),
        E::PeerIncompatible(_) => {
            "the peer and ssr have no TLS version, cipher or key exchange in common".into()
        }
        E::AlertReceived(alert) => alert_received(u8::from(*alert)),
        E::InvalidCertificate(error) => certificate(error),
        E::NoCertificatesPresented => "the server sent no certificate".into(),
        E::NoApplicationProtocol => "the peer does not offer HTTP/1.1 (ALPN `http/1.1`)".into(),
        E::DecryptError => "a TLS record could not be decrypted".into(),
        E::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "the key does not belong to the certificate".into()
        }
        E::General(reason) => format!("TLS failed: {reason}"),
        _ => "TLS failed".into(),
    }
}

/// An alert of the peer (RFC 8446 §6.2) in words.
pub(super) fn alert_received(alert: u8) -> String {
    let reason = match alert {
        40 | 71 => "it found no common cipher",
        42 | 43 | 46 | 48 => "it does not trust the certificate",
        45 => "the certificate has expired for it; check the clocks",
        49 => "it denied access",
        70 => "it does not support our TLS versions",
        112 => "it serves no such name; check `server_name`",
        120 => "it does not support HTTP/1.1 (ALPN `http/1.1`)",
        _ => return format!("the peer refused TLS (alert {alert})"),
    };
    format!("the peer refused TLS: {reason} (alert {alert})")
}

/// What is wrong with a server's certificate, in words.
fn certificate(error: &CertificateError) -> String {
    use CertificateError as E;
    const SECONDS_A_DAY: u64 = 24 * 60 * 60;
    let days = |from: &UnixTime, to: &UnixTime| {
        to.as_secs().saturating_sub(from.as_secs()) / SECONDS_A_DAY
    };
    match error {
        E::Expired => "the server's certificate has expired; renew it, or check this machine's clock".into(),
        E::ExpiredContext { time, not_after } => format!(
            "the server's certificate expired {} days ago; renew it, or check this machine's clock",
            days(not_after, time)
        ),
        E::NotValidYet | E::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet; check this machine's clock".into()
        }
        // An authority of the same name with another key gives `BadSignature`.
        E::UnknownIssuer | E::BadSignature => {
            "the server's certificate was not issued by a trusted authority; if it is your own, set `ca` or `pin_sha256`"
                .into()
        }
        E::NotValidForName => "the server's certificate is for another name; set `server_name`".into(),
        E::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "the server's certificate names no server (subjectAltName); issue it again with a name".into()
        }
        E::NotValidForNameContext { expected, presented } => {
            // Each is the `Debug` text of a name, as `DnsName("proxy.example")`.
            let plain = |name: &String| {
                let mut parts = name.split(['(', '"', ')']);
                parts.rfind(|part| !part.is_empty()).unwrap_or_default().to_owned()
            };
            let names: Vec<_> = presented.iter().map(plain).collect();
            format!(
                "the server's certificate is not for {} but for {}; set `server_name` to a name of the certificate",
                expected.to_str(),
                names.join(", ")
            )
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            "the server's certificate may not be used by a server (extended key usage)".into()
        }
        E::Other(OtherError(error)) => match error.downcast_ref::<WrongKey>() {
            Some(wrong) => wrong.to_string(),
            None if error.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity) => {
                "the server's certificate is that of an authority; if it is your own, set `ca` to it, or set `pin_sha256`"
                    .into()
            }
            None => "the server's certificate cannot be verified".into(),
        },
        _ => "the server's certificate is malformed or of an unsupported kind".into(),
    }
}

/// What is wrong with a PEM text, in words. Lines of the text are not repeated: it may be a key.
pub(super) const fn malformed(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section of the PEM text has no `-----END` line",
        pem::Error::IllegalSectionStart { .. } => {
            "a `-----BEGIN` line of the PEM text is malformed"
        }
        pem::Error::Base64Decode(_) => "a section of the PEM text is not base64",
        _ => "the PEM text is malformed",
    }
}
