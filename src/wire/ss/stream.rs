//! TCP streams: chunks sealed and opened in place.
//!
//! ```text
//! AEAD-2017  salt ‖ { len u16be + tag ‖ payload + tag }…            the first payload begins with the target address
//! AEAD-2022  request   salt ‖ identity×n ‖ fixed + tag ‖ variable + tag ‖ { len + tag ‖ payload + tag }…
//!            response  salt ‖ fixed + tag ‖ payload + tag ‖ { len + tag ‖ payload + tag }…
//!              fixed request    type 0 ‖ unix seconds u64be ‖ variable length u16be
//!              variable         target address ‖ padding length u16be ‖ padding ‖ first payload
//!              fixed response   type 1 ‖ unix seconds u64be ‖ request salt ‖ first payload length u16be
//! ```
//!
//! A sealer divides a buffer into *slots*: room for what precedes a payload (the lead), the payload, and room for its tag. A
//! vectored read fills the payloads, [`Sealer::seal`] fills the gaps, and the result is one contiguous run of bytes for one
//! write. The header of a request or response is a longer first lead.

mod direction;

use std::ops::Range;
use std::sync::Arc;

use crate::crypto::{Aead, Family, Key, Method, NonceCounter, TAG_LEN};
use crate::wire::Error;
use crate::wire::address::AddressRef;

use super::bytes::{length, read, seal, split, write};
use super::header::{TYPE_CLIENT, TYPE_SERVER, check_time};
use super::keys::{Credentials, Salt};

pub use self::direction::Direction;

/// The longest payload of an AEAD-2017 chunk, in bytes.
pub const MAX_CHUNK_2017: usize = 0x3FFF;
/// The longest payload of an AEAD-2022 chunk, in bytes (SIP022 §3.1.3).
pub const MAX_CHUNK_2022: usize = 0xFFFF;
/// The longest payload of the chunks that we seal, in bytes. AEAD-2022 allows more, but a receiver can pass nothing on until
/// a chunk is complete, which delays data on a slow link.
pub const CHUNK: usize = MAX_CHUNK_2017;

/// An encrypted length: u16be and tag.
pub(super) const LENGTH_LEN: usize = 2 + TAG_LEN;
/// The fixed header of a request, without tag: type, time, length.
pub(super) const REQUEST_FIXED_LEN: usize = 1 + 8 + 2;

/// The AEAD of one direction, with its nonce counter.
pub(super) struct Crypt {
    aead: Aead,
    nonce: NonceCounter,
    /// The key, for a process that goes on with the stream: the AEAD does not give it back.
    subkey: Key,
    method: Method,
}

impl Crypt {
    /// The AEAD of the stream that begins with `salt`; `None` for the method `none`.
    pub(super) fn new(method: Method, key: &Key, salt: &Salt) -> Option<Self> {
        Self::of_subkey(method, &key.session_subkey(method, salt.as_slice()))
    }

    /// The AEAD of the stream with this subkey; `None` for the method `none`.
    pub(super) fn of_subkey(method: Method, subkey: &Key) -> Option<Self> {
        let aead = Aead::stream(method, subkey)?;
        let nonce = NonceCounter::new(aead.nonce_len());
        Some(Self {
            aead,
            nonce,
            subkey: subkey.clone(),
            method,
        })
    }

    /// Seals `len` bytes at the front of `buf` and writes the tag after them.
    fn seal(&mut self, buf: &mut [u8], len: usize) -> Result<(), Error> {
        seal(&self.aead, self.nonce.next().as_slice(), buf, len)
    }

    /// Opens `len` bytes and their tag at the front of `buf`.
    pub(super) fn open<'a>(
        &mut self,
        buf: &'a mut [u8],
        len: usize,
    ) -> Result<&'a mut [u8], Error> {
        let sealed = buf.get_mut(..len + TAG_LEN).ok_or(Error::Truncated)?;
        self.aead
            .open(self.nonce.next().as_slice(), sealed)
            .map_err(|_| Error::Unauthenticated)
    }
}

/// What a header needs from outside: the time and random padding.
#[derive(Clone, Copy, Debug)]
pub struct Fresh<'a> {
    /// The time in Unix seconds.
    pub now: u64,
    /// Random padding of 1 to [`super::MAX_PADDING`] bytes for requests without payload, which need some (SIP022 §3.1.3).
    pub padding: &'a [u8],
}

/// Encrypts one direction of a stream.
pub struct Sealer {
    crypt: Option<Crypt>,
    head: Option<Box<Head>>,
    family: Family,
}

/// The header that precedes the first payload of a stream.
enum Head {
    Request(RequestHead),
    Response {
        salt: Salt,
        /// The salt of the request, for AEAD-2022.
        request_salt: Option<Salt>,
    },
}

struct RequestHead {
    salt: Salt,
    identity: Vec<u8>,
    address: Vec<u8>,
}

impl Sealer {
    /// The client's direction. `salt` must be fresh random bytes.
    #[must_use]
    pub fn request(credentials: &Credentials, salt: Salt, target: AddressRef<'_>) -> Self {
        let method = credentials.method();
        let mut identity = Vec::with_capacity(16 * credentials.identities());
        for (key, hash) in credentials.identity() {
            let mut block = *hash;
            crate::crypto::Block::new(&key.identity_subkey(salt.as_slice())).encrypt(&mut block);
            identity.extend_from_slice(&block);
        }
        let mut address = vec![0; target.encoded_len()];
        let _ = target.encode(&mut address);
        Self {
            crypt: Crypt::new(method, credentials.key(), &salt),
            head: Some(Box::new(Head::Request(RequestHead {
                salt,
                identity,
                address,
            }))),
            family: method.family(),
        }
    }

    /// The server's direction. `salt` must be fresh random bytes; `request` is the salt of the client's stream.
    #[must_use]
    pub fn response(method: Method, key: &Key, salt: Salt, request: Salt) -> Self {
        let family = method.family();
        let request_salt = (family == Family::Aead2022).then_some(request);
        let head = Head::Response { salt, request_salt };
        let head = (family != Family::Plain).then(|| Box::new(head));
        Self {
            crypt: Crypt::new(method, key, &salt),
            head,
            family,
        }
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> Method {
        let crypt = self.crypt.as_ref();
        crypt.map_or(Method::None, |crypt| crypt.method)
    }

    /// Whether the header of the stream has not been sealed yet.
    #[must_use]
    pub const fn at_head(&self) -> bool {
        self.head.is_some()
    }

    /// Bytes before the payload of the next chunk, if that payload is not empty.
    #[must_use]
    pub fn lead(&self) -> usize {
        match (self.head.as_deref(), self.family) {
            (None, Family::Plain) => 0,
            (None, _) => LENGTH_LEN,
            (Some(Head::Request(head)), family) => {
                let salt = head.salt.as_slice().len();
                let lead = match family {
                    Family::Plain => 0,
                    Family::Aead2017 => salt + LENGTH_LEN,
                    Family::Aead2022 => {
                        salt + head.identity.len() + REQUEST_FIXED_LEN + TAG_LEN + 2
                    }
                };
                lead + head.address.len()
            }
            (Some(Head::Response { salt, request_salt }), _) => {
                let fixed = request_salt.map_or(2, |request| 1 + 8 + request.as_slice().len() + 2);
                salt.as_slice().len() + fixed + TAG_LEN
            }
        }
    }

    /// Maximum payload of the next chunk, in bytes.
    fn capacity(&self) -> usize {
        match (self.head.as_deref(), self.family) {
            (_, Family::Plain) => usize::MAX,
            (Some(Head::Request(head)), _) => CHUNK.saturating_sub(head.address.len() + 2),
            _ => CHUNK,
        }
    }

    /// Bytes after a payload.
    const fn tail(&self) -> usize {
        match self.family {
            Family::Plain => 0,
            Family::Aead2017 | Family::Aead2022 => TAG_LEN,
        }
    }

    /// Divides `buf` into payloads for a vectored read; returns how many of `slots` it has set.
    pub fn slots<'a>(&self, mut buf: &'a mut [u8], slots: &mut [std::io::IoSliceMut<'a>]) -> usize {
        let (mut lead, mut capacity) = (self.lead(), self.capacity());
        let mut count = 0;
        for slot in slots {
            let Some((_, rest)) = std::mem::take(&mut buf).split_at_mut_checked(lead) else {
                break;
            };
            let room = rest.len().saturating_sub(self.tail()).min(capacity);
            if room == 0 {
                break;
            }
            let (payload, rest) = rest.split_at_mut(room);
            *slot = std::io::IoSliceMut::new(payload);
            count += 1;
            buf = rest.get_mut(self.tail()..).unwrap_or_default();
            if self.family == Family::Plain {
                break;
            }
            (lead, capacity) = (LENGTH_LEN, CHUNK);
        }
        count
    }

    /// Seals the `payload` bytes that fill the slots of `buf` in order; returns how many bytes at the front of `buf` are to be
    /// written. Without payload it seals only the header.
    ///
    /// # Errors
    /// [`Error::Truncated`] if `buf` is too short: its slots were not those of [`Sealer::slots`].
    pub fn seal(
        &mut self,
        buf: &mut [u8],
        payload: usize,
        fresh: Fresh<'_>,
    ) -> Result<usize, Error> {
        let (mut left, mut end) = (payload, 0);
        while left > 0 || (end == 0 && self.at_head()) {
            let rest = buf.get_mut(end..).ok_or(Error::Truncated)?;
            let len = left.min(self.capacity());
            end += match self.head.take() {
                Some(head) => self.seal_head(*head, rest, len, fresh)?,
                None => self.seal_chunk(rest, len)?,
            };
            left -= len;
        }
        Ok(end)
    }

    fn seal_chunk(&mut self, buf: &mut [u8], len: usize) -> Result<usize, Error> {
        if self.family == Family::Plain {
            return split(buf, len).map(|(payload, _)| payload.len());
        }
        let crypt = self.crypt.as_mut().ok_or(Error::Unauthenticated)?;
        let (prefix, payload) = split(buf, LENGTH_LEN)?;
        write(prefix, &length(len)?)?;
        crypt.seal(prefix, 2)?;
        crypt.seal(payload, len)?;
        Ok(LENGTH_LEN + len + TAG_LEN)
    }

    fn seal_head(
        &mut self,
        head: Head,
        buf: &mut [u8],
        len: usize,
        fresh: Fresh<'_>,
    ) -> Result<usize, Error> {
        match head {
            Head::Request(head) => self.seal_request(&head, buf, len, fresh),
            Head::Response { salt, request_salt } => {
                let buf = write(buf, salt.as_slice())?;
                let Some(request) = request_salt else {
                    return Ok(salt.as_slice().len() + self.seal_chunk(buf, len)?);
                };
                let request = request.as_slice();
                let fixed = 1 + 8 + request.len() + 2;
                let (header, payload) = split(buf, fixed + TAG_LEN)?;
                let rest = write(header, &[TYPE_SERVER])?;
                let rest = write(rest, &fresh.now.to_be_bytes())?;
                let rest = write(rest, request)?;
                write(rest, &length(len)?)?;
                let crypt = self.crypt.as_mut().ok_or(Error::Truncated)?;
                crypt.seal(header, fixed)?;
                crypt.seal(payload, len)?;
                Ok(salt.as_slice().len() + fixed + TAG_LEN + len + TAG_LEN)
            }
        }
    }

    fn seal_request(
        &mut self,
        head: &RequestHead,
        buf: &mut [u8],
        len: usize,
        fresh: Fresh<'_>,
    ) -> Result<usize, Error> {
        let (salt, identity, address) = (head.salt.as_slice(), &head.identity, &head.address);
        match (&mut self.crypt, self.family) {
            (Some(crypt), Family::Aead2017) => {
                let buf = write(buf, salt)?;
                let (prefix, chunk) = split(buf, LENGTH_LEN)?;
                write(prefix, &length(address.len() + len)?)?;
                crypt.seal(prefix, 2)?;
                write(chunk, address)?;
                crypt.seal(chunk, address.len() + len)?;
                Ok(salt.len() + LENGTH_LEN + address.len() + len + TAG_LEN)
            }
            (Some(crypt), Family::Aead2022) => {
                let padding = if len == 0 { fresh.padding } else { &[] };
                let variable = address.len() + 2 + padding.len() + len;
                let buf = write(buf, salt)?;
                let buf = write(buf, identity)?;
                let (fixed, body) = split(buf, REQUEST_FIXED_LEN + TAG_LEN)?;
                let rest = write(fixed, &[TYPE_CLIENT])?;
                let rest = write(rest, &fresh.now.to_be_bytes())?;
                write(rest, &length(variable)?)?;
                crypt.seal(fixed, REQUEST_FIXED_LEN)?;
                let rest = write(body, address)?;
                let rest = write(rest, &length(padding.len())?)?;
                write(rest, padding)?;
                crypt.seal(body, variable)?;
                Ok(salt.len() + identity.len() + REQUEST_FIXED_LEN + TAG_LEN + variable + TAG_LEN)
            }
            (_, Family::Plain) => {
                let payload = write(buf, address)?;
                Ok(address.len() + split(payload, len)?.0.len())
            }
            // Without a key the stream must not be sent unencrypted.
            (None, _) => Err(Error::Unauthenticated),
        }
    }
}

/// Remembers salts, to refuse those that come again.
pub trait SaltMemory: Send + Sync {
    /// Remembers the salt of an authenticated stream.
    ///
    /// # Errors
    /// [`Error::Replayed`] if it was seen before.
    fn admit(&self, salt: &Salt) -> Result<(), Error>;
}

/// Decrypts one direction of a stream.
pub struct Opener {
    crypt: Option<Crypt>,
    state: State,
    max_chunk: usize,
}

/// What the next bytes are expected to be.
enum State {
    Response(Box<PendingResponse>),
    Length,
    Payload(usize),
    Plain,
    /// The stream failed.
    Broken(Error),
}

/// What a client keeps of its request until the response begins.
struct PendingResponse {
    method: Method,
    key: Key,
    request_salt: Salt,
    /// Refuses the responses to other requests, where the method does not do it.
    seen: Option<Arc<dyn SaltMemory>>,
}

/// The result of [`Opener::open`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Bytes of the buffer that have been opened; 0 if more bytes are needed first.
    pub used: usize,
    /// Position of the plain payload in the buffer; may be empty.
    pub payload: Range<usize>,
}

impl Opener {
    /// The client's direction: opens the response to the request that began with `request_salt`.
    #[must_use]
    pub fn response(credentials: &Credentials, request_salt: Salt) -> Self {
        let method = credentials.method();
        let state = match method.family() {
            Family::Plain => State::Plain,
            Family::Aead2017 | Family::Aead2022 => State::Response(Box::new(PendingResponse {
                method,
                key: credentials.key().clone(),
                request_salt,
                seen: None,
            })),
        };
        Self {
            crypt: None,
            state,
            max_chunk: max_chunk(method),
        }
    }

    /// The same, for an AEAD-2017 method: `seen` is asked for the salt of the response.
    #[must_use]
    pub fn asking(mut self, seen: Arc<dyn SaltMemory>) -> Self {
        if let State::Response(pending) = &mut self.state
            && pending.method.family() == Family::Aead2017
        {
            pending.seen = Some(seen);
        }
        self
    }

    /// A direction whose header has been opened with `crypt`: chunks follow.
    pub(super) fn chunks(method: Method, crypt: Option<Crypt>) -> Self {
        let state = if crypt.is_some() {
            State::Length
        } else {
            State::Plain
        };
        Self {
            crypt,
            state,
            max_chunk: max_chunk(method),
        }
    }

    /// Bytes that [`Opener::open`] needs before it can do anything.
    #[must_use]
    pub fn need(&self) -> usize {
        match &self.state {
            State::Response(pending) => {
                let salt = pending.request_salt.as_slice().len();
                match pending.method.family() {
                    Family::Aead2022 => salt + 1 + 8 + salt + 2 + TAG_LEN,
                    _ => salt + LENGTH_LEN,
                }
            }
            State::Length => LENGTH_LEN,
            State::Payload(len) => len + TAG_LEN,
            State::Plain => 1,
            State::Broken(_) => 0,
        }
    }

    /// Whether the stream is between two chunks. (Whether an end here is genuine or a truncation cannot be known.)
    #[must_use]
    pub const fn at_boundary(&self) -> bool {
        !matches!(self.state, State::Payload(_))
    }

    /// Opens at most one chunk at the front of `buf`, in place. `now` returns the time in Unix seconds and is called only for
    /// the header of an AEAD-2022 response.
    ///
    /// # Errors
    /// What is wrong with the stream; later calls return the same error.
    pub fn open(&mut self, buf: &mut [u8], now: impl FnOnce() -> u64) -> Result<Opened, Error> {
        let opened = self.open_next(buf, now);
        opened.inspect_err(|error| self.state = State::Broken(*error))
    }

    fn open_next(&mut self, buf: &mut [u8], now: impl FnOnce() -> u64) -> Result<Opened, Error> {
        let (mut used, mut seen) = (0, None);
        if let State::Response(pending) = &self.state {
            if buf.len() < self.need() {
                return Ok(Opened::default());
            }
            seen = pending.seen.clone().zip(Salt::read(pending.method, buf));
            let (salt_len, crypt, payload) = open_response_head(pending, buf, now)?;
            (self.crypt, self.state, used) = (
                Some(crypt),
                payload.map_or(State::Length, State::Payload),
                salt_len,
            );
        }
        let opened = self.open_chunk(buf.get_mut(used..).ok_or(Error::Truncated)?)?;
        // The length of the first chunk has authenticated the salt.
        if let Some((seen, salt)) = seen {
            seen.admit(&salt)?;
        }
        Ok(Opened {
            used: used + opened.used,
            payload: used + opened.payload.start..used + opened.payload.end,
        })
    }

    fn open_chunk(&mut self, buf: &mut [u8]) -> Result<Opened, Error> {
        let mut used = 0;
        if let State::Length = self.state {
            if buf.len() < LENGTH_LEN {
                return Ok(Opened::default());
            }
            let (length, _) = read::<2>(self.crypt()?.open(buf, 2)?)?;
            let length = usize::from(u16::from_be_bytes(length));
            if length > self.max_chunk {
                return Err(Error::ChunkLength);
            }
            (self.state, used) = (State::Payload(length), LENGTH_LEN);
        }
        let len = match self.state {
            State::Payload(len) => len,
            State::Plain => {
                return Ok(Opened {
                    used: buf.len(),
                    payload: 0..buf.len(),
                });
            }
            State::Broken(error) => return Err(error),
            State::Response(_) | State::Length => return Ok(Opened::default()),
        };
        let rest = buf.get_mut(used..).ok_or(Error::Truncated)?;
        if rest.len() < len + TAG_LEN {
            return Ok(Opened {
                used,
                payload: used..used,
            });
        }
        self.crypt()?.open(rest, len)?;
        self.state = State::Length;
        Ok(Opened {
            used: used + len + TAG_LEN,
            payload: used..used + len,
        })
    }

    fn crypt(&mut self) -> Result<&mut Crypt, Error> {
        self.crypt.as_mut().ok_or(Error::Unauthenticated)
    }
}

/// Opens the header of a response; returns its length, the cipher, and for AEAD-2022 the length of the first payload.
fn open_response_head(
    pending: &PendingResponse,
    buf: &mut [u8],
    now: impl FnOnce() -> u64,
) -> Result<(usize, Crypt, Option<usize>), Error> {
    let salt = Salt::read(pending.method, buf).ok_or(Error::Truncated)?;
    let salt_len = salt.as_slice().len();
    let mut crypt = Crypt::new(pending.method, &pending.key, &salt).ok_or(Error::Truncated)?;
    if pending.method.family() != Family::Aead2022 {
        // With AEAD-2017 a request sent back to its client would open as the response.
        if salt.as_slice() == pending.request_salt.as_slice() {
            return Err(Error::Replayed);
        }
        return Ok((salt_len, crypt, None));
    }
    let fixed = 1 + 8 + salt_len + 2;
    let (_, sealed) = split(buf, salt_len)?;
    let header = &*crypt.open(sealed, fixed)?;
    let ([kind], header) = read::<1>(header)?;
    let (time, header) = read::<8>(header)?;
    if kind != TYPE_SERVER {
        return Err(Error::HeaderType(kind));
    }
    check_time(u64::from_be_bytes(time), now().into())?;
    let (request_salt, length) = header.split_at_checked(salt_len).ok_or(Error::Truncated)?;
    if request_salt != pending.request_salt.as_slice() {
        return Err(Error::SaltMismatch);
    }
    let (length, _) = read::<2>(length)?;
    Ok((
        salt_len + fixed + TAG_LEN,
        crypt,
        Some(usize::from(u16::from_be_bytes(length))),
    ))
}

fn max_chunk(method: Method) -> usize {
    match method.family() {
        Family::Aead2022 => MAX_CHUNK_2022,
        Family::Plain | Family::Aead2017 => MAX_CHUNK_2017,
    }
}
