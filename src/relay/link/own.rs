//! Visitors with a stream of their own: over QUIC, the server opens one beside the stream of the link for each, so that no visitor
//! waits for what another one has lost or does not read.
//!
//! ```text
//! down   number u64 ‖ sealed { Connect frame ‖ bytes of the visitor }
//! up                  sealed { bytes of the service }
//! ```
//!
//! Each direction is sealed as an ordinary response of Shadowsocks, with a key that is made of the number, the direction and a secret
//! that the client has sent inside the link: nobody else can make such a stream, and none can stand for another. The client takes each
//! number once. Both ends must be in the same connection; where the client takes no more streams, visitors go through the link.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use super::limits::OWN_STREAMS;
use super::visitor::Visitor;
use crate::crypto::window::Window;
use crate::crypto::{Key, Method};
use crate::limits::QUIC_UP_WINDOW;
use crate::net::alive::Limit;
use crate::net::pool::{Buffer, Size};
use crate::net::quic::Beside;
use crate::net::sync::lock;
use crate::net::{Stream, pool};
use crate::relay::leg::{First, Leg};
use crate::relay::sealed::{self, StreamError, seal};
use crate::relay::sizing::Sizing;
use crate::relay::{Error, Side};
use crate::wire;
use crate::wire::reverse::{Connect, Decoder, Frame, Item, LinkSecret};
use crate::wire::ss::stream::{Opener, Sealer};
use crate::wire::ss::{Credentials, Salt};

/// Bytes of a visitor's number.
const NUMBER_LEN: usize = 8;
/// Room for the number and the sealed Connect frame, whose two addresses have at most 259 bytes each.
const MAX_HEAD: usize = 1024;

/// Visitors that may have streams of their own at once, as far as this side has memory for what nobody reads.
fn most() -> u32 {
    let memory = u32::try_from(pool::budget() / 2).unwrap_or(u32::MAX);
    let streams = memory / 5 * 4 / QUIC_UP_WINDOW;
    streams.saturating_sub(2).min(OWN_STREAMS)
}

/// Bytes that the connection holds unread: enough for each of its streams, that of the link included, so that none waits for another.
/// A quarter more, since a QUIC connection says only after an eighth of its window has been read that it takes more.
fn window() -> u32 {
    let streams = (most() + 2).saturating_mul(QUIC_UP_WINDOW);
    streams.saturating_add(streams / 4)
}

/// What only the two ends of a link know.
struct Keys {
    method: Method,
    secret: LinkSecret,
}

impl Keys {
    fn credentials(&self, number: u64, direction: u8) -> Credentials {
        let Self { method, secret } = self;
        Credentials::new(
            *method,
            Vec::new(),
            Key::of_visitor(*method, &secret.0, number, direction),
        )
    }

    fn opener(&self, number: u64, direction: u8) -> Opener {
        let credentials = self.credentials(number, direction);
        Opener::response(&credentials, self.request())
    }

    fn sealer(&self, number: u64, direction: u8) -> Sealer {
        let credentials = self.credentials(number, direction);
        let salt = Salt::new(self.method, rand::random());
        Sealer::response(self.method, credentials.key(), salt, self.request())
    }

    /// The keys say which request is answered.
    fn request(&self) -> Salt {
        Salt::new(self.method, [0; 32])
    }
}

const DOWN: u8 = 0;
const UP: u8 = 1;

/// The server's side: opens the streams.
pub(super) struct Openings {
    keys: Keys,
    beside: Beside,
    next: AtomicU64,
    open: Limit,
}

impl Openings {
    pub(super) fn new(beside: Beside, method: Method, secret: LinkSecret) -> Self {
        let most = usize::try_from(most()).unwrap_or(usize::MAX);
        Self {
            keys: Keys { method, secret },
            beside,
            next: AtomicU64::new(0),
            open: Limit::new(most),
        }
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.open.count()
    }

    /// Opens the stream of a visitor. `None`: it has to go through the link.
    pub(super) fn open(&self, connect: Connect<'_>) -> Option<Leg> {
        let counted = self.open.take(1)?;
        // Again for each, since what the server gives to all its connections may have changed it.
        self.beside.take_unread(window());
        let stream = self.beside.try_open(counted)?;
        let number = self.next.fetch_add(1, Relaxed);
        let mut sealer = self.keys.sealer(number, DOWN);
        let mut room = [0; MAX_HEAD];
        let (front, rest) = room.split_first_chunk_mut::<NUMBER_LEN>()?;
        *front = number.to_be_bytes();
        let mut slots = [IoSliceMut::new(&mut [])];
        if sealer.slots(rest, &mut slots) == 0 {
            return None;
        }
        let [slot] = &mut slots;
        let frame = Frame::Connect {
            id: number,
            connect,
        };
        let count = frame.encode(slot)?;
        let len = NUMBER_LEN + seal(&mut sealer, rest, count).ok()?;
        let head = room.get(..len)?;
        let mut cx = Context::from_waker(Waker::noop());
        match stream.poll_write(&mut cx, &[IoSlice::new(head)]) {
            Poll::Ready(Ok(written)) if written == len => {}
            // The connection is so busy that the visitor had to wait: it does so in the link.
            _ => return None,
        }
        let codec = (self.keys.opener(number, UP), sealer);
        Some(Leg {
            codec: Some(codec),
            ..Leg::plain(stream)
        })
    }
}

/// The client's side: what the server opens.
pub struct Arrivals {
    keys: Keys,
    beside: Beside,
    /// The numbers that have come.
    seen: Mutex<Window>,
}

/// Without the secret.
impl std::fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Arrivals")
    }
}

impl Arrivals {
    /// Lets the server open streams.
    pub(super) fn new(beside: Beside, method: Method, secret: LinkSecret) -> Self {
        beside.take_unread(window());
        beside.allow(most());
        Self {
            keys: Keys { method, secret },
            beside,
            seen: Mutex::new(Window::new()),
        }
    }

    /// Waits for a stream. Cancel safe.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn next(&self) -> io::Result<Stream> {
        self.beside.accept().await
    }

    /// Reads whose stream it is.
    ///
    /// # Errors
    /// When it breaks, or is not of this link's server.
    pub async fn begin(&self, stream: Stream) -> Result<(Visitor, Leg), Error> {
        let wrong = |source| Error::Wire {
            side: Side::Upstream,
            source,
        };
        let number = read_number(&stream)
            .await
            .map_err(Error::io(Side::Upstream))?;
        let mut opener = self.keys.opener(number, DOWN);
        let mut decoder = Decoder::default();
        let mut buffer = None;
        let mut sizing = Sizing::up_to(Size::Small);
        loop {
            stream.readable().await.map_err(Error::io(Side::Upstream))?;
            let read = sealed::read(
                &stream,
                &mut buffer,
                Some(&opener),
                Size::Small,
                &mut sizing,
            );
            match read {
                Err(StreamError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    continue;
                }
                read => read.map_err(|error| error.blame(Side::Upstream))?,
            }
            let Some(filled) = &mut buffer else { continue };
            let found = connect(filled, &mut opener, &mut decoder).map_err(wrong)?;
            let Some(visitor) = found else { continue };
            // Only now: what was opened is the server's.
            if visitor.id != number || !lock(&self.seen).accept(number) {
                return Err(wrong(wire::Error::Replayed));
            }
            let codec = (opener, self.keys.sealer(number, UP));
            return Ok((
                visitor,
                Leg {
                    stream,
                    codec: Some(codec),
                    first: buffer.map_or(First::Nothing, First::Opened),
                    others: None,
                },
            ));
        }
    }
}

async fn read_number(stream: &Stream) -> io::Result<u64> {
    let mut number = [0; NUMBER_LEN];
    let mut rest = &mut number[..];
    while !rest.is_empty() {
        match stream.read(rest).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => rest = rest.get_mut(count..).unwrap_or_default(),
        }
    }
    Ok(u64::from_be_bytes(number))
}

/// The Connect frame at the front of the payload in `buffer`; what follows it there is ready. `None`: not all has come.
fn connect(
    buffer: &mut Buffer,
    opener: &mut Opener,
    decoder: &mut Decoder,
) -> Result<Option<Visitor>, wire::Error> {
    while !buffer.raw.is_empty() {
        let Some(payload) = sealed::open(buffer, Some(opener))? else {
            return Ok(None);
        };
        let bytes = buffer.bytes().get(payload.clone()).unwrap_or_default();
        let (used, visitor) = match decoder.next(bytes)? {
            (_, None) => continue,
            (used, Some(Item::Frame(Frame::Connect { id, connect }))) => {
                (used, Visitor::new(id, connect))
            }
            _ => return Err(wire::Error::FrameUnexpected),
        };
        let rest = payload.start + used..payload.end;
        if !rest.is_empty() {
            buffer.ready.push(rest);
        }
        return Ok(Some(visitor));
    }
    Ok(None)
}
