//! Queries for names that are in the cache.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::measure::{Figures, Span, measure};
use crate::name_server::NameServer;
use crate::result::Result;
use crate::route::udp_socket;
use crate::running::Running;

/// Names that are asked for.
const NAMES: usize = 16;
/// Sockets that ask, each one query at a time.
const CLIENTS: usize = 32;
/// How long an answer may take before the query is sent again.
const LOST: Duration = Duration::from_millis(200);

/// Asks the name server at `proxy` for [`NAMES`] names in turn. `server` is the one that it asks itself.
pub(crate) fn cached(
    running: &Running,
    proxy: SocketAddr,
    server: &NameServer,
    span: Span,
) -> Result<Figures> {
    wait_until_ready(proxy)?;
    let done = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let interval = thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (done, stop) = (&done, &stop);
            scope.spawn(move || ask(proxy, client, done, stop));
        }
        let interval = measure(running, &done, span);
        stop.store(true, Relaxed);
        interval
    })?;
    Ok(vec![
        ("queries/s", interval.count / interval.seconds),
        ("CPU us/query", interval.cpu * 1e6 / interval.count),
        (
            "asked/1000 queries",
            server.queries() as f64 * 1e3 / interval.total,
        ),
    ])
}

/// Waits for the first answer: a name server has no port on which it must accept connections.
fn wait_until_ready(proxy: SocketAddr) -> Result<()> {
    let socket = udp_socket(proxy)?;
    socket.set_read_timeout(Some(LOST))?;
    let begun = Instant::now();
    let mut answer = [0; 512];
    while begun.elapsed() < Duration::from_secs(10) {
        // Refused while nobody listens.
        if socket.send(&query(0)).is_ok()
            && let Ok(length) = socket.recv(&mut answer)
            && has_an_answer(answer.get(..length))
        {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err("no answer within 10 s".into())
}

fn ask(proxy: SocketAddr, client: usize, done: &AtomicU64, stop: &AtomicBool) {
    let Ok(socket) = udp_socket(proxy) else {
        return;
    };
    if socket.set_read_timeout(Some(LOST)).is_err() {
        return;
    }
    let mut answer = [0; 512];
    for number in (client..).take_while(|_| !stop.load(Relaxed)) {
        let query = query(number);
        let id = query.get(..2);
        // What is lost is asked for again, and counts once.
        while !stop.load(Relaxed) {
            if socket.send(&query).is_err() {
                continue;
            }
            match socket.recv(&mut answer) {
                Ok(length) if answer.get(..2) == id && has_an_answer(answer.get(..length)) => {
                    done.fetch_add(1, Relaxed);
                    break;
                }
                _ => {}
            }
        }
    }
}

/// A query for the A record of one of the names (RFC 1035 §4.1).
fn query(number: usize) -> Vec<u8> {
    let [high, low] = (number as u16).to_be_bytes();
    let mut query = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let host = format!("host{}", number % NAMES);
    for label in [host.as_str(), "bench", "example"] {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// Whether the message is a response without an error and with a record.
fn has_an_answer(message: Option<&[u8]>) -> bool {
    matches!(
        message,
        Some([_, _, flags, code, _, _, high, low, ..])
            if *flags >= 0x80 && code & 15 == 0 && (*high, *low) != (0, 0)
    )
}
