//! `ssr doctor`: tries what a config says, step by step, and names the fault and the cure.
//!
//! A step is a function that returns a [`Verdict`]; [`diagnose`] is their order. Nothing is asked of a server that its
//! protocol does not offer, so this works with any Shadowsocks server. Requests go through the parts of the services that
//! `ssr local` and `ssr server` are built of.
//!
//! - `report.rs`: findings as data; `context.rs`: what all steps share.
//! - `machine.rs`, `owners.rs`, `leaks.rs`: the machine, its ports and files, what goes past the servers.
//! - `names.rs`, `path.rs`, `layers.rs`, `beside.rs`, `key.rs`, `clock.rs`: the way to a server, outermost
//!   first.
//! - `packets.rs`, `loss.rs`, `bulk.rs`: datagrams, lost packets, long packets and speed.
//! - `serving.rs`: what concerns `ssr server`.
//! - `exchange.rs`, `query.rs`, `web.rs`: a request through a server, and how the server reacts.

mod beside;
mod bulk;
mod clock;
mod context;
mod exchange;
mod key;
mod layers;
mod leaks;
mod loss;
mod machine;
mod names;
mod owners;
mod packets;
mod path;
mod query;
pub mod report;
mod serving;
mod web;

use std::cell::RefCell;
use std::sync::Arc;

use tokio::runtime;

use crate::config::{Config, Role, Server};
use crate::outbound::dialer::is_private;
use crate::wire::Address;
use context::{Context, Sink};
pub use context::{Settings, Web};
use key::{Known, Subject};
use query::Said;
use report::{Code, Event, Finding, Problem, Step, Verdict};

/// Tries everything, and calls `show` on the way.
///
/// # Errors
/// When a runtime or the resolver cannot be started.
pub fn diagnose(
    config: &Config,
    settings: &Settings,
    show: &dyn Fn(Event<'_>),
) -> Result<Vec<Finding>, String> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let resolver = super::resolver(config).map_err(|error| error.to_string())?;
        let sink = Sink {
            show,
            found: RefCell::default(),
        };
        let cx = Context::new(config, settings, Arc::new(resolver), sink);
        machine(&cx).await;
        match config.role {
            Role::Server => serving(&cx).await,
            Role::Local | Role::Forward => {
                cx.begin(Step::Leaks, None);
                for verdict in leaks::leaks(&cx) {
                    cx.note(Step::Leaks, None, verdict);
                }
                for server in &config.servers {
                    Box::pin(way(&cx, server)).await;
                }
            }
        }
        Ok(cx.into_findings())
    })
}

/// The machine itself.
async fn machine(cx: &Context<'_>) {
    cx.begin(Step::Ports, None);
    let (ports, running) = machine::ports(cx).await;
    cx.note(Step::Files, None, machine::files(cx, running.as_ref()));
    for verdict in ports {
        cx.note(Step::Ports, None, verdict);
    }
    if names::needs_names(cx) {
        cx.step(Step::NameServers, None, names::invalid_name(cx))
            .await;
    }
}

/// What concerns `ssr server`.
async fn serving(cx: &Context<'_>) {
    for server in &cx.config.servers {
        if let Some(verdict) = serving::certificate(cx, server) {
            cx.note(Step::Certificate, Some(&server.name), verdict);
        }
    }
    cx.step(Step::Targets, None, serving::targets(cx)).await;
    cx.step(Step::Clock, None, clock::against_the_web(cx)).await;
}

/// The way through a server, as far as it goes.
async fn way(cx: &Context<'_>, server: &Server) {
    let name = Some(server.name.as_str());
    if cx.is_late() {
        let skipped = "there was no time left: give it a config of its own".to_owned();
        cx.note(Step::Tcp, name, Verdict::Skipped(skipped));
        return;
    }
    let fails = |error: String, code| {
        let problem = Problem::new(
            code,
            error,
            format!("server {}", server.name),
            "correct the config",
        );
        Verdict::Fault(problem)
    };
    let plugin = match cx.parts.plugin(server).await {
        Ok(plugin) => plugin,
        Err(error) => {
            cx.note(
                Step::Transport,
                name,
                fails(error.to_string(), Code::Plugin),
            );
            return;
        }
    };
    let endpoint = match cx.endpoint(server, &plugin) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            cx.note(
                Step::Transport,
                name,
                fails(error.to_string(), Code::Config),
            );
            return;
        }
    };
    let subject = Subject {
        server,
        plugin: &plugin,
        endpoint: &endpoint,
    };
    cx.begin(Step::Name, name);
    let (verdict, addresses) = names::resolve(cx, &server.address).await;
    cx.note(Step::Name, name, verdict);
    let Some(addresses) = addresses else { return };
    let known = Box::pin(reach(cx, &subject, &addresses)).await;
    let Some(known) = known else {
        if let Some(verdict) = names::second_opinion(cx, &server.address, &addresses).await {
            cx.note(Step::Name, name, verdict);
        }
        return;
    };
    Box::pin(quality(cx, &subject, &known)).await;
}

/// From the routes to the key; `None`: there is a fault.
async fn reach(
    cx: &Context<'_>,
    subject: &Subject<'_>,
    addresses: &[std::net::IpAddr],
) -> Option<Known> {
    let Subject {
        server,
        plugin,
        endpoint,
    } = subject;
    let name = Some(server.name.as_str());
    let mut routed = addresses.to_vec();
    if endpoint.dialer.proxies.is_none() {
        let (verdict, found) = path::routes(endpoint, addresses);
        let is_fault = matches!(verdict, Verdict::Fault(_));
        cx.note(Step::Route, name, verdict);
        if is_fault {
            return None;
        }
        routed = found;
    }
    let tcp = path::tcp(cx, endpoint, &routed);
    if !cx.step(Step::Tcp, name, tcp).await {
        return None;
    }
    let transport = beside::handshake(cx, server, plugin, endpoint, &routed);
    if !cx.step(Step::Transport, name, transport).await {
        return None;
    }
    let mut known = None;
    let tried = async {
        let tried = key::try_key(cx, subject).await;
        let verdict = tried.verdict.clone();
        known = Some(tried);
        verdict
    };
    let works = cx.step(Step::Key, name, tried).await;
    known.filter(|_| works)
}

/// What can be measured once the key works.
async fn quality(cx: &Context<'_>, subject: &Subject<'_>, known: &Known) {
    let name = Some(subject.server.name.as_str());
    cx.step(Step::Clock, name, clock::measure(cx, subject.endpoint))
        .await;
    cx.step(Step::Dns, name, dns(cx, known)).await;
    let packets_pass = cx
        .step(Step::Udp, name, packets::udp(cx, subject, known))
        .await;
    let with_packets = packets_pass && packets::are_wanted(subject);
    let mtu = bulk::mtu(cx, subject, known.reaches_web);
    let long_packets_pass = cx.step(Step::Mtu, name, mtu).await;
    cx.step(Step::Loss, name, loss::loss(cx, subject, with_packets))
        .await;
    if long_packets_pass {
        cx.step(
            Step::Speed,
            name,
            bulk::speed(cx, subject, known.reaches_web),
        )
        .await;
    }
}

/// What the name server says through the server, beside what is said here.
async fn dns(cx: &Context<'_>, known: &Known) -> Verdict {
    let name_server = &cx.settings.name_server;
    let name = query::asked_name(&cx.settings.down);
    match &known.said {
        Some(Said::Addresses(found)) if !found.is_empty() => {
            let here = match &cx.settings.down.target {
                Address::Domain(name, _) => cx.resolver.lookup(name).await.ok(),
                Address::Ip(_) => None,
            };
            let here = here.unwrap_or_else(|| [].into());
            let is_lie = !here.is_empty()
                && here.iter().all(|ip| is_private(*ip))
                && !found.iter().any(|ip| is_private(*ip));
            match is_lie {
                true => Verdict::Warning(Problem::new(
                    Code::LyingDns,
                    format!(
                        "{name} is {} here, a private address, and {} through the server",
                        names::list(&here),
                        names::list(found)
                    ),
                    "the name servers of this machine",
                    "let the server resolve names (socks5h, or a `dns` local)",
                )),
                false => Verdict::Ok(format!(
                    "{name_server} says through the server that {name} is {}",
                    names::list(found)
                )),
            }
        }
        Some(_) => Verdict::Ok(format!("{name_server} answers through the server")),
        None => Verdict::Warning(Problem::new(
            Code::DnsThroughServer,
            format!("{name_server} does not answer through the server (DNS over TCP)"),
            "from the server to the name server",
            "choose a name server that the server reaches with `--name-server HOST:PORT`; a `dns` local needs one in `remote_dns_address`",
        )),
    }
}
