//! Streams of mux.cool, opened by hand: many in one WebSocket, by users and by strangers.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
};

use crate::common::{
    SILENCE, eventually, is_open, matrix,
    peers::{Half, Program::Ssr, Spec, Start},
    seal::Sealing,
    targets::TcpTarget,
};
use crate::transport_ws::{BARE, Certificate, KINDS, METHOD, impatient, upgraded};
use serde_json::json;

const NEW: u8 = 1;
const KEEP: u8 = 2;
const END: u8 = 3;

/// A binary message with a mask of zeros.
fn message(payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
    match len {
        [0, short @ ..126] => [&[0x82, 0x80 | short], &[0; 4][..], payload].concat(),
        len => [&[0x82, 0x80 | 126], &len[..], &[0; 4], payload].concat(),
    }
}

/// Opens a stream.
pub(crate) fn new(id: u8) -> Vec<u8> {
    message(&[0, 12, 0, id, NEW, 0, 1, 0, 0, 1, 127, 0, 0, 1])
}

/// Sends `data` on a stream.
pub(crate) fn keep(id: u8, data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(data.len()).unwrap().to_be_bytes();
    message(&[&[0, 4, 0, id, KEEP, 1], &len[..], data].concat())
}

/// A client that has many streams in one WebSocket.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    /// What has come within messages.
    payload: Vec<u8>,
}

impl Client {
    pub(crate) fn of(server: &Half) -> Self {
        Self {
            stream: upgraded(server),
            payload: Vec::new(),
        }
    }

    fn read<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).expect("a message");
        bytes
    }

    /// The next bytes within messages.
    fn take(&mut self, count: usize) -> Vec<u8> {
        while self.payload.len() < count {
            let [kind, len] = self.read();
            assert_eq!(kind & 0xf0, 0x80, "a whole message");
            let len = match len {
                126 => u16::from_be_bytes(self.read()).into(),
                127 => u64::from_be_bytes(self.read()),
                len => len.into(),
            };
            let mut message = vec![0; usize::try_from(len).unwrap()];
            self.stream.read_exact(&mut message).unwrap();
            assert!(kind != 0x88, "the WebSocket ends");
            if kind == 0x82 {
                self.payload.extend(message);
            }
        }
        self.payload.drain(..count).collect()
    }

    /// The next frame of mux.cool: the id of its stream, its status, its data.
    pub(crate) fn frame(&mut self) -> (u8, u8, Vec<u8>) {
        let meta = self.take(2);
        let meta = self.take(usize::from(meta[1]));
        let data = if meta[3] & 1 == 1 {
            let len = self.take(2);
            self.take(usize::from(u16::from_be_bytes([len[0], len[1]])))
        } else {
            Vec::new()
        };
        (meta[1], meta[2], data)
    }

    /// Opens a stream to `echo`, says something there, and tells whether something comes back before the stream ends.
    fn is_served(&mut self, id: u8, sealing: &Sealing, echo: &TcpTarget) -> bool {
        let request = sealing.seal(&sealing.request(&echo.v4(), b"there?"));
        self.stream.write_all(&new(id)).unwrap();
        self.stream.write_all(&keep(id, &request)).unwrap();
        loop {
            match self.frame() {
                (of, END, _) if of == id => return false,
                (of, KEEP, data) if of == id && !data.is_empty() => return true,
                _ => {}
            }
        }
    }
}

fn server(connections: u32) -> Half {
    Start::server(Ssr, &Spec::new(METHOD))
        .with(Certificate::new().server(BARE))
        .with(json!({"limits": {"connections": connections}}))
        .run()
}

#[test]
fn streams_of_one_websocket_are_connections() {
    let server = server(2);
    let (sealing, echo) = (Sealing::new(&Spec::new(METHOD)), TcpTarget::echo());
    let mut client = Client::of(&server);
    assert!(client.is_served(1, &sealing, &echo));
    assert!(client.is_served(2, &sealing, &echo));
    assert!(!client.is_served(3, &sealing, &echo), "one too many");
    // The end of one makes room.
    client
        .stream
        .write_all(&message(&[0, 4, 0, 1, END, 0]))
        .unwrap();
    let mut ids = (4..=u8::MAX).cycle();
    eventually("there is room again", || {
        client.is_served(ids.next().unwrap(), &sealing, &echo)
    });
}

#[test]
fn streams_of_strangers_take_no_places_of_connections() {
    let server = server(4);
    let mut stranger = upgraded(&server);
    for id in 1..100 {
        stranger.write_all(&new(id)).unwrap();
    }
    let local = Start::local(Ssr, &Spec::new(METHOD), server.address)
        .with(Certificate::new().client(KINDS[1]))
        // Each would be a handshake, of which there may be two.
        .with(json!({"warm_connections": 0}))
        .run();
    let echo = TcpTarget::echo();
    for _ in 0..3 {
        matrix::echoes(&local.socks(), &echo.v4(), 1000);
    }
    assert!(is_open(&mut stranger));
}

#[test]
fn stranger_within_mux_is_closed_however_many_streams_it_opens() {
    let server = impatient();
    let mut stream = upgraded(&server);
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let mut ids = (1..=u8::MAX).cycle();
    eventually("it is closed", || {
        if stream.write_all(&new(ids.next().unwrap())).is_err() {
            return true;
        }
        // A wait, unless the end of an earlier stream is told.
        let mut buf = [0; 1000];
        match stream.read(&mut buf) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    });
}
