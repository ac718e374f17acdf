//! Links of reverse tunnels through the binary: no visitor or client affects another.

use crate::common::{
    DEADLINE, SILENCE, eventually,
    peers::{Half, Program, Spec, Start},
    process::{free_port, v4},
    reverse::*,
    socks::{CONNECT, Target, read_array},
    targets::TcpTarget,
};
use serde_json::json;
use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Instant,
};

/// More than all windows and buffers between a target and its visitor.
const MUCH: u64 = 64 << 20;

#[test]
fn stalled_visitor_holds_up_nobody_else() {
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let source = TcpTarget::serve(move |mut stream| {
        let bytes = vec![7; 64 << 10];
        while stream.write_all(&bytes).is_ok() {
            counter.fetch_add(64 << 10, Relaxed);
        }
    });
    let server = open_server();
    let client = client(
        &server,
        services(vec![service("source", free_port(), source.port())]),
    );
    let bound = published(&client, "source");
    // It reads one byte and then nothing, until its stream is full.
    let mut stalled = dial(bound);
    stalled.read_exact(&mut [0; 1]).unwrap();
    eventually("the stalled stream stands still", || {
        let before = sent.load(Relaxed);
        thread::sleep(SILENCE);
        sent.load(Relaxed) == before
    });
    assert!(sent.load(Relaxed) < MUCH, "its target is held back");
    let active: Vec<_> = (0..9)
        .map(|_| {
            let stream = dial(bound);
            thread::spawn(move || io::copy(&mut stream.take(MUCH), &mut io::sink()).unwrap())
        })
        .collect();
    for visitor in active {
        assert_eq!(visitor.join().unwrap(), MUCH);
    }
}

// --- A client that writes frames by hand, with the method `none`, so that they are not encrypted.

/// The reserved target of a link.
const RESERVED: (&str, u16) = ("tunnel.v1.ssr.invalid", 9015);

fn carrier(server: &Half) -> TcpStream {
    let (host, port) = RESERVED;
    let mut link = dial(server.address);
    let len = u8::try_from(host.len()).unwrap();
    let address = [&[3, len], host.as_bytes(), &port.to_be_bytes()].concat();
    link.write_all(&address).unwrap();
    link
}

fn frame(op: u16, id: u64, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap();
    [
        &op.to_be_bytes()[..],
        &id.to_be_bytes()[2..],
        &len.to_be_bytes(),
        payload,
    ]
    .concat()
}

fn hello() -> Vec<u8> {
    let numbers = [0u32, 256 << 10, 16_371].map(u32::to_be_bytes).concat();
    frame(5, 0, &[&[1], numbers.as_slice()].concat())
}

fn register(port: u16) -> Vec<u8> {
    register_by(port, &[])
}

fn register_by(port: u16, token: &[u8]) -> Vec<u8> {
    let bind = [&[1, 127, 0, 0, 1][..], &port.to_be_bytes()].concat();
    let len = [u8::try_from(token.len()).unwrap()];
    frame(
        6,
        1,
        &[&[0, 0], bind.as_slice(), b"\x04hand", &len, token, b"\0"].concat(),
    )
}

/// The next v1 frame.
fn next_frame(stream: &mut TcpStream) -> io::Result<(u16, u64, Vec<u8>)> {
    let mut head = [0; 8];
    stream.read_exact(&mut head)?;
    let op = u16::from_be_bytes([head[0], head[1]]);
    let mut id = [0; 8];
    id[2..].copy_from_slice(&head[2..]);
    let mut payload = Vec::new();
    if op != 4 {
        let mut len = [0; 4];
        stream.read_exact(&mut len)?;
        payload = vec![0; u32::from_be_bytes(len) as usize];
        stream.read_exact(&mut payload)?;
    }
    Ok((op, u64::from_be_bytes(id), payload))
}

fn wait_for(stream: &mut TcpStream, op: u16) -> (u64, Vec<u8>) {
    loop {
        let (found, id, payload) = next_frame(stream).expect("a frame");
        if found == op {
            return (id, payload);
        }
    }
}

/// A link by hand, with service 1 registered at `port`.
fn by_hand(server: &Half, port: u16) -> TcpStream {
    registered(server, &register(port))
}

fn registered(server: &Half, register: &[u8]) -> TcpStream {
    let mut link = carrier(server);
    link.write_all(&hello()).unwrap();
    link.write_all(register).unwrap();
    let (service, result) = wait_for(&mut link, 7);
    assert_eq!((service, &result[..2]), (1, &[0, 0][..]));
    link
}

#[test]
fn garbage_ends_its_own_link_and_no_other() {
    let (server, client, _target, bound) = echo_by("none");
    let mut visitor = dial(bound);
    let mut wrong_version = hello();
    wrong_version[12] = 9;
    for (bytes, greeted) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), false),
        (vec![0xff; 5000], false),
        (b"\0\0\0\0\0\x03web".to_vec(), false), // port-proxy's first frame
        (b"\0\x02".to_vec(), false),
        (wrong_version, false),
        (frame(3, 2, b"data of a stream that never was"), true),
        (frame(8, 2, b"an opening that is cut"), true),
        (frame(0x10, 2, &[0; 16]), true), // dial-back
        (hello(), true),
        (
            [&3u16.to_be_bytes()[..], &[0; 6], &[0xff; 4]].concat(),
            true,
        ),
    ] {
        let mut link = carrier(&server);
        if greeted {
            link.write_all(&hello()).unwrap();
        }
        link.write_all(&bytes).unwrap();
        let mut rest = Vec::new();
        // A reset or an end: the link is closed in both cases.
        let _ = link.read_to_end(&mut rest);
        exchange(&mut visitor, b"not disturbed").unwrap();
    }
    assert_eq!(said(&client, &["link lost"]), 0);
}

#[test]
fn more_than_the_window_resets_that_stream_alone() {
    let (server, _client, _target, _) = echo_by("none");
    let port = free_port();
    let mut link = by_hand(&server, port);
    let mut greedy = dial(v4(port));
    let (first, _) = wait_for(&mut link, 8);
    let mut modest = dial(v4(port));
    let (second, _) = wait_for(&mut link, 8);
    let mut writing = link.try_clone().unwrap();
    let sender = thread::spawn(move || {
        // The visitor does not read, so this exceeds the window.
        for _ in 0..2000 {
            if writing.write_all(&frame(3, first, &[1; 16_000])).is_err() {
                return;
            }
        }
        writing.write_all(&frame(3, second, b"fine")).unwrap();
    });
    assert_eq!(wait_for(&mut link, 4).0, first);
    sender.join().unwrap();
    let mut back = [0; 4];
    modest.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"fine");
    let mut sink = vec![0; 1 << 20];
    let ended = loop {
        match greedy.read(&mut sink) {
            Ok(0) => panic!("a stream that was broken looks whole"),
            Ok(_) => {}
            Err(error) => break error.kind(),
        }
    };
    assert_eq!(ended, ErrorKind::ConnectionReset);
    // A stream that the client resets is reset for its visitor.
    link.write_all(&[&4u16.to_be_bytes()[..], &second.to_be_bytes()[2..]].concat())
        .unwrap();
    let ended = modest.read(&mut back);
    assert!(matches!(ended, Err(error) if error.kind() == ErrorKind::ConnectionReset));
}

#[test]
fn link_that_says_nothing_is_closed() {
    let (server, _client, _target, _) = echo_by("none");
    let mut link = carrier(&server);
    link.write_all(&hello()).unwrap();
    let begun = Instant::now();
    while next_frame(&mut link).is_ok() {}
    let took = begun.elapsed();
    assert!(took > SILENCE && took < DEADLINE / 2, "{took:?}");
}

#[test]
fn visitors_go_to_the_link_with_the_fewest_and_end_with_it_alone() {
    const LINKS: u8 = 4;
    let allow = json!({"heartbeat": 60, "allow": [{"bind": "127.0.0.1:1-65535"}]});
    let server = server_by("none", allow);
    let port = free_port();
    let mut links: Vec<_> = (0..LINKS)
        .map(|number| {
            let token = [&[9; 15][..], &[number]].concat();
            registered(&server, &register_by(port, &token))
        })
        .collect();
    let mut visitors: Vec<_> = (0..2 * LINKS).map(|_| dial(v4(port))).collect();
    let mut ids = Vec::new();
    for (number, link) in (0..LINKS).zip(&mut links) {
        // More than two, or fewer, and one of the links waits here in vain.
        let [first, second] = [(); 2].map(|()| wait_for(link, 8).0);
        for id in [first, second] {
            link.write_all(&frame(3, id, &[number])).unwrap();
        }
        ids.push(first);
    }
    let told = |visitor: &mut TcpStream| read_array::<1>(visitor)[0];
    let of: Vec<u8> = visitors.iter_mut().map(told).collect();
    for number in 0..LINKS {
        let count = of.iter().filter(|of| **of == number).count();
        assert_eq!(count, 2, "of link {number}: {of:?}");
    }
    drop(links.remove(0));
    for (of, visitor) in of.iter().zip(&mut visitors) {
        if *of == 0 {
            let ended = visitor.read(&mut [0]);
            assert!(!matches!(ended, Ok(1..)), "its link has ended: {ended:?}");
        }
    }
    let newest = dial(v4(port));
    for (id, link) in ids[1..].iter().zip(&mut links) {
        link.write_all(&frame(3, *id, b"x")).unwrap();
    }
    // One of each link hears of it.
    let mut still = 0;
    for (of, visitor) in of.iter().zip(&mut visitors) {
        visitor.set_read_timeout(Some(SILENCE)).unwrap();
        if *of != 0 && matches!(visitor.read(&mut [0]), Ok(1)) {
            still += 1;
        }
    }
    assert_eq!(still, 3, "visitors of links that are up");
    drop(newest);
}

#[test]
fn links_are_as_many_as_workers_if_they_are_auto() {
    let target = TcpTarget::echo();
    let server = open_server();
    let service = service("echo", free_port(), target.port());
    let reverse = json!({"heartbeat": 1, "services": [service], "links": "auto"});
    let start = Start::local(Program::Ssr, &Spec::new(METHOD), server.address);
    let client = start.with(json!({"workers": 3, "reverse": reverse})).run();
    let bound = published(&client, "echo");
    for link in ["link=0", "link=1", "link=2"] {
        eventually("every worker has a link", || {
            said(&client, &["reverse: published", link]) == 1
        });
    }
    assert_eq!(said(&client, &["reverse: published"]), 3);
    let visit = move || {
        let mut visitor = dial(bound);
        for len in [1, 100_000, 70_000] {
            exchange(&mut visitor, &vec![7; len]).unwrap();
        }
    };
    let visitors: Vec<_> = (0..9).map(|_| thread::spawn(visit)).collect();
    for visitor in visitors {
        visitor.join().unwrap();
    }
}

/// Otherwise every user of the SOCKS proxy could publish ports with its key.
#[test]
fn carrier_is_no_target_for_clients_of_a_local() {
    let (_server, client, _target, bound) = echo();
    let (host, port) = RESERVED;
    let asked = client.socks().request(CONNECT, &Target::name(host, port));
    let (_stream, code, _) = asked.expect("negotiation");
    assert_eq!(code, 2, "not allowed");
    exchange(&mut dial(bound), b"not disturbed").unwrap();
}
