//! What each part of the data path costs: `cargo bench --bench micro`.
//!
//! Buffers are reused and stay in the cache, as those of a worker do.
#![allow(
    clippy::expect_used,
    reason = "the figures of a failing call would mean nothing"
)]

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use lru::LruCache;
use ssr::crypto::{Aead, Key, LANES, Method, SaltPool, TAG_LEN, Window};
use ssr::route::acl::Acl;
use ssr::route::engine::{Engine, Step};
use ssr::route::rule::{Action, Host, Network, Query};
use ssr::wire::Address;
use ssr::wire::ss::packet::{PacketSealer, ServerPackets};
use ssr::wire::ss::request::{Progress, Request, RequestOpener};
use ssr::wire::ss::stream::{Fresh, Opener, Sealer};
use ssr::wire::ss::{Account, Accounts, Credentials, Salt};

/// The methods of the goals.
const METHODS: [Method; 3] = [
    Method::Aes256Gcm,
    Method::Blake3Aes256Gcm,
    Method::ChaCha20Poly1305,
];
/// Bytes of a small packet, of a full packet, of a full chunk.
const SIZES: [usize; 3] = [100, 1400, 0x3FFF];
/// Room for any chunk with any header.
const BUFFER: usize = 20_000;
const NOW: u64 = 1_800_000_000;
const FRESH: Fresh<'static> = Fresh {
    now: NOW,
    padding: &[0; 100],
};
/// Salts and clients of a busy server.
const MANY: usize = 10_000;

/// Tells what each allocates, too.
#[global_allocator]
static ALLOCATOR: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

/// All pairs of method and size.
fn cases() -> impl Iterator<Item = Case> {
    METHODS
        .into_iter()
        .flat_map(|method| SIZES.map(|size| Case { method, size }))
}

#[derive(Clone, Copy, Debug)]
struct Case {
    method: Method,
    size: usize,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method.name(), self.size)
    }
}

fn key(method: Method) -> Key {
    let bytes = [7; 32];
    Key::from_slice(bytes.get(..method.key_len()).unwrap_or_default()).expect("a key's length")
}

fn credentials(method: Method) -> Credentials {
    Credentials::new(method, Vec::new(), key(method))
}

fn accounts(method: Method) -> Accounts {
    Accounts::new(method, key(method), Vec::new())
}

fn target() -> Address {
    Address::domain("www.example.com", 443).expect("a name")
}

fn sealer(method: Method) -> Sealer {
    let salt = Salt::new(method, rand::random());
    Sealer::request(&credentials(method), salt, target().as_ref())
}

/// A request's header, without payload.
fn head(sealer: &mut Sealer) -> Vec<u8> {
    let mut bytes = vec![0; BUFFER];
    let length = sealer.seal(&mut bytes, 0, FRESH).expect("room");
    bytes.truncate(length);
    bytes
}

fn open_head(accounts: &Accounts, bytes: &mut [u8]) -> Request {
    let mut opener = RequestOpener::new(accounts.method());
    loop {
        match opener.open(accounts, bytes, NOW).expect("a valid header") {
            Progress::Complete(request) => return request,
            Progress::Authenticated(_) => {}
            Progress::NeedMore | Progress::Relay { .. } => {
                unreachable!("the header is complete, and ours")
            }
        }
    }
}

/// Both ends of a stream whose header has been opened.
fn stream(method: Method) -> (Sealer, Opener) {
    let mut sealer = sealer(method);
    let mut head = head(&mut sealer);
    let request = open_head(&accounts(method), &mut head);
    (sealer, request.opener)
}

/// Users of a busy server whose requests do not say whose they are.
const USERS: usize = 500;

/// Such a server, and the request of the user who is tried last.
fn trial(method: Method, is_stranger: bool) -> (Accounts, Vec<u8>) {
    let user = |number: usize| Key::from_password(method, &number.to_le_bytes());
    let users = (0..USERS).map(|number| Account::new(user(number)));
    let accounts = Accounts::new(method, key(method), users.collect());
    for number in 0..USERS {
        accounts.note_active(number, (USERS - number) as u64);
    }
    let last = user(if is_stranger { USERS } else { USERS - 1 });
    let credentials = Credentials::new(method, Vec::new(), last);
    let salt = Salt::new(method, rand::random());
    let request = head(&mut Sealer::request(&credentials, salt, target().as_ref()));
    (accounts, request)
}

fn open_by_trial(bencher: Bencher<'_, '_>, method: Method, likely: Option<usize>, fits: bool) {
    let (accounts, request) = trial(method, !fits);
    bencher
        .with_inputs(|| request.clone())
        .bench_local_refs(|request| {
            let mut opener = RequestOpener::new(method).likely_of(likely);
            let is_found = opener.open(&accounts, request, NOW).is_ok();
            assert_eq!(is_found, fits);
        });
}

/// The methods that find users by trial.
const TRIED: [Method; 3] = [
    Method::Aes128Gcm,
    Method::Aes256Gcm,
    Method::ChaCha20Poly1305,
];

/// The request of the last of 500 users at an unknown address.
#[divan::bench(args = TRIED)]
fn find_last_of_500_users(bencher: Bencher<'_, '_>, method: Method) {
    open_by_trial(bencher, method, None, true);
}

/// The request of a stranger, whom none of 500 users is.
#[divan::bench(args = TRIED)]
fn find_none_of_500_users(bencher: Bencher<'_, '_>, method: Method) {
    open_by_trial(bencher, method, None, false);
}

/// The request of a user at its address.
#[divan::bench(args = TRIED)]
fn find_known_of_500_users(bencher: Bencher<'_, '_>, method: Method) {
    open_by_trial(bencher, method, Some(USERS - 1), true);
}

#[divan::bench(args = cases())]
fn seal_chunk(bencher: Bencher<'_, '_>, case: Case) {
    let (mut sealer, _) = stream(case.method);
    let mut buffer = vec![0; BUFFER];
    bencher
        .counter(BytesCount::new(case.size))
        .bench_local(|| sealer.seal(&mut buffer, case.size, FRESH).expect("room"));
}

#[divan::bench(args = cases())]
fn open_chunk(bencher: Bencher<'_, '_>, case: Case) {
    let (mut sealer, mut opener) = stream(case.method);
    bencher
        .counter(BytesCount::new(case.size))
        .with_inputs(|| {
            let mut chunk = vec![0; case.size + 64];
            let length = sealer.seal(&mut chunk, case.size, FRESH).expect("room");
            chunk.truncate(length);
            chunk
        })
        .bench_local_refs(|chunk| {
            opener
                .open(chunk, || NOW)
                .expect("in the order of the counters")
        });
}

#[divan::bench(args = METHODS.map(Method::name))]
fn make_request_head(bencher: Bencher<'_, '_>, method: &str) {
    let method: Method = method.parse().expect("a method");
    let credentials = credentials(method);
    let target = target();
    let mut buffer = vec![0; BUFFER];
    bencher.bench_local(|| {
        let salt = Salt::new(method, rand::random());
        let mut sealer = Sealer::request(&credentials, salt, target.as_ref());
        sealer.seal(&mut buffer, 500, FRESH).expect("room")
    });
}

#[divan::bench(args = METHODS.map(Method::name))]
fn open_request_head(bencher: Bencher<'_, '_>, method: &str) {
    let method: Method = method.parse().expect("a method");
    let accounts = accounts(method);
    bencher
        .with_inputs(|| head(&mut sealer(method)))
        .bench_local_refs(|bytes| open_head(&accounts, bytes).rest);
}

#[divan::bench(args = METHODS.map(Method::name))]
fn derive_stream_key(bencher: Bencher<'_, '_>, method: &str) {
    let method: Method = method.parse().expect("a method");
    let key = key(method);
    let salt = [1; 32];
    bencher.bench_local(|| Aead::stream(method, &key.session_subkey(method, black_box(&salt))));
}

/// The keys of eight packets.
#[divan::bench(args = METHODS.map(Method::name))]
fn derive_packet_keys(bencher: Bencher<'_, '_>, method: &str) {
    let method: Method = method.parse().expect("a method");
    let key = key(method);
    let salts: [[u8; 32]; LANES] = rand::random();
    let salts = salts.each_ref().map(|salt| salt.as_slice());
    bencher.bench_local(|| key.session_subkeys(method, black_box(&salts)));
}

/// Datagrams of a SOCKS5 client: address and data.
fn packet(method: Method, size: usize) -> (PacketSealer, Vec<u8>) {
    let sealer = PacketSealer::client(&credentials(method), 1).expect("a key that fits");
    let mut body = vec![0; BUFFER];
    let address = target();
    let start = sealer.headroom();
    let room = body.get_mut(start..).unwrap_or_default();
    let length = address.as_ref().encode(room).expect("room");
    body.truncate(start + length + size + TAG_LEN);
    (sealer, body)
}

fn seal_packet_into(sealer: &mut PacketSealer, buffer: &mut [u8]) -> std::ops::Range<usize> {
    sealer.prepare(rand::random);
    let body = sealer.headroom()..buffer.len() - TAG_LEN;
    let packet = sealer.seal(buffer, body, NOW, rand::random);
    packet.expect("room")
}

#[divan::bench(args = cases().filter(|case| case.size < 1500))]
fn seal_packet(bencher: Bencher<'_, '_>, case: Case) {
    let (mut sealer, mut buffer) = packet(case.method, case.size);
    bencher
        .counter(BytesCount::new(case.size))
        .bench_local(|| seal_packet_into(&mut sealer, &mut buffer));
}

#[divan::bench(args = cases().filter(|case| case.size < 1500))]
fn open_packet(bencher: Bencher<'_, '_>, case: Case) {
    let (mut sealer, body) = packet(case.method, case.size);
    let accounts = accounts(case.method);
    let mut session: Option<ServerPackets> = None;
    bencher
        .counter(BytesCount::new(case.size))
        .with_inputs(|| {
            let mut buffer = body.clone();
            let place = seal_packet_into(&mut sealer, &mut buffer);
            buffer.get(place).unwrap_or_default().to_vec()
        })
        .bench_local_refs(|bytes| {
            let found = accounts.identify(bytes).expect("a valid packet");
            let session = session.get_or_insert_with(|| {
                ServerPackets::new(&accounts, &found).expect("a key that fits")
            });
            session
                .open(bytes, None, &found, NOW)
                .expect("a valid packet")
        });
}

#[divan::bench]
fn insert_salt(bencher: Bencher<'_, '_>) {
    let mut pool = SaltPool::new(Some(Duration::from_secs(61)), MANY);
    bencher
        .with_inputs(rand::random::<[u8; 32]>)
        .bench_local_values(|salt| pool.insert(&salt, Duration::ZERO));
}

#[divan::bench]
fn accept_packet_id(bencher: Bencher<'_, '_>) {
    let mut window = Window::new();
    let mut id = 0;
    bencher.bench_local(|| {
        id += 1;
        window.accept(black_box(id))
    });
}

/// A table like that of associations: locked, bounded, evicting the least recently used.
#[divan::bench]
fn look_up_client(bencher: Bencher<'_, '_>) {
    let capacity = NonZeroUsize::new(MANY).expect("many");
    let table = Mutex::new(LruCache::new(capacity));
    let client = |number: usize| {
        SocketAddr::from(([10, 0, 0, 1], u16::try_from(number % MANY).unwrap_or(0)))
    };
    for number in 0..MANY {
        let mut table = table.lock().expect("one thread");
        table.put(client(number), Arc::new(number));
    }
    let mut number: usize = 0;
    bencher.bench_local(|| {
        number = number.wrapping_mul(5).wrapping_add(1);
        let mut table = table.lock().expect("one thread");
        table.get(&client(black_box(number))).cloned()
    });
}

/// Names in a list of rules.
const NAMES: [usize; 3] = [10_000, 100_000, 1_000_000];

/// An ACL file of `count` names.
fn acl(count: usize) -> String {
    use std::fmt::Write as _;
    let mut text = "[proxy_all]\n[bypass_list]\n".to_owned();
    for number in 0..count {
        writeln!(text, "||host{number}.example").expect("a string");
    }
    text
}

fn rules(text: &str) -> Engine {
    let acl = Acl::parse("names.acl".as_ref(), text);
    acl.local().expect("the names are well formed")
}

/// Reads the file, which is in memory, and builds the engine.
#[divan::bench(args = NAMES, sample_count = 5, sample_size = 1)]
fn rules_load(bencher: Bencher<'_, '_>, count: usize) {
    let text = acl(count);
    bencher.bench_local(|| rules(black_box(&text)));
}

/// A rule for the name of a request; a third of the names have none.
#[divan::bench(args = NAMES)]
fn rules_match(bencher: Bencher<'_, '_>, count: usize) {
    let engine = rules(&acl(count));
    let names: Vec<String> = (0..count / 2)
        .map(|number| format!("www.host{}.example", number * 3))
        .collect();
    let mut number: usize = 0;
    bencher.bench_local(|| {
        // Not in order: the names of requests are not either.
        number = (number + 7919) % names.len();
        let host = names.get(number).map_or("", String::as_str);
        let query = Query {
            host: Host::of_name(host),
            port: 443,
            network: Network::Tcp,
            user: None,
            local: None,
        };
        match engine.decide(black_box(&query), Some(&[])) {
            Step::Decided(decision) => *decision.action == Action::Direct,
            Step::Resolve => false,
        }
    });
}
