//! A client's side: opening the packets of a server.

use std::ops::Range;

use crate::crypto::{Aead, Block, Key, Method, Window};
use crate::wire::Error;
use crate::wire::ss::header::TYPE_SERVER;
use crate::wire::ss::keys::{Credentials, chacha, has_sessions};

use super::header::{ids, nonce_of, open_body, open_header, open_single, session_aead};
use super::subkeys::Subkeys;

/// Seconds for which a server's session must have been silent before a newer one replaces it (SIP022 §3.2.4). By then all of
/// its packets are too old to be taken for those of a new session.
const FORGET_AFTER: u64 = 60;

/// Opens the packets of one association on a client.
pub struct ClientPackets {
    method: Method,
    key: Key,
    block: Option<Block>,
    chacha: Option<Aead>,
    session: u64,
    /// The server's sessions, newest first: after a restart a server has a new one, while packets of the old one may still
    /// arrive (SIP022 §3.2.4).
    servers: [Option<ServerSession>; 2],
}

/// A session of the server.
struct ServerSession {
    session: u64,
    aead: Option<Aead>,
    window: Window,
    /// When its last packet was opened, in Unix seconds.
    seen: u64,
}

impl ClientPackets {
    /// Opens the responses to the packets of `session`.
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

    /// Whether an opened packet is known to belong to this association. Without sessions, packets of other or former
    /// associations open as well.
    #[must_use]
    pub fn authenticates_session(&self) -> bool {
        has_sessions(self.method)
    }

    /// Derives the subkeys of `packets`, which have arrived together.
    pub fn derive_subkeys<'a>(
        &self,
        subkeys: &mut Subkeys,
        packets: impl Iterator<Item = &'a [u8]>,
    ) {
        subkeys.derive(self.method, &self.key, packets);
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
            None => Some(ServerSession {
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
