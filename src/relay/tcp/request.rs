//! What a service needs from the floor above: requests from an inbound, connections from an outbound, and timeouts.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::activity::Activity;
use crate::net::Stream;
use crate::net::dial::SpeaksFirst;
use crate::relay::error::Error;
use crate::relay::failed::{Asked, Way};
use crate::relay::leg::{First, Leg};
use crate::relay::users::User;
use crate::wire::Address;
use crate::wire::reserved::Reserved;

/// What to do when a handshake has succeeded.
pub trait Ready: Send {
    /// Does it. What the stream does from then on is noted in the result, if there is one.
    fn ready(self) -> Option<Arc<Activity>>;

    /// The peer is no client: something else serves it, and counts it.
    fn visitor(self)
    where
        Self: Sized,
    {
        drop(self);
    }
}

impl<F: FnOnce() + Send> Ready for F {
    fn ready(self) -> Option<Arc<Activity>> {
        self();
        None
    }
}

/// Reads clients' handshakes.
pub trait Inbound: Sync {
    /// Reads a client's handshake and returns its request. Errors are answered here, or deliberately not. Must return
    /// soon after `deadline`.
    fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        deadline: Instant,
    ) -> impl Future<Output = Result<Handshake<'_>, Error>> + Send;

    /// Whether all that clients send may run twice: their requests may be sent to another server when one is silent.
    fn may_repeat(&self) -> bool {
        false
    }

    /// Closes the stream of a client that broke the protocol after its handshake, perhaps after reading what it sends.
    fn drain_and_close(&self, stream: Stream) -> impl Future<Output = ()> + Send {
        drop(stream);
        std::future::ready(())
    }
}

/// What a handshake has led to.
#[expect(
    clippy::large_enum_variant,
    reason = "it is looked at once, and nearly always is a request"
)]
pub enum Handshake<'a> {
    /// A stream to relay.
    Request(Request),
    /// Something else that lasts as long as the client's connection.
    Job(ClientJob<'a>),
    /// The peer is a stranger, and is served as a visitor of a web site.
    Visitor(ClientJob<'a>),
}

/// Work for a client that is done instead of relaying: a link, or holding a UDP ASSOCIATE open.
pub type ClientJob<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;

/// What a client wants.
pub struct Request {
    /// The client's stream.
    pub leg: Leg,
    /// The target.
    pub target: Address,
    /// Answers the client; `None`: the protocol has no answers.
    pub reply: Option<Box<dyn Reply>>,
    /// Whether the operator, not the client, chose the target.
    pub trusted: bool,
    /// The client's address.
    pub peer: SocketAddr,
    /// The user whose credentials the client gave.
    pub user: Option<Arc<User>>,
    /// The name that the client's first bytes give for the target's address. Rules look at it; it is not connected to.
    pub claimed: Option<Box<str>>,
}

impl Request {
    /// A plain stream of the client at `peer` for a target that the operator chose.
    #[must_use]
    pub const fn chosen(stream: Stream, peer: SocketAddr, target: Address) -> Self {
        Self {
            leg: Leg::plain(stream),
            target,
            reply: None,
            trusted: true,
            peer,
            user: None,
            claimed: None,
        }
    }

    /// Who will speak first at the target: the client, if it has sent something already.
    #[must_use]
    pub fn speaks_first(&self) -> SpeaksFirst {
        let has_spoken = match &self.leg.first {
            First::Nothing => self.leg.stream.has_bytes(),
            First::Ahead(bytes) => !bytes.is_empty(),
            First::Opened(buffer) => !buffer.ready.is_empty(),
        };
        if has_spoken {
            SpeaksFirst::Us
        } else {
            SpeaksFirst::Unknown
        }
    }

    /// What the client asks of the server itself, by a reserved target. What the operator passes on to another server is
    /// for that server.
    #[must_use]
    pub fn reserved(&self) -> Option<Reserved> {
        if self.trusted {
            return None;
        }
        Reserved::of(self.target.as_ref())
    }
}

/// Answers to a client's request.
pub trait Reply: Send + Sync {
    /// The bytes that tell the client that it is connected.
    fn success(&self) -> Vec<u8>;

    /// The bytes that tell the client why it is not.
    fn failure(&self, error: &Error) -> Vec<u8>;

    /// Changes the client's stream to what it is after the success answer: a WebSocket, for example.
    ///
    /// # Errors
    /// When what the client has sent already does not fit.
    fn upgrade(self: Box<Self>, _: &mut Stream) -> io::Result<()> {
        Ok(())
    }
}

/// Connects requests to their targets.
pub trait Outbound: Sync {
    /// Whether connecting is so likely to succeed that a client may be told so before: saves a round trip.
    fn may_confirm_early(&self, request: &Request) -> bool;

    /// Whether it connects requests for this reserved target. Requests that nobody offers are refused.
    fn offers(&self, _: Reserved) -> bool {
        false
    }

    /// Connects to the target, or to the server that will.
    fn connect(&self, request: &Request) -> impl Future<Output = Result<Leg, Error>> + Send;

    /// The way of a request that has failed, by what is known without waiting.
    fn way(&self, _asked: &Asked<'_>) -> Way {
        Way::default()
    }
}

impl<O: Outbound + Send> Outbound for Arc<O> {
    fn may_confirm_early(&self, request: &Request) -> bool {
        (**self).may_confirm_early(request)
    }

    fn offers(&self, reserved: Reserved) -> bool {
        (**self).offers(reserved)
    }

    fn connect(&self, request: &Request) -> impl Future<Output = Result<Leg, Error>> + Send {
        (**self).connect(request)
    }

    fn way(&self, asked: &Asked<'_>) -> Way {
        (**self).way(asked)
    }
}

/// Requests the same target for every client, without a handshake.
pub struct FixedTarget(pub Address);

impl Inbound for FixedTarget {
    async fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        _: Instant,
    ) -> Result<Handshake<'_>, Error> {
        let request = Request::chosen(stream, peer, self.0.clone());
        Ok(Handshake::Request(request))
    }
}

/// How long each part of a stream's life may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From accept to a complete request. Within a transport, it holds for the transport's handshake and once more for
    /// the request.
    pub handshake: Duration,
    /// For connecting to a server or target.
    pub connect: Duration,
    /// Without a byte in either direction.
    pub idle: Duration,
    /// The same, once one direction has ended.
    pub half_close: Duration,
    /// How long a request waits for its first payload after the dial.
    pub first_payload_wait: Duration,
    /// How long an upstream may be silent before the system probes it; `None`: for ever.
    pub keep_alive: Option<Duration>,
}
