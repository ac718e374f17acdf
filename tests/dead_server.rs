//! Servers that cannot be reached: when a client hears of it, and what is dialled meanwhile.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::DEADLINE;
use crate::common::socks::{CONNECT, Target, request_bytes};
use crate::common::targets::TcpTarget;
use crate::failover::{black_hole, local};

/// How long a request takes until its client hears that it failed.
fn time_to_failure(proxy: SocketAddr) -> Duration {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(2 * DEADLINE)).unwrap();
    let begun = Instant::now();
    stream.write_all(&[5, 1, 0]).unwrap();
    let target = Target::name("example.test", 80);
    stream.write_all(&request_bytes(CONNECT, &target)).unwrap();
    stream.write_all(b"x").unwrap();
    let _reset = stream.read_to_end(&mut Vec::new());
    begun.elapsed()
}

#[test]
fn several_dead_servers_share_one_time_limit() {
    let holes: Vec<_> = (0..4).map(|_| black_hole()).collect();
    let addresses: Vec<_> = holes.iter().map(|(_, address, _)| *address).collect();
    let local = local(&addresses, json!({"timeouts": {"connect": 2}}));
    let time = time_to_failure(local.address);
    // One after the other begins after the patience with those before it, up to a second each.
    assert!(
        (Duration::from_millis(1500)..Duration::from_millis(3800)).contains(&time),
        "{time:?}"
    );
}

#[test]
fn a_dead_server_is_not_dialled_again_by_the_same_request() {
    // It takes what it is sent, and closes: the request goes on to the next.
    let deaf = TcpTarget::serve(|mut stream| {
        let _read = stream.read(&mut [0; 64]);
    });
    let (_hole, hole, _fill) = black_hole();
    let deaf_at = SocketAddr::from(([127, 0, 0, 1], deaf.port()));
    let local = local(&[hole, deaf_at], json!({"timeouts": {"connect": 4}}));
    let mut stream = TcpStream::connect(local.address).unwrap();
    stream.set_read_timeout(Some(2 * DEADLINE)).unwrap();
    stream.write_all(&[5, 1, 0]).unwrap();
    let target = Target::name("example.test", 80);
    stream.write_all(&request_bytes(CONNECT, &target)).unwrap();
    // The beginning of a ClientHello, which may be sent twice.
    stream.write_all(&[22]).unwrap();
    let begun = Instant::now();
    let _reset = stream.read_to_end(&mut Vec::new());
    let time = begun.elapsed();
    assert_eq!(deaf.accepted(), 1);
    // Dialled again, the dead one would take its four seconds.
    assert!(time < Duration::from_secs(4), "{time:?}");
}
