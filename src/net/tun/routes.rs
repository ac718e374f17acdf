//! What leads the machine's traffic into a device (`auto_route`): a routing table of our own, and rules that choose it.
//!
//! The rules stand before that of the main table. Our own sockets have a mark, by which they pass the device. Networks for
//! which there is a route of their own stay where they are, and so do the answers of this machine's servers: their packets
//! have an address of another interface. Without the device, our table refuses: nothing goes past a process that was killed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::packet_route::rule::{
    RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange,
};
use rtnetlink::{Handle, IpVersion, LinkUnspec, RouteMessageBuilder};

use super::ends::Ends;
use crate::net::netlink::{Netlink, error};

/// The number of our table. It is free to choose, and the same for every process: the next one finds what this one left.
pub const TABLE: u32 = 0x7374;
/// The mark of our own sockets, where the config sets none.
pub const MARK: u32 = 0x7374;
/// The origin of our rules (`rtm_protocol`), by which they are known.
const ORIGIN: u8 = 115;
/// The priority of our first rule; the main table has 32766.
const FIRST: u32 = 9500;
/// The priority of our last rule, which the others lead to: what follows it decides.
const LAST: u32 = FIRST + 20;
/// The group of the device, while it lives (`ip link show group 29556`).
const GROUP: u32 = 0x7374;
/// The metric of a route that holds where there is no other.
const WORST: u32 = u32::MAX;

/// Routes and rules of one device.
#[derive(Clone, Debug)]
pub struct AutoRoute {
    /// The name of the device.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Its addresses. Traffic of an IP version of which it has none is refused.
    pub ends: Vec<Ends>,
    /// The marks of our own sockets.
    pub marks: Vec<u32>,
    /// Addresses that do not go into the device: servers that programs of ours connect to.
    pub exempt: Vec<IpAddr>,
    /// Whether queries go into the device even where a route of their own leads elsewhere.
    pub takes_dns: bool,
}

/// Why routes cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has set its own.
    #[error(
        "auto_route: another process leads the traffic of this machine into {name}; stop it first"
    )]
    Busy {
        /// The device of the other.
        name: String,
    },
    /// The system refused it.
    #[error("auto_route: cannot set {what}: {source}")]
    System {
        /// What could not be set.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn refused(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { what, source }
}

impl AutoRoute {
    /// Takes away what a process that was killed has left, and sets routes and rules.
    ///
    /// # Errors
    /// [`Error`]; then nothing is set.
    pub async fn set(&self) -> Result<(), Error> {
        let netlink = Netlink::open().map_err(refused("rules"))?;
        let handle = &netlink.handle;
        let left = ours(handle).await.map_err(refused("rules"))?;
        for rule in &left {
            if let Some(name) = device_of(rule)
                && name != self.name
                && exists(name)
            {
                return Err(Error::Busy { name: name.into() });
            }
        }
        if !left.is_empty() {
            tracing::info!(
                rules = left.len(),
                "removing the rules that a former process left"
            );
        }
        remove(handle, left).await;
        let done = self.set_all(handle).await;
        if done.is_err() {
            self.take_back().await;
        }
        done
    }

    async fn set_all(&self, handle: &Handle) -> Result<(), Error> {
        // Where it is stricter, it refuses what comes from a device that is not the way back. For others it does not matter.
        let _ = std::fs::write(
            format!("/proc/sys/net/ipv4/conf/{}/rp_filter", self.name),
            "2",
        );
        let link = LinkUnspec::new_with_index(self.index).link_group(GROUP);
        let link = handle.link().set(link.build()).execute().await;
        link.map_err(error).map_err(refused("the device's group"))?;
        for is_v4 in [true, false] {
            let done = self.set_version(handle, is_v4).await;
            // Without IPv6 in this system, there is nothing to lead.
            match done {
                Err(Error::System { source, .. }) if !is_v4 && !has_v6() => {
                    tracing::debug!(error = %source, "no routes for IPv6: the system has none");
                }
                done => done?,
            }
        }
        Ok(())
    }

    async fn set_version(&self, handle: &Handle, is_v4: bool) -> Result<(), Error> {
        let ends = self.ends.iter().find(|ends| ends.own.is_ipv4() == is_v4);
        let mut routes = vec![default_route(is_v4, None)];
        if let Some(ends) = ends {
            routes.push(default_route(is_v4, Some((self.index, ends.own))));
        }
        for route in routes {
            let request = handle.route().add(route).replace().execute();
            request.await.map_err(error).map_err(refused("routes"))?;
        }
        for rule in self.rules(ends.map(|ends| ends.own), is_v4) {
            let mut request = handle.rule().add();
            *request.message_mut() = rule;
            request
                .execute()
                .await
                .map_err(error)
                .map_err(refused("rules"))?;
        }
        Ok(())
    }

    /// Leads new traffic past the device. What is under way stays.
    pub async fn release(&self) {
        self.take(|rule| {
            let own = rule.attributes.iter().any(|attribute| {
                matches!(attribute, RuleAttribute::Source(ip) if self.ends.iter().any(|ends| ends.own == *ip))
            });
            !own && rule.header.action == RuleAction::ToTable
        })
        .await;
    }

    /// Takes away everything that [`AutoRoute::set`] has set.
    pub async fn take_back(&self) {
        self.take(|_| true).await;
    }

    async fn take(&self, which: impl Fn(&RuleMessage) -> bool) {
        let result = async {
            let netlink = Netlink::open()?;
            let mut rules = ours(&netlink.handle).await?;
            rules.retain(which);
            remove(&netlink.handle, rules).await;
            Ok::<_, io::Error>(())
        };
        if let Err(error) = result.await {
            tracing::warn!(%error, "cannot take back the routes of `auto_route`");
        }
    }

    /// The rules of one IP version, in their order. The last is the target of jumps, so it comes first.
    fn rules(&self, own: Option<IpAddr>, is_v4: bool) -> Vec<RuleMessage> {
        let mut rules = Vec::new();
        let mut add = |rule: Rule| rules.push(rule.message);
        add(Rule::new(is_v4, LAST, RuleAction::Nop));
        let leave = |step: u32| {
            Rule::new(is_v4, FIRST + step, RuleAction::Goto).with(RuleAttribute::Goto(LAST))
        };
        for mark in &self.marks {
            add(leave(0).with(RuleAttribute::FwMark(*mark)));
        }
        add(leave(1).with(RuleAttribute::Iifname(self.name.clone())));
        for ip in self.exempt.iter().filter(|ip| ip.is_ipv4() == is_v4) {
            add(leave(2).to(*ip));
        }
        if self.takes_dns {
            let port = RulePortRange { start: 53, end: 53 };
            let past = Rule::new(is_v4, FIRST + 3, RuleAction::Goto)
                .with(RuleAttribute::Goto(FIRST + 5))
                .with(RuleAttribute::DestinationPortRange(port));
            add(past);
        }
        // The main table without its default route (254 is its number).
        add(Rule::new(is_v4, FIRST + 4, RuleAction::ToTable)
            .table(254)
            .with(RuleAttribute::SuppressPrefixLen(0)));
        // Only a target for the jump above.
        add(Rule::new(is_v4, FIRST + 5, RuleAction::Nop));
        let ours = |step: u32| Rule::new(is_v4, FIRST + step, RuleAction::ToTable).table(TABLE);
        let here = || RuleAttribute::Iifname("lo".into());
        if let Some(own) = own {
            add(ours(6).with(here()).from(own, if is_v4 { 32 } else { 128 }));
        }
        if is_v4 {
            // Of this machine, with no address chosen yet; and of others.
            add(ours(7).with(here()).from(Ipv4Addr::UNSPECIFIED.into(), 32));
            let mut others = ours(8).with(here());
            others.message.header.flags |= RuleFlags::Invert;
            add(others);
        } else {
            // Without the device, refuses also those with an address: the system tries again with one if it finds no way
            // without. While the device lives, its group makes the system go on with the next rule.
            add(ours(5).with(RuleAttribute::SuppressIfGroup(GROUP)));
            // No rule can ask for packets without an address, but these two ask for those with one.
            for half in [0, 1_u128 << 127] {
                add(leave(7)
                    .with(here())
                    .from(Ipv6Addr::from_bits(half).into(), 1));
            }
            add(ours(8));
        }
        rules
    }
}

/// A rule that is being made.
struct Rule {
    message: RuleMessage,
}

impl Rule {
    fn new(is_v4: bool, priority: u32, action: RuleAction) -> Self {
        let mut message = RuleMessage::default();
        message.header.family = family(is_v4);
        message.header.action = action;
        message.attributes = vec![
            RuleAttribute::Priority(priority),
            RuleAttribute::Protocol(RouteProtocol::from(ORIGIN)),
        ];
        Self { message }
    }

    fn with(mut self, attribute: RuleAttribute) -> Self {
        self.message.attributes.push(attribute);
        self
    }

    fn table(self, table: u32) -> Self {
        self.with(RuleAttribute::Table(table))
    }

    fn to(mut self, ip: IpAddr) -> Self {
        self.message.header.dst_len = if ip.is_ipv4() { 32 } else { 128 };
        self.with(RuleAttribute::Destination(ip))
    }

    fn from(mut self, ip: IpAddr, len: u8) -> Self {
        self.message.header.src_len = len;
        self.with(RuleAttribute::Source(ip))
    }
}

const fn family(is_v4: bool) -> AddressFamily {
    match is_v4 {
        true => AddressFamily::Inet,
        false => AddressFamily::Inet6,
    }
}

/// The default route of our table: into a device, from its address; or refused, where there is no other.
fn default_route(is_v4: bool, device: Option<(u32, IpAddr)>) -> RouteMessage {
    let mut message = match is_v4 {
        true => RouteMessageBuilder::<Ipv4Addr>::new()
            .table_id(TABLE)
            .build(),
        false => RouteMessageBuilder::<Ipv6Addr>::new()
            .table_id(TABLE)
            .build(),
    };
    match device {
        Some((index, own)) => message.attributes.extend([
            RouteAttribute::Oif(index),
            RouteAttribute::PrefSource(own.into()),
            RouteAttribute::Priority(1),
        ]),
        None => {
            message.header.kind = RouteType::Unreachable;
            message.attributes.push(RouteAttribute::Priority(WORST));
        }
    }
    message
}

/// Our rules.
async fn ours(handle: &Handle) -> io::Result<Vec<RuleMessage>> {
    let mut found = Vec::new();
    for (version, is_v4) in [(IpVersion::V4, true), (IpVersion::V6, false)] {
        let mut all = std::pin::pin!(handle.rule().get(version).execute());
        loop {
            match all.try_next().await {
                Ok(Some(rule)) if is_ours(&rule) => found.push(rule),
                Ok(Some(_)) => {}
                Ok(None) => break,
                // Of a version that the system does not have.
                Err(_) if !is_v4 && !has_v6() => break,
                Err(other) => return Err(error(other)),
            }
        }
    }
    Ok(found)
}

fn is_ours(rule: &RuleMessage) -> bool {
    let origin = RouteProtocol::from(ORIGIN);
    let has = |wanted: &dyn Fn(&RuleAttribute) -> bool| rule.attributes.iter().any(wanted);
    has(&|one| *one == RuleAttribute::Protocol(origin))
        && has(&|one| matches!(one, RuleAttribute::Priority(FIRST..=LAST)))
}

/// The device that a rule is about.
fn device_of(rule: &RuleMessage) -> Option<&str> {
    rule.attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::Iifname(name) if name != "lo" => Some(name.as_str()),
            _ => None,
        })
}

/// Removes rules, and the routes that they lead to if these are all. What is gone already does not matter.
async fn remove(handle: &Handle, rules: Vec<RuleMessage>) {
    let is_all = rules
        .iter()
        .any(|rule| rule.header.action == RuleAction::Nop);
    for rule in rules {
        if let Err(error) = handle.rule().del(rule).execute().await {
            tracing::debug!(%error, "rule not removed");
        }
    }
    if is_all {
        for is_v4 in [true, false] {
            let mut route = default_route(is_v4, None);
            let _ = handle.route().del(route.clone()).execute().await;
            route.header.kind = RouteType::Unicast;
            route
                .attributes
                .retain(|one| !matches!(one, RouteAttribute::Priority(_)));
            let _ = handle.route().del(route).execute().await;
        }
    }
}

/// Whether there is an interface of this name.
fn exists(name: &str) -> bool {
    use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
    let asked = socket(AddressFamily::INET, SocketType::DGRAM, None);
    asked.and_then(|socket| name_to_index(socket, name)).is_ok()
}

fn has_v6() -> bool {
    std::path::Path::new("/proc/net/if_inet6").exists()
}
