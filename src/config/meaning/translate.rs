//! The file as written -> the config as meant. Errors are collected, and a default stands in for each wrong value.

use std::time::Duration;

use serde_json::Value;

use crate::crypto::Family;
use crate::dns;

use super::admin;
use super::balancer;
use super::congestion;
use super::context::{Context, filled};
use super::forwards;
use super::locals;
use super::logging;
use super::manager;
use super::model::{Config, Mode, ReplayPolicy};
use super::online;
use super::options;
use super::reverse;
use super::rules;
use super::servers;
use super::state;
use super::store;
use super::tun;
use crate::config::role::Role;
use crate::config::written::file::Top;
use crate::config::written::scalar::Number;

/// The shortest time that a UDP session must live (SIP022 §3.2.4).
const SESSION_FLOOR: Duration = Duration::from_secs(60);

/// Translates the whole file. If it reports an error, the result must not run.
pub(crate) fn config(top: &Top, cx: &mut Context<'_>) -> Config {
    let mode = cx.mode("mode", top.mode.as_deref(), Mode::TCP_AND_UDP);
    let mut socket = options::socket(top, cx);
    congestion::check(top, cx);
    socket.fwmark = socket.fwmark.or_else(|| tun::mark(top, cx.role));
    let (forwards, sites) = forwards::forwards(top, cx);
    let mut servers = match cx.role {
        Role::Local | Role::Server => servers::servers(top, mode, &socket, cx),
        Role::Forward => Vec::new(),
    };
    let mut locals = match cx.role {
        Role::Local => locals::locals(top, mode, cx),
        Role::Server | Role::Forward => Vec::new(),
    };
    tun::check(top, &servers, &locals, &socket, cx);
    rules::attach(top, &mut servers, &mut locals, cx);
    // A manager may add such a server.
    let modern = manager::is_set(top, cx.role)
        || servers
            .iter()
            .any(|server| server.method.family() == Family::Aead2022);
    Config {
        role: cx.role,
        servers,
        locals,
        forwards,
        sites,
        timeouts: options::timeouts(top, cx),
        udp_timeout: udp_timeout(top, modern, cx),
        limits: options::limits(top, cx),
        dns: dns(top, cx),
        dns_cache_size: top
            .dns_cache_size
            .map(|Number(size)| usize::try_from(size).unwrap_or(usize::MAX)),
        socket,
        workers: options::workers(top, cx),
        nofile: top
            .nofile
            .map(|Number(count)| count)
            .filter(|count| *count > 0),
        user: filled(top.user.as_deref()),
        replay: replay(top, cx),
        deny_private: top.deny_private.unwrap_or(false),
        watch: top.watch.unwrap_or(false),
        sandbox: top.sandbox,
        fair: fair(top, cx),
        log: logging::log(top.log.as_ref(), cx),
        first_payload_wait: first_payload_wait(top, cx),
        admin: admin::admin(top, cx),
        manager: manager::manager(top, cx),
        reverse: reverse::reverse(top.reverse.as_ref(), cx),
        state: state::state(top, cx),
        store: store::store(top, cx),
        balancer: balancer::balancer(top, cx),
        online: online::online(top, cx),
        warnings: Vec::new(),
        file: None,
        reread: None,
    }
}

fn udp_timeout(top: &Top, modern: bool, cx: &mut Context<'_>) -> Duration {
    let Some(chosen) = cx.seconds("udp_timeout", top.udp_timeout) else {
        return Duration::from_secs(300);
    };
    if modern && chosen < SESSION_FLOOR {
        cx.report.warn(
            "udp_timeout",
            "raised to 60 s: AEAD-2022 sessions must last that long",
        );
        return SESSION_FLOOR;
    }
    chosen
}

fn dns(top: &Top, cx: &mut Context<'_>) -> dns::Source {
    let (path, written) = match (&top.dns, &top.nameserver) {
        (Some(dns), _) => ("dns", dns.clone()),
        (None, Some(list)) if !list.is_empty() => ("nameserver", Value::String(list.clone())),
        (None, _) => return dns::Source::System,
    };
    match dns::Source::from_value(&written) {
        Ok(source) => source,
        Err(error) => {
            cx.report.error(path, error.to_string());
            dns::Source::System
        }
    }
}

fn replay(top: &Top, cx: &mut Context<'_>) -> ReplayPolicy {
    let policy = top
        .security
        .as_ref()
        .and_then(|security| security.replay_attack.as_ref())
        .and_then(|replay| replay.policy.as_deref());
    match policy {
        None | Some("default" | "reject") => ReplayPolicy::Reject,
        Some("detect") => ReplayPolicy::Detect,
        Some("ignore") => ReplayPolicy::Ignore,
        Some(other) => {
            cx.report.unknown(
                "security.replay_attack.policy",
                "policy",
                other,
                "use `default`, `reject`, `detect` or `ignore`",
            );
            ReplayPolicy::Reject
        }
    }
}

/// Enough for a program on this machine to send its first bytes, and short beside any round trip.
const FIRST_PAYLOAD_WAIT: Duration = Duration::from_millis(2);

fn first_payload_wait(top: &Top, cx: &mut Context<'_>) -> Duration {
    match top.first_payload_wait_ms {
        None => FIRST_PAYLOAD_WAIT,
        Some(Number(wait)) if wait <= 1000 => Duration::from_millis(wait),
        Some(Number(_)) => {
            cx.report.error_hint(
                "first_payload_wait_ms",
                "must be at most 1000 ms",
                "every connection on which the server speaks first waits this long",
            );
            Duration::ZERO
        }
    }
}

/// Whether users share fairly, which only a server's do.
fn fair(top: &Top, cx: &mut Context<'_>) -> bool {
    let is_wanted = top.fair == Some(true);
    if is_wanted && cx.role != Role::Server {
        cx.report.warn(
            "fair",
            "no effect here: it is for the users of `ssr server`",
        );
    }
    is_wanted && cx.role == Role::Server
}
