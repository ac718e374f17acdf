//! `ssr` against the programs of shadowsocks-libev 3.3.5, each way round, and what libev cannot do even with itself.

use crate::common::{
    METHODS_2017,
    matrix::{self, Targets},
    peers::{
        Pair,
        Program::{self, Libev, Ssr},
        Spec,
    },
};

fn carries(client: Program, server: Program, inability: &[&str]) {
    for method in METHODS_2017.into_iter().chain(["aes-192-gcm"]) {
        eprintln!("{method}: {client:?} to {server:?}");
        let pair = Pair::new(client, server, &Spec::new(method));
        let targets = Targets::start();
        matrix::run(&pair.socks(), &targets, inability);
    }
}

/// What libev cannot do with itself, so that no pair with libev in it is held to it: either half closes both ways at
/// the first end of a stream, and both drop datagrams that do not fit one packet of its MTU.
const LIBEV_CANNOT: &[&str] = &[
    "tcp: upload, half-close, answer",
    "tcp: small upload, half-close, answer",
    "tcp: no upload, half-close, answer",
    "udp: 4000 bytes",
    "udp: 30000 bytes",
];

#[test]
#[ignore = "needs peers: scripts/test"]
fn libev_with_itself_lacks_half_close_and_large_datagrams_and_no_more() {
    let pair = Pair::new(Libev, Libev, &Spec::new("aes-256-gcm"));
    let targets = Targets::start();
    assert_eq!(
        matrix::failures(&pair.socks(), &targets, |_| true),
        LIBEV_CANNOT
    );
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn ssr_client_reaches_libev_server() {
    carries(Ssr, Libev, LIBEV_CANNOT);
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn libev_client_reaches_ssr_server() {
    carries(Libev, Ssr, LIBEV_CANNOT);
}
