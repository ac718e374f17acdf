//! Sealing packets.

use std::ops::Range;

use crate::crypto::{Aead, Block, Family, Key, LANES, Method, TAG_LEN};
use crate::wire::Error;
use crate::wire::ss::bytes::{read, seal, split, write};
use crate::wire::ss::header::{TYPE_CLIENT, TYPE_SERVER};
use crate::wire::ss::keys::{Accounts, Credentials, Salt};

use super::session::{HEADER_LEN, NONCE_LEN, nonce_of, session_aead};
use super::subkeys::Subkeys;

/// Seals the packets of one direction of one association.
pub struct PacketSealer {
    method: Method,
    kind: Kind,
}

enum Kind {
    Plain,
    Aead {
        key: Key,
        /// The subkeys of the next packets.
        subkeys: Subkeys,
        /// Whether a packet has been sealed, so that more are likely.
        begun: bool,
    },
    Session(Box<Outgoing>),
}

/// The sending half of an AEAD-2022 session.
struct Outgoing {
    aead: Aead,
    /// The block cipher of the separate header; `None` for ChaCha.
    block: Option<Block>,
    /// The block cipher and the hash of the identity header of each iPSK (SIP023 §3).
    identity: Vec<(Block, [u8; 16])>,
    session: u64,
    next: u64,
    /// On a server, the client's session.
    peer: Option<u64>,
}

impl Kind {
    fn single(key: &Key) -> Self {
        Self::Aead {
            key: key.clone(),
            subkeys: Subkeys::default(),
            begun: false,
        }
    }
}

impl PacketSealer {
    /// The client's direction; `session` must be random.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] if the key does not fit the method.
    pub fn client(credentials: &Credentials, session: u64) -> Result<Self, Error> {
        let (method, key) = (credentials.method(), credentials.key());
        let kind = match method.family() {
            Family::Plain => Kind::Plain,
            Family::Aead2017 => Kind::single(key),
            Family::Aead2022 => session_kind(Outgoing {
                block: method
                    .supports_identity()
                    .then(|| Block::new(credentials.outer_key())),
                identity: credentials
                    .identity()
                    .iter()
                    .map(|(key, hash)| (Block::new(key), *hash))
                    .collect(),
                aead: session_aead(method, key, session)?,
                session,
                next: 0,
                peer: None,
            }),
        };
        Ok(Self { method, kind })
    }

    /// The server's direction, for the client's session `peer`; `session` must be random. If the two are equal, the server's
    /// is changed, because both directions derive their keys in the same way (SIP022 §3.2.2).
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] if the key does not fit the method.
    pub fn server(
        accounts: &Accounts,
        user: Option<usize>,
        session: u64,
        peer: u64,
    ) -> Result<Self, Error> {
        let (method, key) = (accounts.method(), accounts.session_key(user)?);
        let session = if session == peer { !session } else { session };
        let kind = match method.family() {
            Family::Plain => Kind::Plain,
            Family::Aead2017 => Kind::single(key),
            Family::Aead2022 => session_kind(Outgoing {
                block: method.supports_identity().then(|| Block::new(key)),
                identity: Vec::new(),
                aead: session_aead(method, key, session)?,
                session,
                next: 0,
                peer: Some(peer),
            }),
        };
        Ok(Self { method, kind })
    }

    /// The method.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// Whether packets are not encrypted and have no tag.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        matches!(self.kind, Kind::Plain)
    }

    /// Bytes needed before the body; packets are not padded.
    #[must_use]
    pub fn headroom(&self) -> usize {
        match &self.kind {
            Kind::Plain => 0,
            Kind::Aead { .. } => self.method.salt_len(),
            Kind::Session(session) => {
                let nonce = if session.block.is_some() {
                    0
                } else {
                    NONCE_LEN
                };
                let peer = if session.peer.is_some() { 8 } else { 0 };
                nonce + HEADER_LEN + 16 * session.identity.len() + 1 + 8 + peer + 2
            }
        }
    }

    /// Derives the subkeys of the next packets together, which is cheaper. Call it before each packet. It does nothing while
    /// subkeys are left, for methods that need only one, and before the first packet, which is often the only one (a DNS
    /// query). `random` generates the salts.
    pub fn prepare(&mut self, random: impl FnOnce() -> [[u8; 32]; LANES]) {
        if let Kind::Aead {
            key,
            subkeys,
            begun,
        } = &mut self.kind
            && std::mem::replace(begun, true)
            && subkeys.is_empty()
        {
            let salts = random().map(|random| Salt::new(self.method, random));
            subkeys.fill(self.method, key, salts.into_iter());
        }
    }

    /// Seals the body (address and data) at `body` in `buf`, which needs [`PacketSealer::headroom`] before it and room for a
    /// tag after it; returns the position of the packet. `random` generates a salt or nonce if one is needed that has not
    /// been prepared. `now` is in Unix seconds.
    ///
    /// # Errors
    /// [`Error::Truncated`] if there is not enough room.
    pub fn seal(
        &mut self,
        buf: &mut [u8],
        body: Range<usize>,
        now: u64,
        random: impl FnOnce() -> [u8; 32],
    ) -> Result<Range<usize>, Error> {
        let start = body
            .start
            .checked_sub(self.headroom())
            .ok_or(Error::Truncated)?;
        let (body_start, body_len) = (body.start - start, body.len());
        let packet = buf.get_mut(start..).ok_or(Error::Truncated)?;
        let len = match &mut self.kind {
            Kind::Plain => split(packet, body_len)?.0.len(),
            Kind::Aead { key, subkeys, .. } => {
                let (salt, subkey) = subkeys.pop().unwrap_or_else(|| {
                    let salt = Salt::new(self.method, random());
                    let subkey = key.session_subkey(self.method, salt.as_slice());
                    (salt, subkey)
                });
                let salt = salt.as_slice();
                let rest = write(packet, salt)?;
                let aead = Aead::stream(self.method, &subkey).ok_or(Error::Truncated)?;
                let nonce = [0; NONCE_LEN];
                seal(
                    &aead,
                    nonce.get(..aead.nonce_len()).ok_or(Error::Truncated)?,
                    rest,
                    body_len,
                )?;
                salt.len() + body_len + TAG_LEN
            }
            Kind::Session(session) => session.seal(packet, body_start, body_len, now, random)?,
        };
        Ok(start..start + len)
    }
}

fn session_kind(outgoing: Outgoing) -> Kind {
    Kind::Session(Box::new(outgoing))
}

impl Outgoing {
    /// Seals a packet that fills `packet` from its front; the body of `body_len` bytes is at `body_start`.
    fn seal(
        &mut self,
        packet: &mut [u8],
        body_start: usize,
        body_len: usize,
        now: u64,
        random: impl FnOnce() -> [u8; 32],
    ) -> Result<usize, Error> {
        let mut header = [0; HEADER_LEN];
        let (session, id) = header.split_at_mut(8);
        session.copy_from_slice(&self.session.to_be_bytes());
        id.copy_from_slice(&self.next.to_be_bytes());
        // An exhausted counter must not repeat a nonce; nobody sends 2^64 packets.
        self.next = self.next.checked_add(1).ok_or(Error::PacketId)?;

        let (lead, _) = split(packet, body_start)?;
        let front = lead.len() - 1 - 8 - if self.peer.is_some() { 8 } else { 0 } - 2;
        let (before, head) = split(lead, front)?;
        let kind = if self.peer.is_some() {
            TYPE_SERVER
        } else {
            TYPE_CLIENT
        };
        let head = write(head, &[kind])?;
        let mut head = write(head, &now.to_be_bytes())?;
        if let Some(peer) = self.peer {
            head = write(head, &peer.to_be_bytes())?;
        }
        write(head, &[0, 0])?;
        let Some(block) = &self.block else {
            // ChaCha: the ids are sealed with the body.
            let (nonce, _) = read::<NONCE_LEN>(&random())?;
            write(write(before, &nonce)?, &header)?;
            let sealed = packet.get_mut(NONCE_LEN..).ok_or(Error::Truncated)?;
            let len = body_start - NONCE_LEN + body_len;
            seal(&self.aead, &nonce, sealed, len)?;
            return Ok(NONCE_LEN + len + TAG_LEN);
        };
        let mut outer = header;
        block.encrypt(&mut outer);
        let mut identities = write(before, &outer)?;
        for (block, hash) in &self.identity {
            let mut identity = *hash;
            identity
                .iter_mut()
                .zip(header)
                .for_each(|(byte, mask)| *byte ^= mask);
            block.encrypt(&mut identity);
            identities = write(identities, &identity)?;
        }
        let sealed = packet.get_mut(front..).ok_or(Error::Truncated)?;
        let len = body_start - front + body_len;
        seal(&self.aead, nonce_of(&header)?, sealed, len)?;
        Ok(front + len + TAG_LEN)
    }
}
