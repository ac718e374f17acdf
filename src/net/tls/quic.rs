//! TLS inside QUIC (RFC 9001): version 1.3, tickets, early data, an ALPN of its own. quinn runs the handshake.

use std::io;
use std::sync::Arc;

use rustls::{ClientConfig, version};

use super::error::alert_received;
use super::provider;
use super::verifier::{Refusals, Verifier};

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
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(verifier) as _)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        config.enable_early_data = true;
        Ok(Self {
            config,
            name,
            refusals: verifier.refusals.clone(),
        })
    }
}

/// What an alert of the peer means (RFC 9001 §4.8), if `code` is one.
pub(in crate::net) fn alert(code: u64) -> Option<io::Error> {
    let alert = u8::try_from(code.checked_sub(0x100)?).ok()?;
    let text = match alert {
        120 => "the server does not offer this `alpn`; both sides need the same".to_owned(),
        other => alert_received(other),
    };
    Some(io::Error::new(io::ErrorKind::InvalidData, text))
}
