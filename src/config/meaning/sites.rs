//! What a site in front consists of.

use std::path::PathBuf;

use crate::net::site::Strategy;
use crate::wire::address::Address;

/// A site in front of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// What it consists of.
    pub source: SiteSource,
}

/// What a [`Site`] consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteSource {
    /// The files of a directory.
    Root(PathBuf),
    /// What other web servers answer.
    Proxy {
        /// Where they are, at least one.
        upstreams: Vec<Address>,
        /// Which of them gets a request.
        strategy: Strategy,
        /// The path that is asked for to see how they are.
        check: Option<String>,
    },
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.source {
            SiteSource::Root(root) => write!(f, "file://{}", root.display()),
            SiteSource::Proxy { upstreams, .. } => {
                for (index, upstream) in upstreams.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(f, "{comma}http://{upstream}")?;
                }
                Ok(())
            }
        }
    }
}
