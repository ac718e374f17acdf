//! `ssr` against the programs of shadowsocks-rust 1.25, each way round.
//!
//! They run where `SSR_PEER_RUST_DIR` names the directory of `sslocal` and `ssserver`; `scripts/test` sets it when it
//! finds them in `target/peers/bin`, where `cargo install --root target/peers shadowsocks-rust` puts them.

use crate::common::{
    METHODS_2017, METHODS_2022,
    matrix::{self, Targets},
    peers::{
        Pair,
        Program::{self, Rust, Ssr},
        Spec,
    },
};

fn carries(client: Program, server: Program, inability: &[&str]) {
    // A default build of shadowsocks-rust lacks the last method of either kind; tests/interop_oracle.rs has them.
    for method in METHODS_2017[..3]
        .iter()
        .chain(&METHODS_2022[..3])
        .chain(&["none"])
    {
        eprintln!("{method}: {client:?} to {server:?}");
        let pair = Pair::new(client, server, &Spec::new(method));
        let targets = Targets::start();
        matrix::run(&pair.socks(), &targets, inability);
    }
}

/// What shadowsocks-rust cannot do with itself: the client waits half a second for the first bytes and sends no header
/// when there are none, and a datagram without payload is lost.
const RUST_CANNOT: &[&str] = &[
    "tcp: server speaks first, at once",
    "tcp: no upload, half-close, answer",
    "udp: 0 bytes",
];

#[test]
#[ignore = "needs peers: scripts/test"]
fn shadowsocks_rust_with_itself_lacks_an_early_banner_an_empty_upload_and_empty_datagrams_and_no_more()
 {
    let pair = Pair::new(Rust, Rust, &Spec::new("aes-256-gcm"));
    let targets = Targets::start();
    assert_eq!(
        matrix::failures(&pair.socks(), &targets, |_| true),
        RUST_CANNOT
    );
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn ssr_client_reaches_shadowsocks_rust_server() {
    carries(Ssr, Rust, &["udp: 0 bytes"]);
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn shadowsocks_rust_client_reaches_ssr_server() {
    carries(Rust, Ssr, RUST_CANNOT);
}
