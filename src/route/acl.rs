//! The ACL files of shadowsocks-rust and libev, as rules.
//!
//! | section | of | what it lists, or sets |
//! |---|---|---|
//! | `[proxy_all]`, `[accept_all]` | local, server | what is in no list goes through the server; clients are served |
//! | `[bypass_all]`, `[reject_all]` | local, server | what is in no list goes direct; clients are refused |
//! | `[proxy_list]`, `[white_list]` | local, server | targets for the server; clients to serve |
//! | `[bypass_list]`, `[black_list]` | local, server | targets to reach directly; clients to refuse |
//! | `[outbound_block_all]`, `[outbound_allow_all]` | server | targets in no list |
//! | `[outbound_block_list]`, `[outbound_allow_list]` | server | targets to refuse; to allow |
//!
//! Lines before the first section belong to `[bypass_list]`. Names are looked up in the proxy list first, addresses in
//! the bypass list. The addresses of a name are compared with one list only: that which differs from the mode.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use super::engine::{BuildError, Builder, Decision, Engine};
use super::entry::Entry;
use super::rule::{Action, Host, Origin, Rule};

/// A list of an ACL file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Bypass,
    Proxy,
    OutboundBlock,
    OutboundAllow,
}

/// An ACL file, read.
pub struct Acl {
    file: Arc<Path>,
    entries: Vec<(Section, u32, Entry)>,
    /// What is in no list goes direct, or is refused.
    bypass_all: bool,
    outbound_block_all: bool,
    /// Lines that were left out: they are not ASCII.
    pub skipped: Vec<u32>,
}

/// Why an ACL file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AclError {
    /// The file cannot be read.
    #[error("{file}: cannot be read: {source}")]
    Read {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// A line is wrong.
    #[error("{file}:{line}: {source}")]
    Line {
        /// The file.
        file: String,
        /// The line, from 1.
        line: u32,
        /// What is wrong.
        source: BuildError,
    },
    /// All together are too much.
    #[error("{file}: {source}")]
    Whole {
        /// The file.
        file: String,
        /// What is wrong.
        source: BuildError,
    },
}

impl Acl {
    /// Reads a file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(path: &Path) -> Result<Self, AclError> {
        let text = std::fs::read_to_string(path).map_err(|source| AclError::Read {
            file: path.display().to_string(),
            source,
        })?;
        Ok(Self::parse(path, &text))
    }

    /// Reads the text of `path`.
    #[must_use]
    pub fn parse(path: &Path, text: &str) -> Self {
        let mut acl = Self {
            file: path.into(),
            entries: Vec::new(),
            bypass_all: false,
            outbound_block_all: false,
            skipped: Vec::new(),
        };
        let mut section = Section::Bypass;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if !line.is_ascii() {
                acl.skipped.push(number);
                continue;
            }
            match line {
                "[proxy_all]" | "[accept_all]" => acl.bypass_all = false,
                "[bypass_all]" | "[reject_all]" => acl.bypass_all = true,
                "[outbound_allow_all]" => acl.outbound_block_all = false,
                "[outbound_block_all]" => acl.outbound_block_all = true,
                "[bypass_list]" | "[black_list]" => section = Section::Bypass,
                "[proxy_list]" | "[white_list]" => section = Section::Proxy,
                "[outbound_block_list]" => section = Section::OutboundBlock,
                "[outbound_allow_list]" => section = Section::OutboundAllow,
                line => acl.entries.push((section, number, Entry::of_acl(line))),
            }
        }
        acl
    }

    /// The rules of the local side: which targets go direct, and which through the server.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn local(&self) -> Result<Engine, AclError> {
        let proxy = (Section::Proxy, Action::Proxy);
        let bypass = (Section::Bypass, Action::Direct);
        self.targets([&proxy, &bypass], [&bypass, &proxy], self.bypass_all)
    }

    /// The rules of the server: which targets are refused.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn outbound(&self) -> Result<Engine, AclError> {
        let block = (Section::OutboundBlock, Action::Block);
        let allow = (Section::OutboundAllow, Action::Direct);
        self.targets([&block, &allow], [&block, &allow], self.outbound_block_all)
    }

    /// The rules of the server about its clients' addresses: which are refused.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn clients(&self) -> Result<Engine, AclError> {
        let (listed, action, default) = if self.bypass_all {
            (Section::Proxy, Action::Direct, Action::Block)
        } else {
            (Section::Bypass, Action::Block, Action::Direct)
        };
        let mut builder = Builder::new(default);
        self.add(&mut builder, &(listed, action), true, true)?;
        self.build(builder)
    }

    /// Rules over two lists: their order for names, and for networks, where the first denies what the second grants.
    fn targets(
        &self,
        names: [&(Section, Action); 2],
        [denying, granting]: [&(Section, Action); 2],
        denies_all: bool,
    ) -> Result<Engine, AclError> {
        let default = if denies_all { denying } else { granting };
        let mut builder = Builder::new(default.1.clone());
        for list in names {
            self.add(&mut builder, list, false, true)?;
        }
        // Of a name's addresses only those matter that can change what the mode says.
        self.add(&mut builder, denying, true, !denies_all)?;
        self.add(&mut builder, granting, true, denies_all)?;
        self.build(builder)
    }

    /// Adds one rule with the names, or the networks, of a section.
    fn add(
        &self,
        builder: &mut Builder,
        (section, action): &(Section, Action),
        networks: bool,
        resolves: bool,
    ) -> Result<(), AclError> {
        let mut lines = self
            .entries
            .iter()
            .filter(|(of, _, entry)| {
                of == section && matches!(entry, Entry::Network(_)) == networks
            })
            .peekable();
        if lines.peek().is_none() {
            // A rule without destinations would match them all.
            return Ok(());
        }
        let origin = Origin {
            file: Arc::clone(&self.file),
            line: 0,
        };
        builder.rule(Rule {
            resolves,
            ..Rule::new(action.clone(), origin)
        });
        for (_, line, entry) in lines {
            entry
                .clone()
                .add_to(builder)
                .map_err(|source| AclError::Line {
                    file: self.file.display().to_string(),
                    line: *line,
                    source,
                })?;
        }
        Ok(())
    }

    fn build(&self, builder: Builder) -> Result<Engine, AclError> {
        builder.build().map_err(|source| {
            let file = self.file.display().to_string();
            let wrong = self
                .entries
                .iter()
                .find_map(|(_, line, entry)| match entry {
                    Entry::Regex(text) => regex::bytes::Regex::new(text)
                        .err()
                        .map(|error| (*line, error)),
                    _ => None,
                });
            match wrong {
                Some((line, error)) => AclError::Line {
                    file,
                    line,
                    source: BuildError::Regex(Box::new(error)),
                },
                None => AclError::Whole { file, source },
            }
        })
    }

    /// The line that led to a decision of an engine of this file; `None`: the mode did.
    #[must_use]
    pub fn line(
        &self,
        engine: &Engine,
        decision: &Decision<'_>,
        host: Host<'_>,
        addresses: &[IpAddr],
    ) -> Option<u32> {
        let rule = engine.rule(decision.rule?)?;
        let is_outbound =
            |section| matches!(section, Section::OutboundAllow | Section::OutboundBlock);
        let sections = |section: Section| match (&rule.to, is_outbound(section)) {
            (Action::Proxy, _) => section == Section::Proxy,
            (Action::Direct, false) => section == Section::Bypass,
            (Action::Direct, true) => section == Section::OutboundAllow,
            (Action::Block, _) => section == Section::OutboundBlock,
            (Action::Server(_), _) => false,
        };
        let mut found = self
            .entries
            .iter()
            .filter(|(section, _, entry)| sections(*section) && entry.covers(host, addresses));
        found.next().map(|(_, line, _)| *line)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::super::engine::Step;
    use super::super::rule::{Network, Query};
    use super::*;

    fn decide(engine: &Engine, host: &str, addresses: Option<&[&str]>) -> Option<Action> {
        let ip = host.parse::<IpAddr>();
        let host = ip.map_or(Host::Domain(host), Host::Ip);
        let addresses: Option<Vec<IpAddr>> =
            addresses.map(|list| list.iter().map(|ip| ip.parse().unwrap()).collect());
        let query = Query {
            host,
            port: 443,
            network: Network::Tcp,
            user: None,
            local: None,
        };
        match engine.decide(&query, addresses.as_deref()) {
            Step::Decided(decision) => Some(decision.action.clone()),
            Step::Resolve => None,
        }
    }

    const LISTS: &str = "
[bypass_list]
10.0.0.0/8
||both.example
||direct.example
[proxy_list]
||both.example
10.1.0.0/16
192.0.2.0/24
^ads\\d+\\.
";

    #[test]
    fn proxy_all_sends_all_but_the_bypass_list_to_the_server() {
        let engine = Acl::parse(Path::new("a.acl"), LISTS).local().unwrap();
        for (host, addresses, action) in [
            ("both.example", None, Some(Action::Proxy)),
            ("a.direct.example", None, Some(Action::Direct)),
            ("ads12.elsewhere.example", None, Some(Action::Proxy)),
            ("10.1.2.3", None, Some(Action::Direct)),
            ("192.0.2.1", None, Some(Action::Proxy)),
            ("203.0.113.1", None, Some(Action::Proxy)),
            ("other.example", None, None),
            (
                "other.example",
                Some(&["203.0.113.1", "10.9.9.9"][..]),
                Some(Action::Direct),
            ),
            ("other.example", Some(&["203.0.113.1"]), Some(Action::Proxy)),
            ("other.example", Some(&[]), Some(Action::Proxy)),
        ] {
            assert_eq!(
                decide(&engine, host, addresses),
                action,
                "{host} {addresses:?}"
            );
        }
    }

    #[test]
    fn bypass_all_sends_only_the_proxy_list_to_the_server() {
        let text = format!("[bypass_all]\n{LISTS}");
        let engine = Acl::parse(Path::new("a.acl"), &text).local().unwrap();
        for (host, addresses, action) in [
            ("203.0.113.1", None, Some(Action::Direct)),
            ("10.1.2.3", None, Some(Action::Direct)),
            ("192.0.2.1", None, Some(Action::Proxy)),
            (
                "other.example",
                Some(&["10.9.9.9", "192.0.2.7"][..]),
                Some(Action::Proxy),
            ),
            ("other.example", Some(&["10.9.9.9"]), Some(Action::Direct)),
        ] {
            assert_eq!(
                decide(&engine, host, addresses),
                action,
                "{host} {addresses:?}"
            );
        }
    }

    #[test]
    fn server_refuses_targets_and_clients() {
        let text = "[reject_all]\n[white_list]\n198.51.100.0/24\n[outbound_block_list]\n||evil.example\n127.0.0.0/8\n[outbound_allow_list]\n||evil.example\n127.0.0.1\n";
        let acl = Acl::parse(Path::new("s.acl"), text);
        let outbound = acl.outbound().unwrap();
        assert_eq!(
            decide(&outbound, "a.evil.example", None),
            Some(Action::Block)
        );
        assert_eq!(decide(&outbound, "127.0.0.1", None), Some(Action::Block));
        assert_eq!(decide(&outbound, "good.example", None), None);
        assert_eq!(
            decide(&outbound, "good.example", Some(&["127.0.0.1"])),
            Some(Action::Block)
        );
        assert_eq!(decide(&outbound, "203.0.113.1", None), Some(Action::Direct));
        let clients = acl.clients().unwrap();
        assert_eq!(decide(&clients, "198.51.100.9", None), Some(Action::Direct));
        assert_eq!(decide(&clients, "203.0.113.1", None), Some(Action::Block));
    }

    #[test]
    fn names_the_line_that_decided_and_the_line_that_is_wrong() {
        let acl = Acl::parse(Path::new("a.acl"), LISTS);
        let engine = acl.local().unwrap();
        let host = Host::Domain("ads1.example");
        let query = Query {
            host,
            port: 80,
            network: Network::Udp,
            user: None,
            local: None,
        };
        let Step::Decided(decision) = engine.decide(&query, Some(&[])) else {
            panic!("the addresses were given");
        };
        assert_eq!(acl.line(&engine, &decision, host, &[]), Some(10));
        let wrong = Acl::parse(Path::new("a.acl"), "||ok.example\n(\n").local();
        let error = wrong.err().unwrap().to_string();
        assert!(
            error.starts_with("a.acl:2: regular expressions: "),
            "{error}"
        );
        let wrong = Acl::parse(Path::new("a.acl"), "||\n")
            .local()
            .err()
            .unwrap();
        assert!(
            wrong
                .to_string()
                .starts_with("a.acl:1: ``: not a domain name"),
            "{wrong}"
        );
    }

    #[test]
    fn empty_file_sends_everything_to_the_server() {
        let acl = Acl::parse(Path::new("a.acl"), "# nothing\n\nbücher\n");
        assert_eq!(acl.skipped, [3]);
        assert_eq!(
            decide(&acl.local().unwrap(), "a.example", None),
            Some(Action::Proxy)
        );
    }
}
