//! `reverse`: the services that the client publishes, and what the server allows.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::wire::address::Address;
use crate::wire::{proxy_protocol, reverse};

use super::context::{Context, key_at};
use super::model::{Allow, Reverse, Service};
use crate::config::links::{Links, MAX_LINKS};
use crate::config::role::Role;
use crate::config::written::file;
use crate::config::written::scalar::Number;

/// Short enough to keep a NAT mapping alive, and long enough to cost nothing.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// A longer one is a mistake: a dead link is noticed after three of them.
const MAX_HEARTBEAT: u64 = 3600;
/// The most services of one client: a server accepts no more from one link.
const MAX_SERVICES: usize = 256;

/// Translates the part of `reverse` for this role; the part for the other role is not checked.
pub(super) fn reverse(written: Option<&file::Reverse>, cx: &mut Context<'_>) -> Reverse {
    let none = file::Reverse::default();
    let written = written.unwrap_or(&none);
    let mut services = Vec::new();
    let mut allow = Vec::new();
    match cx.role {
        Role::Forward => {}
        Role::Local => services = self::services(written, cx),
        Role::Server => {
            for (index, entry) in written
                .allow
                .as_deref()
                .unwrap_or_default()
                .iter()
                .enumerate()
            {
                allow.extend(grant(entry, &format!("reverse.allow[{index}]"), cx));
            }
        }
    }
    Reverse {
        services,
        links: links(written.links, cx),
        heartbeat: heartbeat(written.heartbeat, cx),
        allow,
    }
}

fn links(written: Option<Links>, cx: &mut Context<'_>) -> Links {
    if let Some(Links::Count(count)) = written
        && !(1..=MAX_LINKS).contains(&count)
    {
        cx.report.error_hint(
            "reverse.links",
            format!("out of range: use 1 to {MAX_LINKS}"),
            "write \"auto\" for one link for each worker",
        );
    }
    written.unwrap_or(Links::Count(1))
}

fn heartbeat(written: Option<Number<u64>>, cx: &mut Context<'_>) -> Duration {
    match written {
        None => HEARTBEAT,
        Some(Number(seconds)) if (1..=MAX_HEARTBEAT).contains(&seconds) => {
            Duration::from_secs(seconds)
        }
        Some(Number(_)) => {
            cx.report.error_hint(
                "reverse.heartbeat",
                format!("out of range: use 1 to {MAX_HEARTBEAT} seconds"),
                "remove the key for 20 seconds",
            );
            HEARTBEAT
        }
    }
}

fn services(written: &file::Reverse, cx: &mut Context<'_>) -> Vec<Service> {
    let mut found: Vec<Service> = Vec::new();
    let mut names = HashSet::new();
    let listed = written.services.as_deref().unwrap_or_default();
    if listed.len() > MAX_SERVICES {
        let message = format!("too many services: the limit is {MAX_SERVICES}");
        cx.report.error("reverse.services", message);
    }
    for (index, entry) in listed.iter().enumerate() {
        if entry.disabled == Some(true) {
            continue;
        }
        let at = format!("reverse.services[{index}]");
        let Some(service) = service(entry, &at, cx) else {
            continue;
        };
        if !names.insert(service.name.clone()) {
            let message = format!("another service is already named `{}`", service.name);
            cx.report.error(&key_at(&at, "name"), message);
        }
        found.push(service);
    }
    found
}

fn service(entry: &file::Service, at: &str, cx: &mut Context<'_>) -> Option<Service> {
    let name = entry.name.clone().filter(|name| !name.is_empty());
    match &name {
        None => cx.report.error_hint(
            &key_at(at, "name"),
            "missing: the name of the service",
            "choose any name that is unique in this list",
        ),
        Some(name) if name.len() > 255 || name.chars().any(char::is_control) => cx.report.error(
            &key_at(at, "name"),
            "a name must have at most 255 bytes and no control characters",
        ),
        Some(_) => {}
    }
    let protocol = protocol(entry.protocol.as_deref(), at, cx).unwrap_or(reverse::Protocol::Tcp);
    let bind = bind(entry.bind.as_deref(), at, cx);
    let target = target(entry.target.as_deref(), at, cx);
    let host = service_host(entry.host.as_deref(), protocol, at, cx);
    let proxy = proxy_protocol(entry.proxy_protocol.as_deref(), protocol, at, cx);
    Some(Service {
        name: name?,
        bind: bind?,
        target: target?,
        protocol,
        host: host?,
        proxy,
        group: entry.group.unwrap_or(false),
    })
}

fn protocol(written: Option<&str>, at: &str, cx: &mut Context<'_>) -> Option<reverse::Protocol> {
    match written? {
        "tcp" => Some(reverse::Protocol::Tcp),
        "udp" => Some(reverse::Protocol::Udp),
        "http" => Some(reverse::Protocol::Http),
        other => {
            let hint = "use `tcp`, `udp` or `http`";
            cx.report
                .unknown(&key_at(at, "protocol"), "protocol", other, hint);
            None
        }
    }
}

/// The public address on the server: `ADDRESS:PORT`, or `:PORT` for all addresses.
fn bind(written: Option<&str>, at: &str, cx: &mut Context<'_>) -> Option<SocketAddr> {
    let path = key_at(at, "bind");
    let hint = "use an address and port of the server, for example `0.0.0.0:6000`; port 0 means any free port";
    let Some(text) = written.filter(|text| !text.is_empty()) else {
        cx.report
            .error_hint(&path, "missing: the public address on the server", hint);
        return None;
    };
    let parsed = match text.strip_prefix(':') {
        Some(port) => port
            .parse()
            .ok()
            .map(|port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        None => text.parse().ok(),
    };
    if parsed.is_none() {
        cx.report
            .error_hint(&path, "not an IP address with a port", hint);
    }
    parsed
}

fn target(written: Option<&str>, at: &str, cx: &mut Context<'_>) -> Option<Address> {
    let path = key_at(at, "target");
    let hint = "use a host and port that this machine can reach, for example `127.0.0.1:22`";
    let Some(text) = written.filter(|text| !text.is_empty()) else {
        cx.report
            .error_hint(&path, "missing: the address of the service", hint);
        return None;
    };
    match text.parse::<Address>() {
        Ok(address) if address.port() > 0 => Some(address),
        Ok(_) => {
            cx.report
                .error_hint(&path, "port 0 cannot be connected to", hint);
            None
        }
        Err(error) => {
            cx.report.error_hint(&path, error.to_string(), hint);
            None
        }
    }
}

fn service_host(
    written: Option<&str>,
    protocol: reverse::Protocol,
    at: &str,
    cx: &mut Context<'_>,
) -> Option<String> {
    let path = key_at(at, "host");
    let host = written.unwrap_or_default().to_ascii_lowercase();
    if protocol != reverse::Protocol::Http {
        if !host.is_empty() {
            cx.report.warn_hint(
                &path,
                "no effect without `\"protocol\": \"http\"`",
                "remove it, or set the protocol",
            );
        }
        return Some(String::new());
    }
    if host.is_empty() {
        let hint = "use the host name in the visitors' URLs, for example `www.example.com`";
        cx.report.error_hint(
            &path,
            "missing: an `http` service needs the host name that it answers to",
            hint,
        );
        return None;
    }
    if host.contains(['*', ':', '/']) || Address::domain(&host, 80).is_err() {
        cx.report.error_hint(
            &path,
            "not a host name",
            "write it without scheme, port and `*`",
        );
        return None;
    }
    Some(host)
}

fn proxy_protocol(
    written: Option<&str>,
    protocol: reverse::Protocol,
    at: &str,
    cx: &mut Context<'_>,
) -> Option<proxy_protocol::Version> {
    let path = key_at(at, "proxy_protocol");
    let version = match written.filter(|text| !text.is_empty())? {
        "v1" => proxy_protocol::Version::One,
        "v2" => proxy_protocol::Version::Two,
        other => {
            cx.report
                .unknown(&path, "version", other, "use `v1` or `v2`");
            return None;
        }
    };
    if protocol == reverse::Protocol::Udp {
        cx.report
            .error_hint(&path, "not available for `udp`", "remove it");
    }
    Some(version)
}

/// An entry of `reverse.allow`.
fn grant(entry: &file::Allow, at: &str, cx: &mut Context<'_>) -> Option<Allow> {
    let path = key_at(at, "bind");
    let hint = "use an address and a range of ports, for example `0.0.0.0:6000-7000`";
    let Some(text) = entry.bind.as_deref().filter(|text| !text.is_empty()) else {
        cx.report.error_hint(
            &path,
            "missing: the addresses and ports that clients may open",
            hint,
        );
        return None;
    };
    let Some((ip, ports)) = range(text) else {
        cx.report
            .error_hint(&path, "not an IP address with a range of ports", hint);
        return None;
    };
    let protocol = protocol(entry.protocol.as_deref(), at, cx);
    let host = entry
        .host
        .as_deref()
        .filter(|host| !host.is_empty())
        .map(str::to_ascii_lowercase);
    if let Some(host) = &host
        && host
            .strip_prefix("*.")
            .unwrap_or(if host == "*" { "any" } else { host })
            .contains(['*', ':', '/'])
    {
        let hint = "use a host name, `*.example.com` or `*`";
        cx.report
            .error_hint(&key_at(at, "host"), "not a pattern of host names", hint);
    }
    Some(Allow {
        user: entry
            .user
            .clone()
            .filter(|user| user != "*" && !user.is_empty()),
        ip,
        ports,
        host,
        protocol,
    })
}

/// `0.0.0.0:6000-7000`, `[::]:80`, `*:8080`.
fn range(text: &str) -> Option<(IpAddr, (u16, u16))> {
    let (host, ports) = text.rsplit_once(':')?;
    let ip = match host {
        "*" | "" => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => match host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            Some(six) => IpAddr::V6(six.parse().ok()?),
            None => IpAddr::V4(host.parse().ok()?),
        },
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (0 < first && first <= last).then_some((ip, (first, last)))
}
