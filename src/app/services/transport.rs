//! Builds the transport layers of a server from its config.

use std::sync::Arc;

use crate::app::error::Error;
use crate::config::{Server, Tls};
use crate::net::site::Site;
use crate::net::{tls, transport};

fn error_at(tls: &Tls) -> impl FnOnce(tls::Error) -> Error {
    let at = tls.at.clone();
    move |source| Error::Tls { at, source }
}

/// The layers through which a client connects to `server`.
pub(super) fn client(server: &Server) -> Result<Option<transport::Client>, Error> {
    let Some(config) = &server.transport else {
        return Ok(None);
    };
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

/// The layers that `server` expects from its clients. With WebSocket, `site` is for everybody else.
pub(super) fn server(
    server: &Server,
    site: Option<Arc<Site>>,
) -> Result<Option<transport::Server>, Error> {
    let Some(config) = &server.transport else {
        return Ok(None);
    };
    let mut transport = transport::Server::default();
    if let Some(tls) = &config.tls {
        let (cert, key) = tls.identity.clone().unwrap_or_else(|| {
            // The config requires both; this is never used.
            (tls::Pem::Text(Vec::new()), tls::Pem::Text(Vec::new()))
        });
        transport.tls = Some(tls::Server::new(cert, key).map_err(error_at(tls))?);
    }
    if let Some(ws) = &config.ws {
        transport.ws = Some(ws.endpoint.clone());
        transport.site = site;
        transport.trusted_proxies.clone_from(&ws.trusted_proxies);
    }
    Ok(Some(transport))
}
