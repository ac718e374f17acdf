//! What clients and servers that mean no good can make an HTTP proxy hold, and for how long.

use crate::{
    common::{DEADLINE, eventually, http::origin, is_open, socks::dial, targets::TcpTarget},
    http_proxy::{client, get, http, pair},
};
use serde_json::json;
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

#[test]
fn slow_heads_end_with_the_handshake_timeout() {
    let pair = pair(json!({}), json!({"timeouts": {"handshake": 1, "idle": 2}}));
    let target = origin();
    let begun = Instant::now();
    let mut first = dial(pair.local.address);
    first.write_all(b"GET http://127").unwrap();
    let mut between = client(&pair);
    assert_eq!(between.ask(&get(&target, "/hello")).text(), "hello");
    between.send("G").unwrap();
    let mut idle = client(&pair);
    assert_eq!(idle.ask(&get(&target, "/hello")).text(), "hello");
    assert_eq!(first.read_to_end(&mut Vec::new()).unwrap_or(0), 0);
    assert!(between.rest().unwrap_or_default().is_empty());
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(is_open(idle.reader.get_mut()), "it may be idle for longer");
    idle.reader.get_ref().set_nonblocking(false).unwrap();
    assert!(idle.is_over());
    assert!(begun.elapsed() < DEADLINE / 2);
}

#[test]
fn silent_target_is_a_page() {
    let pair = pair(json!({}), json!({"timeouts": {"idle": 1}}));
    let silent = TcpTarget::silent();
    let answer = client(&pair).ask(&get(&silent, "/"));
    assert!(
        answer.line().contains("504") || answer.line().contains("502"),
        "{answer:?}"
    );
}

#[test]
fn oversized_heads_are_refused_and_kept_nowhere() {
    let mut pair = pair(json!({}), json!({}));
    let target = origin();
    let memory = pair.local.process.memory_kib("VmRSS");
    let head = [
        b"GET http://x/ HTTP/1.1\r\nA: ".as_slice(),
        &vec![b'a'; 200_000],
    ]
    .concat();
    for _ in 0..200 {
        let mut stream = dial(pair.local.address);
        let _reset = stream.write_all(&head);
        let _reset = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(
            answer.starts_with(b"HTTP/1.1 431 "),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    let many = format!("GET http://x/ HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(200));
    assert!(client(&pair).ask(&many).line().contains("431"));
    let grown = pair
        .local
        .process
        .memory_kib("VmRSS")
        .saturating_sub(memory);
    assert!(grown < 30_000, "{grown} KiB more");
    assert_eq!(client(&pair).ask(&get(&target, "/hello")).text(), "hello");
    assert!(pair.local.process.exited().is_none());
}

#[test]
fn endless_heads_of_servers_are_refused() {
    let pair = http();
    let target = TcpTarget::serve(|mut stream| {
        let _head = stream.read(&mut [0; 1000]);
        let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\nA: ");
        while stream.write_all(&[b'a'; 1000]).is_ok() {}
    });
    let answer = client(&pair).ask(&get(&target, "/"));
    assert!(
        answer.line().contains("502") && answer.text().contains("64 KiB"),
        "{answer:?}"
    );
}

#[test]
fn client_that_does_not_read_holds_little() {
    let pair = http();
    let target = TcpTarget::serve(|mut stream| {
        let _head = stream.read(&mut [0; 1000]);
        let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'a'; 64 << 10]).is_ok() {}
    });
    let memory = pair.local.process.memory_kib("VmRSS");
    let mut clients: Vec<TcpStream> = (0..20).map(|_| dial(pair.local.address)).collect();
    for client in &mut clients {
        client.write_all(get(&target, "/").as_bytes()).unwrap();
    }
    let grown = || {
        pair.local
            .process
            .memory_kib("VmRSS")
            .saturating_sub(memory)
    };
    let mut last = u64::MAX;
    eventually("the buffers are full", || {
        std::thread::sleep(Duration::from_millis(300)); // growth is seen over time only
        let now = grown();
        std::mem::replace(&mut last, now) == now
    });
    assert!(grown() < 20 * 1024, "{} KiB for 20 connections", grown());
    // When a client goes, so does its connection to the target.
    let files = pair.local.process.open_files();
    drop(clients);
    eventually("connections end with their clients", || {
        pair.local.process.open_files() + 40 <= files
    });
}
