//! What an idle connection costs: ten thousand of them through the pair, held and then used. Where the system lets no
//! process have the files for that many, several pairs share them at the same time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
#![allow(clippy::print_stdout, reason = "the figures are the result")]

mod common;
mod memory_group;

use common::{
    eventually,
    peers::{Pair, Spec},
    socks::read_array,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    io::Write,
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Each test has the machine to itself: others would show in what is measured.
static ALONE: Mutex<()> = Mutex::new(());

const WANTED: usize = 10_000;
/// Tells a process of this test its method and its number of connections.
const SHARE: &str = "SSR_TEST_SHARE";
/// KiB that a connection may cost on either side before the test fails.
const BOUND: f64 = 16.0;

/// How many connections of one pair this machine's limit of open files allows: every process of the chain holds two
/// sockets for each.
fn affordable() -> usize {
    // Root may raise the hard limit; whoever else may not does with fewer connections.
    let enough = u64::try_from(2 * WANTED + 1000).unwrap();
    let raised = Rlimit {
        current: Some(enough),
        maximum: Some(enough),
    };
    if getrlimit(Resource::Nofile)
        .maximum
        .is_some_and(|maximum| maximum < enough)
    {
        let _ = setrlimit(Resource::Nofile, raised);
    }
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )
    .unwrap();
    let files = maximum
        .or(current)
        .map_or(usize::MAX, |files| usize::try_from(files).unwrap());
    (files - 200) / 2
}

fn holds(method: &str, count: usize) {
    let pair = Pair::new(
        common::peers::Program::Ssr,
        common::peers::Program::Ssr,
        &Spec::new(method),
    );
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = listener.local_addr().unwrap().into();
    let both = [
        ("local", &pair.local.process),
        ("server", &pair.server.process),
    ];
    let connect = || -> (TcpStream, TcpStream) {
        let mut client = pair.socks().connect(&target);
        client.write_all(b"there").unwrap(); // before the accept, so that no half waits for a first byte
        let (mut far, _) = listener.accept().unwrap();
        assert_eq!(&read_array::<5>(&mut far), b"there");
        (client, far)
    };
    // The first ones pay for pools and thread stacks, which is not the cost of a connection.
    let mut held: Vec<_> = (0..count / 20).map(|_| connect()).collect();
    let first = held.len();
    let before = both.map(|(_, process)| process.memory_kib("Anonymous"));
    held.extend((first..count).map(|_| connect()));
    let hold = if std::env::var_os("SSR_TEST_LONG").is_some() {
        60
    } else {
        3
    };
    std::thread::sleep(Duration::from_secs(hold)); // idleness is the subject
    for ((side, process), before) in both.into_iter().zip(before) {
        let grown = process.memory_kib("Anonymous").saturating_sub(before);
        let each = grown as f64 / (count - first) as f64;
        println!("{method}: {count} idle connections, {side}: {each:.2} KiB each");
        assert!(each < BOUND, "{each:.2} KiB a connection in {side}");
    }
    for (client, far) in &mut held {
        exchange(client, far);
    }
    drop(held);
    eventually("every connection is closed", || {
        both.iter().all(|(_, process)| process.open_files() < 200)
    });
}

fn exchange(client: &mut TcpStream, far: &mut TcpStream) {
    client.write_all(b"there").unwrap();
    assert_eq!(&read_array::<5>(far), b"there");
    far.write_all(b"back").unwrap();
    assert_eq!(&read_array::<4>(client), b"back");
}

/// A process of its own for each share, so that each has the limit of open files to itself: this one runs the shares of
/// the others, and a small one when it is asked for nothing.
#[test]
fn a_share_of_idle_connections_is_cheap_and_still_works() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let asked = std::env::var(SHARE).unwrap_or_else(|_| "aes-256-gcm 200".to_owned());
    let (method, count) = asked.split_once(' ').unwrap();
    affordable();
    holds(method, count.parse().unwrap());
}

#[test]
fn ten_thousand_idle_connections_are_cheap_and_still_work() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let shares = WANTED.div_ceil(affordable());
    let share = WANTED.div_ceil(shares);
    for method in ["2022-blake3-aes-256-gcm", "aes-256-gcm"] {
        let run = || {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture"])
                .arg("a_share_of_idle_connections_is_cheap_and_still_works")
                .env(SHARE, format!("{method} {share}"))
                .spawn()
                .unwrap()
        };
        let running: Vec<_> = (0..shares).map(|_| run()).collect();
        for mut child in running {
            assert!(child.wait().unwrap().success());
        }
    }
}
