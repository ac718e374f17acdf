//! The client's side of TLS, and which servers it trusts.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;

use super::error::describe;
use super::quic::ForQuic;
use super::verifier::{Trust, Verifier};
use super::{ALPN, Error, Pem, Session, Tls, provider};
use crate::net::{self, Stream};

/// The client's side of TLS.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    verifier: Arc<Verifier>,
}

impl Client {
    /// Makes the settings for a server with a certificate for `name`. The name is sent to the server (SNI).
    ///
    /// # Errors
    /// [`Error`].
    pub fn new(name: &str, trust: &Trust) -> Result<Self, Error> {
        let wrong = |problem: String| Error::Value {
            key: "server_name",
            problem,
        };
        let name = ServerName::try_from(name.to_owned()).map_err(|_| {
            wrong("not a valid name for a certificate; use the server's host name".into())
        })?;
        let provider = provider();
        let verifier = Verifier::new(trust, &provider)?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(describe(&error)))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            config: Arc::new(config),
            name,
            verifier,
        })
    }

    /// The same settings for QUIC, where `alpn` names the protocol.
    pub(in crate::net) fn for_quic(&self, alpn: &str) -> Result<ForQuic, Error> {
        let name = self.name.to_str().into_owned();
        ForQuic::new(&self.verifier, name, alpn).map_err(|error| Error::Value {
            key: "tls",
            problem: describe(&error),
        })
    }

    /// Runs the handshake over `stream`.
    ///
    /// # Errors
    /// [`net::Error::Tls`], whose source is `InvalidData` when the server is not the right one.
    pub async fn connect(&self, stream: Stream) -> Result<Stream, net::Error> {
        let handshake = async {
            let session =
                UnbufferedClientConnection::new(Arc::clone(&self.config), self.name.clone())
                    .map_err(|error| io::Error::other(describe(&error)))?;
            Tls::new(stream, Session::Client(session)).handshake().await
        };
        handshake.await.map_err(|source| net::Error::Tls {
            server: self.name.to_str().into_owned(),
            source,
        })
    }
}

impl From<PathBuf> for Pem {
    fn from(file: PathBuf) -> Self {
        Self::File(file)
    }
}
