//! TLS as a client, and whom it trusts.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{UnbufferedClientConnection, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use sha2::{Digest as _, Sha256};

use super::server::certificates;
use super::{ALPN, Error, Pem, Session, Tls, provider};
use crate::net::Stream;

/// Which server is the right one.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Authorities in place of Mozilla's, which are compiled in. A certificate that signs itself is its own authority.
    pub ca: Option<Pem>,
    /// SHA-256 of the public keys (SubjectPublicKeyInfo) that the server may have. With `ca`, both are asked of it;
    /// without, the key says all, and neither name nor date of the certificate matter.
    pub pins: Vec<[u8; 32]>,
    /// Whoever answers is taken for the server.
    pub insecure: bool,
}

type Chain = (Arc<WebPkiServerVerifier>, Vec<CertificateDer<'static>>);

/// What is needed to connect by TLS.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Client {
    /// For a server that has a certificate for `name`, which is also what it is asked for.
    ///
    /// # Errors
    /// [`Error`].
    pub fn new(name: &str, trust: &Trust) -> Result<Self, Error> {
        let wrong = |problem: String| Error::Value {
            key: "server_name",
            problem,
        };
        let name = ServerName::try_from(name.to_owned()).map_err(|_| {
            wrong("not a name that a certificate can have: give the server's host name".into())
        })?;
        let provider = provider();
        let (chain, authorities) = chain(trust, &provider)?.unzip();
        let verifier: Arc<dyn ServerCertVerifier> = Arc::new(Verifier {
            chain,
            authorities: authorities.unwrap_or_default(),
            pins: trust.pins.clone(),
            provider: Arc::clone(&provider),
        });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            config: Arc::new(config),
            name,
        })
    }

    /// Runs the handshake over `stream`.
    ///
    /// # Errors
    /// What breaks below, or `InvalidData` with what is wrong with the server.
    pub async fn connect(&self, stream: Stream) -> io::Result<Stream> {
        let session = UnbufferedClientConnection::new(Arc::clone(&self.config), self.name.clone())
            .map_err(io::Error::other)?;
        Tls::new(stream, Session::Client(session)).handshake().await
    }
}

/// What examines the chain of certificates, if anything does, and the authorities that `ca` names.
fn chain(trust: &Trust, provider: &Arc<CryptoProvider>) -> Result<Option<Chain>, Error> {
    if trust.insecure || (trust.ca.is_none() && !trust.pins.is_empty()) {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    let wrong = |problem: String| Error::Content {
        key: "ca",
        place: trust.ca.as_ref().map_or_else(String::new, Pem::place),
        problem,
    };
    let mut authorities = Vec::new();
    match &trust.ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(pem) => {
            authorities = certificates("ca", pem)?;
            for certificate in &authorities {
                roots
                    .add(certificate.clone())
                    .map_err(|error| wrong(format!("a certificate cannot be used: {error}")))?;
            }
        }
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map(|chain| Some((chain, authorities)))
        .map_err(|error| wrong(error.to_string()))
}

#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// Those of `ca`.
    authorities: Vec<CertificateDer<'static>>,
    pins: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// Whether the server's own certificate stands in `ca` and is refused for nothing but being an authority's, as is
    /// what `openssl req -x509` makes. Its date has been examined before that, its name has not.
    fn is_its_own_authority(
        &self,
        certificate: &CertificateDer<'_>,
        error: &rustls::Error,
    ) -> bool {
        let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(error))) = error
        else {
            return false;
        };
        error.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity)
            && self.authorities.iter().any(|own| own == certificate)
    }
}

/// The server has another key than the ones that `pin_sha256` allows.
#[derive(Debug, thiserror::Error)]
#[error("the server's public key has the SHA-256 {0}, which is not in `pin_sha256`")]
struct WrongKey(String);

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.pins.is_empty() {
            let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
            let found: [u8; 32] = Sha256::digest(&key).into();
            if !self.pins.contains(&found) {
                let error = WrongKey(crate::crypto::base64::encode(&found));
                return Err(CertificateError::Other(OtherError(Arc::new(error))).into());
            }
        }
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(error) if self.is_its_own_authority(certificate, &error) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A PEM file.
impl From<PathBuf> for Pem {
    fn from(file: PathBuf) -> Self {
        Self::File(file)
    }
}
