//! Why the process cannot run.

use crate::config::Endpoint;
use crate::dns;
use crate::net::tls;

/// Why the process cannot run.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// A listening socket.
    #[error(transparent)]
    Net(#[from] crate::net::Error),
    /// The resolver.
    #[error("DNS: {0}")]
    Dns(#[from] dns::Error),
    /// The files of TLS.
    #[error("{at}.{}: {source}", source.key())]
    Tls {
        /// The key path of the config, or the URL of a forward.
        at: String,
        /// What is wrong.
        source: tls::Error,
    },
    /// A listening address given as a name.
    #[error("cannot resolve the listening address {name}: {source}")]
    Listen {
        /// The name.
        name: String,
        /// What the resolver said.
        source: dns::Error,
    },
    /// Something else that the system refuses.
    #[error("{what}: {source}")]
    System {
        /// What was wanted.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    pub(super) fn tls(endpoint: &Endpoint) -> impl FnOnce(tls::Error) -> Self {
        let at = format!("{endpoint}: tls");
        move |source| Self::Tls { at, source }
    }

    pub(super) fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
