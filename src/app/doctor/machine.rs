//! The machine: open files, and the ports to listen on.

use std::io;

use super::context::Context;
use super::owners::{self, Owner};
use super::report::{Code, Problem, Verdict};
use crate::app::error::Error;
use crate::app::fd_limit::raise;
use crate::app::granted::Granted;
use crate::config::{self, Role};
use crate::net;
use crate::wire::Address;

/// Connections that a browser may open at once; with less, pages hang.
const FEW: usize = 128;
/// A process that uses more than this share of its files is near its limit, in hundredths.
const NEAR: u64 = 90;

/// The limit of open files of this shell, and of `ssr` where it runs.
pub(super) fn files(cx: &Context<'_>, running: Option<&Owner>) -> Verdict {
    let config = cx.config;
    if let Some(owner) = running
        && let Some((open, limit)) = owners::files(owner.id)
    {
        let place = format!("`{}` (process {})", owner.name, owner.id);
        if open * 100 >= limit * NEAR {
            return Verdict::Fault(Problem::new(
                Code::QuotaOfFiles,
                format!("{open} of {limit} files are open: new connections are refused or wait"),
                place,
                "raise the limit of open files (`LimitNOFILE` of systemd, `ulimit -n` of a shell), and start it again",
            ));
        }
        if limit_is_low(config, limit) {
            return low(config, limit, &place);
        }
        return Verdict::Ok(format!("{open} of {limit} open in {place}"));
    }
    match raise(config.nofile) {
        Some(limit) if limit_is_low(config, limit) => low(config, limit, "this shell"),
        Some(limit) => {
            let connections = connections(config, limit);
            Verdict::Ok(format!(
                "up to {limit}, enough for {connections} connections"
            ))
        }
        None => Verdict::Ok("not limited".to_owned()),
    }
}

/// Connections for which so many files are enough.
fn connections(config: &config::Config, files: u64) -> usize {
    let granted = Granted {
        files: Some(files),
        memory: None,
    };
    granted.places(config).1.connections
}

fn limit_is_low(config: &config::Config, limit: u64) -> bool {
    let connections = connections(config, limit);
    connections < FEW.min(config.limits.connections)
        || config.nofile.is_some_and(|wanted| wanted > limit)
}

fn low(config: &config::Config, limit: u64, place: &str) -> Verdict {
    let connections = connections(config, limit);
    let wanted = match config.nofile {
        Some(wanted) if wanted > limit => format!(" (`nofile` of the config asks for {wanted})"),
        _ => String::new(),
    };
    Verdict::Fault(Problem::new(
        Code::QuotaOfFiles,
        format!(
            "at most {limit} files may be open{wanted}: that is enough for {connections} connections only"
        ),
        place,
        "raise the hard limit of open files (`LimitNOFILE` of systemd, `ulimit -Hn` of a shell)",
    ))
}

/// One place to listen.
struct Place<'a> {
    address: &'a Address,
    is_udp: bool,
    options: &'a config::SocketOptions,
}

fn places(config: &config::Config) -> Vec<Place<'_>> {
    let mut all = Vec::new();
    let mut add = |address, is_udp, options| {
        all.push(Place {
            address,
            is_udp,
            options,
        });
    };
    for local in &config.locals {
        let place = local.address.address();
        // A path, and what systemd passes, is not tried here.
        if let (true, None, Some(address)) = (local.mode.tcp, &local.passed.tcp, place) {
            add(address, false, &config.socket);
        }
        let udp = local.udp_address.as_ref().or(place);
        if let (true, None, Some(address)) = (local.mode.udp, &local.passed.udp, udp) {
            add(address, true, &config.socket);
        }
    }
    if config.role == Role::Server {
        for server in &config.servers {
            if server.mode.tcp {
                add(&server.address, false, &server.socket);
            }
            if server.mode.udp {
                add(&server.address, true, &server.socket);
            }
        }
    }
    all
}

/// Tries to listen where the config says. Also returns the `ssr` that does so already.
pub(super) async fn ports(cx: &Context<'_>) -> (Vec<Verdict>, Option<Owner>) {
    let (mut free, mut ours, mut running) = (Vec::new(), Vec::new(), None);
    let mut faults: Vec<Verdict> = Vec::new();
    for place in places(cx.config) {
        let network = if place.is_udp { "udp" } else { "tcp" };
        let shown = format!("{network} {}", place.address);
        let bound = cx.parts.bind(place.address, place.options, place.is_udp);
        match bound.await {
            Ok(_) => free.push(shown),
            Err(error) => match fault(&error, &shown, &place) {
                Ok(owner) => {
                    ours.push(shown);
                    running = Some(owner);
                }
                Err(problem) => faults.push(Verdict::Fault(problem)),
            },
        }
    }
    if faults.is_empty() {
        let mut text = match free.is_empty() {
            true => String::new(),
            false => format!("free: {}", free.join(", ")),
        };
        if let Some(owner) = &running {
            let gap = if text.is_empty() { "" } else { "; " };
            text += &format!(
                "{gap}`{}` (process {}) listens on {}",
                owner.name,
                owner.id,
                ours.join(", ")
            );
        }
        faults.push(match text.is_empty() {
            true => Verdict::Skipped("the config has no listener".to_owned()),
            false => Verdict::Ok(text),
        });
    }
    (faults, running)
}

/// The `ssr` that has the place already, or what is wrong.
fn fault(error: &Error, shown: &str, place: &Place<'_>) -> Result<Owner, Problem> {
    let Error::Net(net::Error::Bind {
        source, address, ..
    }) = error
    else {
        return Err(Problem::new(
            Code::PortRefused,
            error.to_string(),
            shown,
            "correct the address in the config",
        ));
    };
    match source.kind() {
        io::ErrorKind::AddrInUse => {}
        io::ErrorKind::PermissionDenied => {
            return Err(Problem::new(
                Code::PortRefused,
                "permission denied: ports below 1024 need root or CAP_NET_BIND_SERVICE",
                shown,
                "use a port above 1023, or run ssr as the service of docs/deploy.md",
            ));
        }
        _ => {
            return Err(Problem::new(
                Code::PortRefused,
                format!("cannot listen there: {source}"),
                shown,
                "use an address of this machine, or 0.0.0.0 or [::] for all",
            ));
        }
    }
    let owner = owners::of(*address, place.is_udp);
    let what = match owner {
        Some(owner) if owner.name == "ssr" => return Ok(owner),
        Some(owner) => format!(
            "another program has the port: `{}` (process {})",
            owner.name, owner.id
        ),
        None => "another program has the port; root can see which (`ss -tulnp`)".to_owned(),
    };
    Err(Problem::new(
        Code::PortTaken,
        what,
        shown,
        "stop that program, or choose another port in the config",
    ))
}
