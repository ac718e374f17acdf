//! Two links over a connection, both in one task.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::net::{Ipv4Addr, SocketAddr};

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
        let (visitors, services) = (Handle::new(End::Server), Handle::new(End::Client));
        Self {
            server: begin(near.unwrap().0, End::Server, &visitors),
            client: begin(far.unwrap(), End::Client, &services),
            visitors,
            services,
        }
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

fn somewhere() -> Address {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 4711)).into()
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
            let [server, client] = [&ends.server, &ends.client];
            [server, client]
                .iter()
                .all(|end| end.core.streams() == 0 && end.pipes.host.closed.contains(&id))
        })
        .await;
    }
}
