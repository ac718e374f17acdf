//! Reads the name servers of the operating system, resolv.conf(5).

use std::fs::Metadata;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::SystemTime;

use hickory_resolver::config::{NameServerConfig, ResolverConfig};

/// Name servers to use where the system has none.
const FALLBACK: [Ipv4Addr; 2] = [Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(8, 8, 4, 4)];

/// Returns the name servers and the search list of the system, and `ndots`.
pub(super) fn read(path: &Path) -> (ResolverConfig, usize) {
    let mut text = std::fs::read(path).unwrap_or_else(|error| {
        tracing::debug!(path = %path.display(), %error, "cannot read the resolver configuration");
        Vec::new()
    });
    // hickory rejects a file without servers, and its search list with it. Append the fallback servers and parse again.
    let parsed = hickory_resolver::system_conf::parse_resolv_conf(&text).or_else(|_| {
        for server in FALLBACK {
            text.extend_from_slice(format!("\nnameserver {server}\n").as_bytes());
        }
        hickory_resolver::system_conf::parse_resolv_conf(&text)
    });
    parsed.map_or_else(
        |_| (fallback(), 1),
        |(config, options)| (config, options.ndots),
    )
}

fn fallback() -> ResolverConfig {
    let servers = FALLBACK.map(|server| NameServerConfig::udp_and_tcp(IpAddr::V4(server)));
    ResolverConfig::from_name_servers(servers.into())
}

/// Identifies a version of a file; `None` if there is no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(Option<(SystemTime, u64)>);

impl Stamp {
    /// The current stamp of the file at `path`.
    pub(super) fn of(path: &Path) -> Self {
        let stamp = |metadata: Metadata| Ok((metadata.modified()?, metadata.len()));
        Self(std::fs::metadata(path).and_then(stamp).ok())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn read_text(text: &str) -> (Vec<String>, Vec<String>, usize) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let (config, ndots) = read(file.path());
        let servers = config
            .name_servers
            .iter()
            .map(|server| server.ip.to_string())
            .collect();
        (
            servers,
            config.search.iter().map(ToString::to_string).collect(),
            ndots,
        )
    }

    #[test]
    fn reads_servers_search_list_and_ndots() {
        let (servers, search, ndots) = read_text(
            "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch a.example b.example\noptions ndots:3\n",
        );
        assert_eq!(servers, ["192.0.2.53", "2001:db8::53"]);
        assert_eq!(search, ["a.example", "b.example"]);
        assert_eq!(ndots, 3);
    }

    #[test]
    fn uses_public_servers_but_keeps_search_list_and_ndots() {
        let (servers, search, ndots) = read_text("search a.example\noptions ndots:2");
        assert_eq!(servers, ["8.8.8.8", "8.8.4.4"]);
        assert_eq!((search, ndots), (vec!["a.example".to_owned()], 2));
    }

    #[test]
    fn uses_public_servers_without_a_file() {
        let (config, ndots) = read(Path::new("/nonexistent/resolv.conf"));
        assert_eq!(config.name_servers.len(), 2);
        assert_eq!(ndots, 1);
    }
}
