//! A server's side: opening the packets of clients.

use std::ops::Range;

use crate::crypto::{Aead, Block, Key, Method, Window};
use crate::wire::Error;
use crate::wire::ss::bytes::{put, take};
use crate::wire::ss::header::TYPE_CLIENT;
use crate::wire::ss::keys::{Accounts, has_sessions};

use super::header::{HEADER_LEN, ids, nonce_of, open_body, open_header, open_single, session_aead};
use super::subkeys::Subkeys;

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

    /// Marks a packet as seen that another opener of the same session has opened.
    ///
    /// # Errors
    /// [`Error::Replayed`] when it had been seen.
    pub fn admit(&mut self, found: &Identified) -> Result<(), Error> {
        if !has_sessions(self.method) || self.window.accept(found.packet) {
            return Ok(());
        }
        Err(Error::Replayed)
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
