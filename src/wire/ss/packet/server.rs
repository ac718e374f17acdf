//! A server's side: opening the packets of clients.

use std::ops::Range;

use crate::crypto::{Block, Key, Method, TAG_LEN};
use crate::wire::Error;
use crate::wire::ss::bytes::{read, split, write};
use crate::wire::ss::header::Now;
use crate::wire::ss::keys::{Accounts, has_sessions};
use crate::wire::ss::trial::opens;

use super::session::{HEADER_LEN, Session, ids, open_header, open_single};
use super::subkeys::Subkeys;

/// What trying a key costs beside the bytes of the packet, in bytes that could be opened in the same time.
const TRIAL: usize = 512;

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

    /// The same where it takes a trial to know whose each is: for `user`, who is likely.
    pub fn derive_likely<'a>(
        &self,
        user: Option<usize>,
        subkeys: &mut Subkeys,
        packets: impl Iterator<Item = &'a [u8]>,
    ) {
        match user.and_then(|id| self.user(id)) {
            Some(user) => subkeys.derive(self.method(), &user.key, packets),
            None => subkeys.clear(),
        }
    }

    /// Finds by trial whose an AEAD-2017 packet is, and opens it; returns the position of its address and data too. `prepared` is
    /// the key that [`Accounts::derive_likely`] has derived for it, and whose; then `likely` is tried, and everybody else if
    /// `may_go_on` says so of the bytes that this costs. `room` is for what fails.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`]: nobody's; [`Error::NoResources`]: not everybody was tried. The packet is unchanged then.
    pub fn open_by_trial(
        &self,
        packet: &mut [u8],
        prepared: Option<(usize, Key)>,
        likely: Option<usize>,
        room: &mut Vec<u8>,
        may_go_on: impl FnOnce(usize) -> bool,
    ) -> Result<(PacketHeader, Range<usize>), Error> {
        let method = self.method();
        let (salt, sealed) = split(packet, method.salt_len())?;
        if sealed.len() < TAG_LEN {
            return Err(Error::Truncated);
        }
        room.resize(sealed.len(), 0);
        let prepared = prepared.filter(|(_, key)| opens(method, key, sealed, room));
        let found = match (prepared, likely) {
            (Some((user, _)), _) => Some(user),
            (None, Some(id)) => {
                let found = self.try_sender(id, salt, sealed, room);
                found.map(|sender| sender.user)
            }
            (None, None) => None,
        };
        let user = match found {
            Some(user) => user,
            None if may_go_on(self.count().saturating_mul(sealed.len() + TRIAL)) => {
                let found = self.find_sender(likely, salt, sealed, room);
                found.ok_or(Error::Unauthenticated)?.user
            }
            None => return Err(Error::NoResources),
        };
        let body = salt.len()..packet.len() - TAG_LEN;
        let plain = room.get(..body.len()).ok_or(Error::Truncated)?;
        let place = packet.get_mut(body.clone()).ok_or(Error::Truncated)?;
        place.copy_from_slice(plain);
        let found = PacketHeader {
            session: None,
            user: Some(user),
            packet: 0,
            body: body.clone(),
            header: [0; 16],
        };
        Ok((found, body))
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
