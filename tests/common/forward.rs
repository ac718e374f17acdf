//! `ssr forward` as a process, and what a forwarded port must carry.

use super::{
    DEADLINE,
    bytes::{digest, pattern},
    peers::ssr,
    process::{Process, free_port, v4},
    targets::{BANNER, Order, write_pattern},
};
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
};

/// A running `ssr forward` with one port.
#[derive(Debug)]
pub struct Forwarder {
    /// The process.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Forwarder {
    /// Carries `scheme://127.0.0.1:PORT` with what `rest` adds to that URL to `target`, a URL.
    pub fn start(scheme: &str, rest: &str, target: &str, flags: &[&str]) -> Self {
        let mut last = String::new();
        for _ in 0..3 {
            let address = v4(free_port());
            let listen = format!("{scheme}://{address}{rest}");
            let mut command = ssr(&["forward"]);
            command.args([listen.as_str(), target]).args(flags);
            let mut process = Process::spawn("ssr forward", &mut command).unwrap();
            match process.running() {
                Ok(()) => return Self { process, address },
                Err(log) if log.contains("in use") => last = log,
                Err(log) => panic!("{log}"),
            }
        }
        panic!("three ports in a row were taken: {last}");
    }

    /// From TCP to a port of 127.0.0.1, by TCP.
    pub fn tcp(target: u16) -> Self {
        Self::start("tcp", "", &format!("tcp://127.0.0.1:{target}"), &[])
    }

    /// A connection to its port.
    pub fn connect(&self) -> TcpStream {
        connect(self.address)
    }
}

/// A connection whose reads fail after [`DEADLINE`].
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Asks a duplex target at the other end of `stream` for `down` bytes while sending `up`, and compares all.
pub fn both_ways(mut stream: TcpStream, up: usize, down: usize) {
    let order = Order { seed: 7, up, down };
    stream.write_all(&order.to_bytes()).unwrap();
    let mut writing = stream.try_clone().unwrap();
    let upload = thread::spawn(move || write_pattern(&mut writing, 9, up).unwrap());
    let mut got = vec![0; down];
    stream.read_exact(&mut got).unwrap();
    assert!(
        got == pattern(7, down),
        "{down} bytes came as they were sent"
    );
    upload.join().unwrap();
    let mut sum = [0; 32];
    stream.read_exact(&mut sum).unwrap();
    assert_eq!(
        sum,
        digest(&pattern(9, up)),
        "{up} bytes went as they were sent"
    );
}

/// Sends, ends, and reads the digest that comes only after the end.
pub fn answer_after_the_end(mut stream: TcpStream, len: usize) {
    write_pattern(&mut stream, 3, len).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, digest(&pattern(3, len)));
}

/// Hears the banner before it has said anything, then has an echo.
pub fn server_speaks_first(mut stream: TcpStream) {
    let mut banner = vec![0; BANNER.len()];
    stream.read_exact(&mut banner).unwrap();
    assert_eq!(banner, BANNER);
    echoes(stream, b"and so do I");
}

/// An echo of `bytes`, which fit into what a target reads at once.
pub fn echoes(mut stream: TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    let mut got = vec![0; bytes.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got, bytes);
}
