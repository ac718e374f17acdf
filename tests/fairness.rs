//! Which flows wait: bulk flows beside interactive ones of the same worker, and connections above the limit.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};

use serde_json::json;

use crate::common::peers::{Pair, Program, Spec, Start};
use crate::common::socks::Socks;
use crate::common::targets::TcpTarget;
use crate::common::{DEADLINE, SILENCE, eventually};

/// Far more than a flow needs to be one of bulk.
const MUCH: u64 = 4 << 20;
const ONE_WORKER: &[&str] = &["--worker-threads", "1"];

/// A download that does not end by itself.
struct Download {
    stream: TcpStream,
    moved: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Download {
    fn start(socks: &Socks, source: &TcpTarget) -> Self {
        let stream = socks.connect(&source.v4());
        let (mut reader, moved) = (stream.try_clone().unwrap(), Arc::<AtomicU64>::default());
        let counter = Arc::clone(&moved);
        let thread = thread::spawn(move || {
            let mut bytes = vec![0; 256 << 10];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                counter.fetch_add(count as u64, Relaxed);
            }
        });
        Self {
            stream,
            moved,
            thread,
        }
    }

    fn end(self) {
        self.stream.shutdown(Shutdown::Both).unwrap();
        self.thread.join().unwrap();
    }
}

/// Whether each of them has moved much since now.
fn all_go_on(downloads: &[Download]) -> impl Fn() -> bool {
    let moved = |one: &Download| one.moved.load(Relaxed);
    let marks: Vec<_> = downloads.iter().map(|one| moved(one) + MUCH).collect();
    move || {
        downloads
            .iter()
            .map(moved)
            .zip(&marks)
            .all(|(now, mark)| now > *mark)
    }
}

/// Messages there and back while `condition` does not hold.
fn chat_until(chat: &mut TcpStream, what: &str, mut condition: impl FnMut() -> bool) {
    let mut answer = [0; 64];
    eventually(what, || {
        for _ in 0..20 {
            chat.write_all(&[7; 64]).unwrap();
            chat.read_exact(&mut answer).unwrap();
        }
        condition()
    });
}

#[test]
fn bulk_beside_a_chat_goes_on_when_its_neighbours_end() {
    for method in ["2022-blake3-aes-128-gcm", "none"] {
        let spec = Spec::new(method);
        let pair = Pair::with(Start::server(Program::Ssr, &spec).flags(ONE_WORKER), |at| {
            Start::local(Program::Ssr, &spec, at).flags(ONE_WORKER)
        });
        let source = TcpTarget::serve(|mut stream| {
            let block = vec![1; 256 << 10];
            while stream.write_all(&block).is_ok() {}
        });
        let (echo, socks) = (TcpTarget::echo(), pair.socks());
        let mut chat = socks.connect(&echo.v4());
        let mut downloads: Vec<_> = (0..6).map(|_| Download::start(&socks, &source)).collect();
        while !downloads.is_empty() {
            chat_until(&mut chat, "every download goes on", all_go_on(&downloads));
            // The chat is quiet for a while, and whoever waits for a turn goes on.
            eventually("downloads go on alone", all_go_on(&downloads));
            // In mid-flow, beside the chat.
            chat_until(&mut chat, "a chat", || true);
            downloads.swap_remove(0).end();
        }
        chat_until(&mut chat, "a chat by itself", || true);
    }
}

#[test]
fn least_limit_of_connections_serves_one_after_another_on_every_worker() {
    let spec = Spec::new("aes-128-gcm");
    let limit = json!({"limits": {"connections": 1}});
    let workers = &["--worker-threads", "4"][..];
    let pair = Pair::with(
        Start::server(Program::Ssr, &spec)
            .with(limit.clone())
            .flags(workers),
        |at| {
            Start::local(Program::Ssr, &spec, at)
                .with(limit.clone())
                // A spare connection would take the only place.
                .with(json!({"warm_connections": 0}))
                .flags(workers)
        },
    );
    let echo = TcpTarget::echo();
    let serves = |number| {
        let mut stream = pair.socks().connect(&echo.v4());
        stream.write_all(&[number; 64]).unwrap();
        let mut back = [0; 64];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, [number; 64]);
        stream
    };
    // The system spreads them over the listeners of four workers.
    for number in 0..40 {
        drop(serves(number));
    }
    // One more waits until there is room.
    let first = serves(40);
    let mut second = TcpStream::connect(pair.local.address).unwrap();
    second.write_all(&[5, 1, 0]).unwrap();
    second.set_read_timeout(Some(SILENCE)).unwrap();
    let mut answer = [0; 2];
    assert!(second.read(&mut answer).is_err());
    drop(first);
    second.set_read_timeout(Some(DEADLINE)).unwrap();
    second.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [5, 0]);
}
