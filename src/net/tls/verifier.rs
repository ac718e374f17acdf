//! Which servers a client trusts, and how it verifies their certificates.

use std::io;
use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};

use super::error::{WrongKey, invalid};
use super::server::certificates;
use super::{Error, Pem};
use crate::net::sync::lock;

/// Which servers a client trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The authorities to trust instead of Mozilla's, which are compiled in. A self-signed certificate is its own
    /// authority.
    pub ca: Option<Pem>,
    /// SHA-256 of the public keys (SubjectPublicKeyInfo) that the server may have. With `ca`, the server must satisfy
    /// both. Without `ca` only the key counts, not the name or the dates of the certificate.
    pub pins: Vec<[u8; 32]>,
    /// Whether any server is trusted.
    pub insecure: bool,
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

type Chain = (Arc<WebPkiServerVerifier>, Vec<CertificateDer<'static>>);

#[derive(Debug)]
pub(super) struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// The certificates of `ca`.
    authorities: Vec<CertificateDer<'static>>,
    pins: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
    pub(super) refusals: Refusals,
}

impl Verifier {
    pub(super) fn new(trust: &Trust, provider: &Arc<CryptoProvider>) -> Result<Arc<Self>, Error> {
        let (chain, authorities) = chain(trust, provider)?.unzip();
        Ok(Arc::new(Self {
            chain,
            authorities: authorities.unwrap_or_default(),
            pins: trust.pins.clone(),
            provider: Arc::clone(provider),
            refusals: Refusals::default(),
        }))
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if !self.pins.is_empty() {
            let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
            let found: [u8; 32] = Sha256::digest(&key).into();
            if !self.pins.contains(&found) {
                let error = WrongKey(crate::crypto::base64::encode(&found));
                return Err(CertificateError::Other(OtherError(Arc::new(error))).into());
            }
        }
        let Some(chain) = &self.chain else {
            return Ok(());
        };
        match chain.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(error) if self.is_its_own_authority(certificate, &error) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(())
            }
            verified => verified.map(drop),
        }
    }

    /// Whether the server's certificate is in `ca` and was refused only because it is that of an authority, as
    /// certificates made by `openssl req -x509` are. Its dates were verified before that, its name was not.
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

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.verify(certificate, intermediates, name, ocsp, now);
        self.refusals.note(verified)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let verified = verify_tls12_signature(message, certificate, signature, algorithms);
        self.refusals.note(verified)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let verified = verify_tls13_signature(message, certificate, signature, algorithms);
        self.refusals.note(verified)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The verifier of certificate chains, if chains are verified, and the certificates of `ca`.
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
                roots.add(certificate.clone()).map_err(|_| {
                    wrong("a certificate in it is malformed or of an unsupported kind".to_owned())
                })?;
            }
        }
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map(|chain| Some((chain, authorities)))
        .map_err(|_| wrong("no certificate in it can be used as an authority".to_owned()))
}
