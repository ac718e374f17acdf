//! Where a listener waits: an address, a path, or a socket that the service manager passes.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::wire::address::Address;

use super::context::{Context, filled, host_address, key_at};
use super::model::{Mode, PassedNames, Place, Protocol};
use crate::config::written::file;
use crate::config::written::scalar::Number;

/// Bytes of the longest path of a socket (`sun_path` of unix(7), and its zero).
const MAX_PATH: usize = 107;

/// The place of an entry: `local_address` with `local_port`, which is `port` unless the entry has one.
pub(super) fn place(
    entry: &file::Local,
    at: &str,
    port: Number<u16>,
    loopback: IpAddr,
    cx: &mut Context<'_>,
) -> Option<Place> {
    let host_at = key_at(at, "local_address");
    let host = entry.local_address.as_deref();
    let Some(path) = host.and_then(path_of) else {
        let port_at = key_at(at, "local_port");
        let port = entry.local_port.unwrap_or(port);
        if entry.local_socket_mode.is_some() {
            let message = "no effect: `local_address` is not a path";
            cx.report.warn(&key_at(at, "local_socket_mode"), message);
        }
        return listen((&host_at, host), (&port_at, port), loopback, cx).map(Place::Address);
    };
    if path.len() > MAX_PATH {
        let message = format!("the path of a socket has at most {MAX_PATH} bytes");
        cx.report
            .error_hint(&host_at, message, "use a shorter path");
        return None;
    }
    if entry.local_port.is_some() {
        let message = "no effect: `local_address` is the path of a socket";
        cx.report.warn(&key_at(at, "local_port"), message);
    }
    Some(Place::Path(PathBuf::from(path), socket_mode(entry, at, cx)))
}

/// The path of a socket, if `address` is one: `/run/ssr.sock`, `./ssr.sock`, or either after `unix://`.
fn path_of(address: &str) -> Option<&str> {
    let path = address.trim();
    let path = path.strip_prefix("unix://").unwrap_or(path);
    let is_path = ["/", "./", "../"]
        .iter()
        .any(|start| path.starts_with(start));
    is_path.then_some(path)
}

/// An address to listen on; each argument has the path and the value of its key.
pub(super) fn listen(
    host: (&str, Option<&str>),
    port: (&str, Number<u16>),
    loopback: IpAddr,
    cx: &mut Context<'_>,
) -> Option<Address> {
    let Number(number) = port.1;
    if number == 0 {
        cx.report
            .error_hint(port.0, "port 0 cannot be connected to", "use 1 to 65535");
        return None;
    }
    match host.1.filter(|text| !text.is_empty()) {
        None => Some(Address::Ip((loopback, number).into())),
        Some(text) => host_address(host.0, text, Some(number), cx),
    }
}

/// Checks that the protocol can listen at a path, and leaves UDP out where it has no address of its own.
pub(super) fn mode_at(
    mode: Mode,
    protocol: Protocol,
    entry: &file::Local,
    at: &str,
    cx: &mut Context<'_>,
) -> Mode {
    if protocol == Protocol::Redir {
        cx.report.error_hint(
            &key_at(at, "local_address"),
            "`redir` cannot listen at a path: the firewall redirects to a port",
            "use an address and `local_port`",
        );
    }
    let has_udp = entry.local_udp_port.is_some() || entry.systemd_udp_socket_name.is_some();
    if !mode.udp || has_udp {
        return mode;
    }
    if !mode.tcp || entry.mode.as_deref() == Some(Mode::TCP_AND_UDP.name()) {
        cx.report.error_hint(
            &key_at(at, "mode"),
            "UDP needs an address: `local_address` is a path",
            "add `local_udp_port`, or use `tcp_only`",
        );
    }
    Mode::TCP_ONLY
}

/// `local_socket_mode`: the permissions of the file of a socket, an octal number.
fn socket_mode(entry: &file::Local, at: &str, cx: &mut Context<'_>) -> Option<u32> {
    let path = key_at(at, "local_socket_mode");
    let text = filled(entry.local_socket_mode.as_deref())?;
    match u32::from_str_radix(&text, 8) {
        Ok(mode @ 0..=0o777) => Some(mode),
        _ => {
            let message = "not the permissions of a file: three octal digits";
            cx.report
                .error_hint(&path, message, "for example `\"660\"`");
            None
        }
    }
}

/// `systemd_tcp_socket_name` and `systemd_udp_socket_name`.
pub(super) fn passed(
    entry: &file::Local,
    protocol: Protocol,
    mode: Mode,
    at: &str,
    cx: &mut Context<'_>,
) -> PassedNames {
    let mut name = |key, written: Option<&str>, serves: bool| {
        let name = filled(written)?;
        if protocol == Protocol::Redir {
            let message =
                "`redir` makes its own sockets: those of systemd see no redirected traffic";
            cx.report
                .error_hint(&key_at(at, key), message, "remove the key");
        } else if !serves {
            let message = "no effect: `mode` leaves this half out";
            cx.report.warn(&key_at(at, key), message);
        }
        Some(name)
    };
    PassedNames {
        tcp: name(
            "systemd_tcp_socket_name",
            entry.systemd_tcp_socket_name.as_deref(),
            mode.tcp,
        ),
        udp: name(
            "systemd_udp_socket_name",
            entry.systemd_udp_socket_name.as_deref(),
            mode.udp,
        ),
    }
}
