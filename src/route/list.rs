//! Files with names and networks.
//!
//! `PATH` is plain text, a line an entry; `PATH.dat:CODE` a list of v2ray's `geosite.dat` or `geoip.dat`;
//! `PATH.mmdb:CODE` the networks of a country in a MaxMind database.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use maxminddb::Reader;

use super::engine::{BuildError, Builder};
use super::entry::Entry;
use super::geodata::{self, Geodata};
use super::rule::Host;

/// Bytes of a line that is usual in a plain list, to make room before it is read.
const USUAL_LINE: u64 = 14;
/// Longest line of a plain list.
const MAX_LINE: u64 = 8 * 1024;

/// Which list is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListName {
    /// The file.
    pub path: PathBuf,
    /// Which of its lists.
    pub format: Format,
}

/// How a list is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// A line an entry.
    Plain,
    /// One list of several, by its code.
    Geodata(Geodata, String),
    /// A country of a MaxMind database.
    Country([u8; 2]),
}

/// Why a list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The name is not understood.
    #[error(
        "`{0}`: a .dat or .mmdb file needs the code of a list behind it, as in `geosite.dat:cn`"
    )]
    NoCode(String),
    /// A country is two letters.
    #[error("`{0}`: a country is its two letters, as in `country.mmdb:cn`")]
    Country(String),
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is wrong.
    #[error("{}:{line}: {source}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        source: BuildError,
    },
    /// The file is damaged.
    #[error("{}: {source}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file has no such list.
    #[error("{}: there is no list `{code}` in the file", path.display())]
    NoList {
        /// The file.
        path: PathBuf,
        /// The code.
        code: String,
    },
}

impl ListName {
    /// Reads `PATH` or `PATH:CODE`; a relative path begins at `base`.
    ///
    /// # Errors
    /// When a code is missing, or a country is not two letters.
    pub fn parse(text: &str, base: &Path) -> Result<Self, ListError> {
        let coded = text
            .rsplit_once(':')
            .filter(|(path, _)| is(path, "dat") || is(path, "mmdb"));
        let Some((path, code)) = coded else {
            if is(text, "dat") || is(text, "mmdb") {
                return Err(ListError::NoCode(text.to_owned()));
            }
            let path = base.join(text);
            return Ok(Self {
                path,
                format: Format::Plain,
            });
        };
        let format = if is(path, "mmdb") {
            let letters = code.as_bytes().try_into();
            Format::Country(letters.map_err(|_| ListError::Country(text.to_owned()))?)
        } else {
            let stem = Path::new(path)
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy();
            let kind = if stem.contains("ip") {
                Geodata::Ip
            } else {
                Geodata::Site
            };
            Format::Geodata(kind, code.to_owned())
        };
        Ok(Self {
            path: base.join(path),
            format,
        })
    }

    /// Adds the list's entries to the rule that was begun last.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged or has a wrong line.
    pub fn add_to(&self, builder: &mut Builder) -> Result<(), ListError> {
        match &self.format {
            Format::Plain => {
                let file = File::open(&self.path).map_err(|source| self.read_error(source))?;
                let bytes = file.metadata().map_or(0, |metadata| metadata.len());
                builder.reserve(usize::try_from(bytes / USUAL_LINE).unwrap_or_default());
                self.lines(file, |line, entry| {
                    entry.add_to(builder).map_err(|source| ListError::Line {
                        path: self.path.clone(),
                        line,
                        source,
                    })
                })
            }
            Format::Geodata(kind, code) => {
                let file = std::fs::read(&self.path).map_err(|source| self.read_error(source))?;
                let mut added = Ok(());
                let is_there = geodata::entries(*kind, &file, code, |entry| {
                    if added.is_ok() {
                        added = entry.add_to(builder);
                    }
                });
                if !is_there.map_err(|error| self.damaged(error))? {
                    return Err(ListError::NoList {
                        path: self.path.clone(),
                        code: code.clone(),
                    });
                }
                added.map_err(|error| self.damaged(error))
            }
            Format::Country(code) => {
                builder.countries(Box::new(countries(&self.path)?));
                builder.country(*code);
                Ok(())
            }
        }
    }

    /// The line of a plain list that `host`, or one of its `addresses`, is in.
    #[must_use]
    pub fn line(&self, host: Host<'_>, addresses: &[IpAddr]) -> Option<u64> {
        if self.format != Format::Plain {
            return None;
        }
        let mut found = None;
        let _ = self.lines(File::open(&self.path).ok()?, |line, entry| {
            if found.is_none() && entry.covers(host, addresses) {
                found = Some(line);
            }
            Ok(())
        });
        found
    }

    /// Calls `take` with every entry of a plain list and its line.
    fn lines(
        &self,
        file: File,
        mut take: impl FnMut(u64, Entry) -> Result<(), ListError>,
    ) -> Result<(), ListError> {
        let mut file = BufReader::new(file);
        let mut text = String::new();
        for line in 1.. {
            text.clear();
            let read = file.by_ref().take(MAX_LINE).read_line(&mut text);
            if read.map_err(|source| self.read_error(source))? == 0 {
                break;
            }
            if let Some(entry) = Entry::of_list(&text) {
                take(line, entry)?;
            }
        }
        Ok(())
    }

    fn read_error(&self, source: io::Error) -> ListError {
        ListError::Read {
            path: self.path.clone(),
            source,
        }
    }

    fn damaged(&self, source: impl std::error::Error + Send + Sync + 'static) -> ListError {
        ListError::Damaged {
            path: self.path.clone(),
            source: Box::new(source),
        }
    }
}

fn is(path: &str, extension: &str) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// Looks up countries in the MaxMind database at `path`.
///
/// # Errors
/// When the file cannot be read or is not such a database.
pub fn countries(
    path: &Path,
) -> Result<impl Fn(IpAddr) -> Option<[u8; 2]> + Send + Sync + 'static, ListError> {
    let file = std::fs::read(path).map_err(|source| ListError::Read {
        path: path.into(),
        source,
    })?;
    let database = Reader::from_source(file).map_err(|source| ListError::Damaged {
        path: path.into(),
        source: Box::new(source),
    })?;
    Ok(move |ip| {
        let code = database
            .lookup(ip)
            .ok()?
            .decode_path::<&str>(&maxminddb::path!["country", "iso_code"]);
        code.ok()??.as_bytes().try_into().ok()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::super::engine::Step;
    use super::super::rule::{Action, Network, Origin, Query, Rule};
    use super::*;

    fn engine(list: &ListName) -> Result<super::super::Engine, ListError> {
        let mut builder = Builder::new(Action::Proxy);
        let origin = Origin {
            file: list.path.as_path().into(),
            line: 0,
        };
        builder.rule(Rule::new(Action::Direct, origin));
        list.add_to(&mut builder)?;
        Ok(builder.build().unwrap())
    }

    fn goes_direct(engine: &super::super::Engine, host: &str) -> bool {
        let query = Query {
            host: host.parse().map_or(Host::Domain(host), Host::Ip),
            port: 443,
            network: Network::Tcp,
            user: None,
            local: None,
        };
        match engine.decide(&query, Some(&[])) {
            Step::Decided(decision) => *decision.action == Action::Direct,
            Step::Resolve => panic!("the addresses were given"),
        }
    }

    #[test]
    fn plain_list_is_read_and_says_which_line_decides() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list.txt");
        std::fs::write(
            &path,
            "# comment\nexample.com\nfull:exact.example\n10.0.0.0/8\n",
        )
        .unwrap();
        let list = ListName::parse("list.txt", directory.path()).unwrap();
        let engine = engine(&list).unwrap();
        for (host, direct, line) in [
            ("www.example.com", true, Some(2)),
            ("exact.example", true, Some(3)),
            ("a.exact.example", false, None),
            ("10.1.2.3", true, Some(4)),
            ("11.1.2.3", false, None),
        ] {
            assert_eq!(goes_direct(&engine, host), direct, "{host}");
            let host = host.parse().map_or(Host::Domain(host), Host::Ip);
            assert_eq!(list.line(host, &[]), line);
        }
    }

    #[test]
    fn wrong_names_of_lists_are_explained() {
        let base = Path::new("/etc");
        for (text, message) in [
            (
                "geosite.dat",
                "`geosite.dat`: a .dat or .mmdb file needs the code of a list behind it, as in `geosite.dat:cn`",
            ),
            (
                "a.mmdb:china",
                "`a.mmdb:china`: a country is its two letters, as in `country.mmdb:cn`",
            ),
        ] {
            assert_eq!(
                ListName::parse(text, base).unwrap_err().to_string(),
                message
            );
        }
        let list = ListName::parse("geoip.dat:cn", base).unwrap();
        assert_eq!(list.format, Format::Geodata(Geodata::Ip, "cn".to_owned()));
        let missing = engine(&ListName::parse("no-such-file", base).unwrap());
        assert!(
            missing
                .err()
                .unwrap()
                .to_string()
                .starts_with("/etc/no-such-file: cannot be read: ")
        );
    }

    #[test]
    fn wrong_line_is_named() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("l"), "ok.example\nfull:\n").unwrap();
        let error = engine(&ListName::parse("l", directory.path()).unwrap())
            .err()
            .unwrap();
        assert!(
            error.to_string().contains("l:2: ``: not a domain name"),
            "{error}"
        );
    }
}
