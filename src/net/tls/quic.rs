//! TLS inside QUIC (RFC 9001): version 1.3, tickets, early data, an ALPN of its own. quinn runs the handshake.

use std::io;
use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, version};

use super::error::invalid;
use super::provider;
use super::verifier::Verifier;
use crate::net::sync::lock;

/// The client's settings for QUIC.
pub(in crate::net) struct ForQuic {
    pub(in crate::net) config: ClientConfig,
    /// The name that the server is asked for.
    pub(in crate::net) name: String,
    pub(in crate::net) refusals: Refusals,
}

impl ForQuic {
    pub(super) fn new(
        verifier: &Arc<Verifier>,
        name: String,
        alpn: &str,
    ) -> Result<Self, rustls::Error> {
        let refusals = Refusals::default();
        let noting = Noting {
            verifier: Arc::clone(verifier),
            refusals: refusals.clone(),
        };
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(noting))
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        config.enable_early_data = true;
        Ok(Self {
            config,
            name,
            refusals,
        })
    }
}

/// Why a certificate was refused: QUIC itself tells no more than the number of an alert.
#[derive(Clone, Debug, Default)]
pub(in crate::net) struct Refusals(Arc<Mutex<Option<rustls::Error>>>);

impl Refusals {
    /// The last one, once.
    pub(in crate::net) fn take(&self) -> Option<io::Error> {
        lock(&self.0).take().map(|error| invalid(&error))
    }

    fn note<T>(&self, result: Result<T, rustls::Error>) -> Result<T, rustls::Error> {
        result.inspect_err(|error| *lock(&self.0) = Some(error.clone()))
    }
}

/// Verifies as the verifier inside, and notes what that refuses.
#[derive(Debug)]
struct Noting {
    verifier: Arc<Verifier>,
    refusals: Refusals,
}

impl ServerCertVerifier for Noting {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.verifier
                .verify_server_cert(certificate, intermediates, name, ocsp, now);
        self.refusals.note(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verified = self
            .verifier
            .verify_tls13_signature(message, certificate, signature);
        self.refusals.note(verified)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// What an alert of the peer means (RFC 9001 §4.8), if `code` is one.
pub(in crate::net) fn alert(code: u64) -> Option<io::Error> {
    let alert = u8::try_from(code.checked_sub(0x100)?).ok()?;
    let text = match alert {
        120 => "the server does not offer this `alpn`; both sides need the same".to_owned(),
        other => super::error::alert_received(other),
    };
    Some(io::Error::new(io::ErrorKind::InvalidData, text))
}
