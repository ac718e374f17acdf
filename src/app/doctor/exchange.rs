//! Talks to a target through a server, and tells how the server reacts.

use std::io::IoSliceMut;
use std::ops::Range;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::crypto::Family;
use crate::net::dial::SpeaksFirst;
use crate::net::slots::scatter;
use crate::net::{Stream, unix_now};
use crate::outbound::endpoint::Endpoint;
use crate::relay;
use crate::wire::ss::stream::{Fresh, Opener, Sealer};
use crate::wire::{self, Address};

/// Room for the longest chunk.
const ROOM: usize = 80 * 1024;
/// Bytes that are kept of an answer that is none.
const FOREIGN: usize = 16;

/// What is said of the time: how far a clock is ahead of ours, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shift {
    /// In our requests.
    pub(super) sent: i64,
    /// When responses are judged.
    pub(super) judged: i64,
}

fn shifted(seconds: i64) -> u64 {
    unix_now().saturating_add_signed(seconds)
}

/// Why a conversation ended.
#[derive(Debug)]
pub(super) enum End {
    /// The server closed or reset the connection.
    Closed,
    /// What came is not the protocol of the config; its first bytes.
    Foreign(Vec<u8>),
    /// The server's clock is this many seconds ahead of the one that responses are judged by.
    Skewed(i64),
}

/// A stream to a target.
pub(super) struct Conversation {
    pub(super) stream: Stream,
    opener: Opener,
    sealer: Sealer,
    buffer: Vec<u8>,
    raw: Range<usize>,
    first: Vec<u8>,
    shift: Shift,
}

impl Conversation {
    /// Connects to the server. Nothing is sent to it yet but what its transport needs.
    pub(super) async fn begin(
        endpoint: &Endpoint,
        target: &Address,
        shift: Shift,
    ) -> Result<Self, relay::Error> {
        let stream = endpoint.dial(SpeaksFirst::Us).await?;
        let leg = endpoint.leg(stream, target.as_ref());
        let (opener, sealer) = leg
            .codec
            .ok_or(relay::Error::NotOffered("the server has no method"))?;
        Ok(Self {
            stream: leg.stream,
            opener,
            sealer,
            buffer: vec![0; ROOM],
            raw: 0..0,
            first: Vec::new(),
            shift,
        })
    }

    /// Sends `payload` to the target.
    pub(super) async fn send(&mut self, mut payload: &[u8]) -> Result<(), End> {
        let mut room = vec![0; ROOM];
        while !payload.is_empty() {
            let count = {
                let mut slots = [
                    IoSliceMut::new(&mut []),
                    IoSliceMut::new(&mut []),
                    IoSliceMut::new(&mut []),
                ];
                let used = self.sealer.slots(&mut room, &mut slots);
                scatter(payload, slots.get_mut(..used).unwrap_or_default(), 0)
            };
            let fresh = Fresh {
                now: shifted(self.shift.sent),
                padding: &[],
            };
            let sealed = self.sealer.seal(&mut room, count, fresh);
            let len = sealed.map_err(|_| End::Closed)?;
            let sealed = room.get(..len).unwrap_or_default();
            let written = self.stream.write_all(sealed).await;
            written.map_err(|_| End::Closed)?;
            payload = payload.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// Waits for what the target sends; empty: it has ended.
    pub(super) async fn receive(&mut self) -> Result<Vec<u8>, End> {
        loop {
            let payload = self.open()?;
            if !payload.is_empty() {
                return Ok(payload);
            }
            self.buffer.copy_within(self.raw.clone(), 0);
            self.raw = 0..self.raw.len();
            let free = self.buffer.get_mut(self.raw.end..).unwrap_or_default();
            match self.stream.read(free).await {
                Ok(0) if self.first.is_empty() => return Err(End::Closed),
                // What was sent is complete, or too short to be the protocol.
                Ok(0) if self.raw.is_empty() => return Ok(Vec::new()),
                Ok(0) => return Err(End::Foreign(self.first.clone())),
                Ok(count) => {
                    let end = self.raw.end + count;
                    let new = self.buffer.get(self.raw.end..end).unwrap_or_default();
                    let lacks = FOREIGN.saturating_sub(self.first.len());
                    self.first.extend(new.iter().take(lacks));
                    self.raw.end = end;
                }
                Err(_) => return Err(End::Closed),
            }
        }
    }

    /// Opens what has been received.
    fn open(&mut self) -> Result<Vec<u8>, End> {
        let mut payload = Vec::new();
        loop {
            let chunk = self.buffer.get_mut(self.raw.clone()).unwrap_or_default();
            let judged = self.shift.judged;
            let opened = match self.opener.open(chunk, || shifted(judged)) {
                Ok(opened) => opened,
                Err(wire::Error::TimestampSkew { seconds }) => return Err(End::Skewed(seconds)),
                Err(_) => return Err(End::Foreign(self.first.clone())),
            };
            if opened.used == 0 {
                return Ok(payload);
            }
            payload.extend_from_slice(chunk.get(opened.payload).unwrap_or_default());
            self.raw.start += opened.used;
        }
    }
}

/// How a server reacts to a request.
#[derive(Debug)]
pub(super) enum Heard {
    /// The target has answered; its first bytes.
    Answer(Vec<u8>),
    /// The connection was closed before anything came.
    Closed,
    /// Nothing came.
    Silence,
    /// What came is not the protocol of the config; its first bytes.
    Foreign(Vec<u8>),
    /// The server's clock is this many seconds ahead of the one that responses are judged by.
    Skewed(i64),
    /// There was no connection, or its transport failed.
    Unconnected(relay::Error),
}

/// A reaction, and how long it took once there was a connection.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) heard: Heard,
    pub(super) after: Duration,
}

/// A request to a target.
pub(super) struct Request<'a> {
    pub(super) target: &'a Address,
    pub(super) bytes: &'a [u8],
    /// What the answer of such a target begins with. It is looked at only where no key proves the answer.
    pub(super) begins: &'a [u8],
    /// Whether enough of the answer is there.
    pub(super) is_enough: fn(&[u8]) -> bool,
}

/// Sends a request and waits for the first bytes of the answer.
pub(super) async fn ask(
    endpoint: &Endpoint,
    request: &Request<'_>,
    shift: Shift,
    limit: Duration,
) -> Reply {
    let begun = Instant::now();
    let mut talk = match Conversation::begin(endpoint, request.target, shift).await {
        Ok(talk) => talk,
        Err(error) => {
            return Reply {
                heard: Heard::Unconnected(error),
                after: begun.elapsed(),
            };
        }
    };
    let begun = Instant::now();
    let answer = async {
        talk.send(request.bytes).await?;
        let mut answer = Vec::new();
        while !(request.is_enough)(&answer) {
            match talk.receive().await {
                Ok(bytes) if bytes.is_empty() => break,
                Ok(bytes) => answer.extend(bytes),
                Err(_) if !answer.is_empty() => break,
                Err(end) => return Err(end),
            }
        }
        Ok(answer)
    };
    let heard = match timeout(limit, answer).await {
        Ok(Ok(answer)) if answer.is_empty() => Heard::Closed,
        Ok(Ok(answer)) => {
            let is_plain = endpoint.credentials.method().family() == Family::Plain;
            match is_plain && !answer.starts_with(request.begins) {
                true => Heard::Foreign(answer),
                false => Heard::Answer(answer),
            }
        }
        Ok(Err(End::Closed)) => Heard::Closed,
        Ok(Err(End::Foreign(bytes))) => Heard::Foreign(bytes),
        Ok(Err(End::Skewed(seconds))) => Heard::Skewed(seconds),
        Err(_) => Heard::Silence,
    };
    Reply {
        heard,
        after: begun.elapsed(),
    }
}
