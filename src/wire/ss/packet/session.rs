//! What sealing and opening share: packet headers, nonces, and the sessions of AEAD-2022.

use std::ops::Range;

use crate::crypto::{Aead, Block, Family, Key, Method, Window};
use crate::wire::Error;
use crate::wire::ss::bytes::{read, split};
use crate::wire::ss::header::{MAX_PADDING, Now, TYPE_CLIENT, TYPE_SERVER, check_time};

/// Bytes of the separate header of AEAD-2022 AES packets, which ChaCha packets have inside.
pub(super) const HEADER_LEN: usize = 16;
/// Bytes of the nonce of AEAD-2022 ChaCha packets.
pub(super) const NONCE_LEN: usize = 24;

/// The receiving half of an AEAD-2022 session.
pub(super) struct Session {
    /// `None` for ChaCha, whose packets are opened together with their header.
    aead: Option<Aead>,
    window: Window,
    /// The latest timestamp of a packet, in Unix seconds.
    pub(super) latest: u64,
}

impl Session {
    pub(super) fn new(method: Method, key: &Key, id: u64) -> Result<Self, Error> {
        let with_block = method.supports_identity();
        Ok(Self {
            aead: with_block
                .then(|| session_aead(method, key, id))
                .transpose()?,
            window: Window::new(),
            latest: 0,
        })
    }

    /// Marks a packet as received; fails if it had been received.
    pub(super) fn mark_received(&mut self, id: u64) -> Result<(), Error> {
        self.window.accept(id).then_some(()).ok_or(Error::Replayed)
    }

    /// The greatest id of a packet that was received, if any was.
    pub(super) fn greatest(&self) -> Option<u64> {
        self.window.greatest()
    }

    /// Makes this session, which has received the packet `id`, the continuation of one that had received `greatest`.
    pub(super) fn resume(&mut self, greatest: u64, id: u64) -> Result<(), Error> {
        self.window = Window::after(greatest);
        self.mark_received(id)
    }

    /// Opens and validates the body at `body`, of a client or, with the client session `peer`, of a server. Returns the
    /// position of its address and data.
    pub(super) fn open(
        &mut self,
        packet: &mut [u8],
        header: &[u8; HEADER_LEN],
        mut body: Range<usize>,
        peer: Option<u64>,
        now: Now,
    ) -> Result<Range<usize>, Error> {
        let (_, id) = ids(header)?;
        // A cheap check before the packet is opened; the id is marked only afterwards.
        if !self.window.is_fresh(id) {
            return Err(Error::Replayed);
        }
        let sealed = packet.get_mut(body.clone()).ok_or(Error::Truncated)?;
        let opened = match &self.aead {
            Some(aead) => aead
                .open(nonce_of(header)?, sealed)
                .map_err(|_| Error::Unauthenticated)?,
            None => sealed,
        };
        body.end = body.start + opened.len();
        let (start, timestamp) = open_body(opened, peer, now)?;
        body.start += start;
        self.mark_received(id)?;
        self.latest = self.latest.max(timestamp);
        Ok(body)
    }
}

/// The AEAD of an AEAD-2022 session: under a session subkey for AES, under the PSK for ChaCha.
pub(super) fn session_aead(method: Method, key: &Key, session: u64) -> Result<Aead, Error> {
    let subkey = if method.supports_identity() {
        key.session_subkey(method, &session.to_be_bytes())
    } else {
        key.clone()
    };
    Aead::packet(method, &subkey).ok_or(Error::Unauthenticated)
}

/// Opens a packet of a method without sessions.
pub(super) fn open_single(
    method: Method,
    key: &Key,
    packet: &mut [u8],
    subkey: Option<Key>,
) -> Result<Range<usize>, Error> {
    if method.family() == Family::Plain {
        return Ok(0..packet.len());
    }
    let (salt, sealed) = split(packet, method.salt_len())?;
    let subkey = subkey.unwrap_or_else(|| key.session_subkey(method, salt));
    let aead = Aead::stream(method, &subkey).ok_or(Error::Truncated)?;
    let nonce = [0; NONCE_LEN];
    let nonce = nonce.get(..aead.nonce_len()).ok_or(Error::Truncated)?;
    let len = aead
        .open(nonce, sealed)
        .map_err(|_| Error::Unauthenticated)?
        .len();
    Ok(salt.len()..salt.len() + len)
}

/// Opens the separate header; returns it and the position of what follows.
pub(super) fn open_header(
    packet: &mut [u8],
    block: Option<&Block>,
    chacha: Option<&Aead>,
) -> Result<([u8; HEADER_LEN], Range<usize>), Error> {
    if let Some(block) = block {
        let (mut header, _) = read::<HEADER_LEN>(packet)?;
        block.decrypt(&mut header);
        return Ok((header, HEADER_LEN..packet.len()));
    }
    let (nonce, sealed) = split(packet, NONCE_LEN)?;
    let plain = chacha
        .ok_or(Error::Unauthenticated)?
        .open(nonce, sealed)
        .map_err(|_| Error::Unauthenticated)?;
    let (header, rest) = read::<HEADER_LEN>(plain)?;
    let start = NONCE_LEN + HEADER_LEN;
    Ok((header, start..start + rest.len()))
}

/// Validates the header of a body and returns its length and its timestamp: the address follows.
fn open_body(body: &[u8], peer: Option<u64>, now: Now) -> Result<(usize, u64), Error> {
    let whole = body.len();
    let ([found], body) = read::<1>(body)?;
    let (time, mut body) = read::<8>(body)?;
    let expected = peer.map_or(TYPE_CLIENT, |_| TYPE_SERVER);
    if found != expected {
        return Err(Error::HeaderType(found));
    }
    let timestamp = u64::from_be_bytes(time);
    check_time(timestamp, now)?;
    if let Some(peer) = peer {
        let (session, rest) = read::<8>(body)?;
        if u64::from_be_bytes(session) != peer {
            return Err(Error::SessionMismatch);
        }
        body = rest;
    }
    let (padding, body) = read::<2>(body)?;
    let padding = usize::from(u16::from_be_bytes(padding));
    if padding > MAX_PADDING {
        return Err(Error::Padding);
    }
    let body = body.get(padding..).ok_or(Error::Padding)?;
    Ok((whole - body.len(), timestamp))
}

/// The session id and the packet id of a plain separate header.
pub(super) fn ids(header: &[u8; HEADER_LEN]) -> Result<(u64, u64), Error> {
    let (session, rest) = read::<8>(header)?;
    let (id, _) = read::<8>(rest)?;
    Ok((u64::from_be_bytes(session), u64::from_be_bytes(id)))
}

/// The nonce of an AES packet: the last 12 bytes of its plain separate header.
pub(super) fn nonce_of(header: &[u8; HEADER_LEN]) -> Result<&[u8], Error> {
    header.get(4..).ok_or(Error::Truncated)
}
