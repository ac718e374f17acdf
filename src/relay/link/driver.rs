//! The task of a link: joins the core with the carrier, the streams' pipes and the host.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::carrier::{Incoming, Outgoing};
use super::core::{Core, CoreError, Read, Sink, Source};
use super::event::{Event, Host};
use super::handle::{Command, Handle, Inbox, Shared, StreamWaker};
use super::limits::MAX_ROUNDS;
use super::own::{Arrivals, Openings};
use super::settings::{LinkRole, Settings};
use super::visitor::Visitor;
use crate::crypto::Method;
use crate::net::pipe::{Pipe, Taken};
use crate::net::quic::Beside;
use crate::net::{FAREWELL, Stream, pool};
use crate::relay::leg::{First, Leg};
use crate::relay::sealed::StreamError;
use crate::relay::{Error, Side};
use crate::wire::reverse::{Code, Connect, Frame, LinkSecret, OwnStreams, Protocol};
use crate::wire::ss::stream::Sealer;

/// How long a peer should wait before it connects again after this side has stopped.
const RETRY: Duration = Duration::from_millis(500);

/// Runs a link over `leg` until it closes.
///
/// # Errors
/// Why the link failed; its streams are reset.
pub async fn run<H: Host>(
    leg: Leg,
    settings: Settings,
    handle: &Handle,
    host: &mut H,
) -> Result<(), Error> {
    let mut link = Link::new(leg, settings, handle, host);
    let mut timer = pin!(sleep_until(link.started));
    let result = match link.receive_early() {
        Ok(()) => poll_fn(|cx| link.poll(cx, timer.as_mut())).await,
        Err(error) => Err(error),
    };
    handle.0.close();
    if matches!(
        result,
        Ok(()) | Err(Error::Wire { .. } | Error::Overloaded(_))
    ) {
        link.farewell(result.as_ref().err()).await;
    }
    if result.is_err() {
        link.stream.reset_on_close();
    }
    result
}

struct Link<'a, H> {
    stream: Stream,
    incoming: Incoming,
    outgoing: Outgoing,
    core: Core,
    local: Local<'a, H>,
    inbox: Inbox,
    /// That visitors may have streams of their own, until the peer has said so, too.
    offer: Option<Offer>,
    started: Instant,
    sent_go_away: bool,
    /// The peer has closed the carrier after a GoAway.
    peer_closed: bool,
    /// Who is at fault for errors of the carrier.
    side: Side,
}

/// The local side of the core: the pipes of its streams, and the host.
struct Local<'a, H> {
    shared: Arc<Shared>,
    pipes: HashMap<u64, (Pipe, Waker)>,
    /// The services that this side has registered.
    services: HashMap<u64, Protocol>,
    host: &'a mut H,
    received_go_away: bool,
    /// What the core's events lead to, done once the core has returned: new streams to watch, ...
    connected: Vec<u64>,
    /// ... visitors of unknown services to refuse, ...
    refused: Vec<u64>,
    /// ... and streams to reset, because nobody reads them.
    broken: Vec<u64>,
}

/// What this side needs for visitors with streams of their own.
struct Offer {
    beside: Beside,
    method: Method,
    own: OwnStreams,
}

/// Why a step of a link failed.
enum LinkError {
    Carrier(StreamError),
    Core(CoreError),
}

impl From<StreamError> for LinkError {
    fn from(fault: StreamError) -> Self {
        Self::Carrier(fault)
    }
}

impl<'a, H: Host> Link<'a, H> {
    fn new(leg: Leg, settings: Settings, handle: &Handle, host: &'a mut H) -> Self {
        let (opener, sealer) = leg.codec.unzip();
        let method = sealer.as_ref().map_or(Method::None, Sealer::method);
        let beside = Beside::of(&leg.stream);
        let own = match (&beside, settings.role) {
            (None, _) => OwnStreams::No,
            (Some(_), LinkRole::Server) => OwnStreams::Yes,
            (Some(_), LinkRole::Client) => OwnStreams::With(LinkSecret(rand::random())),
        };
        let mut core = Core::offering(own, settings.role, settings.heartbeat, Duration::ZERO);
        core.limit_unread(pool::budget());
        let first = match leg.first {
            First::Opened(buffer) => Some(buffer),
            // Both ends send their Hello at once, but the server's comes in the stream itself, and the client's is in the
            // buffer that its request was opened in. Only inbounds without encryption read bytes ahead.
            First::Nothing | First::Ahead(_) => None,
        };
        Self {
            stream: leg.stream,
            incoming: Incoming::new(opener, first),
            outgoing: Outgoing::new(sealer),
            core,
            local: Local {
                shared: Arc::clone(&handle.0),
                pipes: HashMap::new(),
                services: HashMap::new(),
                host,
                received_go_away: false,
                connected: Vec::new(),
                refused: Vec::new(),
                broken: Vec::new(),
            },
            inbox: Inbox::default(),
            offer: beside.map(|beside| Offer {
                beside,
                method,
                own,
            }),
            started: Instant::now(),
            sent_go_away: false,
            peer_closed: false,
            side: match settings.role {
                LinkRole::Server => Side::Client,
                LinkRole::Client => Side::Upstream,
            },
        }
    }
}

impl<H: Host> Link<'_, H> {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn error(&self, error: LinkError) -> Error {
        let side = self.side;
        match error {
            LinkError::Carrier(error) => error.blame(side),
            LinkError::Core(CoreError::Wire(source)) => Error::Wire { side, source },
            LinkError::Core(CoreError::Overloaded(reason)) => Error::Overloaded(reason),
            LinkError::Core(CoreError::Timeout(time)) => Error::Silent {
                side,
                seconds: time.as_secs(),
            },
        }
    }

    /// Handles the bytes that arrived with the request.
    fn receive_early(&mut self) -> Result<(), Error> {
        let now = self.now();
        let (core, local) = (&mut self.core, &mut self.local);
        let received = self
            .incoming
            .begin(|bytes| core.receive(now, bytes, local).map_err(LinkError::Core));
        received.map_err(|error| self.error(error))
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
    ) -> Poll<Result<(), Error>> {
        for _ in 0..MAX_ROUNDS {
            let mut busy = self.take_inbox(cx)?;
            if self.inbox.flags.evicted {
                return Poll::Ready(Err(Error::Replaced));
            }
            busy |= self.read(cx)?;
            self.local.host.poll(cx);
            self.follow_up();
            busy |= self.take_inbox(cx)?;
            busy |= self.write(cx)?;
            if self.is_finished() {
                return Poll::Ready(Ok(()));
            }
            if !busy {
                return self.wait(cx, timer.as_mut());
            }
        }
        // What keeps the link busy need not come from the peer, so the heartbeat is checked here too.
        if self.now() >= self.core.timeout() {
            self.tick()?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn tick(&mut self) -> Result<(), Error> {
        let ticked = self.core.tick(self.now());
        ticked.map_err(|error| self.error(LinkError::Core(error)))
    }

    /// Arms the timer of the heartbeat.
    fn wait(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
    ) -> Poll<Result<(), Error>> {
        loop {
            let due = self.started + self.core.timeout();
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.tick()?;
            if !self.core.is_idle() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    fn is_finished(&self) -> bool {
        if self.peer_closed {
            return true;
        }
        self.sent_go_away
            && self.core.streams() == 0
            && self.core.is_idle()
            && self.outgoing.is_empty()
            && !self.local.host.is_busy()
    }

    /// Does what other tasks have requested; `false` if there was nothing.
    fn take_inbox(&mut self, cx: &Context<'_>) -> Result<bool, Error> {
        let streams = self.core.streams();
        let found = self.local.shared.take(cx.waker(), &mut self.inbox, streams);
        if self.inbox.flags.overloaded {
            return Err(Error::Overloaded("too many commands wait for the link"));
        }
        if self.inbox.flags.stopping && !self.sent_go_away {
            self.sent_go_away = true;
            self.local.host.event(Event::Stopping);
            self.core.go_away(Code::STOPPING, RETRY, "shutting down");
        }
        if !found {
            return Ok(false);
        }
        let now = self.now();
        while let Some(command) = self.inbox.commands.pop_front() {
            self.command(now, command);
        }
        while let Some((id, payload)) = self.inbox.datagrams.pop() {
            self.core.datagram(id, payload);
        }
        let mut ready = std::mem::take(&mut self.inbox.ready);
        for id in ready.drain(..) {
            self.poll_pipe(now, id);
        }
        self.inbox.ready = ready;
        let checked = self.core.check_backlog();
        checked.map_err(|error| self.error(LinkError::Core(error)))?;
        Ok(true)
    }

    fn command(&mut self, now: Duration, command: Command) {
        match command {
            Command::Register {
                service,
                protocol,
                frame,
            } => {
                self.local.services.insert(service, protocol);
                self.core.send_encoded(frame);
            }
            Command::RegisterResult { frame } => self.core.send_encoded(frame),
            Command::Connect { visitor, pipe } => {
                let id = visitor.id;
                if !self.core.connect(now, id, visitor.connect()) {
                    self.local.host.event(Event::Closed { id });
                } else if let Some(pipe) = pipe {
                    pipe.set_credit(self.core.send_credit(id));
                    self.local.insert(id, pipe);
                    self.poll_pipe(now, id);
                }
            }
            Command::ConnectResult { id, code, message } => {
                self.core.connect_result(id, code, &message);
                if code != Code::OK {
                    self.local.remove(id);
                }
            }
            Command::Reset { id } => self.reset(id),
            Command::Probe => self.core.probe(now),
        }
    }

    /// Checks what a stream's user has done: read, written, ended or closed.
    fn poll_pipe(&mut self, now: Duration, id: u64) {
        let Some((pipe, waker)) = self.local.pipes.get(&id) else {
            return;
        };
        let mut cx = Context::from_waker(waker);
        pipe.watch(&cx);
        if let Some(count) = pipe.take_credit() {
            let growth = self.core.consumed(now, id, count);
            if growth > 0 {
                pipe.grow_window(growth);
            }
        }
        match pipe.poll_take(&mut cx, &mut []) {
            Poll::Pending => {}
            // Not through the core's turns: a stream that has sent its Fin gets no more of them.
            Poll::Ready(Taken::Reset) => self.reset(id),
            // Its user is gone in the middle of it, so the other side has nobody to talk to.
            Poll::Ready(Taken::End) if pipe.was_left_open() => self.reset(id),
            Poll::Ready(Taken::Bytes(_) | Taken::End) => self.core.wake(id),
        }
    }

    fn reset(&mut self, id: u64) {
        self.core.reset(id);
        self.local.remove(id);
    }

    /// Lets visitors have streams of their own, once both ends have said that they can.
    fn take_up_offer(&mut self) {
        let peer = self.core.peer_streams();
        if peer == OwnStreams::No {
            return;
        }
        let Some(Offer {
            beside,
            method,
            own,
        }) = self.offer.take()
        else {
            return;
        };
        match (own, peer) {
            (OwnStreams::Yes, OwnStreams::With(secret)) => {
                let _ = (self.local.shared.own).set(Openings::new(beside, method, secret));
            }
            (OwnStreams::With(secret), OwnStreams::Yes) => {
                let arrivals = Arrivals::new(beside, method, secret);
                self.local.host.event(Event::Arrivals(Arc::new(arrivals)));
            }
            _ => {}
        }
    }

    /// Does what the core's events have led to.
    fn follow_up(&mut self) {
        self.take_up_offer();
        let now = self.now();
        for id in std::mem::take(&mut self.local.connected) {
            self.poll_pipe(now, id);
        }
        for id in std::mem::take(&mut self.local.refused) {
            self.core
                .connect_result(id, Code::INVALID, "no such service");
        }
        for id in std::mem::take(&mut self.local.broken) {
            self.reset(id);
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        let now = self.now();
        let (core, local) = (&mut self.core, &mut self.local);
        let read = self.incoming.poll(cx, &self.stream, |bytes| {
            core.receive(now, bytes, local).map_err(LinkError::Core)
        });
        match read {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(LinkError::Carrier(StreamError::End)))
                if self.local.received_go_away =>
            {
                self.peer_closed = true;
                Ok(false)
            }
            Poll::Ready(Err(error)) => Err(self.error(error)),
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        let (core, local) = (&mut self.core, &mut self.local);
        let filled = if core.is_idle() && self.outgoing.is_empty() {
            Ok(false)
        } else {
            self.outgoing.fill(|out| core.transmit(out, local))
        };
        if !filled.map_err(|error| self.error(LinkError::Core(CoreError::Wire(error))))? {
            return Ok(false);
        }
        match self.outgoing.poll_write(cx, &self.stream) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(error)) => Err(self.error(LinkError::Carrier(StreamError::Io(error)))),
        }
    }

    /// Sends what is queued and, after an error, a GoAway, if the peer still reads.
    async fn farewell(&mut self, error: Option<&Error>) {
        if let Some(error) = error {
            self.core.go_away(Code::PROTOCOL, RETRY, &error.to_string());
        }
        self.local.pipes.clear();
        let last = poll_fn(|cx| {
            loop {
                match self.write(cx) {
                    Ok(true) => {}
                    Ok(false) if self.outgoing.is_empty() => return self.stream.poll_shutdown(cx),
                    Ok(false) => return Poll::Pending,
                    Err(_) => return Poll::Ready(Ok(())),
                }
            }
        });
        // The link is closed in any case.
        let _ = tokio::time::timeout(FAREWELL, last).await;
    }
}

impl<H: Host> Local<'_, H> {
    fn insert(&mut self, id: u64, pipe: Pipe) {
        let waker = Waker::from(Arc::new(StreamWaker {
            shared: Arc::clone(&self.shared),
            id,
        }));
        self.pipes.insert(id, (pipe, waker));
    }

    /// Removes a stream or flow. Tells the host even of those that it has closed itself, since flows have no pipe.
    fn remove(&mut self, id: u64) {
        self.pipes.remove(&id);
        self.host.event(Event::Closed { id });
    }

    /// Makes a visitor's stream, if its service has streams, and hands it to the host.
    fn connect(&mut self, id: u64, connect: Connect<'_>) {
        let stream = match self.services.get(&connect.service) {
            None => return self.refused.push(id),
            Some(Protocol::Udp) => None,
            Some(Protocol::Tcp | Protocol::Http) => {
                let (stream, pipe) = self.shared.pipe();
                self.insert(id, pipe);
                self.connected.push(id);
                Some(stream)
            }
        };
        let visitor = Visitor::new(id, connect);
        self.host.event(Event::Connect { visitor, stream });
    }
}

impl<H: Host> Sink for Local<'_, H> {
    fn data(&mut self, id: u64, bytes: &[u8]) {
        if let Some((pipe, _)) = self.pipes.get(&id)
            && pipe.push(bytes).is_err()
        {
            // The user has closed the stream. The window cannot be exceeded, since the core counts it too.
            self.pipes.remove(&id);
            self.broken.push(id);
        }
    }

    fn credit(&mut self, id: u64, bytes: u64) {
        if let Some((pipe, _)) = self.pipes.get(&id) {
            pipe.set_credit(bytes);
        }
    }

    fn take_consumed(&mut self, id: u64) -> usize {
        let pipe = self.pipes.get(&id);
        pipe.map_or(0, |(pipe, _)| pipe.take_all_credit())
    }

    fn grow(&mut self, id: u64, by: usize) {
        if let Some((pipe, _)) = self.pipes.get(&id) {
            pipe.grow_window(by);
        }
    }

    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Frame(Frame::Connect { id, connect }) => self.connect(id, connect),
            Event::Frame(Frame::ConnectResult { id, code, .. }) => {
                self.host.event(event);
                if code != Code::OK {
                    self.remove(id);
                }
            }
            Event::Frame(Frame::Fin { id }) => {
                if let Some((pipe, _)) = self.pipes.get(&id) {
                    pipe.finish();
                }
            }
            Event::Frame(Frame::Reset { id }) => {
                if let Some((pipe, _)) = self.pipes.get(&id) {
                    pipe.reset();
                }
                self.remove(id);
            }
            Event::Frame(Frame::GoAway { .. }) => {
                self.received_go_away = true;
                self.host.event(event);
            }
            Event::Closed { id } => self.remove(id),
            event => self.host.event(event),
        }
    }
}

impl<H: Host> Source for Local<'_, H> {
    fn read(&mut self, id: u64, out: &mut [u8]) -> Read {
        let Some((pipe, waker)) = self.pipes.get(&id) else {
            return Read::Empty;
        };
        match pipe.poll_take(&mut Context::from_waker(waker), out) {
            Poll::Pending => Read::Empty,
            Poll::Ready(Taken::Bytes(count)) => Read::Bytes(count),
            Poll::Ready(Taken::End) if !pipe.was_left_open() => Read::End,
            Poll::Ready(Taken::End | Taken::Reset) => {
                self.pipes.remove(&id);
                Read::Reset
            }
        }
    }
}

#[cfg(test)]
mod tests;
