//! The keys that only a restart changes.

use crate::config::{Config, Log, Sink, Writer};

/// Leaves in `new` what cannot change as it is in `old`. Returns the keys that differ.
pub(super) fn keep(old: &Config, new: &mut Config) -> Vec<String> {
    let mut keys = Vec::new();
    let mut note = |key: &str, differs: bool| {
        if differs {
            keys.push(key.to_owned());
        }
    };
    note("workers", old.workers != new.workers);
    note("nofile", old.nofile != new.nofile);
    note("user", old.user != new.user);
    note("dns", old.dns != new.dns);
    note("dns_cache_size", old.dns_cache_size != new.dns_cache_size);
    // Sockets follow; the resolver has its own.
    note("ipv6_first", old.socket.ipv6_first != new.socket.ipv6_first);
    let is_same_log = is_same_log(&old.log, &new.log);
    note("log", !is_same_log);
    note("reverse", old.reverse != new.reverse);
    note("admin", old.admin != new.admin);
    new.admin.clone_from(&old.admin);
    let place = |config: &Config| config.manager.as_ref().map(|one| one.address.clone());
    note("manager_address", place(old) != place(new));
    match (&old.manager, &mut new.manager) {
        // What its ports have in common may be new.
        (Some(old), Some(new)) => new.address.clone_from(&old.address),
        _ => new.manager.clone_from(&old.manager),
    }
    note("sandbox", old.sandbox != new.sandbox);
    note("fair", old.fair != new.fair);
    new.fair = old.fair;
    note("admin.state", old.state != new.state);
    note("store", old.store != new.store);
    new.workers = old.workers;
    new.nofile = old.nofile;
    new.user.clone_from(&old.user);
    new.dns.clone_from(&old.dns);
    new.dns_cache_size = old.dns_cache_size;
    new.socket.ipv6_first = old.socket.ipv6_first;
    if !is_same_log {
        new.log.clone_from(&old.log);
    }
    new.reverse = old.reverse.clone();
    new.state.clone_from(&old.state);
    new.store.clone_from(&old.store);
    keys
}

/// Whether they differ in levels at most. In the background, the terminal is replaced by the system log.
fn is_same_log(old: &Log, new: &Log) -> bool {
    let is_replaced =
        |old: &Sink, new: &Sink| matches!((old, new), (Sink::Syslog { .. }, Sink::Console));
    let is_same = |(old, new): (&Writer, &Writer)| {
        (old.without_time, old.json) == (new.without_time, new.json)
            && (old.sink == new.sink || is_replaced(&old.sink, &new.sink))
    };
    (old.without_time, old.json) == (new.without_time, new.json)
        && old.writers.len() == new.writers.len()
        && old.writers.iter().zip(&new.writers).all(is_same)
}
