//! What comes, and whether it may.

use std::time::Duration;

use super::{Core, Event, LinkRole, MAX_CONTROL, MAX_STREAMS, Over, Sink};
use crate::relay::link::window;
use crate::wire::Error;
use crate::wire::reverse::{Code, Frame, Hello, Item, Open};

impl Core {
    /// Takes in what has come.
    ///
    /// # Errors
    /// [`Over::Wire`].
    pub fn receive(
        &mut self,
        now: Duration,
        mut bytes: &[u8],
        sink: &mut impl Sink,
    ) -> Result<(), Over> {
        self.heard = now;
        self.probe = None;
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
        if self.control.len() > MAX_CONTROL {
            return Err(Over::Wire(Error::NoResources));
        }
        result.map_err(Over::Wire)
    }

    fn item(&mut self, now: Duration, item: Item<'_>, sink: &mut impl Sink) -> Result<(), Error> {
        match (self.peer, item) {
            (None, Item::Frame(Frame::Hello(hello))) => {
                self.greet(hello);
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
            (Some(_), Item::Data { id, bytes }) => self.data(id, bytes, sink),
            (Some(_), Item::Frame(frame)) => self.frame(now, frame, sink),
        }
    }

    fn greet(&mut self, hello: Hello) {
        self.peer = Some(hello);
        // Streams that were opened before have taken our own window for the peer's.
        for stream in self.streams.values_mut() {
            let used = u64::from(window::INITIAL).saturating_sub(stream.credit);
            stream.credit = u64::from(hello.window).saturating_sub(used);
        }
    }

    /// Whether a stream that is not open has been: then what still comes for it is only late.
    fn is_late(&self, id: u64) -> Result<(), Error> {
        let last = if self.end.opens(id) {
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

    fn data(&mut self, id: u64, bytes: &[u8], sink: &mut impl Sink) -> Result<(), Error> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return self.is_late(id);
        };
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if stream.got_fin || !stream.receiving.take(count) {
            self.reset(id);
            sink.event(Event::Reset(id));
            return Ok(());
        }
        self.unread += count;
        while self.unread > window::MAX_LINK {
            let Some(fullest) = self.fullest() else { break };
            self.reset(fullest);
            sink.event(Event::Reset(fullest));
            if fullest == id {
                return Ok(());
            }
        }
        sink.data(id, bytes);
        Ok(())
    }

    /// The stream with the most unread bytes: the one that makes room when the link holds all that it may. The others
    /// have taken less, or have users who keep up.
    fn fullest(&self) -> Option<u64> {
        let unread = self
            .streams
            .iter()
            .map(|(id, stream)| (stream.receiving.unread(), *id));
        unread.max().map(|(_, id)| id)
    }

    fn frame(
        &mut self,
        now: Duration,
        frame: Frame<'_>,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        match frame {
            Frame::Open { id, open } => self.opened(now, id, open, sink)?,
            Frame::OpenResult { id, code, message } => {
                if self.streams.contains_key(&id) {
                    if code != Code::OK {
                        self.remove(id);
                    }
                    sink.event(Event::Answered(id, code, message));
                } else {
                    self.is_late(id)?;
                }
            }
            Frame::Window { id, credit } => match self.streams.get_mut(&id) {
                Some(stream) => {
                    stream.credit = stream.credit.saturating_add(u64::from(credit));
                    if stream.wants {
                        self.wake(id);
                    }
                }
                None => self.is_late(id)?,
            },
            Frame::Fin { id } => self.finished(id, sink)?,
            Frame::Reset { id } => {
                if self.remove(id) {
                    sink.event(Event::Reset(id));
                } else {
                    self.is_late(id)?;
                }
            }
            Frame::Datagram { id, payload } => {
                if self.streams.contains_key(&id) {
                    sink.datagram(id, payload);
                } else {
                    self.is_late(id)?;
                }
            }
            Frame::Ping { opaque } => self.pong = Some(opaque),
            Frame::Pong { opaque } => {
                if let Some((awaited, sent)) = self.awaited
                    && awaited == opaque
                {
                    self.awaited = None;
                    self.round_trip.note(now, now.saturating_sub(sent));
                }
            }
            Frame::Register { service, register } if self.end == LinkRole::Server => {
                sink.event(Event::Register(service, register));
            }
            Frame::RegisterResult {
                service,
                code,
                bound,
                message,
            } if self.end == LinkRole::Client => sink.event(Event::Registered {
                service,
                code,
                bound,
                message,
            }),
            Frame::GoAway {
                code,
                retry_ms,
                message,
            } => {
                let retry = Duration::from_millis(u64::from(retry_ms));
                sink.event(Event::GoAway(code, retry, message));
            }
            Frame::Heartbeat => {}
            // Dialled-back connections (0010) are not taken; the others come out of turn.
            _ => return Err(Error::FrameUnexpected),
        }
        Ok(())
    }

    fn opened(
        &mut self,
        now: Duration,
        id: u64,
        open: Open<'_>,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        if self.end.opens(id) || id <= self.last_peer {
            return Err(Error::FrameUnexpected);
        }
        self.last_peer = id;
        if self.streams.len() >= MAX_STREAMS {
            let (code, message) = (Code::FULL, "too many streams");
            self.say(Frame::OpenResult { id, code, message });
            return Ok(());
        }
        self.add(now, id);
        sink.event(Event::Opened(id, open));
        Ok(())
    }

    fn finished(&mut self, id: u64, sink: &mut impl Sink) -> Result<(), Error> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return self.is_late(id);
        };
        if std::mem::replace(&mut stream.got_fin, true) {
            self.reset(id);
            sink.event(Event::Reset(id));
            return Ok(());
        }
        let closed = stream.sent_fin;
        sink.event(Event::Finished(id));
        if closed {
            self.remove(id);
            sink.event(Event::Closed(id));
        }
        Ok(())
    }
}
