//! A server's side: opening the packets of clients.

use std::ops::Range;

use crate::crypto::{Aead, Block, Key, Method, Window};
use crate::wire::Error;
use crate::wire::ss::bytes::{read, write};
use crate::wire::ss::header::TYPE_CLIENT;
use crate::wire::ss::keys::{Accounts, has_sessions};

use super::header::{HEADER_LEN, ids, nonce_of, open_body, open_header, open_single, session_aead};
use super::subkeys::Subkeys;

/// The header of a client's packet, as a server reads it.
#[derive(Clone, Debug)]
pub struct PacketHeader {
    /// The client's session; `None` for methods without sessions.
    pub session: Option<u64>,
    /// The index of the user, on a server with users.
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
        subkeys.derive(self.method(), self.session_key(None), packets);
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
        let key = self.session_key(found.user);
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
    /// The AEAD of the session; `None` for AEAD-2017, where each packet has its own key.
    aead: Option<Aead>,
    key: Key,
    window: Window,
}

impl ServerPackets {
    /// Opens the packets of the association of which `found` is one.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] if the key does not fit the method.
    pub fn new(accounts: &Accounts, found: &PacketHeader) -> Result<Self, Error> {
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

    /// Marks a packet as received that another opener of the same session has opened.
    ///
    /// # Errors
    /// [`Error::Replayed`] if it had been received.
    pub fn mark_received(&mut self, found: &PacketHeader) -> Result<(), Error> {
        if !has_sessions(self.method) || self.window.accept(found.packet) {
            return Ok(());
        }
        Err(Error::Replayed)
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
        now: u64,
    ) -> Result<Range<usize>, Error> {
        if !has_sessions(self.method) {
            return open_single(self.method, &self.key, packet, subkey);
        }
        // A cheap check before the packet is opened; the id is marked only afterwards.
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
