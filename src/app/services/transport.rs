//! From the transport of the config to what carries it out.

use crate::app::error::Error;
use crate::config::{Server, Tls};
use crate::net::{tls, transport};

fn blame(tls: &Tls) -> impl FnOnce(tls::Error) -> Error {
    let at = tls.at.clone();
    move |source| Error::Tls { at, source }
}

/// How local goes to `server`.
pub(super) fn client(server: &Server) -> Result<Option<transport::Client>, Error> {
    let Some(meant) = &server.transport else {
        return Ok(None);
    };
    let tls = meant.tls.as_ref().map(|tls| {
        let name = meant.server_name(&server.address);
        tls::Client::new(&name, &tls.trust).map_err(blame(tls))
    });
    let ws = meant.ws.as_ref();
    let ws = ws.map(|ws| (ws.request_to(&server.address, meant.tls.is_some()), ws.mux));
    Ok(Some(transport::Client {
        tls: tls.transpose()?,
        ws,
    }))
}

/// How `server` takes its clients in.
pub(super) fn server(server: &Server) -> Result<Option<transport::Server>, Error> {
    let Some(meant) = &server.transport else {
        return Ok(None);
    };
    let mut made = transport::Server::default();
    if let Some(tls) = &meant.tls {
        let (cert, key) = tls.identity.clone().unwrap_or_else(|| {
            // The config has seen to it that both are there.
            (tls::Pem::Text(Vec::new()), tls::Pem::Text(Vec::new()))
        });
        made.tls = Some(tls::Server::new(cert, key).map_err(blame(tls))?);
    }
    if let Some(ws) = &meant.ws {
        made.ws = Some(ws.endpoint.clone());
        made.trusted_proxies.clone_from(&ws.trusted_proxies);
    }
    Ok(Some(made))
}
