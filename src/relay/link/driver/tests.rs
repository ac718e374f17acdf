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

use super::*;
use crate::relay::link::limits::{INITIAL_WINDOW, MAX_COMMANDS};
use crate::wire::reverse::Register;
use crate::wire::{Address, AddressRef};

/// Longer than anything takes on one machine.
const LIMIT: Duration = Duration::from_secs(20);
/// The ids of a TCP service and of a UDP service.
const STREAMS: u64 = 1;
const DATAGRAMS: u64 = 3;

/// A host that records events.
#[derive(Default)]
struct Recorder {
    streams: Vec<Stream>,
    flows: Vec<u64>,
    closed: Vec<u64>,
}

impl Host for Recorder {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Connect { visitor, stream } => match stream {
                Some(stream) => self.streams.push(stream),
                None => self.flows.push(visitor.id),
            },
            Event::Closed { id } => self.closed.push(id),
            _ => {}
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) {}

    fn is_busy(&self) -> bool {
        false
    }
}

/// Both sides of a link.
struct Ends {
    server: Link<'static, Recorder>,
    client: Link<'static, Recorder>,
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
        let begin = |socket, role, handle: &Handle| {
            let settings = Settings {
                role,
                heartbeat: LIMIT,
            };
            let host = Box::leak(Box::default());
            Link::new(Leg::plain(Stream::new(socket)), settings, handle, host)
        };
        let (visitors, services) = (Handle::new(LinkRole::Server), Handle::new(LinkRole::Client));
        for (service, protocol) in [(STREAMS, Protocol::Tcp), (DATAGRAMS, Protocol::Udp)] {
            services.register(service, registration(protocol));
        }
        Self {
            server: begin(near.unwrap().0, LinkRole::Server, &visitors),
            client: begin(far.unwrap(), LinkRole::Client, &services),
            visitors,
            services,
        }
    }

    /// Both users of a stream whose visitor has sent a request and the end.
    async fn asked(&mut self) -> (Stream, Stream) {
        let open = self.visitors.connect(STREAMS, somewhere(), somewhere());
        let visitor = open.unwrap();
        visitor.write_all(b"ask").await.unwrap();
        visitor.shutdown().await.unwrap();
        let mut asked = Vec::new();
        self.until(|ends| {
            let service = ends.client.local.host.streams.first();
            let Some(Ok(bytes)) = service.map(read) else {
                return false;
            };
            asked.extend_from_slice(&bytes);
            bytes.is_empty()
        })
        .await;
        assert_eq!(asked, b"ask");
        (visitor, self.client.local.host.streams.remove(0))
    }

    /// The same; the visitor reads nothing, and the service has written all that it may.
    async fn backed_up(&mut self) -> (Stream, Stream) {
        let (visitor, service) = self.asked().await;
        self.until(|ends| {
            while poll_write(&service, &[7; 10_000]).is_ready() {}
            let pipes = ends.client.local.pipes.values();
            let waiting: usize = pipes.map(|(pipe, _)| pipe.waiting()).sum();
            let unread = ends.server.core.unread();
            unread == u64::from(INITIAL_WINDOW) && waiting == 0
        })
        .await;
        (visitor, service)
    }

    /// Waits until both sides have removed every stream.
    async fn forgotten(&mut self) {
        self.until(|ends| {
            [&ends.server, &ends.client].iter().all(|end| {
                let left = (end.core.streams(), end.local.pipes.len());
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
            // The condition may depend on the kernel, which wakes nobody: check again.
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

fn registration(protocol: Protocol) -> Register<'static> {
    Register {
        protocol,
        group: false,
        replace: true,
        bind: AddressRef::Domain("public.example", 80),
        name: "name",
        token: &[],
        host: "",
    }
}

fn somewhere() -> Address {
    Address::Ip((Ipv4Addr::LOCALHOST, 4711).into())
}

/// Otherwise a client whose flows time out, as most do, would count them as open forever.
#[tokio::test]
async fn host_learns_of_flows_that_it_ends_itself() {
    let mut ends = Ends::new().await;
    let ended: [fn(&Handle, u64); 2] = [Handle::reset, |link, id| {
        link.connect_result(id, Code::UNREACHABLE, String::new());
    }];
    for end in ended {
        let id = ends
            .visitors
            .connect_flow(DATAGRAMS, somewhere(), somewhere())
            .unwrap();
        ends.until(|ends| ends.client.local.host.flows.contains(&id))
            .await;
        end(&ends.services, id);
        ends.until(|ends| {
            [&ends.server, &ends.client]
                .iter()
                .all(|end| end.core.streams() == 0 && end.local.host.closed.contains(&id))
        })
        .await;
    }
}

#[tokio::test]
async fn nothing_is_left_of_a_stream_whose_users_go_while_it_is_backed_up() {
    let mut ends = Ends::new().await;
    let (visitor, service) = ends.backed_up().await;
    // As after an idle timeout: neither user has marked the stream as broken.
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

#[test]
fn commands_are_bounded() {
    let link = Handle::new(LinkRole::Server);
    // Nobody runs the link.
    let connect = || link.connect_flow(DATAGRAMS, somewhere(), somewhere());
    let admitted = std::iter::from_fn(connect).count();
    assert_eq!(admitted, MAX_COMMANDS / 2);
    let mut inbox = Inbox::default();
    for id in 0..MAX_COMMANDS as u64 {
        link.reset(id);
    }
    assert!(link.0.take(Waker::noop(), &mut inbox, 0));
    assert_eq!(
        (inbox.commands.len(), inbox.flags.overloaded),
        (MAX_COMMANDS, true)
    );
}

#[tokio::test]
async fn overloaded_link_closes() {
    let mut ends = Ends::new().await;
    for id in 0..=MAX_COMMANDS as u64 {
        ends.visitors.reset(id);
    }
    let mut timer = Box::pin(sleep_until(Instant::now() + LIMIT));
    let polled = poll_fn(|cx| Poll::Ready(ends.server.poll(cx, timer.as_mut()))).await;
    assert!(
        matches!(polled, Poll::Ready(Err(Error::Overloaded { .. }))),
        "{polled:?}"
    );
}
