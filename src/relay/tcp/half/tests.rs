#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::future::poll_fn;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::crypto::{Aead, Key, Method, NonceCounter};
use crate::net::unix_now;
use crate::wire::AddressRef;
use crate::wire::ss::request::{Progress, RequestOpener};
use crate::wire::ss::{Accounts, Credentials, Salt};

/// Longer than anything takes on one machine.
const LIMIT: Duration = Duration::from_secs(20);
const METHODS: [Method; 3] = [
    Method::None,
    Method::ChaCha20Poly1305,
    Method::Blake3Aes256Gcm,
];
const TARGET: AddressRef<'static> = AddressRef::Domain("example.com", 443);

/// A connection: our end and the peer's.
async fn connection() -> (Stream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (far, near) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    (Stream::new(near.unwrap().0), far.unwrap())
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(LIMIT, work).await.expect("in time")
}

async fn run(half: &mut Half, source: &Stream, sink: &Stream) -> Result<(), Error> {
    soon(poll_fn(|cx| half.poll(cx, source, sink, false))).await
}

/// Polls once, and expects an empty source or a full sink.
async fn step(half: &mut Half, source: &Stream, sink: &Stream) {
    poll_fn(|cx| {
        assert!(half.poll(cx, source, sink, false).is_pending());
        Poll::Ready(())
    })
    .await;
}

/// Polls until `done`.
async fn run_until(
    half: &mut Half,
    source: &Stream,
    sink: &Stream,
    mut done: impl FnMut(&Half) -> bool,
) {
    let work = poll_fn(|cx| {
        let polled = half.poll(cx, source, sink, false);
        if done(half) {
            return Poll::Ready(());
        }
        assert!(polled.is_pending(), "ended too early");
        // What is waited for may be the kernel's: look again.
        cx.waker().wake_by_ref();
        Poll::Pending
    });
    soon(work).await;
}

fn key(method: Method) -> Key {
    Key::from_slice(&vec![7; method.key_len()])
        .unwrap_or_else(|| Key::from_password(method, b"none"))
}

fn salt(method: Method, seed: u8) -> Salt {
    Salt::new(method, [seed; 32])
}

fn credentials(method: Method) -> Credentials {
    Credentials::new(method, Vec::new(), key(method))
}

fn request(method: Method) -> Codec {
    Codec::Seal(Sealer::request(
        &credentials(method),
        salt(method, 1),
        TARGET,
    ))
}

fn response(method: Method) -> Codec {
    Codec::Seal(Sealer::response(
        method,
        &key(method),
        salt(method, 2),
        salt(method, 1),
    ))
}

fn answer(method: Method) -> Codec {
    Codec::Open(Opener::response(&credentials(method), salt(method, 1)))
}

/// A response sealed by hand, with chunks of any length.
struct Hand(Aead, NonceCounter, Vec<u8>);

impl Hand {
    fn new(method: Method) -> Self {
        let salt = salt(method, 2);
        let aead =
            Aead::stream(method, &key(method).session_subkey(method, salt.as_slice())).unwrap();
        let nonce = NonceCounter::new(aead.nonce_len());
        Self(aead, nonce, salt.as_slice().to_vec())
    }

    fn seal(&mut self, plain: &[u8]) {
        let mut data = plain.to_vec();
        let tag = self.0.seal(self.1.next().as_slice(), &mut data).unwrap();
        self.2.extend_from_slice(&data);
        self.2.extend_from_slice(&tag);
    }

    /// The head of a SIP022 response with this payload.
    fn head(&mut self, payload: &[u8]) {
        let mut fixed = vec![1];
        fixed.extend_from_slice(&unix_now().to_be_bytes());
        fixed.extend_from_slice(salt(Method::Blake3Aes256Gcm, 1).as_slice());
        fixed.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        self.seal(&fixed);
        self.seal(payload);
    }

    fn chunk(&mut self, payload: &[u8]) {
        self.seal(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        self.seal(payload);
    }
}

/// Bytes that differ by position.
fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).unwrap())
        .collect()
}

/// The target and first payload of the request that `bytes` hold.
fn opened(method: Method, bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    let accounts = Accounts::new(method, key(method), Vec::new());
    let (mut opener, mut bytes) = (RequestOpener::new(method), bytes.to_vec());
    loop {
        match opener.open(&accounts, &mut bytes, unix_now()).unwrap() {
            Progress::Authenticated(_) => {}
            Progress::Complete(request) => {
                return Some((request.target.to_string(), bytes[request.payload].to_vec()));
            }
            Progress::NeedMore | Progress::Relay { .. } => return None,
        }
    }
}

#[tokio::test]
async fn head_is_sent_although_the_client_is_silent() {
    for method in METHODS {
        let ((source, _client), (sink, mut server)) = (connection().await, connection().await);
        let mut half = Half::new(request(method), Side::Client, Size::Large);
        step(&mut half, &source, &sink).await;
        let mut bytes = vec![0; 4096];
        let count = soon(server.read(&mut bytes)).await.unwrap();
        let expected = Some(("example.com:443".to_owned(), Vec::new()));
        assert_eq!(opened(method, &bytes[..count]), expected, "{method}");
        assert!(half.buffer.is_none() && half.moved() == 0);
        // And only once.
        step(&mut half, &source, &sink).await;
        assert!(server.try_read(&mut bytes).is_err());
    }
}

#[tokio::test]
async fn first_payload_is_sent_with_the_head() {
    for method in METHODS {
        for ahead in [false, true] {
            let ((source, mut client), (sink, mut server)) =
                (connection().await, connection().await);
            let mut half = Half::new(request(method), Side::Client, Size::Large);
            if ahead {
                half.begin(First::Ahead(b"hello".to_vec()));
            } else {
                client.write_all(b"hello").await.unwrap();
                soon(source.readable()).await.unwrap();
            }
            step(&mut half, &source, &sink).await;
            let mut bytes = vec![0; 4096];
            let count = soon(server.read(&mut bytes)).await.unwrap();
            let expected = Some(("example.com:443".to_owned(), b"hello".to_vec()));
            assert_eq!(opened(method, &bytes[..count]), expected, "{method}");
            assert_eq!(half.moved(), 5);
        }
    }
}

#[tokio::test]
async fn request_of_a_closed_client_is_still_sent() {
    let method = Method::Blake3Aes256Gcm;
    let ((source, mut client), (sink, mut server)) = (connection().await, connection().await);
    client.shutdown().await.unwrap();
    soon(source.readable()).await.unwrap();
    let mut half = Half::new(request(method), Side::Client, Size::Large);
    run(&mut half, &source, &sink).await.unwrap();
    let mut bytes = Vec::new();
    soon(server.read_to_end(&mut bytes)).await.unwrap();
    assert!(half.is_done() && opened(method, &bytes).is_some());
}

#[tokio::test]
async fn sealed_bytes_are_opened_however_they_are_cut() {
    for method in METHODS {
        let (source, mut target) = connection().await;
        let (sealed, between) = connection().await;
        let between = Stream::new(between);
        let (sink, mut client) = connection().await;
        let payload = pattern(3_000_000);
        let mut sealing = Half::new(response(method), Side::Upstream, Size::Large);
        let mut opening = Half::new(answer(method), Side::Upstream, Size::Large);
        let mut received = Vec::new();
        let work = async {
            tokio::join!(
                async {
                    let (mut at, mut size) = (0, 1);
                    while at < payload.len() {
                        let end = payload.len().min(at + size);
                        target.write_all(&payload[at..end]).await.unwrap();
                        (at, size) = (end, (size * 3) % 300_007 + 1);
                    }
                    target.shutdown().await.unwrap();
                },
                poll_fn(|cx| sealing.poll(cx, &source, &sealed, false)),
                poll_fn(|cx| opening.poll(cx, &between, &sink, false)),
                client.read_to_end(&mut received),
            )
        };
        let ((), sent, back, read) = soon(work).await;
        assert!(sent.is_ok() && back.is_ok() && read.is_ok(), "{method}");
        assert!(received == payload, "{method}");
        assert_eq!((sealing.moved(), opening.moved()), (3_000_000, 3_000_000));
        assert!(sealing.is_done() && opening.is_done());
        assert!(sealing.buffer.is_none() && opening.buffer.is_none());
    }
}

#[tokio::test]
async fn bytes_read_ahead_come_first_whatever_their_length() {
    let ((source, mut client), (sink, mut server)) = (connection().await, connection().await);
    let mut half = Half::new(Codec::Copy, Side::Client, Size::Large);
    let ahead = pattern(100_000);
    half.begin(First::Ahead(ahead.clone()));
    let mut received = Vec::new();
    let work = async {
        client.write_all(b"later").await.unwrap();
        client.shutdown().await.unwrap();
        tokio::join!(
            poll_fn(|cx| half.poll(cx, &source, &sink, false)),
            server.read_to_end(&mut received)
        )
    };
    soon(work).await.0.unwrap();
    assert!(received == [ahead.as_slice(), b"later"].concat());
}

#[tokio::test]
async fn payload_of_the_request_comes_first() {
    // Payload that was opened with the head, and the beginning of a chunk behind it.
    let method = Method::Blake3Aes256Gcm;
    let mut hand = Hand::new(method);
    hand.head(b"one");
    hand.chunk(b"two");
    let bytes = hand.2;
    for cut in [0, 5, 18, 19, 30] {
        let ((source, mut peer), (sink, mut far)) = (connection().await, connection().await);
        let mut opener = Opener::response(&credentials(method), salt(method, 1));
        let mut buffer = Buffer::take(Size::Small);
        let (room, ready, raw) = buffer.parts();
        room[..bytes.len()].copy_from_slice(&bytes);
        let opened = opener.open(&mut room[..bytes.len()], unix_now).unwrap();
        ready.push(opened.payload);
        *raw = opened.used..opened.used + cut;
        let mut half = Half::new(Codec::Open(opener), Side::Client, Size::Large);
        half.begin(First::Opened(buffer));
        assert_eq!(half.moved(), 3);
        step(&mut half, &source, &sink).await;
        let mut read = [0; 3];
        soon(far.read_exact(&mut read)).await.unwrap();
        assert_eq!(&read, b"one");
        peer.write_all(&bytes[opened.used + cut..]).await.unwrap();
        peer.shutdown().await.unwrap();
        run(&mut half, &source, &sink).await.unwrap();
        soon(far.read_exact(&mut read)).await.unwrap();
        assert_eq!((&read, half.moved()), (b"two", 6));
    }
}

#[tokio::test]
async fn longest_chunk_of_others_is_relayed_unchanged() {
    let method = Method::Blake3Aes256Gcm;
    let (long, mut hand) = (pattern(0xFFFF), Hand::new(method));
    hand.head(&long);
    hand.chunk(&long);
    hand.chunk(&[]);
    hand.chunk(&long);
    let ((source, mut peer), (sink, mut far)) = (connection().await, connection().await);
    let mut half = Half::new(answer(method), Side::Upstream, Size::Large);
    let mut received = Vec::new();
    let work = async {
        tokio::join!(
            async {
                // In pieces, so that a chunk is waited for with every size of buffer.
                for piece in hand.2.chunks(1499) {
                    peer.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                peer.shutdown().await.unwrap();
            },
            poll_fn(|cx| half.poll(cx, &source, &sink, false)),
            far.read_to_end(&mut received),
        )
    };
    soon(work).await.1.unwrap();
    assert!(received == [long.as_slice(), &long, &long].concat());
}

#[tokio::test]
async fn stream_cut_within_a_chunk_is_an_error() {
    let method = Method::Blake3Aes256Gcm;
    let mut hand = Hand::new(method);
    hand.head(b"whole");
    let head = hand.2.len();
    hand.chunk(b"cut");
    for cut in [10, head - 1, head + 1, head + 18, hand.2.len() - 1] {
        let ((source, mut peer), (sink, far)) = (connection().await, connection().await);
        peer.write_all(&hand.2[..cut]).await.unwrap();
        peer.shutdown().await.unwrap();
        let mut half = Half::new(answer(method), Side::Upstream, Size::Large);
        let result = run(&mut half, &source, &sink).await;
        assert!(matches!(result, Err(Error::Cut(Side::Upstream))), "{cut}");
        assert!(!half.is_done());
        // What was whole has been passed on, and nothing tells the sink that this was all.
        let (mut bytes, whole) = ([0; 16], cut >= head);
        if whole {
            soon(far.readable()).await.unwrap();
            assert_eq!(far.try_read(&mut bytes).unwrap(), 5);
        }
        let more = far.try_read(&mut bytes).map_err(|error| error.kind());
        assert_eq!(more, Err(io::ErrorKind::WouldBlock));
    }
}

#[tokio::test]
async fn chunk_before_a_bad_one_is_relayed() {
    let method = Method::Blake3Aes256Gcm;
    let mut hand = Hand::new(method);
    hand.head(b"good");
    hand.chunk(b"good");
    let good = hand.2.len();
    hand.chunk(b"bad");
    hand.2[good] ^= 1;
    hand.chunk(b"never");
    let ((source, mut peer), (sink, mut far)) = (connection().await, connection().await);
    peer.write_all(&hand.2).await.unwrap();
    let mut half = Half::new(answer(method), Side::Upstream, Size::Large);
    let result = run(&mut half, &source, &sink).await;
    let fault = wire::Error::Unauthenticated;
    assert!(matches!(result, Err(Error::Wire { side: Side::Upstream, source }) if source == fault));
    let mut bytes = [0; 16];
    assert_eq!(soon(far.read(&mut bytes)).await.unwrap(), 8);
    assert_eq!((&bytes[..8], half.moved()), (b"goodgood".as_slice(), 8));
}

#[tokio::test]
async fn many_chunks_before_a_bad_one_are_relayed() {
    let method = Method::Blake3Aes256Gcm;
    for count in [MAX_PARTS - 2, MAX_PARTS - 1, MAX_PARTS, MAX_PARTS + 20] {
        let mut hand = Hand::new(method);
        hand.head(b"good");
        for _ in 0..count {
            hand.chunk(b"good");
        }
        let good = hand.2.len();
        hand.chunk(b"bad");
        hand.2[good] ^= 1;
        let ((source, mut peer), (sink, mut far)) = (connection().await, connection().await);
        peer.write_all(&hand.2).await.unwrap();
        let mut half = Half::new(answer(method), Side::Upstream, Size::Large);
        let result = run(&mut half, &source, &sink).await;
        let fault = wire::Error::Unauthenticated;
        assert!(matches!(result, Err(Error::Wire { source, .. }) if source == fault));
        let mut bytes = vec![0; 4 * (count + 1)];
        soon(far.read_exact(&mut bytes)).await.unwrap();
        assert_eq!(half.moved(), bytes.len() as u64);
    }
}

#[tokio::test]
async fn end_is_passed_on_after_the_last_byte() {
    let ((source, mut peer), (sink, mut far)) = (connection().await, connection().await);
    peer.write_all(b"last words").await.unwrap();
    peer.shutdown().await.unwrap();
    let mut half = Half::new(Codec::Copy, Side::Client, Size::Large);
    run(&mut half, &source, &sink).await.unwrap();
    let mut bytes = Vec::new();
    soon(far.read_to_end(&mut bytes)).await.unwrap();
    assert_eq!(bytes, b"last words");
    // The other direction of the sink is still open.
    far.write_all(b"answer").await.unwrap();
    let mut answer = [0; 6];
    assert_eq!(soon(sink.read(&mut answer)).await.unwrap(), 6);
}

#[tokio::test]
async fn broken_sink_and_broken_source_blame_different_sides() {
    for sink_breaks in [false, true] {
        let ((source, peer), (sink, far)) = (connection().await, connection().await);
        let (mut whole, broken) = if sink_breaks {
            (peer, far)
        } else {
            (far, peer)
        };
        socket2::SockRef::from(&broken)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(broken);
        let mut half = Half::new(Codec::Copy, Side::Client, Size::Large);
        let writing = async {
            // A write may go well before the reset is there.
            while sink_breaks && whole.write_all(b"x").await.is_ok() {
                tokio::task::yield_now().await;
            }
            std::future::pending::<()>().await;
        };
        let result = soon(async {
            tokio::select! {
                result = poll_fn(|cx| half.poll(cx, &source, &sink, false)) => result,
                () = writing => Ok(()),
            }
        })
        .await;
        let side = if sink_breaks {
            Side::Upstream
        } else {
            Side::Client
        };
        assert!(matches!(result, Err(Error::Io { side: found, .. }) if found == side));
    }
}

#[tokio::test]
async fn idle_flow_holds_no_buffer_and_a_begun_chunk_the_smallest_that_fits() {
    let method = Method::Blake3Aes256Gcm;
    let ((source, mut peer), (sink, mut far)) = (connection().await, connection().await);
    let mut hand = Hand::new(method);
    hand.head(&pattern(1000));
    let whole = hand.2.len();
    hand.chunk(&pattern(60_000));
    let mut half = Half::new(answer(method), Side::Upstream, Size::Large);
    half.sizing.set(Size::Large);
    step(&mut half, &source, &sink).await;
    assert!(half.buffer.is_none());

    peer.write_all(&hand.2[..whole]).await.unwrap();
    run_until(&mut half, &source, &sink, |half| half.moved() == 1000).await;
    step(&mut half, &source, &sink).await;
    assert!(half.buffer.is_none());

    // The beginning of a length, then the beginning of its chunk.
    half.sizing.set(Size::Large);
    peer.write_all(&hand.2[whole..whole + 7]).await.unwrap();
    run_until(&mut half, &source, &sink, |half| {
        half.buffer
            .as_ref()
            .is_some_and(|buffer| buffer.size() == Size::Tiny)
    })
    .await;
    peer.write_all(&hand.2[whole + 7..whole + 100])
        .await
        .unwrap();
    run_until(&mut half, &source, &sink, |half| {
        half.buffer
            .as_ref()
            .is_some_and(|buffer| buffer.size() == Size::Medium)
    })
    .await;
    peer.write_all(&hand.2[whole + 100..]).await.unwrap();
    let mut received = vec![0; 61_000];
    let work = async {
        tokio::join!(
            run_until(&mut half, &source, &sink, |half| half.moved() == 61_000),
            far.read_exact(&mut received)
        )
    };
    soon(work).await.1.unwrap();
    run_until(&mut half, &source, &sink, |half| half.buffer.is_none()).await;
    assert!(received == [pattern(1000), pattern(60_000)].concat());
}

#[tokio::test]
async fn buffers_grow_with_full_reads_and_shrink_with_small_ones() {
    let mut half = Half::new(Codec::Copy, Side::Client, Size::Large);
    let room = |half: &Half| half.sizing.size().bytes();
    for size in [Size::Medium, Size::Large, Size::Large] {
        let full = room(&half);
        half.sizing.transferred(full, full);
        assert_eq!(half.sizing.size(), size);
    }
    // Small reads, with a larger one among them.
    for count in [10, 10, 10, room(&half) / 2, 10, 10, 10] {
        let full = room(&half);
        half.sizing.transferred(count, full);
        assert_eq!(half.sizing.size(), Size::Large);
    }
    let full = room(&half);
    half.sizing.transferred(10, full);
    assert_eq!(half.sizing.size(), Size::Small);
    let full = room(&half);
    half.sizing.transferred(10, full);
    assert_eq!(half.sizing.size(), Size::Small);
}

#[tokio::test]
async fn full_sink_stops_the_source() {
    let ((source, mut peer), (sink, far)) = (connection().await, connection().await);
    let mut half = Half::new(Codec::Copy, Side::Client, Size::Large);
    let chunk = vec![0; 1 << 16];
    let mut stalled = 0;
    // Until neither the half nor the peer makes progress.
    let work = async {
        while stalled < 50 {
            let wrote = timeout(Duration::from_millis(2), peer.write(&chunk)).await;
            stalled = if wrote.is_ok() { 0 } else { stalled + 1 };
            step(&mut half, &source, &sink).await;
        }
    };
    soon(work).await;
    let copied = half.buffer.is_some() && half.state == State::Write;
    assert!(copied || half.splice.is_busy(), "bytes wait on their way");
    let held = half.moved();
    step(&mut half, &source, &sink).await;
    assert_eq!(half.moved(), held);
    drop(far);
}

#[tokio::test]
async fn bulk_is_opened_in_large_buffers() {
    let method = Method::Blake3Aes256Gcm;
    let mut hand = Hand::new(method);
    hand.head(b"x");
    let chunk = pattern(16_000);
    (0..300).for_each(|_| hand.chunk(&chunk));
    let sealed = hand.2;
    let ((source, mut peer), (sink, mut far)) = (connection().await, connection().await);
    let mut half = Half::new(answer(method), Side::Upstream, Size::Large);
    let (mut held, mut received) = (Vec::new(), Vec::new());
    let work = async {
        tokio::join!(
            async {
                peer.write_all(&sealed).await.unwrap();
                peer.shutdown().await.unwrap();
            },
            poll_fn(|cx| {
                let polled = half.poll(cx, &source, &sink, false);
                held.extend(half.buffer.as_ref().map(Buffer::size));
                polled
            }),
            far.read_to_end(&mut received),
        )
    };
    soon(work).await.1.unwrap();
    assert_eq!(received.len(), 1 + 300 * chunk.len());
    assert!(held.contains(&Size::Large), "{held:?}");
}
