//! The subcommand that reads a config.

/// Which half of the pair reads the config.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// `ssr local`: takes requests from programs, connects to the servers.
    Local,
    /// `ssr server`: listens for clients, connects to targets.
    Server,
    /// `ssr forward`: neither; only what is under `forwards`.
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
