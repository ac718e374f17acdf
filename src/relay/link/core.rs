//! The rules of a link, without sockets and without a clock: the time is an argument, counted from any beginning.
//!
//! What comes is handed to [`Core::receive`], which passes it on to a [`Sink`]; what is to go is asked of
//! [`Core::transmit`], which takes the streams' bytes from a [`Source`]. The bytes themselves are kept elsewhere: here
//! are only windows, turns and who may say what when.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::window::{self, Receiving, RoundTrip};
use crate::wire::reverse::{
    Code, Decoder, Frame, HEADER_LEN, Hello, MAX_ID, MAX_PAYLOAD, Open, Register, data_header,
};
use crate::wire::{AddressRef, Error};

/// Streams and flows that may be open at once.
pub const MAX_STREAMS: usize = 1 << 16;
/// Frames of our own that may wait; a peer that takes none of so many answers does not read.
const MAX_CONTROL: usize = 2 * MAX_STREAMS;
/// Datagrams, and their bytes, that may wait; the oldest makes room.
const MAX_DATAGRAMS: usize = 1024;
const MAX_DATAGRAM_BYTES: usize = 2 << 20;
/// Heartbeats without a word after which the other end is dead.
pub const PATIENCE: u32 = 3;
/// While a stream moves, the round trip is measured anew after so long.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// How long an end has to answer whose place somebody else wants.
const PROBE: Duration = Duration::from_secs(3);

/// Which end of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkRole {
    /// It took the carrier: visitors come to it.
    Server,
    /// It opened the carrier: the services are beside it.
    Client,
}

impl LinkRole {
    /// The first id of a stream that this end opens; the others follow in steps of two.
    #[must_use]
    pub const fn first_id(self) -> u64 {
        match self {
            Self::Server => 2,
            Self::Client => 1,
        }
    }

    const fn opens(self, id: u64) -> bool {
        id != 0 && id % 2 == self.first_id() % 2
    }
}

/// Where the bytes go that come.
pub trait Sink {
    /// Bytes of a stream, within its window.
    fn data(&mut self, id: u64, bytes: &[u8]);
    /// A datagram of a flow.
    fn datagram(&mut self, id: u64, bytes: &[u8]);
    /// Something else has happened.
    fn event(&mut self, event: Event<'_>);
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The client offers a service.
    Register(u64, Register<'a>),
    /// The server has answered.
    Registered {
        /// The service.
        service: u64,
        /// Whether it may.
        code: Code,
        /// Where it can be reached.
        bound: AddressRef<'a>,
        /// Why not.
        message: &'a str,
    },
    /// A visitor has come. It is to be answered by [`Core::answer`].
    Opened(u64, Open<'a>),
    /// The other end has reached its target, or not: then the stream is closed too.
    Answered(u64, Code, &'a str),
    /// Nothing more comes on this stream.
    Finished(u64),
    /// The stream is broken; nothing more goes either.
    Reset(u64),
    /// Both directions have ended.
    Closed(u64),
    /// The other end will leave.
    GoAway(Code, Duration, &'a str),
}

/// Where the bytes come from that go.
pub trait Source {
    /// Takes bytes of a stream, at least one where there are some and `out` has room.
    fn read(&mut self, id: u64, out: &mut [u8]) -> Read;
}

/// What a [`Source`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Empty,
    /// Nothing ever again.
    End,
    /// The stream is broken.
    Reset,
}

/// Why a link is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The other end broke the protocol.
    Wire(Error),
    /// The other end has said nothing for so long.
    Silent(Duration),
}

struct Stream {
    receiving: Receiving,
    /// Bytes that we may send.
    credit: u64,
    /// It has its place among those that are ready.
    queued: bool,
    /// It has something to send, as far as is known.
    wants: bool,
    /// The end of each direction.
    sent_fin: bool,
    got_fin: bool,
}

/// One end of a link.
pub struct Core {
    end: LinkRole,
    heartbeat: Duration,
    decoder: Decoder,
    /// What the other end has said of itself.
    peer: Option<Hello>,
    streams: HashMap<u64, Stream>,
    /// The last ids that each end has given.
    last_own: u64,
    last_peer: u64,
    ready: VecDeque<u64>,
    control: VecDeque<Vec<u8>>,
    pong: Option<u64>,
    datagrams: VecDeque<(u64, Box<[u8]>)>,
    datagram_bytes: usize,
    /// Bytes that have come on streams that are open, and have not been consumed.
    unread: u64,
    /// Bytes by which windows have grown.
    grown: u64,
    heard: Duration,
    pinged: Duration,
    /// The ping that is not answered yet: its number, and when it went.
    awaited: Option<(u64, Duration)>,
    pings: u64,
    /// By when something must be heard, if somebody wants to know.
    probe: Option<Duration>,
    round_trip: RoundTrip,
}

impl Core {
    /// Begins at `now`, with our Hello to be sent and a ping behind it.
    #[must_use]
    pub fn new(end: LinkRole, heartbeat: Duration, now: Duration) -> Self {
        let mut core = Self {
            end,
            heartbeat,
            decoder: Decoder::default(),
            peer: None,
            streams: HashMap::new(),
            last_own: 0,
            last_peer: 0,
            ready: VecDeque::new(),
            control: VecDeque::new(),
            pong: None,
            datagrams: VecDeque::new(),
            datagram_bytes: 0,
            unread: 0,
            grown: 0,
            heard: now,
            pinged: now,
            awaited: None,
            pings: 0,
            probe: None,
            round_trip: RoundTrip::default(),
        };
        core.say(Frame::Hello(Hello {
            caps: 0,
            window: window::INITIAL,
            max_payload: u32::try_from(MAX_PAYLOAD).unwrap_or(u32::MAX),
        }));
        core.ping(now);
        core
    }

    /// Streams and flows that are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Bytes that have come and have not been consumed.
    #[cfg(test)]
    pub(super) const fn unread(&self) -> u64 {
        self.unread
    }

    /// Whether there is something to send that does not wait for a window.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.control.is_empty()
            && self.pong.is_none()
            && self.datagrams.is_empty()
            && self.ready.is_empty()
    }

    fn say(&mut self, frame: Frame<'_>) {
        let mut out = vec![0; 1024];
        // All that is said here is short: messages are cut, names have one byte of length.
        if let Some(len) = frame.encode(&mut out) {
            out.truncate(len);
            out.shrink_to_fit();
            self.control.push_back(out);
        }
    }

    fn ping(&mut self, now: Duration) {
        self.pings += 1;
        self.pinged = now;
        self.awaited = Some((self.pings, now));
        self.say(Frame::Ping { opaque: self.pings });
    }

    /// When [`Core::tick`] is to be called.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        let dead = self.heard + self.heartbeat * PATIENCE;
        let ping = self.pinged + self.heartbeat;
        let next = dead.min(ping);
        self.probe.map_or(next, |probe| next.min(probe))
    }

    /// Does what is due at `now`.
    ///
    /// # Errors
    /// [`Over::Silent`].
    pub fn tick(&mut self, now: Duration) -> Result<(), Over> {
        let silent = now.saturating_sub(self.heard);
        if silent >= self.heartbeat * PATIENCE || self.probe.is_some_and(|probe| now >= probe) {
            return Err(Over::Silent(silent));
        }
        if now >= self.pinged + self.heartbeat {
            self.ping(now);
        }
        Ok(())
    }

    /// Somebody wants to know whether the other end still lives: if it does not answer soon, [`Core::tick`] fails.
    pub fn probe(&mut self, now: Duration) {
        if self.probe.is_none() {
            self.probe = Some(now + self.heartbeat.min(PROBE));
            self.ping(now);
        }
    }

    /// Offers a service.
    pub fn register(&mut self, service: u64, register: Register<'_>) {
        self.say(Frame::Register { service, register });
    }

    /// Answers an offer.
    pub fn registered(&mut self, service: u64, code: Code, bound: AddressRef<'_>, message: &str) {
        self.say(Frame::RegisterResult {
            service,
            code,
            bound,
            message,
        });
    }

    /// Opens a stream or flow of this `id`, which must be above all before it; `false` when there is no room.
    pub fn open(&mut self, now: Duration, id: u64, open: Open<'_>) -> bool {
        if self.streams.len() >= MAX_STREAMS
            || !self.end.opens(id)
            || id <= self.last_own
            || id > MAX_ID
        {
            return false;
        }
        self.last_own = id;
        self.add(now, id);
        self.say(Frame::Open { id, open });
        true
    }

    fn add(&mut self, now: Duration, id: u64) {
        // Before its Hello, a peer is taken to be one of ours.
        let credit = self.peer.map_or(window::INITIAL, |peer| peer.window);
        self.streams.insert(
            id,
            Stream {
                receiving: Receiving::new(now),
                credit: u64::from(credit),
                queued: false,
                wants: false,
                sent_fin: false,
                got_fin: false,
            },
        );
    }

    /// Answers the opening of a stream; one that is refused is closed.
    pub fn answer(&mut self, id: u64, code: Code, message: &str) {
        if self.streams.contains_key(&id) {
            self.say(Frame::OpenResult { id, code, message });
            if code != Code::OK {
                self.remove(id);
            }
        }
    }

    /// Breaks a stream, or ends a flow.
    pub fn reset(&mut self, id: u64) {
        if self.remove(id) {
            self.say(Frame::Reset { id });
        }
    }

    fn remove(&mut self, id: u64) -> bool {
        let Some(stream) = self.streams.remove(&id) else {
            return false;
        };
        self.unread = self.unread.saturating_sub(stream.receiving.unread());
        self.grown = self.grown.saturating_sub(stream.receiving.grown());
        true
    }

    /// A stream has something to send, or has come to its end.
    pub fn wake(&mut self, id: u64) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.sent_fin
        {
            stream.wants = true;
            if !stream.queued {
                stream.queued = true;
                self.ready.push_back(id);
            }
        }
    }

    /// `count` bytes of a stream have been consumed. They may be sent again; so may the number returned, by which its
    /// window has grown.
    pub fn consumed(&mut self, now: Duration, id: u64, count: usize) -> usize {
        let Some(stream) = self.streams.get_mut(&id) else {
            return 0;
        };
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        let before = stream.receiving.unread();
        let room = window::MAX_LINK.saturating_sub(self.grown);
        let shortest = self.round_trip.shortest();
        let growth = stream.receiving.consume(now, count, shortest, room);
        self.unread -= before - stream.receiving.unread();
        self.grown += growth;
        if stream.got_fin {
            return usize::try_from(growth).unwrap_or_default();
        }
        let credit = u32::try_from(count + growth).unwrap_or(u32::MAX);
        self.say(Frame::Window { id, credit });
        let stale = self
            .round_trip
            .measured
            .is_none_or(|at| now >= at + MEASURE_EVERY);
        if stale && self.awaited.is_none() {
            self.ping(now);
        }
        usize::try_from(growth).unwrap_or_default()
    }

    /// Sends a datagram, some time; when too many wait, the oldest is lost.
    pub fn datagram(&mut self, id: u64, bytes: Box<[u8]>) {
        if !self.streams.contains_key(&id) || bytes.len() > MAX_PAYLOAD {
            return;
        }
        self.datagram_bytes += bytes.len();
        self.datagrams.push_back((id, bytes));
        while self.datagrams.len() > MAX_DATAGRAMS || self.datagram_bytes > MAX_DATAGRAM_BYTES {
            if let Some((_, oldest)) = self.datagrams.pop_front() {
                self.datagram_bytes -= oldest.len();
            }
        }
    }

    /// Tells the other end that we will leave.
    pub fn go_away(&mut self, code: Code, retry: Duration, message: &str) {
        self.say(Frame::GoAway {
            code,
            retry_ms: u32::try_from(retry.as_millis()).unwrap_or(u32::MAX),
            message,
        });
    }

    /// Writes the next frame to the start of `out`; 0: there is none, or it does not fit. First what the link itself
    /// has to say, then datagrams, then a frame of each stream in turn.
    pub fn transmit<L: Source + Sink>(&mut self, out: &mut [u8], local: &mut L) -> usize {
        if let Some(frame) = self.control.front() {
            let Some(room) = out.get_mut(..frame.len()) else {
                return 0;
            };
            room.copy_from_slice(frame);
            return self.control.pop_front().map_or(0, |frame| frame.len());
        }
        if let Some(opaque) = self.pong {
            let written = Frame::Pong { opaque }.encode(out);
            if written.is_some() {
                self.pong = None;
            }
            return written.unwrap_or(0);
        }
        if let Some((id, payload)) = self.datagrams.front() {
            let Some(len) = (Frame::Datagram { id: *id, payload }).encode(out) else {
                return 0;
            };
            self.datagram_bytes -= payload.len();
            self.datagrams.pop_front();
            return len;
        }
        while let Some(id) = self.ready.front().copied() {
            if out.len() <= HEADER_LEN {
                return 0;
            }
            self.ready.pop_front();
            let len = self.turn(id, out, local);
            if len > 0 {
                return len;
            }
        }
        0
    }

    /// A stream's turn.
    fn turn<L: Source + Sink>(&mut self, id: u64, out: &mut [u8], local: &mut L) -> usize {
        let most = self.peer.map_or(MAX_PAYLOAD, |peer| {
            usize::try_from(peer.max_payload).unwrap_or(MAX_PAYLOAD)
        });
        let Some(stream) = self.streams.get_mut(&id) else {
            return 0;
        };
        stream.queued = false;
        let credit = usize::try_from(stream.credit).unwrap_or(usize::MAX);
        let Some((head, body)) = out.split_first_chunk_mut::<HEADER_LEN>() else {
            return 0;
        };
        let room = body.len().min(credit).min(most).min(MAX_PAYLOAD);
        match local.read(id, body.get_mut(..room).unwrap_or_default()) {
            // It has something, and waits for its window.
            Read::Bytes(0) => 0,
            Read::Bytes(count) => {
                stream.credit -= u64::try_from(count).unwrap_or_default();
                stream.queued = true;
                self.ready.push_back(id);
                *head = data_header(id, count);
                HEADER_LEN + count
            }
            Read::Empty => {
                stream.wants = false;
                0
            }
            Read::End => {
                stream.wants = false;
                stream.sent_fin = true;
                if stream.got_fin {
                    self.remove(id);
                    local.event(Event::Closed(id));
                }
                Frame::Fin { id }.encode(out).unwrap_or(0)
            }
            Read::Reset => {
                self.remove(id);
                local.event(Event::Reset(id));
                Frame::Reset { id }.encode(out).unwrap_or(0)
            }
        }
    }
}

mod receive;
#[cfg(test)]
mod tests;
