//! Builds the transport layers of a server from its config.

use std::sync::Arc;
use std::time::Duration;

use crate::app::error::Error;
use crate::config::{Server, Tls, Transport};
use crate::crypto::Family;
use crate::net::site::Site;
use crate::net::tls::Pem;
use crate::net::{SocketOptions, quic, tls, transport};
use crate::outbound::ways::Fallback;

fn error_at(tls: &Tls) -> impl FnOnce(tls::Error) -> Error {
    let at = tls.at.clone();
    move |source| Error::Tls { at, source }
}

/// The layers through which a client connects to `server`.
pub(super) fn client(server: &Server) -> Result<Option<transport::Client>, Error> {
    let Some(config) = &server.transport else {
        return Ok(None);
    };
    if config.quic.is_some() {
        return match server.beside_quic() {
            Some(beside) => client(&beside),
            None => Ok(None),
        };
    }
    let tls = config.tls.as_ref().map(|tls| {
        let name = config.server_name(&server.address);
        tls::Client::new(&name, &tls.trust).map_err(error_at(tls))
    });
    let ws = config.ws.as_ref();
    let ws = ws.map(|ws| (ws.request_to(&server.address, config.tls.is_some()), ws.mux));
    Ok(Some(transport::Client {
        tls: tls.transpose()?,
        ws,
    }))
}

/// How a client reaches `server` by QUIC, if it does.
pub(super) fn quic_client(
    server: &Server,
    options: SocketOptions,
    limit: Duration,
) -> Result<Option<Arc<quic::Client>>, Error> {
    let Some((config, tls, settings)) = quic_of(server) else {
        return Ok(None);
    };
    let name = config.server_name(&server.address);
    let client = tls::Client::new(&name, &tls.trust)
        .and_then(|tls| quic::Client::new(&tls, settings, options, limit));
    let client = client.map_err(error_at(tls))?;
    Ok(Some(Arc::new(match config.fallback {
        Some(_) => client.careful(),
        None => client,
    })))
}

/// What a client uses where QUIC to `server` does not work, if the config says it.
pub(super) fn fallback(server: &Server) -> Option<Fallback> {
    let fallback = server.transport.as_ref()?.fallback.as_ref()?;
    Some(Fallback::new(&server.name, fallback.name(), fallback.retry))
}

/// How `server` serves its clients by QUIC, if it does. `early`: whether they may send data with their first packet; `packets`:
/// whether UDP is served.
pub(super) fn quic_server(
    server: &Server,
    early: bool,
    packets: bool,
) -> Result<Option<Arc<quic::Server>>, Error> {
    let Some((_, tls, settings)) = quic_of(server) else {
        return Ok(None);
    };
    let (cert, key) = identity(tls);
    let served = tls::Server::for_quic(cert, key, settings.alpn.clone(), early);
    let served = served.map_err(error_at(tls))?;
    let secret = match server.method.family() {
        // It has no secret.
        Family::Plain => rand::random::<[u8; 32]>().into(),
        Family::Aead2017 | Family::Aead2022 => server.keys.key.reset_secret(),
    };
    Ok(Some(quic::Server::with_packets(
        served,
        settings.clone(),
        &secret,
        packets,
    )))
}

fn quic_of(server: &Server) -> Option<(&Transport, &Tls, &quic::Settings)> {
    let config = server.transport.as_ref()?;
    Some((config, config.tls.as_ref()?, config.quic.as_ref()?))
}

/// The certificate and the key of a listener.
fn identity(tls: &Tls) -> (Pem, Pem) {
    // The config requires both; the empty ones are never used.
    let none = || (Pem::Text(Vec::new()), Pem::Text(Vec::new()));
    tls.identity.clone().unwrap_or_else(none)
}

/// The layers that `server` expects from its clients. With WebSocket, `site` is for everybody else.
pub(super) fn server(
    server: &Server,
    site: Option<Arc<Site>>,
) -> Result<Option<transport::Server>, Error> {
    let Some(config) = &server.transport else {
        return Ok(None);
    };
    if config.quic.is_some() {
        return match server.beside_quic() {
            Some(beside) => self::server(&beside, None),
            None => Ok(None),
        };
    }
    let mut transport = transport::Server::default();
    if let Some(tls) = &config.tls {
        let (cert, key) = identity(tls);
        transport.tls = Some(tls::Server::new(cert, key).map_err(error_at(tls))?);
    }
    if let Some(ws) = &config.ws {
        transport.ws = Some(ws.endpoint.clone());
        transport.site = site;
        transport.trusted_proxies.clone_from(&ws.trusted_proxies);
    }
    Ok(Some(transport))
}
