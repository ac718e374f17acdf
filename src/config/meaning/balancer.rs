//! `balancer`: how `ssr local` chooses among several servers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::context::Context;
use crate::config::written::file::{self, Top};
use crate::config::written::scalar::{Number, ProbeTarget, Switch};
use crate::outbound::balancer::Balancer;
use crate::outbound::balancer::probe::Probe;
use crate::outbound::balancer::strategy::{HashBy, Strategy};
use crate::wire::address::Address;

/// The target that shadowsocks-rust probes.
const PROBE_HOST: &str = "detectportal.firefox.com";
const PROBE_PATH: &str = "/success.txt";
/// The name server that shadowsocks-rust asks.
const NAME_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)), 53);

/// `balancer`; `None`: servers are chosen by their weights, and there are no probes.
pub(super) fn balancer(top: &Top, cx: &mut Context<'_>) -> Option<Balancer> {
    let Some(Switch::On(written)) = &top.balancer else {
        return None;
    };
    let longest = seconds("max_server_rtt", written.max_server_rtt, 5, cx);
    let interval = seconds("check_interval", written.check_interval, 10, cx);
    let best_interval = cx.seconds("balancer.check_best_interval", written.check_best_interval);
    if best_interval.is_some_and(|best| best > interval) {
        cx.report.error_hint(
            "balancer.check_best_interval",
            "must not be longer than `check_interval`",
            "the server in use is checked more often than the others, not less",
        );
    }
    let strategy = strategy(written, cx);
    let target = target(written.probe.as_ref(), cx);
    if target.is_none() && strategy == Strategy::Latency {
        cx.report.error_hint(
            "balancer.probe",
            "the strategy `latency` needs probes",
            "choose another `strategy`, or leave out `probe`",
        );
    }
    Some(Balancer {
        strategy,
        probe: target.map(|(target, path)| Probe {
            target,
            path,
            name_server: name_server(written.probe_udp.as_ref(), cx),
            longest,
            interval,
            best_interval,
        }),
    })
}

fn seconds(
    key: &str,
    written: Option<Number<u64>>,
    default: u64,
    cx: &mut Context<'_>,
) -> Duration {
    cx.seconds(&format!("balancer.{key}"), written)
        .unwrap_or_else(|| Duration::from_secs(default))
}

fn strategy(written: &file::Balancer, cx: &mut Context<'_>) -> Strategy {
    let hash_by = match written.hash_by.as_deref() {
        None | Some("source") => HashBy::Source,
        Some("target") => HashBy::Target,
        Some(other) => {
            let hint = "use `source` or `target`";
            cx.report.unknown("balancer.hash_by", "value", other, hint);
            HashBy::Source
        }
    };
    let strategy = match written.strategy.as_deref() {
        None | Some("latency") => Strategy::Latency,
        Some("weight") => Strategy::Weight,
        Some("fallback") => Strategy::Fallback,
        Some("round_robin") => Strategy::RoundRobin,
        Some("least_connections") => Strategy::LeastConnections,
        Some("hash") => Strategy::Hash(hash_by),
        Some(other) => {
            let hint =
                "use `latency`, `fallback`, `round_robin`, `least_connections`, `hash` or `weight`";
            cx.report
                .unknown("balancer.strategy", "strategy", other, hint);
            Strategy::Latency
        }
    };
    if written.hash_by.is_some() && !matches!(strategy, Strategy::Hash(_)) {
        cx.report
            .warn("balancer.hash_by", "no effect: the strategy is not `hash`");
    }
    strategy
}

/// The name server that is asked for datagrams; `None`: no probes of datagrams.
fn name_server(written: Option<&ProbeTarget>, cx: &mut Context<'_>) -> Option<Address> {
    match written {
        None | Some(ProbeTarget::Switch(true)) => Some(Address::Ip(NAME_SERVER)),
        Some(ProbeTarget::Switch(false)) => None,
        Some(ProbeTarget::Target(text)) => match text.parse::<Address>() {
            Ok(address) if address.port() > 0 => Some(address),
            _ => {
                cx.report.error_hint(
                    "balancer.probe_udp",
                    "not a name server",
                    "write `HOST:PORT`, as `8.8.8.8:53`",
                );
                None
            }
        },
    }
}

/// The target of probes and the path there; `None`: no probes.
fn target(written: Option<&ProbeTarget>, cx: &mut Context<'_>) -> Option<(Address, String)> {
    let text = match written {
        None | Some(ProbeTarget::Switch(true)) => {
            let host = Address::domain(PROBE_HOST, 80).ok()?;
            return Some((host, PROBE_PATH.to_owned()));
        }
        Some(ProbeTarget::Switch(false)) => return None,
        Some(ProbeTarget::Target(text)) => text,
    };
    let (host, path) = match text.split_once('/') {
        Some((host, path)) => (host, format!("/{path}")),
        None => (text.as_str(), "/".to_owned()),
    };
    let printable = path.bytes().all(|byte| byte.is_ascii_graphic());
    match host.parse::<Address>() {
        Ok(address) if address.port() > 0 && printable => Some((address, path)),
        _ => {
            cx.report.error_hint(
                "balancer.probe",
                "not a target for HTTP requests",
                "write `HOST:PORT` or `HOST:PORT/PATH`, without `http://`",
            );
            None
        }
    }
}
