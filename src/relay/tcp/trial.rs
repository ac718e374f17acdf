//! Tries a request on the next server, as long as the client has noticed nothing.
//!
//! A server that can be connected to may still close, reset or say nothing, for example because its process is stopped
//! or the key is wrong. Until the first byte of a response has come back, the request can go to another server, if it
//! cannot run twice by that:
//!
//! - The client has sent nothing, or the beginning of a ClientHello of TLS: another server is asked when this one closes.
//! - The client has sent a ClientHello without early data: another server is also asked when this one is silent for too
//!   long. Then the first that answers wins.
//! - The client has sent anything else: another server is asked only if nothing was acknowledged by this one.
//! - If this server has never answered anything, it may not know the key, and then nothing has run: another one is also asked
//!   when this one closes, and when it is silent if the request is one of HTTP that may run twice (GET, HEAD, OPTIONS).
//! - All that the client may send can run twice ([`Inbound::may_repeat`](super::Inbound::may_repeat)): as for a ClientHello.
//!
//! Until then what the client has sent is kept, up to 16 KiB. Then the flow goes on without a trace of this.

use std::io::{self, IoSliceMut};
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::request::Request;
use crate::limits::MAX_KEPT_REQUEST;
use crate::net::Stream;
use crate::net::pool::{Buffer, Size};
use crate::net::slots::scatter;
use crate::relay::error::{Error, Side};
use crate::relay::leg::{Failure, First, Leg, Others};
use crate::relay::sealed::{self, StreamError};
use crate::relay::sizing::Sizing;
use crate::wire::Address;
use crate::wire::client_hello::{self, Hello};
use crate::wire::ss::stream::{Opener, Sealer};

/// How long a request without a first payload is watched: after that its flow shall hold no memory for this.
const WATCHED: Duration = Duration::from_secs(10);
/// The same for a server that has never answered: servers close the connections of those they do not know only after a time.
const WATCHED_LONGER: Duration = Duration::from_secs(60);

/// Sends the first payload of `request`, and waits until the upstream has answered or must be kept in any case. Returns
/// the upstream that is to be used and the bytes of payload that have been sent on it.
///
/// # Errors
/// That of the first upstream, when it broke and no other answered.
pub(super) async fn settle(
    request: &mut Request,
    upstream: Leg,
    may_repeat: bool,
) -> Result<(Leg, u64), Error> {
    let client = &mut request.leg;
    if client.codec.is_some() {
        return Ok((upstream, 0));
    }
    let sent = match &mut client.first {
        First::Ahead(bytes) if bytes.len() <= MAX_KEPT_REQUEST => std::mem::take(bytes),
        First::Nothing => Vec::new(),
        First::Ahead(_) | First::Opened(_) => return Ok((upstream, 0)),
    };
    let attempt = match Attempt::new(upstream) {
        Ok(attempt) => attempt,
        Err(upstream) => {
            if !sent.is_empty() {
                client.first = First::Ahead(sent);
            }
            return Ok((*upstream, 0));
        }
    };
    client.first = First::Nothing;
    let mut trial = Trial {
        client: &client.stream,
        target: &request.target,
        sent,
        may_repeat,
    };
    let attempt = trial.run(attempt).await?;
    let sent = trial.sent.len() as u64;
    Ok((attempt.into_leg(), sent))
}

/// A request and what its client has sent.
struct Trial<'a> {
    client: &'a Stream,
    target: &'a Address,
    sent: Vec<u8>,
    /// Whether all that the client sends may run twice.
    may_repeat: bool,
}

/// What has become of an attempt.
enum Outcome {
    /// It has answered, or cannot be replaced any more.
    Settled,
    /// It broke.
    Broken(StreamError),
    /// It has not answered in time.
    Silent,
    /// It has acknowledged nothing in time.
    Dead,
}

impl Trial<'_> {
    /// Goes from one server to the next until one is settled.
    async fn run(&mut self, first: Attempt) -> Result<Attempt, Error> {
        let mut attempt = first;
        self.read_client();
        let mut outcome = match attempt.send(&self.sent).await {
            Ok(()) => self.watch(&mut attempt).await,
            Err(error) => Outcome::Broken(error),
        };
        loop {
            match outcome {
                Outcome::Settled => return Ok(attempt),
                Outcome::Silent => return self.race(attempt).await,
                Outcome::Dead => {
                    let (waited, others) = (attempt.waited(), attempt.discard());
                    let next = self.elsewhere(&*others).await;
                    return match next {
                        Ok(next) => {
                            others.failed(&Failure::Dead(waited));
                            Ok(next)
                        }
                        Err(_) => {
                            let target = self.target.to_string();
                            others.unanswered(&Failure::Dead(waited), &target);
                            Err(silent(waited))
                        }
                    };
                }
                Outcome::Broken(error) if !self.may_send_again(&attempt) => {
                    return attempt.broken(error, self.target);
                }
                Outcome::Broken(error) => {
                    let Ok(mut next) = attempt.others.next(self.target).await.and_then(Attempt::of)
                    else {
                        return attempt.broken(error, self.target);
                    };
                    outcome = match next.send(&self.sent).await {
                        Ok(()) => self.watch(&mut next).await,
                        Err(error) => Outcome::Broken(error),
                    };
                    if next.has_answered() {
                        attempt.others.failed(&failure(&error));
                    } else if next.others.server() != attempt.others.server() {
                        let target = self.target.to_string();
                        attempt.others.unanswered(&failure(&error), &target);
                    }
                    attempt = next;
                }
            }
        }
    }

    /// Whether the request may be sent again although `attempt` has been sent it.
    fn may_send_again(&self, attempt: &Attempt) -> bool {
        self.look(attempt) != Hello::Other || attempt.is_unacknowledged()
    }

    /// What the client has sent, as far as `attempt` is concerned.
    fn look(&self, attempt: &Attempt) -> Hello {
        if self.may_repeat && !self.sent.is_empty() {
            return Hello::Whole;
        }
        match client_hello::look(&self.sent) {
            Hello::Other if attempt.others.has_answered() => Hello::Other,
            Hello::Other if is_safe(&self.sent) => Hello::Whole,
            Hello::Other => Hello::Unfinished,
            hello => hello,
        }
    }

    /// Takes what the client has sent and is not read yet. Returns whether there may be more to come for a trial.
    fn read_client(&mut self) -> bool {
        let before = self.sent.len();
        if before >= MAX_KEPT_REQUEST {
            return false;
        }
        self.sent.resize(MAX_KEPT_REQUEST, 0);
        let room = self.sent.get_mut(before..).unwrap_or_default();
        let read = self.client.try_read(&mut [IoSliceMut::new(room)]);
        self.sent
            .truncate(before + read.as_ref().map_or(0, |count| *count));
        match read {
            Ok(count) => count > 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Waits for an answer to `attempt`, and passes on what else the client sends meanwhile.
    async fn watch(&mut self, attempt: &mut Attempt) -> Outcome {
        let begun = Instant::now();
        loop {
            let hello = self.look(attempt);
            // What may run twice comes without end, and each may be what is not answered.
            let sent_at = match self.may_repeat {
                true => attempt.first_sent_at,
                false => attempt.sent_at,
            };
            let acknowledged_by = sent_at.map(|at| at + attempt.others.acknowledged_within());
            let (deadline, dead_line) = match (acknowledged_by, hello) {
                (Some(at), _) if !attempt.is_alive => (at, true),
                (Some(_), Hello::Other) => return Outcome::Settled,
                (_, Hello::Whole) => {
                    let within = attempt.others.answered_within();
                    (sent_at.unwrap_or(begun) + within, false)
                }
                _ if self.sent.is_empty() || attempt.others.has_answered() => {
                    (begun + WATCHED, false)
                }
                _ => (begun + WATCHED_LONGER, false),
            };
            tokio::select! {
                biased;
                answered = attempt.answer() => return match answered {
                    Ok(()) => Outcome::Settled,
                    Err(error) => Outcome::Broken(error),
                },
                readable = self.client.readable() => {
                    let known = self.sent.len();
                    if readable.is_err() || hello == Hello::Other || !self.read_client() {
                        return Outcome::Settled;
                    }
                    let more = self.sent.get(known..).unwrap_or_default();
                    if !more.is_empty() && let Err(error) = attempt.send(more).await {
                        return Outcome::Broken(error);
                    }
                }
                () = sleep_until(deadline) => {
                    if dead_line && attempt.is_unacknowledged() {
                        return Outcome::Dead;
                    }
                    if dead_line {
                        attempt.is_alive = true;
                    } else if hello == Hello::Whole {
                        return Outcome::Silent;
                    } else {
                        return Outcome::Settled;
                    }
                }
            }
        }
    }

    /// Asks other servers beside a silent one; the first that answers wins.
    async fn race(&self, mut silent: Attempt) -> Result<Attempt, Error> {
        let waited = silent.waited();
        let Attempt {
            stream,
            opener,
            buffer,
            others,
            ..
        } = &mut silent;
        let others: &dyn Others = &**others;
        let (mut open, mut asking) = (true, true);
        let (won, lost) = {
            let mut answer = pin!(read_answer(stream, opener, buffer));
            let mut next = pin!(self.ask_others(others));
            let mut broken = None;
            loop {
                tokio::select! {
                    biased;
                    answered = &mut answer, if open => match answered {
                        Ok(()) => break (None, None),
                        Err(error) => {
                            open = false;
                            broken = Some(error);
                        }
                    },
                    other = &mut next, if asking => match other {
                        Ok(other) => break (Some(other), None),
                        Err(_) => asking = false,
                    },
                    else => break (None, broken),
                }
                if open && !asking {
                    // No other answers either: the flow waits for this one.
                    break (None, None);
                }
            }
        };
        match (won, lost) {
            (Some(other), _) => {
                silent.others.failed(&Failure::Silent(waited));
                Ok(other)
            }
            (None, Some(error)) => silent.broken(error, self.target),
            (None, None) => {
                silent.note_answer();
                Ok(silent)
            }
        }
    }

    /// Sends the request to another server in place of one that acknowledged nothing.
    async fn elsewhere(&self, others: &dyn Others) -> Result<Attempt, Error> {
        if self.may_repeat || client_hello::look(&self.sent) != Hello::Other {
            return self.ask_others(others).await;
        }
        // Only once: the next server may acknowledge it, and then it may run.
        let mut next = others.next(self.target).await.and_then(Attempt::of)?;
        let sent = next.send(&self.sent).await;
        sent.map_err(|error| error.blame(Side::Upstream))?;
        Ok(next)
    }

    /// Sends the request to one server after the other until one answers, for a limited time.
    async fn ask_others(&self, others: &dyn Others) -> Result<Attempt, Error> {
        let answered = timeout(WATCHED, self.ask_each(others)).await;
        answered.unwrap_or_else(|_| Err(silent(WATCHED)))
    }

    async fn ask_each(&self, others: &dyn Others) -> Result<Attempt, Error> {
        let mut attempt = others.next(self.target).await.and_then(Attempt::of)?;
        loop {
            let within = attempt.others.answered_within();
            let asked = timeout(within, attempt.ask(&self.sent)).await;
            if matches!(asked, Ok(Ok(()))) {
                return Ok(attempt);
            }
            let next = attempt.others.next(self.target).await;
            match (next.and_then(Attempt::of), asked) {
                (Ok(next), _) => attempt = next,
                (Err(_), Ok(Err(error))) => return Err(error.blame(Side::Upstream)),
                // The last one may take all the time that is left.
                (Err(_), _) => {
                    let answered = attempt.answer().await;
                    answered.map_err(|error| error.blame(Side::Upstream))?;
                    return Ok(attempt);
                }
            }
        }
    }
}

/// A connection to one server, on which the request was sent or will be.
struct Attempt {
    stream: Stream,
    opener: Opener,
    sealer: Sealer,
    others: Box<dyn Others>,
    /// What has come back; its payload is opened.
    buffer: Option<Buffer>,
    /// Bytes that were written.
    written: usize,
    /// When payload was last written.
    sent_at: Option<Instant>,
    /// When payload was first written.
    first_sent_at: Option<Instant>,
    /// Something was acknowledged.
    is_alive: bool,
}

impl Attempt {
    /// `Err`: the leg cannot be tried in this way.
    fn new(mut leg: Leg) -> Result<Self, Box<Leg>> {
        match (leg.codec.take(), leg.others.take()) {
            (Some((opener, sealer)), Some(others)) => Ok(Self {
                stream: leg.stream,
                opener,
                sealer,
                others,
                buffer: None,
                written: 0,
                sent_at: None,
                first_sent_at: None,
                is_alive: false,
            }),
            (codec, others) => {
                (leg.codec, leg.others) = (codec, others);
                Err(Box::new(leg))
            }
        }
    }

    fn of(leg: Leg) -> Result<Self, Error> {
        Self::new(leg).map_err(|_| Error::NotOffered("the next server cannot be tried"))
    }

    fn into_leg(self) -> Leg {
        Leg {
            stream: self.stream,
            codec: Some((self.opener, self.sealer)),
            first: self.buffer.map_or(First::Nothing, First::Opened),
            others: Some(self.others),
        }
    }

    /// Seals and writes `payload`, with the head of the stream if that is still due.
    async fn send(&mut self, mut payload: &[u8]) -> Result<(), StreamError> {
        if !payload.is_empty() {
            let now = Instant::now();
            self.sent_at = Some(now);
            self.first_sent_at.get_or_insert(now);
        }
        while !payload.is_empty() || self.sealer.at_head() {
            let mut buffer = Buffer::take(Size::Small);
            let (bytes, ..) = buffer.parts();
            let count = {
                let mut slots = [IoSliceMut::new(&mut [])];
                let used = self.sealer.slots(bytes, &mut slots);
                scatter(payload, slots.get_mut(..used).unwrap_or_default(), 0)
            };
            let len = sealed::seal(&mut self.sealer, bytes, count).map_err(StreamError::Wire)?;
            let sealed = bytes.get(..len).unwrap_or_default();
            self.stream
                .write_all(sealed)
                .await
                .map_err(StreamError::Io)?;
            self.written += len;
            payload = payload.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends `payload` and waits for an answer.
    async fn ask(&mut self, payload: &[u8]) -> Result<(), StreamError> {
        self.send(payload).await?;
        self.answer().await
    }

    /// Waits for the first payload. Cancel safe.
    async fn answer(&mut self) -> Result<(), StreamError> {
        read_answer(&self.stream, &mut self.opener, &mut self.buffer).await?;
        self.note_answer();
        Ok(())
    }

    fn note_answer(&self) {
        if self.has_answered() {
            self.others.answered(self.sent_at.map(|at| at.elapsed()));
        }
    }

    /// Whether payload has come back.
    fn has_answered(&self) -> bool {
        let buffer = self.buffer.as_ref();
        buffer.is_some_and(|buffer| !buffer.ready.is_empty())
    }

    /// Closes the connection at once: what is still on its way must not arrive later.
    fn discard(self) -> Box<dyn Others> {
        self.stream.reset_on_close();
        self.others
    }

    fn is_unacknowledged(&self) -> bool {
        self.stream
            .unacknowledged()
            .is_some_and(|count| count >= self.written.max(1))
    }

    fn waited(&self) -> Duration {
        self.sent_at.map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// The end of an attempt for which there is no other. A stream that ended is no error: the flow ends with it.
    fn broken(self, error: StreamError, target: &Address) -> Result<Self, Error> {
        if matches!(error, StreamError::End) {
            return Ok(self);
        }
        if !self.has_answered() {
            self.others
                .unanswered(&failure(&error), &target.to_string());
        }
        Err(error.blame(Side::Upstream))
    }
}

/// Reads until the first payload is opened. Cancel safe.
async fn read_answer(
    stream: &Stream,
    opener: &mut Opener,
    buffer: &mut Option<Buffer>,
) -> Result<(), StreamError> {
    let mut sizing = Sizing::up_to(Size::Small);
    loop {
        sealed::shrink(buffer, Some(opener));
        stream.readable().await.map_err(StreamError::Io)?;
        match sealed::read(stream, buffer, Some(opener), Size::Small, &mut sizing) {
            Err(StreamError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => continue,
            read => read?,
        }
        let Some(filled) = buffer else { continue };
        while let Some(payload) = sealed::open(filled, Some(opener)).map_err(StreamError::Wire)? {
            if !payload.is_empty() {
                filled.ready.push(payload);
                return Ok(());
            }
        }
    }
}

/// Whether `bytes` are a whole request of HTTP without a body that may run twice (RFC 9110 §9.2.1).
fn is_safe(bytes: &[u8]) -> bool {
    const METHODS: [&[u8]; 3] = [b"GET ", b"HEAD ", b"OPTIONS "];
    METHODS.iter().any(|method| bytes.starts_with(method)) && bytes.ends_with(b"\r\n\r\n")
}

fn failure(error: &StreamError) -> Failure {
    match error {
        StreamError::End | StreamError::Cut => Failure::Closed,
        StreamError::Io(error) => Failure::of_io(error),
        StreamError::Wire(error) => Failure::Broken(error.to_string()),
    }
}

fn silent(waited: Duration) -> Error {
    Error::Silent {
        side: Side::Upstream,
        seconds: waited.as_secs().max(1),
    }
}
