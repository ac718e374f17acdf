//! What a site consists of, and the places of its visitors.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::files::Files;
use super::proxy::{Proxy, ProxySettings};
use crate::limits::MAX_SITE_VISITORS;
use crate::net::shares::Places;

/// Whether an address is that of a proxy that is believed.
pub type Trusts = Box<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// What a site is.
pub enum Source {
    /// The files of a directory.
    Root(PathBuf),
    /// Other web servers.
    Proxy(ProxySettings),
}

/// A site.
pub struct Site {
    pub(super) content: Content,
    /// How long nothing may move on a WebSocket that is passed on.
    pub(super) idle: Duration,
    /// The proxies whose header fields are believed when they name a visitor's address.
    trusted: Trusts,
    /// For visitors; the network with the most of them gives way.
    pub(super) places: Places,
}

pub(super) enum Content {
    Files(Files),
    Proxy(Box<Proxy>),
}

impl Site {
    /// A site. On a WebSocket that is passed on nothing may move for `idle`; `trusted` are the proxies that are believed when
    /// they name a visitor's address.
    #[must_use]
    pub fn new(source: Source, idle: Duration, trusted: Trusts) -> Self {
        Self {
            content: match source {
                Source::Root(root) => Content::Files(Files::new(root)),
                Source::Proxy(settings) => Content::Proxy(Box::new(Proxy::new(settings))),
            },
            idle,
            trusted,
            places: Places::new(MAX_SITE_VISITORS),
        }
    }

    /// Looks after the web servers behind the site, for as long as it is polled.
    pub async fn watch(&self) {
        match &self.content {
            Content::Files(_) => std::future::pending().await,
            Content::Proxy(proxy) => proxy.watch().await,
        }
    }

    /// Tries to open the directory of a site of files.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_root(&self) -> std::io::Result<()> {
        match &self.content {
            Content::Files(files) => files.try_root(),
            Content::Proxy(_) => Ok(()),
        }
    }

    pub(super) fn is_trusted(&self, ip: IpAddr) -> bool {
        (self.trusted)(ip)
    }
}
