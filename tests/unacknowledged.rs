//! Peers that are gone without a word in the middle of a connection, and peers that are only slow.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::DEADLINE;
use crate::common::socks::read_array;
use crate::common::targets::TcpTarget;
use crate::emulated::Namespace;
use crate::failover::{FIRST, SECOND, good, local};

/// The limit (`UNACKNOWLEDGED`), and the time within which it is noticed: a look every ten seconds, after data was first sent
/// again, and a slow machine.
const LIMIT: Duration = Duration::from_secs(60);
const NOTICED: Duration = Duration::from_secs(60 + 10 + 8);

fn nft(rules: &str) {
    assert!(Command::new("nft").arg(rules).status().unwrap().success());
}

/// Drops what comes to these TCP ports from now on.
fn drop_to(ports: [u16; 2]) {
    let [one, other] = ports;
    nft(&format!(
        "add table ip t; add chain ip t i {{ type filter hook input priority 0; }}; \
         add rule ip t i tcp dport {{ {one}, {other} }} drop"
    ));
}

/// How the proxy ends a connection, and after how long. What still comes back is read.
fn end_of(mut stream: &TcpStream) -> (Option<ErrorKind>, Duration) {
    let begun = Instant::now();
    stream
        .set_read_timeout(Some(NOTICED + 2 * DEADLINE))
        .unwrap();
    let end = io::copy(&mut stream, &mut io::sink());
    (end.err().map(|error| error.kind()), begun.elapsed())
}

/// Reads without a limit of time, and sends a byte at times. Where the acknowledgement is lost, it sends that byte again and again.
fn ticking() -> TcpTarget {
    TcpTarget::serve(|stream| {
        stream.set_read_timeout(None).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                while (&stream).write_all(b".").is_ok() {
                    thread::sleep(Duration::from_millis(100));
                }
            });
            let _gone = io::copy(&mut &stream, &mut io::sink());
            let _gone = stream.shutdown(Shutdown::Both);
        });
    })
}

#[test]
#[ignore = "needs root: a network namespace, and nft"]
fn an_upload_into_a_black_hole_ends() {
    let place = Namespace::loopback().expect("root");
    place
        .run(|| {
            // Behind the first local, the server is gone; behind the second, the target.
            let (lost, kept) = (good(FIRST), good(SECOND));
            let to_lost = local(&[lost.address], json!({}));
            let to_kept = local(&[kept.address], json!({}));
            let (target, lost_target) = (ticking(), ticking());
            let mut streams: Vec<_> = [(&to_lost, &target), (&to_kept, &lost_target)]
                .into_iter()
                .flat_map(|(local, target)| {
                    // One sends as much as it can, and the other what fits into any buffer.
                    [true, false].map(|is_bulk| (local.socks().connect(&target.v4()), is_bulk))
                })
                .collect();
            for (stream, _) in &mut streams {
                stream.write_all(b"there").unwrap();
                assert_eq!(&read_array::<5>(stream), b".....");
            }
            drop_to([lost.address.port(), lost_target.port()]);
            let ends = thread::scope(|scope| {
                let waits: Vec<_> = streams
                    .iter()
                    .map(|(stream, is_bulk)| {
                        scope.spawn(move || {
                            let mut to = stream;
                            to.write_all(b"gone?").unwrap();
                            if *is_bulk {
                                scope.spawn(move || while to.write_all(&[7; 65_536]).is_ok() {});
                            }
                            end_of(stream)
                        })
                    })
                    .collect();
                let ends = waits.into_iter().map(|wait| wait.join().unwrap());
                ends.collect::<Vec<_>>()
            });
            // The targets are ended by connecting to them.
            nft("delete table ip t");
            for (error, time) in ends {
                assert_eq!(error, Some(ErrorKind::ConnectionReset), "{time:?}");
                assert!((LIMIT..NOTICED).contains(&time), "{time:?}");
            }
        })
        .unwrap();
}

#[test]
#[ignore = "takes 95 s"]
fn a_download_that_is_paused_goes_on() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let target = TcpTarget::serve(move |mut stream| {
        let part = [7; 16_384];
        while stream.write_all(&part).is_ok() {
            count.fetch_add(part.len(), Relaxed);
        }
    });
    let server = good(FIRST);
    let local = local(&[server.address], json!({}));
    let mut stream = local.socks().connect(&target.v4());
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let pause = |seconds| {
        thread::sleep(Duration::from_secs(seconds));
        sent.load(Relaxed)
    };
    let full = pause(20);
    let paused = pause(75);
    assert_eq!(full, paused, "every buffer is full");
    // More than was on its way.
    let mut rest = vec![0; 64 * 1024];
    let mut read = 1;
    while read < full + (1 << 20) {
        match stream.read(&mut rest).unwrap() {
            0 => panic!("the download ended after {read} of more than {full} bytes"),
            count => read += count,
        }
    }
}
