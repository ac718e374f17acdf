//! The resolver against name servers on the loopback. Time is paused: it moves on by itself when nobody has anything
//! left to do but wait, so deadlines and TTLs are exact and cost nothing.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hickory_resolver::proto::op::{Message, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, sleep};

use super::cache::MAX_PENDING;
use super::*;

/// What a name server does with a question.
#[derive(Clone, Copy)]
enum Act {
    /// 192.0.2.n for A, 2001:db8::n for AAAA, with this TTL.
    Both(u8, u32),
    /// 192.0.2.n for A, NODATA for AAAA.
    OnlyV4(u8, u32),
    /// NODATA for A, 2001:db8::n for AAAA.
    OnlyV6(u8, u32),
    /// Like `Both`, but AAAA never gets an answer.
    SilentV6(u8, u32),
    /// Like `Both` by TCP; by UDP only the word that it does not fit.
    Truncated(u8, u32),
    /// An alias with the first TTL to an address with the second.
    Alias(u32, u32),
    /// An error code, with an SOA record of this TTL for NXDOMAIN.
    Code(ResponseCode, u32),
    /// Addresses that lead nowhere, or elsewhere than they seem to.
    Odd,
    /// Nothing.
    Silent,
}

/// A name server on the loopback.
struct Server {
    address: SocketAddr,
    script: Arc<Script>,
    _tasks: JoinSet<()>,
}

struct Script {
    default: Act,
    names: Mutex<HashMap<String, Act>>,
    asked: Mutex<Vec<(String, RecordType, &'static str)>>,
    /// One permit an answer, once `gated`.
    gate: Semaphore,
    gated: AtomicBool,
    waiting: AtomicUsize,
}

impl Server {
    async fn start(default: Act) -> Self {
        // The same port is wanted by UDP and TCP: try until one is free in both.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (Arc::new(udp), tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let script = Arc::new(Script {
            default,
            names: Mutex::default(),
            asked: Mutex::default(),
            gate: Semaphore::new(0),
            gated: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, Arc::clone(&script)));
        tasks.spawn(serve_tcp(tcp, Arc::clone(&script)));
        Self { address, script, _tasks: tasks }
    }

    fn set(&self, name: &str, act: Act) {
        self.script.names.lock().unwrap().insert(name.to_owned(), act);
    }

    /// Holds answers back until `open`.
    fn close(&self) {
        self.script.gated.store(true, Ordering::SeqCst);
    }

    fn open(&self) {
        self.script.gated.store(false, Ordering::SeqCst);
        self.script.gate.add_permits(self.script.waiting.load(Ordering::SeqCst));
    }

    /// How often a name was asked for, as A and as AAAA.
    fn asked(&self, name: &str) -> (usize, usize) {
        let asked = self.script.asked.lock().unwrap();
        let count = |kind| asked.iter().filter(|(asked, asked_kind, _)| asked == name && *asked_kind == kind).count();
        (count(RecordType::A), count(RecordType::AAAA))
    }

    fn asked_at_all(&self) -> usize {
        self.script.asked.lock().unwrap().len()
    }
}

impl Script {
    async fn answer(&self, question: &[u8], by: &'static str) -> Option<Vec<u8>> {
        let request = Message::from_vec(question).unwrap();
        let query = request.queries[0].clone();
        let name = query.name().to_ascii();
        self.asked.lock().unwrap().push((name.clone(), query.query_type(), by));
        if self.gated.load(Ordering::SeqCst) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.unwrap().forget();
        }
        let act = self.names.lock().unwrap().get(&name).copied().unwrap_or(self.default);
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.add_query(query.clone());
        fill(&mut response, &query, act, by)?;
        Some(response.to_vec().unwrap())
    }
}

fn fill(response: &mut Message, query: &Query, act: Act, by: &str) -> Option<()> {
    let (kind, name) = (query.query_type(), query.name().clone());
    let v4 = |n, ttl| Record::from_rdata(name.clone(), ttl, RData::A(A::new(192, 0, 2, n)));
    let v6 = |n: u8, ttl| {
        Record::from_rdata(name.clone(), ttl, RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into())))
    };
    let soa = |ttl| {
        let data = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, ttl);
        Record::from_rdata(name.clone(), ttl, RData::SOA(data))
    };
    match (act, kind) {
        (Act::Silent, _) | (Act::SilentV6(..), RecordType::AAAA) => return None,
        (Act::Truncated(..), _) if by == "udp" => response.metadata.truncation = true,
        (Act::Both(n, ttl) | Act::OnlyV4(n, ttl) | Act::SilentV6(n, ttl) | Act::Truncated(n, ttl), RecordType::A) => {
            response.add_answer(v4(n, ttl));
        }
        (Act::Both(n, ttl) | Act::OnlyV6(n, ttl) | Act::Truncated(n, ttl), RecordType::AAAA) => {
            response.add_answer(v6(n, ttl));
        }
        (Act::OnlyV4(_, ttl), RecordType::AAAA) | (Act::OnlyV6(_, ttl), RecordType::A) => {
            response.add_authority(soa(ttl));
        }
        (Act::Alias(ttl, other), _) => {
            let target = Name::from_ascii("target.example.").unwrap();
            response.add_answer(Record::from_rdata(name.clone(), ttl, RData::CNAME(CNAME(target.clone()))));
            let address = match kind {
                RecordType::A => RData::A(A::new(192, 0, 2, 1)),
                _ => RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
            };
            response.add_answer(Record::from_rdata(target, other, address));
        }
        (Act::Code(code, ttl), _) => {
            response.metadata.response_code = code;
            if code == ResponseCode::NXDomain {
                response.add_authority(soa(ttl));
            }
        }
        (Act::Odd, RecordType::A) => {
            for address in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 1)] {
                response.add_answer(Record::from_rdata(name.clone(), 60, RData::A(A(address))));
            }
        }
        (Act::Odd, _) => {
            let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
            response.add_answer(Record::from_rdata(name.clone(), 60, RData::AAAA(AAAA(mapped))));
        }
        _ => panic!("unexpected question: {query}"),
    }
    Some(())
}

async fn serve_udp(socket: Arc<UdpSocket>, script: Arc<Script>) {
    let mut answers = JoinSet::new();
    let mut buffer = [0; 4096];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        let (question, socket, script) = (buffer[..length].to_vec(), Arc::clone(&socket), Arc::clone(&script));
        answers.spawn(async move {
            if let Some(answer) = script.answer(&question, "udp").await {
                socket.send_to(&answer, from).await.unwrap();
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, script: Arc<Script>) {
    let mut connections = JoinSet::new();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let script = Arc::clone(&script);
        connections.spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut question = vec![0; length.into()];
                stream.read_exact(&mut question).await.unwrap();
                if let Some(answer) = script.answer(&question, "tcp").await {
                    stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
    }
}

/// A config that asks `servers` and reads no files of this machine.
fn config(servers: &[&Server]) -> Config {
    let list: Vec<String> = servers.iter().map(|server| server.address.to_string()).collect();
    Config {
        source: if list.is_empty() { Source::System } else { list.join(",").parse().unwrap() },
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

/// Waits for `condition`; by paused time, so only ever as long as others have something to do.
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
    server.close();
    let mut lookups = JoinSet::new();
    for n in 0..100 {
        let resolver = Arc::clone(&resolver);
        let name = if n % 2 == 0 { "name.example" } else { "Name.Example" };
        lookups.spawn(async move { resolver.lookup(name).await });
    }
    // Held back until all have asked; before the retransmission of 333 ms.
    while resolver.counters().joined < 99 || server.asked("name.example.") != (1, 1) {
        tokio::task::yield_now().await;
    }
    server.open();
    while let Some(answer) = lookups.join_next().await {
        assert_eq!(answer.unwrap(), both(1));
    }
    assert_eq!(server.asked("name.example."), (1, 1));
    assert_eq!(resolver.cached("NAME.example"), Some(both(1)));
    let expected = Counters { hits: 1, misses: 1, joined: 99, queries: 2, entries: 1, ..Counters::default() };
    assert_eq!(resolver.counters(), expected);
}

#[tokio::test(start_paused = true)]
async fn deadline_holds_while_servers_are_silent() {
    let (one, other) = (Server::start(Act::Silent).await, Server::start(Act::Silent).await);
    let resolver = resolver(config(&[&one, &other]));
    let start = Instant::now();
    assert_eq!(resolver.lookup("name.example").await, Err(Error::Timeout));
    assert_eq!(start.elapsed().as_secs(), 5);
    // Remembered for a moment, then asked again.
    eventually("the query has ended", || resolver.counters().timeouts == 1).await;
    assert_eq!(resolver.cached("name.example"), Some(Err(Error::Timeout)));
    advance(3 * SECOND).await;
    assert_eq!(resolver.cached("name.example"), None);
}

#[tokio::test(start_paused = true)]
async fn query_outlives_the_one_who_asked() {
    let server = Server::start(Act::Both(1, 60)).await;
    let resolver = resolver(config(&[&server]));
    server.close();
    {
        let lookup = resolver.lookup("name.example");
        assert!(tokio::time::timeout(Duration::from_millis(100), lookup).await.is_err());
    }
    server.open();
    eventually("the answer is cached", || resolver.cached("name.example").is_some()).await;
    assert_eq!(resolver.cached("name.example"), Some(both(1)));
}

#[tokio::test(start_paused = true)]
async fn second_server_answers_for_a_silent_first() {
    let (dead, live) = (Server::start(Act::Silent).await, Server::start(Act::Both(2, 60)).await);
    let resolver = resolver(config(&[&dead, &live]));
    let start = Instant::now();
    assert_eq!(resolver.lookup("one.example").await, both(2));
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    // From then on the live one comes first.
    let (start, asked) = (Instant::now(), dead.asked_at_all());
    assert_eq!(resolver.lookup("two.example").await, both(2));
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
    assert_eq!(dead.asked_at_all(), asked);
    // Until the first has had time to recover.
    advance(31 * SECOND).await;
    assert_eq!(resolver.lookup("three.example").await, both(2));
    assert!(dead.asked_at_all() > asked);
}

#[tokio::test(start_paused = true)]
async fn second_server_answers_for_one_that_refuses() {
    for code in [ResponseCode::Refused, ResponseCode::ServFail] {
        let (bad, good) = (Server::start(Act::Code(code, 0)).await, Server::start(Act::Both(2, 60)).await);
        let resolver = resolver(config(&[&bad, &good]));
        let start = Instant::now();
        assert_eq!(resolver.lookup("name.example").await, both(2));
        assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn healthy_first_server_is_the_only_one_asked() {
    let (first, second) = (Server::start(Act::Both(1, 60)).await, Server::start(Act::Both(2, 60)).await);
    let resolver = resolver(config(&[&first, &second]));
    assert_eq!(resolver.lookup("name.example").await, both(1));
    assert_eq!(second.asked_at_all(), 0);
}

#[tokio::test(start_paused = true)]
async fn failure_of_all_servers_is_told_and_counted() {
    let server = Server::start(Act::Code(ResponseCode::ServFail, 0)).await;
    let resolver = resolver(config(&[&server]));
    assert!(matches!(resolver.lookup("name.example").await, Err(Error::ServerFailure(_))));
    let counters = resolver.counters();
    assert_eq!((counters.failures, counters.timeouts, counters.negative), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn truncated_answers_are_asked_for_by_tcp() {
    let server = Server::start(Act::Truncated(1, 60)).await;
    let resolver = resolver(config(&[&server]));
    assert_eq!(resolver.lookup("name.example").await, both(1));
    let asked = server.script.asked.lock().unwrap();
    assert!(asked.iter().any(|(.., by)| *by == "tcp"));
}

#[tokio::test(start_paused = true)]
async fn missing_aaaa_costs_fifty_milliseconds() {
    let server = Server::start(Act::SilentV6(1, 60)).await;
    let resolver = resolver(config(&[&server]));
    let start = Instant::now();
    assert_eq!(resolver.lookup("name.example").await, ips(&["192.0.2.1"]));
    assert!((50..100).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    // The late half neither spoils what is cached nor counts as a failure.
    advance(6 * SECOND).await;
    assert_eq!(resolver.cached("name.example"), Some(ips(&["192.0.2.1"])));
    assert_eq!(resolver.counters().failures, 0);
}

#[tokio::test(start_paused = true)]
async fn late_aaaa_completes_the_answer() {
    let server = Server::start(Act::SilentV6(1, 60)).await;
    let resolver = resolver(config(&[&server]));
    assert_eq!(resolver.lookup("name.example").await, ips(&["192.0.2.1"]));
    server.set("name.example.", Act::Both(1, 60));
    // The retransmission gets an answer.
    eventually("both families", || resolver.cached("name.example") == Some(both(1))).await;
}

#[tokio::test(start_paused = true)]
async fn one_family_is_enough() {
    let server = Server::start(Act::OnlyV4(1, 60)).await;
    server.set("six.example.", Act::OnlyV6(6, 60));
    let resolver = resolver(config(&[&server]));
    assert_eq!(resolver.lookup("four.example").await, ips(&["192.0.2.1"]));
    assert_eq!(resolver.lookup("six.example").await, ips(&["2001:db8::6"]));
}

#[tokio::test(start_paused = true)]
async fn ipv6_comes_first_on_request() {
    let server = Server::start(Act::Both(1, 60)).await;
    let resolver = resolver(Config { ipv6_first: true, ..config(&[&server]) });
    assert_eq!(resolver.lookup("name.example").await, ips(&["2001:db8::1", "192.0.2.1"]));
    assert_eq!(resolver.lookup("localhost").await, ips(&["::1", "127.0.0.1"]));
}

#[tokio::test(start_paused = true)]
async fn negative_answers_are_cached_as_the_soa_says() {
    let server = Server::start(Act::Code(ResponseCode::NXDomain, 30)).await;
    let resolver = resolver(config(&[&server]));
    assert_eq!(resolver.lookup("none.example").await, Err(Error::NoSuchName));
    assert_eq!(resolver.lookup("none.example").await, Err(Error::NoSuchName));
    assert_eq!(server.asked("none.example."), (1, 1));
    assert_eq!((resolver.counters().negative, resolver.counters().hits), (1, 1));
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
    eventually("the refresh arrives", || resolver.cached("name.example") == Some(both(2))).await;
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
async fn alias_bounds_the_lifetime() {
    let server = Server::start(Act::Alias(20, 600)).await;
    let resolver = resolver(Config { stale_for: Duration::ZERO, ..config(&[&server]) });
    assert_eq!(resolver.lookup("www.example").await, both(1));
    advance(19 * SECOND).await;
    assert!(resolver.cached("www.example").is_some());
    advance(2 * SECOND).await;
    assert!(resolver.cached("www.example").is_none());
}

#[tokio::test(start_paused = true)]
async fn undialable_addresses_are_left_out_and_mapped_ones_unmapped() {
    let server = Server::start(Act::Odd).await;
    let resolver = resolver(config(&[&server]));
    assert_eq!(resolver.lookup("odd.example").await, ips(&["192.0.2.1", "127.0.0.1"]));
}

#[tokio::test(start_paused = true)]
async fn known_names_ask_nobody() {
    let server = Server::start(Act::Both(1, 60)).await;
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(hosts.path(), "192.0.2.77 box.example\n0.0.0.0 ads.example\n").unwrap();
    let resolver = resolver(Config { hosts_path: hosts.path().into(), ..config(&[&server]) });
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
    assert_eq!(resolver.counters(), Counters { hits: 32, ..Counters::default() });
    assert_eq!(server.asked_at_all(), 0);
}

#[tokio::test(start_paused = true)]
async fn changed_hosts_file_is_read_again() {
    let server = Server::start(Act::Both(1, 60)).await;
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(hosts.path(), "192.0.2.77 box.example\n").unwrap();
    let resolver = resolver(Config { hosts_path: hosts.path().into(), ..config(&[&server]) });
    assert_eq!(resolver.cached("box.example"), Some(ips(&["192.0.2.77"])));
    std::fs::write(hosts.path(), "192.0.2.78 box.example # moved\n").unwrap();
    eventually("the new file counts", || resolver.cached("box.example") == Some(ips(&["192.0.2.78"]))).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn changed_resolv_conf_forgets_what_the_old_servers_said() {
    let conf = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(conf.path(), "nameserver 127.0.0.1\n").unwrap();
    let config = Config { source: Source::System, resolv_conf_path: conf.path().into(), ..config(&[]) };
    let resolver = resolver(Config { deadline: SECOND, ..config });
    assert!(resolver.lookup("name.example").await.is_err());
    eventually("the failure is cached", || resolver.counters().entries == 1).await;
    std::fs::write(conf.path(), "nameserver 127.0.0.1\noptions ndots:1\n").unwrap();
    eventually("the cache is empty", || {
        let _ = resolver.cached("localhost");
        resolver.counters().entries == 0
    })
    .await;
}

/// A source with a search list, which only hickory's form can carry beside a port.
fn with_search(server: &Server, search: &[&str]) -> Config {
    let value = json!({
        "search": search,
        "name_servers": [{
            "ip": server.address.ip(),
            "connections": [{"port": server.address.port(), "protocol": {"type": "udp"}}],
        }],
    });
    Config { source: Source::from_value(&value).unwrap(), ..config(&[]) }
}

#[tokio::test(start_paused = true)]
async fn search_list_is_for_short_names() {
    let server = Server::start(Act::Code(ResponseCode::NXDomain, 30)).await;
    server.set("box.b.example.", Act::Both(1, 60));
    server.set("www.other.", Act::Both(2, 60));
    let resolver = resolver(with_search(&server, &["a.example.", "b.example."]));
    assert_eq!(resolver.lookup("Box").await, both(1));
    assert_eq!((server.asked("box.a.example."), server.asked("box.")), ((1, 1), (0, 0)));
    assert_eq!(resolver.lookup("www.other").await, both(2));
    assert_eq!(server.asked("www.other.a.example."), (0, 0));
    assert_eq!(resolver.lookup("box.").await, Err(Error::NoSuchName));
    assert_eq!(server.asked("box."), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn search_is_bounded() {
    let server = Server::start(Act::Code(ResponseCode::NXDomain, 30)).await;
    let search: Vec<String> = (0..50).map(|n| format!("s{n}.example.")).collect();
    let search: Vec<&str> = search.iter().map(String::as_str).collect();
    let resolver = resolver(with_search(&server, &search));
    assert_eq!(resolver.lookup("made.up").await, Err(Error::NoSuchName));
    assert_eq!(server.asked_at_all(), 2 * (1 + 6));
}

#[tokio::test(start_paused = true)]
async fn names_under_way_are_bounded() {
    let server = Server::start(Act::Silent).await;
    let resolver = resolver(Config { deadline: SECOND, ..config(&[&server]) });
    let mut lookups = JoinSet::new();
    for n in 0..=MAX_PENDING {
        let resolver = Arc::clone(&resolver);
        lookups.spawn(async move { resolver.lookup(&format!("n{n}.example")).await });
    }
    let answers = lookups.join_all().await;
    assert_eq!(answers.iter().filter(|answer| **answer == Err(Error::Busy)).count(), 1);
    assert_eq!(answers.iter().filter(|answer| **answer == Err(Error::Timeout)).count(), MAX_PENDING);
}

#[tokio::test(start_paused = true)]
async fn evictions_are_counted() {
    let server = Server::start(Act::Both(1, 60)).await;
    let resolver = resolver(Config { cache_size: 2, ..config(&[&server]) });
    for name in ["a.example", "b.example", "c.example"] {
        assert_eq!(resolver.lookup(name).await, both(1));
    }
    assert_eq!((resolver.counters().entries, resolver.counters().evicted), (2, 1));
    assert_eq!(resolver.cached("a.example"), None);
}

#[tokio::test(start_paused = true)]
async fn works_without_a_cache() {
    let server = Server::start(Act::Both(1, 60)).await;
    let resolver = resolver(Config { cache_size: 0, ..config(&[&server]) });
    for _ in 0..2 {
        assert_eq!(resolver.lookup("name.example").await, both(1));
    }
    assert_eq!(server.asked("name.example."), (2, 2));
}

#[test]
fn answers_across_runtimes_and_stops_with_its_own() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (own, other) = (runtime(), runtime());
    let server = own.block_on(Server::start(Act::Both(1, 60)));
    let resolver = Resolver::new(config(&[&server]), own.handle().clone()).unwrap();
    assert_eq!(other.block_on(resolver.lookup("name.example")), both(1));
    drop(server);
    drop(own);
    assert_eq!(resolver.cached("name.example"), Some(both(1)));
    assert!(matches!(other.block_on(resolver.lookup("more.example")), Err(Error::Unreachable(_))));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_resolver_ends_its_questions() {
    let server = Server::start(Act::Both(1, 60)).await;
    let resolver = resolver(config(&[&server]));
    server.close();
    let lookup = tokio::spawn({
        let resolver = Arc::clone(&resolver);
        async move { tokio::time::timeout(Duration::from_millis(10), resolver.lookup("name.example")).await.is_err() }
    });
    assert!(lookup.await.unwrap());
    let alive = Handle::current().metrics().num_alive_tasks();
    drop(Arc::into_inner(resolver).unwrap());
    eventually("tasks are gone", || Handle::current().metrics().num_alive_tasks() < alive).await;
}

#[tokio::test]
async fn every_transport_can_be_made() {
    for source in ["google", "cloudflare_tls", "quad9_https", "tcp://192.0.2.1", "udp://192.0.2.1"] {
        let config = Config { source: source.parse().unwrap(), ..config(&[]) };
        assert!(Resolver::new(config, Handle::current()).is_ok(), "{source}");
    }
}

#[tokio::test(start_paused = true)]
async fn tls_to_a_plain_server_fails_and_is_not_mistaken_for_an_answer() {
    let server = Server::start(Act::Both(1, 60)).await;
    let source = format!("tls://{}#dns.example", server.address).parse().unwrap();
    let resolver = resolver(Config { source, ..config(&[]) });
    assert!(matches!(resolver.lookup("name.example").await, Err(Error::Unreachable(_) | Error::Timeout)));
}

#[test]
fn unusable_sources_are_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let config = Config { source: Source::Hickory(json!({"name_servers": 1})), ..Config::default() };
    let error = Resolver::new(config, runtime.handle().clone()).err().unwrap();
    assert!(matches!(error, Error::Source(_)), "{error}");
}

#[test]
fn default_paths_are_those_of_the_system() {
    let config = Config::default();
    assert_eq!(config.hosts_path, Path::new("/etc/hosts"));
    assert_eq!(config.resolv_conf_path, Path::new("/etc/resolv.conf"));
    assert!(config.ttl_floor < config.ttl_ceiling);
}
