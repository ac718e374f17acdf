//! What a stranger on the network sees of a server.

use super::{DEADLINE, socks};
use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// How the server ended the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// FIN.
    Closed,
    /// RST.
    Reset,
    /// Not within [`DEADLINE`].
    Never,
}

/// Everything that can be told from outside.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Bytes that came back.
    pub answered: usize,
    /// How it ended.
    pub end: End,
    /// When, counted from the connect.
    pub after: Duration,
}

/// How the bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// In one segment.
    Whole,
    /// In a segment each.
    Bytes,
}

/// Whether the prober ends its half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// FIN after the last byte.
    Finish,
    /// Waits.
    Wait,
}

/// Sends one probe and watches.
pub fn probe(server: SocketAddr, bytes: &[u8], cut: Cut, then: Then) -> Outcome {
    let start = Instant::now();
    let mut stream = socks::dial(server);
    let _refused = match cut {
        Cut::Whole => stream.write_all(bytes),
        Cut::Bytes => socks::write_byte_by_byte(&mut stream, bytes),
    };
    if then == Then::Finish {
        let _gone = stream.shutdown(Shutdown::Write);
    }
    let (answered, end) = watch(&mut stream);
    Outcome {
        answered: answered.len(),
        end,
        after: start.elapsed(),
    }
}

/// Reads until the connection ends.
pub fn watch(stream: &mut TcpStream) -> (Vec<u8>, End) {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answered = Vec::new();
    let end = match stream.read_to_end(&mut answered) {
        Ok(_) => End::Closed,
        Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => End::Never,
        Err(_) => End::Reset,
    };
    (answered, end)
}

/// Sends many probes at the same time.
pub fn probe_all(server: SocketAddr, probes: &[(Vec<u8>, Cut)], then: Then) -> Vec<Outcome> {
    thread::scope(|scope| {
        let running: Vec<_> = probes
            .iter()
            .map(|(bytes, cut)| scope.spawn(move || probe(server, bytes, *cut, then)))
            .collect();
        running
            .into_iter()
            .map(|probe| probe.join().unwrap())
            .collect()
    })
}

/// All of them whole.
pub fn whole(probes: impl IntoIterator<Item = Vec<u8>>) -> Vec<(Vec<u8>, Cut)> {
    probes
        .into_iter()
        .map(|bytes| (bytes, Cut::Whole))
        .collect()
}

/// Asserts that nothing ever came back and that every connection ended by FIN.
pub fn assert_silent(probes: &[(Vec<u8>, Cut)], outcomes: &[Outcome]) {
    for ((bytes, cut), outcome) in probes.iter().zip(outcomes) {
        let what = format!("a probe of {} bytes, {cut:?}: {outcome:?}", bytes.len());
        assert_eq!(outcome.answered, 0, "{what}");
        assert_eq!(outcome.end, End::Closed, "{what}");
    }
}

/// Asserts that no outcome can be told from another by its time.
pub fn assert_same_time(probes: &[(Vec<u8>, Cut)], outcomes: &[Outcome]) {
    let mut times: Vec<_> = outcomes.iter().map(|outcome| outcome.after).collect();
    times.sort();
    let median = times[times.len() / 2];
    for ((bytes, cut), outcome) in probes.iter().zip(outcomes) {
        assert!(
            outcome.after.abs_diff(median) < Duration::from_millis(750),
            "a probe of {} bytes, {cut:?}, ended after {:?}, others after {median:?}",
            bytes.len(),
            outcome.after,
        );
    }
}
