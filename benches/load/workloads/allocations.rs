//! Allocations of the product: it runs inside this program, under an allocator that counts.
//!
//! Each role is a process of its own (`load counted ROLE CONFIG SOCKET`) that runs as the product does, with the same
//! config, and writes its counts to whoever connects to the socket.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use ssr::config::{self, Overrides, Role};

use crate::client::{Flows, request};
use crate::measure::Figures;
use crate::result::Result;
use crate::route::udp_socket;
use crate::running::Running;
use crate::targets::Targets;

/// Payload bytes of a full AEAD-2017 chunk; `ssr` makes chunks of this size for every method.
const CHUNK: f64 = 16_383.0;
/// Bytes moved before counting, while buffers grow and pools fill.
const WARM_BYTES: u64 = 128 << 20;
const BULK_BYTES: u64 = 512 << 20;
/// Datagrams that are echoed, one after the other.
const DATAGRAMS: usize = 5000;
const CONNECTIONS: usize = 500;
/// No step takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

#[global_allocator]
static COUNTING: Counting = Counting {
    made: AtomicU64::new(0),
    live: AtomicI64::new(0),
};

/// The system's allocator, with counters.
struct Counting {
    made: AtomicU64,
    live: AtomicI64,
}

// SAFETY: every call is passed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.made.fetch_add(1, Relaxed);
        self.live.fetch_add(layout.size() as i64, Relaxed);
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.made.fetch_add(1, Relaxed);
        self.live.fetch_add(layout.size() as i64, Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        self.live.fetch_sub(layout.size() as i64, Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.made.fetch_add(1, Relaxed);
        self.live
            .fetch_add(size as i64 - layout.size() as i64, Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(place, layout, size) }
    }
}

/// Allocations of one role or of both.
#[derive(Clone, Copy)]
struct Counts {
    made: u64,
    live: i64,
}

/// `load counted ROLE CONFIG SOCKET`.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let [role, config, socket] = arguments else {
        return Err("ROLE CONFIG SOCKET".into());
    };
    let role = match role.as_str() {
        "local" => Role::Local,
        _ => Role::Server,
    };
    let listener = UnixListener::bind(socket)?;
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let (made, live) = (COUNTING.made.load(Relaxed), COUNTING.live.load(Relaxed));
            // A reader that has gone needs no answer.
            let _ = stream.write_all(&made.to_be_bytes());
            let _ = stream.write_all(&live.to_be_bytes());
        }
    });
    let loaded = config::load(Some(Path::new(config)), role, &Overrides::default());
    let config = loaded.map_err(|found| format!("{found:?}"))?;
    match ssr::app::run(&config, || {}) == ExitCode::SUCCESS {
        true => Ok(()),
        false => Err("the product failed".into()),
    }
}

/// The counts of both roles, summed.
fn counts(directory: &Path) -> Result<Counts> {
    let mut sum = Counts { made: 0, live: 0 };
    for role in ["local", "server"] {
        let mut stream = UnixStream::connect(directory.join(role).with_extension("socket"))?;
        let (mut made, mut live) = ([0; 8], [0; 8]);
        stream.read_exact(&mut made)?;
        stream.read_exact(&mut live)?;
        sum.made += u64::from_be_bytes(made);
        sum.live += i64::from_be_bytes(live);
    }
    Ok(sum)
}

/// Allocations of both roles together.
pub(crate) fn count(running: &Running, targets: &Targets, directory: &Path) -> Result<Figures> {
    let mut figures = Vec::new();
    for (up, name) in [(false, "per chunk down"), (true, "per chunk up")] {
        let flows = Flows::start(&running.route, targets, up, 1)?;
        until(&flows, WARM_BYTES)?;
        let (before, moved) = (counts(directory)?, flows.moved.load(Relaxed));
        until(&flows, moved + BULK_BYTES)?;
        let (after, moved) = (counts(directory)?, flows.moved.load(Relaxed) - moved);
        flows.check()?;
        let chunks = moved as f64 / CHUNK;
        figures.push((name, (after.made - before.made) as f64 / chunks));
    }
    figures.push(("per datagram", datagrams(running, targets, directory)?));
    figures.extend(connections(running, targets, directory)?);
    Ok(figures)
}

/// Waits until `bytes` bytes have moved.
fn until(flows: &Flows, bytes: u64) -> Result<()> {
    let begun = Instant::now();
    while flows.moved.load(Relaxed) < bytes {
        if begun.elapsed() > PATIENCE {
            return Err("bulk is too slow".into());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn datagrams(running: &Running, targets: &Targets, directory: &Path) -> Result<f64> {
    let (relay, mut datagram, _association) = running.route.associate(targets.udp)?;
    datagram.resize(datagram.len() + 500, b'u');
    let socket = udp_socket(relay)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let echo = || -> Result<()> {
        for _ in 0..DATAGRAMS {
            socket.send(&datagram)?;
            socket.recv(&mut [0; 2048])?;
        }
        Ok(())
    };
    echo()?;
    let before = counts(directory)?;
    echo()?;
    let after = counts(directory)?;
    // Each goes through both roles twice.
    Ok((after.made - before.made) as f64 / (2 * DATAGRAMS) as f64)
}

/// Allocations of a connection from its beginning to its end, and bytes held by an idle one.
fn connections(running: &Running, targets: &Targets, directory: &Path) -> Result<Figures> {
    let open = || -> Result<Vec<_>> {
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = running.route.connect(&targets.hold.into())?;
            stream.write_all(&[b'i'; 64])?;
            stream.read_exact(&mut [0; 64])?;
            streams.push(stream);
        }
        Ok(streams)
    };
    let settle = || thread::sleep(Duration::from_millis(300));
    let once = || -> Result<()> {
        for _ in 0..CONNECTIONS {
            request(&mut running.route.connect(&targets.respond.into())?, 512)?;
        }
        settle();
        Ok(())
    };
    once()?;
    let before = counts(directory)?;
    once()?;
    let after = counts(directory)?;
    let held = open()?;
    settle();
    let holding = counts(directory)?;
    drop(held);
    let each = CONNECTIONS as f64;
    Ok(vec![
        ("per connection", (after.made - before.made) as f64 / each),
        (
            "live bytes/idle conn",
            (holding.live - after.live) as f64 / each,
        ),
    ])
}
