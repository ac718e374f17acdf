//! The subcommand that reads a config.

/// The role that reads the config.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// `ssr local`: accepts requests from programs and connects to the servers.
    Local,
    /// `ssr server`: accepts clients and connects to targets.
    Server,
    /// `ssr forward`: runs only what is under `forwards`.
    Forward,
}

impl Role {
    /// The subcommand.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Server => "server",
            Self::Forward => "forward",
        }
    }
}
