//! UDP packets, sealed and opened in place.
//!
//! ```text
//! SIP004        salt ‖ seal(address ‖ data)                                       nonce 0, a subkey a packet
//! SIP022 AES    block(session id u64 ‖ packet id u64be) ‖ identity×n ‖ seal(body) nonce = plain header [4..16]
//! SIP022 ChaCha nonce 24 ‖ seal(session id ‖ packet id ‖ body)                    XChaCha20 under the PSK itself
//!   body        type ‖ unix seconds u64be ‖ [client session id, when type 1] ‖ padding length u16be ‖ padding
//!               ‖ address ‖ data
//! ```
//!
//! A packet sealer needs room before the body ([`PacketSealer::headroom`]) and a tag's room behind it. Which session
//! a packet belongs to is read first ([`Accounts::identify`], [`ClientPackets::open`]); what a session remembers moves
//! only after the packet has been opened and validated.

mod sealer;
mod subkeys;

pub use sealer::PacketSealer;
pub use subkeys::Subkeys;

use std::ops::Range;

use crate::crypto::{Aead, Block, Family, Key, Method, Window};
use crate::wire::Error;

use super::{
    Accounts, Credentials, MAX_PADDING, TYPE_CLIENT, TYPE_SERVER, check_time, put, split, take,
};

/// The separate header of SIP022 AES packets, and what ChaCha packets have in its place inside.
const HEADER_LEN: usize = 16;
/// The nonce of SIP022 ChaCha packets.
const NONCE_LEN: usize = 24;

/// Whether a method's packets carry session and packet ids.
#[must_use]
pub fn has_sessions(method: Method) -> bool {
    method.family() == Family::Aead2022
}

/// How long a server's session must have been silent before it is forgotten for a newer one, in seconds
/// (SIP022 §3.2.4): by then none of its packets is young enough to be taken for that of a new session.
const FORGET_AFTER: u64 = 60;

/// What the front of a packet tells a server.
#[derive(Clone, Debug)]
pub struct Identified {
    /// The client's session; `None` for methods without sessions.
    pub session: Option<u64>,
    /// The user, on a server with users.
    pub user: Option<usize>,
    packet: u64,
    /// Where the body stands: sealed or, for ChaCha, opened already.
    body: Range<usize>,
    header: [u8; HEADER_LEN],
}

impl Accounts {
    /// Derives into `subkeys` what opens `packets`, which have arrived together.
    pub fn expect<'a>(&self, subkeys: &mut Subkeys, packets: impl Iterator<Item = &'a [u8]>) {
        subkeys.derive(self.method(), self.session_key(None), packets);
    }

    /// Reads what leads to the session of a client's packet. Only ChaCha packets are opened by this; for the others
    /// what is found here is nobody's word yet.
    ///
    /// # Errors
    /// What is wrong with the packet.
    pub fn identify(&self, packet: &mut [u8]) -> Result<Identified, Error> {
        let mut found = Identified {
            session: None,
            user: None,
            packet: 0,
            body: 0..packet.len(),
            header: [0; 16],
        };
        if !has_sessions(self.method()) {
            return Ok(found);
        }
        (found.header, found.body) =
            open_header(packet, self.block.as_ref(), self.chacha.as_ref())?;
        if let Some(block) = self.block.as_ref().filter(|_| self.has_users()) {
            let (mut identity, _) =
                take::<16>(packet.get(found.body.start..).ok_or(Error::Truncated)?)?;
            // A packet's identity is masked by the plain header and stands under the key itself (SIP023 §3).
            block.decrypt(&mut identity);
            identity
                .iter_mut()
                .zip(found.header)
                .for_each(|(byte, mask)| *byte ^= mask);
            found.user = Some(self.find(&identity).ok_or(Error::UnknownIdentity)?);
            found.body.start += identity.len();
        }
        let (session, id) = ids(&found.header)?;
        (found.session, found.packet) = (Some(session), id);
        Ok(found)
    }

    /// Makes of a packet for the next server what that server expects: without our identity header, and with the
    /// separate header under its own key (SIP023 §3). Returns where the packet stands.
    ///
    /// # Errors
    /// [`Error::Truncated`] when the packet is shorter than [`Accounts::identify`] found it.
    pub fn readdress(&self, packet: &mut [u8], found: &Identified) -> Result<Range<usize>, Error> {
        let key = self.session_key(found.user);
        let start = found
            .body
            .start
            .checked_sub(HEADER_LEN)
            .ok_or(Error::Truncated)?;
        let mut header = found.header;
        Block::new(key).encrypt(&mut header);
        put(packet.get_mut(start..).ok_or(Error::Truncated)?, &header)?;
        Ok(start..packet.len())
    }
}

/// A server's receiving half of an association.
pub struct ServerPackets {
    method: Method,
    /// The key schedule, kept for the session (for SIP004 a packet has a key of its own).
    aead: Option<Aead>,
    key: Key,
    window: Window,
}

impl ServerPackets {
    /// For packets like the one that was identified as `found`.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] when the key does not fit the method.
    pub fn new(accounts: &Accounts, found: &Identified) -> Result<Self, Error> {
        let (method, key) = (accounts.method(), accounts.session_key(found.user).clone());
        let session = found.session.filter(|_| method.supports_identity());
        let aead = session
            .map(|id| session_aead(method, &key, id))
            .transpose()?;
        Ok(Self {
            method,
            aead,
            key,
            window: Window::new(),
        })
    }

    /// Opens and validates a packet; returns where its address and data stand. `subkey`: what [`Subkeys`] has for it.
    ///
    /// # Errors
    /// What is wrong with it; the session is as it was.
    pub fn open(
        &mut self,
        packet: &mut [u8],
        subkey: Option<Key>,
        found: &Identified,
        now: u64,
    ) -> Result<Range<usize>, Error> {
        if !has_sessions(self.method) {
            return open_single(self.method, &self.key, packet, subkey);
        }
        // Cheap, and the answer to most replays: the id is looked up before the packet is opened, but marked after.
        if !self.window.is_fresh(found.packet) {
            return Err(Error::Replayed);
        }
        let mut body = found.body.clone();
        if let Some(aead) = &self.aead {
            let sealed = packet.get_mut(body.clone()).ok_or(Error::Truncated)?;
            let len = aead
                .open(nonce_of(&found.header)?, sealed)
                .map_err(|_| Error::Unauthenticated)?
                .len();
            body.end = body.start + len;
        }
        let bytes = packet.get(body.clone()).ok_or(Error::Truncated)?;
        body.start += open_body(bytes, TYPE_CLIENT, None, now)?;
        if !self.window.accept(found.packet) {
            return Err(Error::Replayed);
        }
        Ok(body)
    }
}

/// The AEAD that opens the ChaCha packets of a server or client: keyed by the PSK itself.
#[must_use]
pub fn chacha(method: Method, key: &Key) -> Option<Aead> {
    (has_sessions(method) && !method.supports_identity())
        .then(|| Aead::packet(method, key))
        .flatten()
}

/// A client's receiving half of an association.
pub struct ClientPackets {
    method: Method,
    key: Key,
    block: Option<Block>,
    chacha: Option<Aead>,
    session: u64,
    /// The server's sessions, newest first: a server that was restarted has a new one, and packets of the old one may
    /// still be on their way (SIP022 §3.2.4).
    servers: [Option<Incoming>; 2],
}

struct Incoming {
    session: u64,
    aead: Option<Aead>,
    window: Window,
    /// When its last packet was opened, in Unix seconds.
    seen: u64,
}

impl ClientPackets {
    /// Opens what answers the packets of `session`.
    #[must_use]
    pub fn new(credentials: &Credentials, session: u64) -> Self {
        let (method, key) = (credentials.method(), credentials.key().clone());
        Self {
            block: method.supports_identity().then(|| Block::new(&key)),
            chacha: chacha(method, &key),
            method,
            key,
            session,
            servers: [None, None],
        }
    }

    /// Whether a packet proves to answer this association. Without sessions, an old or foreign packet opens as well.
    #[must_use]
    pub fn proves_its_session(&self) -> bool {
        has_sessions(self.method)
    }

    /// Derives into `subkeys` what opens `packets`, which have arrived together.
    pub fn expect<'a>(&self, subkeys: &mut Subkeys, packets: impl Iterator<Item = &'a [u8]>) {
        subkeys.derive(self.method, &self.key, packets);
    }

    /// Opens and validates a packet; returns where its address and data stand. `subkey`: what [`Subkeys`] has for it.
    ///
    /// # Errors
    /// What is wrong with it; the session is as it was.
    pub fn open(
        &mut self,
        packet: &mut [u8],
        subkey: Option<Key>,
        now: u64,
    ) -> Result<Range<usize>, Error> {
        if !has_sessions(self.method) {
            return open_single(self.method, &self.key, packet, subkey);
        }
        let (header, mut body) = open_header(packet, self.block.as_ref(), self.chacha.as_ref())?;
        let (session, id) = ids(&header)?;
        let known = self.servers.iter().position(|server| {
            server
                .as_ref()
                .is_some_and(|known| known.session == session)
        });
        let mut fresh = match known {
            Some(_) => None,
            None => Some(Incoming {
                session,
                aead: self
                    .block
                    .as_ref()
                    .map(|_| session_aead(self.method, &self.key, session))
                    .transpose()?,
                window: Window::new(),
                seen: now,
            }),
        };
        let slot = known
            .and_then(|index| self.servers.get_mut(index))
            .and_then(Option::as_mut);
        let server = slot.or(fresh.as_mut()).ok_or(Error::Truncated)?;
        if !server.window.is_fresh(id) {
            return Err(Error::Replayed);
        }
        if let Some(aead) = &server.aead {
            let sealed = packet.get_mut(body.clone()).ok_or(Error::Truncated)?;
            let len = aead
                .open(nonce_of(&header)?, sealed)
                .map_err(|_| Error::Unauthenticated)?
                .len();
            body.end = body.start + len;
        }
        let bytes = packet.get(body.clone()).ok_or(Error::Truncated)?;
        body.start += open_body(bytes, TYPE_SERVER, Some(self.session), now)?;
        if !server.window.accept(id) {
            return Err(Error::Replayed);
        }
        server.seen = now;
        if let Some(fresh) = fresh {
            let [_, oldest] = &self.servers;
            if oldest
                .as_ref()
                .is_some_and(|oldest| oldest.seen.abs_diff(now) <= FORGET_AFTER)
            {
                return Err(Error::Replayed);
            }
            self.servers.rotate_right(1);
            if let Some(newest) = self.servers.first_mut() {
                *newest = Some(fresh);
            }
        }
        Ok(body)
    }
}

/// The AEAD of a SIP022 session: under a session subkey for AES, under the PSK for ChaCha.
fn session_aead(method: Method, key: &Key, session: u64) -> Result<Aead, Error> {
    let subkey = if method.supports_identity() {
        key.session_subkey(method, &session.to_be_bytes())
    } else {
        key.clone()
    };
    Aead::packet(method, &subkey).ok_or(Error::Unauthenticated)
}

/// Opens a packet of a method without sessions.
fn open_single(
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

/// The plain separate header, and where what stands behind it begins and ends.
fn open_header(
    packet: &mut [u8],
    block: Option<&Block>,
    chacha: Option<&Aead>,
) -> Result<([u8; HEADER_LEN], Range<usize>), Error> {
    if let Some(block) = block {
        let (mut header, _) = take::<HEADER_LEN>(packet)?;
        block.decrypt(&mut header);
        return Ok((header, HEADER_LEN..packet.len()));
    }
    let (nonce, sealed) = split(packet, NONCE_LEN)?;
    let plain = chacha
        .ok_or(Error::Unauthenticated)?
        .open(nonce, sealed)
        .map_err(|_| Error::Unauthenticated)?;
    let (header, rest) = take::<HEADER_LEN>(plain)?;
    let start = NONCE_LEN + HEADER_LEN;
    Ok((header, start..start + rest.len()))
}

/// Validates the front of a body and returns its length, up to the address.
fn open_body(body: &[u8], kind: u8, session: Option<u64>, now: u64) -> Result<usize, Error> {
    let whole = body.len();
    let ([found], body) = take::<1>(body)?;
    let (time, mut body) = take::<8>(body)?;
    if found != kind {
        return Err(Error::HeaderType(found));
    }
    check_time(u64::from_be_bytes(time), now)?;
    if let Some(session) = session {
        let (peer, rest) = take::<8>(body)?;
        if u64::from_be_bytes(peer) != session {
            return Err(Error::SessionMismatch);
        }
        body = rest;
    }
    let (padding, body) = take::<2>(body)?;
    let padding = usize::from(u16::from_be_bytes(padding));
    if padding > MAX_PADDING {
        return Err(Error::Padding);
    }
    let body = body.get(padding..).ok_or(Error::Padding)?;
    Ok(whole - body.len())
}

/// The session id and the packet id of a plain separate header.
fn ids(header: &[u8; HEADER_LEN]) -> Result<(u64, u64), Error> {
    let (session, rest) = take::<8>(header)?;
    let (id, _) = take::<8>(rest)?;
    Ok((u64::from_be_bytes(session), u64::from_be_bytes(id)))
}

/// The nonce of an AES packet: the last 12 bytes of its plain separate header.
fn nonce_of(header: &[u8; HEADER_LEN]) -> Result<&[u8], Error> {
    header.get(4..).ok_or(Error::Truncated)
}
