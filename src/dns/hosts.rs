//! Reads the hosts file, hosts(5).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;

use super::answer::{Addresses, Answer, Error, arrange};

/// Most bytes of the file that are read. The largest blocklists in use are a third of this.
const MAX_BYTES: u64 = 32 << 20;

/// The names of a hosts file.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    names: HashMap<Box<str>, Option<Addresses>>,
}

impl Hosts {
    /// Reads the file at `path`. A missing file counts as empty.
    pub(super) fn read(path: &Path, ipv6_first: bool) -> Self {
        let mut text = Vec::new();
        match File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot read the hosts file, its names will not be found")
            }
        }
        Self::parse(&String::from_utf8_lossy(&text), ipv6_first)
    }

    /// Parses the text of a hosts file. Skips lines that do not begin with an address, as other resolvers do.
    fn parse(text: &str, ipv6_first: bool) -> Self {
        let mut names: HashMap<Box<str>, Vec<IpAddr>> = HashMap::new();
        for line in text.lines() {
            let line = line.split_once('#').map_or(line, |(line, _comment)| line);
            let mut words = line.split_whitespace();
            // An IpAddr cannot hold the zone of "fe80::1%eth0".
            let address = words.next().and_then(|word| word.split('%').next());
            let Some(Ok(address)) = address.map(str::parse) else {
                continue;
            };
            for name in words {
                let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
                names
                    .entry(name.into_boxed_str())
                    .or_default()
                    .push(address);
            }
        }
        let names = names.into_iter().map(|(name, addresses)| {
            let addresses = arrange(addresses, ipv6_first);
            (name, (!addresses.is_empty()).then(|| addresses.into()))
        });
        Self {
            names: names.collect(),
        }
    }

    /// Looks up `name`, in lower case and without a final dot. A name whose only addresses are `0.0.0.0` and `::` is
    /// blocked: [`Error::NoAddress`].
    pub(super) fn get(&self, name: &str) -> Option<Answer> {
        self.names
            .get(name)
            .map(|addresses| addresses.clone().ok_or(Error::NoAddress))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn ips(text: &[&str]) -> Addresses {
        text.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn collects_both_families_for_every_alias() {
        let text = "# comment\n192.0.2.1 Box.Example box # here\n\n2001:db8::1\tbox.example. \nnonsense box\n192.0.2.1 box";
        let hosts = Hosts::parse(text, false);
        assert_eq!(
            hosts.get("box.example").unwrap().unwrap(),
            ips(&["192.0.2.1", "2001:db8::1"])
        );
        assert_eq!(hosts.get("box").unwrap().unwrap(), ips(&["192.0.2.1"]));
        assert!(hosts.get("nonsense").is_none());
        let hosts = Hosts::parse(text, true);
        assert_eq!(
            hosts.get("box.example").unwrap().unwrap(),
            ips(&["2001:db8::1", "192.0.2.1"])
        );
    }

    #[test]
    fn unspecified_address_blocks_the_name() {
        let hosts = Hosts::parse("0.0.0.0 ads.example\n:: ads.example", false);
        assert_eq!(hosts.get("ads.example"), Some(Err(Error::NoAddress)));
    }

    #[test]
    fn missing_file_is_empty() {
        assert!(
            Hosts::read(Path::new("/nonexistent/hosts"), false)
                .names
                .is_empty()
        );
    }
}
