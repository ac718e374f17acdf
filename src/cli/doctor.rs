//! `ssr doctor`: prints what is found.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueHint};
use serde_json::{Value, json};
use ssr::app::doctor::report::{Event, Finding, Problem, Step, Verdict};
use ssr::app::doctor::{Settings, Web, diagnose};
use ssr::config::{self, Config, Overrides, Role};
use ssr::wire::Address;

use super::check::role;
use super::output::{CONFIG, SOFTWARE, no_config, print, print_error, report, usage_error};

/// The defaults: both serve everybody, by HTTP and from everywhere.
const DOWN: &str = "http://speed.cloudflare.com/__down?bytes=16000000";
const UP: &str = "http://speed.cloudflare.com/__up";
const NAME_SERVER: &str = "1.1.1.1:53";

/// Columns before the text of a finding.
const INDENT: usize = 22;

#[derive(Args)]
pub(crate) struct DoctorArgs {
    /// The config file [default: the file that the role would use]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// The role whose config is tried: local or server [default: local, if the file is for it]
    #[arg(long, value_name = "ROLE", value_parser = role)]
    role: Option<Role>,
    /// A large file on the web, by HTTP. It is requested through the servers, and uploads go there too
    #[arg(long, visible_alias = "target", value_name = "URL", value_hint = ValueHint::Url)]
    url: Option<String>,
    /// The name server that is asked through the servers, and directly where the name of a server is in doubt
    #[arg(long, value_name = "HOST[:PORT]", default_value = NAME_SERVER)]
    name_server: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl DoctorArgs {
    /// `ssr doctor`.
    pub(crate) fn run(self) -> ExitCode {
        let settings = match self.settings() {
            Ok(settings) => settings,
            Err(message) => return usage_error(&message),
        };
        let config = match self.load() {
            Ok(config) => config,
            Err(code) => return code,
        };
        if !self.json {
            report(&config.warnings, false);
        }
        let shown = Shown::new(&config, self.json);
        match diagnose(&config, &settings, &|event| shown.event(event)) {
            Ok(found) => {
                shown.end(&found);
                ExitCode::from(u8::from(found.iter().any(Finding::is_fault)))
            }
            Err(message) => {
                print_error(&message);
                SOFTWARE.into()
            }
        }
    }

    fn load(&self) -> Result<Config, ExitCode> {
        let load = |role| match self.config.clone().or_else(|| config::default_path(role)) {
            Some(path) => Ok(config::load(Some(&path), role, &Overrides::default())),
            None => Err(usage_error(&no_config(&config::lookup_places(role)))),
        };
        let loaded = match load(self.role.unwrap_or(Role::Local))? {
            Err(found) if self.role.is_none() && config::is_for_other_role(&found) => {
                load(Role::Server)?
            }
            loaded => loaded,
        };
        loaded.map_err(|found| {
            report(&found, false);
            CONFIG.into()
        })
    }

    fn settings(&self) -> Result<Settings, String> {
        let wrong = |flag: &str, text: &str| format!("{flag}: `{text}` is not of this form");
        let name_server = address(&self.name_server, 53)
            .ok_or_else(|| wrong("--name-server", &self.name_server))?;
        let web = |text: &str| {
            web(text).ok_or_else(|| {
                format!("--url: `{text}` is not `http://HOST[:PORT][/PATH]`; https is not supported here")
            })
        };
        Ok(Settings {
            down: web(self.url.as_deref().unwrap_or(DOWN))?,
            up: web(self.url.as_deref().unwrap_or(UP))?,
            name_server,
        })
    }
}

/// `HOST`, `HOST:PORT` or an address of either version.
fn address(text: &str, port: u16) -> Option<Address> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Ok(ip) = bare.unwrap_or(text).parse::<IpAddr>() {
        return Some(Address::Ip((ip, port).into()));
    }
    match text.contains(':') {
        true => text.parse().ok().filter(|found: &Address| found.port() > 0),
        false => Address::domain(text, port).ok(),
    }
}

/// `http://HOST[:PORT][/PATH]`, or `HOST:PORT` alone.
fn web(text: &str) -> Option<Web> {
    let rest = match text.split_once("://") {
        Some(("http", rest)) => rest,
        Some(_) => return None,
        None => text,
    };
    let (host, path) = match rest.split_once('/') {
        Some((host, path)) => (host, format!("/{path}")),
        None => (rest, "/".to_owned()),
    };
    let printable = path.bytes().all(|byte| byte.is_ascii_graphic());
    let target = address(host, 80).filter(|_| printable)?;
    Some(Web {
        target,
        host: host.to_owned(),
        path,
    })
}

/// Prints on the way, unless it is JSON.
struct Shown {
    json: bool,
    /// Standard error is a terminal, where a line may come and go.
    progress: bool,
    /// Several servers have their names before what is found.
    named: bool,
    last: Cell<Option<usize>>,
    names: Vec<String>,
}

impl Shown {
    fn new(config: &Config, json: bool) -> Self {
        let names: Vec<String> = config
            .servers
            .iter()
            .map(|server| server.name.clone())
            .collect();
        Self {
            json,
            progress: io::stderr().is_terminal(),
            named: names.len() > 1,
            last: Cell::new(None),
            names,
        }
    }

    fn event(&self, event: Event<'_>) {
        match event {
            Event::Begins(step, server) => self.progress(Some((step, server))),
            Event::Found(finding) => {
                self.progress(None);
                if !self.json {
                    print(&self.text(finding));
                }
            }
        }
    }

    /// Shows what is being tried, or takes that away.
    fn progress(&self, step: Option<(Step, Option<&str>)>) {
        if !self.progress {
            return;
        }
        let text = match step {
            Some((step, Some(server))) => format!("\r\x1b[K… {} of {server}", step.name()),
            Some((step, None)) => format!("\r\x1b[K… {}", step.name()),
            None => "\r\x1b[K".to_owned(),
        };
        let mut stderr = io::stderr();
        let _ = stderr.write_all(text.as_bytes());
        let _ = stderr.flush();
    }

    fn text(&self, finding: &Finding) -> String {
        let mut text = String::new();
        if let (true, Some(server)) = (self.named, &finding.server) {
            let place = self.names.iter().position(|name| name == server);
            if place != self.last.replace(place) {
                let _ = writeln!(text, "server {server}:");
            }
        }
        let (word, what, problem) = parts(&finding.verdict);
        let _ = writeln!(text, "{word:<8} {:<12} {what}", finding.step.name());
        if let Some(problem) = problem {
            let _ = writeln!(text, "{:INDENT$}where: {}", "", problem.place);
            let _ = writeln!(text, "{:INDENT$}do:    {}", "", problem.cure);
        }
        text
    }

    fn end(&self, found: &[Finding]) {
        if self.json {
            let ok = !found.iter().any(Finding::is_fault);
            let findings: Vec<Value> = found.iter().map(value).collect();
            print(&format!("{:#}\n", json!({"ok": ok, "findings": findings})));
            return;
        }
        let count = |word: &str| {
            let same = found.iter().filter(|one| parts(&one.verdict).0 == word);
            same.count()
        };
        let text = match (count("fault"), count("warning")) {
            (0, 0) => "everything works\n".to_owned(),
            (0, warnings) => format!("no faults; warnings: {warnings}\n"),
            (faults, warnings) => format!("faults: {faults}; warnings: {warnings}\n"),
        };
        print(&text);
    }
}

fn parts(verdict: &Verdict) -> (&'static str, &str, Option<&Problem>) {
    match verdict {
        Verdict::Ok(text) => ("ok", text, None),
        Verdict::Skipped(text) => ("-", text, None),
        Verdict::Warning(problem) => ("warning", &problem.what, Some(problem)),
        Verdict::Fault(problem) => ("fault", &problem.what, Some(problem)),
    }
}

fn value(finding: &Finding) -> Value {
    let (word, what, problem) = parts(&finding.verdict);
    let mut value = json!({
        "step": finding.step,
        "server": finding.server,
        "result": if word == "-" { "skipped" } else { word },
        "what": what,
    });
    if let (Some(problem), Some(fields)) = (problem, value.as_object_mut()) {
        fields.insert("code".to_owned(), json!(problem.code));
        fields.insert("where".to_owned(), json!(problem.place));
        fields.insert("do".to_owned(), json!(problem.cure));
    }
    value
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn targets_are_read_in_each_form() {
        for (text, target, host, path) in [
            ("http://a.example/b?c", "a.example:80", "a.example", "/b?c"),
            ("http://[::1]:81", "[::1]:81", "[::1]:81", "/"),
            ("192.0.2.1:8080", "192.0.2.1:8080", "192.0.2.1:8080", "/"),
        ] {
            let web = web(text).unwrap();
            assert_eq!(
                (
                    web.target.to_string().as_str(),
                    web.host.as_str(),
                    web.path.as_str()
                ),
                (target, host, path)
            );
        }
        for text in [
            "https://a.example/",
            "http://",
            "http://a.example/\u{e4}",
            "a.example:0",
        ] {
            assert!(web(text).is_none(), "{text}");
        }
        assert_eq!(address("::1", 53).unwrap().to_string(), "[::1]:53");
    }
}
