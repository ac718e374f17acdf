#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::net::tests::{pattern, read_all, sockets, within};
use crate::wire::http::Endpoint;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(in crate::net) fn endpoint() -> Endpoint {
    Endpoint {
        path: "/ws".into(),
        host: Some("example.com".into()),
        fields: Vec::new(),
    }
}

pub(in crate::net) async fn serve(socket: TcpStream) -> io::Result<Streams> {
    let peer = Peer {
        ip: LOCAL,
        is_trusted: &|_| false,
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    let streams = handshake(Stream::new(socket), &endpoint(), peer, deadline).await?;
    Ok(streams.0)
}

/// A client's and a server's end of a WebSocket; the client has said `first`.
async fn pair(first: &[u8]) -> (Stream, Stream) {
    let (near, far) = sockets().await;
    let endpoint = endpoint();
    let client = async {
        let client = connect(Stream::new(near), &endpoint, false).await.unwrap();
        client.write_all(first).await.unwrap();
        client
    };
    let (client, server) = within(async { tokio::join!(client, serve(far)) }).await;
    let Streams::One(server) = server.unwrap() else {
        panic!("mux.cool");
    };
    (client, server)
}

/// Writes in place, in runs of `run` bytes.
async fn send(stream: &Stream, bytes: &[u8], run: usize) {
    for chunk in bytes.chunks(run) {
        let mut chunk = chunk.to_vec();
        let mut done = 0;
        while done < chunk.len() {
            done += poll_fn(|cx| stream.poll_write_mut(cx, &mut chunk[done..]))
                .await
                .unwrap();
        }
    }
}

async fn receive(stream: &Stream, len: usize, room: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buf = vec![0; room];
    while bytes.len() < len {
        let count = stream.read(&mut buf).await.unwrap();
        assert!(count > 0, "ended after {} of {len}", bytes.len());
        bytes.extend_from_slice(&buf[..count]);
    }
    bytes
}

async fn rest(stream: &Stream) -> Vec<u8> {
    read_all(stream, 5000).await.unwrap()
}

#[tokio::test]
async fn bytes_arrive_as_they_were_in_runs_of_any_length() {
    let (client, server) = pair(b"x").await;
    assert_eq!(receive(&server, 1, 1).await, b"x");
    for (len, run, room) in [
        (3, 1, 1),
        (5000, 7, 300),
        (200_000, 100, 17_000),
        (300_000, 2048, 100_000),
        (3_000_000, 65_535, 80_000),
        (3_000_000, 500_000, 530_000),
        (1_000_000, 1_000_000, 1000),
        (70_000, 70_000, 1),
    ] {
        let bytes = pattern(len);
        for (from, to) in [(&client, &server), (&server, &client)] {
            let (_, got) =
                within(async { tokio::join!(send(from, &bytes, run), receive(to, len, room)) })
                    .await;
            assert!(got == bytes, "{len} in {run}");
        }
    }
}

#[tokio::test]
async fn slices_that_are_not_ours_are_written_and_left_alone() {
    let (client, server) = pair(b"x").await;
    receive(&server, 1, 1).await;
    let bytes = pattern(100_000);
    for (from, to) in [(&client, &server), (&server, &client)] {
        let write = async {
            let mut done = 0;
            while done < bytes.len() {
                let (a, b) = bytes[done..].split_at((bytes.len() - done) / 3);
                done += poll_fn(|cx| from.poll_write(cx, &[IoSlice::new(a), IoSlice::new(b)]))
                    .await
                    .unwrap();
            }
        };
        let (_, got) = within(async { tokio::join!(write, receive(to, bytes.len(), 9000)) }).await;
        assert!(got == bytes);
    }
    assert!(bytes == pattern(100_000));
}

#[tokio::test]
async fn bytes_are_read_into_many_slots() {
    let (client, server) = pair(b"x").await;
    receive(&server, 1, 1).await;
    let bytes = pattern(400_000);
    let read = async {
        let mut got = Vec::new();
        while got.len() < bytes.len() {
            let mut places = vec![[0; 1000]; 40];
            server.readable().await.unwrap();
            let mut slots: Vec<_> = places.iter_mut().map(|p| IoSliceMut::new(p)).collect();
            match server.try_read(&mut slots) {
                Ok(count) => got.extend_from_slice(&places.concat()[..count]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        got
    };
    let (_, got) = within(async { tokio::join!(send(&client, &bytes, 150_000), read) }).await;
    assert!(got == bytes);
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    // Whether or not the server has said something before.
    for announced in [false, true] {
        let (client, server) = pair(b"question").await;
        receive(&server, 8, 100).await;
        if announced {
            send(&server, b"hello", 5).await;
            receive(&client, 5, 100).await;
        }
        client.shutdown().await.unwrap();
        assert_eq!(within(rest(&server)).await, b"");
        // Longer than a peer that does not understand would be waited for.
        let mut byte = [0];
        let waiting = timeout(LINGER_UNKNOWN + LINGER, client.read(&mut byte)).await;
        assert!(waiting.is_err(), "the client took silence for the end");
        send(&server, &pattern(100_000), 30_000).await;
        server.shutdown().await.unwrap();
        assert!(within(rest(&client)).await == pattern(100_000));
    }
}

#[tokio::test]
async fn each_direction_ends_by_itself_where_the_server_speaks_first() {
    let (near, far) = sockets().await;
    let [client, server] = [(near, Role::Client), (far, Role::Server)]
        .map(|(socket, role)| Stream::layered(WebSocket::new(Stream::new(socket), role, None)));
    send(&server, b"banner", 6).await;
    receive(&client, 6, 100).await;
    send(&client, b"question", 8).await;
    // Before the server has said that it understands.
    client.shutdown().await.unwrap();
    let mut byte = [0];
    let waiting = timeout(LINGER_UNKNOWN + LINGER, client.read(&mut byte));
    let (question, waiting) = within(async { tokio::join!(rest(&server), waiting) }).await;
    assert_eq!(question, b"question");
    assert!(waiting.is_err(), "the client took silence for the end");
    send(&server, &pattern(100_000), 30_000).await;
    server.shutdown().await.unwrap();
    assert!(within(rest(&client)).await == pattern(100_000));
}

#[tokio::test]
async fn dropped_stream_ends_the_other_at_once() {
    let (client, server) = pair(b"x").await;
    receive(&server, 1, 1).await;
    drop(client);
    assert_eq!(within(rest(&server)).await, b"");
    let written = poll_fn(|cx| server.poll_write(cx, &[IoSlice::new(b"y")])).await;
    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn what_nobody_read_does_not_turn_the_close_into_a_reset() {
    let (mut near, far) = sockets().await;
    let mut server = WebSocket::new(Stream::new(far), Role::Server, None);
    // The end of its direction, and later a Ping.
    let end = [0x02, 0x80, 0, 0, 0, 0, 0x80, 0x80, 0, 0, 0, 0];
    near.write_all(&end).await.unwrap();
    assert!(within(poll_fn(|cx| server.poll_ahead(cx))).await.unwrap());
    let ping = [0x89, 0x80, 0, 0, 0, 0];
    near.write_all(&ping).await.unwrap();
    let came = poll_fn(|cx| server.inner.poll_readable(cx));
    within(came).await.unwrap();
    let mut answer = *b"answer";
    let written = poll_fn(|cx| server.poll_write_mut(cx, &mut answer));
    assert_eq!(within(written).await.unwrap(), 6);
    within(poll_fn(|cx| server.poll_shutdown(cx)))
        .await
        .unwrap();
    drop(server);
    let mut got = Vec::new();
    within(near.read_to_end(&mut got)).await.unwrap();
    assert!(got.ends_with(&[0x88, 2, 3, 232]), "no Close");
}

#[tokio::test]
async fn reset_stream_is_broken_for_the_other() {
    let (client, server) = pair(b"x").await;
    receive(&server, 1, 1).await;
    client.reset_on_close();
    drop(client);
    assert!(within(server.read(&mut [0; 9])).await.is_err());
}

#[tokio::test]
async fn cut_frame_is_an_error_and_a_whole_one_is_not() {
    for (wire, whole) in [(&[0x82, 3, b'a'][..], false), (&[0x82, 1, b'a'], true)] {
        let (near, mut far) = sockets().await;
        let client = Stream::layered(WebSocket::new(Stream::new(near), Role::Client, None));
        far.write_all(wire).await.unwrap();
        drop(far);
        let mut buf = [0; 200];
        assert_eq!(within(client.read(&mut buf)).await.unwrap(), 1);
        let end = within(client.read(&mut buf)).await;
        if whole {
            assert_eq!(end.unwrap(), 0);
        } else {
            assert_eq!(end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}

/// A foreign server's end: what it sends is in frames by hand.
async fn foreign() -> (Stream, TcpStream) {
    let (near, far) = sockets().await;
    let client = WebSocket::new(Stream::new(near), Role::Client, None);
    (Stream::layered(client), far)
}

#[tokio::test]
async fn pings_are_answered_and_violations_told() {
    let (client, mut far) = foreign().await;
    far.write_all(&[0x89, 2, b'h', b'i', 0x82, 1, b'!'])
        .await
        .unwrap();
    assert_eq!(receive(&client, 1, 100).await, b"!");
    let mut pong = [0; 8];
    within(far.read_exact(&mut pong)).await.unwrap();
    assert_eq!(pong[..2], [0x8a, 0x82]);
    assert_eq!(pong[6] ^ pong[2], b'h');
    far.write_all(&[0xf2, 0]).await.unwrap();
    let error = within(client.read(&mut [0; 100])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    // A relay resets what is broken; here that would take away the reason.
    client.reset_on_close();
    drop(client);
    let mut close = Vec::new();
    within(far.read_to_end(&mut close)).await.unwrap();
    assert_eq!(close[..2], [0x88, 0x82]);
    assert_eq!([close[6] ^ close[2], close[7] ^ close[3]], [3, 234]);
}

#[tokio::test]
async fn close_is_echoed_and_ends_both_directions() {
    for (code, fine) in [(1000_u16, true), (1011, false)] {
        let (client, mut far) = foreign().await;
        let [high, low] = code.to_be_bytes();
        far.write_all(&[0x88, 2, high, low]).await.unwrap();
        assert_eq!(within(client.read(&mut [0; 100])).await.is_ok(), fine);
        drop(client);
        let mut close = Vec::new();
        within(far.read_to_end(&mut close)).await.unwrap();
        assert_eq!(close.len(), 8, "one Close");
        assert_eq!([close[6] ^ close[2], close[7] ^ close[3]], [high, low]);
    }
}

#[tokio::test]
async fn silence_after_our_end_is_the_end_of_a_foreign_peer() {
    let (client, mut far) = foreign().await;
    far.write_all(&[0x82, 1, b'a']).await.unwrap();
    receive(&client, 1, 100).await;
    let begun = Instant::now();
    client.shutdown().await.unwrap();
    // What it still says is not lost, and postpones the end.
    sleep(LINGER / 2).await;
    far.write_all(&[0x82, 1, b'b']).await.unwrap();
    assert_eq!(within(rest(&client)).await, b"b");
    assert!(begun.elapsed() >= LINGER && begun.elapsed() < 4 * LINGER);
    drop(client);
    let mut close = Vec::new();
    within(far.read_to_end(&mut close)).await.unwrap();
    assert_eq!(
        close.len(),
        8,
        "a Close and no sign that means nothing to it"
    );
}

#[tokio::test(start_paused = true)]
async fn silent_connection_is_pinged() {
    let (client, mut far) = foreign().await;
    let waiting = tokio::spawn(poll_fn(move |cx| {
        let polled = client.poll_readable(cx);
        // What a relay asks of a stream on which it waits.
        client.keep_alive(Duration::from_secs(10)).unwrap();
        client.local_addr().unwrap();
        polled
    }));
    for _ in 0..3 {
        let mut ping = [0; 6];
        let read = timeout(2 * PING_INTERVAL, far.read_exact(&mut ping));
        read.await.unwrap().unwrap();
        assert_eq!(ping[..2], [0x89, 0x80]);
    }
    assert!(!waiting.is_finished());
    waiting.abort();
}

#[tokio::test]
async fn flood_of_pings_neither_grows_nor_starves() {
    let (client, mut far) = foreign().await;
    let flood = [0x89, 1, b'p'].repeat(300_000);
    let write = async {
        far.write_all(&flood).await.unwrap();
        far.write_all(&[0x82, 1, b'!']).await.unwrap();
        far
    };
    let (mut far, got) = within(async { tokio::join!(write, receive(&client, 1, 20_000)) }).await;
    assert_eq!(got, b"!");
    drop(client);
    let mut answers = Vec::new();
    within(far.read_to_end(&mut answers)).await.unwrap();
    assert!(answers.len() < 30_000, "{} bytes of answers", answers.len());
}

#[tokio::test]
async fn others_get_the_page_of_a_web_server() {
    for (request, status) in [
        ("GET /ws HTTP/1.1\r\nHost: example.com\r\n\r\n", "404"),
        ("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", "404"),
        ("\x16\x03\x01\x02", "400"),
    ] {
        let (mut near, far) = sockets().await;
        let asking = async {
            near.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            near.read_to_string(&mut answer).await.unwrap();
            near.shutdown().await.unwrap();
            answer
        };
        let (answer, served) = within(async { tokio::join!(asking, serve(far)) }).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert_eq!(served.err().unwrap().kind(), io::ErrorKind::InvalidData);
    }
}

#[tokio::test]
async fn refusal_of_a_server_says_its_status() {
    let (near, mut far) = sockets().await;
    let endpoint = endpoint();
    let answer = async {
        let mut request = [0; 1000];
        assert!(far.read(&mut request).await.unwrap() > 0);
        far.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            .await
            .unwrap();
    };
    let read_request = connect(Stream::new(near), &endpoint, false);
    let (read_request, ()) = within(async { tokio::join!(read_request, answer) }).await;
    assert!(read_request.unwrap_err().to_string().contains("403"));
}

/// Admits every stream.
pub(in crate::net) fn known() -> mux::Admission {
    let admission = mux::Admission::new(std::sync::Arc::new(tokio::sync::Semaphore::new(0)));
    admission.authenticate();
    admission
}

/// A server that answers on each of its streams with what came, and the end with the end.
pub(in crate::net) async fn echo_server(socket: TcpStream) -> io::Result<()> {
    match serve(socket).await? {
        Streams::One(stream) => {
            echo(stream).await;
            Ok(())
        }
        Streams::Many(server) => server.run(&known(), |stream, _| echo(stream)).await,
    }
}

pub(in crate::net) async fn echo(stream: Stream) {
    let mut buf = vec![0; 20_000];
    loop {
        match stream.read(&mut buf).await {
            Ok(0) => break,
            Ok(len) => {
                if stream.write_all(&buf[..len]).await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
    let _ = stream.shutdown().await;
}

#[tokio::test]
async fn both_kinds_of_stream_come_to_one_server() {
    for mux in [false, true] {
        let (near, far) = sockets().await;
        let server = tokio::spawn(echo_server(far));
        let client = within(connect(Stream::new(near), &endpoint(), mux))
            .await
            .unwrap();
        let bytes = pattern(2_000_000);
        let write = async {
            send(&client, &bytes, 300_000).await;
            client.shutdown().await.unwrap();
        };
        let (_, got) = within(async { tokio::join!(write, rest(&client)) }).await;
        assert!(got == bytes, "mux {mux}: {} bytes", got.len());
        drop(client);
        within(server).await.unwrap().unwrap();
    }
}
