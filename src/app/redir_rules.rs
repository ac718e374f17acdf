//! The firewall rules that the `redir` listeners of a config need, in the language of nftables.

mod networks;

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::config::{Config, Local, Protocol, TcpRedir};
use crate::wire::Address;
use networks::{PRIVATE_V4, PRIVATE_V6, fakes};

/// The mark of packets for TPROXY, and the routing table that brings them to this machine; another one if ours has it.
const TPROXY_MARK: u32 = 0x7373;

/// What to print besides the config.
pub struct Wanted<'a> {
    /// Interfaces of other machines whose traffic is redirected; empty: all interfaces.
    pub interfaces: &'a [String],
    /// A shell script that loads the rules and the routes, instead of the rules alone.
    pub script: bool,
    /// The addresses of a name; none: it cannot be resolved.
    pub resolve: &'a dyn Fn(&str) -> Vec<IpAddr>,
}

/// The rules for the `redir` listeners of `config`.
///
/// # Errors
/// That there are none, or that one listens on a name without addresses.
pub fn rules(config: &Config, wanted: &Wanted<'_>) -> Result<String, String> {
    let locals = config.locals.iter();
    let locals = locals.filter(|local| local.protocol == Protocol::Redir);
    let mut ways = Vec::new();
    for local in locals {
        ways.extend(Way::of(local, config, wanted)?);
    }
    if ways.is_empty() {
        return Err(
            "the config has no listener with `\"protocol\": \"redir\"`: there is nothing to redirect to"
                .to_owned(),
        );
    }
    let mut marks: BTreeSet<u32> = config
        .servers
        .iter()
        .filter_map(|server| server.socket.fwmark)
        .collect();
    marks.extend(config.socket.fwmark);
    let tproxy_mark = (TPROXY_MARK..).find(|mark| !marks.contains(mark));
    let (mut stay, mut notes) = (BTreeSet::new(), Vec::new());
    for server in &config.servers {
        let found = addresses(&server.address, wanted);
        if let Address::Domain(name, _) = &server.address {
            notes.push(match found.is_empty() {
                true => format!("{name} could not be resolved: print the rules again when it can"),
                false => format!("{name} as it was resolved when these rules were printed"),
            });
        }
        stay.extend(found);
    }
    let rules = Rules {
        fakes: fakes(config),
        ways,
        marks,
        tproxy_mark: tproxy_mark.unwrap_or(TPROXY_MARK),
        own_programs: config.socket.fwmark.is_some(),
        interfaces: wanted.interfaces,
        stay,
        notes,
    };
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = if wanted.script {
        rules.script(&mut text)
    } else {
        rules.file(&mut text)
    };
    Ok(text)
}

fn addresses(address: &Address, wanted: &Wanted<'_>) -> Vec<IpAddr> {
    match address {
        Address::Ip(address) => vec![address.ip().to_canonical()],
        Address::Domain(name, _) => (wanted.resolve)(name),
    }
}

/// How one protocol comes to one listener.
struct Way {
    listener: SocketAddr,
    is_udp: bool,
    is_tproxy: bool,
    /// The IP versions that the listener takes.
    v4: bool,
    v6: bool,
}

impl Way {
    fn of(local: &Local, config: &Config, wanted: &Wanted<'_>) -> Result<Vec<Self>, String> {
        let listener = |address: &Address| {
            let found = addresses(address, wanted).first().copied();
            found
                .map(|ip| SocketAddr::new(ip, address.port()))
                .ok_or_else(|| {
                    format!("{address} cannot be resolved: the listener needs an address")
                })
        };
        let shares_v4 = |port: u16| {
            let wildcard = Address::Ip((Ipv4Addr::UNSPECIFIED, port).into());
            let mut all = config.locals.iter().map(|local| local.address.address());
            config.socket.ipv6_only || all.any(|address| address == Some(&wildcard))
        };
        let way = |listener: SocketAddr, is_udp, is_tproxy| Self {
            listener,
            is_udp,
            is_tproxy,
            v4: listener.is_ipv4()
                || (listener.ip().is_unspecified() && !shares_v4(listener.port())),
            v6: listener.is_ipv6(),
        };
        let mut ways = Vec::new();
        let Some(place) = local.address.address() else {
            return Ok(ways);
        };
        if local.mode.tcp {
            let is_tproxy = local.tcp_redir == TcpRedir::Tproxy;
            ways.push(way(listener(place)?, false, is_tproxy));
        }
        if local.mode.udp {
            let udp = local.udp_address.as_ref().unwrap_or(place);
            ways.push(way(listener(udp)?, true, true));
        }
        Ok(ways)
    }

    const fn protocol(&self) -> &'static str {
        if self.is_udp { "udp" } else { "tcp" }
    }

    /// What matches its packets, and the IP version, each in the language of nftables.
    fn matches(&self) -> Vec<(String, &'static str)> {
        let protocol = self.protocol();
        let versions = [(self.v4, "ipv4", "ip"), (self.v6, "ipv6", "ip6")];
        let used = versions.into_iter().filter(|(used, ..)| *used);
        used.map(|(_, family, version)| {
            (
                format!("meta nfproto {family} meta l4proto {protocol}"),
                version,
            )
        })
        .collect()
    }

    /// Where `REDIRECT` sends its packets.
    fn redirect(&self, version: &str) -> String {
        let ip = self.listener.ip();
        let port = self.listener.port();
        // A redirect goes to the interface of the packets; on this machine, to 127.0.0.1 or ::1.
        let is_usual = ip.is_unspecified()
            || ip == IpAddr::from(Ipv4Addr::LOCALHOST)
            || (ip.is_loopback() && ip.is_ipv6());
        match is_usual {
            true => format!("redirect to :{port}"),
            false => format!("dnat {version} to {}", self.listener),
        }
    }

    /// Where `TPROXY` hands its packets to.
    fn tproxy(&self, version: &str) -> String {
        match self.listener.ip().is_unspecified() {
            true => format!("tproxy {version} to :{}", self.listener.port()),
            false => format!("tproxy {version} to {}", self.listener),
        }
    }

    /// Whether packets of other machines can be brought to the listener.
    fn takes_others(&self) -> bool {
        self.is_tproxy || !self.listener.ip().is_loopback()
    }
}

/// Everything that is printed.
struct Rules<'a> {
    ways: Vec<Way>,
    /// The marks of our own packets.
    marks: BTreeSet<u32>,
    tproxy_mark: u32,
    /// Whether programs on this machine are redirected.
    own_programs: bool,
    interfaces: &'a [String],
    /// What matches packets to fake addresses.
    fakes: BTreeSet<String>,
    /// Addresses of the servers.
    stay: BTreeSet<IpAddr>,
    /// What should be known of them.
    notes: Vec<String>,
}

impl Rules<'_> {
    /// The commands that bring marked packets to this machine, if any are needed.
    fn routes(&self) -> Vec<String> {
        let mark = self.tproxy_mark;
        let versions = [
            ("-4", self.ways.iter().any(|way| way.is_tproxy && way.v4)),
            ("-6", self.ways.iter().any(|way| way.is_tproxy && way.v6)),
        ];
        let used = versions.into_iter().filter(|(_, used)| *used);
        used.flat_map(|(version, _)| {
            [
                format!("ip {version} rule add fwmark {mark:#x} lookup {mark}"),
                format!("ip {version} route replace local default dev lo table {mark}"),
            ]
        })
        .collect()
    }

    fn script(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "#!/bin/sh")?;
        writeln!(
            out,
            "# Redirects connections to `ssr local`, by `ssr redir-rules --script`. Run it as root."
        )?;
        writeln!(out, "set -e")?;
        for route in self.routes() {
            if let Some(rule) = route.strip_suffix(&format!(" lookup {}", self.tproxy_mark)) {
                let undo = rule.replace(" rule add ", " rule del ");
                writeln!(
                    out,
                    "while {undo} lookup {} 2>/dev/null; do :; done",
                    self.tproxy_mark
                )?;
            }
            writeln!(out, "{route}")?;
        }
        writeln!(out, "nft -f - <<'RULES'")?;
        self.table(out)?;
        writeln!(out, "RULES")
    }

    fn file(&self, out: &mut String) -> fmt::Result {
        writeln!(
            out,
            "# Redirects connections to `ssr local`, by `ssr redir-rules`."
        )?;
        writeln!(
            out,
            "# Load: ssr redir-rules -c FILE | nft -f -        Remove: nft delete table inet ssr"
        )?;
        let routes = self.routes();
        if !routes.is_empty() {
            writeln!(
                out,
                "# TPROXY also needs these routes, once after each start of the system:"
            )?;
            for route in routes {
                writeln!(out, "#   {route}")?;
            }
        }
        self.table(out)
    }

    fn table(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "table inet ssr")?;
        writeln!(out, "delete table inet ssr")?;
        writeln!(out, "table inet ssr {{")?;
        let of = |v4: bool| {
            self.stay
                .iter()
                .filter(move |ip| ip.is_ipv4() == v4)
                .map(ToString::to_string)
        };
        writeln!(
            out,
            "    # Not redirected: private networks, and the servers."
        )?;
        for note in &self.notes {
            writeln!(out, "    # {note}.")?;
        }
        set("stay4", "ipv4_addr", &PRIVATE_V4, of(true), out)?;
        set("stay6", "ipv6_addr", &PRIVATE_V6, of(false), out)?;
        let redirects: Vec<&Way> = self.ways.iter().filter(|way| !way.is_tproxy).collect();
        let tproxies: Vec<&Way> = self.ways.iter().filter(|way| way.is_tproxy).collect();
        self.exempt(!tproxies.is_empty(), out)?;
        if !redirects.is_empty() {
            self.redirect_chains(&redirects, out)?;
        }
        if !tproxies.is_empty() {
            self.tproxy_chains(&tproxies, out)?;
        }
        writeln!(out, "}}")
    }

    /// What is accepted as it is, before anything is redirected. With TPROXY, flows are marked that an answer in the name of
    /// another address has begun: what is sent there is redirected too.
    fn exempt(&self, has_tproxy: bool, out: &mut String) -> fmt::Result {
        writeln!(out, "    chain exempt {{")?;
        for mark in &self.marks {
            writeln!(
                out,
                "        meta mark {mark:#x} accept comment \"sent by ssr\""
            )?;
        }
        let unmarked = match has_tproxy {
            true => format!("ct mark != {:#x} ", self.tproxy_mark),
            false => String::new(),
        };
        writeln!(out, "        ct direction reply {unmarked}accept")?;
        writeln!(out, "        fib daddr type local accept")?;
        for packets in &self.fakes {
            writeln!(out, "        {packets} return comment \"fake-dns\"")?;
        }
        writeln!(out, "        ip daddr @stay4 accept")?;
        writeln!(out, "        ip6 daddr @stay6 accept")?;
        writeln!(out, "    }}")
    }

    fn redirect_chains(&self, ways: &[&Way], out: &mut String) -> fmt::Result {
        let statements = |way: &Way| {
            let matches = way.matches().into_iter();
            matches
                .map(|(packets, version)| format!("{packets} {}", way.redirect(version)))
                .collect::<Vec<_>>()
        };
        if ways.iter().any(|way| way.takes_others()) {
            writeln!(out, "    # TCP of other machines.")?;
            writeln!(out, "    chain redirect_others {{")?;
            writeln!(
                out,
                "        type nat hook prerouting priority -100; policy accept;"
            )?;
            self.only_interfaces(&[], out)?;
            writeln!(out, "        jump exempt")?;
            for way in ways.iter().filter(|way| way.takes_others()) {
                for statement in statements(way) {
                    writeln!(out, "        {statement}")?;
                }
            }
            writeln!(out, "    }}")?;
        } else {
            writeln!(
                out,
                "    # TCP of other machines cannot be redirected to loopback: listen on 0.0.0.0 or ::, or use `tproxy`."
            )?;
        }
        if !self.own_programs {
            return self.no_own_programs(out);
        }
        writeln!(out, "    # TCP of programs on this machine.")?;
        writeln!(out, "    chain redirect_own {{")?;
        writeln!(
            out,
            "        type nat hook output priority -100; policy accept;"
        )?;
        writeln!(out, "        jump exempt")?;
        for statement in ways.iter().flat_map(|way| statements(way)) {
            writeln!(out, "        {statement}")?;
        }
        writeln!(out, "    }}")
    }

    fn tproxy_chains(&self, ways: &[&Way], out: &mut String) -> fmt::Result {
        let mark = self.tproxy_mark;
        writeln!(
            out,
            "    # Hands packets to `ssr local`: those of other machines, and those marked below, which come in by lo."
        )?;
        writeln!(out, "    chain tproxy_all {{")?;
        writeln!(
            out,
            "        type filter hook prerouting priority -150; policy accept;"
        )?;
        self.only_interfaces(&["lo"], out)?;
        writeln!(out, "        jump exempt")?;
        for way in ways {
            for (packets, version) in way.matches() {
                let to = way.tproxy(version);
                // The mark comes first: without `ssr local` the packet must not go on to its target.
                writeln!(
                    out,
                    "        {packets} meta mark set {mark:#x} ct mark set {mark:#x} {to} accept"
                )?;
            }
        }
        writeln!(out, "    }}")?;
        self.answer_chains(out)?;
        if !self.own_programs {
            return self.no_own_programs(out);
        }
        writeln!(
            out,
            "    # Packets of programs on this machine: the mark routes them to lo."
        )?;
        writeln!(out, "    chain tproxy_own {{")?;
        writeln!(
            out,
            "        type route hook output priority -150; policy accept;"
        )?;
        writeln!(out, "        jump exempt")?;
        for (packets, _) in ways.iter().flat_map(|way| way.matches()) {
            writeln!(out, "        {packets} meta mark set {mark:#x}")?;
        }
        writeln!(out, "    }}")
    }

    /// What follows from answers that have the address of a target.
    fn answer_chains(&self, out: &mut String) -> fmt::Result {
        let mark = self.tproxy_mark;
        writeln!(
            out,
            "    # Answers of `ssr local` in the name of targets: what programs send there is redirected too."
        )?;
        writeln!(out, "    chain answers {{")?;
        writeln!(
            out,
            "        type filter hook output priority -140; policy accept;"
        )?;
        writeln!(
            out,
            "        fib saddr type != local ct state new ct mark set {mark:#x}"
        )?;
        writeln!(out, "    }}")?;
        writeln!(
            out,
            "    # An answer that nobody waits for any more causes an ICMP error: it must not go to the target."
        )?;
        writeln!(out, "    chain errors {{")?;
        writeln!(
            out,
            "        type filter hook postrouting priority 0; policy accept;"
        )?;
        writeln!(out, "        jump exempt")?;
        writeln!(
            out,
            "        meta l4proto {{ icmp, ipv6-icmp }} ct mark {mark:#x} drop"
        )?;
        writeln!(out, "    }}")
    }

    /// Lets through what does not come from the wanted interfaces.
    fn only_interfaces(&self, besides: &[&str], out: &mut String) -> fmt::Result {
        if self.interfaces.is_empty() {
            return Ok(());
        }
        let own = self.interfaces.iter().map(String::as_str);
        let names: Vec<String> = besides
            .iter()
            .copied()
            .chain(own)
            .map(|name| format!("\"{name}\""))
            .collect();
        writeln!(out, "        iifname != {{ {} }} accept", names.join(", "))
    }

    fn no_own_programs(&self, out: &mut String) -> fmt::Result {
        writeln!(
            out,
            "    # Programs on this machine are not redirected: without `outbound_fwmark` in the config, nothing tells"
        )?;
        writeln!(
            out,
            "    # them from ssr, whose own connections would come back to it."
        )
    }
}

/// A set of networks and addresses.
fn set(
    name: &str,
    kind: &str,
    networks: &[&str],
    addresses: impl Iterator<Item = String>,
    out: &mut String,
) -> fmt::Result {
    let all: Vec<String> = networks
        .iter()
        .map(|network| (*network).to_owned())
        .chain(addresses)
        .collect();
    writeln!(out, "    set {name} {{")?;
    writeln!(out, "        type {kind}")?;
    writeln!(out, "        flags interval")?;
    writeln!(out, "        auto-merge")?;
    writeln!(out, "        elements = {{ {} }}", all.join(", "))?;
    writeln!(out, "    }}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use crate::config::{Role, parse};

    fn printed(locals: &str, more: &str, interfaces: &[&str]) -> Result<String, String> {
        let text = format!(
            r#"{{"servers": [{{"server": "192.0.2.9", "server_port": 8388, "method": "none"}},
                {{"server": "a.example", "server_port": 8388, "method": "none"}}], "locals": [{locals}]{more}}}"#
        );
        let config =
            parse(&text, Role::Local, &|_| None).unwrap_or_else(|found| panic!("{found:?}"));
        let interfaces: Vec<String> = interfaces.iter().map(|name| (*name).to_owned()).collect();
        let resolve = |name: &str| match name {
            "a.example" => vec!["2001:db8::9".parse().unwrap()],
            _ => Vec::new(),
        };
        let wanted = Wanted {
            interfaces: &interfaces,
            script: false,
            resolve: &resolve,
        };
        rules(&config, &wanted)
    }

    #[test]
    fn listeners_and_marks_decide_what_is_printed() {
        let mark = r#", "outbound_fwmark": 255"#;
        let redir = r#"{"protocol": "redir", "local_address": "ADDRESS", "local_port": 1080, "tcp_redir": "TCP"}"#;
        let redir =
            |address: &str, tcp: &str| redir.replace("ADDRESS", address).replace("TCP", tcp);
        for (local, more, has, lacks) in [
            (
                redir("127.0.0.1", "redirect"),
                mark,
                &[
                    "redirect_own",
                    "ipv4 meta l4proto tcp redirect to :1080",
                    "meta mark set 0x7373 ct mark set 0x7373 tproxy ip to 127.0.0.1:1080 accept",
                    "meta mark 0xff accept",
                    "192.0.2.9",
                    "2001:db8::9",
                    "a.example as it was",
                    "#   ip -4 rule add fwmark 0x7373 lookup 29555",
                ][..],
                &["redirect_others", "ipv6 meta", "ip -6"][..],
            ),
            (
                redir("0.0.0.0", "redirect"),
                mark,
                &["redirect_others", "redirect_own"],
                &["ipv6 meta"],
            ),
            (
                redir("::", "tproxy"),
                mark,
                &[
                    "ct mark set 0x7373 tproxy ip to :1080",
                    "ct mark set 0x7373 tproxy ip6 to :1080",
                    "ip -6",
                ],
                &["redirect"],
            ),
            (
                redir("192.0.2.1", "redirect"),
                "",
                &[
                    "dnat ip to 192.0.2.1:1080",
                    "redirect_others",
                    "Programs on this machine are not",
                ],
                &["redirect_own", "tproxy_own"],
            ),
            (
                redir("::1", "tproxy"),
                mark,
                &["tproxy ip6 to [::1]:1080"],
                &["ipv4 meta"],
            ),
            (
                redir("::", "tproxy"),
                r#", "outbound_fwmark": 29555"#,
                &["meta mark set 0x7374"],
                &["set 0x7373"],
            ),
        ] {
            let text = printed(&local, more, &[]).unwrap();
            for part in has {
                assert!(text.contains(part), "{local}: no {part} in\n{text}");
            }
            for part in lacks {
                // Comments may name what is not there.
                let rules: String = text
                    .lines()
                    .filter(|line| !line.contains("redirected"))
                    .collect();
                assert!(!rules.contains(part), "{local}: {part} in\n{text}");
            }
        }
        let text = printed(&redir("::", "tproxy"), mark, &["lan0"]).unwrap();
        assert!(
            text.contains(r#"iifname != { "lo", "lan0" } accept"#),
            "{text}"
        );
    }

    #[test]
    fn config_without_redir_has_no_rules() {
        assert!(printed("{}", "", &[]).unwrap_err().contains("no listener"));
    }
}
