//! Fake addresses: a `fake-dns` local answers with them, and connections to them are for the names that they stand for.
//!
//! - [`FakeNames`]: the names and addresses of one pair of networks. Nothing here waits; the time is an argument.
//! - [`Fakes`]: those of the whole process, for the ways in that see addresses only (`redir`, `tun`).
//! - [`Saved`] (`saved.rs`): names as they are written to a file.

mod saved;
mod table;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::sync::Notify;

pub use self::saved::{Damage, Saved, can_have_address, decode, encode};
pub use self::table::Meaning;
use self::table::Table;
use crate::net::sync::lock;
use crate::net::unix_now;
use crate::wire::Address;

/// What [`FakeNames`] hands out, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The network of A records.
    pub v4: Ipv4Net,
    /// The network of AAAA records; its first 2^32 addresses are used.
    pub v6: Ipv6Net,
    /// How long an address stands for its name after its last use, at least.
    pub lifetime: Duration,
}

/// The version of IP of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4, for A records.
    V4,
    /// IPv6, for AAAA records.
    V6,
}

/// Names and their fake addresses.
pub struct FakeNames {
    settings: Settings,
    tables: Mutex<Tables>,
    /// Notified when there is something new to save.
    changed: Notify,
}

struct Tables {
    v4: Table,
    v6: Table,
}

impl Tables {
    fn of(&mut self, ip: IpAddr) -> &mut Table {
        match ip {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        }
    }
}

impl FakeNames {
    /// Without names. The first address is at `start` of its network, which should be random: then a program that has kept
    /// an address of an earlier run reaches nobody, rather than somebody else.
    #[must_use]
    pub fn new(settings: Settings, start: u32) -> Self {
        let lifetime = settings.lifetime.as_secs().max(1);
        let tables = Tables {
            v4: Table::v4(settings.v4, lifetime, start),
            v6: Table::v6(settings.v6, lifetime, start),
        };
        Self {
            settings,
            tables: Mutex::new(tables),
            changed: Notify::new(),
        }
    }

    /// Its settings.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The address that stands for `name` from now on; `None`: all addresses are in use. `now` is in Unix seconds.
    #[must_use]
    pub fn address(&self, name: &str, family: Family, now: u64) -> Option<IpAddr> {
        let mut tables = lock(&self.tables);
        let table = match family {
            Family::V4 => &mut tables.v4,
            Family::V6 => &mut tables.v6,
        };
        let (address, is_news) = table.address(name, now)?;
        drop(tables);
        if is_news {
            self.changed.notify_one();
        }
        Some(address)
    }

    /// What `ip` is; to ask counts as use. `now` is in Unix seconds.
    #[must_use]
    pub fn meaning(&self, ip: IpAddr, now: u64) -> Meaning {
        let mut tables = lock(&self.tables);
        let (meaning, is_news) = tables.of(ip).meaning(ip, now);
        drop(tables);
        if is_news {
            self.changed.notify_one();
        }
        meaning
    }

    /// The addresses that are handed out, as networks.
    #[must_use]
    pub fn networks(&self) -> [IpNet; 2] {
        networks(&self.settings)
    }

    /// Waits until there is something new to save.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The names, the least recently used first.
    #[must_use]
    pub fn save(&self) -> Vec<Saved> {
        let tables = lock(&self.tables);
        tables.v4.save().chain(tables.v6.save()).collect()
    }

    /// Takes names back that an earlier run saved, as far as their time has not passed. Returns how many.
    pub fn restore(&self, saved: Vec<Saved>, now: u64) -> usize {
        let mut tables = lock(&self.tables);
        let restored = saved
            .into_iter()
            .filter_map(|one| tables.of(one.address).restore(one, now).then_some(()));
        restored.count()
    }
}

/// The addresses that are handed out with `settings`, as networks.
#[must_use]
pub fn networks(settings: &Settings) -> [IpNet; 2] {
    let used = settings.v6.prefix_len().max(128 - 32);
    let v6 = Ipv6Net::new(settings.v6.network(), used).unwrap_or(settings.v6);
    [settings.v4.into(), v6.into()]
}

/// Somebody wants to reach a fake address that stands for no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is a `fake-dns` address without a name: its time has passed, or it is of an earlier run; resolve the name again"
)]
pub struct NoName(pub SocketAddr);

/// All fake names of the process. Cloning it is cheap.
#[derive(Clone, Default)]
pub struct Fakes(Arc<[Arc<FakeNames>]>);

impl Fakes {
    /// Those of all `fake-dns` locals.
    #[must_use]
    pub fn new(all: Vec<Arc<FakeNames>>) -> Self {
        Self(all.into())
    }

    /// Those of each pair of networks.
    #[must_use]
    pub fn all(&self) -> &[Arc<FakeNames>] {
        &self.0
    }

    /// Whether there are none: no address is fake.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What somebody wants who connects or sends to `address`: the name that it stands for, or `address` itself.
    ///
    /// # Errors
    /// When it is a fake address without a name. It must not be connected to, by any way.
    pub fn target(&self, address: SocketAddr) -> Result<Address, NoName> {
        let name = self.name(address)?;
        Ok(name.map_or(Address::Ip(address), |name| {
            Address::Domain(name.as_ref().into(), address.port())
        }))
    }

    /// What a program wants that asks for `target`: the name that it stands for, or `target` itself.
    ///
    /// # Errors
    /// As [`Fakes::target`].
    pub fn meant(&self, target: Address) -> Result<Address, NoName> {
        match target {
            Address::Ip(address) if !self.is_empty() => self.target(address),
            target => Ok(target),
        }
    }

    /// The name that `address` stands for; `None`: it is a real address.
    ///
    /// # Errors
    /// As [`Fakes::target`].
    pub fn name(&self, address: SocketAddr) -> Result<Option<Arc<str>>, NoName> {
        let ip = address.ip().to_canonical();
        for names in &*self.0 {
            match names.meaning(ip, unix_now()) {
                Meaning::Real => {}
                Meaning::Name(name) => return Ok(Some(name)),
                Meaning::Unknown => return Err(NoName(address)),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::limits::MAX_FAKE_NAMES;

    fn settings(v4: &str) -> Settings {
        Settings {
            v4: v4.parse().unwrap(),
            v6: "fc00::/7".parse().unwrap(),
            lifetime: Duration::from_secs(10),
        }
    }

    fn names(v4: &str, start: u32) -> FakeNames {
        FakeNames::new(settings(v4), start)
    }

    fn v4(names: &FakeNames, name: &str, now: u64) -> Option<String> {
        let found = names.address(name, Family::V4, now);
        found.map(|ip| ip.to_string())
    }

    fn name(names: &FakeNames, ip: &str, now: u64) -> Meaning {
        names.meaning(ip.parse().unwrap(), now)
    }

    #[test]
    fn address_leads_back_to_its_name() {
        let names = names("198.18.0.0/15", 4);
        assert_eq!(v4(&names, "a.example", 0).unwrap(), "198.18.0.5");
        assert_eq!(v4(&names, "b.example", 0).unwrap(), "198.18.0.6");
        assert_eq!(v4(&names, "a.example", 5).unwrap(), "198.18.0.5");
        let v6 = names.address("a.example", Family::V6, 0).unwrap();
        assert_eq!(v6.to_string(), "fc00::5");
        for ip in ["198.18.0.5", "fc00::5"] {
            assert_eq!(name(&names, ip, 0), Meaning::Name("a.example".into()));
        }
        assert_eq!(name(&names, "198.18.0.7", 0), Meaning::Unknown);
        assert_eq!(name(&names, "fc00::7", 0), Meaning::Unknown);
        // Of the IPv6 network, only what is handed out: the rest may be a real network.
        for real in ["198.20.0.1", "192.0.2.1", "fc00::1:0:0:5", "fd00::5"] {
            assert_eq!(name(&names, real, 0), Meaning::Real, "{real}");
        }
        let networks = names.networks().map(|network| network.to_string());
        assert_eq!(networks, ["198.18.0.0/15", "fc00::/96"]);
    }

    #[test]
    fn address_keeps_its_name_for_its_time_and_longer_while_nobody_needs_it() {
        let names = names("192.0.2.0/30", 0);
        assert_eq!(v4(&names, "a", 100).unwrap(), "192.0.2.1");
        assert_eq!(v4(&names, "b", 100).unwrap(), "192.0.2.2");
        // Each use begins its time anew.
        assert_eq!(name(&names, "192.0.2.1", 115), Meaning::Name("a".into()));
        assert_eq!(v4(&names, "c", 109), None);
        assert_eq!(v4(&names, "c", 121).unwrap(), "192.0.2.2");
        assert_eq!(v4(&names, "d", 122), None);
        assert_eq!(name(&names, "192.0.2.1", 124), Meaning::Name("a".into()));
        assert_eq!(name(&names, "192.0.2.2", 124), Meaning::Name("c".into()));
    }

    #[test]
    fn flood_of_names_is_bounded_and_moves_no_address() {
        let names = names("10.0.0.0/8", u32::MAX);
        let first = v4(&names, "first", 0).unwrap();
        for number in 0..2 * MAX_FAKE_NAMES {
            assert!(v4(&names, &format!("x{number}"), 0).is_some());
        }
        assert_eq!(lock(&names.tables).v4.len(), MAX_FAKE_NAMES);
        // It has been forgotten, but nobody else has got it.
        assert_eq!(name(&names, &first, 0), Meaning::Unknown);
        assert_eq!(names.save().len(), MAX_FAKE_NAMES);
    }

    #[test]
    fn flood_in_a_small_network_is_refused() {
        for (network, hosts) in [
            ("192.0.2.0/24", 254),
            ("192.0.2.0/31", 2),
            ("192.0.2.1/32", 1),
        ] {
            let names = names(network, 77);
            let given = (0..1000).filter_map(|number| v4(&names, &number.to_string(), 0));
            let given: std::collections::HashSet<_> = given.collect();
            assert_eq!(given.len(), hosts, "{network}");
        }
    }

    #[test]
    fn names_survive_a_restart_for_their_time() {
        let before = names("198.18.0.0/15", 0);
        let (old, new) = (v4(&before, "old", 100), v4(&before, "new", 130));
        let _used = before.address("new", Family::V6, 130);
        let after = names("198.18.0.0/15", 0);
        assert_eq!(after.restore(before.save(), 131), 2);
        assert_eq!(
            name(&after, &new.unwrap(), 131),
            Meaning::Name("new".into())
        );
        assert_eq!(name(&after, "fc00::1", 131), Meaning::Name("new".into()));
        assert_eq!(name(&after, &old.unwrap(), 131), Meaning::Unknown);
        assert_eq!(v4(&after, "other", 131).unwrap(), "198.18.0.1");
        // After a change of the network, they mean nothing.
        assert_eq!(names("10.0.0.0/8", 0).restore(before.save(), 131), 1);
        // A clock that was wrong must not keep them for ever.
        let mut wrong = before.save();
        wrong[0].expires = u64::MAX;
        assert_eq!(after.restore(wrong, 131), 0);
    }

    #[test]
    fn only_news_are_worth_saving() {
        let mut table = Table::v4("192.0.2.0/24".parse().unwrap(), 10, 0);
        let mut is_news = |now| table.address("a", now).unwrap().1;
        assert!(is_news(100));
        assert!(!is_news(101) && !is_news(110));
        assert!(is_news(111));
        assert!(!is_news(112));
    }

    #[test]
    fn process_knows_the_names_of_all_networks() {
        let (one, two) = (names("198.18.0.0/16", 0), names("198.19.0.0/16", 0));
        let now = unix_now();
        let (a, b) = (v4(&one, "a", now).unwrap(), v4(&two, "b", now).unwrap());
        let fakes = Fakes::new(vec![Arc::new(one), Arc::new(two)]);
        let target = |ip: &str| fakes.target(SocketAddr::new(ip.parse().unwrap(), 443));
        assert_eq!(target(&a).unwrap(), Address::Domain("a".into(), 443));
        assert_eq!(target(&b).unwrap(), Address::Domain("b".into(), 443));
        let mapped = format!("::ffff:{b}");
        assert_eq!(target(&mapped).unwrap(), Address::Domain("b".into(), 443));
        let real = SocketAddr::from(([192, 0, 2, 1], 443));
        assert_eq!(target("192.0.2.1").unwrap(), Address::Ip(real));
        let error = target("198.19.9.9").unwrap_err().to_string();
        assert!(
            error.starts_with("198.19.9.9:443 is a `fake-dns` address"),
            "{error}"
        );
        assert!(Fakes::default().is_empty() && !fakes.is_empty());
    }
}
