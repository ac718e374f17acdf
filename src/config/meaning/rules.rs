//! `rules`, `acl` and `geoip_file`: what goes where.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::limits::MAX_RULES;
use crate::route::domains::Kind;
use crate::route::entry::{Entry, network};
use crate::route::list::ListName;
use crate::route::source::{Part, SourceError};
use crate::route::{Action, Builder, Live, Network, Origin, Rule, Side, Source, Written};

use super::context::{Context, filled, key_at};
use super::model::{AclFile, Local, Server};
use crate::config::role::Role;
use crate::config::written::file::{self, Top};
use crate::config::written::scalar::Strings;

/// The ACL file of the object at `at`.
pub(super) fn acl_file(written: Option<&str>, at: &str) -> Option<AclFile> {
    let path = filled(written)?;
    Some(AclFile {
        at: key_at(at, "acl"),
        path: path.into(),
    })
}

/// Gives each listener or server its rules.
pub(super) fn attach(
    top: &Top,
    servers: &mut [Server],
    locals: &mut [Local],
    cx: &mut Context<'_>,
) {
    let rules: Arc<[Written]> = rules(top, servers, locals, cx).into();
    let common = acl_file(top.acl.as_deref(), "");
    let mut sets = Sets {
        rules,
        geoip: filled(top.geoip_file.as_deref()).map(PathBuf::from),
        made: HashMap::new(),
    };
    match cx.role {
        Role::Local => {
            for local in locals {
                local.acl = local.acl.take().or_else(|| common.clone());
                local.rules = sets.of(Side::Local, local.acl.as_ref(), cx);
            }
        }
        Role::Server => {
            for server in servers {
                server.acl = server.acl.take().or_else(|| common.clone());
                server.rules = sets.of(Side::Server, server.acl.as_ref(), cx);
            }
        }
        Role::Forward => {}
    }
}

/// Sets of rules: listeners with the same ACL file share one.
struct Sets {
    rules: Arc<[Written]>,
    geoip: Option<PathBuf>,
    made: HashMap<Option<PathBuf>, Option<Arc<Live>>>,
}

impl Sets {
    /// The rules with an ACL file, unless there are none of either, or files must not be read.
    fn of(&mut self, side: Side, acl: Option<&AclFile>, cx: &mut Context<'_>) -> Option<Arc<Live>> {
        if !cx.files || (self.rules.is_empty() && acl.is_none()) {
            return None;
        }
        let path = acl.map(|acl| acl.path.clone());
        if let Some(made) = self.made.get(&path) {
            return made.clone();
        }
        let uses_geoip = self.rules.iter().any(|rule| !rule.countries.is_empty());
        let source = Source {
            side,
            rules: Arc::clone(&self.rules),
            geoip: self.geoip.clone().filter(|_| uses_geoip),
            acl: path.clone(),
        };
        let at = acl.map_or("acl", |acl| acl.at.as_str());
        let live = match Live::new(source) {
            Ok(live) => {
                let skipped = &live.current().skipped;
                if let Some(line) = skipped.first() {
                    let message = format!(
                        "{} lines are left out, the first is line {line}: they are not ASCII",
                        skipped.len()
                    );
                    cx.report
                        .warn_hint(at, message, "write names in Punycode, as `xn--…`");
                }
                Some(Arc::new(live))
            }
            Err(error) => {
                report(&error, &self.rules, at, cx);
                None
            }
        };
        self.made.insert(path, live.clone());
        live
    }
}

/// Reports what is wrong with the files of rules, at the key that names the file.
fn report(error: &SourceError, rules: &[Written], acl: &str, cx: &mut Context<'_>) {
    let key = |index: usize| rules.get(index).map_or("rules", |rule| &*rule.at);
    let path = match error.part {
        Part::List(rule, _) => key_at(key(rule), "list"),
        Part::Rule(rule) => key(rule).to_owned(),
        Part::Rules => "rules".to_owned(),
        Part::Geoip => "geoip_file".to_owned(),
        Part::Acl => acl.to_owned(),
    };
    let path = match error.part {
        Part::List(rule, place) if rules.get(rule).is_some_and(|rule| rule.lists.len() > 1) => {
            format!("{path}[{place}]")
        }
        _ => path,
    };
    cx.report.error(&path, error.message.clone());
}

/// The rules that are not disabled.
fn rules(top: &Top, servers: &[Server], locals: &[Local], cx: &mut Context<'_>) -> Vec<Written> {
    let listed = top.rules.as_deref().unwrap_or_default();
    if listed.len() > MAX_RULES {
        cx.report.error_hint(
            "rules",
            format!("too many rules: the limit is {MAX_RULES}"),
            "put destinations that go the same way into one `list`",
        );
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, entry) in listed.iter().enumerate() {
        if entry.disabled == Some(true) {
            continue;
        }
        let at = format!("rules[{index}]");
        let to = action(entry, &at, servers, cx);
        let origin = Origin {
            file: cx.file.into(),
            line: cx.report.line(&at),
        };
        let mut rule = Rule::new(to.unwrap_or(Action::Block), origin);
        rule.ports = ports(entry.port.as_ref(), &key_at(&at, "port"), cx);
        rule.network = travels(entry, &at, cx);
        rule.users = users(entry, &at, cx);
        rule.locals = listeners(entry, &at, locals, cx);
        found.push(Written {
            rule,
            entries: entries(entry, &at, cx),
            countries: countries(entry, &at, top, cx),
            lists: lists(entry, &at, cx),
            at,
        });
    }
    found
}

fn action(
    entry: &file::Rule,
    at: &str,
    servers: &[Server],
    cx: &mut Context<'_>,
) -> Option<Action> {
    let path = key_at(at, "to");
    let hint = "use `direct`, `block`, `proxy` or the `remarks` of a server";
    match entry.to.as_deref() {
        None | Some("") => {
            cx.report
                .error_hint(&path, "missing: where the rule sends a request", hint);
            None
        }
        Some("direct") => Some(Action::Direct),
        Some("block") => Some(Action::Block),
        Some("proxy") => Some(Action::Proxy),
        Some(name) if servers.iter().any(|server| server.is_named(name)) => {
            Some(Action::Server(name.into()))
        }
        Some(name) => {
            cx.report.unknown(&path, "server", name, hint);
            None
        }
    }
}

/// The values of a condition. An empty list would match nothing, and its author hardly meant everything.
fn values<'a>(
    written: Option<&'a Strings>,
    path: &str,
    cx: &mut Context<'_>,
) -> Vec<(String, &'a str)> {
    let Some(written) = written else {
        return Vec::new();
    };
    if written.items.is_empty() {
        cx.report.error_hint(
            path,
            "an empty list matches nothing",
            "remove the key for a rule without this condition",
        );
    }
    let items = written.items.iter().enumerate();
    items
        .map(|(index, text)| (written.path_of(path, index), text.as_str()))
        .collect()
}

/// Reads a destination; `None`: it is none.
type Read = fn(&str) -> Option<Entry>;

/// Names, expressions and networks.
fn entries(entry: &file::Rule, at: &str, cx: &mut Context<'_>) -> Vec<Entry> {
    let mut found = Vec::new();
    let kinds: [(&str, &Option<Strings>, Read); 5] = [
        ("domain", &entry.domain, |text| {
            Some(Entry::Domain(Kind::Exact, text.to_owned()))
        }),
        ("domain_suffix", &entry.domain_suffix, |text| {
            let name = text.strip_prefix('.').unwrap_or(text);
            Some(Entry::Domain(Kind::Suffix, name.to_owned()))
        }),
        ("domain_keyword", &entry.domain_keyword, |text| {
            (!text.is_empty()).then(|| Entry::Keyword(text.to_owned()))
        }),
        ("domain_regex", &entry.domain_regex, |text| {
            Some(Entry::Regex(text.to_owned()))
        }),
        ("ip", &entry.ip, |text| network(text).map(Entry::Network)),
    ];
    for (key, written, read) in kinds {
        for (path, text) in values(written.as_ref(), &key_at(at, key), cx) {
            match read(text) {
                None if key == "ip" => cx.report.error_hint(
                    &path,
                    format!("`{text}`: not an IP address or network"),
                    "use `192.0.2.1` or `10.0.0.0/8`",
                ),
                None => cx.report.error(&path, "empty"),
                Some(entry) => match check(&entry) {
                    Ok(()) => found.push(entry),
                    Err(error) => cx.report.error(&path, error),
                },
            }
        }
    }
    found
}

/// Whether rules can be built with `entry`.
fn check(entry: &Entry) -> Result<(), String> {
    let mut builder = Builder::new(Action::Block);
    let origin = Origin {
        file: Path::new("").into(),
        line: 0,
    };
    builder.rule(Rule::new(Action::Block, origin));
    let added = entry.clone().add_to(&mut builder);
    let built = added.and_then(|()| match entry {
        Entry::Regex(_) => builder.build().map(drop),
        _ => Ok(()),
    });
    built.map_err(|error| error.to_string())
}

fn countries(entry: &file::Rule, at: &str, top: &Top, cx: &mut Context<'_>) -> Vec<[u8; 2]> {
    let path = key_at(at, "geoip");
    let mut found = Vec::new();
    for (path, text) in values(entry.geoip.as_ref(), &path, cx) {
        let code = <[u8; 2]>::try_from(text.as_bytes());
        match code
            .ok()
            .filter(|code| code.iter().all(u8::is_ascii_alphabetic))
        {
            Some(code) => found.push(code),
            None => {
                let message = format!("`{text}`: a country is its two letters, as in `cn`");
                cx.report.error(&path, message);
            }
        }
    }
    if !found.is_empty() && filled(top.geoip_file.as_deref()).is_none() {
        cx.report.error_hint(
            &path,
            "needs `geoip_file`, the database of countries",
            "set it to a MaxMind database (.mmdb) or to v2ray's geoip.dat",
        );
    }
    found
}

fn lists(entry: &file::Rule, at: &str, cx: &mut Context<'_>) -> Vec<ListName> {
    let mut found = Vec::new();
    for (path, text) in values(entry.list.as_ref(), &key_at(at, "list"), cx) {
        match ListName::parse(text, Path::new("")) {
            Ok(list) => found.push(list),
            Err(error) => cx.report.error(&path, error.to_string()),
        }
    }
    found
}

fn travels(entry: &file::Rule, at: &str, cx: &mut Context<'_>) -> Option<Network> {
    match entry.network.as_deref().filter(|text| !text.is_empty())? {
        "tcp" => Some(Network::Tcp),
        "udp" => Some(Network::Udp),
        other => {
            let path = key_at(at, "network");
            let hint = "use `tcp` or `udp`, or remove the key for both";
            cx.report.unknown(&path, "network", other, hint);
            None
        }
    }
}

fn users(entry: &file::Rule, at: &str, cx: &mut Context<'_>) -> Vec<Box<str>> {
    let path = key_at(at, "user");
    let found = values(entry.user.as_ref(), &path, cx);
    found.into_iter().map(|(_, text)| text.into()).collect()
}

/// The listeners of `ssr local` that a rule is for, by their addresses. `ssr server` has none, and such a rule never
/// holds there.
fn listeners(
    entry: &file::Rule,
    at: &str,
    locals: &[Local],
    cx: &mut Context<'_>,
) -> Vec<Box<str>> {
    let mut found = Vec::new();
    for (path, text) in values(entry.local.as_ref(), &key_at(at, "local"), cx) {
        let known = locals.iter().any(|local| local.place() == text);
        if cx.role == Role::Local && !known {
            let all: Vec<String> = locals
                .iter()
                .map(|local| format!("`{}`", local.place()))
                .collect();
            cx.report.error_hint(
                &path,
                format!("no listener has the address `{text}`"),
                format!("use {}", all.join(" or ")),
            );
        }
        found.push(text.into());
    }
    found
}

/// `443`, `"443"`, `"8000-9000"`, or an array of these.
fn ports(written: Option<&Value>, path: &str, cx: &mut Context<'_>) -> Vec<RangeInclusive<u16>> {
    let items = match written {
        None | Some(Value::Null) => return Vec::new(),
        Some(Value::Array(items)) => items.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    let mut found = Vec::new();
    for item in items {
        match range(item) {
            Some(range) => found.push(range),
            None => cx.report.error_hint(
                path,
                "not a port or a range of ports",
                "use `443`, `\"8000-9000\"` or an array of these",
            ),
        }
    }
    if items.is_empty() {
        cx.report.error_hint(
            path,
            "an empty list matches nothing",
            "remove the key for a rule without this condition",
        );
    }
    found
}

fn range(item: &Value) -> Option<RangeInclusive<u16>> {
    if let Some(number) = item.as_u64() {
        let port = u16::try_from(number).ok()?;
        return Some(port..=port);
    }
    let text = item.as_str()?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last).then_some(first..=last)
}
