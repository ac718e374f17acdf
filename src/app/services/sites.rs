//! Sites: in front of the clients of a server, and on ports of their own.

use std::io;
use std::sync::Arc;

use super::builder::Builder;
use super::forwards;
use super::sockets::outgoing;
use crate::app::error::Error;
use crate::app::worker::{Job, Phase};
use crate::config::{Server, Site as SiteConfig, SiteForward, SiteSource};
use crate::net::dial::SpeaksFirst;
use crate::net::site::{Dial, ProxySettings, Site, Source};
use crate::net::transport;
use crate::outbound::dialer::Dialer;
use crate::outbound::direct::Direct;
use crate::relay::tcp::FixedTarget;
use crate::wire::Address;

impl Builder<'_> {
    /// Builds an entry of `forwards` that is a site.
    pub(super) async fn site_forward(&mut self, forward: &SiteForward) -> Result<(), Error> {
        let SiteForward { listen, site } = forward;
        let address = self.listen_address(&listen.address).await?;
        let built = self.site(site, &listen.to_string(), Vec::new())?;
        let tls = match &listen.ws {
            Some(ws) => forwards::server(listen, ws)?,
            None => None,
        };
        let transport = transport::Server {
            tls: tls.map(|tls| *tls),
            ws: None,
            trusted_proxies: Vec::new(),
            site: Some(built),
        };
        let (bound, listeners) = self.bind_tcp(address, &self.config.socket)?;
        // Every connection is a visitor's: no request comes so far.
        let nobody = FixedTarget(Address::Ip(bound));
        let dialer = self.dialer(outgoing(&self.config.socket, true));
        let idle = self.config.timeouts.idle;
        self.serve_visitors(listeners, nobody, Direct(dialer), idle, Some(transport));
        let listen = format!("{}://{bound}", listen.scheme.name());
        tracing::info!(listen, target = %site, "serving a site");
        Ok(())
    }

    /// The site in front of a server, if it has one.
    pub(super) fn fallback(&mut self, server: &Server) -> Result<Option<Arc<Site>>, Error> {
        let Some(transport) = &server.transport else {
            return Ok(None);
        };
        let Some(site) = &transport.site else {
            return Ok(None);
        };
        let trusted = transport.ws.as_ref().map(|ws| ws.trusted_proxies.clone());
        let trusted = trusted.unwrap_or_default();
        self.site(site, "transport.fallback", trusted).map(Some)
    }

    fn site(
        &mut self,
        site: &SiteConfig,
        at: &str,
        trusted: Vec<transport::Network>,
    ) -> Result<Arc<Site>, Error> {
        let source = match &site.source {
            SiteSource::Root(root) => Source::Root(root.clone()),
            SiteSource::Proxy {
                upstreams,
                strategy,
                check,
            } => Source::Proxy(ProxySettings {
                upstreams: upstreams.clone(),
                strategy: *strategy,
                check: check.clone(),
                dial: dial(self.dialer(outgoing(&self.config.socket, true))),
            }),
        };
        let trusts = move |ip| trusted.iter().any(|network| network.contains(ip));
        let built = Site::new(source, self.config.timeouts.idle, Box::new(trusts));
        built.try_root().map_err(|source| Error::Site {
            at: at.to_owned(),
            source,
        })?;
        let built = Arc::new(built);
        self.push(0, watch(Arc::clone(&built)));
        Ok(built)
    }
}

/// The job that looks after the web servers behind a site. It has nothing to finish.
fn watch(site: Arc<Site>) -> Job {
    Box::new(move |shared| {
        let mut shared = shared.without_drain();
        Box::pin(async move {
            tokio::select! {
                () = shared.reached(Phase::Stop) => {}
                () = site.watch() => {}
            }
        })
    })
}

fn dial(dialer: Dialer) -> Dial {
    let dialer = Arc::new(dialer);
    Arc::new(move |address| {
        let dialer = Arc::clone(&dialer);
        Box::pin(async move {
            // The operator has chosen it.
            let dialed = dialer.dial(&address, true, SpeaksFirst::Us).await;
            dialed.map_err(io::Error::other)
        })
    })
}
