//! `ssr acl test`: which rule decides about a target, and what it decides.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::runtime;

use crate::config::{Config, Role};
use crate::dns::Resolver;
use crate::route::{Action, Host, Live, Network, Query, Step};
use crate::wire::Address;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// The target.
    pub target: Address,
    /// Whether datagrams are sent to it, and not a stream.
    pub is_udp: bool,
    /// Whose request it is.
    pub user: Option<String>,
}

/// Answers for every listener of `config`, in lines of text.
///
/// # Errors
/// When a runtime or the resolver cannot be started.
pub fn explain(config: &Config, question: &Question) -> Result<String, String> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let resolver = super::resolver(config).map_err(|error| error.to_string())?;
        let mut answers = Vec::new();
        for (listener, rules) in listeners(config) {
            let answer = match rules {
                Some(live) => answer(&live, question, &listener, config.role, &resolver).await,
                None => format!("{}: there are no rules\n", without_rules(config.role)),
            };
            answers.push((listener, answer));
        }
        Ok(text(&answers, question, config.role))
    })
}

fn listeners(config: &Config) -> Vec<(String, Option<Arc<Live>>)> {
    match config.role {
        Role::Local => {
            let locals = config.locals.iter();
            locals
                .map(|local| (local.place(), local.rules.clone()))
                .collect()
        }
        Role::Server | Role::Forward => {
            let servers = config.servers.iter();
            servers
                .map(|server| (server.address.to_string(), server.rules.clone()))
                .collect()
        }
    }
}

const fn without_rules(role: Role) -> &'static str {
    match role {
        Role::Local => "proxy",
        Role::Server | Role::Forward => "allow",
    }
}

/// Joins the answers; those that are the same stand there once.
fn text(answers: &[(String, String)], question: &Question, role: Role) -> String {
    let network = if question.is_udp { "UDP" } else { "TCP" };
    let mut text = String::new();
    let mut told: Vec<&str> = Vec::new();
    for (_, answer) in answers {
        if told.contains(&answer.as_str()) {
            continue;
        }
        told.push(answer);
        let same = answers.iter().filter(|(_, other)| other == answer);
        let at: Vec<&str> = same.map(|(listener, _)| listener.as_str()).collect();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{} over {network}, ssr {} at {}: {answer}",
            question.target,
            role.name(),
            at.join(", ")
        );
    }
    text
}

/// The decision of one listener, and why.
async fn answer(
    live: &Live,
    question: &Question,
    listener: &str,
    role: Role,
    resolver: &Resolver,
) -> String {
    let current = live.current();
    let name = match &question.target {
        Address::Ip(_) => None,
        Address::Domain(name, _) => Some(name),
    };
    let query = Query {
        host: match &question.target {
            Address::Ip(address) => Host::Ip(address.ip()),
            Address::Domain(name, _) => Host::of_name(name),
        },
        port: question.target.port(),
        network: if question.is_udp {
            Network::Udp
        } else {
            Network::Tcp
        },
        user: question.user.as_deref(),
        local: (role == Role::Local).then_some(listener),
    };
    let mut notes = String::new();
    let mut addresses: Vec<IpAddr> = Vec::new();
    if let (Step::Resolve, Some(name)) = (current.decide(&query, None), name) {
        match resolver.lookup(name).await {
            Ok(found) => {
                addresses = found.to_vec();
                let list: Vec<String> = found.iter().map(ToString::to_string).collect();
                let _ = writeln!(
                    notes,
                    "  resolved: {} (a rule compares addresses)",
                    list.join(", ")
                );
            }
            Err(error) => {
                let _ = writeln!(
                    notes,
                    "  not resolved: {error} (a rule compares addresses; without them it does not hold)"
                );
            }
        }
    }
    let Step::Decided(decision) = current.decide(&query, Some(&addresses)) else {
        return "undecided\n".to_owned();
    };
    let action = match (role, decision.action) {
        (Role::Server, Action::Direct | Action::Proxy | Action::Server(_)) => "allow".to_owned(),
        (_, Action::Server(name)) => format!("server `{name}`"),
        (_, action) => action.to_string(),
    };
    let mut text = format!("{action}\n");
    let reasons = live.source().explain(&current, &query, &addresses);
    if reasons.is_empty() {
        text.push_str("  no rule matches\n");
    }
    for reason in reasons {
        let _ = writeln!(text, "  {}: {}", reason.origin, reason.what);
    }
    text + &notes
}
