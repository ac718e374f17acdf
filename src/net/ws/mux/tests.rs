#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::io::{IoSlice, IoSliceMut};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::*;
use crate::net::stream::Layer;
use crate::net::tests::{pattern, sockets, within};
use crate::net::ws::Streams;
use crate::net::ws::tests::{echo, echo_server, endpoint, known, serve};
use crate::wire::websocket::Role;

/// A client that speaks mux.cool by hand, as v2ray-plugin does: many streams in a WebSocket, one after the other and at
/// the same time, and no sign that the end of a direction would be understood.
struct ByHand(TcpStream);

impl ByHand {
    async fn new(mut socket: TcpStream) -> Self {
        let request = crate::wire::http::request(&endpoint(), [7; 16]).unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within(socket.read_u8()).await.unwrap());
        }
        Self(socket)
    }

    async fn say(&mut self, frame: Frame, data: &[u8]) {
        let head = frame.head();
        let len = u16::try_from(head.bytes().len() + data.len()).unwrap();
        // A key of zeros: the payload as it is.
        let mut wire = vec![0x82, 0x80 | 126];
        wire.extend(len.to_be_bytes());
        wire.extend([0; 4]);
        wire.extend_from_slice(head.bytes());
        wire.extend_from_slice(data);
        if len < 126 {
            wire.splice(1..4, [0x80 | u8::try_from(len).unwrap()]);
        }
        self.0.write_all(&wire).await.unwrap();
    }

    /// The next frame of the server: id, status, data.
    async fn hear(&mut self) -> (u16, u8, Vec<u8>) {
        let mut payload = Vec::new();
        // A frame as any, without the sign that only ours understand.
        assert_eq!(self.0.read_u8().await.unwrap(), 0x82);
        let len = match self.0.read_u8().await.unwrap() {
            126 => usize::from(self.0.read_u16().await.unwrap()),
            127 => usize::try_from(self.0.read_u64().await.unwrap()).unwrap(),
            len => usize::from(len),
        };
        payload.resize(len, 0);
        self.0.read_exact(&mut payload).await.unwrap();
        Self::parsed(&payload)
    }

    fn parsed(payload: &[u8]) -> (u16, u8, Vec<u8>) {
        assert_eq!(payload[..2], [0, 4]);
        let id = u16::from_be_bytes([payload[2], payload[3]]);
        (
            id,
            payload[4],
            payload.get(8..).unwrap_or_default().to_vec(),
        )
    }
}

#[tokio::test]
async fn many_streams_share_a_websocket_and_ids_come_again() {
    let (near, far) = sockets().await;
    let server = tokio::spawn(echo_server(far));
    let mut client = ByHand::new(near).await;
    for _ in 0..2 {
        for id in 1..=20_u16 {
            client
                .say(Frame::New { id, data: 2 }, &id.to_be_bytes())
                .await;
        }
        let mut received: Vec<_> = Vec::new();
        for _ in 1..=20 {
            received.push(within(client.hear()).await);
        }
        received.sort();
        for (id, (got, status, data)) in (1..=20_u16).zip(received) {
            assert_eq!((got, status, data), (id, 2, id.to_be_bytes().to_vec()));
            client.say(Frame::End { id, error: false }, &[]).await;
        }
        // Each stream has ended on both sides before its id comes again.
    }
    drop(client);
    within(server).await.unwrap().unwrap();
}

#[tokio::test]
async fn stream_of_id_0_closes_its_websocket() {
    let (near, far) = sockets().await;
    let server = tokio::spawn(echo_server(far));
    let mut client = ByHand::new(near).await;
    client.say(Frame::New { id: 0, data: 0 }, &[]).await;
    client.say(Frame::Keep { id: 0, data: 2 }, b"hi").await;
    assert_eq!(within(client.hear()).await, (0, 2, b"hi".to_vec()));
    client
        .say(
            Frame::End {
                id: 0,
                error: false,
            },
            &[],
        )
        .await;
    let mut rest = Vec::new();
    within(client.0.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, [0x88, 2, 3, 232], "a Close");
    within(server).await.unwrap().unwrap();
}

#[tokio::test]
async fn websocket_without_streams_is_closed_in_the_end() {
    let (near, far) = sockets().await;
    let server = tokio::spawn(echo_server(far));
    let mut client = ByHand::new(near).await;
    client.say(Frame::New { id: 1, data: 1 }, b"x").await;
    assert_eq!(within(client.hear()).await, (1, 2, b"x".to_vec()));
    let end = Frame::End {
        id: 1,
        error: false,
    };
    client.say(end, &[]).await;
    let begun = Instant::now();
    // From here on nothing happens but timers.
    tokio::time::pause();
    let mut rest = Vec::new();
    client.0.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, [0x88, 2, 3, 232], "a Close");
    assert!(
        begun.elapsed() > Duration::from_secs(16),
        "v2ray-plugin may use it until then"
    );
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn too_many_streams_break_the_websocket() {
    let (near, far) = sockets().await;
    let server = tokio::spawn(echo_server(far));
    let mut client = ByHand::new(near).await;
    for id in 1..=129 {
        client.say(Frame::New { id, data: 0 }, &[]).await;
    }
    let error = within(server).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn streams_that_are_still_served_count_after_their_end() {
    let (near, far) = sockets().await;
    let go = Arc::new(Semaphore::new(0));
    let wait = Arc::clone(&go);
    let server = tokio::spawn(async move {
        let Streams::Many(server) = serve(far).await? else {
            panic!("bare");
        };
        // As one that dials a target which does not answer.
        let dial = move |stream, _| {
            let wait = Arc::clone(&wait);
            async move {
                let _ended = wait.acquire().await;
                drop(stream);
            }
        };
        server.run(&known(), dial).await
    });
    let mut client = ByHand::new(near).await;
    for id in 1..=128 {
        client.say(Frame::New { id, data: 1 }, b"x").await;
        client.say(Frame::End { id, error: false }, &[]).await;
    }
    client.say(Frame::New { id: 129, data: 1 }, b"x").await;
    let closed = within(client.0.read(&mut [0])).await;
    assert!(closed.is_err(), "not reset");
    go.close();
    let error = within(server).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn stalled_reader_stops_the_websocket_and_nothing_is_lost() {
    let (near, far) = sockets().await;
    let go = Arc::new(tokio::sync::Notify::new());
    let wait = Arc::clone(&go);
    let server = tokio::spawn(async move {
        let Streams::Many(server) = serve(far).await? else {
            panic!("bare");
        };
        server
            .run(&known(), move |stream, _| {
                let wait = Arc::clone(&wait);
                async move {
                    wait.notified().await;
                    echo(stream).await;
                }
            })
            .await
    });
    let client = ByHand::new(near).await;
    let bytes = pattern(12_000_000);
    let (mut reading, mut writing) = client.0.into_split();
    let sent = bytes.clone();
    let mut sending = Box::pin(async move {
        let begin = Frame::New { id: 1, data: 0 }.head();
        let mut wire = vec![0x82, 0x80 | 14, 0, 0, 0, 0];
        wire.extend_from_slice(begin.bytes());
        for chunk in sent.chunks(60_000) {
            let data = u16::try_from(chunk.len()).unwrap();
            wire.extend([0x82, 0x80 | 126]);
            wire.extend((data + 8).to_be_bytes());
            wire.extend([0; 4]);
            wire.extend_from_slice(Frame::Keep { id: 1, data }.head().bytes());
            wire.extend_from_slice(chunk);
        }
        writing.write_all(&wire).await.unwrap();
        writing
    });
    assert!(
        timeout(Duration::from_millis(700), &mut sending)
            .await
            .is_err(),
        "12 MB went nowhere"
    );
    go.notify_one();
    // As many bytes come back, in frames that others have looked at.
    let echoed = async {
        let mut got = 0;
        let mut buf = vec![0; 1 << 16];
        while got < bytes.len() {
            got += reading.read(&mut buf).await.unwrap();
        }
    };
    let (writing, ()) = within(async { tokio::join!(sending, echoed) }).await;
    drop((reading, writing));
    let _cut = within(server).await.unwrap();
}

/// The other side of [`Sealing`].
#[derive(Default)]
struct Wire {
    full: bool,
    incoming: Vec<u8>,
    sealed: usize,
    sent: Vec<u8>,
}

/// A connection that does as TLS does: what it has sealed once goes out as it was, whatever the writer comes with
/// later.
struct Sealing(Stream, Arc<Mutex<Wire>>);

impl Layer for Sealing {
    fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.1.lock().unwrap().incoming.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn try_read(&mut self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let incoming = std::mem::take(&mut self.1.lock().unwrap().incoming);
        if incoming.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        io::Read::read_vectored(&mut &incoming[..], slots)
    }

    fn poll_write(
        &mut self,
        _: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.1.lock().unwrap();
        if wire.sealed == 0 {
            let bytes = parts.iter().flat_map(|part| part.iter().copied());
            let before = wire.sent.len();
            wire.sent.extend(bytes);
            wire.sealed = wire.sent.len() - before;
        }
        if wire.full {
            return Poll::Pending;
        }
        Poll::Ready(Ok(std::mem::take(&mut wire.sealed)))
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn inner(&mut self) -> &mut Stream {
        &mut self.0
    }
}

#[tokio::test]
async fn end_of_a_stream_waits_behind_a_pong() {
    let wire = Arc::new(Mutex::new(Wire::default()));
    let (below, _) = pipe::pair(MUX_WINDOW, CAPACITY);
    let socket = Stream::layered(Sealing(below, Arc::clone(&wire)));
    let mut server = Server::new(WebSocket::new(socket, Role::Server, None));
    let cx = &mut Context::from_waker(Waker::noop());

    let mut new = vec![0x82, 0x80 | 17, 0, 0, 0, 0];
    new.extend_from_slice(Frame::New { id: 1, data: 1 }.head().bytes());
    new.push(b'x');
    wire.lock().unwrap().incoming = new;
    let admission = known();
    let Poll::Ready(Ok(Some((stream, _)))) = server.poll_next(cx, &admission) else {
        panic!("no stream");
    };
    stream.try_read(&mut [IoSliceMut::new(&mut [0])]).unwrap();
    wire.lock().unwrap().incoming = vec![0x89, 0x82, 0, 0, 0, 0, b'h', b'i'];
    wire.lock().unwrap().full = true;
    assert!(server.poll_next(cx, &admission).is_pending());
    drop(stream);
    assert!(server.poll_next(cx, &admission).is_pending());
    wire.lock().unwrap().full = false;
    assert!(server.poll_next(cx, &admission).is_pending());
    let mut sent = vec![0x8a, 2, b'h', b'i', 0x82, 6];
    let end = Frame::End {
        id: 1,
        error: false,
    };
    sent.extend_from_slice(end.head().bytes());
    let got = wire.lock().unwrap().sent.clone();
    assert_eq!(got, sent);
}
