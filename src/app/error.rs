//! Why the process cannot run.

use std::path::PathBuf;

use crate::config::Endpoint;
use crate::dns;
use crate::net::tls;

/// Why the process cannot run.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// A listening socket could not be opened.
    #[error(transparent)]
    Net(#[from] crate::net::Error),
    /// The resolver could not be set up.
    #[error("DNS: {0}")]
    Dns(#[from] dns::Error),
    /// The users of a server cannot be together.
    #[error("server {server}: {source}")]
    Users {
        /// Its name.
        server: String,
        /// The problem.
        source: crate::relay::users::TableError,
    },
    /// What users have used cannot be kept.
    #[error(transparent)]
    State(#[from] crate::control::state::StateError),
    /// A plugin does not run.
    #[error(transparent)]
    Plugin(#[from] crate::net::plugin::Error),
    /// The certificate, key or other TLS settings cannot be used.
    #[error("{at}.{}: {source}", source.key())]
    Tls {
        /// The key path of the config, or the URL of a forward.
        at: String,
        /// The problem.
        source: tls::Error,
    },
    /// The name of a listening address could not be resolved.
    #[error("cannot resolve the listening address {name}: {source}")]
    Listen {
        /// The name.
        name: String,
        /// The error of the resolver.
        source: dns::Error,
    },
    /// It is not possible to listen at a path.
    #[error("cannot listen at {}: {source}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What is in the way.
        source: std::io::Error,
    },
    /// The service manager passed no such socket.
    #[error(
        "{key}: systemd passed no {kind} socket named `{name}`; set FileDescriptorName= in the socket unit"
    )]
    NotPassed {
        /// The key of the config.
        key: &'static str,
        /// `stream` or `datagram`.
        kind: &'static str,
        /// The name in the config.
        name: String,
    },
    /// The files of a site cannot be given out.
    #[error("{at}: the files of the site cannot be read: {source}")]
    Site {
        /// The key of the config, or the URL of the listener.
        at: String,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A tun device cannot be used.
    #[error("tun device {name}: {what}: {source}")]
    Tun {
        /// Its name, or what leads to it.
        name: String,
        /// What failed.
        what: &'static str,
        /// The error of the system.
        source: std::io::Error,
    },
    /// What leads into a tun device cannot be set.
    #[error(transparent)]
    Routes(#[from] crate::net::tun::routes::Error),
    /// There is no user of this name.
    #[error("user: there is no user `{name}` on this machine")]
    NoUser {
        /// The name.
        name: String,
    },
    /// The process cannot become this user.
    #[error(
        "user: cannot become `{name}`: {source}; only root can: start ssr as root, or as that user"
    )]
    User {
        /// The name.
        name: String,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The system refused something else.
    #[error("{what}: {source}")]
    System {
        /// What failed.
        what: &'static str,
        /// The error of the system.
        source: std::io::Error,
    },
}

impl Error {
    /// Adds the URL of a forward to a TLS error.
    pub(super) fn tls(endpoint: &Endpoint) -> impl FnOnce(tls::Error) -> Self {
        let at = format!("{endpoint}: tls");
        move |source| Self::Tls { at, source }
    }

    /// Adds what failed to an error of the system.
    pub(super) fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
