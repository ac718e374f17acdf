//! What goes past the servers, as far as the config and the machine tell.

use std::net::IpAddr;

use super::context::Context;
use super::report::{Code, Problem, Verdict};
use crate::config::{Local, Protocol};
use crate::wire::Address;

/// Looks at the listeners and the rules.
pub(super) fn leaks(cx: &Context<'_>) -> Vec<Verdict> {
    let config = cx.config;
    let mut found = Vec::new();
    for local in &config.locals {
        if is_open(local) {
            found.push(Verdict::Warning(Problem::new(
                Code::OpenProxy,
                "everybody who reaches this port can use the proxy: it listens on more than this machine, and asks for no login",
                format!("`{}` at {}", local.protocol.name(), local.address),
                "listen on 127.0.0.1, or set `socks5_auth_config_path` and `http_auth_config_path`",
            )));
        }
    }
    let socks = config.locals.iter().filter(|local| {
        matches!(local.protocol, Protocol::Socks | Protocol::Mixed) && local.mode.tcp
    });
    let without: Vec<String> = socks
        .filter(|local| !local.mode.udp)
        .map(|local| local.address.to_string())
        .collect();
    let no_server = config
        .servers
        .iter()
        .all(|server| server.weights.udp.is_none());
    if !without.is_empty() || no_server {
        let place = match without.is_empty() {
            true => "the servers of the config".to_owned(),
            false => format!("`socks` at {}", without.join(", ")),
        };
        found.push(Verdict::Warning(Problem::new(
            Code::UdpNotProxied,
            "UDP is not proxied (`mode` is \"tcp_only\"): a program that uses UDP (QUIC, WebRTC, DNS) may send it directly and show your address",
            place,
            "set `mode` to \"tcp_and_udp\", or block UDP of these programs in the firewall",
        )));
    }
    if found.is_empty() {
        let direct = config.locals.iter().any(|local| local.rules.is_some());
        let rules = match direct {
            true => "rules decide what goes direct (`ssr acl test HOST` asks them)",
            false => "no rule sends anything past the servers",
        };
        found.push(Verdict::Ok(format!(
            "{rules}; programs must leave names to the proxy (socks5h), or they ask your name servers"
        )));
    }
    found
}

fn is_open(local: &Local) -> bool {
    let Some(Address::Ip(address)) = local.address.address() else {
        return false;
    };
    let is_reachable = |ip: IpAddr| !ip.to_canonical().is_loopback();
    let asks = match local.protocol {
        Protocol::Socks | Protocol::Mixed => !local.socks_logins().is_empty(),
        Protocol::Http => !local.http_logins().is_empty(),
        // They are for other machines, or lead to one target.
        _ => true,
    };
    local.mode.tcp && is_reachable(address.ip()) && !asks
}
