//! Downloads that go on while something else happens.

use super::{
    DEADLINE,
    bytes::{digest, pattern},
    socks::Socks,
    targets::{Order, TcpTarget, write_pattern},
};
use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Bytes of a piece of a slow download, and the pause after it.
const PIECE: usize = 4096;
const PAUSE: Duration = Duration::from_millis(5);

/// Many downloads, each compared byte by byte.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    workers: Vec<JoinHandle<Result<Duration, String>>>,
    _targets: [TcpTarget; 2],
}

/// What became of them.
#[derive(Debug)]
pub struct Outcome {
    /// Downloads that were complete.
    pub done: usize,
    /// What went wrong.
    pub broken: Vec<String>,
    /// The longest time in which a slow download got nothing.
    pub pause: Duration,
}

impl Load {
    /// `short` downloads at a time, one after the other, and `long` ones that go on all the time.
    pub fn start(socks: &Socks, short: usize, long: usize) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let ended = Arc::clone(&stop);
        let slow = TcpTarget::serve(move |stream| slow_pieces(stream, &ended));
        let fast = TcpTarget::duplex();
        let mut workers = Vec::new();
        for seed in 0..u64::try_from(short).unwrap() {
            let (socks, target, stop) = (socks.clone(), fast.v4(), Arc::clone(&stop));
            let done: Arc<AtomicUsize> = Arc::clone(&done);
            workers.push(thread::spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    download(socks.connect(&target), seed)
                        .map_err(|error| format!("short: {error}"))?;
                    done.fetch_add(1, Ordering::AcqRel);
                }
                Ok(Duration::ZERO)
            }));
        }
        for seed in 0..u64::try_from(long).unwrap() {
            let (stream, done) = (socks.connect(&slow.v4()), Arc::clone(&done));
            workers.push(thread::spawn(move || {
                let pause = read_pieces(stream, seed).map_err(|error| format!("long: {error}"))?;
                done.fetch_add(1, Ordering::AcqRel);
                Ok(pause)
            }));
        }
        Self {
            stop,
            done,
            workers,
            _targets: [slow, fast],
        }
    }

    /// Downloads that were complete until now.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::Acquire)
    }

    /// Lets them come to their end.
    pub fn end(self) -> Outcome {
        self.stop.store(true, Ordering::Release);
        let ended = self
            .workers
            .into_iter()
            .map(|worker| worker.join().unwrap());
        let (mut broken, mut pause) = (Vec::new(), Duration::ZERO);
        for result in ended {
            match result {
                Ok(longest) => pause = pause.max(longest),
                Err(error) => broken.push(error),
            }
        }
        Outcome {
            done: self.done.load(Ordering::Acquire),
            broken,
            pause,
        }
    }
}

fn download(mut stream: TcpStream, seed: u64) -> std::io::Result<()> {
    let (up, down) = (20_000, 60_000);
    let order = Order { seed, up, down };
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(&order.to_bytes())?;
    write_pattern(&mut stream, seed, up)?;
    let mut answer = vec![0; down + 32];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer[..down], pattern(seed, down), "other bytes came back");
    assert_eq!(
        answer[down..],
        digest(&pattern(seed, up)),
        "other bytes were sent"
    );
    Ok(())
}

/// Sends pieces until the test is over, and then an empty one. Each begins with its length.
fn slow_pieces(mut stream: TcpStream, ended: &AtomicBool) {
    let mut seed = [0; 8];
    if stream.read_exact(&mut seed).is_err() {
        return;
    }
    let piece = pattern(u64::from_le_bytes(seed), PIECE);
    while !ended.load(Ordering::Acquire) {
        if stream.write_all(&piece).is_err() {
            return;
        }
        thread::sleep(PAUSE);
    }
    let _gone = stream.write_all(&[0; PIECE]);
}

/// Reads pieces until the empty one. Returns the longest time between two.
fn read_pieces(mut stream: TcpStream, seed: u64) -> std::io::Result<Duration> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(&seed.to_le_bytes())?;
    let expected = pattern(seed, PIECE);
    let (mut piece, mut longest) = (vec![0; PIECE], Duration::ZERO);
    let mut last: Option<Instant> = None;
    loop {
        stream.read_exact(&mut piece)?;
        let waited = last.map(|last| last.elapsed());
        longest = longest.max(waited.unwrap_or_default());
        last = Some(Instant::now());
        if piece == [0; PIECE] {
            return Ok(longest);
        }
        assert_eq!(piece, expected, "other bytes came back");
    }
}
