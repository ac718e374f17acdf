//! Names that are resolved for many: no user takes the places of another one, and a name server that refuses delays nobody.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::matrix::Targets;
use crate::common::name_server::NameServer;
use crate::common::peers::{Half, Program, Spec, Start, password};
use crate::common::socks::{CONNECT, Target, request_bytes};
use crate::common::{ANSWER, eventually};

const METHOD: &str = "2022-blake3-aes-128-gcm";

/// A server with two users that asks `names`, and a local of each user.
fn two_users(names: &Value) -> (Half, Half, Half) {
    let spec = Spec::new(METHOD);
    let (greedy, modest) = (password(METHOD, 71), password(METHOD, 72));
    let users = json!([
        {"name": "greedy", "password": greedy}, {"name": "modest", "password": modest},
    ]);
    let server = Start::server(Program::Ssr, &spec);
    let server = server.with(json!({"users": users, "dns": names})).run();
    let local = |key: &str| {
        let spec = Spec {
            method: METHOD.to_owned(),
            password: format!("{}:{key}", spec.password),
        };
        Start::local(Program::Ssr, &spec, server.address).run()
    };
    let (greedy, modest) = (local(&greedy), local(&modest));
    (server, greedy, modest)
}

/// Asks for a target and goes away: its name is being resolved.
fn ask_and_leave(proxy: SocketAddr, target: &Target) {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(ANSWER)).unwrap();
    stream.write_all(&[5, 1, 0]).unwrap();
    stream.read_exact(&mut [0; 2]).unwrap();
    stream.write_all(&request_bytes(CONNECT, target)).unwrap();
    // A local that is refused by its server resets.
    if stream.read_exact(&mut [0; 10]).is_ok() {
        let _gone = stream.write_all(b"x");
    }
}

/// Whether an echo answers a stream through `proxy`.
fn answers(proxy: &Half, target: &Target) -> bool {
    let (mut stream, code, _) = proxy.socks().request(CONNECT, target).unwrap();
    let mut answer = [0; 4];
    code == 0 && stream.write_all(b"here").is_ok() && stream.read_exact(&mut answer).is_ok()
}

/// Stops the greedy, also when the test fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn streams_of_one_user_to_dead_names_take_no_place_of_another() {
    let (names, targets) = (NameServer::start(), Targets::start());
    let (_server, greedy, modest) = two_users(&json!(names.address.to_string()));
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let port = targets.echo.port();
    let results: Vec<bool> = thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                let number = asked.fetch_add(1, SeqCst);
                let target = Target::name(&format!("flood{number}.test"), port);
                ask_and_leave(greedy.address, &target);
                // About 300 a second: more would only show how fast the machine is.
                thread::sleep(Duration::from_millis(3));
            }
        });
        // More names than places, which each keeps for five seconds.
        eventually("the places are full", || names.asked_at_all() > 2 * 1024);
        (0..12)
            .map(|number| {
                let target = Target::name(&format!("here{number}.test"), port);
                answers(&modest, &target)
            })
            .collect()
    });
    let failed = results.iter().filter(|answered| !**answered).count();
    assert_eq!(failed, 0, "of 12, beside {} dead names", asked.load(SeqCst));
}

#[test]
fn datagrams_of_one_user_to_dead_names_take_no_place_of_another() {
    let (names, targets) = (NameServer::start(), Targets::start());
    let (_server, greedy, modest) = two_users(&json!(names.address.to_string()));
    let Targets { udp, .. } = &targets;
    let port = udp.address().port();
    let (greedy, modest) = (greedy.socks().associate(), modest.socks().associate());
    // The first datagram begins the association.
    let target = |number: usize| Target::name(&format!("here{number}.test"), port);
    modest.exchange(&target(0), b"first");
    // More than may wait: each does for five seconds.
    for number in 0..600 {
        let dead = Target::name(&format!("flood{number}.test"), port);
        greedy.send(&dead, b"x");
        if number % 50 == 49 {
            let sent = number / 2;
            eventually("they arrive", || names.asked_at_all() > sent);
        }
    }
    for number in 1..=20 {
        let data = format!("datagram {number}");
        modest.send(&target(number), data.as_bytes());
        let answer = modest.receive(ANSWER).map(|(_, data)| data);
        assert_eq!(answer.as_deref(), Some(data.as_bytes()), "{number}");
    }
}

/// The time until a request to a fresh name has ended, and whether it was answered.
fn timed(local: &Half, target: &Target) -> (Duration, bool) {
    let begun = Instant::now();
    let answered = answers(local, target);
    (begun.elapsed(), answered)
}

#[test]
fn an_error_code_of_a_name_server_ends_a_lookup_at_once() {
    let (names, targets) = (NameServer::start(), Targets::start());
    let spec = Spec::new(METHOD);
    let dns = json!({"dns": names.address.to_string()});
    let server = Start::server(Program::Ssr, &spec).with(dns).run();
    let local = Start::local(Program::Ssr, &spec, server.address).run();
    let target = Target::name("refused.test", targets.echo.port());
    let (time, answered) = timed(&local, &target);
    assert!(!answered && time < Duration::from_millis(2500), "{time:?}");
}

/// A server whose name servers are `dns`, and a local.
fn resolving_by(dns: &str) -> (Half, Half) {
    let spec = Spec::new(METHOD);
    let server = Start::server(Program::Ssr, &spec).with(json!({"dns": dns}));
    let server = server.run();
    let local = Start::local(Program::Ssr, &spec, server.address).run();
    (server, local)
}

/// The shortest time until a fresh name is resolved by `first` and, because that refuses, by `names`. Each run begins anew, since
/// the order of the servers is remembered.
fn best_time_behind(first: SocketAddr, names: &NameServer, port: u16) -> Duration {
    let times = (0..5).map(|number| {
        let (_server, local) = resolving_by(&format!("{first},{}", names.address));
        let (time, answered) = timed(&local, &Target::name(&format!("here{number}.test"), port));
        assert!(answered, "{number}");
        time
    });
    times.min().unwrap()
}

/// Less than the time after which the next server is asked beside a silent one.
const AT_ONCE: Duration = Duration::from_millis(350);

#[test]
fn a_name_server_that_nobody_runs_is_left_at_once() {
    let (names, targets) = (NameServer::start(), Targets::start());
    let port = targets.echo.port();
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap();
    let dead = closed.local_addr().unwrap();
    drop(closed);
    let (_server, local) = resolving_by(&dead.to_string());
    let (time, answered) = timed(&local, &Target::name("alone.test", port));
    assert!(!answered);
    assert!(time < Duration::from_millis(2500), "alone: {time:?}");
    let best = best_time_behind(dead, &names, port);
    assert!(best < AT_ONCE, "{best:?}");
}

#[test]
fn a_name_server_that_answers_with_an_error_code_is_left_at_once() {
    const SERVFAIL: u8 = 2;
    const REFUSED: u8 = 5;
    let (names, targets) = (NameServer::start(), Targets::start());
    for code in [SERVFAIL, REFUSED] {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let failing = thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                // The flags are in the third and fourth byte. Less than a header ends it.
                let [_, _, flags, codes, ..] = &mut buffer[..len] else {
                    return;
                };
                *flags |= 0x80;
                *codes = 0x80 | code;
                socket.send_to(&buffer[..len], from).unwrap();
            }
        });
        let best = best_time_behind(address, &names, targets.echo.port());
        assert!(best < AT_ONCE, "code {code}: {best:?}");
        let ender = UdpSocket::bind("127.0.0.1:0").unwrap();
        ender.send_to(&[], address).unwrap();
        failing.join().unwrap();
    }
}
