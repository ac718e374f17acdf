//! A server's side: opening the packets of clients.

use std::ops::Range;

use crate::crypto::{Block, Key, Method};
use crate::wire::Error;
use crate::wire::ss::bytes::{read, write};
use crate::wire::ss::header::Now;
use crate::wire::ss::keys::{Accounts, has_sessions};

use super::session::{HEADER_LEN, Session, ids, open_header, open_single};
use super::subkeys::Subkeys;

/// The header of a client's packet, as a server reads it.
#[derive(Clone, Debug)]
pub struct PacketHeader {
    /// The client's session; `None` for methods without sessions.
    pub session: Option<u64>,
    /// The id of the user, on a server with users.
    pub user: Option<usize>,
    packet: u64,
    /// Position of the body: sealed or, for ChaCha, opened already.
    body: Range<usize>,
    header: [u8; HEADER_LEN],
}

impl Accounts {
    /// Derives the subkeys of `packets`, which have arrived together.
    pub fn derive_subkeys<'a>(
        &self,
        subkeys: &mut Subkeys,
        packets: impl Iterator<Item = &'a [u8]>,
    ) {
        subkeys.derive(self.method(), self.key(), packets);
    }

    /// Reads the header of a client's packet. This authenticates only ChaCha packets; the header of others must not be
    /// trusted until the packet has been opened.
    ///
    /// # Errors
    /// What is wrong with the packet.
    pub fn identify(&self, packet: &mut [u8]) -> Result<PacketHeader, Error> {
        let mut found = PacketHeader {
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
                read::<16>(packet.get(found.body.start..).ok_or(Error::Truncated)?)?;
            // The identity of a packet is XORed with the plain header and encrypted with the key itself (SIP023 §3).
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

    /// Rewrites a packet for the next server: removes our identity header and encrypts the separate header with that
    /// server's key (SIP023 §3). Returns the position of the packet.
    ///
    /// # Errors
    /// [`Error::Truncated`] if the packet is shorter than [`Accounts::identify`] has seen it.
    pub fn rewrite_for_next_server(
        &self,
        packet: &mut [u8],
        found: &PacketHeader,
    ) -> Result<Range<usize>, Error> {
        let key = self.session_key(found.user)?;
        let start = found
            .body
            .start
            .checked_sub(HEADER_LEN)
            .ok_or(Error::Truncated)?;
        let mut header = found.header;
        Block::new(key).encrypt(&mut header);
        write(packet.get_mut(start..).ok_or(Error::Truncated)?, &header)?;
        Ok(start..packet.len())
    }
}

/// Opens the packets of one association on a server.
pub struct ServerPackets {
    method: Method,
    key: Key,
    /// `None` for methods without sessions.
    session: Option<Session>,
}

impl ServerPackets {
    /// Opens the packets of the association of which `found` is one.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] if the key does not fit the method, [`Error::UnknownIdentity`] if the user is gone.
    pub fn new(accounts: &Accounts, found: &PacketHeader) -> Result<Self, Error> {
        let (method, key) = (accounts.method(), accounts.session_key(found.user)?.clone());
        let session = found.session.map(|id| Session::new(method, &key, id));
        Ok(Self {
            session: session.transpose()?,
            method,
            key,
        })
    }

    /// Marks a packet as received that another opener of the same session has opened.
    ///
    /// # Errors
    /// [`Error::Replayed`] if it had been received.
    pub fn mark_received(&mut self, found: &PacketHeader) -> Result<(), Error> {
        match &mut self.session {
            Some(session) => session.mark_received(found.packet),
            None => Ok(()),
        }
    }

    /// The greatest packet id and the latest timestamp that the session has accepted, if it has accepted any.
    #[must_use]
    pub fn accepted(&self) -> Option<(u64, u64)> {
        let session = self.session.as_ref()?;
        Some((session.greatest()?, session.latest))
    }

    /// Makes the session, which began with `found`, the continuation of one that has accepted packets up to `greatest`.
    ///
    /// # Errors
    /// [`Error::Replayed`] if `found` may be one of them.
    pub fn resume(&mut self, greatest: u64, found: &PacketHeader) -> Result<(), Error> {
        match &mut self.session {
            Some(session) => session.resume(greatest, found.packet),
            None => Ok(()),
        }
    }

    /// Opens and validates a packet; returns the position of its address and data. `subkey` is its key from [`Subkeys`], if
    /// there is one.
    ///
    /// # Errors
    /// What is wrong with the packet; the session is unchanged then.
    pub fn open(
        &mut self,
        packet: &mut [u8],
        subkey: Option<Key>,
        found: &PacketHeader,
        now: impl Into<Now>,
    ) -> Result<Range<usize>, Error> {
        let now = now.into();
        match &mut self.session {
            Some(session) => session.open(packet, &found.header, found.body.clone(), None, now),
            None => open_single(self.method, &self.key, packet, subkey),
        }
    }
}
