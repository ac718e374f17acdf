#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
use std::collections::BTreeMap;

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::crypto::{self, Method};
use crate::relay::users::{Change, Limits, NewUser, Period};

const GROUP: &str = "group";
const METHOD: Method = Method::Blake3Aes128Gcm;

/// The password with this number.
fn password(number: u8) -> Zeroizing<String> {
    crypto::Key::from_slice(&[number; 16]).unwrap().to_base64()
}

fn stated(name: &str, number: u8, limits: Limits) -> NewUser {
    NewUser {
        name: name.to_owned(),
        password: password(number),
        limits,
        next_hop: None,
    }
}

fn quota(bytes: u64) -> Limits {
    Limits {
        quota: Some((bytes, Period::Once)),
        ..Limits::default()
    }
}

/// A server with ann.
struct Server {
    replica: Replica,
    table: Table,
}

impl Server {
    fn new() -> Self {
        let key = crypto::Key::from_slice(&[1; 16]).unwrap();
        let users = vec![stated("ann", 2, quota(1_000_000))];
        Self {
            replica: Replica::default(),
            table: Table::new("here", METHOD, key, users).unwrap(),
        }
    }

    fn user(&self, name: &str) -> Arc<User> {
        Arc::clone(&self.table.find(name).unwrap().user)
    }

    fn has(&self, name: &str) -> bool {
        self.table.find(name).is_some()
    }

    /// Moves bytes of ann, both ways together.
    fn moves(&self, name: &str, up: u64) {
        let user = self.user(name);
        let known = user.totals();
        user.absorb(&Totals {
            up,
            period: up,
            ..Totals {
                up: 0,
                down: 0,
                failures: 0,
                last_seen: 0,
                ..known
            }
        });
    }

    fn up(&self, name: &str) -> u64 {
        self.user(name).totals().up
    }

    /// Tells and asks; an answer may be lost.
    fn meets(&self, store: &mut Store, is_lost: bool) {
        self.replica.refresh(GROUP, &self.table);
        loop {
            let sent = self.replica.unsent(GROUP);
            for ((name, value), _) in &sent {
                store.take(name, value);
            }
            if is_lost {
                self.replica.doubt();
                break;
            }
            for (name, value) in store.0.iter().filter(|(name, _)| name.starts_with('r')) {
                self.replica.take(GROUP, name, value).unwrap();
            }
            self.replica.confirm(GROUP, &sent);
            if sent.is_empty() {
                break;
            }
        }
        if !is_lost {
            for (name, value) in &store.0 {
                self.replica.take(GROUP, name, value).unwrap();
            }
        }
        self.replica.apply(GROUP, &self.table);
    }
}

/// Does what `exchange.lua` does.
#[derive(Clone, Default)]
struct Store(BTreeMap<String, String>);

impl Store {
    fn take(&mut self, name: &str, value: &str) {
        if name.starts_with('c') && self.0.contains_key(&format!("r{}", &name[1..17])) {
            return;
        }
        let number = |value: &str| value.split(' ').next().unwrap().parse::<u64>().unwrap();
        let known = self.0.get(name).map(|value| number(value));
        if known.is_none_or(|known| known < number(value)) {
            self.0.insert(name.to_owned(), value.to_owned());
        }
    }
}

#[test]
fn two_servers_enforce_one_quota() {
    let (one, other, mut store) = (Server::new(), Server::new(), Store::default());
    one.moves("ann", 600_000);
    other.moves("ann", 500_000);
    one.meets(&mut store, false);
    assert_eq!(one.user("ann").refusal(), None);
    other.meets(&mut store, false);
    assert!(other.user("ann").refusal().is_some());
    one.meets(&mut store, false);
    assert!(one.user("ann").refusal().is_some());
    for server in [&one, &other] {
        let totals = server.user("ann").totals();
        assert_eq!((totals.up, totals.period), (1_100_000, 1_100_000));
    }
    // Nothing is told again of what others have counted.
    for server in [&one, &other] {
        server.replica.refresh(GROUP, &server.table);
        assert!(server.replica.unsent(GROUP).is_empty());
    }
}

/// Lost answers, a store that loses everything or the last moments: what was moved counts, once.
#[test]
fn what_was_moved_counts_once_whatever_the_store_loses() {
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let servers = [Server::new(), Server::new(), Server::new()];
        let (mut store, mut before) = (Store::default(), Store::default());
        let mut moved = 0;
        for _ in 0..60 {
            let server = &servers[random.random_range(0..3)];
            match random.random_range(0..10) {
                0..5 => {
                    let bytes = u64::from(random.next_u32() % 1000);
                    server.moves("ann", bytes);
                    moved += bytes;
                }
                5..8 => server.meets(&mut store, random.random()),
                8 => before = store.clone(),
                _ => {
                    // Everybody notices.
                    store = match random.random() {
                        true => before.clone(),
                        false => Store::default(),
                    };
                    for server in &servers {
                        server.replica.doubt();
                        server.replica.retell(GROUP);
                    }
                }
            }
        }
        for server in servers.iter().chain(&servers) {
            server.meets(&mut store, false);
        }
        for server in &servers {
            let totals = server.user("ann").totals();
            assert_eq!((totals.up, totals.period), (moved, moved), "seed {seed}");
        }
    }
}

#[test]
fn user_comes_and_goes_on_all_servers() {
    let (one, other, mut store) = (Server::new(), Server::new(), Store::default());
    one.meets(&mut store, false);
    other.meets(&mut store, false);
    one.table.add(stated("bob", 3, quota(5))).unwrap();
    one.moves("bob", 3);
    one.meets(&mut store, false);
    other.meets(&mut store, false);
    assert_eq!(other.up("bob"), 3);
    assert_eq!(other.user("bob").limits(), quota(5));
    // A change, of a user that the config states too.
    for name in ["ann", "bob"] {
        let limits = Some(quota(7));
        let change = Change {
            password: None,
            limits,
        };
        other.table.change(name, change).unwrap();
    }
    other.meets(&mut store, false);
    one.meets(&mut store, false);
    assert_eq!(one.user("bob").limits(), quota(7));
    assert_eq!(one.user("ann").limits(), quota(7));
    for name in ["ann", "bob"] {
        one.table.remove(name).unwrap();
    }
    one.meets(&mut store, false);
    other.meets(&mut store, false);
    assert!(!other.has("ann") && !other.has("bob"));
    // One that is added again is another one.
    other.table.add(stated("bob", 4, quota(5))).unwrap();
    other.meets(&mut store, false);
    one.meets(&mut store, false);
    assert_eq!(one.up("bob"), 0);
    other.moves("bob", 2);
    one.moves("bob", 2);
    other.meets(&mut store, false);
    one.meets(&mut store, false);
    other.meets(&mut store, false);
    assert_eq!((one.up("bob"), other.up("bob")), (4, 4));
}

#[test]
fn config_of_a_server_holds_over_what_others_change() {
    let (one, other, mut store) = (Server::new(), Server::new(), Store::default());
    other.meets(&mut store, false);
    one.meets(&mut store, false);
    let stated_here = stated("ann", 2, quota(9));
    other.table.reload(vec![stated_here]).unwrap();
    let change = Change {
        password: None,
        limits: Some(quota(7)),
    };
    one.table.change("ann", change).unwrap();
    one.meets(&mut store, false);
    other.meets(&mut store, false);
    assert_eq!(other.user("ann").limits(), quota(9));
    // The config states it as that of the other again: now the change holds.
    let as_before = stated("ann", 2, quota(1_000_000));
    other.table.reload(vec![as_before]).unwrap();
    other.meets(&mut store, false);
    assert_eq!(other.user("ann").limits(), quota(7));
    // A password that another user has here.
    other
        .table
        .add(stated("eve", 5, Limits::default()))
        .unwrap();
    one.table.add(stated("bob", 5, Limits::default())).unwrap();
    one.meets(&mut store, false);
    for (name, value) in &store.0 {
        other.replica.take(GROUP, name, value).unwrap();
    }
    let refused = other.replica.apply(GROUP, &other.table);
    assert!(matches!(&*refused, [one] if one.starts_with("bob: the password is")));
    assert!(other.replica.apply(GROUP, &other.table).is_empty(), "once");
    assert!(other.has("eve") && !other.has("bob"));
}

/// While the store is away, a server may end, and another process begins with what was kept.
#[test]
fn process_goes_on_with_what_an_earlier_one_has_kept() {
    let (one, mut store) = (Server::new(), Store::default());
    one.moves("ann", 10);
    one.meets(&mut store, false);
    one.moves("ann", 5);
    one.table.add(stated("bob", 3, quota(5))).unwrap();
    one.moves("bob", 1);
    one.replica.refresh(GROUP, &one.table);
    let kept = one.replica.unsaved();
    one.replica.saved(&kept);
    assert!(one.replica.unsaved().is_empty());
    let next = Server::new();
    for (group, (name, value)) in &kept {
        next.replica.restore(group, name, value);
    }
    // As `admin.state` restores them, with two bytes more than were kept here.
    next.user("ann").absorb(&Totals {
        up: 17,
        ..Totals::default()
    });
    next.replica.refresh(GROUP, &next.table);
    next.replica.apply(GROUP, &next.table);
    assert_eq!((next.up("ann"), next.up("bob")), (17, 1));
    let third = Server::new();
    next.meets(&mut store, false);
    third.meets(&mut store, false);
    assert_eq!((third.up("ann"), third.up("bob")), (17, 1));
}

#[test]
fn entries_of_a_store_are_bounded() {
    let server = Server::new();
    server.meets(&mut Store::default(), false);
    let take = |name: &str, value: &str| server.replica.take(GROUP, name, value);
    for (name, value) in [
        ("", ""),
        ("x", "1 1"),
        ("c0", "1 0 0 0 0 0 0 0 0"),
        ("c0123456789abcdefann", "1 0 -1 0 0 0 0 0 0"),
        (
            "c0123456789abcdefann",
            "1 0 99999999999999999999 0 0 0 0 0 0",
        ),
        ("c0123456789abcdefann", "1 0 1 1 1 1 1 1 1000"),
        ("ubob", "1 {"),
        ("ubob", "1 {\"born\": \"x\"}"),
    ] {
        assert_eq!(take(name, value), Err(NotTaken::Broken), "{name} {value}");
    }
    for number in 0..MAX_STORE_ENTRIES {
        let name = format!("c{number:016x}ann");
        assert_eq!(take(&name, "1 0 1 0 0 0 0 0 0"), Ok(()));
    }
    let more = take("cffffffffffffffffann", "1 0 1 0 0 0 0 0 0");
    assert_eq!(more, Err(NotTaken::TooMany));
    server.replica.apply(GROUP, &server.table);
    assert_eq!(server.up("ann"), u64::try_from(MAX_STORE_ENTRIES).unwrap());
}

/// What `fold.lua` does for one user.
fn fold(store: &mut Store, node: &str) {
    let of_node = format!("c{node}ann");
    let of_all = "c0000000000000000ann".to_owned();
    let one = Counter::decode(&store.0.remove(&of_node).unwrap()).unwrap();
    let all = store
        .0
        .get(&of_all)
        .map(|all| Counter::decode(all).unwrap());
    let all = all.unwrap_or_default();
    let sum = Counter {
        number: all.number + 1,
        born: 0,
        totals: plus(&one.totals, &all.totals),
    };
    store.0.insert(format!("r{node}"), "1 ".to_owned());
    store.0.insert(of_all, sum.encode());
}

#[test]
fn process_that_was_added_to_the_sum_counts_once() {
    let (one, other, mut store) = (Server::new(), Server::new(), Store::default());
    for server in [&one, &other] {
        server.moves("ann", 100);
        server.meets(&mut store, false);
    }
    // One of them is away, moves more, and is thought to have ended.
    let node = lock(&one.replica.groups)[GROUP].node.text();
    one.moves("ann", 10);
    fold(&mut store, &node);
    other.moves("ann", 1);
    for server in [&other, &one, &one, &other] {
        server.meets(&mut store, false);
    }
    assert_eq!((one.up("ann"), other.up("ann")), (211, 211));
    // Whoever has its entries still is not believed.
    other
        .replica
        .restore(GROUP, &format!("c{node}ann"), "99 0 5 0 0 0 0 0 0");
    other.replica.apply(GROUP, &other.table);
    assert_eq!(other.up("ann"), 211);
    let (silent, names) = other.replica.silent(GROUP, u64::MAX).unwrap();
    assert!(silent.text() != node && silent != Node::SUM);
    assert_eq!(names, [Box::<str>::from("ann")]);
    assert_eq!(other.replica.silent(GROUP, 0), None);
}
