//! Proxies on the way (`outbound_proxy`).

use std::sync::Arc;

use crate::app::error::Error;
use crate::config::{ProxyHop, ProxyScheme};
use crate::net::tls;
use crate::outbound::proxy_chain::{Chain, Hop, Login, Protocol};

/// The proxies of the config as the outbounds use them.
pub(super) fn chain(proxies: &[ProxyHop]) -> Result<Option<Arc<Chain>>, Error> {
    let hops: Result<Vec<Hop>, Error> = proxies.iter().map(hop).collect();
    Ok(Chain::new(hops?).map(Arc::new))
}

fn hop(config: &ProxyHop) -> Result<Hop, Error> {
    let error = |source| Error::Tls {
        at: config.at.clone(),
        source,
    };
    let login = config.login.as_ref().map(|(user, password)| Login {
        user: user.clone(),
        password: password.expose().to_owned(),
    });
    let protocol = match config.scheme {
        ProxyScheme::Socks5 => Protocol::Socks5,
        ProxyScheme::Http => Protocol::Http(None),
        ProxyScheme::Https => {
            let client = tls::Client::new(&config.server_name(), &config.trust).map_err(error)?;
            Protocol::Http(Some(client))
        }
    };
    Ok(Hop {
        name: config.to_string(),
        address: config.address.clone(),
        protocol,
        login,
    })
}
