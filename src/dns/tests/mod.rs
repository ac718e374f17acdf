//! Tests of the resolver against name servers on the loopback interface. Time is paused: it advances by itself when all
//! tasks wait, so deadlines and TTLs are exact and cost nothing.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod queries;
mod server;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::op::ResponseCode;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, sleep};

use self::server::{Act, Server};
use super::*;
use crate::limits::MAX_PENDING;

/// A config that queries `servers` and reads no files of this machine.
fn config(servers: &[&Server]) -> Config {
    let list: Vec<String> = servers
        .iter()
        .map(|server| server.address.to_string())
        .collect();
    Config {
        source: if list.is_empty() {
            Source::System
        } else {
            list.join(",").parse().unwrap()
        },
        hosts_path: "/nonexistent/hosts".into(),
        resolv_conf_path: "/nonexistent/resolv.conf".into(),
        ..Config::default()
    }
}

fn resolver(config: Config) -> Arc<Resolver> {
    Arc::new(Resolver::new(config, Handle::current()).unwrap())
}

fn ips(text: &[&str]) -> Answer {
    Ok(text.iter().map(|ip| ip.parse().unwrap()).collect())
}

/// Both addresses that a server gives for `Act::Both(n, _)`.
fn both(n: u8) -> Answer {
    ips(&[&format!("192.0.2.{n}"), &format!("2001:db8::{n}")])
}

/// Waits for `condition`, in paused time: only as long as other tasks have work to do.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn joins_a_hundred_lookups_into_one_query() {
    let server = Server::start(Act::Both(1, 60)).await;
    let resolver = resolver(config(&[&server]));
    server.hold();
    let mut lookups = JoinSet::new();
    for n in 0..100 {
        let resolver = Arc::clone(&resolver);
        let name = if n % 2 == 0 {
            "name.example"
        } else {
            "Name.Example"
        };
        lookups.spawn(async move { resolver.lookup(name).await });
    }
    // Hold the answers until all lookups have joined, which is before the retransmission after 333 ms.
    while resolver.counters().joined < 99 || server.asked("name.example.") != (1, 1) {
        tokio::task::yield_now().await;
    }
    server.release();
    while let Some(answer) = lookups.join_next().await {
        assert_eq!(answer.unwrap(), both(1));
    }
    assert_eq!(server.asked("name.example."), (1, 1));
    assert_eq!(resolver.cached("NAME.example"), Some(both(1)));
    let expected = Counters {
        hits: 1,
        misses: 1,
        joined: 99,
        queries: 2,
        entries: 1,
        ..Counters::default()
    };
    assert_eq!(resolver.counters(), expected);
}

#[tokio::test(start_paused = true)]
async fn deadline_holds_while_servers_are_silent() {
    let (one, other) = (
        Server::start(Act::Silent).await,
        Server::start(Act::Silent).await,
    );
    let resolver = resolver(config(&[&one, &other]));
    let start = Instant::now();
    assert_eq!(resolver.lookup("name.example").await, Err(Error::Timeout));
    assert_eq!(start.elapsed().as_secs(), 5);
    // The failure is remembered for a moment.
    eventually("the query has ended", || resolver.counters().timeouts == 1).await;
    assert_eq!(resolver.cached("name.example"), Some(Err(Error::Timeout)));
    advance(3 * SECOND).await;
    assert_eq!(resolver.cached("name.example"), None);
}

#[tokio::test(start_paused = true)]
async fn query_outlives_the_lookup_that_started_it() {
    let server = Server::start(Act::Both(1, 60)).await;
    let resolver = resolver(config(&[&server]));
    server.hold();
    {
        let lookup = resolver.lookup("name.example");
        assert!(
            tokio::time::timeout(Duration::from_millis(100), lookup)
                .await
                .is_err()
        );
    }
    server.release();
    eventually("the answer is cached", || {
        resolver.cached("name.example").is_some()
    })
    .await;
    assert_eq!(resolver.cached("name.example"), Some(both(1)));
}

#[tokio::test(start_paused = true)]
async fn ipv6_comes_first_if_configured() {
    let server = Server::start(Act::Both(1, 60)).await;
    let resolver = resolver(Config {
        ipv6_first: true,
        ..config(&[&server])
    });
    assert_eq!(
        resolver.lookup("name.example").await,
        ips(&["2001:db8::1", "192.0.2.1"])
    );
    assert_eq!(
        resolver.lookup("localhost").await,
        ips(&["::1", "127.0.0.1"])
    );
}

#[tokio::test(start_paused = true)]
async fn negative_answers_are_cached_as_the_soa_record_says() {
    let server = Server::start(Act::Code(ResponseCode::NXDomain, 30)).await;
    let resolver = resolver(config(&[&server]));
    assert_eq!(
        resolver.lookup("none.example").await,
        Err(Error::NoSuchName)
    );
    assert_eq!(
        resolver.lookup("none.example").await,
        Err(Error::NoSuchName)
    );
    assert_eq!(server.asked("none.example."), (1, 1));
    assert_eq!(
        (resolver.counters().negative, resolver.counters().hits),
        (1, 1)
    );
    advance(30 * SECOND).await;
    assert_eq!(resolver.cached("none.example"), None);
}

#[tokio::test(start_paused = true)]
async fn serves_stale_while_it_refreshes() {
    let server = Server::start(Act::Both(1, 60)).await;
    let resolver = resolver(config(&[&server]));
    assert_eq!(resolver.lookup("name.example").await, both(1));
    server.set("name.example.", Act::Both(2, 60));
    advance(61 * SECOND).await;
    assert_eq!(resolver.cached("name.example"), Some(both(1)));
    eventually("the refresh arrives", || {
        resolver.cached("name.example") == Some(both(2))
    })
    .await;
    assert_eq!(server.asked("name.example."), (2, 2));
    assert!(resolver.counters().stale >= 1);
    assert_eq!(resolver.counters().misses, 1);
}

#[tokio::test(start_paused = true)]
async fn serves_stale_while_servers_are_silent() {
    let server = Server::start(Act::Both(1, 60)).await;
    let resolver = resolver(config(&[&server]));
    assert_eq!(resolver.lookup("name.example").await, both(1));
    server.set("name.example.", Act::Silent);
    advance(61 * SECOND).await;
    assert_eq!(resolver.lookup("name.example").await, both(1));
    eventually("the refresh fails", || resolver.counters().timeouts == 1).await;
    assert_eq!(resolver.lookup("name.example").await, both(1));
}

#[tokio::test(start_paused = true)]
async fn alias_limits_the_ttl() {
    let server = Server::start(Act::Alias(20, 600)).await;
    let resolver = resolver(Config {
        stale_for: Duration::ZERO,
        ..config(&[&server])
    });
    assert_eq!(resolver.lookup("www.example").await, both(1));
    advance(19 * SECOND).await;
    assert!(resolver.cached("www.example").is_some());
    advance(2 * SECOND).await;
    assert!(resolver.cached("www.example").is_none());
}

#[tokio::test(start_paused = true)]
async fn known_names_need_no_query() {
    let server = Server::start(Act::Both(1, 60)).await;
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        hosts.path(),
        "192.0.2.77 box.example\n0.0.0.0 ads.example\n",
    )
    .unwrap();
    let resolver = resolver(Config {
        hosts_path: hosts.path().into(),
        ..config(&[&server])
    });
    for (name, answer) in [
        ("192.0.2.9", ips(&["192.0.2.9"])),
        ("2001:db8::9", ips(&["2001:db8::9"])),
        ("Box.Example.", ips(&["192.0.2.77"])),
        ("ads.example", Err(Error::NoAddress)),
        ("localhost", ips(&["127.0.0.1", "::1"])),
        ("Some.LocalHost.", ips(&["127.0.0.1", "::1"])),
        ("name.invalid", Err(Error::NoSuchName)),
        ("name.onion", Err(Error::NoSuchName)),
        ("127.1", Err(Error::InvalidName)),
        ("", Err(Error::InvalidName)),
        (".", Err(Error::InvalidName)),
        (".example", Err(Error::InvalidName)),
        ("a..example", Err(Error::InvalidName)),
        ("a b.example", Err(Error::InvalidName)),
        ("a\0.example", Err(Error::InvalidName)),
        (&"a.".repeat(128), Err(Error::InvalidName)),
    ] {
        assert_eq!(resolver.lookup(name).await, answer, "{name:?}");
        assert_eq!(resolver.cached(name), Some(answer), "{name:?}");
    }
    assert_eq!(
        resolver.counters(),
        Counters {
            hits: 32,
            ..Counters::default()
        }
    );
    assert_eq!(server.asked_at_all(), 0);
}

#[tokio::test(start_paused = true)]
async fn changed_hosts_file_is_read_again() {
    let server = Server::start(Act::Both(1, 60)).await;
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(hosts.path(), "192.0.2.77 box.example\n").unwrap();
    let resolver = resolver(Config {
        hosts_path: hosts.path().into(),
        ..config(&[&server])
    });
    assert_eq!(resolver.cached("box.example"), Some(ips(&["192.0.2.77"])));
    std::fs::write(hosts.path(), "192.0.2.78 box.example # moved\n").unwrap();
    eventually("the new file counts", || {
        resolver.cached("box.example") == Some(ips(&["192.0.2.78"]))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn changed_resolv_conf_clears_the_cache() {
    let conf = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(conf.path(), "nameserver 127.0.0.1\n").unwrap();
    let config = Config {
        source: Source::System,
        resolv_conf_path: conf.path().into(),
        ..config(&[])
    };
    let resolver = resolver(Config {
        deadline: SECOND,
        ..config
    });
    assert!(resolver.lookup("name.example").await.is_err());
    eventually("the failure is cached", || resolver.counters().entries == 1).await;
    std::fs::write(conf.path(), "nameserver 127.0.0.1\noptions ndots:1\n").unwrap();
    eventually("the cache is empty", || {
        let _ = resolver.cached("localhost");
        resolver.counters().entries == 0
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn queries_under_way_are_limited() {
    let server = Server::start(Act::Silent).await;
    let resolver = resolver(Config {
        deadline: SECOND,
        ..config(&[&server])
    });
    let mut lookups = JoinSet::new();
    for n in 0..=MAX_PENDING {
        let resolver = Arc::clone(&resolver);
        lookups.spawn(async move { resolver.lookup(&format!("n{n}.example")).await });
    }
    let answers = lookups.join_all().await;
    assert_eq!(
        answers
            .iter()
            .filter(|answer| **answer == Err(Error::Busy))
            .count(),
        1
    );
    assert_eq!(
        answers
            .iter()
            .filter(|answer| **answer == Err(Error::Timeout))
            .count(),
        MAX_PENDING
    );
}

#[tokio::test(start_paused = true)]
async fn evictions_are_counted() {
    let server = Server::start(Act::Both(1, 60)).await;
    let resolver = resolver(Config {
        cache_size: 2,
        ..config(&[&server])
    });
    for name in ["a.example", "b.example", "c.example"] {
        assert_eq!(resolver.lookup(name).await, both(1));
    }
    assert_eq!(
        (resolver.counters().entries, resolver.counters().evicted),
        (2, 1)
    );
    assert_eq!(resolver.cached("a.example"), None);
}

#[tokio::test(start_paused = true)]
async fn works_without_a_cache() {
    let server = Server::start(Act::Both(1, 60)).await;
    let resolver = resolver(Config {
        cache_size: 0,
        ..config(&[&server])
    });
    for _ in 0..2 {
        assert_eq!(resolver.lookup("name.example").await, both(1));
    }
    assert_eq!(server.asked("name.example."), (2, 2));
}

#[test]
fn answers_other_runtimes_and_stops_with_its_own() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let (own, other) = (runtime(), runtime());
    let server = own.block_on(Server::start(Act::Both(1, 60)));
    let resolver = Resolver::new(config(&[&server]), own.handle().clone()).unwrap();
    assert_eq!(other.block_on(resolver.lookup("name.example")), both(1));
    drop(server);
    drop(own);
    assert_eq!(resolver.cached("name.example"), Some(both(1)));
    assert!(matches!(
        other.block_on(resolver.lookup("more.example")),
        Err(Error::Unreachable(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_resolver_ends_its_queries() {
    let server = Server::start(Act::Both(1, 60)).await;
    let resolver = resolver(config(&[&server]));
    server.hold();
    let lookup = tokio::spawn({
        let resolver = Arc::clone(&resolver);
        async move {
            tokio::time::timeout(Duration::from_millis(10), resolver.lookup("name.example"))
                .await
                .is_err()
        }
    });
    assert!(lookup.await.unwrap());
    let alive = Handle::current().metrics().num_alive_tasks();
    drop(Arc::into_inner(resolver).unwrap());
    eventually("tasks are gone", || {
        Handle::current().metrics().num_alive_tasks() < alive
    })
    .await;
}

#[test]
fn unusable_sources_are_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let config = Config {
        source: Source::Hickory(json!({"name_servers": 1})),
        ..Config::default()
    };
    let error = Resolver::new(config, runtime.handle().clone())
        .err()
        .unwrap();
    assert!(matches!(error, Error::Source(_)), "{error}");
}

#[test]
fn default_paths_are_those_of_the_system() {
    let config = Config::default();
    assert_eq!(config.hosts_path, Path::new("/etc/hosts"));
    assert_eq!(config.resolv_conf_path, Path::new("/etc/resolv.conf"));
    assert!(config.ttl_floor < config.ttl_ceiling);
}
