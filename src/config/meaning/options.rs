//! Socket options, timeouts, limits and workers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::limits;

use super::context::{Context, filled, key_at};
use super::model::{Limits, SocketOptions, Timeouts};
use crate::config::written::file::{self, Top};
use crate::config::written::scalar::Number;

/// Bytes of an IPv4 and a UDP header.
const IP_UDP_HEADERS: usize = 28;
/// More threads than this is a mistake.
const MAX_WORKERS: u64 = 1024;

/// The global socket options.
pub(super) fn socket(top: &Top, cx: &mut Context<'_>) -> SocketOptions {
    let (bind_address, bind_address_other) = bind_addresses(top, cx);
    SocketOptions {
        no_delay: top.no_delay.unwrap_or(false),
        fast_open: top.fast_open.unwrap_or(false),
        mptcp: top.mptcp.unwrap_or(false),
        congestion: top.congestion.clone(),
        keep_alive: match top.keep_alive {
            None => Some(Duration::from_secs(15)),
            // The longest that Linux accepts (TCP_KEEPIDLE).
            Some(Number(seconds)) => {
                (seconds > 0).then(|| Duration::from_secs(seconds.min(32_767)))
            }
        },
        ipv6_first: top.ipv6_first.unwrap_or(false),
        ipv6_only: top.ipv6_only.unwrap_or(false),
        reuse_port: top.reuse_port.unwrap_or(false),
        fwmark: top.outbound_fwmark.map(|Number(mark)| mark),
        bind_address,
        bind_address_other,
        bind_interface: filled(top.outbound_bind_interface.as_deref()),
        inbound_send_buffer: size(top.inbound_send_buffer_size.or(top.tcp_incoming_sndbuf)),
        inbound_recv_buffer: size(top.inbound_recv_buffer_size.or(top.tcp_incoming_rcvbuf)),
        outbound_send_buffer: size(top.outbound_send_buffer_size.or(top.tcp_outgoing_sndbuf)),
        outbound_recv_buffer: size(top.outbound_recv_buffer_size.or(top.tcp_outgoing_rcvbuf)),
        udp_mtu: match top.udp_mtu {
            Some(_) => udp_mtu("udp_mtu", top.udp_mtu, cx),
            // In shadowsocks-libev it is the MTU of the interface.
            None => udp_mtu("mtu", top.mtu, cx).map(|mtu| mtu.saturating_sub(IP_UDP_HEADERS)),
        },
        inbound_udp_allow_fragmentation: top.inbound_udp_allow_fragmentation,
        outbound_udp_allow_fragmentation: top.outbound_udp_allow_fragmentation,
    }
}

/// The global options, overridden by those of one server.
pub(super) fn socket_of(
    entry: &file::Server,
    at: &str,
    global: &SocketOptions,
    cx: &mut Context<'_>,
) -> SocketOptions {
    let mut socket = global.clone();
    if let Some(Number(mark)) = entry.outbound_fwmark {
        socket.fwmark = Some(mark);
    }
    if entry.congestion.is_some() {
        socket.congestion.clone_from(&entry.congestion);
    }
    if let Some(address) = bind_address(
        &key_at(at, "outbound_bind_addr"),
        entry.outbound_bind_addr.as_deref(),
        cx,
    ) {
        socket.bind_address = Some(address);
        socket.bind_address_other = None;
    }
    if let Some(interface) = filled(entry.outbound_bind_interface.as_deref()) {
        socket.bind_interface = Some(interface);
    }
    if entry.inbound_udp_allow_fragmentation.is_some() {
        socket.inbound_udp_allow_fragmentation = entry.inbound_udp_allow_fragmentation;
    }
    if entry.outbound_udp_allow_fragmentation.is_some() {
        socket.outbound_udp_allow_fragmentation = entry.outbound_udp_allow_fragmentation;
    }
    socket
}

/// `outbound_bind_addr`, or one address per family as in shadowsocks-libev.
fn bind_addresses(top: &Top, cx: &mut Context<'_>) -> (Option<IpAddr>, Option<IpAddr>) {
    let chosen = bind_address("outbound_bind_addr", top.outbound_bind_addr.as_deref(), cx);
    let v4 =
        filled(top.local_ipv4_address.as_deref()).and_then(|text| match text.parse::<Ipv4Addr>() {
            Ok(ip) => Some(IpAddr::V4(ip)),
            Err(_) => {
                cx.report.error("local_ipv4_address", "not an IPv4 address");
                None
            }
        });
    let v6 =
        filled(top.local_ipv6_address.as_deref()).and_then(|text| match text.parse::<Ipv6Addr>() {
            Ok(ip) => Some(IpAddr::V6(ip)),
            Err(_) => {
                cx.report.error("local_ipv6_address", "not an IPv6 address");
                None
            }
        });
    match (chosen, v4, v6) {
        (Some(chosen), ..) => (Some(chosen), None),
        (None, Some(v4), v6) => (Some(v4), v6),
        (None, None, v6) => (v6, None),
    }
}

fn bind_address(path: &str, written: Option<&str>, cx: &mut Context<'_>) -> Option<IpAddr> {
    let text = filled(written)?;
    let address = text.parse().ok();
    if address.is_none() {
        cx.report.error_hint(
            path,
            "not an IP address",
            "use an address of this machine, without a port",
        );
    }
    address
}

fn udp_mtu(path: &str, written: Option<Number<u64>>, cx: &mut Context<'_>) -> Option<usize> {
    let Number(bytes) = written?;
    match bytes {
        0 => None,
        576..=65_535 => usize::try_from(bytes).ok(),
        _ => {
            cx.report
                .error_hint(path, "out of range", "use 576 to 65535 bytes");
            None
        }
    }
}

/// A buffer size in bytes; `None` for 0, which leaves it to the system.
fn size(written: Option<Number<u32>>) -> Option<u32> {
    written
        .map(|Number(bytes)| bytes)
        .filter(|bytes| *bytes > 0)
}

/// `timeouts`, with the old `timeout` as `idle`.
pub(super) fn timeouts(top: &Top, cx: &mut Context<'_>) -> Timeouts {
    let written = top.timeouts.clone().unwrap_or_default();
    let (idle, path) = match written.idle {
        Some(_) => (written.idle, "timeouts.idle"),
        None => (top.timeout, "timeout"),
    };
    let mut or = |path: &str, written, default| {
        cx.seconds(path, written)
            .unwrap_or_else(|| Duration::from_secs(default))
    };
    Timeouts {
        // A phone on a bad line needs a few seconds; a stranger who sends nothing must not hold a place for longer.
        handshake: or("timeouts.handshake", written.handshake, 15),
        // Three SYNs of Linux (after 1, 2 and 4 s) and the answer.
        connect: or("timeouts.connect", written.connect, 10),
        // The usual time after which systems send the first keep-alive probe.
        idle: or(path, idle, 7_200),
        half_close: or("timeouts.half_close", written.half_close, 60),
    }
}

/// `limits`, with the old `udp_max_associations`.
pub(super) fn limits(top: &Top, cx: &mut Context<'_>) -> Limits {
    let written = top.limits.clone().unwrap_or_default();
    let (associations, path) = match written.udp_associations {
        Some(_) => (written.udp_associations, "limits.udp_associations"),
        None => (top.udp_max_associations, "udp_max_associations"),
    };
    let mut or = |path: &str, written, default| cx.count(path, written).unwrap_or(default);
    Limits {
        connections: or("limits.connections", written.connections, 65_536),
        udp_associations: or(path, associations, 4_096),
        handshakes: or("limits.handshakes", written.handshakes, 4_096),
        visitors: or("limits.visitors", written.visitors, 65_536),
        memory_mib: match written.memory_mib {
            None | Some(Number(0)) => limits::DEFAULT_BUDGET >> 20,
            Some(Number(mib)) => usize::try_from(mib).unwrap_or(usize::MAX),
        },
    }
}

/// `workers`, or `runtime`; 0 means one per core.
pub(super) fn workers(top: &Top, cx: &mut Context<'_>) -> usize {
    let runtime = top.runtime.clone().unwrap_or_default();
    match runtime.mode.as_deref() {
        Some("single_thread") if top.workers.is_none() => return 1,
        None | Some("single_thread" | "multi_thread") => {}
        Some(other) => {
            let hint = "use `multi_thread` or `single_thread`";
            cx.report.unknown("runtime.mode", "mode", other, hint);
        }
    }
    let (written, path) = match top.workers {
        Some(_) => (top.workers, "workers"),
        None => (runtime.worker_count, "runtime.worker_count"),
    };
    match written {
        Some(Number(count)) if count > MAX_WORKERS => {
            cx.report.error_hint(
                path,
                format!("must be at most {MAX_WORKERS}"),
                "remove the key for one thread per core",
            );
            0
        }
        Some(Number(count)) => usize::try_from(count).unwrap_or(0),
        None => 0,
    }
}
