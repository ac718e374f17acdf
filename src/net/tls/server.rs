//! TLS as a server, with certificates that are read anew when their files change.

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ProducesTickets, UnbufferedServerConnection};

use super::{ALPN, Error, Session, Tls, provider};
use crate::net::Stream;
use crate::net::sync::lock;

/// How often, at most, the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// No chain of certificates is as long.
const MAX_FILE: u64 = 1 << 20;

/// PEM text, and where it stands.
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
    /// Where it stands, in words.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::File(file) => file.display().to_string(),
            Self::Text(_) => "the text in the config".to_owned(),
        }
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

    fn stamp(&self) -> Option<Stamp> {
        match self {
            Self::File(file) => Stamp::of(file),
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
        .map_err(|error| wrong(format!("not PEM: {error}")))?;
    if found.is_empty() {
        return Err(wrong(
            "no certificate in it: a PEM file has `-----BEGIN CERTIFICATE-----`".to_owned(),
        ));
    }
    Ok(found)
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

impl Stamp {
    fn of(file: &Path) -> Option<Self> {
        let data = std::fs::metadata(file).ok()?;
        Some(Self {
            modified: data.modified().ok(),
            len: data.len(),
            inode: data.ino(),
        })
    }
}

/// What is needed to accept by TLS.
#[derive(Debug)]
pub struct Server {
    cert: Pem,
    key: Pem,
    tickets: Arc<dyn ProducesTickets>,
    pub(super) current: Mutex<Current>,
}

pub(super) struct Current {
    config: Arc<ServerConfig>,
    stamps: [Option<Stamp>; 2],
    pub(super) looked: Instant,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Current")
    }
}

impl Server {
    /// With the chain of certificates in `cert`, the server's own first, and its private key in `key`.
    ///
    /// # Errors
    /// [`Error`].
    pub fn new(cert: Pem, key: Pem) -> Result<Self, Error> {
        let tickets = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| Error::Value {
            key: "tls",
            problem: error.to_string(),
        })?;
        let stamps = [cert.stamp(), key.stamp()];
        let config = load(&cert, &key, &tickets)?;
        Ok(Self {
            cert,
            key,
            tickets,
            current: Mutex::new(Current {
                config,
                stamps,
                looked: Instant::now(),
            }),
        })
    }

    /// Runs the handshake over `stream`.
    ///
    /// # Errors
    /// What breaks below, or `InvalidData` with what is wrong with the client.
    pub async fn accept(&self, stream: Stream) -> io::Result<Stream> {
        let session = UnbufferedServerConnection::new(self.config()).map_err(io::Error::other)?;
        Tls::new(stream, Session::Server(session)).handshake().await
    }

    /// The settings of today: read again when a file has changed, and as they were when that cannot be done.
    fn config(&self) -> Arc<ServerConfig> {
        let mut current = lock(&self.current);
        if current.looked.elapsed() < LOOK_EVERY {
            return Arc::clone(&current.config);
        }
        current.looked = Instant::now();
        let stamps = [self.cert.stamp(), self.key.stamp()];
        if stamps != current.stamps {
            // A broken file is complained of once, and read again when it changes again.
            current.stamps = stamps;
            match load(&self.cert, &self.key, &self.tickets) {
                Ok(config) => {
                    current.config = config;
                    tracing::info!(file = self.cert.place(), "certificate read again");
                }
                Err(error) => {
                    tracing::error!(key = error.key(), %error, "the certificate has changed and cannot be used: the one before stays in use");
                }
            }
        }
        Arc::clone(&current.config)
    }
}

fn load(
    cert: &Pem,
    key: &Pem,
    tickets: &Arc<dyn ProducesTickets>,
) -> Result<Arc<ServerConfig>, Error> {
    let chain = certificates("cert", cert)?;
    let wrong = |problem: String| Error::Content {
        key: "key",
        place: key.place(),
        problem,
    };
    let private = PrivateKeyDer::from_pem_slice(&key.read("key")?).map_err(|error| {
        wrong(format!(
            "no private key in it ({error}): a PEM file has `-----BEGIN PRIVATE KEY-----`, without a passphrase"
        ))
    })?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| {
            wrong(format!(
                "does not go with the certificate in {}: {error}",
                cert.place()
            ))
        })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.ticketer = Arc::clone(tickets);
    Ok(Arc::new(config))
}
