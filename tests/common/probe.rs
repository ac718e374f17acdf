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

/// How far apart two ends may be for a stranger to call them the same.
const ALIKE: Duration = Duration::from_millis(750);

/// How often a probe that stood out is tried again: a busy machine delays one at random, a server that tells them
/// apart delays the same one every time.
const AGAIN: usize = 3;

/// Sends the probes at the same time, waits for their ends, and asserts that they are silent and that none can be told
/// from another by its time.
pub fn assert_alike(server: SocketAddr, probes: &[(Vec<u8>, Cut)]) {
    let outcomes = probe_all(server, probes, Then::Wait);
    assert_silent(probes, &outcomes);
    let mut times: Vec<_> = outcomes.iter().map(|outcome| outcome.after).collect();
    times.sort();
    let median = times[times.len() / 2];
    for (probe, outcome) in probes.iter().zip(outcomes) {
        if outcome.after.abs_diff(median) < ALIKE {
            continue;
        }
        let again: Vec<_> = (0..AGAIN)
            .map(|_| beside_garbage(server, probe))
            .take_while(|[itself, garbage]| itself.abs_diff(*garbage) >= ALIKE)
            .collect();
        assert!(
            again.len() < AGAIN,
            "a probe of {} bytes, {:?}, ended after {:?}, others after {median:?}; again, beside garbage: {again:?}",
            probe.0.len(),
            probe.1,
            outcome.after,
        );
    }
}

/// When `probe` ends, and when a probe of garbage ends that begins with it.
fn beside_garbage(server: SocketAddr, probe: &(Vec<u8>, Cut)) -> [Duration; 2] {
    let probes = [probe.clone(), (vec![0xa5; 100], Cut::Whole)];
    let outcomes = probe_all(server, &probes, Then::Wait);
    assert_silent(&probes, &outcomes);
    [outcomes[0].after, outcomes[1].after]
}
