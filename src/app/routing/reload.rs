//! Reads the rules of the config again while they are in use. Everything else in the config stays as it was at the start.

use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::config::{self, Config, Diagnostic, Reread, Severity};
use crate::net::file_version::FileVersion;
use crate::net::sync::lock;
use crate::route::Live;

/// What rules belong to: a listener of `ssr local`, or a server of `ssr server`.
type Owner = (String, Option<Arc<Live>>);

/// Rules in use, and those that replace them.
type Change<'a> = (&'a Arc<Live>, Arc<Live>);

/// Knows the config file, and which of its parts use rules.
pub(in crate::app) struct Reload {
    reread: Reread,
    owners: Vec<Owner>,
    /// The servers that rules may name.
    servers: Vec<String>,
    seen: Mutex<Seen>,
}

/// Versions of the file: the one that was read last, and the one that the last look found.
struct Seen {
    read: Option<FileVersion>,
    found: Option<FileVersion>,
}

impl Reload {
    /// For a config that runs; `None`: it has no file, or no rules.
    pub(in crate::app) fn of(config: &Config) -> Option<Self> {
        let reread = config.reread.clone()?;
        let owners = owners(config);
        owners.iter().find(|(_, live)| live.is_some())?;
        let version = FileVersion::of(reread.path());
        Some(Self {
            reread,
            owners,
            servers: config.servers.iter().map(|one| one.name.clone()).collect(),
            seen: Mutex::new(Seen {
                read: version,
                found: version,
            }),
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.reread.path()
    }

    /// Whether the file has changed since it was read, and rests: it is as the last call found it.
    pub(super) fn is_stale(&self) -> bool {
        let found = FileVersion::of(self.path());
        let mut seen = lock(&self.seen);
        let rests = found == seen.found;
        seen.found = found;
        rests && found != seen.read
    }

    /// Reads the file and uses its rules, or changes nothing.
    ///
    /// # Errors
    /// Everything that is wrong, with file and line.
    pub(super) fn apply(&self) -> Result<(), Vec<String>> {
        lock(&self.seen).read = FileVersion::of(self.path());
        let how = &self.reread;
        let config = config::load(Some(how.path()), how.role(), how.flags()).map_err(texts)?;
        let changes = self.changes(&owners(&config))?;
        for (old, new) in changes {
            old.replace(&new);
        }
        Ok(())
    }

    /// The rules to be replaced, and those that replace them.
    fn changes(&self, new: &[Owner]) -> Result<Vec<Change<'_>>, Vec<String>> {
        let file = self.path().display();
        let mut problems = Vec::new();
        let mut changes: Vec<Change<'_>> = Vec::new();
        for (name, old) in &self.owners {
            let found = new.iter().find(|(other, _)| other == name);
            let (old, new) = match (old, found) {
                (Some(old), Some((_, Some(new)))) => (old, Arc::clone(new)),
                (Some(old), Some((_, None))) => match Live::new(old.source().emptied()) {
                    Ok(new) => (old, Arc::new(new)),
                    Err(error) => {
                        problems.push(error.to_string());
                        continue;
                    }
                },
                (None, Some((_, Some(_)))) => {
                    problems.push(format!(
                        "{file}: {name} has rules now and had none: restart to use them"
                    ));
                    continue;
                }
                (None, _) => continue,
                (Some(_), None) => {
                    problems.push(format!(
                        "{file}: {name} is not in the file any more: restart to change what listens"
                    ));
                    continue;
                }
            };
            for server in new.source().servers() {
                if !self.servers.iter().any(|known| named(known, server)) {
                    problems.push(format!(
                        "{file}: rules name the server `{server}`, which is new: restart to use it"
                    ));
                }
            }
            match changes.iter().find(|(known, _)| Arc::ptr_eq(known, old)) {
                Some((_, other)) if other.source().acl != new.source().acl => {
                    problems.push(format!(
                        "{file}: {name} has an ACL file of its own now: restart to use it"
                    ));
                }
                Some(_) => {}
                None => changes.push((old, new)),
            }
        }
        match problems.is_empty() {
            true => Ok(changes),
            false => Err(problems),
        }
    }
}

fn texts(found: Vec<Diagnostic>) -> Vec<String> {
    let errors = found
        .into_iter()
        .filter(|finding| finding.severity == Severity::Error);
    errors.map(|finding| finding.to_string()).collect()
}

fn owners(config: &Config) -> Vec<Owner> {
    let locals = config.locals.iter().map(|local| {
        let name = format!("the {} listener {}", local.protocol.name(), local.address);
        (name, local.rules.clone())
    });
    let servers = config.servers.iter().map(|server| {
        let name = format!("the server {}", server.address);
        (name, server.rules.clone())
    });
    locals.chain(servers).collect()
}

/// The names by which rules may mean a server called `server`: its own, and for one address of several the common one.
pub(in crate::app) fn names(server: &str) -> impl Iterator<Item = &str> {
    let common = server
        .strip_suffix(')')
        .into_iter()
        .flat_map(move |_| server.match_indices(" (").map(|(at, _)| at));
    std::iter::once(server).chain(common.filter_map(move |at| server.get(..at)))
}

fn named(server: &str, name: &str) -> bool {
    names(server).any(|known| known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_of_a_server_has_its_common_name_too() {
        assert!(named("home", "home"));
        assert!(named("home (192.0.2.1)", "home"));
        assert!(named("home (192.0.2.1)", "home (192.0.2.1)"));
        assert!(named("a (b) (192.0.2.1)", "a (b)"));
        assert!(!named("home", "ho"));
        assert!(!named("home (x", "home"));
    }
}
