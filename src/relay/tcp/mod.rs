//! Serves one stream: handshake, dial, both directions until both have ended.
//!
//! ```text
//! accept ─> Inbound::handshake ─> Request ─> Outbound::connect ─> two halves, polled by one task ─> closed
//! ```

mod fairness;
pub mod half;
mod splice;

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::net::Stream;
use crate::net::dial::SpeaksFirst;
use crate::net::pool::Size;
use crate::relay::counters::{Counters, Gauge};
use crate::relay::error::{Error, Side};
use crate::relay::idle::IdleTimer;
pub use crate::relay::leg::{First, Leg};
use crate::wire::Address;
use fairness::Turn;
use half::{Codec, Half};

/// How long each part of a stream's life may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From accept to a complete request; within a transport, for its handshake and once more for the request.
    pub handshake: Duration,
    /// For connecting to a server or target.
    pub connect: Duration,
    /// Without a byte in either direction.
    pub idle: Duration,
    /// The same, once one direction has ended.
    pub half_close: Duration,
    /// How long a request waits for its first bytes, beyond the dial.
    pub first_payload: Duration,
    /// How long an upstream may be silent before the system probes whether it is there; `None`: for ever.
    pub keep_alive: Option<Duration>,
}

/// What a client wants.
pub struct Request {
    /// The client's end.
    pub leg: Leg,
    /// Where to.
    pub target: Address,
    /// How the client is told; `None`: it is not.
    pub reply: Option<Box<dyn Reply>>,
    /// Whether the operator, not the client, chose the target.
    pub trusted: bool,
    /// Where the client is.
    pub peer: SocketAddr,
}

impl Request {
    /// A plain stream of the client at `peer` that is to go where the operator said.
    #[must_use]
    pub const fn chosen(stream: Stream, peer: SocketAddr, target: Address) -> Self {
        Self {
            leg: Leg::plain(stream),
            target,
            reply: None,
            trusted: true,
            peer,
        }
    }

    /// Who will speak first at the target: the client, if it has said something already.
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
}

/// Whoever comes wants the one thing there is: asks for the same target on behalf of every client.
pub struct Fixed {
    /// What that is.
    pub target: Address,
}

impl Inbound for Fixed {
    async fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        _: Instant,
    ) -> Result<Handshake<'_>, Error> {
        let request = Request::chosen(stream, peer, self.target.clone());
        Ok(Handshake::Request(request))
    }

    async fn drain_and_close(&self, _: Stream) {}
}

/// What a handshake has led to.
#[expect(
    clippy::large_enum_variant,
    reason = "it is looked at once, and nearly always is a request"
)]
pub enum Handshake<'a> {
    /// A stream to relay.
    Request(Request),
    /// Something else that the client's connection stands for, to be done for as long as it lasts.
    Job(Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>),
}

/// Answers to a client's request.
pub trait Reply: Send + Sync {
    /// The bytes that tell it that it is connected.
    fn success(&self) -> Vec<u8>;
    /// The bytes that tell it why it is not.
    fn failure(&self, error: &Error) -> Vec<u8>;
    /// Makes of its stream what it is from then on, once it has been told that it is connected.
    ///
    /// # Errors
    /// When it has said something that does not fit.
    fn begin(self: Box<Self>, _: &mut Stream) -> io::Result<()> {
        Ok(())
    }
}

/// Who asks for what: reads a client's handshake.
pub trait Inbound: Sync {
    /// Reads a request. What goes wrong is answered here, or deliberately not. Must return soon after `deadline`.
    fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        deadline: Instant,
    ) -> impl Future<Output = Result<Handshake<'_>, Error>> + Send;

    /// Deals with a stream on which the client broke the protocol after its handshake.
    fn drain_and_close(&self, stream: Stream) -> impl Future<Output = ()> + Send;
}

/// How to reach it.
pub trait Outbound: Sync {
    /// Whether connecting is so likely to succeed that a client may be told so before: saves a round trip.
    fn may_confirm_early(&self) -> bool;

    /// Connects to the target, or to the server that will.
    fn connect(&self, request: &Request) -> impl Future<Output = Result<Leg, Error>> + Send;
}

/// What was relayed, in payload bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// From the client.
    pub up: u64,
    /// To the client.
    pub down: u64,
}

/// Serves the stream of `peer` to its end. `ready` is called when the handshake is over, if it came to a request.
///
/// The future is what an idle connection holds, so nothing is in it twice: arguments of an `async fn` stay in it beside
/// whatever they were moved into.
pub fn serve<I: Inbound, O: Outbound>(
    stream: Stream,
    peer: SocketAddr,
    inbound: &I,
    outbound: &O,
    timeouts: &Timeouts,
    counters: &Counters,
    ready: impl FnOnce() + Send,
) -> impl Future<Output = ()> + Send {
    let record = FlowRecord::begin(peer, counters);
    fairness::note_interactive();
    // Boxed, so that what handshake and dial need is given back before the long part begins.
    let established = Box::pin(establish(stream, peer, inbound, outbound, timeouts, ready));
    async move {
        let established = match established.await {
            Ok(established) => established,
            Err((error, target)) => {
                return record.close(Some(&error), Traffic::default(), target.as_deref());
            }
        };
        match established {
            Established::Job(job) => {
                let error = job.await.err();
                record.close(error.as_ref(), Traffic::default(), None);
            }
            Established::Flow(mut flow, target) => {
                let error = flow.relay(timeouts).await.err();
                let traffic = flow.traffic();
                if let Some(client) = flow.close(error.as_deref()) {
                    Box::pin(inbound.drain_and_close(client)).await;
                }
                record.close(error.as_deref(), traffic, Some(&target));
            }
        }
    }
}

/// What is counted and logged of a stream.
struct FlowRecord<'a> {
    peer: SocketAddr,
    begun: Instant,
    counters: &'a Counters,
    _now: Gauge<'a>,
}

impl<'a> FlowRecord<'a> {
    fn begin(peer: SocketAddr, counters: &'a Counters) -> Self {
        counters.streams.fetch_add(1, Relaxed);
        Self {
            peer,
            begun: Instant::now(),
            counters,
            _now: Gauge::new(&counters.streams_now),
        }
    }

    fn close(self, error: Option<&Error>, traffic: Traffic, target: Option<&str>) {
        let Self {
            peer,
            begun,
            counters,
            _now,
        } = self;
        counters.bytes_up.fetch_add(traffic.up, Relaxed);
        counters.bytes_down.fetch_add(traffic.down, Relaxed);
        if let Some(error) = error {
            counters.fail(error.status());
        }
        tracing::debug!(
            %peer,
            target = target.unwrap_or("-"),
            status = error.map_or("ok", Error::status),
            error = error.map(tracing::field::display),
            up_bytes = traffic.up,
            down_bytes = traffic.down,
            elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            "stream ended"
        );
    }
}

/// What is left to do when the handshake is over.
enum Established<'a> {
    Flow(Box<Flow>, Box<str>),
    Job(Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>),
}

async fn establish<'a, I: Inbound, O: Outbound>(
    stream: Stream,
    peer: SocketAddr,
    inbound: &'a I,
    outbound: &O,
    timeouts: &Timeouts,
    ready: impl FnOnce() + Send,
) -> Result<Established<'a>, (Error, Option<Box<str>>)> {
    let accepted = inbound
        .handshake(stream, peer, Instant::now() + timeouts.handshake)
        .await
        .map_err(|error| (error, None))?;
    ready();
    let mut request = match accepted {
        Handshake::Request(request) => request,
        Handshake::Job(job) => return Ok(Established::Job(job)),
    };
    let target: Box<str> = request.target.to_string().into();
    match connect(&mut request, outbound, timeouts).await {
        Ok(upstream) => match Flow::new(request.leg, upstream) {
            Ok(flow) => Ok(Established::Flow(Box::new(flow), target)),
            Err(error) => Err((error, Some(target))),
        },
        Err(error) => {
            if request.trusted {
                // Nobody but the operator can mend it.
                tracing::warn!(%peer, %target, status = error.status(), %error, "cannot reach the target: the client is closed");
            }
            if let Some(reply) = &request.reply {
                // The client learns why; one that does not take the answer is gone anyway.
                let _ = timeout(
                    timeouts.half_close,
                    request.leg.stream.write_all(&reply.failure(&error)),
                )
                .await;
            } else {
                request.leg.stream.reset_on_close();
            }
            Err((error, Some(target)))
        }
    }
}

/// Connects, and sees to it that the client's first bytes are there to ride with the head.
async fn connect<O: Outbound>(
    request: &mut Request,
    outbound: &O,
    timeouts: &Timeouts,
) -> Result<Leg, Error> {
    let early = outbound.may_confirm_early();
    if early {
        confirm(request).await?;
    }
    let upstream = outbound.connect(request).await?;
    if !early {
        confirm(request).await?;
    }
    let awaits_payload = upstream
        .codec
        .as_ref()
        .is_some_and(|(_, sealer)| sealer.at_head());
    if awaits_payload && matches!(request.leg.first, First::Nothing) {
        // Whether they came or not, the request goes now: a server that speaks first must not wait.
        let _ = timeout(timeouts.first_payload, request.leg.stream.readable()).await;
    }
    Ok(upstream)
}

async fn confirm(request: &mut Request) -> Result<(), Error> {
    if let Some(reply) = request.reply.take() {
        request
            .leg
            .stream
            .write_all(&reply.success())
            .await
            .map_err(Error::io(Side::Client))?;
        reply
            .begin(&mut request.leg.stream)
            .map_err(Error::io(Side::Client))?;
    }
    Ok(())
}

/// How long a flow lasts before it is worth the system calls that probe its upstream; the client's end has inherited
/// them from its listener.
const SETTLED: Duration = Duration::from_secs(10);

/// Two connected legs.
struct Flow {
    client: Stream,
    upstream: Stream,
    up: Half,
    down: Half,
    turn: Turn,
}

impl Flow {
    /// Joins the legs; at most one of them can be encrypted.
    fn new(client: Leg, upstream: Leg) -> Result<Self, Error> {
        let (up, down) = match (client.codec, upstream.codec) {
            (None, None) => (Codec::Copy, Codec::Copy),
            (None, Some((opener, sealer))) => (Codec::Seal(sealer), Codec::Open(opener)),
            (Some((opener, sealer)), None) => (Codec::Open(opener), Codec::Seal(sealer)),
            (Some(_), Some(_)) => {
                return Err(Error::NotOffered(
                    "relaying from one encrypted stream into another",
                ));
            }
        };
        // The streams of one carrier have a core between them, and with large buffers each fall out of its cache.
        let largest = if client.stream.is_pipe() || upstream.stream.is_pipe() {
            Size::Medium
        } else {
            Size::Large
        };
        let mut up = Half::new(up, Side::Client, largest);
        up.begin(client.first);
        Ok(Self {
            client: client.stream,
            upstream: upstream.stream,
            up,
            down: Half::new(down, Side::Upstream, largest),
            turn: Turn::new(),
        })
    }

    fn traffic(&self) -> Traffic {
        Traffic {
            up: self.up.moved(),
            down: self.down.moved(),
        }
    }

    fn moved(&self) -> u64 {
        self.up.moved() + self.down.moved()
    }

    /// Moves bytes in both directions, if it is this flow's turn. How many of them have ended.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<usize, Error> {
        let mut ended = usize::from(self.up.is_done()) + usize::from(self.down.is_done());
        if !self.turn.may_go_on(cx.waker()) {
            return Ok(ended);
        }
        let before = self.moved();
        for (half, source, sink) in [
            (&mut self.up, &self.client, &self.upstream),
            (&mut self.down, &self.upstream, &self.client),
        ] {
            if !half.is_done() && half.poll(cx, source, sink, ended == 1)?.is_ready() {
                ended += 1;
            }
        }
        self.turn.after(cx.waker(), self.moved() - before);
        Ok(ended)
    }

    /// Closes both streams after [`Flow::relay`], but for a client's that has broken the protocol: that is returned.
    fn close(self: Box<Self>, error: Option<&Error>) -> Option<Stream> {
        match error {
            None | Some(Error::Idle { .. }) => None,
            Some(
                Error::Wire {
                    side: Side::Client, ..
                }
                | Error::Cut(Side::Client),
            ) => {
                self.upstream.reset_on_close();
                Some(self.client)
            }
            // A broken stream is passed on as one, or the other end would take a part for the whole.
            Some(_) => {
                self.client.reset_on_close();
                self.upstream.reset_on_close();
                None
            }
        }
    }

    /// Relays until both directions have ended, one side breaks, or nothing moves any more.
    async fn relay(&mut self, timeouts: &Timeouts) -> Result<(), Box<Error>> {
        let mut running = Running {
            flow: self,
            timeouts,
            idle: IdleTimer::new(timeouts.idle),
            settling: timeouts.keep_alive,
        };
        let settles = timeouts
            .keep_alive
            .map_or(Duration::MAX, |time| SETTLED.min(time));
        let mut tick = pin!(sleep(running.idle.period().min(settles)));
        poll_fn(|cx| running.poll(cx, tick.as_mut())).await
    }
}

/// A flow, and what is to be watched while it runs.
struct Running<'a> {
    flow: &'a mut Flow,
    timeouts: &'a Timeouts,
    idle: IdleTimer,
    settling: Option<Duration>,
}

impl Running<'_> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut tick: Pin<&mut Sleep>,
    ) -> Poll<Result<(), Box<Error>>> {
        let (flow, idle) = (&mut *self.flow, &mut self.idle);
        let ended = flow.turn(cx)?;
        match ended {
            2 => return Poll::Ready(Ok(())),
            1 => {
                // It has a short limit now, which the timer is for alone: no probes.
                if self.settling.take().is_some() {
                    tick.as_mut().reset(Instant::now() + idle.period());
                }
                idle.shorten(self.timeouts.half_close, tick.as_mut());
            }
            _ => {}
        }
        if let Some(time) = self.settling
            && tick.as_mut().poll(cx).is_ready()
        {
            self.settling = None;
            // Where the system refuses, the idle timeout remains.
            let _ = flow.upstream.keep_alive(time);
            tick.as_mut().reset(Instant::now() + idle.period());
        }
        idle.poll(cx, tick, flow.moved())
            .map(|error| Err(Box::new(error)))
    }
}
