//! A client's side: opening the packets of a server.

use std::ops::Range;

use crate::crypto::{Aead, Block, Key, Method};
use crate::wire::Error;
use crate::wire::ss::keys::{Credentials, chacha, has_sessions};

use super::session::{Session, ids, open_header, open_single};
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
    /// The latest timestamp of the sessions that were replaced.
    replaced: u64,
}

/// A session of the server.
struct ServerSession {
    id: u64,
    session: Session,
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
            replaced: 0,
        }
    }

    /// The method.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
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
        let (header, body) = open_header(packet, self.block.as_ref(), self.chacha.as_ref())?;
        let (id, _) = ids(&header)?;
        let mut known = self.servers.iter_mut().flatten();
        let mut new = None;
        let server = match known.find(|server| server.id == id) {
            Some(server) => server,
            None => new.insert(ServerSession {
                id,
                session: Session::new(self.method, &self.key, id)?,
                seen: now,
            }),
        };
        let peer = Some(self.session);
        let body = server
            .session
            .open(packet, &header, body, peer, now.into())?;
        server.seen = now;
        if let Some(begun) = &new {
            let [_, oldest] = &self.servers;
            let (seen, latest) = oldest.as_ref().map_or((None, 0), |oldest| {
                (Some(oldest.seen), oldest.session.latest)
            });
            let is_alive = seen.is_some_and(|seen| seen.abs_diff(now) <= FORGET_AFTER);
            // After a clock was set back, packets of a replaced session are in time again.
            if is_alive || (self.replaced > 0 && begun.session.latest <= self.replaced) {
                return Err(Error::Replayed);
            }
            self.replaced = self.replaced.max(latest);
            self.servers.rotate_right(1);
            if let Some(newest) = self.servers.first_mut() {
                *newest = new;
            }
        }
        Ok(body)
    }
}
