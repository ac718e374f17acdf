//! Goals of the data path.

use crate::proxy::Proxy;
use crate::row::Row;

/// What one figure of `ssr` should reach.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// At most this.
    AtMost(f64),
    /// At most this many times the other's.
    Below(f64, Proxy),
    /// At least this many times the other's.
    Above(f64, Proxy),
    /// No loss where the other has some; or no more loss than the other, at no more than this many times its CPU time.
    NoLossOr(f64, Proxy),
}

impl Goal {
    /// The goal as the table shows it.
    pub(crate) fn text(self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {most}"),
            Self::Below(ratio, other) => format!("<= {ratio}x {}", other.name()),
            Self::Above(ratio, other) => format!(">= {ratio}x {}", other.name()),
            Self::NoLossOr(ratio, other) => {
                format!(
                    "no loss, or <= {ratio}x {0}'s CPU and {0}'s loss",
                    other.name()
                )
            }
        }
    }

    /// Whether `row` reaches the goal; `None` if a figure is missing. `rows` are all rows, for goals that depend on two.
    pub(crate) fn is_met(self, row: &Row, rows: &[Row]) -> Option<bool> {
        let ours = row.median(Proxy::Ssr)?;
        match self {
            Self::AtMost(most) => Some(ours <= most),
            Self::Below(ratio, other) => Some(ours <= ratio * row.median(other)?),
            Self::Above(ratio, other) => Some(ours >= ratio * row.median(other)?),
            Self::NoLossOr(ratio, other) => {
                let theirs = row.median(other)?;
                let cpu = rows
                    .iter()
                    .find(|cpu| cpu.workload == row.workload && cpu.figure == "CPU us/datagram")?;
                let is_cheap = cpu.median(Proxy::Ssr)? <= ratio * cpu.median(other)?;
                Some(ours <= 0.0 && theirs > 0.0 || ours <= theirs && is_cheap)
            }
        }
    }
}

/// What nine visitors of a reverse tunnel lose when a tenth reads nothing.
pub(crate) const STALLED: &str = "lost beside a stalled one %";

/// The goals of a figure.
pub(crate) fn goals(workload: &str, figure: &str) -> Vec<Goal> {
    use Goal::{Above, AtMost, Below, NoLossOr};
    use Proxy::{
        Direct, Dnsmasq, Haproxy, Libev, Noise, Plain, Plugin, Rathole, Rust, SingBox, Socat,
        Unencrypted,
    };
    let (task, method) = workload
        .split_once('/')
        .unwrap_or((workload, "aes-256-gcm"));
    let is_bulk = task.starts_with("bulk-");
    match (task, method, figure) {
        (_, "aes-256-gcm", "CPU s/GiB") if is_bulk => {
            vec![Below(0.58, Rust), Below(1.3, Unencrypted)]
        }
        (_, "aes-256-gcm", "Gbit/s") if is_bulk => vec![Above(1.5, Rust)],
        (_, "2022-blake3-aes-256-gcm", "CPU s/GiB") if is_bulk => vec![Below(0.52, Rust)],
        (_, "chacha20-ietf-poly1305", "CPU s/GiB") if is_bulk => vec![Below(0.72, Rust)],
        ("connections", "aes-256-gcm", "conn/s") => vec![Above(1.15, Libev)],
        ("connections", "aes-256-gcm", "CPU us/conn") => vec![Below(0.85, Libev)],
        ("connections", _, "CPU us/conn") => vec![Below(0.45, Rust)],
        ("round-trip", "aes-256-gcm", "p50 us") => vec![Below(1.0, Libev)],
        ("idle", _, "local KiB" | "server KiB") => vec![AtMost(3.5)],
        ("udp-1200", _, "datagrams/s") => vec![Above(2.2, Rust)],
        ("udp-1200", _, "CPU us/datagram") => vec![Below(0.4, Rust)],
        ("udp-sources-5k" | "udp-sources-20k", _, "loss %") => vec![NoLossOr(0.5, Rust)],
        ("first-byte-client-speaks" | "first-byte-server-speaks", _, "cold ms") => {
            vec![AtMost(206.0)]
        }
        ("first-byte-client-speaks" | "first-byte-server-speaks", _, "warm ms") => {
            vec![AtMost(106.0)]
        }
        (_, _, "Gbit/s") if task.starts_with("ws-bulk-") => vec![Above(3.0, Plugin)],
        (_, _, "CPU s/GiB") if task.starts_with("ws-bulk-") => vec![Below(0.33, Plugin)],
        ("ws-connections", _, "conn/s") => vec![Above(0.7, Plain)],
        ("ws-round-trip", _, "p50 us") => vec![Below(0.5, Plugin)],
        (_, _, "Gbit/s") if task.starts_with("reverse-bulk-") => {
            vec![Above(0.85, Rathole), Above(2.0, Noise)]
        }
        (_, _, "CPU s/GiB") if task.starts_with("reverse-bulk-") => vec![Below(0.45, Noise)],
        ("reverse-connections", _, "conn/s") => vec![Above(1.0, Rathole)],
        ("reverse-link", _, "Mbit/s") => vec![Above(0.85, Direct)],
        ("reverse-link", _, STALLED) => vec![AtMost(5.0)],
        ("reverse-idle", _, "local KiB" | "server KiB") => vec![AtMost(6.0)],
        (_, _, "CPU s/GiB") if task.starts_with("forward-bulk-") => {
            vec![Below(1.0, Haproxy), Below(1.0, Socat)]
        }
        ("forward-connections", _, "CPU us/conn") => vec![Below(1.1, Haproxy), Below(1.0, Socat)],
        ("http-connect", _, "CPU us/conn") | ("http-requests", _, "CPU us/request") => {
            vec![Below(1.05, Plain)]
        }
        (_, _, "CPU s/GiB" | "CPU us/conn") if task.starts_with("redir-") => {
            vec![Below(0.6, Rust)]
        }
        (_, _, "Gbit/s" | "datagrams/s") if task.starts_with("tun-") => {
            vec![Above(1.5, Rust), Above(1.5, SingBox)]
        }
        (_, _, "CPU s/GiB" | "CPU us/datagram") if task.starts_with("tun-") => {
            vec![Below(0.6, Rust), Below(0.6, SingBox)]
        }
        ("dns-cached", _, "queries/s") => vec![Above(1.0, Dnsmasq)],
        ("rules-0" | "rules-10000" | "rules-1000000", _, "conn/s") => vec![Above(0.97, Plain)],
        // The allocations of timers that tick meanwhile are not those of a chunk.
        ("allocations", _, "per chunk down" | "per chunk up" | "per datagram") => {
            vec![AtMost(0.001)]
        }
        _ => Vec::new(),
    }
}
