//! Packet headers, nonces and session keys, for sealing and opening.

use std::ops::Range;

use crate::crypto::{Aead, Block, Family, Key, Method};
use crate::wire::Error;
use crate::wire::ss::bytes::{read, split};
use crate::wire::ss::header::{MAX_PADDING, check_time};

/// Bytes of the separate header of AEAD-2022 AES packets, which ChaCha packets have inside.
pub(super) const HEADER_LEN: usize = 16;
/// Bytes of the nonce of AEAD-2022 ChaCha packets.
pub(super) const NONCE_LEN: usize = 24;

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

/// Validates the header of a body and returns its length: the address follows.
pub(super) fn open_body(
    body: &[u8],
    kind: u8,
    session: Option<u64>,
    now: u64,
) -> Result<usize, Error> {
    let whole = body.len();
    let ([found], body) = read::<1>(body)?;
    let (time, mut body) = read::<8>(body)?;
    if found != kind {
        return Err(Error::HeaderType(found));
    }
    check_time(u64::from_be_bytes(time), now)?;
    if let Some(session) = session {
        let (peer, rest) = read::<8>(body)?;
        if u64::from_be_bytes(peer) != session {
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
    Ok(whole - body.len())
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
