//! `locals`, and the listener at the top level.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use crate::outbound::dialer::is_private;
use crate::wire::address::Address;

use super::context::{Context, filled, host_address, key_at, refuse_same_address};
use super::dns_local;
use super::fake_dns;
use super::listen::{self, listen};
use super::model::{Local, Mode, Place, Protocol, TcpRedir};
use super::rules;
use super::sniff;
use super::tun;
use crate::config::written::file::{self, Top};
use crate::config::written::scalar::Number;

/// The usual port of SOCKS.
const DEFAULT_PORT: u16 = 1080;

/// The listeners of `ssr local`.
pub(super) fn locals(top: &Top, mode: Mode, cx: &mut Context<'_>) -> Vec<Local> {
    let loopback = match top.ipv6_first {
        Some(true) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    refuse_libev(top, cx);
    let mut found = Vec::new();
    let listed = top.locals.as_deref().unwrap_or_default();
    // `protocol` alone must not open a listener in addition to those of the list.
    let shorthand = top.local_address.is_some()
        || top.local_port.is_some()
        || top.systemd_tcp_socket_name.is_some()
        || top.systemd_udp_socket_name.is_some();
    if !shorthand && !listed.is_empty() && top.protocol.is_some() {
        cx.report.warn(
            "protocol",
            "no effect without `local_port`: each entry of `locals` has its own `protocol`",
        );
    }
    if shorthand || listed.is_empty() {
        let entry = file::Local {
            local_address: top.local_address.clone(),
            local_port: top.local_port,
            local_socket_mode: top.local_socket_mode.clone(),
            systemd_tcp_socket_name: top.systemd_tcp_socket_name.clone(),
            systemd_udp_socket_name: top.systemd_udp_socket_name.clone(),
            protocol: top.protocol.clone(),
            ..file::Local::default()
        };
        found.extend(local(&entry, "", mode, loopback, cx).map(|local| (String::new(), local)));
    }
    for (index, entry) in listed.iter().enumerate() {
        if entry.disabled != Some(true) {
            let at = format!("locals[{index}]");
            found.extend(local(entry, &at, mode, loopback, cx).map(|local| (at, local)));
        }
    }
    if !shorthand && !listed.is_empty() && listed.iter().all(|entry| entry.disabled == Some(true)) {
        cx.report.error(
            "locals",
            "every entry is disabled, so there is nothing to listen on",
        );
    }
    refuse_same_place(&found, cx);
    fake_dns::refuse_conflicts(&found, cx);
    found.into_iter().map(|(_, local)| local).collect()
}

/// Reports listeners at one and the same address or path.
fn refuse_same_place(found: &[(String, Local)], cx: &mut Context<'_>) {
    // A device has its own address, and chooses its ports.
    let ports = found.iter().filter(|(_, local)| local.tun.is_none());
    let listeners = ports.flat_map(|(at, local)| {
        let udp = local.udp_address.as_ref();
        let udp = udp.or_else(|| local.address.address());
        let uses = [
            (
                local.mode.tcp,
                &local.passed.tcp,
                local.address.address(),
                "TCP",
            ),
            (local.mode.udp, &local.passed.udp, udp, "UDP"),
        ];
        uses.into_iter()
            .filter(|(used, passed, ..)| *used && passed.is_none())
            .filter_map(|(_, _, address, transport)| {
                Some((key_at(at, "local_port"), address?, transport))
            })
    });
    refuse_same_address(listeners, cx);
    for (index, (at, local)) in found.iter().enumerate() {
        let shown = local.address.to_string();
        let same = |(_, other): &&(String, Local)| other.address.to_string() == shown;
        let before = found.iter().take(index).find(same);
        if let (Place::Path(path, _), Some((first, _))) = (&local.address, before) {
            let first = key_at(first, "local_address");
            let message = format!("{} is already used by `{first}`", path.display());
            cx.report.error(&key_at(at, "local_address"), message);
        }
    }
}

/// Refuses keys of two programs of shadowsocks-libev, whose files would be served by a SOCKS listener. Through links with
/// names of libev, [`crate::config::Overrides`] has taken the keys already.
fn refuse_libev(top: &Top, cx: &mut Context<'_>) {
    for (key, given, program) in [
        ("tunnel_address", top.tunnel_address.is_some(), "ss-tunnel"),
        ("tcp_tproxy", top.tcp_tproxy == Some(true), "ss-redir"),
    ] {
        if given {
            let message = format!("it is for {program}, and this would listen for SOCKS");
            let protocol = program.trim_start_matches("ss-");
            let hint = format!(
                "run ssr through a link named {program}, or use an entry of `locals` with `\"protocol\": \"{protocol}\"`"
            );
            cx.report.error_hint(key, message, hint);
        }
    }
}

fn local(
    entry: &file::Local,
    at: &str,
    mode: Mode,
    loopback: IpAddr,
    cx: &mut Context<'_>,
) -> Option<Local> {
    let protocol = protocol(entry.protocol.as_deref(), at, cx)?;
    let address = listen::place(entry, at, default_port(protocol), loopback, cx)?;
    let udp_address = match entry.local_udp_port {
        Some(port) => listen(
            (
                &key_at(at, "local_udp_address"),
                entry.local_udp_address.as_deref(),
            ),
            (&key_at(at, "local_udp_port"), port),
            loopback,
            cx,
        ),
        None => {
            if entry.local_udp_address.is_some() {
                cx.report.warn(
                    &key_at(at, "local_udp_address"),
                    "no effect without `local_udp_port`",
                );
            }
            None
        }
    };
    let mut mode = local_mode(protocol, entry, at, mode, cx);
    if address.address().is_none() {
        mode = listen::mode_at(mode, protocol, entry, at, cx);
    }
    warn_of_open_proxy(protocol, entry, &address, at, cx);
    Some(Local {
        protocol,
        passed: listen::passed(entry, protocol, mode, at, cx),
        address,
        udp_address,
        udp_associate_address: associate_address(entry, at, cx),
        mode,
        auth: Vec::new(),
        auth_file: entry
            .socks5_auth_config_path
            .as_deref()
            .filter(|path| !path.is_empty())
            .map(PathBuf::from),
        http_auth: Vec::new(),
        http_auth_file: entry
            .http_auth_config_path
            .as_deref()
            .filter(|path| !path.is_empty())
            .map(PathBuf::from),
        acl: rules::acl_file(entry.acl.as_deref(), at),
        rules: None,
        dns: (protocol == Protocol::Dns).then(|| dns_local::name_servers(entry, at, cx)),
        fake_dns: (protocol == Protocol::FakeDns).then(|| fake_dns::fake_dns(entry, at, cx)),
        target: match protocol {
            Protocol::Tunnel => Some(tunnel_target(entry, at, cx)?),
            _ => None,
        },
        tcp_redir: tcp_redir(entry, at, cx),
        sniff: sniff::sniff(protocol, entry, at, cx),
        tun: match protocol {
            Protocol::Tun => Some(tun::tun(entry, at, cx)?),
            _ => None,
        },
    })
}

/// Warns of a proxy that anybody can use: at a public address or at all, without a login.
fn warn_of_open_proxy(
    protocol: Protocol,
    entry: &file::Local,
    address: &Place,
    at: &str,
    cx: &mut Context<'_>,
) {
    let is_proxy = matches!(protocol, Protocol::Socks | Protocol::Mixed | Protocol::Http);
    let has_login = [&entry.socks5_auth_config_path, &entry.http_auth_config_path]
        .into_iter()
        .any(|path| path.as_deref().is_some_and(|path| !path.is_empty()));
    let Some(Address::Ip(place)) = address.address().filter(|_| is_proxy && !has_login) else {
        return;
    };
    if place.ip().is_unspecified() || !is_private(place.ip()) {
        let message =
            format!("anybody who reaches {place} can use this proxy: it asks for no login");
        let hint = "listen on 127.0.0.1, or name users with `socks5_auth_config_path` (`http_auth_config_path` for HTTP)";
        cx.report
            .warn_hint(&key_at(at, "local_address"), message, hint);
    }
}

const fn default_port(protocol: Protocol) -> Number<u16> {
    Number(match protocol {
        Protocol::Dns | Protocol::FakeDns => dns_local::PORT,
        _ => DEFAULT_PORT,
    })
}

/// Which of TCP and UDP an entry serves. HTTP has no UDP.
fn local_mode(
    protocol: Protocol,
    entry: &file::Local,
    at: &str,
    mode: Mode,
    cx: &mut Context<'_>,
) -> Mode {
    let path = key_at(at, "mode");
    let default = if matches!(protocol, Protocol::Dns | Protocol::FakeDns) {
        Mode::TCP_AND_UDP
    } else {
        mode
    };
    let found = cx.mode(&path, entry.mode.as_deref(), default);
    if protocol != Protocol::Http {
        return found;
    }
    if entry.mode.is_some() && !found.tcp {
        cx.report
            .error_hint(&path, "`http` needs TCP", "use `tcp_only`");
    }
    Mode::TCP_ONLY
}

fn protocol(written: Option<&str>, at: &str, cx: &mut Context<'_>) -> Option<Protocol> {
    let path = key_at(at, "protocol");
    match written {
        None | Some("socks") => Some(Protocol::Socks),
        Some("mixed") => Some(Protocol::Mixed),
        Some("http") => Some(Protocol::Http),
        Some("dns") => Some(Protocol::Dns),
        Some("fake-dns") => Some(Protocol::FakeDns),
        Some("tunnel") => Some(Protocol::Tunnel),
        Some("redir") => Some(Protocol::Redir),
        Some("tun") => Some(Protocol::Tun),
        Some(other) => {
            cx.report
                .unknown(&path, "protocol", other, "use `socks`, `http` or `dns`");
            None
        }
    }
}

/// How the firewall passes TCP on. UDP has one way, whose name must be right too.
fn tcp_redir(entry: &file::Local, at: &str, cx: &mut Context<'_>) -> TcpRedir {
    let elsewhere = "it exists on BSD and macOS only";
    match entry.udp_redir.as_deref() {
        None | Some("" | "tproxy") => {}
        Some(other) => {
            let hint = match other {
                "pf" | "ipfw" => elsewhere,
                _ => "use `tproxy`: the only way of the firewall to pass on UDP",
            };
            let path = key_at(at, "udp_redir");
            cx.report.unknown(&path, "way to redirect UDP", other, hint);
        }
    }
    match entry.tcp_redir.as_deref() {
        None | Some("" | "redirect") => TcpRedir::Redirect,
        Some("tproxy") => TcpRedir::Tproxy,
        Some(other) => {
            let hint = match other {
                "pf" | "ipfw" => elsewhere,
                _ => "use `redirect` or `tproxy`",
            };
            let path = key_at(at, "tcp_redir");
            cx.report.unknown(&path, "way to redirect TCP", other, hint);
            TcpRedir::Redirect
        }
    }
}

/// The target of a tunnel: `forward_address` and `forward_port`.
fn tunnel_target(entry: &file::Local, at: &str, cx: &mut Context<'_>) -> Option<Address> {
    let hint =
        "a tunnel needs `forward_address` and `forward_port`: the one target of all its clients";
    let host = filled(entry.forward_address.as_deref());
    let port = entry.forward_port.map(|Number(port)| port);
    if host.is_none() {
        let path = key_at(at, "forward_address");
        cx.report.error_hint(&path, "missing or empty", hint);
    }
    let path = key_at(at, "forward_port");
    match port {
        None => cx.report.error_hint(&path, "missing", hint),
        Some(0) => cx
            .report
            .error_hint(&path, "port 0 cannot be connected to", "use 1 to 65535"),
        Some(_) => {}
    }
    let (host, port) = (host?, port.filter(|port| *port > 0)?);
    let path = key_at(at, "forward_address");
    let address = host_address(&path, &host, Some(port), cx)?;
    if address.port() != port {
        let message = format!("has a port of its own, beside `forward_port` {port}");
        cx.report.error_hint(&path, message, "write only the host");
        return None;
    }
    Some(address)
}

/// The address in replies to UDP ASSOCIATE: an IP address or a name, either with a port.
fn associate_address(entry: &file::Local, at: &str, cx: &mut Context<'_>) -> Option<Address> {
    let text = entry
        .udp_associate_addr
        .as_deref()
        .filter(|text| !text.is_empty())?;
    host_address(&key_at(at, "udp_associate_addr"), text, Some(0), cx)
}
