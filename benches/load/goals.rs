//! What the figures are to be: the table of goals of the data path.

use crate::kind::Kind;
use crate::row::Row;

/// A demand on one figure of `ssr`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// No more than this.
    AtMost(f64),
    /// No more than this many times another's.
    Below(f64, Kind),
    /// At least this many times another's.
    Above(f64, Kind),
    /// Loses nothing where the other loses; or neither does, and then the CPU time is at most this many times its own.
    NoLossOr(f64, Kind),
}

impl Goal {
    /// As the table shows it.
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

    /// Whether `row` reaches it; `None` if a figure is missing. `rows` are all rows, for what depends on two.
    pub(crate) fn is_met(self, row: &Row, rows: &[Row]) -> Option<bool> {
        let ours = row.median(Kind::Ssr)?;
        match self {
            Self::AtMost(most) => Some(ours <= most),
            Self::Below(ratio, other) => Some(ours <= ratio * row.median(other)?),
            Self::Above(ratio, other) => Some(ours >= ratio * row.median(other)?),
            Self::NoLossOr(ratio, other) => {
                let theirs = row.median(other)?;
                let cpu = rows
                    .iter()
                    .find(|cpu| cpu.work == row.work && cpu.figure == "CPU us/datagram")?;
                let is_cheap = cpu.median(Kind::Ssr)? <= ratio * cpu.median(other)?;
                Some(ours <= 0.0 && theirs > 0.0 || ours <= theirs && is_cheap)
            }
        }
    }
}

/// What nine visitors of a tunnel lose by a tenth who takes nothing.
pub(crate) const STALLED: &str = "lost beside a stalled one %";

/// The goals of a figure.
pub(crate) fn goals(work: &str, figure: &str) -> Vec<Goal> {
    use Goal::{Above, AtMost, Below, NoLossOr};
    use Kind::{Direct, Haproxy, Libev, Noise, Plain, Plugin, Rathole, Rust, Socat, Tcp};
    let (task, method) = work.split_once('/').unwrap_or((work, "aes-256-gcm"));
    let is_bulk = task.starts_with("bulk-");
    match (task, method, figure) {
        (_, "aes-256-gcm", "CPU s/GiB") if is_bulk => vec![Below(0.58, Rust), Below(1.3, Plain)],
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
        ("ws-connections", _, "conn/s") => vec![Above(0.7, Tcp)],
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
        // Timers that tick meanwhile are not the chunk's.
        ("allocations", _, "per chunk down" | "per chunk up" | "per datagram") => {
            vec![AtMost(0.001)]
        }
        _ => Vec::new(),
    }
}
