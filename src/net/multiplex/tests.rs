#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::{Client, serve};
use crate::limits::{MAX_MULTIPLEX_STREAMS, MULTIPLEX_IDLE, SMUX_STALL, SMUX_WINDOW};
use crate::net::Stream;
use crate::net::pipe::{self, Pipe, Taken};
use crate::wire::multiplex::{Head, Protocol};

const PROTOCOLS: [Protocol; 3] = [Protocol::Smux, Protocol::Yamux, Protocol::H2];

/// Two streams in memory that are connected, as if by a network.
fn wire() -> (Stream, Stream) {
    let (near, near_pipe) = pipe::pair(1 << 20, 1 << 16);
    let (far, far_pipe) = pipe::pair(1 << 20, 1 << 16);
    tokio::spawn(carry(near_pipe, far_pipe));
    (near, far)
}

async fn carry(a: Pipe, b: Pipe) {
    let mut buffer = vec![0; 50_000];
    poll_fn(|cx| {
        for (from, to) in [(&a, &b), (&b, &a)] {
            let _ = to.take_credit();
            while to.unread() < 1 << 19 {
                match from.poll_take(cx, &mut buffer) {
                    Poll::Pending => break,
                    Poll::Ready(Taken::Bytes(count)) => {
                        let _ = to.push(&buffer[..count]);
                    }
                    Poll::Ready(Taken::End) => {
                        to.finish();
                        break;
                    }
                    Poll::Ready(Taken::Reset) => return Poll::Ready(()),
                }
            }
            to.watch_reader(cx);
            if to.is_abandoned() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    })
    .await;
}

/// A client, and a server whose streams `serve` gets.
fn session_of<F>(
    protocol: Protocol,
    padding: bool,
    serve_one: impl Fn(Stream) -> F + Send + 'static,
) -> (Client, tokio::task::JoinHandle<io::Result<()>>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let head = Head { protocol, padding };
    let (near, far) = wire();
    let (client, run) = Client::start(near, head);
    tokio::spawn(run);
    let (sender, draining) = watch::channel(false);
    let served = tokio::spawn(async move {
        let _sender = sender;
        serve(far, head, Duration::from_secs(1000), draining, serve_one).await
    });
    (client, served)
}

async fn echo(stream: Stream) {
    let mut buffer = vec![0; 20_000];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = stream.shutdown().await;
}

async fn exchange(stream: &Stream, len: usize, seed: u8) {
    let sent: Vec<u8> = (0..len).map(|n| n.to_le_bytes()[0] ^ seed).collect();
    let read = async {
        let (mut all, mut buffer) = (Vec::new(), vec![0; 30_000]);
        while all.len() < len {
            let count = stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "ended after {} of {len}", all.len());
            all.extend_from_slice(&buffer[..count]);
        }
        all
    };
    let (received, written) = tokio::join!(read, stream.write_all(&sent));
    written.unwrap();
    assert!(received == sent);
}

#[tokio::test]
async fn data_of_every_protocol_arrives_with_and_without_padding() {
    for protocol in PROTOCOLS {
        for padding in [false, true] {
            let (client, _server) = session_of(protocol, padding, echo);
            let (first, _token) = client.open().await.unwrap();
            let (second, _token) = client.open().await.unwrap();
            tokio::join!(
                exchange(&first, 1_000_000, 0),
                exchange(&second, 300_000, 0x55)
            );
            assert_eq!(client.streams(), 2);
        }
    }
}

#[tokio::test]
async fn the_end_of_one_direction_leaves_the_other_but_in_smux() {
    for protocol in [Protocol::Yamux, Protocol::H2] {
        let (client, _server) = session_of(protocol, false, |stream| async move {
            let mut all = 0;
            while let Ok(count @ 1..) = stream.read(&mut [0; 999]).await {
                all += count;
            }
            stream.write_all(format!("{all}").as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            // A stream that is dropped with its other direction open could be reset.
            let _ = stream.read(&mut [0]).await;
        });
        let (stream, _token) = client.open().await.unwrap();
        stream.write_all(&[1; 5000]).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = [0; 4];
        let mut len = 0;
        while len < 4 {
            len += stream.read(&mut said[len..]).await.unwrap();
        }
        assert_eq!(&said, b"5000");
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_broken_session_is_no_end_of_its_streams() {
    for protocol in PROTOCOLS {
        let (client, server) = session_of(protocol, false, |stream| async move {
            let _ = stream.write_all(b"some").await;
            std::future::pending::<()>().await;
        });
        let (stream, _token) = client.open().await.unwrap();
        stream.write_all(b"x").await.unwrap();
        let mut some = [0; 4];
        assert_eq!(stream.read(&mut some).await.unwrap(), 4);
        server.abort();
        let read = stream.read(&mut some).await;
        assert!(read.is_err(), "{protocol:?}: {read:?}");
        assert!(client.open().await.is_err());
        assert!(client.is_closed());
    }
}

#[tokio::test]
async fn streams_that_are_dropped_end_at_the_other_side_and_are_not_counted() {
    for protocol in PROTOCOLS {
        let open = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&open);
        let (client, _server) = session_of(protocol, false, move |stream| {
            let open = Arc::clone(&counted);
            async move {
                open.fetch_add(1, Relaxed);
                while let Ok(1..) = stream.read(&mut [0; 99]).await {}
                open.fetch_sub(1, Relaxed);
            }
        });
        for _ in 0..3 * MAX_MULTIPLEX_STREAMS {
            let (stream, token) = client.open().await.unwrap();
            stream.write_all(b"x").await.unwrap();
            drop((stream, token));
            while open.load(Relaxed) > 0 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(client.streams(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn readers_that_stop_do_not_stop_others_and_what_is_held_for_them_is_bounded() {
    for protocol in [Protocol::Yamux, Protocol::H2] {
        let (client, _server) = session_of(protocol, false, |stream| async move {
            let mut first = [0];
            let _ = stream.read(&mut first).await;
            if first == [0] {
                std::future::pending::<()>().await;
            }
            echo(stream).await;
        });
        let mut stopped = Vec::new();
        for _ in 0..8 {
            let (stream, token) = client.open().await.unwrap();
            let mut sent = 0;
            while timeout(Duration::from_secs(1), stream.write_all(&[0; 10_000]))
                .await
                .is_ok()
            {
                sent += 10_000;
                assert!(sent < 2 << 20, "it is not held up");
            }
            stopped.push((stream, token));
        }
        let (stream, _token) = client.open().await.unwrap();
        stream.write_all(&[1]).await.unwrap();
        exchange(&stream, 500_000, 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_reader_of_smux_is_reset_when_it_has_held_up_the_others_for_long() {
    let (client, _server) = session_of(Protocol::Smux, false, |stream| async move {
        let mut first = [0];
        let _ = stream.read(&mut first).await;
        if first == [0] {
            std::future::pending::<()>().await;
        }
        echo(stream).await;
    });
    let (stopped, _token) = client.open().await.unwrap();
    let (other, _token) = client.open().await.unwrap();
    other.write_all(&[1]).await.unwrap();
    exchange(&other, 100_000, 1).await;
    let mut sent = 0;
    let flood = async {
        while stopped.write_all(&[0; 10_000]).await.is_ok() {
            sent += 10_000;
        }
    };
    let begun = Instant::now();
    assert!(timeout(2 * SMUX_STALL, flood).await.is_ok(), "it is reset");
    assert!(begun.elapsed() >= SMUX_STALL);
    assert!(sent < SMUX_WINDOW + (4 << 20), "{sent}");
    exchange(&other, 100_000, 1).await;
}

#[tokio::test(start_paused = true)]
async fn sessions_end_when_they_have_no_streams_for_a_while() {
    for protocol in PROTOCOLS {
        let (client, server) = session_of(protocol, false, echo);
        let (stream, token) = client.open().await.unwrap();
        exchange(&stream, 1000, 1).await;
        sleep(3 * MULTIPLEX_IDLE).await;
        assert!(!client.is_closed(), "it has a stream");
        drop((stream, token));
        sleep(MULTIPLEX_IDLE + Duration::from_secs(1)).await;
        assert!(client.is_closed());
        let ended = timeout(Duration::from_secs(5), server).await;
        assert!(ended.unwrap().is_ok(), "{protocol:?}");
    }
}
