//! Proxies on the way (`outbound_proxy`).

use std::sync::Arc;

use crate::app::error::Error;
use crate::config::{ProxyHop, ProxyScheme};
use crate::net::tls;
use crate::outbound::proxy_chain::{Chain, Hop, Login, Protocol};
use crate::relay::replay::ClientReplays;
use crate::wire::ss::Credentials;

/// The proxies of the config as the outbounds use them.
pub(super) fn chain(
    proxies: &[ProxyHop],
    replays: &ClientReplays,
) -> Result<Option<Arc<Chain>>, Error> {
    let hops = proxies.iter().map(|proxy| hop(proxy, replays));
    let hops: Result<Vec<Hop>, Error> = hops.collect();
    Ok(Chain::new(hops?).map(Arc::new))
}

fn hop(config: &ProxyHop, replays: &ClientReplays) -> Result<Hop, Error> {
    let error = |source| Error::Tls {
        at: config.at.clone(),
        source,
    };
    let login = config.login.as_ref().map(|(user, password)| Login {
        user: user.clone(),
        password: password.expose().to_owned(),
    });
    let shadowsocks = config
        .shadowsocks
        .as_ref()
        .map(|(method, keys)| Credentials::new(*method, keys.identity.clone(), keys.key.clone()));
    let protocol = match (config.scheme, shadowsocks) {
        (_, Some(credentials)) => Protocol::Shadowsocks(Box::new((credentials, replays.clone()))),
        (ProxyScheme::Http, _) => Protocol::Http(None),
        (ProxyScheme::Socks5 | ProxyScheme::Shadowsocks, _) => Protocol::Socks5,
        (ProxyScheme::Https, _) => {
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
