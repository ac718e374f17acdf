//! What strangers can make a server hold: streams of mux.cool that never say who opened them.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use crate::common::{
    eventually,
    peers::{Half, Program::Ssr, Spec, Start},
    seal::Sealing,
    targets::TcpTarget,
};
use crate::transport_mux::{Client, keep, new};
use crate::transport_ws::{BARE, Certificate, METHOD, upgraded};
use serde_json::json;

/// Streams that one WebSocket may have.
const STREAMS: u8 = 128;

/// A server that gives up on strangers after `handshake` seconds.
fn server(handshake: u32) -> Half {
    Start::server(Ssr, &Spec::new(METHOD))
        .with(Certificate::new().server(BARE))
        .with(json!({"timeouts": {"handshake": handshake}}))
        .run()
}

/// Opens WebSockets, sends `bytes` in each, and returns by how many KiB the server has grown since it had `before`.
fn flood(server: &Half, before: u64, websockets: usize, bytes: &[u8]) -> u64 {
    let idle = server.process.files_at_rest();
    let mut strangers: Vec<TcpStream> = Vec::new();
    let mut most = 0;
    for _ in 0..websockets {
        let mut stranger = upgraded(server);
        stranger.write_all(bytes).unwrap();
        strangers.push(stranger);
        most = most.max(server.process.memory_kib("Anonymous"));
    }
    drop(strangers);
    eventually("the strangers are gone", || {
        server.process.open_files() <= idle
    });
    most = most.max(server.process.memory_kib("Anonymous"));
    most.saturating_sub(before)
}

#[test]
fn silent_streams_of_strangers_cost_next_to_nothing() {
    let server = server(4);
    let silent: Vec<u8> = (1..=STREAMS).flat_map(new).collect();
    let before = server.process.memory_kib("Anonymous");
    let first = flood(&server, before, 300, &silent);
    let second = flood(&server, before, 300, &silent);
    assert!(first < 32 << 10, "{first} KiB");
    assert!(second < first + (8 << 10), "{first}, then {second} KiB");
}

#[test]
fn few_streams_of_strangers_are_begun() {
    let server = server(4);
    let begun: Vec<u8> = (1..=STREAMS)
        .flat_map(|id| [new(id), keep(id, b"x")].concat())
        .collect();
    let before = server.process.memory_kib("Anonymous");
    for round in 1..=4 {
        let grown = flood(&server, before, 300, &begun);
        assert!(grown < 32 << 10, "{grown} KiB after round {round}");
    }
}

#[test]
fn what_strangers_send_in_streams_waits_in_the_socket() {
    /// Bytes of a stranger that are dropped, and more than may wait in a stream.
    const SENT: usize = (1 << 20) + (512 << 10);
    let server = server(20);
    let chunk = [7; 16_000];
    let before = server.process.memory_kib("Anonymous");
    let strangers: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stranger = upgraded(&server);
            stranger
                .set_write_timeout(Some(Duration::from_millis(500)))
                .unwrap();
            for id in 1..=4 {
                stranger.write_all(&new(id)).unwrap();
            }
            // In turns, until the server reads no more.
            'sending: for _ in 0..SENT / chunk.len() {
                for id in 1..=4 {
                    if stranger.write_all(&keep(id, &chunk)).is_err() {
                        break 'sending;
                    }
                }
            }
            stranger
        })
        .collect();
    let grown = server
        .process
        .memory_kib("Anonymous")
        .saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} KiB");
    drop(strangers);
}

#[test]
fn streams_that_a_client_opens_at_once_are_all_served() {
    let server = server(15);
    let (sealing, echo) = (Sealing::new(&Spec::new(METHOD)), TcpTarget::echo());
    let mut client = Client::of(&server);
    let opened: Vec<u8> = (1..=100).flat_map(new).collect();
    client.stream.write_all(&opened).unwrap();
    // The last one speaks first, and all that follows comes before anything was answered.
    let asked: Vec<u8> = (1..=100)
        .rev()
        .flat_map(|id| {
            let request = sealing.seal(&sealing.request(&echo.v4(), b"there?"));
            keep(id, &request)
        })
        .collect();
    client.stream.write_all(&asked).unwrap();
    let mut answered = [false; 101];
    while answered.iter().filter(|answered| **answered).count() < 100 {
        let (id, _, data) = client.frame();
        answered[usize::from(id)] |= !data.is_empty();
    }
}

#[test]
fn stranger_that_has_left_a_stream_waiting_is_closed_in_time() {
    let server = server(2);
    let mut stranger = upgraded(&server);
    for id in 1..=STREAMS {
        stranger.write_all(&new(id)).unwrap();
        stranger.write_all(&keep(id, b"x")).unwrap();
    }
    let mut rest = Vec::new();
    let ended = stranger.read_to_end(&mut rest);
    assert!(
        ended.is_ok() || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
        "it is open"
    );
}
