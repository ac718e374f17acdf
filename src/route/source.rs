//! Where rules come from, and what they make together: the config's own rules, their lists, and an ACL file.
//!
//! The rules of the config come first, in their order; the ACL file decides about the rest.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::acl::Acl;
use super::engine::{Builder, Decision, Engine, Step};
use super::entry::Entry;
use super::geodata::Geodata;
use super::list::{Format, ListError, ListName, countries};
use super::rule::{Action, Host, Network, Origin, Query, Rule};

/// Which half of the product the rules are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `ssr local`: what no rule matches goes through the server.
    Local,
    /// `ssr server`: what no rule matches is allowed, and clients may be refused by their addresses.
    Server,
}

/// A rule with its destinations.
#[derive(Clone, Debug)]
pub struct Written {
    /// The rule.
    pub rule: Rule,
    /// Its names and networks.
    pub entries: Vec<Entry>,
    /// Its countries, by their ISO 3166-1 codes.
    pub countries: Vec<[u8; 2]>,
    /// Its lists.
    pub lists: Vec<ListName>,
    /// The path of its key in the config.
    pub at: String,
}

impl Written {
    fn has_destination(&self) -> bool {
        !(self.entries.is_empty() && self.countries.is_empty() && self.lists.is_empty())
    }
}

/// Where rules come from.
#[derive(Clone, Debug)]
pub struct Source {
    /// Whose rules they are.
    pub side: Side,
    /// The rules of the config, in their order.
    pub rules: Arc<[Written]>,
    /// The database of `geoip`: a MaxMind database, or v2ray's `geoip.dat`.
    pub geoip: Option<PathBuf>,
    /// The ACL file.
    pub acl: Option<PathBuf>,
}

/// The part of a [`Source`] that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A list, by the places of its rule and of itself.
    List(usize, usize),
    /// A rule, by its place.
    Rule(usize),
    /// All rules together.
    Rules,
    /// The database of countries.
    Geoip,
    /// The ACL file.
    Acl,
}

/// Why rules cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    /// Which part is wrong.
    pub part: Part,
    /// What is wrong with it.
    pub message: String,
}

fn wrong<E: std::fmt::Display>(part: Part) -> impl FnOnce(E) -> SourceError {
    move |error| SourceError {
        part,
        message: error.to_string(),
    }
}

/// Rules, read and indexed.
pub struct Loaded {
    side: Side,
    rules: Option<Engine>,
    acl: Option<Engine>,
    clients: Option<Engine>,
    /// Lines of the ACL file that were left out: they are not ASCII.
    pub skipped: Vec<u32>,
}

impl Source {
    /// The same without rules and files.
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self {
            side: self.side,
            rules: Arc::default(),
            geoip: None,
            acl: None,
        }
    }

    /// The files that the rules are read from.
    #[must_use]
    pub fn files(&self) -> Vec<&Path> {
        let lists = self.rules.iter().flat_map(|rule| &rule.lists);
        let mut files: Vec<&Path> = lists.map(|list| list.path.as_path()).collect();
        files.extend(self.geoip.as_deref());
        files.extend(self.acl.as_deref());
        files.sort_unstable();
        files.dedup();
        files
    }

    /// The servers that rules name, each once.
    #[must_use]
    pub fn servers(&self) -> Vec<&Arc<str>> {
        let mut names = Vec::new();
        for written in &*self.rules {
            if let Action::Server(name) = &written.rule.to
                && !names.contains(&name)
            {
                names.push(name);
            }
        }
        names
    }

    /// Reads all files and builds the index.
    ///
    /// # Errors
    /// The first part that cannot be used.
    pub fn load(&self) -> Result<Loaded, SourceError> {
        let mut loaded = Loaded {
            side: self.side,
            rules: None,
            acl: None,
            clients: None,
            skipped: Vec::new(),
        };
        if !self.rules.is_empty() {
            loaded.rules = Some(self.load_rules()?);
        }
        if let Some(path) = &self.acl {
            let mut acl = Acl::read(path).map_err(wrong(Part::Acl))?;
            loaded.skipped = std::mem::take(&mut acl.skipped);
            match self.side {
                Side::Local => loaded.acl = Some(acl.local().map_err(wrong(Part::Acl))?),
                Side::Server => {
                    loaded.acl = Some(acl.outbound().map_err(wrong(Part::Acl))?);
                    loaded.clients = Some(acl.clients().map_err(wrong(Part::Acl))?);
                }
            }
        }
        Ok(loaded)
    }

    fn load_rules(&self) -> Result<Engine, SourceError> {
        let mut builder = Builder::new(self.default_action());
        let mut database = Database::default();
        for (index, written) in self.rules.iter().enumerate() {
            builder.rule(written.rule.clone());
            if written.has_destination() {
                builder.has_destinations();
            }
            for entry in &written.entries {
                let added = entry.clone().add_to(&mut builder);
                added.map_err(wrong(Part::Rule(index)))?;
            }
            for code in &written.countries {
                self.add_country(*code, &mut builder, &mut database)?;
            }
            for (place, list) in written.lists.iter().enumerate() {
                let added = match list.format {
                    Format::Country(code) => {
                        let opened = database.open(&list.path, &mut builder);
                        opened.map(|()| builder.country(code))
                    }
                    Format::Plain | Format::Geodata(..) => {
                        list.add_to(&mut builder).map_err(wrong(Part::Rules))
                    }
                };
                added.map_err(wrong(Part::List(index, place)))?;
            }
        }
        builder.build().map_err(wrong(Part::Rules))
    }

    fn add_country(
        &self,
        code: [u8; 2],
        builder: &mut Builder,
        database: &mut Database,
    ) -> Result<(), SourceError> {
        let Some(path) = &self.geoip else {
            let message = "`geoip` needs `geoip_file`, the database of countries".to_owned();
            return Err(SourceError {
                part: Part::Geoip,
                message,
            });
        };
        if path.extension().is_some_and(|extension| extension == "dat") {
            let code = String::from_utf8_lossy(&code).into_owned();
            let list = ListName {
                path: path.clone(),
                format: Format::Geodata(Geodata::Ip, code),
            };
            return list.add_to(builder).map_err(wrong(Part::Geoip));
        }
        let opened = database.open(path, builder);
        opened.map_err(wrong(Part::Geoip))?;
        builder.country(code);
        Ok(())
    }

    fn default_action(&self) -> Action {
        match self.side {
            Side::Local => Action::Proxy,
            Side::Server => Action::Direct,
        }
    }

    /// Says what decides `query`, and where that is written. Slow: it reads the files again.
    #[must_use]
    pub fn explain(&self, loaded: &Loaded, query: &Query<'_>, addresses: &[IpAddr]) -> Vec<Reason> {
        let mut reasons = Vec::new();
        let (engine, decision) = loaded.decided(query, Some(addresses));
        let Some((engine, decision)) = engine.zip(decision) else {
            return reasons;
        };
        if loaded.is_own(engine) {
            let Some(id) = decision.rule else {
                return reasons;
            };
            let index = id.0 as usize;
            let Some(written) = self.rules.get(index) else {
                return reasons;
            };
            reasons.push(Reason {
                origin: written.rule.origin.clone(),
                what: written.at.clone(),
            });
            let lines = written.lists.iter().filter_map(|list| {
                let line = list.line(query.host, addresses)?;
                Some(Origin {
                    file: list.path.as_path().into(),
                    line: u32::try_from(line).unwrap_or(u32::MAX),
                })
            });
            reasons.extend(lines.map(|origin| Reason {
                origin,
                what: "list".to_owned(),
            }));
            return reasons;
        }
        let Some(path) = &self.acl else {
            return reasons;
        };
        let line = Acl::read(path)
            .ok()
            .and_then(|acl| acl.line(engine, &decision, query.host, addresses));
        let what = match line {
            Some(_) => "acl",
            None => "acl: in no list, so its mode decides",
        };
        reasons.push(Reason {
            origin: Origin {
                file: path.as_path().into(),
                line: line.unwrap_or(0),
            },
            what: what.to_owned(),
        });
        reasons
    }
}

/// A place that a decision comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The file and line.
    pub origin: Origin,
    /// What is written there.
    pub what: String,
}

/// The one database of countries that rules may use.
#[derive(Default)]
struct Database(Option<PathBuf>);

impl Database {
    fn open(&mut self, path: &Path, builder: &mut Builder) -> Result<(), SourceError> {
        match &self.0 {
            Some(open) if open == path => Ok(()),
            Some(open) => Err(SourceError {
                part: Part::Geoip,
                message: format!(
                    "{}: rules can use one database of countries only, and {} is in use",
                    path.display(),
                    open.display()
                ),
            }),
            None => {
                let found = countries(path);
                let found = found.map_err(|error: ListError| wrong(Part::Geoip)(error))?;
                builder.countries(Box::new(found));
                self.0 = Some(path.to_owned());
                Ok(())
            }
        }
    }
}

impl Loaded {
    /// What happens to `query`. `addresses` are those of its host, if that is a name and they are known.
    #[must_use]
    pub fn decide(&self, query: &Query<'_>, addresses: Option<&[IpAddr]>) -> Step<'_> {
        match self.decided(query, addresses) {
            (Some(_), None) => Step::Resolve,
            (_, Some(decision)) => Step::Decided(decision),
            (None, None) => Step::Decided(Decision {
                action: match self.side {
                    Side::Local => &Action::Proxy,
                    Side::Server => &Action::Direct,
                },
                rule: None,
            }),
        }
    }

    /// The engine that decides, and its decision; without the decision it needs addresses.
    fn decided<'a>(
        &'a self,
        query: &Query<'_>,
        addresses: Option<&[IpAddr]>,
    ) -> (Option<&'a Engine>, Option<Decision<'a>>) {
        let mut last = (None, None);
        for engine in [&self.rules, &self.acl].into_iter().flatten() {
            match engine.decide(query, addresses) {
                Step::Resolve => return (Some(engine), None),
                Step::Decided(decision) => {
                    let is_final = decision.rule.is_some();
                    last = (Some(engine), Some(decision));
                    if is_final {
                        break;
                    }
                }
            }
        }
        last
    }

    /// Whether a rule looks at names.
    #[must_use]
    pub fn has_names(&self) -> bool {
        let mut engines = [&self.rules, &self.acl].into_iter().flatten();
        engines.any(Engine::has_names)
    }

    fn is_own(&self, engine: &Engine) -> bool {
        self.rules
            .as_ref()
            .is_some_and(|own| std::ptr::eq(own, engine))
    }

    /// The rule behind a decision about `query`, for a log.
    #[must_use]
    pub fn origin(&self, query: &Query<'_>, addresses: Option<&[IpAddr]>) -> Option<&Origin> {
        let (engine, decision) = self.decided(query, addresses);
        let id = decision?.rule?;
        engine?.rule(id).map(|rule| &rule.origin)
    }

    /// What was decided about `query`, and where the rule for it is written, for people.
    #[must_use]
    pub fn reason(
        &self,
        query: &Query<'_>,
        addresses: Option<&[IpAddr]>,
        decision: &str,
    ) -> String {
        match self.origin(query, addresses) {
            Some(origin) => format!("{origin} ({decision})"),
            None => format!("no rule matches ({decision})"),
        }
    }

    /// Whether the client at `ip` may use the server.
    #[must_use]
    pub fn admits(&self, ip: IpAddr) -> bool {
        let Some(clients) = &self.clients else {
            return true;
        };
        let query = Query {
            host: Host::Ip(ip),
            port: 0,
            network: Network::Tcp,
            user: None,
            local: None,
        };
        match clients.decide(&query, None) {
            Step::Decided(decision) => *decision.action != Action::Block,
            Step::Resolve => false,
        }
    }
}
