//! Two links over a connection, both in one task.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::io::{self, IoSlice, IoSliceMut};
use std::net::Ipv4Addr;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::super::Answer;
use super::*;
use crate::wire::{Address, AddressRef};

/// Nothing on one machine takes as long.
const LIMIT: Duration = Duration::from_secs(20);
/// A service of streams, and one of datagrams.
const STREAMS: u64 = 1;
const DATAGRAMS: u64 = 3;

/// A host that keeps what it is told.
#[derive(Default)]
struct Told {
    streams: Vec<Stream>,
    flows: Vec<u64>,
    closed: Vec<u64>,
}

impl Host for Told {
    fn register(&mut self, _: u64, _: Register<'_>) -> Answer {
        Answer {
            code: Code::INVALID,
            bound: (Ipv4Addr::UNSPECIFIED, 0).into(),
            message: String::new(),
        }
    }

    fn registered(&mut self, _: u64, _: Code, _: AddressRef<'_>, _: &str) {}

    fn kind(&self, service: u64) -> Option<Kind> {
        match service {
            STREAMS => Some(Kind::Streams),
            DATAGRAMS => Some(Kind::Datagrams),
            _ => None,
        }
    }

    fn stream(&mut self, _: Visitor, stream: Stream) {
        self.streams.push(stream);
    }

    fn flow(&mut self, visitor: Visitor) {
        self.flows.push(visitor.id);
    }

    fn datagram(&mut self, _: u64, _: &[u8]) {}

    fn refused(&mut self, _: u64, _: &str) {}

    fn closed(&mut self, id: u64) {
        self.closed.push(id);
    }

    fn leaving(&mut self) {}

    fn going_away(&mut self, _: Code, _: Duration, _: &str) {}

    fn poll(&mut self, _: &mut Context<'_>) {}

    fn is_busy(&self) -> bool {
        false
    }
}

/// The two ends of a link.
struct Ends {
    server: Link<'static, Told>,
    client: Link<'static, Told>,
    visitors: Handle,
    services: Handle,
}

impl Ends {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (far, near) = tokio::join!(
            TcpStream::connect(listener.local_addr().unwrap()),
            listener.accept()
        );
        let begin = |socket, end, handle: &Handle| {
            let settings = Settings {
                end,
                heartbeat: LIMIT,
            };
            let host = Box::leak(Box::default());
            Link::new(Leg::plain(Stream::new(socket)), settings, handle, host)
        };
        let (visitors, services) = (Handle::new(LinkRole::Server), Handle::new(LinkRole::Client));
        Self {
            server: begin(near.unwrap().0, LinkRole::Server, &visitors),
            client: begin(far.unwrap(), LinkRole::Client, &services),
            visitors,
            services,
        }
    }

    /// A stream whose visitor has asked and ended, and its two users.
    async fn asked(&mut self) -> (Stream, Stream) {
        let open = self.visitors.open(STREAMS, somewhere(), somewhere());
        let visitor = open.unwrap();
        visitor.write_all(b"ask").await.unwrap();
        visitor.shutdown().await.unwrap();
        let mut asked = Vec::new();
        self.until(|ends| {
            let service = ends.client.pipes.host.streams.first();
            let Some(Ok(bytes)) = service.map(read) else {
                return false;
            };
            asked.extend_from_slice(&bytes);
            bytes.is_empty()
        })
        .await;
        assert_eq!(asked, b"ask");
        (visitor, self.client.pipes.host.streams.remove(0))
    }

    /// The same; the visitor reads nothing, and the other end has written until there is no room.
    async fn backed_up(&mut self) -> (Stream, Stream) {
        let (visitor, service) = self.asked().await;
        self.until(|ends| {
            while poll_write(&service, &[7; 10_000]).is_ready() {}
            let pipes = ends.client.pipes.table.values();
            let waiting: usize = pipes.map(|(pipe, _)| pipe.waiting()).sum();
            let unread = ends.server.core.unread();
            unread == u64::from(window::INITIAL) && waiting == CAPACITY
        })
        .await;
        (visitor, service)
    }

    /// Waits until nothing is left of any stream, at both ends.
    async fn forgotten(&mut self) {
        self.until(|ends| {
            [&ends.server, &ends.client].iter().all(|end| {
                let left = (end.core.streams(), end.pipes.table.len());
                (left, end.core.unread()) == ((0, 0), 0)
            })
        })
        .await;
    }

    /// Runs both until `done`.
    async fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let timer = || Box::pin(sleep_until(Instant::now() + LIMIT));
        let (mut first, mut second) = (timer(), timer());
        let work = poll_fn(|cx| {
            let polled = self.server.poll(cx, first.as_mut());
            assert!(polled.is_pending(), "the server's end is over: {polled:?}");
            let polled = self.client.poll(cx, second.as_mut());
            assert!(polled.is_pending(), "the client's end is over: {polled:?}");
            if done(self) {
                return Poll::Ready(());
            }
            // What is waited for may be the kernel's: look again.
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        timeout(LIMIT, work).await.expect("it hangs");
    }
}

fn poll_write(stream: &Stream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    stream.poll_write(
        &mut Context::from_waker(Waker::noop()),
        &[IoSlice::new(bytes)],
    )
}

fn read(stream: &Stream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 100];
    let count = stream.try_read(&mut [IoSliceMut::new(&mut bytes)])?;
    bytes.truncate(count);
    Ok(bytes)
}

fn somewhere() -> Address {
    Address::Ip((Ipv4Addr::LOCALHOST, 4711).into())
}

/// Else a client whose flows end for want of datagrams, as most do, would count them as open for ever.
#[tokio::test]
async fn host_is_told_of_flows_that_it_ends_itself() {
    let mut ends = Ends::new().await;
    let ended: [fn(&Handle, u64); 2] = [Handle::reset, |link, id| {
        link.answer(id, Code::UNREACHABLE, String::new());
    }];
    for end in ended {
        let id = ends
            .visitors
            .open_flow(DATAGRAMS, somewhere(), somewhere())
            .unwrap();
        ends.until(|ends| ends.client.pipes.host.flows.contains(&id))
            .await;
        end(&ends.services, id);
        ends.until(|ends| {
            [&ends.server, &ends.client]
                .iter()
                .all(|end| end.core.streams() == 0 && end.pipes.host.closed.contains(&id))
        })
        .await;
    }
}

#[tokio::test]
async fn nothing_is_left_of_a_stream_whose_users_go_while_it_is_backed_up() {
    let mut ends = Ends::new().await;
    let (visitor, service) = ends.backed_up().await;
    // As after a time in which nothing has moved: nobody calls the stream broken.
    drop((visitor, service));
    ends.forgotten().await;
}

#[tokio::test]
async fn visitor_that_breaks_off_behind_its_end_is_heard_while_it_is_backed_up() {
    let mut ends = Ends::new().await;
    let (visitor, service) = ends.backed_up().await;
    visitor.reset_on_close();
    drop(visitor);
    ends.forgotten().await;
    let written = poll_write(&service, b"more");
    assert!(
        matches!(written, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset)
    );
}

#[tokio::test]
async fn user_that_has_read_all_may_go_before_its_answer_has() {
    let mut ends = Ends::new().await;
    let (visitor, service) = ends.asked().await;
    assert!(matches!(
        poll_write(&service, b"answer"),
        Poll::Ready(Ok(6))
    ));
    drop(service);
    ends.forgotten().await;
    assert_eq!(read(&visitor).unwrap(), b"answer");
    assert_eq!(read(&visitor).unwrap(), b"");
}
