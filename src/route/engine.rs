//! All rules, indexed. The first rule in order that matches decides.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use regex::bytes::{RegexSet, RegexSetBuilder};

use super::domains::{Domains, Kind, NameError};
use super::networks::{Collected, Networks};
use super::rule::{Action, Host, Query, Rule, RuleId};

/// Memory that all regular expressions together may compile to, and their cache: 16 MiB each.
const REGEX_MEMORY: usize = 16 << 20;

/// What rules say of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// This.
    Decided(Decision<'a>),
    /// A rule compares networks, and the host is a name: call again with its addresses.
    Resolve,
}

/// What happens to a request, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// What happens.
    pub action: &'a Action,
    /// The rule that decided; `None`: no rule matched, and the default was taken.
    pub rule: Option<RuleId>,
}

/// The country of an address.
type Countries = Box<dyn Fn(IpAddr) -> Option<[u8; 2]> + Send + Sync>;

/// All rules.
pub struct Engine {
    rules: Vec<Rule>,
    default: Action,
    domains: Domains,
    regexes: RegexSet,
    /// The rule of each regular expression.
    regex_rules: Vec<RuleId>,
    networks: Networks,
    countries: Option<Countries>,
    country_rules: HashMap<[u8; 2], Vec<RuleId>>,
    /// Rules that match every destination.
    unconditional: Vec<RuleId>,
    /// Rules that need the addresses of a name.
    resolving: Vec<RuleId>,
}

/// Takes rules and their destinations, one by one.
pub struct Builder {
    rules: Vec<Rule>,
    default: Action,
    domains: Domains,
    regexes: Vec<(String, RuleId)>,
    networks: Collected,
    countries: Option<Countries>,
    country_rules: HashMap<[u8; 2], Vec<RuleId>>,
    has_destination: Vec<bool>,
    has_network: Vec<bool>,
}

/// Why rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A name is not a name.
    #[error("`{name}`: {source}")]
    Name {
        /// The text.
        name: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// A regular expression is wrong, or all together are too large.
    #[error("regular expressions: {0}")]
    Regex(Box<regex::Error>),
}

impl Builder {
    /// Without rules: everything gets `default`.
    #[must_use]
    pub fn new(default: Action) -> Self {
        Self {
            rules: Vec::new(),
            default,
            domains: Domains::default(),
            regexes: Vec::new(),
            networks: Collected::default(),
            countries: None,
            country_rules: HashMap::new(),
            has_destination: Vec::new(),
            has_network: Vec::new(),
        }
    }

    /// Begins the next rule; what is added from now on are its destinations. Without any it matches every destination.
    pub fn rule(&mut self, rule: Rule) {
        self.rules.push(rule);
        self.has_destination.push(false);
        self.has_network.push(false);
    }

    /// Notes that the rule has destinations, even if none follows: an empty list matches nothing.
    pub fn has_destinations(&mut self) {
        self.current();
    }

    /// Makes room for `names` more names.
    pub fn reserve(&mut self, names: usize) {
        self.domains.reserve(names);
    }

    fn current(&mut self) -> RuleId {
        if let Some(has) = self.has_destination.last_mut() {
            *has = true;
        }
        let last = self.rules.len().saturating_sub(1);
        RuleId(u32::try_from(last).unwrap_or(u32::MAX))
    }

    /// Adds a name.
    ///
    /// # Errors
    /// When it is not a name.
    pub fn domain(&mut self, kind: Kind, name: &str) -> Result<(), BuildError> {
        let rule = self.current();
        self.domains
            .add(kind, name, rule)
            .map_err(|source| BuildError::Name {
                name: name.to_owned(),
                source,
            })
    }

    /// Adds names that contain `text`.
    pub fn keyword(&mut self, text: &str) {
        self.regex(regex::escape(text));
    }

    /// Adds names that a regular expression matches somewhere, without regard to case.
    pub fn regex(&mut self, expression: String) {
        let rule = self.current();
        self.regexes.push((expression, rule));
    }

    /// Adds a network.
    pub fn network(&mut self, network: IpNet) {
        let rule = self.current();
        self.networks.add(network, rule);
        self.note_network();
    }

    /// Adds the addresses of a country, by its ISO 3166-1 code.
    pub fn country(&mut self, code: [u8; 2]) {
        let rule = self.current();
        let code = code.map(|letter| letter.to_ascii_uppercase());
        self.country_rules.entry(code).or_default().push(rule);
        self.note_network();
    }

    /// Sets how the country of an address is found.
    pub fn countries(&mut self, of: Countries) {
        self.countries = Some(of);
    }

    fn note_network(&mut self) {
        if let Some(has) = self.has_network.last_mut() {
            *has = true;
        }
    }

    /// Builds the index.
    ///
    /// # Errors
    /// When a regular expression is wrong, or all together take too much memory.
    pub fn build(self) -> Result<Engine, BuildError> {
        let (expressions, regex_rules): (Vec<_>, Vec<_>) = self.regexes.into_iter().unzip();
        let regexes = RegexSetBuilder::new(expressions)
            .case_insensitive(true)
            .unicode(false)
            .size_limit(REGEX_MEMORY)
            .dfa_size_limit(REGEX_MEMORY)
            .build()
            .map_err(|error| BuildError::Regex(Box::new(error)))?;
        let numbered = |marks: &[bool], wanted: bool| -> Vec<RuleId> {
            let numbers = (0..).zip(marks).filter(|(_, mark)| **mark == wanted);
            numbers.map(|(number, _)| RuleId(number)).collect()
        };
        let mut resolving = numbered(&self.has_network, true);
        resolving.retain(|id| is_resolving(&self.rules, *id));
        Ok(Engine {
            unconditional: numbered(&self.has_destination, false),
            resolving,
            rules: self.rules,
            default: self.default,
            domains: self.domains,
            regexes,
            regex_rules,
            networks: self.networks.finish(),
            countries: self.countries,
            country_rules: self.country_rules,
        })
    }
}

fn is_resolving(rules: &[Rule], id: RuleId) -> bool {
    rules.get(id.0 as usize).is_some_and(|rule| rule.resolves)
}

impl Engine {
    /// What happens to `query`. `addresses` are those of its host, if that is a name and they are known.
    #[must_use]
    pub fn decide(&self, query: &Query<'_>, addresses: Option<&[IpAddr]>) -> Step<'_> {
        let mut first = None;
        self.earlier(&mut first, &self.unconditional, query, |_| true);
        match query.host {
            Host::Domain(name) => {
                self.earlier_by_name(&mut first, name, query);
                let resolves = |id| is_resolving(&self.rules, id);
                match addresses {
                    Some(addresses) => {
                        for ip in addresses {
                            self.earlier_by_address(&mut first, *ip, query, resolves);
                        }
                    }
                    None => {
                        let before = first;
                        self.earlier(&mut first, &self.resolving, query, |_| true);
                        if first != before {
                            return Step::Resolve;
                        }
                    }
                }
            }
            Host::Ip(ip) => self.earlier_by_address(&mut first, ip, query, |_| true),
            Host::Claimed(name, ip) => {
                self.earlier_by_name(&mut first, name, query);
                self.earlier_by_address(&mut first, ip, query, |_| true);
            }
        }
        Step::Decided(Decision {
            action: first
                .and_then(|id: RuleId| self.rule(id))
                .map_or(&self.default, |rule| &rule.to),
            rule: first,
        })
    }

    /// Whether a rule looks at names.
    #[must_use]
    pub fn has_names(&self) -> bool {
        !self.domains.is_empty() || !self.regex_rules.is_empty()
    }

    fn earlier_by_name(&self, first: &mut Option<RuleId>, name: &str, query: &Query<'_>) {
        self.domains.find(name, |rules, _| {
            self.earlier(first, rules, query, |_| true);
        });
        if self.regex_rules.is_empty() {
            return;
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        for index in self.regexes.matches(name.as_bytes()) {
            let rule = self
                .regex_rules
                .get(index)
                .map_or(&[][..], std::slice::from_ref);
            self.earlier(first, rule, query, |_| true);
        }
    }

    fn earlier_by_address(
        &self,
        first: &mut Option<RuleId>,
        ip: IpAddr,
        query: &Query<'_>,
        takes: impl Fn(RuleId) -> bool + Copy,
    ) {
        self.earlier(first, self.networks.find(ip), query, takes);
        if !self.country_rules.is_empty()
            && let Some(code) = self.countries.as_ref().and_then(|of| of(ip.to_canonical()))
            && let Some(rules) = self.country_rules.get(&code)
        {
            self.earlier(first, rules, query, takes);
        }
    }

    /// Moves `first` to the earliest of `rules` that comes before it and whose other conditions hold.
    fn earlier(
        &self,
        first: &mut Option<RuleId>,
        rules: &[RuleId],
        query: &Query<'_>,
        takes: impl Fn(RuleId) -> bool,
    ) {
        let before = rules
            .iter()
            .take_while(|id| first.is_none_or(|first| **id < first));
        let mut fitting = before
            .filter(|id| takes(**id) && self.rule(**id).is_some_and(|rule| rule.admits(query)));
        if let Some(id) = fitting.next() {
            *first = Some(*id);
        }
    }

    /// A rule by its place.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        self.rules.get(id.0 as usize)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use std::path::Path;

    use super::super::rule::{Network, Origin};
    use super::*;

    fn action(engine: &Engine, host: Host<'_>) -> Action {
        let query = Query {
            host,
            port: 443,
            network: Network::Tcp,
            user: None,
            local: None,
        };
        match engine.decide(&query, None) {
            Step::Decided(decision) => decision.action.clone(),
            Step::Resolve => panic!("its address is known"),
        }
    }

    #[test]
    fn claimed_name_and_address_both_count_and_the_first_rule_decides() {
        let mut builder = Builder::new(Action::Proxy);
        let mut rule = |to: &Action, resolves: bool, network: Option<&str>, name: Option<&str>| {
            let origin = Origin {
                file: Path::new("").into(),
                line: 0,
            };
            let mut rule = Rule::new(to.clone(), origin);
            rule.resolves = resolves;
            builder.rule(rule);
            if let Some(network) = network {
                builder.network(network.parse().unwrap());
            }
            if let Some(name) = name {
                builder.domain(Kind::Suffix, name).unwrap();
            }
        };
        rule(&Action::Block, true, Some("10.0.0.0/8"), None);
        rule(&Action::Direct, true, None, Some("direct.test"));
        rule(&Action::Block, false, Some("192.0.2.0/24"), None);
        let engine = builder.build().unwrap();
        assert!(engine.has_names());
        let claimed = |name, ip: &str| action(&engine, Host::Claimed(name, ip.parse().unwrap()));
        assert_eq!(claimed("a.direct.test", "203.0.113.1"), Action::Direct);
        // A name that lies does not open what its address closes.
        assert_eq!(claimed("a.direct.test", "10.0.0.1"), Action::Block);
        assert_eq!(claimed("a.direct.test", "192.0.2.1"), Action::Direct);
        assert_eq!(claimed("other.test", "192.0.2.1"), Action::Block);
        assert_eq!(claimed("other.test", "203.0.113.1"), Action::Proxy);
        assert!(!Builder::new(Action::Proxy).build().unwrap().has_names());
    }
}
