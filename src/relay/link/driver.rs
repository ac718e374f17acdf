//! The task of a link.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::carrier::{Incoming, Outgoing};
use super::core::{Core, Event, LinkRole, Over, Read, Sink, Source};
use super::handle::{CAPACITY, Command, Handle, Shared, StreamWaker, Waiting};
use super::{Host, Kind, Settings, Visitor, window};
use crate::net::pipe::{self, Pipe, Refused, Taken};
use crate::net::{FAREWELL, Stream};
use crate::relay::leg::{First, Leg};
use crate::relay::sealed::StreamError;
use crate::relay::{Error, Side};
use crate::wire::reverse::{Code, Open, Register};

/// Rounds of reading and writing after which another task of the worker gets its turn.
const MAX_ROUNDS: usize = 2;
/// When another link is welcome after one that was stopped.
const RETRY: Duration = Duration::from_millis(500);

/// Runs a link over `leg` until it is over.
///
/// # Errors
/// Why it broke; the streams that it carried are reset.
pub async fn run<H: Host>(
    leg: Leg,
    settings: Settings,
    handle: &Handle,
    host: &mut H,
) -> Result<(), Error> {
    let mut link = Link::new(leg, settings, handle, host);
    let mut timer = pin!(sleep_until(link.begun));
    let result = match link.begin() {
        Ok(()) => poll_fn(|cx| link.poll(cx, timer.as_mut())).await,
        Err(error) => Err(error),
    };
    handle.0.close();
    if result.is_ok() || matches!(result, Err(Error::Wire { .. })) {
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
    pipes: Pipes<'a, H>,
    waiting: Waiting,
    begun: Instant,
    /// GoAway has been said.
    leaving: bool,
    /// The other end has left as it said.
    ended: bool,
    side: Side,
}

/// What is beside the core: the pipes of its streams, and the host.
struct Pipes<'a, H> {
    shared: Arc<Shared>,
    table: HashMap<u64, (Pipe, Waker)>,
    host: &'a mut H,
    /// The other end has said that it leaves: then its end is no surprise.
    leaves: bool,
    /// What the core is to be told after it has told us: new streams, answers, streams that nobody reads any more.
    opened: Vec<u64>,
    answers: Vec<Reaction>,
    broken: Vec<u64>,
}

enum Reaction {
    Registered(u64, super::Answer),
    Refused(u64, Code, &'static str),
}

/// Why a turn ended early.
enum Broken {
    Carrier(StreamError),
    Core(Over),
}

impl From<StreamError> for Broken {
    fn from(fault: StreamError) -> Self {
        Self::Carrier(fault)
    }
}

impl<'a, H: Host> Link<'a, H> {
    fn new(leg: Leg, settings: Settings, handle: &Handle, host: &'a mut H) -> Self {
        let begun = Instant::now();
        let (opener, sealer) = leg.codec.unzip();
        let first = match leg.first {
            First::Opened(buffer) => Some(buffer),
            // A carrier's client is another link, which says nothing before its request is answered.
            First::Nothing | First::Ahead(_) => None,
        };
        Self {
            stream: leg.stream,
            incoming: Incoming::new(opener, first),
            outgoing: Outgoing::new(sealer),
            core: Core::new(settings.end, settings.heartbeat, Duration::ZERO),
            pipes: Pipes {
                shared: Arc::clone(&handle.0),
                table: HashMap::new(),
                host,
                leaves: false,
                opened: Vec::new(),
                answers: Vec::new(),
                broken: Vec::new(),
            },
            waiting: Waiting::default(),
            begun,
            leaving: false,
            ended: false,
            side: match settings.end {
                LinkRole::Server => Side::Client,
                LinkRole::Client => Side::Upstream,
            },
        }
    }
}

impl<H: Host> Link<'_, H> {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn fail(&self, broken: Broken) -> Error {
        let side = self.side;
        match broken {
            Broken::Carrier(error) => error.blame(side),
            Broken::Core(Over::Wire(source)) => Error::Wire { side, source },
            Broken::Core(Over::Silent(time)) => Error::Silent {
                side,
                seconds: time.as_secs(),
            },
        }
    }

    /// Takes in what came with the request.
    fn begin(&mut self) -> Result<(), Error> {
        let now = self.now();
        let (core, pipes) = (&mut self.core, &mut self.pipes);
        let begun = self
            .incoming
            .begin(|bytes| core.receive(now, bytes, pipes).map_err(Broken::Core));
        begun.map_err(|broken| self.fail(broken))
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
    ) -> Poll<Result<(), Error>> {
        for _ in 0..MAX_ROUNDS {
            let mut busy = self.take(cx);
            if self.waiting.evicted {
                return Poll::Ready(Err(Error::Replaced));
            }
            busy |= self.read(cx)?;
            self.pipes.host.poll(cx);
            self.react();
            busy |= self.take(cx);
            busy |= self.write(cx)?;
            if self.is_over() {
                return Poll::Ready(Ok(()));
            }
            if !busy {
                return self.wait(cx, timer.as_mut());
            }
        }
        // Whoever keeps us busy need not be the other end.
        if self.now() >= self.core.timeout() {
            self.tick()?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn tick(&mut self) -> Result<(), Error> {
        let ticked = self.core.tick(self.begun.elapsed());
        ticked.map_err(|over| self.fail(Broken::Core(over)))
    }

    fn wait(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
    ) -> Poll<Result<(), Error>> {
        loop {
            let due = self.begun + self.core.timeout();
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

    fn is_over(&self) -> bool {
        if self.ended {
            return true;
        }
        self.leaving
            && self.core.streams() == 0
            && self.core.is_idle()
            && self.outgoing.is_empty()
            && !self.pipes.host.is_busy()
    }

    /// Does what others have asked for.
    fn take(&mut self, cx: &Context<'_>) -> bool {
        let some = self.pipes.shared.take(cx.waker(), &mut self.waiting);
        if self.waiting.stopping && !self.leaving {
            self.leaving = true;
            self.pipes.host.leaving();
            self.core.go_away(Code::STOPPING, RETRY, "stopping");
        }
        if !some {
            return false;
        }
        let now = self.now();
        while let Some(command) = self.waiting.commands.pop_front() {
            self.command(now, command);
        }
        while let Some((id, bytes)) = self.waiting.datagrams.pop_front() {
            self.core.datagram(id, bytes);
        }
        let mut ready = std::mem::take(&mut self.waiting.ready);
        for id in ready.drain(..) {
            self.look(now, id);
        }
        self.waiting.ready = ready;
        true
    }

    fn command(&mut self, now: Duration, command: Command) {
        match command {
            Command::Register(offer) => self.core.register(
                offer.service,
                Register {
                    protocol: offer.protocol,
                    group: offer.group,
                    replace: true,
                    bind: offer.bind.as_ref(),
                    name: &offer.name,
                    token: &offer.token,
                    host: &offer.host,
                },
            ),
            Command::Open {
                id,
                service,
                source,
                destination,
                pipe,
            } => {
                let open = Open {
                    service,
                    source: source.as_ref(),
                    destination: destination.as_ref(),
                };
                if !self.core.open(now, id, open) {
                    self.pipes.host.closed(id);
                } else if let Some(pipe) = pipe {
                    self.pipes.add(id, pipe);
                    self.look(now, id);
                }
            }
            Command::Answer(id, code, message) => {
                self.core.answer(id, code, &message);
                if code != Code::OK {
                    self.pipes.forget(id);
                }
            }
            Command::Reset(id) => self.reset(id),
            Command::Probe => self.core.probe(now),
        }
    }

    /// Looks what a stream's user has done.
    fn look(&mut self, now: Duration, id: u64) {
        let Some((pipe, waker)) = self.pipes.table.get(&id) else {
            return;
        };
        let mut cx = Context::from_waker(waker);
        pipe.watch(&cx);
        if let Some(count) = pipe.take_credit() {
            let growth = self.core.consumed(now, id, count);
            if growth > 0 {
                pipe.widen(growth);
            }
        }
        match pipe.poll_take(&mut cx, &mut []) {
            Poll::Pending => {}
            // At once: a stream that has said its end has no more turns.
            Poll::Ready(Taken::Reset) => self.reset(id),
            Poll::Ready(Taken::Bytes(_) | Taken::End) => self.core.wake(id),
        }
    }

    fn reset(&mut self, id: u64) {
        self.core.reset(id);
        self.pipes.forget(id);
    }

    /// Tells the core what it has caused.
    fn react(&mut self) {
        let now = self.now();
        for id in std::mem::take(&mut self.pipes.opened) {
            self.look(now, id);
        }
        for reaction in std::mem::take(&mut self.pipes.answers) {
            match reaction {
                Reaction::Registered(service, answer) => {
                    self.core
                        .registered(service, answer.code, answer.bound.into(), &answer.message)
                }
                Reaction::Refused(id, code, message) => self.core.answer(id, code, message),
            }
        }
        for id in std::mem::take(&mut self.pipes.broken) {
            self.reset(id);
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        let now = self.now();
        let (core, pipes) = (&mut self.core, &mut self.pipes);
        let read = self.incoming.poll(cx, &self.stream, |bytes| {
            core.receive(now, bytes, pipes).map_err(Broken::Core)
        });
        match read {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(Broken::Carrier(StreamError::End))) if self.pipes.leaves => {
                self.ended = true;
                Ok(false)
            }
            Poll::Ready(Err(broken)) => Err(self.fail(broken)),
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        let (core, pipes) = (&mut self.core, &mut self.pipes);
        let filled = if core.is_idle() && self.outgoing.is_empty() {
            Ok(false)
        } else {
            self.outgoing.fill(|out| core.transmit(out, pipes))
        };
        let some = filled.map_err(|error| self.fail(Broken::Core(Over::Wire(error))))?;
        if !some {
            return Ok(false);
        }
        match self.outgoing.poll_write(cx, &self.stream) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(error)) => Err(self.fail(Broken::Carrier(StreamError::Io(error)))),
        }
    }

    /// The last words, if the other end takes them.
    async fn farewell(&mut self, error: Option<&Error>) {
        if let Some(error) = error {
            self.core.go_away(Code::PROTOCOL, RETRY, &error.to_string());
        }
        self.pipes.table.clear();
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
        // Whether it has heard them is its own affair.
        let _ = tokio::time::timeout(FAREWELL, last).await;
    }
}

impl<H: Host> Pipes<'_, H> {
    fn add(&mut self, id: u64, pipe: Pipe) {
        let waker = Waker::from(Arc::new(StreamWaker {
            shared: Arc::clone(&self.shared),
            id,
        }));
        self.table.insert(id, (pipe, waker));
    }

    /// A stream or flow is over. The host is told of those that we end too: it knows flows that have no pipe.
    fn forget(&mut self, id: u64) {
        self.table.remove(&id);
        self.host.closed(id);
    }

    fn opened(&mut self, id: u64, open: Open<'_>) {
        let refused = match self.host.kind(open.service) {
            None => Some("no such service"),
            Some(kind) => {
                let visitor = Visitor {
                    id,
                    service: open.service,
                    source: open.source.to_owned(),
                    destination: open.destination.to_owned(),
                };
                match kind {
                    Kind::Datagrams => self.host.flow(visitor),
                    Kind::Streams => {
                        let (stream, pipe) = pipe::pair(window::INITIAL as usize, CAPACITY);
                        self.add(id, pipe);
                        self.opened.push(id);
                        self.host.stream(visitor, stream);
                    }
                }
                None
            }
        };
        if let Some(message) = refused {
            self.answers
                .push(Reaction::Refused(id, Code::INVALID, message));
        }
    }
}

impl<H: Host> Sink for Pipes<'_, H> {
    fn data(&mut self, id: u64, bytes: &[u8]) {
        let Some((pipe, _)) = self.table.get(&id) else {
            return;
        };
        match pipe.push(bytes) {
            Ok(()) => {}
            // The core has counted otherwise: then the count, not the peer, is wrong, and the stream cannot go on.
            Err(Refused::Closed | Refused::Window) => {
                self.table.remove(&id);
                self.broken.push(id);
            }
        }
    }

    fn datagram(&mut self, id: u64, bytes: &[u8]) {
        self.host.datagram(id, bytes);
    }

    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Register(service, register) => {
                let answer = self.host.register(service, register);
                self.answers.push(Reaction::Registered(service, answer));
            }
            Event::Registered {
                service,
                code,
                bound,
                message,
            } => self.host.registered(service, code, bound, message),
            Event::Opened(id, open) => self.opened(id, open),
            Event::Answered(id, code, message) => {
                if code != Code::OK {
                    self.host.refused(id, message);
                    self.forget(id);
                }
            }
            Event::Finished(id) => {
                if let Some((pipe, _)) = self.table.get(&id) {
                    pipe.finish();
                }
            }
            // A pipe that was not finished is reset by its drop.
            Event::Reset(id) => {
                if let Some((pipe, _)) = self.table.remove(&id) {
                    pipe.reset();
                }
                self.host.closed(id);
            }
            Event::Closed(id) => self.forget(id),
            Event::GoAway(code, retry, message) => {
                self.leaves = true;
                self.host.going_away(code, retry, message);
            }
        }
    }
}

impl<H: Host> Source for Pipes<'_, H> {
    fn read(&mut self, id: u64, out: &mut [u8]) -> Read {
        let Some((pipe, waker)) = self.table.get(&id) else {
            return Read::Empty;
        };
        match pipe.poll_take(&mut Context::from_waker(waker), out) {
            Poll::Pending => Read::Empty,
            Poll::Ready(Taken::Bytes(count)) => Read::Bytes(count),
            Poll::Ready(Taken::End) => Read::End,
            Poll::Ready(Taken::Reset) => {
                self.table.remove(&id);
                Read::Reset
            }
        }
    }
}

#[cfg(test)]
mod tests;
