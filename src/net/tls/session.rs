//! The states of a session, and what is done at each.

use std::io::{self, IoSliceMut};

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

use crate::net::pool::{Buffer, Size};
use crate::net::slots::scatter;

pub(super) enum Session {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// Where a session stands after it has worked on all that came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Plaintext can be taken.
    Plain,
    /// Nothing can be done without more from the peer.
    More,
    /// The peer has said that nothing more will come.
    End,
}

/// What is done with a session while it is at one of its states.
pub(super) enum Task<'a, 'b> {
    /// Works on what came; plaintext is left where it is.
    Advance,
    /// Takes plaintext.
    Take(&'a mut [IoSliceMut<'b>]),
    /// Encrypts.
    Seal(&'a [u8]),
    /// Says that nothing more will come.
    Close,
}

impl Session {
    pub(super) fn is_handshaking(&self) -> bool {
        match self {
            Self::Client(session) => session.is_handshaking(),
            Self::Server(session) => session.is_handshaking(),
        }
    }
}

/// What a state has come to.
pub(super) enum Verdict {
    Step(Step),
    Ended,
}

/// What the states of a session work on.
pub(super) struct Work<'a, 'b, 'c> {
    pub(super) outgoing: &'a mut Option<Buffer>,
    pub(super) plain: &'a mut Option<Buffer>,
    pub(super) task: Task<'b, 'c>,
    pub(super) moved: usize,
}

impl Work<'_, '_, '_> {
    /// Lets the session come to its next state, and deals with that; `None` to go on.
    pub(super) fn once(
        &mut self,
        session: &mut Session,
        incoming: &mut Option<Buffer>,
    ) -> io::Result<Option<Verdict>> {
        let mut none: [u8; 0] = [];
        let (bytes, raw) = match incoming {
            Some(buffer) => {
                let (bytes, _, raw) = buffer.parts();
                (bytes.get_mut(raw.clone()).unwrap_or_default(), Some(raw))
            }
            None => (none.as_mut_slice(), None),
        };
        let (discard, verdict) = match session {
            Session::Client(session) => self.on(session.process_tls_records(bytes)),
            Session::Server(session) => self.on(session.process_tls_records(bytes)),
        };
        if let Some(raw) = raw {
            raw.start += discard;
        }
        verdict
    }

    /// Deals with one state. Returns the bytes to drop of those that came, and `None` to go on.
    fn on<D>(
        &mut self,
        status: UnbufferedStatus<'_, '_, D>,
    ) -> (usize, io::Result<Option<Verdict>>) {
        let discard = status.discard;
        let state = match status.state {
            Ok(state) => state,
            Err(error) => return (discard, Err(invalid(error))),
        };
        let verdict = match state {
            ConnectionState::ReadTraffic(mut traffic) => match &mut self.task {
                Task::Take(slots) => {
                    let room: usize = slots.iter().map(|slot| slot.len()).sum();
                    let next = traffic.peek_len().map_or(0, usize::from);
                    // What does not fit waits; a record longer than all the room is cut.
                    if self.moved == room || (self.moved > 0 && self.moved + next > room) {
                        return (discard, Ok(Some(Verdict::Step(Step::Plain))));
                    }
                    match traffic.next_record() {
                        Some(Ok(record)) => {
                            let count = scatter(record.payload, slots, self.moved);
                            self.moved += count;
                            put(self.plain, record.payload.get(count..).unwrap_or_default())
                        }
                        Some(Err(error)) => Err(invalid(error)),
                        None => Ok(()),
                    }
                    .map(|()| None)
                }
                // A writer finds plaintext on its way: it is the reader's, and is put where it will look.
                Task::Seal(_) | Task::Close => match traffic.next_record() {
                    Some(Ok(record)) => put(self.plain, record.payload).map(|()| None),
                    Some(Err(error)) => Err(invalid(error)),
                    None => Ok(None),
                },
                Task::Advance => Ok(Some(Verdict::Step(Step::Plain))),
            },
            ConnectionState::EncodeTlsData(mut data) => encode(self.outgoing, |room| {
                data.encode(room).map_err(|error| match error {
                    EncodeError::InsufficientSize(size) => Some(size.required_size),
                    EncodeError::AlreadyEncoded => None,
                })
            })
            .map(|_| None),
            // It stands in `outgoing`, and whoever waits for the peer sends it.
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                Ok(None)
            }
            ConnectionState::WriteTraffic(mut traffic) => {
                let refused = |error| match error {
                    EncryptError::InsufficientSize(size) => Some(size.required_size),
                    EncryptError::EncryptExhausted => None,
                };
                match std::mem::replace(&mut self.task, Task::Advance) {
                    Task::Seal(bytes) => encode(self.outgoing, |room| {
                        traffic.encrypt(bytes, room).map_err(refused)
                    })
                    .map(|_| {
                        self.moved = bytes.len();
                        Some(Verdict::Step(Step::More))
                    }),
                    Task::Close => encode(self.outgoing, |room| {
                        traffic.queue_close_notify(room).map_err(refused)
                    })
                    .map(|_| Some(Verdict::Step(Step::More))),
                    Task::Advance | Task::Take(_) => Ok(Some(Verdict::Step(Step::More))),
                }
            }
            ConnectionState::PeerClosed => Ok(Some(Verdict::Ended)),
            ConnectionState::Closed | ConnectionState::BlockedHandshake => {
                Ok(Some(Verdict::Step(Step::More)))
            }
            // Early data is not offered.
            _ => Err(io::ErrorKind::InvalidData.into()),
        };
        (discard, verdict)
    }
}

/// Lets `write` put something behind what is to be sent; it says how much, or how much room it needs.
fn encode(
    outgoing: &mut Option<Buffer>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> io::Result<()> {
    let mut buffer = outgoing.take().unwrap_or_else(|| Buffer::take(Size::Small));
    let mut compact = false;
    loop {
        let (bytes, _, raw) = buffer.parts();
        match write(bytes.get_mut(raw.end..).unwrap_or_default()) {
            Ok(count) => {
                raw.end += count;
                if raw.start < raw.end {
                    *outgoing = Some(buffer);
                }
                return Ok(());
            }
            Err(needed) => {
                let len = buffer.raw.len();
                buffer = match needed.and_then(|needed| Size::holding(len + needed)) {
                    Some(size) if size > buffer.size() => buffer.resized(size),
                    Some(_) if !compact => {
                        compact = true;
                        buffer.compact();
                        buffer
                    }
                    _ => return Err(io::ErrorKind::OutOfMemory.into()),
                };
            }
        }
    }
}

/// Keeps plaintext for the next reader.
fn put(plain: &mut Option<Buffer>, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let mut buffer = plain.take().unwrap_or_else(|| Buffer::take(Size::Small));
    let size = Size::holding(buffer.raw.end + bytes.len()).ok_or(io::ErrorKind::OutOfMemory)?;
    if size > buffer.size() {
        buffer = buffer.resized(size);
    }
    let (room, _, raw) = buffer.parts();
    if let Some(room) = room.get_mut(raw.end..raw.end + bytes.len()) {
        room.copy_from_slice(bytes);
        raw.end += bytes.len();
    }
    *plain = Some(buffer);
    Ok(())
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("TLS: {error}"))
}
