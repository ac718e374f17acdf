//! Receives frames, and checks that each is allowed.

use std::time::Duration;

use super::{Core, CoreError, Sink};
use crate::relay::link::event::Event;
use crate::relay::link::limits::{INITIAL_WINDOW, MAX_STREAMS, UNREAD_OVERHEAD};
use crate::relay::link::settings::LinkRole;
use crate::wire::Error;
use crate::wire::reverse::{Code, Connect, Frame, Hello, Item};

impl Core {
    /// Handles bytes of the peer.
    ///
    /// # Errors
    /// [`CoreError::Wire`].
    pub fn receive(
        &mut self,
        now: Duration,
        mut bytes: &[u8],
        sink: &mut impl Sink,
    ) -> Result<(), CoreError> {
        self.last_received = now;
        self.probe_deadline = None;
        let mut decoder = std::mem::take(&mut self.decoder);
        let result = loop {
            match decoder.next(bytes) {
                Ok((_, None)) => break Ok(()),
                Ok((used, Some(item))) => {
                    if let Err(error) = self.item(now, item, sink) {
                        break Err(error);
                    }
                    bytes = bytes.get(used..).unwrap_or_default();
                }
                Err(error) => break Err(error),
            }
        };
        self.decoder = decoder;
        self.check_backlog()?;
        result.map_err(CoreError::Wire)
    }

    fn item(&mut self, now: Duration, item: Item<'_>, sink: &mut impl Sink) -> Result<(), Error> {
        match (self.peer, item) {
            (None, Item::Frame(Frame::Hello(hello))) => {
                self.hello(hello, sink);
                Ok(())
            }
            (
                None,
                Item::Frame(
                    Frame::InitialRemoteServer { .. }
                    | Frame::InitialConnection { .. }
                    | Frame::Heartbeat,
                ),
            ) => Err(Error::TunnelV0),
            (None, _) => Err(Error::FrameUnexpected),
            (Some(_), Item::Data { id, bytes }) => self.data(now, id, bytes, sink),
            (Some(_), Item::Frame(frame)) => self.frame(now, frame, sink),
        }
    }

    fn hello(&mut self, hello: Hello, sink: &mut impl Sink) {
        self.peer = Some(hello);
        // Streams opened before the Hello have assumed a window of the same size as ours.
        for (id, stream) in &mut self.streams {
            let used = u64::from(INITIAL_WINDOW).saturating_sub(stream.send_credit);
            stream.send_credit = u64::from(hello.window).saturating_sub(used);
            sink.credit(*id, stream.send_credit);
        }
    }

    /// Checks that a stream which is not open was open before, so that a frame for it is only late.
    fn check_late(&self, id: u64) -> Result<(), Error> {
        let last = if self.role.owns(id) {
            self.last_own
        } else {
            self.last_peer
        };
        if id != 0 && id <= last {
            Ok(())
        } else {
            Err(Error::FrameUnexpected)
        }
    }

    fn data(
        &mut self,
        now: Duration,
        id: u64,
        bytes: &[u8],
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return self.check_late(id);
        };
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let before = stream.window.unread();
        if stream.received_fin || !stream.window.receive(count) {
            self.reset(id);
            sink.event(Event::Frame(Frame::Reset { id }));
            return Ok(());
        }
        self.unread += count;
        self.unread_streams += u64::from(before == 0 && count > 0);
        if self.holds_too_much() {
            self.take_consumed(now, sink);
        }
        while self.holds_too_much() {
            let Some(fullest) = self.fullest() else { break };
            self.reset(fullest);
            sink.event(Event::Frame(Frame::Reset { id: fullest }));
            if fullest == id {
                return Ok(());
            }
        }
        sink.data(id, bytes);
        Ok(())
    }

    fn holds_too_much(&self) -> bool {
        self.unread + self.unread_streams * UNREAD_OVERHEAD > self.most_unread
    }

    /// Counts what was read and was not worth a Window frame.
    fn take_consumed(&mut self, now: Duration, sink: &mut impl Sink) {
        let streams = self.streams.iter();
        let unread: Vec<u64> = streams
            .filter(|(_, stream)| stream.window.unread() > 0)
            .map(|(id, _)| *id)
            .collect();
        for id in unread {
            let count = sink.take_consumed(id);
            if count > 0 {
                let growth = self.consumed(now, id, count);
                sink.grow(id, growth);
            }
        }
    }

    /// The stream with the most unread bytes, which is reset when the link is full. The others hold less, or have
    /// readers that keep up.
    fn fullest(&self) -> Option<u64> {
        let unread = self
            .streams
            .iter()
            .map(|(id, stream)| (stream.window.unread(), *id));
        unread.max().map(|(_, id)| id)
    }

    fn frame(
        &mut self,
        now: Duration,
        frame: Frame<'_>,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        match frame {
            Frame::Connect { id, connect } => self.connected(now, id, connect, sink)?,
            Frame::ConnectResult { id, code, .. } => {
                if self.streams.contains_key(&id) {
                    if code != Code::OK {
                        self.remove(id);
                    }
                    sink.event(Event::Frame(frame));
                } else {
                    self.check_late(id)?;
                }
            }
            Frame::Window { id, credit } => match self.streams.get_mut(&id) {
                Some(stream) => {
                    stream.send_credit = stream.send_credit.saturating_add(u64::from(credit));
                    sink.credit(id, stream.send_credit);
                    if stream.has_data {
                        self.wake(id);
                    }
                }
                None => self.check_late(id)?,
            },
            Frame::Fin { id } => self.fin(id, sink)?,
            Frame::Reset { id } => {
                if self.remove(id) {
                    sink.event(Event::Frame(Frame::Reset { id }));
                } else {
                    self.check_late(id)?;
                }
            }
            Frame::Datagram { id, .. } => {
                if self.streams.contains_key(&id) {
                    sink.event(Event::Frame(frame));
                } else {
                    self.check_late(id)?;
                }
            }
            Frame::Ping { opaque } => self.pong = Some(opaque),
            Frame::Pong { opaque } => {
                if let Some((outstanding, sent)) = self.outstanding_ping
                    && outstanding == opaque
                {
                    self.outstanding_ping = None;
                    self.round_trip.record(now, now.saturating_sub(sent));
                }
            }
            Frame::Register { .. } if self.role == LinkRole::Server => {
                sink.event(Event::Frame(frame));
            }
            Frame::RegisterResult { .. } if self.role == LinkRole::Client => {
                sink.event(Event::Frame(frame));
            }
            Frame::GoAway { .. } => sink.event(Event::Frame(frame)),
            Frame::Heartbeat => {}
            // DialBack is not supported; any other frame is not allowed here.
            _ => return Err(Error::FrameUnexpected),
        }
        Ok(())
    }

    fn connected(
        &mut self,
        now: Duration,
        id: u64,
        connect: Connect<'_>,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        if self.role.owns(id) || id <= self.last_peer {
            return Err(Error::FrameUnexpected);
        }
        self.last_peer = id;
        if self.streams.len() >= MAX_STREAMS {
            let (code, message) = (Code::FULL, "the link has too many streams");
            self.send(Frame::ConnectResult { id, code, message });
            return Ok(());
        }
        self.insert(now, id);
        sink.event(Event::Frame(Frame::Connect { id, connect }));
        sink.credit(id, self.send_credit(id));
        Ok(())
    }

    fn fin(&mut self, id: u64, sink: &mut impl Sink) -> Result<(), Error> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return self.check_late(id);
        };
        if std::mem::replace(&mut stream.received_fin, true) {
            self.reset(id);
            sink.event(Event::Frame(Frame::Reset { id }));
            return Ok(());
        }
        let closed = stream.sent_fin;
        sink.event(Event::Frame(Frame::Fin { id }));
        if closed {
            self.remove(id);
            sink.event(Event::Closed { id });
        }
        Ok(())
    }
}
