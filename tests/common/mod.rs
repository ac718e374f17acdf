//! What the integration tests share: processes, targets, a SOCKS5 client, peers and the traffic matrix.
//!
//! Nothing here uses the `ssr` library: the tests see the product as its users do, through a config file and sockets.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "test support: each test binary uses a part of it, and a failed step is a failed test"
)]

pub mod admin;
pub mod bytes;
pub mod changing;
pub mod forward;
pub mod http;
pub mod http_oracle;
pub mod identity;
pub mod impostor;
pub mod line;
pub mod load;
pub mod matrix;
pub mod name_server;
pub mod nginx;
pub mod peers;
pub mod probe;
pub mod process;
pub mod redis;
pub mod reverse;
pub mod seal;
pub mod sing_box;
pub mod socks;
pub mod targets;
pub mod udp;

use std::{
    io::{ErrorKind, Read},
    net::TcpStream,
    time::Duration,
};

/// The longest that any single step of a test may take.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// How long a datagram may take to be answered.
pub const ANSWER: Duration = Duration::from_secs(3);

/// How long a test listens before it concludes that nothing will come.
pub const SILENCE: Duration = Duration::from_millis(400);

/// The AEAD methods of 2017.
pub const METHODS_2017: [&str; 4] = [
    "aes-128-gcm",
    "aes-256-gcm",
    "chacha20-ietf-poly1305",
    "xchacha20-ietf-poly1305",
];

/// The methods of SIP022.
pub const METHODS_2022: [&str; 4] = [
    "2022-blake3-aes-128-gcm",
    "2022-blake3-aes-256-gcm",
    "2022-blake3-chacha20-poly1305",
    "2022-blake3-chacha8-poly1305",
];

/// Waits until a value that grows is the same half a second later, and returns it.
///
/// # Panics
/// After [`DEADLINE`], naming `what`.
pub fn at_rest(what: &str, value: impl Fn() -> u64) -> u64 {
    let mut last = u64::MAX;
    eventually(what, || {
        std::thread::sleep(Duration::from_millis(500)); // growth is seen over time only
        let now = value();
        std::mem::replace(&mut last, now) == now
    });
    last
}

/// Polls `condition` until it holds.
///
/// # Panics
/// After [`DEADLINE`], naming `what`.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < DEADLINE,
            "still not so after {DEADLINE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the peer holds on to a stream on which it says nothing.
pub fn is_open(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let read = stream.read(&mut [0]);
    matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock)
}
