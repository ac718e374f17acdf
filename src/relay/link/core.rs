//! The protocol of a link, without sockets and without a clock: the time is an argument, counted from any start.
//!
//! [`Core::receive`] takes bytes of the peer and delivers them to a [`Sink`]; [`Core::transmit`] writes frames and
//! takes the streams' bytes from a [`Source`]. The core holds windows and the order of sending, not the streams' bytes.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::datagrams::DatagramQueue;
use super::event::Event;
use super::limits::{
    INITIAL_WINDOW, MAX_CONTROL_BYTES, MAX_LINK_WINDOW, MAX_STREAMS, MISSED_HEARTBEATS,
    PROBE_TIMEOUT, ROUND_TRIP_INTERVAL,
};
use super::settings::LinkRole;
use super::window::{ReceiveWindow, RoundTrip};
use crate::wire::Error;
use crate::wire::reverse::{
    Code, Connect, Decoder, Frame, HEADER_LEN, Hello, MAX_ID, MAX_PAYLOAD, OwnStreams, data_header,
};

/// Room for the longest frame that is neither data nor a datagram: its texts have at most 255 or `MAX_MESSAGE` bytes.
const MAX_CONTROL_LEN: usize = 1024;
/// Memory of a queued frame beside its bytes.
const FRAME_OVERHEAD: usize = size_of::<Box<[u8]>>();

/// Where received bytes go.
pub trait Sink {
    /// Bytes of a stream, within its window.
    fn data(&mut self, id: u64, bytes: &[u8]);
    /// The peer takes this many bytes of a stream.
    fn credit(&mut self, id: u64, bytes: u64);
    /// Bytes of a stream that its reader has consumed, and that [`Core::consumed`] was not told of.
    fn take_consumed(&mut self, id: u64) -> usize;
    /// The receive window of a stream has grown.
    fn grow(&mut self, id: u64, by: usize);
    /// A frame other than data, or [`Event::Closed`].
    fn event(&mut self, event: Event<'_>);
}

/// Where bytes to send come from.
pub trait Source {
    /// Takes bytes of a stream, at least one if there are any and `out` has room.
    fn read(&mut self, id: u64, out: &mut [u8]) -> Read;
}

/// The result of [`Source::read`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// This many bytes.
    Bytes(usize),
    /// Nothing at the moment.
    Empty,
    /// The end of the stream.
    End,
    /// The stream was closed abruptly.
    Reset,
}

/// Why a link has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreError {
    /// The peer violated the protocol.
    Wire(Error),
    /// Too much waits.
    Overloaded(&'static str),
    /// The peer has sent nothing for this long.
    Timeout(Duration),
}

struct Stream {
    window: ReceiveWindow,
    /// Bytes that may be sent before the peer grants more.
    send_credit: u64,
    /// It is in `Core::ready`.
    queued: bool,
    /// Its source has something to send, as far as is known.
    has_data: bool,
    sent_fin: bool,
    received_fin: bool,
}

/// One side of a link.
pub struct Core {
    role: LinkRole,
    heartbeat: Duration,
    decoder: Decoder,
    /// The peer's Hello.
    peer: Option<Hello>,
    streams: HashMap<u64, Stream>,
    /// The latest stream ids of each side.
    last_own: u64,
    last_peer: u64,
    /// Streams that may have something to send, in the order of their turns.
    ready: VecDeque<u64>,
    /// Encoded frames that are neither data nor datagrams.
    control: VecDeque<Box<[u8]>>,
    /// Memory of `control`.
    control_bytes: usize,
    pong: Option<u64>,
    datagrams: DatagramQueue,
    /// Bytes received on open streams and not yet consumed, and the streams that have some.
    unread: u64,
    unread_streams: u64,
    /// The most that these may take.
    most_unread: u64,
    /// Bytes by which the windows of open streams have grown.
    window_growth: u64,
    last_received: Duration,
    last_ping: Duration,
    /// The ping without an answer: its number, and when it was queued.
    outstanding_ping: Option<(u64, Duration)>,
    pings: u64,
    /// When the peer must have answered a probe.
    probe_deadline: Option<Duration>,
    round_trip: RoundTrip,
}

/// Encodes a frame that is neither data nor a datagram.
pub(super) fn encode(frame: Frame<'_>) -> Box<[u8]> {
    let mut out = [0; MAX_CONTROL_LEN];
    let len = frame.encode(&mut out).unwrap_or(0);
    out.get(..len).unwrap_or_default().into()
}

impl Core {
    /// Starts at `now`; a Hello and a ping are queued.
    #[must_use]
    pub fn new(role: LinkRole, heartbeat: Duration, now: Duration) -> Self {
        Self::offering(OwnStreams::No, role, heartbeat, now)
    }

    /// The same; the Hello says whether visitors may have streams of their own.
    #[must_use]
    pub fn offering(
        own_streams: OwnStreams,
        role: LinkRole,
        heartbeat: Duration,
        now: Duration,
    ) -> Self {
        let mut core = Self {
            role,
            heartbeat,
            decoder: Decoder::default(),
            peer: None,
            streams: HashMap::new(),
            last_own: 0,
            last_peer: 0,
            ready: VecDeque::new(),
            control: VecDeque::new(),
            control_bytes: 0,
            pong: None,
            datagrams: DatagramQueue::default(),
            unread: 0,
            unread_streams: 0,
            most_unread: MAX_LINK_WINDOW,
            window_growth: 0,
            last_received: now,
            last_ping: now,
            outstanding_ping: None,
            pings: 0,
            probe_deadline: None,
            round_trip: RoundTrip::default(),
        };
        core.send(Frame::Hello(Hello {
            own_streams,
            window: INITIAL_WINDOW,
            max_payload: u32::try_from(MAX_PAYLOAD).unwrap_or(u32::MAX),
        }));
        core.ping(now);
        core
    }

    /// Lets unread bytes take at most `most`, if that is less than [`MAX_LINK_WINDOW`].
    pub fn limit_unread(&mut self, most: usize) {
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        self.most_unread = most.min(MAX_LINK_WINDOW);
    }

    /// Whether the peer said that visitors may have streams of their own.
    #[must_use]
    pub fn peer_streams(&self) -> OwnStreams {
        self.peer.map_or(OwnStreams::No, |peer| peer.own_streams)
    }

    /// Bytes of a stream that the peer takes now.
    #[must_use]
    pub fn send_credit(&self, id: u64) -> u64 {
        self.streams.get(&id).map_or(0, |stream| stream.send_credit)
    }

    /// The number of open streams and flows.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Bytes received and not yet consumed.
    #[cfg(test)]
    pub(super) const fn unread(&self) -> u64 {
        self.unread
    }

    /// Whether nothing waits to be sent, except for data that needs credit.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.control.is_empty()
            && self.pong.is_none()
            && self.datagrams.is_empty()
            && self.ready.is_empty()
    }

    /// Queues a frame that is neither data nor a datagram.
    fn send(&mut self, frame: Frame<'_>) {
        self.send_encoded(encode(frame));
    }

    /// Queues an encoded frame that concerns no stream.
    pub(super) fn send_encoded(&mut self, frame: Box<[u8]>) {
        if !frame.is_empty() {
            self.control_bytes += frame.len() + FRAME_OVERHEAD;
            self.control.push_back(frame);
        }
    }

    fn ping(&mut self, now: Duration) {
        self.pings += 1;
        self.last_ping = now;
        self.outstanding_ping = Some((self.pings, now));
        self.send(Frame::Ping { opaque: self.pings });
    }

    /// When [`Core::tick`] is due.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        let dead = self.last_received + self.heartbeat * MISSED_HEARTBEATS;
        let ping = self.last_ping + self.heartbeat;
        let next = dead.min(ping);
        self.probe_deadline.map_or(next, |probe| next.min(probe))
    }

    /// Sends the ping that is due at `now`.
    ///
    /// # Errors
    /// [`CoreError::Timeout`].
    pub fn tick(&mut self, now: Duration) -> Result<(), CoreError> {
        let silent = now.saturating_sub(self.last_received);
        if silent >= self.heartbeat * MISSED_HEARTBEATS
            || self.probe_deadline.is_some_and(|deadline| now >= deadline)
        {
            return Err(CoreError::Timeout(silent));
        }
        if now >= self.last_ping + self.heartbeat {
            self.ping(now);
        }
        Ok(())
    }

    /// Checks whether the peer is alive: if nothing is received soon, [`Core::tick`] fails.
    pub fn probe(&mut self, now: Duration) {
        if self.probe_deadline.is_none() {
            self.probe_deadline = Some(now + self.heartbeat.min(PROBE_TIMEOUT));
            self.ping(now);
        }
    }

    /// Fails if the peer has left more frames unread than [`MAX_CONTROL_BYTES`].
    ///
    /// # Errors
    /// [`CoreError::Overloaded`].
    pub const fn check_backlog(&self) -> Result<(), CoreError> {
        if self.control_bytes > MAX_CONTROL_BYTES {
            return Err(CoreError::Overloaded("the peer of the link does not read"));
        }
        Ok(())
    }

    /// Opens a stream or flow. `id` must be greater than all before it. `false`: the link is full, or the peer does not
    /// read.
    pub fn connect(&mut self, now: Duration, id: u64, connect: Connect<'_>) -> bool {
        let full = self.streams.len() >= MAX_STREAMS || self.control_bytes > MAX_CONTROL_BYTES / 2;
        if full || !self.role.owns(id) || id <= self.last_own || id > MAX_ID {
            return false;
        }
        self.last_own = id;
        self.insert(now, id);
        self.send(Frame::Connect { id, connect });
        true
    }

    fn insert(&mut self, now: Duration, id: u64) {
        // Until the peer's Hello arrives, its window is assumed to be as large as ours.
        let credit = self.peer.map_or(INITIAL_WINDOW, |peer| peer.window);
        self.streams.insert(
            id,
            Stream {
                window: ReceiveWindow::new(now),
                send_credit: u64::from(credit),
                queued: false,
                has_data: false,
                sent_fin: false,
                received_fin: false,
            },
        );
    }

    /// Answers [`Frame::Connect`]; a stream or flow that is refused is closed.
    pub fn connect_result(&mut self, id: u64, code: Code, message: &str) {
        if self.streams.contains_key(&id) {
            self.send(Frame::ConnectResult { id, code, message });
            if code != Code::OK {
                self.remove(id);
            }
        }
    }

    /// Closes a stream abruptly, or ends a flow.
    pub fn reset(&mut self, id: u64) {
        if self.remove(id) {
            self.send(Frame::Reset { id });
        }
    }

    fn remove(&mut self, id: u64) -> bool {
        let Some(stream) = self.streams.remove(&id) else {
            return false;
        };
        let unread = stream.window.unread();
        self.unread = self.unread.saturating_sub(unread);
        self.unread_streams -= u64::from(unread > 0);
        self.window_growth = self.window_growth.saturating_sub(stream.window.growth());
        true
    }

    /// Gives a stream a turn: it has something to send, or has ended.
    pub fn wake(&mut self, id: u64) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.sent_fin
        {
            stream.has_data = true;
            if !stream.queued {
                stream.queued = true;
                self.ready.push_back(id);
            }
        }
    }

    /// Grants the peer credit for `count` bytes that a stream's reader has consumed. Returns by how many bytes its
    /// receive window grows.
    pub fn consumed(&mut self, now: Duration, id: u64, count: usize) -> usize {
        let Some(stream) = self.streams.get_mut(&id) else {
            return 0;
        };
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        let before = stream.window.unread();
        let room = self.most_unread.saturating_sub(self.window_growth);
        let shortest = self.round_trip.shortest();
        let growth = stream.window.consume(now, count, shortest, room);
        let after = stream.window.unread();
        self.unread -= before - after;
        self.unread_streams -= u64::from(before > 0 && after == 0);
        self.window_growth += growth;
        if !stream.received_fin {
            let credit = u32::try_from(count + growth).unwrap_or(u32::MAX);
            self.send(Frame::Window { id, credit });
            let measured = self.round_trip.measured;
            let stale = measured.is_none_or(|at| now >= at + ROUND_TRIP_INTERVAL);
            if stale && self.outstanding_ping.is_none() {
                self.ping(now);
            }
        }
        usize::try_from(growth).unwrap_or_default()
    }

    /// Queues a datagram; if the queue is full, the oldest is dropped.
    pub fn datagram(&mut self, id: u64, payload: Box<[u8]>) {
        if self.streams.contains_key(&id) && payload.len() <= MAX_PAYLOAD {
            self.datagrams.push(id, payload);
        }
    }

    /// Announces that this side will close the link.
    pub fn go_away(&mut self, code: Code, retry: Duration, message: &str) {
        self.send(Frame::GoAway {
            code,
            retry_ms: u32::try_from(retry.as_millis()).unwrap_or(u32::MAX),
            message,
        });
    }

    /// Writes the next frame to the start of `out`. Returns 0 if there is none or it does not fit. Control frames go
    /// first, then datagrams, then one frame of each stream in turn.
    pub fn transmit<L: Source + Sink>(&mut self, out: &mut [u8], local: &mut L) -> usize {
        if let Some(frame) = self.control.front() {
            let Some(room) = out.get_mut(..frame.len()) else {
                return 0;
            };
            room.copy_from_slice(frame);
            let len = self.control.pop_front().map_or(0, |frame| frame.len());
            self.control_bytes -= len + FRAME_OVERHEAD;
            return len;
        }
        if let Some(opaque) = self.pong {
            let written = Frame::Pong { opaque }.encode(out);
            if written.is_some() {
                self.pong = None;
            }
            return written.unwrap_or(0);
        }
        if let Some((id, payload)) = self.datagrams.front() {
            let Some(len) = (Frame::Datagram { id, payload }).encode(out) else {
                return 0;
            };
            self.datagrams.pop();
            return len;
        }
        while let Some(id) = self.ready.front().copied() {
            if out.len() <= HEADER_LEN {
                return 0;
            }
            self.ready.pop_front();
            let len = self.transmit_stream(id, out, local);
            if len > 0 {
                return len;
            }
        }
        0
    }

    /// Writes one frame of a stream.
    fn transmit_stream<L: Source + Sink>(
        &mut self,
        id: u64,
        out: &mut [u8],
        local: &mut L,
    ) -> usize {
        let peer_max = self.peer.map_or(MAX_PAYLOAD, |peer| {
            usize::try_from(peer.max_payload).unwrap_or(MAX_PAYLOAD)
        });
        let Some(stream) = self.streams.get_mut(&id) else {
            return 0;
        };
        stream.queued = false;
        let credit = usize::try_from(stream.send_credit).unwrap_or(usize::MAX);
        let Some((head, body)) = out.split_first_chunk_mut::<HEADER_LEN>() else {
            return 0;
        };
        let room = body.len().min(credit).min(peer_max).min(MAX_PAYLOAD);
        match local.read(id, body.get_mut(..room).unwrap_or_default()) {
            // It waits for credit; a Window frame wakes it.
            Read::Bytes(0) => 0,
            Read::Bytes(count) => {
                stream.send_credit -= u64::try_from(count).unwrap_or_default();
                stream.queued = true;
                self.ready.push_back(id);
                *head = data_header(id, count);
                HEADER_LEN + count
            }
            Read::Empty => {
                stream.has_data = false;
                0
            }
            Read::End => {
                stream.has_data = false;
                stream.sent_fin = true;
                if stream.received_fin {
                    self.remove(id);
                    local.event(Event::Closed { id });
                }
                Frame::Fin { id }.encode(out).unwrap_or(0)
            }
            Read::Reset => {
                self.remove(id);
                local.event(Event::Frame(Frame::Reset { id }));
                Frame::Reset { id }.encode(out).unwrap_or(0)
            }
        }
    }
}

mod receive;
#[cfg(test)]
mod tests;
