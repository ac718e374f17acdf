//! The server's side of TLS. Certificates are read again when their files change.

use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ProducesTickets, ServerSessionMemoryCache, UnbufferedServerConnection};

use zeroize::Zeroizing;

use super::error::{describe, malformed};
use super::{ALPN, Error, Session, Tls, provider};
use crate::crypto;
use crate::limits::MAX_QUIC_TICKETS;
use crate::net::Stream;
use crate::net::file_version::FileVersion;
use crate::net::sync::lock;

/// The files are checked for changes at most this often.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Bytes of a PEM file that are read at most.
const MAX_FILE: u64 = 1 << 20;

/// PEM text, and where it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// In a file.
    File(PathBuf),
    /// In the config itself.
    Text(Vec<u8>),
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.place())
    }
}

impl Pem {
    /// Where the text is, in words.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::File(file) => file.display().to_string(),
            Self::Text(_) => "the text in the config".to_owned(),
        }
    }

    /// A secret that is made of the text of a private key, for `purpose`: the same after a restart.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn secret(&self, purpose: &str) -> Result<Zeroizing<[u8; 32]>, Error> {
        let text = Zeroizing::new(self.read("key")?);
        Ok(crypto::key::secret_of(&text, purpose))
    }

    fn read(&self, key: &'static str) -> Result<Vec<u8>, Error> {
        let file = match self {
            Self::Text(text) => return Ok(text.clone()),
            Self::File(file) => file,
        };
        let mut bytes = Vec::new();
        std::fs::File::open(file)
            .and_then(|open| open.take(MAX_FILE).read_to_end(&mut bytes))
            .map_err(|source| Error::Read {
                key,
                file: file.clone(),
                source,
            })?;
        Ok(bytes)
    }

    fn version(&self) -> Option<FileVersion> {
        match self {
            Self::File(file) => FileVersion::of(file),
            Self::Text(_) => None,
        }
    }
}

/// The certificates of a PEM text, at least one.
pub(super) fn certificates(
    key: &'static str,
    pem: &Pem,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong = |problem: String| Error::Content {
        key,
        place: pem.place(),
        problem,
    };
    let text = pem.read(key)?;
    let found = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(malformed(&error).to_owned()))?;
    if found.is_empty() {
        return Err(wrong(
            "no certificate found; it begins with `-----BEGIN CERTIFICATE-----`".to_owned(),
        ));
    }
    Ok(found)
}

/// Whether a time is within the dates of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// It is.
    Valid,
    /// It is after them.
    Expired,
    /// It is before them.
    NotYet,
}

/// Compares the dates of the first certificate of `cert` with a time in Unix seconds.
///
/// # Errors
/// [`Error`], when it is no certificate.
pub fn validity(cert: &Pem, time: u64) -> Result<Validity, Error> {
    let chain = certificates("cert", cert)?;
    let wrong = || Error::Content {
        key: "cert",
        place: cert.place(),
        problem: "the first certificate is malformed or of an unsupported kind".to_owned(),
    };
    let first = chain.first().ok_or_else(wrong)?;
    let first = webpki::EndEntityCert::try_from(first).map_err(|_| wrong())?;
    let provider = provider();
    // Without an authority this always fails; the dates are compared first.
    let compared = first.verify_for_usage(
        provider.signature_verification_algorithms.all,
        &[],
        &[],
        UnixTime::since_unix_epoch(Duration::from_secs(time)),
        webpki::KeyUsage::server_auth(),
        None,
        None,
    );
    Ok(match compared.map(drop) {
        Err(webpki::Error::CertExpired { .. }) => Validity::Expired,
        Err(webpki::Error::CertNotValidYet { .. }) => Validity::NotYet,
        _ => Validity::Valid,
    })
}

/// What the server's side of TLS is for.
#[derive(Clone, Debug)]
enum Use {
    /// Streams.
    Streams { tickets: Arc<dyn ProducesTickets> },
    /// QUIC, where this ALPN names the protocol. Whether a client may send data before the handshake is over.
    Quic {
        alpn: String,
        early: bool,
        /// rustls takes early data only where each ticket is good for one use, and so remembers them.
        tickets: Arc<ServerSessionMemoryCache>,
    },
}

/// The server's side of TLS.
#[derive(Debug)]
pub struct Server {
    cert: Pem,
    key: Pem,
    used: Use,
    pub(super) current: Mutex<Current>,
}

pub(super) struct Current {
    config: Arc<ServerConfig>,
    versions: [Option<FileVersion>; 2],
    pub(super) checked: Instant,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Current")
    }
}

impl Server {
    /// Reads the chain of certificates in `cert`, the server's own first, and its private key in `key`.
    ///
    /// # Errors
    /// [`Error`].
    pub fn new(cert: Pem, key: Pem) -> Result<Self, Error> {
        let tickets = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| Error::Value {
            key: "tls",
            problem: describe(&error),
        })?;
        Self::with(cert, key, Use::Streams { tickets })
    }

    /// The same for QUIC, where `alpn` names the protocol. `early`: whether a client may send data before the handshake is over.
    ///
    /// # Errors
    /// [`Error`].
    pub fn for_quic(cert: Pem, key: Pem, alpn: String, early: bool) -> Result<Self, Error> {
        let tickets = ServerSessionMemoryCache::new(MAX_QUIC_TICKETS);
        Self::with(
            cert,
            key,
            Use::Quic {
                alpn,
                early,
                tickets,
            },
        )
    }

    fn with(cert: Pem, key: Pem, used: Use) -> Result<Self, Error> {
        let versions = [cert.version(), key.version()];
        let config = load(&cert, &key, &used)?;
        Ok(Self {
            cert,
            key,
            used,
            current: Mutex::new(Current {
                config,
                versions,
                checked: Instant::now(),
            }),
        })
    }

    /// Runs the handshake over `stream`.
    ///
    /// # Errors
    /// An error of the connection, or `InvalidData` when the client broke the protocol.
    pub async fn handshake(&self, stream: Stream) -> io::Result<Stream> {
        let session = UnbufferedServerConnection::new(self.config())
            .map_err(|error| io::Error::other(describe(&error)))?;
        Tls::new(stream, Session::Server(session)).handshake().await
    }

    /// The current settings. They are read again when a file has changed; if that fails, the old ones stay in use.
    pub(in crate::net) fn config(&self) -> Arc<ServerConfig> {
        let mut current = lock(&self.current);
        if current.checked.elapsed() < CHECK_INTERVAL {
            return Arc::clone(&current.config);
        }
        current.checked = Instant::now();
        let versions = [self.cert.version(), self.key.version()];
        if versions != current.versions {
            // A broken file is logged once, and read again when it changes again.
            current.versions = versions;
            match load(&self.cert, &self.key, &self.used) {
                Ok(config) => {
                    current.config = config;
                    tracing::info!(file = self.cert.place(), "certificate read again");
                }
                Err(error) => {
                    tracing::error!(key = error.key(), %error, "the changed certificate cannot be used; the previous one stays in use");
                }
            }
        }
        Arc::clone(&current.config)
    }
}

fn load(cert: &Pem, key: &Pem, used: &Use) -> Result<Arc<ServerConfig>, Error> {
    let chain = certificates("cert", cert)?;
    let wrong = |problem: String| Error::Content {
        key: "key",
        place: key.place(),
        problem,
    };
    let private = PrivateKeyDer::from_pem_slice(&key.read("key")?).map_err(|error| match error {
        pem::Error::NoItemsFound => wrong(
            "no private key found; it begins with `-----BEGIN PRIVATE KEY-----` and has no passphrase"
                .to_owned(),
        ),
        error => wrong(malformed(&error).to_owned()),
    })?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(describe(&error)))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| {
            wrong(format!(
                "cannot be used with the certificate in {}: {}",
                cert.place(),
                describe(&error)
            ))
        })?;
    match used {
        Use::Streams { tickets } => {
            config.alpn_protocols = vec![ALPN.to_vec()];
            config.ticketer = Arc::clone(tickets);
        }
        Use::Quic {
            alpn,
            early,
            tickets,
        } => {
            config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
            // QUIC knows all or nothing (RFC 9001 §4.6.1).
            config.max_early_data_size = if *early { u32::MAX } else { 0 };
            config.session_storage = Arc::clone(tickets) as _;
        }
    }
    Ok(Arc::new(config))
}
