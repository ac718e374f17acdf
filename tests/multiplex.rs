//! sing-box's `multiplex` on the server, spoken by hand.

use crate::common::{
    DEADLINE, SILENCE, eventually, is_open,
    peers::{Half, Program::Ssr, Spec, Start},
    socks::{self, Target},
    targets::TcpTarget,
};
use serde_json::json;
use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// Under it, a session is plain on the wire.
const METHOD: &str = "none";
const OPEN: u8 = 0;
const END: u8 = 1;
const DATA: u8 = 2;

/// A frame of smux.
fn frame(command: u8, stream: u32, data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(data.len()).unwrap().to_le_bytes();
    [&[1, command], &len[..], &stream.to_le_bytes(), data].concat()
}

pub(crate) fn server(keys: serde_json::Value) -> Half {
    Start::server(Ssr, &Spec::new(METHOD)).with(keys).run()
}

/// A session of smux.
pub(crate) struct Session {
    stream: TcpStream,
}

impl Session {
    fn raw(server: &Half, head: &[u8]) -> Self {
        let mut stream = socks::dial(server.address);
        let target = Target::name("sp.mux.sing-box.arpa", 444);
        stream.write_all(&[&target.0, head].concat()).unwrap();
        Self { stream }
    }

    pub(crate) fn smux(server: &Half) -> Self {
        Self::raw(server, &[0, 0])
    }

    fn send(&mut self, command: u8, stream: u32, data: &[u8]) {
        self.stream
            .write_all(&frame(command, stream, data))
            .unwrap();
    }

    /// Opens a stream to `target`.
    pub(crate) fn open(&mut self, stream: u32, target: &Target, data: &[u8]) {
        self.send(OPEN, stream, &[]);
        self.send(DATA, stream, &[&[0, 0], &target.0[..], data].concat());
    }

    /// The next frame: its command, its stream, its data. `None`: the session has ended.
    fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 8];
        match self.stream.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("nothing comes"),
            read => read.ok()?,
        }
        assert_eq!(head[0], 1, "version");
        let mut data = vec![0; usize::from(u16::from_le_bytes([head[2], head[3]]))];
        self.stream.read_exact(&mut data).ok()?;
        let stream = u32::from_le_bytes(head[4..].try_into().unwrap());
        Some((head[1], stream, data))
    }

    /// The next data of `stream`. `None`: it has ended.
    pub(crate) fn data(&mut self, stream: u32) -> Option<Vec<u8>> {
        loop {
            match self.next()? {
                (DATA, id, data) if id == stream => return Some(data),
                (END, id, _) if id == stream => return None,
                _ => {}
            }
        }
    }

    /// What comes on `stream` before its end, which must be the next stream to end.
    fn all(&mut self, stream: u32) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.next().expect("the session goes on") {
                (DATA, id, data) if id == stream => all.extend(data),
                (END, id, _) if id == stream => return all,
                _ => {}
            }
        }
    }

    /// Whether a new stream is answered by `echo`.
    fn echoes(&mut self, stream: u32, echo: &TcpTarget) -> bool {
        self.open(stream, &echo.v4(), b"there?");
        let mut answer = Vec::new();
        while answer.len() < 7 {
            match self.next() {
                Some((DATA, id, data)) if id == stream => answer.extend(data),
                Some((END, id, _)) if id == stream => return false,
                Some(_) => {}
                None => return false,
            }
        }
        answer == b"\0there?"
    }

    /// Whether the session ends, whatever comes before.
    fn is_over(&mut self) -> bool {
        let mut rest = Vec::new();
        let ended = self.stream.read_to_end(&mut rest);
        !matches!(ended, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

#[test]
fn each_stream_of_a_session_is_a_request_of_its_own() {
    let server = server(json!({}));
    let echo = TcpTarget::echo();
    let mut session = Session::smux(&server);
    for stream in [3, 5, 7] {
        assert!(session.echoes(stream, &echo), "{stream}");
    }
    assert_eq!(echo.accepted(), 3);
    // The end of a stream ends its connection alone.
    session.send(END, 5, &[]);
    assert!(session.echoes(9, &echo));
    let mut second = Session::smux(&server);
    assert!(second.echoes(3, &echo));
}

#[test]
fn what_a_client_has_sent_before_it_ends_its_stream_arrives() {
    let server = server(json!({}));
    let digest = TcpTarget::digest_at_end();
    let mut session = Session::smux(&server);
    session.open(3, &digest.v4(), &[]);
    for _ in 0..50 {
        session.send(DATA, 3, &[7; 30_000]);
    }
    session.send(END, 3, &[]);
    eventually("the target is reached", || digest.accepted() == 1);
    assert!(
        session.echoes(5, &TcpTarget::echo()),
        "and the session goes on"
    );
}

#[test]
fn refused_streams_say_why_and_the_session_goes_on() {
    let deny = json!({"rules": [{"ip": ["127.0.0.1"], "port": 1, "to": "block"}]});
    let server = server(deny);
    let mut session = Session::smux(&server);
    let closed = Target::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    session.open(3, &closed, b"x");
    let answer = session.all(3);
    assert_eq!(answer[0], 1);
    let said = String::from_utf8_lossy(&answer[2..]).into_owned();
    assert!(said.contains("rule"), "{said}");
    let nested = Target::name("sp.mux.sing-box.arpa", 444);
    session.open(5, &nested, b"x");
    assert_eq!(session.all(5), b"", "no session inside a session");
    let brutal = Target::name("_BrutalBwExchange", 0);
    session.open(7, &brutal, &[0; 8]);
    let answer = session.all(7);
    assert_eq!(answer[..2], [0, 0]);
    let said = String::from_utf8_lossy(&answer[3..]).into_owned();
    assert!(said.contains("remove `brutal`"), "{said}");
    assert!(session.echoes(9, &TcpTarget::echo()));
}

#[test]
fn malformed_sessions_end_and_others_go_on() {
    let server = server(json!({}));
    let echo = TcpTarget::echo();
    let mut good = Session::smux(&server);
    assert!(good.echoes(3, &echo));
    let heads: [&[u8]; 4] = [&[2], &[0, 3], &[1, 0, 2], &[1, 7]];
    for head in heads {
        assert!(Session::raw(&server, head).is_over(), "{head:?}");
    }
    let frames: [Vec<u8>; 3] = [
        vec![2, 0, 0, 0, 3, 0, 0, 0],
        vec![1, 9, 0, 0, 3, 0, 0, 0],
        frame(END, 3, b"data"),
    ];
    for frame in frames {
        let mut session = Session::smux(&server);
        assert!(session.echoes(3, &echo));
        session.stream.write_all(&frame).unwrap();
        assert!(session.is_over(), "{frame:?}");
    }
    for head in [[0, 1], [0, 2]] {
        let mut session = Session::raw(&server, &head);
        session.stream.write_all(&[0xff; 100]).unwrap();
        assert!(session.is_over(), "{head:?}");
    }
    // A stream with a wrong request is ended alone.
    good.send(OPEN, 5, &[]);
    good.send(DATA, 5, &[0, 0, 9, 9]);
    assert_eq!(good.all(5), b"");
    assert!(good.echoes(7, &echo));
}

#[test]
fn streams_beyond_the_limit_of_a_session_are_ended_and_make_room() {
    const MOST: u32 = 256;
    let server = server(json!({}));
    let echo = TcpTarget::echo();
    let mut session = Session::smux(&server);
    for stream in 0..MOST {
        session.send(OPEN, 3 + 2 * stream, &[]);
    }
    assert!(!session.echoes(3 + 2 * MOST, &echo), "one too many");
    session.send(END, 3, &[]);
    let mut next = 5 + 2 * MOST;
    eventually("there is room again", || {
        next += 2;
        session.echoes(next, &echo)
    });
    // One that opens streams without end is not served at all.
    let mut flood = Session::smux(&server);
    let many: Vec<u8> = (0..5 * MOST)
        .flat_map(|stream| frame(OPEN, 3 + 2 * stream, &[]))
        .collect();
    // The server may have had enough before all of it is sent.
    let _ = flood.stream.write_all(&many);
    assert!(Session::smux(&server).echoes(3, &echo), "others are");
}

/// The end of stream 3 makes room for another.
fn makes_room(session: &mut Session, echo: &TcpTarget) {
    session.send(END, 3, &[]);
    let mut next = 9;
    eventually("there is room again", || {
        next += 2;
        session.echoes(next, echo)
    });
}

#[test]
fn streams_of_a_session_are_connections() {
    let server = server(json!({"limits": {"connections": 2}}));
    let echo = TcpTarget::echo();
    let mut session = Session::smux(&server);
    assert!(session.echoes(3, &echo));
    assert!(session.echoes(5, &echo));
    assert!(!session.echoes(7, &echo), "one too many");
    makes_room(&mut session, &echo);
}

#[test]
fn streams_that_have_not_sent_their_request_are_connections_too() {
    let server = server(json!({"limits": {"connections": 3}}));
    let echo = TcpTarget::echo();
    let mut session = Session::smux(&server);
    for stream in [3, 5, 7] {
        session.send(OPEN, stream, &[]);
    }
    assert!(!session.echoes(9, &echo), "one too many");
    makes_room(&mut session, &echo);
}

#[test]
fn what_waits_for_a_target_that_does_not_read_is_bounded() {
    let server = server(json!({}));
    let silent = TcpTarget::serve(|stream| {
        std::thread::park_timeout(DEADLINE);
        drop(stream);
    });
    let before = server.process.memory_kib("VmRSS");
    let mut session = Session::smux(&server);
    session.open(3, &silent.v4(), &[]);
    session
        .stream
        .set_write_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let chunk = frame(DATA, 3, &[1; 60_000]);
    let mut sent = 0;
    while sent < 256 << 20 && session.stream.write_all(&chunk).is_ok() {
        sent += chunk.len();
    }
    assert!(sent < 128 << 20, "it was not held up");
    let grown = server.process.memory_kib("VmRSS") - before;
    assert!(grown < 24 << 10, "{grown} KiB");
    let mut other = Session::smux(&server);
    assert!(other.echoes(3, &TcpTarget::echo()), "other sessions go on");
}

#[test]
fn the_end_of_a_session_ends_its_connections_to_targets() {
    let server = server(json!({}));
    let (ended, end) = std::sync::mpsc::channel();
    let target = TcpTarget::serve(move |mut stream| {
        let mut buffer = [0; 64];
        while let Ok(1..) = stream.read(&mut buffer) {}
        ended.send(()).unwrap();
    });
    let mut session = Session::smux(&server);
    for stream in [3, 5] {
        session.open(stream, &target.v4(), b"x");
    }
    eventually("the targets are reached", || target.accepted() == 2);
    drop(session);
    for _ in 0..2 {
        end.recv_timeout(DEADLINE).expect("the connection ends");
    }
}

#[test]
fn sessions_without_streams_do_not_keep_a_server_from_ending() {
    let mut server = server(json!({}));
    let mut session = Session::smux(&server);
    assert!(session.echoes(3, &TcpTarget::echo()));
    session.send(END, 3, &[]);
    std::thread::sleep(SILENCE);
    assert!(is_open(&mut session.stream));
    server.process.signal(rustix::process::Signal::TERM);
    let (status, _) = server.process.wait(Duration::from_secs(5));
    assert!(status.success());
}
