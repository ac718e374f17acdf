//! A name server that knows one answer and counts its queries.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Seconds that an answer may be cached: longer than any workload runs.
const TTL: u32 = 600;

/// Answers 127.0.0.1 to every question for an address until it is dropped.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    queries: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// Listens on port 53, the only one that shadowsocks-libev can use, of an address of its own.
    pub(crate) fn start() -> io::Result<Self> {
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        let address = Ipv4Addr::new(127, 53, high, low.clamp(1, 254));
        let socket = UdpSocket::bind((address, 53)).map_err(|error| {
            io::Error::new(error.kind(), format!("port 53 of {address}: {error}"))
        })?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let mut server = Self {
            address: socket.local_addr()?,
            queries: Arc::default(),
            stop: Arc::default(),
            thread: None,
        };
        let (queries, stop) = (Arc::clone(&server.queries), Arc::clone(&server.stop));
        server.thread = Some(thread::spawn(move || {
            let mut query = [0; 512];
            while !stop.load(Relaxed) {
                let Ok((length, peer)) = socket.recv_from(&mut query) else {
                    continue;
                };
                if let Some(answer) = query.get(..length).and_then(answer) {
                    queries.fetch_add(1, Relaxed);
                    // If it is lost, the proxy repeats its query.
                    let _ = socket.send_to(&answer, peer);
                }
            }
        }));
        Ok(server)
    }

    pub(crate) fn queries(&self) -> u64 {
        self.queries.load(Relaxed)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has ended, too. The next server needs the port.
            let _ = thread.join();
        }
    }
}

/// The answer to a query (RFC 1035 §4.1): the question, and an A record if the question is of type A.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let (header, body) = query.split_first_chunk::<12>()?;
    let name = body.iter().position(|length| *length == 0)? + 1;
    let question = body.get(..name + 4)?;
    let wants_a = matches!(question.get(name..), Some([0, 1, 0, 1]));
    let [id_high, id_low, ..] = *header;
    let mut answer = vec![
        id_high,
        id_low,
        0x81,
        0x80,
        0,
        1,
        0,
        u8::from(wants_a),
        0,
        0,
        0,
        0,
    ];
    answer.extend(question);
    if wants_a {
        // A pointer to the question's name, type A, class IN.
        answer.extend([0xc0, 12, 0, 1, 0, 1]);
        answer.extend(TTL.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(Ipv4Addr::LOCALHOST.octets());
    }
    Some(answer)
}
