//! `tun` locals.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::context::{Context, filled, host_address, key_at};
use super::model::{Local, Protocol, Server, SocketOptions};
use super::ways_in::{TunDevice, TunLocal};
use crate::config::role::Role;
use crate::config::written::file::{self, Top};
use crate::config::written::scalar::{Number, Strings};
use crate::net::tun::{Ends, routes};
use crate::wire::address::Address;

/// The addresses of a device where the config has none; those of sing-box's documentation.
const DEFAULT_ADDRESSES: [&str; 2] = ["172.19.0.1/30", "fdfe:dcba:9876::1/126"];
/// Datagrams of this length fit into the packets to a server over a path of 1500 bytes, with all that is put around them: an
/// IPv6 and a UDP header, those of AEAD-2022, and an IPv6 address; or over one of 1492, as PPPoE has it, with IPv4.
const DEFAULT_MTU: u32 = 1400;
/// Bytes of the longest name of an interface (`IFNAMSIZ` of Linux, with a zero at the end).
const MAX_NAME: usize = 15;

/// The device of an entry, and where its listener is counted.
pub(super) fn tun(entry: &file::Local, at: &str, cx: &mut Context<'_>) -> Option<TunLocal> {
    let device = device(entry, at, cx)?;
    let is_ours = matches!(device, TunDevice::Named(_));
    let destination = destination(entry, at, cx);
    let is_default = entry.tun_interface_address.is_none();
    let written = match (&entry.tun_interface_address, is_ours) {
        (Some(written), _) => written.clone(),
        (None, true) => Strings {
            items: DEFAULT_ADDRESSES.map(str::to_owned).into(),
            array: true,
        },
        // Whoever has opened it has given it addresses.
        (None, false) => Strings::default(),
    };
    let path = key_at(at, "tun_interface_address");
    Some(TunLocal {
        ends: ends(&written, &path, destination, cx)?,
        is_default,
        mtu: match entry.mtu {
            None => is_ours.then_some(DEFAULT_MTU),
            Some(Number(mtu @ 1280..=65_535)) => u32::try_from(mtu).ok(),
            Some(Number(_)) => {
                let hint = "use 1280 to 65535 bytes; IPv6 needs 1280";
                cx.report
                    .error_hint(&key_at(at, "mtu"), "out of range", hint);
                None
            }
        },
        auto_route: entry.auto_route == Some(true),
        dns: dns(entry, at, cx),
        device,
    })
}

/// By name, or passed by another program.
fn device(entry: &file::Local, at: &str, cx: &mut Context<'_>) -> Option<TunDevice> {
    let name = filled(entry.tun_interface_name.as_deref());
    let path = filled(entry.tun_device_fd_from_path.as_deref());
    let fd = entry.tun_device_fd.map(|Number(fd)| fd);
    let passed = match (fd, path) {
        (Some(_), Some(_)) => {
            let path = key_at(at, "tun_device_fd_from_path");
            let message = "the device is `tun_device_fd` already";
            cx.report.error_hint(&path, message, "use one of the two");
            return None;
        }
        (Some(fd), None) => {
            let Ok(fd) = i32::try_from(fd) else {
                let path = key_at(at, "tun_device_fd");
                cx.report.error(&path, "not a file descriptor");
                return None;
            };
            Some(TunDevice::Descriptor(fd))
        }
        (None, path) => path.map(|path| TunDevice::FromPath(PathBuf::from(path))),
    };
    let path = key_at(at, "tun_interface_name");
    match (passed, name) {
        (Some(passed), Some(_)) => {
            cx.report
                .warn(&path, "no effect: a device that is passed has a name");
            Some(passed)
        }
        (Some(passed), None) => Some(passed),
        (None, Some(name)) => {
            let is_wrong =
                |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
            if name.len() > MAX_NAME || name.contains(is_wrong) || name == "." || name == ".." {
                let hint = "use at most 15 bytes without spaces, `/`, `:` and `%`, such as `tun0`";
                cx.report
                    .error_hint(&path, "not a name of an interface", hint);
                return None;
            }
            Some(TunDevice::Named(Some(name)))
        }
        (None, None) => Some(TunDevice::Named(None)),
    }
}

fn destination(entry: &file::Local, at: &str, cx: &mut Context<'_>) -> Option<IpAddr> {
    let text = filled(entry.tun_interface_destination.as_deref())?;
    let network = text.parse::<IpNet>().map(|net| net.addr());
    let found = network.ok().or_else(|| text.parse().ok());
    if found.is_none() {
        let path = key_at(at, "tun_interface_destination");
        let hint = "use an address, such as `172.19.0.2`";
        cx.report.error_hint(&path, "not an IP address", hint);
    }
    found
}

fn ends(
    written: &Strings,
    path: &str,
    destination: Option<IpAddr>,
    cx: &mut Context<'_>,
) -> Option<Vec<Ends>> {
    let mut found: Vec<Ends> = Vec::new();
    for (index, text) in written.items.iter().enumerate() {
        let at = written.path_of(path, index);
        let Ok(address) = text.parse::<IpNet>() else {
            let hint = "use an address and the length of its prefix, such as `172.19.0.1/30`";
            cx.report
                .error_hint(&at, "not an address with a prefix", hint);
            return None;
        };
        let Some(ends) = Ends::of(address, destination) else {
            let message = "its network has no second address";
            let hint =
                "use a shorter prefix, such as /30 or /126, or set `tun_interface_destination`";
            cx.report.error_hint(&at, message, hint);
            return None;
        };
        if found
            .iter()
            .any(|other| other.own.is_ipv4() == ends.own.is_ipv4())
        {
            cx.report.error_hint(
                &at,
                "a second address of the same IP version",
                "use one IPv4 and one IPv6 address",
            );
            return None;
        }
        found.push(ends);
    }
    Some(found)
}

/// Where queries go, whatever name server programs ask.
fn dns(entry: &file::Local, at: &str, cx: &mut Context<'_>) -> Option<std::net::SocketAddr> {
    let text = filled(entry.remote_dns_address.as_deref())?;
    let port = entry.remote_dns_port.map_or(53, |Number(port)| port);
    let path = key_at(at, "remote_dns_address");
    match host_address(&path, &text, Some(port), cx)? {
        Address::Ip(address) => Some(address),
        Address::Domain(..) => {
            let hint = "use the IP address of a name server";
            cx.report.error_hint(&path, "not an IP address", hint);
            None
        }
    }
}

/// Whether a listener leads the machine's traffic into itself.
fn has_auto_route(local: &file::Local) -> bool {
    local.protocol.as_deref() == Some("tun")
        && local.auto_route == Some(true)
        && local.disabled != Some(true)
}

/// The mark of our own sockets, where the config sets none: without one, they would be led into our own device.
pub(super) fn mark(top: &Top, role: Role) -> Option<u32> {
    let locals = top.locals.as_deref().unwrap_or_default();
    (role == Role::Local && locals.iter().any(has_auto_route)).then_some(routes::MARK)
}

/// Refuses what would break the machine's network.
pub(super) fn check(
    top: &Top,
    servers: &[Server],
    locals: &[Local],
    socket: &SocketOptions,
    cx: &mut Context<'_>,
) {
    let leading = |local: &&Local| {
        let tun = local.tun.as_ref();
        local.protocol == Protocol::Tun && tun.is_some_and(|tun| tun.auto_route)
    };
    let count = locals.iter().filter(leading).count();
    if count == 0 {
        return;
    }
    let listed = top.locals.as_deref().unwrap_or_default();
    let places = listed
        .iter()
        .enumerate()
        .filter(|(_, local)| has_auto_route(local));
    let mut places = places.map(|(index, _)| format!("locals[{index}].auto_route"));
    let at = places.next().unwrap_or_default();
    if let Some(second) = places.next() {
        let hint = "keep it for one entry: all traffic of the machine can go into one device";
        cx.report
            .error_hint(&second, "set for a second device", hint);
    }
    if filled(top.user.as_deref()).is_some() {
        let message =
            "cannot be used with `user`: routes and marks need CAP_NET_ADMIN until the end";
        let hint = "let systemd start ssr as that user, with AmbientCapabilities=CAP_NET_ADMIN";
        cx.report.error_hint(&at, message, hint);
    }
    let marks = servers
        .iter()
        .map(|server| server.socket.fwmark)
        .chain([socket.fwmark]);
    if marks.into_iter().any(|mark| mark.unwrap_or_default() == 0) {
        let hint = "remove `outbound_fwmark`, or use another number";
        cx.report
            .error_hint(&at, "needs an `outbound_fwmark` other than 0", hint);
    }
    let by_name =
        |server: &&Server| server.plugin.is_some() && matches!(server.address, Address::Domain(..));
    if let Some(server) = servers.iter().find(by_name) {
        let message = format!(
            "the plugin of server `{}` would connect into the device: which addresses it uses is not known",
            server.name
        );
        let hint = "write the address of the server in place of its name";
        cx.report.error_hint(&at, message, hint);
    }
}

impl Local {
    /// Its name in rules: the address that it listens on, or the device.
    pub fn place(&self) -> String {
        match &self.tun {
            Some(tun) => match &tun.device {
                TunDevice::Named(Some(name)) => name.clone(),
                _ => "tun".to_owned(),
            },
            None => self.address.to_string(),
        }
    }
}
