//! The summary of a config that `ssr check` prints. It holds no secrets.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use crate::crypto::Family;
use crate::dns;
use crate::dns::fake::networks;
use crate::net::fetch::Shown;
use crate::wire::proxy_protocol::Version;
use crate::wire::reverse;

use super::meaning::model::{
    Config, Local, Protocol, ReplayPolicy, Server, TcpRedir, TunDevice, TunLocal,
};
use super::role::Role;

/// How many users are listed by name.
const USERS_SHOWN: usize = 10;

impl Config {
    /// A few lines that say what this config would run.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_summary(&mut text);
        text
    }

    fn write_summary(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "ssr {}", self.role.name())?;
        for local in &self.locals {
            write_local(local, out)?;
        }
        for server in &self.servers {
            self.write_server(server, out)?;
        }
        if let Some(online) = &self.online {
            let (url, seconds) = (Shown(online.url.expose()), online.interval.as_secs());
            writeln!(
                out,
                "  servers     also those of {url}, downloaded every {seconds} s"
            )?;
        }
        self.write_balancer(out)?;
        for forward in &self.forwards {
            writeln!(
                out,
                "  forward     {} -> {}",
                forward.listen, forward.target
            )?;
        }
        for forward in &self.sites {
            writeln!(out, "  site        {} -> {}", forward.listen, forward.site)?;
        }
        self.write_reverse(out)?;
        self.write_rules(out)?;
        let source = match &self.dns {
            dns::Source::System => "name servers of the system".to_owned(),
            _ => "name servers of the config".to_owned(),
        };
        writeln!(out, "  dns         {source}")?;
        if let Some(name) = &self.socket.congestion {
            writeln!(out, "  congestion  {name}")?;
        }
        writeln!(
            out,
            "  timeouts    handshake {} s, connect {} s, idle {} s, half-close {} s, UDP {} s",
            self.timeouts.handshake.as_secs(),
            self.timeouts.connect.as_secs(),
            self.timeouts.idle.as_secs(),
            self.timeouts.half_close.as_secs(),
            self.udp_timeout.as_secs(),
        )?;
        writeln!(
            out,
            "  limits      {} connections, {} handshakes, {} visitors, {} UDP associations, {} MiB of buffers",
            self.limits.connections,
            self.limits.handshakes,
            self.limits.visitors,
            self.limits.udp_associations,
            self.limits.memory_mib,
        )?;
        match self.workers {
            0 => writeln!(out, "  workers     one per core")?,
            count => writeln!(out, "  workers     {count}")?,
        }
        self.write_notes(out)
    }

    fn write_server(&self, server: &Server, out: &mut String) -> fmt::Result {
        let verb = match self.role {
            Role::Local | Role::Forward => "server",
            Role::Server => "listen",
        };
        write!(
            out,
            "  {verb:<10}  {} {}, {}",
            server.address,
            server.mode.name(),
            server.method
        )?;
        if server.name != server.address.to_string() {
            write!(out, ", \"{}\"", server.name)?;
        }
        self.write_transport(server, out)?;
        if let Some(version) = server.udp_over_tcp {
            write!(out, ", UDP over TCP version {}", version.number())?;
        }
        if let Some(multiplex) = &server.multiplex {
            write!(out, ", multiplexed by {}", multiplex.head.protocol.name())?;
        }
        if let Some(plugin) = &server.plugin {
            write!(out, ", through the plugin {}", plugin.program)?;
        }
        for hop in &server.proxies {
            write!(out, ", by {hop}")?;
        }
        if let (true, Some(name)) = (
            server.socket.congestion != self.socket.congestion,
            &server.socket.congestion,
        ) {
            write!(out, ", congestion control {name}")?;
        }
        match server.keys.identity.len() {
            0 => writeln!(out)?,
            1 => writeln!(out, ", as a user (one identity header)")?,
            hops => writeln!(out, ", as a user ({hops} identity headers)")?,
        }
        self.write_fallback(server, out)?;
        let names: Vec<String> = server
            .users
            .iter()
            .take(USERS_SHOWN)
            .map(|user| match &user.next_hop {
                Some(hop) => format!("{} -> {hop}", user.name),
                None => user.name.clone(),
            })
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        write!(out, "    users     {}", names.join(", "))?;
        match server.users.len().saturating_sub(USERS_SHOWN) {
            0 => writeln!(out),
            more => writeln!(out, " and {more} more"),
        }
    }

    fn write_balancer(&self, out: &mut String) -> fmt::Result {
        let (Some(balancer), Role::Local) = (&self.balancer, self.role) else {
            return Ok(());
        };
        write!(out, "  balancer    {}", balancer.strategy.name())?;
        match &balancer.probe {
            Some(probe) => writeln!(
                out,
                ", a probe of {}{} every {} s",
                probe.target,
                probe.path,
                probe.interval.as_secs()
            ),
            None => writeln!(out, ", no probes"),
        }
    }

    fn write_rules(&self, out: &mut String) -> fmt::Result {
        for live in self.live_rules() {
            let source = live.source();
            write!(out, "  rules       {}", source.rules.len())?;
            if let Some(acl) = &source.acl {
                write!(out, ", then {}", acl.display())?;
            }
            match source.files().len() {
                0 => writeln!(out)?,
                count => writeln!(out, "; {count} files, read again when they change")?,
            }
        }
        Ok(())
    }

    fn write_reverse(&self, out: &mut String) -> fmt::Result {
        let reverse = &self.reverse;
        for service in &reverse.services {
            write!(
                out,
                "  publish     \"{}\" {} {} -> {}",
                service.name,
                service.protocol.name(),
                service.bind,
                service.target
            )?;
            if !service.host.is_empty() {
                write!(out, ", host {}", service.host)?;
            }
            match service.proxy {
                None => {}
                Some(Version::One) => write!(out, ", PROXY v1")?,
                Some(Version::Two) => write!(out, ", PROXY v2")?,
            }
            writeln!(out, "{}", if service.group { ", in a group" } else { "" })?;
        }
        if !reverse.services.is_empty() {
            let (links, seconds) = (reverse.links, reverse.heartbeat.as_secs());
            writeln!(out, "    links     {links}, heartbeat every {seconds} s")?;
        }
        for allow in &reverse.allow {
            let protocol = allow
                .protocol
                .map_or("any protocol", reverse::Protocol::name);
            let bind = SocketAddr::new(allow.ip, allow.ports.0);
            write!(out, "  allow       {bind}")?;
            if allow.ports.1 != allow.ports.0 {
                write!(out, "-{}", allow.ports.1)?;
            }
            let user = allow.user.as_deref().unwrap_or("every user");
            write!(out, ", {protocol}, for {user}")?;
            match &allow.host {
                Some(host) => writeln!(out, ", hosts {host}")?,
                None => writeln!(out)?,
            }
        }
        Ok(())
    }

    fn write_transport(&self, server: &Server, out: &mut String) -> fmt::Result {
        let Some(transport) = &server.transport else {
            return Ok(());
        };
        write!(out, ", over {}", transport.name())?;
        if let Some(ws) = &transport.ws {
            let host = ws.endpoint.host.as_deref().unwrap_or_default();
            write!(out, " {host}{}", ws.endpoint.path)?;
            if ws.mux && self.role == Role::Local {
                write!(out, " with mux.cool")?;
            }
        }
        if let Some(site) = &transport.site {
            write!(out, ", others get {site}")?;
        }
        if let (Some(_), Role::Local) = (&transport.tls, self.role) {
            write!(out, ", TLS for {}", transport.server_name(&server.address))?;
        }
        if server.mode.udp
            && self.role == Role::Local
            && server.udp_over_tcp.is_none()
            && server.multiplex.is_none()
        {
            let way = match (transport.udp_inside, &transport.quic) {
                (true, Some(_)) if transport.udp_datagrams => "in its datagrams",
                (true, Some(_)) => "in its streams",
                (true, None) => "through it",
                (false, _) => "directly",
            };
            write!(out, ", UDP {way}")?;
        }
        Ok(())
    }

    /// What is beside QUIC.
    fn write_fallback(&self, server: &Server, out: &mut String) -> fmt::Result {
        let transport = server.transport.as_ref();
        let (Some(beside), Some(fallback)) = (
            server.beside_quic(),
            transport.and_then(|transport| transport.fallback.as_ref()),
        ) else {
            return Ok(());
        };
        match self.role {
            Role::Server => write!(out, "    beside    TCP {}", server.address)?,
            Role::Local | Role::Forward => write!(out, "    fallback  TCP")?,
        }
        if let Some(ws) = beside.transport.as_ref().and_then(|one| one.ws.as_ref()) {
            let host = ws.endpoint.host.as_deref().unwrap_or_default();
            write!(out, ", over wss {host}{}", ws.endpoint.path)?;
        }
        match self.role {
            Role::Server => writeln!(out),
            Role::Local | Role::Forward => writeln!(
                out,
                ", where UDP is blocked; QUIC is tried again after {} s",
                fallback.retry.as_secs()
            ),
        }
    }

    /// Settings that the reader should know about.
    fn write_notes(&self, out: &mut String) -> fmt::Result {
        if self.role == Role::Server && !self.deny_private {
            writeln!(
                out,
                "  note        `deny_private` is false: clients can reach loopback and private networks of this machine"
            )?;
        }
        let old = self
            .servers
            .iter()
            .any(|server| server.method.family() == Family::Aead2017);
        if old && self.replay != ReplayPolicy::Reject {
            writeln!(
                out,
                "  note        replayed connections are accepted: `security.replay_attack.policy` is not `reject`"
            )?;
        }
        let open = |local: &&Local| {
            // A connection that no firewall redirects is refused.
            local.auth_file.is_none()
                && local.http_auth_file.is_none()
                && !is_loopback(local)
                && local.protocol != Protocol::Redir
                && local.protocol != Protocol::Tun
        };
        for local in self.locals.iter().filter(open) {
            let why = match local.protocol {
                Protocol::Http => "there is no `http_auth_config_path`",
                Protocol::Socks | Protocol::Mixed => "there is no `socks5_auth_config_path`",
                Protocol::Dns | Protocol::FakeDns => "DNS has no logins",
                Protocol::Tunnel | Protocol::Redir | Protocol::Tun => "it has no logins",
            };
            writeln!(
                out,
                "  note        anybody who can reach {} can use it: {why}",
                local.address
            )?;
        }
        Ok(())
    }
}

fn write_tun(local: &Local, tun: &TunLocal, out: &mut String) -> fmt::Result {
    match &tun.device {
        TunDevice::Named(Some(name)) => write!(out, "  listen      {name}")?,
        TunDevice::Named(None) => write!(out, "  listen      a new device")?,
        TunDevice::Descriptor(fd) => write!(out, "  listen      the device of descriptor {fd}")?,
        TunDevice::FromPath(path) => {
            write!(
                out,
                "  listen      a device that comes through {}",
                path.display()
            )?;
        }
    }
    write!(out, ", {}, tun", local.mode.name())?;
    for ends in &tun.ends {
        write!(out, ", {}/{}", ends.own, ends.prefix)?;
    }
    if let Some(mtu) = tun.mtu {
        write!(out, ", MTU {mtu}")?;
    }
    if let Some(dns) = tun.dns {
        write!(out, ", queries to {dns}")?;
    }
    let routed = if tun.auto_route {
        ", takes the traffic of this machine"
    } else {
        ""
    };
    writeln!(out, "{routed}")
}

fn write_local(local: &Local, out: &mut String) -> fmt::Result {
    if let Some(tun) = &local.tun {
        return write_tun(local, tun, out);
    }
    write!(
        out,
        "  listen      {} {}, {}",
        local.address,
        local.mode.name(),
        local.protocol.name()
    )?;
    if local.protocol == Protocol::Redir {
        let tcp = match local.tcp_redir {
            TcpRedir::Redirect => "redirect",
            TcpRedir::Tproxy => "tproxy",
        };
        let ways = [
            (local.mode.tcp, "TCP by", tcp),
            (local.mode.udp, "UDP by", "tproxy"),
        ];
        for (_, protocol, way) in ways.iter().filter(|(used, ..)| *used) {
            write!(out, ", {protocol} {way}")?;
        }
    }
    if let Some(target) = &local.target {
        write!(out, " to {target}")?;
    }
    if let Some(udp) = &local.udp_address {
        write!(out, ", UDP at {udp}")?;
    }
    if let Some(fake) = &local.fake_dns {
        let [v4, v6] = networks(&fake.names);
        write!(
            out,
            ", fake addresses of {v4} and {v6}, kept in {}",
            fake.file.display()
        )?;
    }
    if let Some(dns) = &local.dns {
        if let Some(remote) = &dns.remote {
            write!(out, ", asks {remote} through the server")?;
        }
        if let Some(local) = &dns.local {
            write!(out, ", asks {local} directly")?;
        }
    }
    match local.socks_logins().len().max(local.http_logins().len()) {
        0 => writeln!(out),
        users => writeln!(out, ", login required ({users} users)"),
    }
}

fn is_loopback(local: &Local) -> bool {
    let Some(address) = local.address.address() else {
        return true;
    };
    match address {
        crate::wire::address::Address::Ip(ip) => ip.ip().is_loopback(),
        crate::wire::address::Address::Domain(name, _) => name.eq_ignore_ascii_case("localhost"),
    }
}
