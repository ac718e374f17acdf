//! Packets of Shadowsocks clients.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::crypto::ended::SessionKey;
use crate::crypto::{Family, Key};
use crate::relay::User;
use crate::relay::replay::{ReplayFilter, SessionMemory};
use crate::relay::udp::framing::Encoder;
use crate::relay::udp::{ClientKey, Opened, PacketInbound};
use crate::relay::users::Table;
use crate::wire;
use crate::wire::ss::packet::{PacketHeader, PacketSealer, ServerPackets, Subkeys, has_sessions};

/// The packet side of `ssr server`.
pub struct ShadowsocksPackets {
    /// The keys of the server and its users.
    pub users: Arc<Table>,
    /// Refuses packets without ids that were seen before.
    pub replays: Arc<ReplayFilter>,
    /// Refuses packets of sessions that have ended.
    pub ended: SessionMemory,
}

/// Opens a client's packets, and remembers the session when it ends.
pub struct ClientSession {
    packets: ServerPackets,
    /// `None` for methods without sessions.
    ended: Option<(SessionMemory, SessionKey)>,
}

impl Drop for ClientSession {
    fn drop(&mut self) {
        if let (Some((memory, key)), Some((greatest, latest))) =
            (&self.ended, self.packets.accepted())
        {
            memory.end(*key, greatest, latest);
        }
    }
}

/// The front of a packet, and the key that was prepared for it.
pub struct Header {
    identified: PacketHeader,
    subkey: Option<Key>,
    /// Whether the packet is to be passed on to another server.
    relayed: bool,
}

impl ShadowsocksPackets {
    /// Continues the session that `packets`, which has opened its first packet, may be.
    fn resume(
        &self,
        packets: &mut ServerPackets,
        found: &PacketHeader,
    ) -> Result<Option<(SessionMemory, SessionKey)>, wire::Error> {
        let (Some(id), Some((_, timestamp))) = (found.session, packets.accepted()) else {
            return Ok(None);
        };
        let key = (id, found.user);
        if let Some(greatest) = self.ended.begin(key, timestamp)? {
            packets.resume(greatest, found)?;
        }
        Ok(Some((self.ended.clone(), key)))
    }
}

impl PacketInbound for ShadowsocksPackets {
    type Batch = Subkeys;
    type Header = Header;
    /// Opens the client's packets; `None`: there was none yet, or they are passed on.
    type Session = Option<ClientSession>;

    const IS_REMOTE: bool = true;

    fn prepare<'a>(&self, batch: &mut Subkeys, datagrams: impl Iterator<Item = &'a [u8]>) {
        self.users.load().accounts.derive_subkeys(batch, datagrams);
    }

    fn identify(
        &self,
        batch: &mut Subkeys,
        datagram: &mut [u8],
        peer: SocketAddr,
    ) -> Result<(ClientKey, Header), wire::Error> {
        let subkey = batch.next_for(datagram);
        let users = self.users.load();
        let identified = users.accounts.identify(datagram)?;
        let account = identified.user.and_then(|id| users.accounts.user(id));
        let header = Header {
            relayed: account.is_some_and(|account| account.relayed),
            identified,
            subkey,
        };
        let key = match header.identified.session {
            Some(id) if !header.relayed => ClientKey::Session(id, header.identified.user),
            _ => ClientKey::Address(peer),
        };
        Ok((key, header))
    }

    fn open(
        &self,
        session: &mut Self::Session,
        header: &mut Header,
        datagram: &mut [u8],
    ) -> Result<Opened<'_>, wire::Error> {
        if header.relayed {
            let users = self.users.load();
            let next = users.next_hop(header.identified.user);
            let next = next.ok_or(wire::Error::UnknownIdentity)?;
            // Without our identity header, and otherwise unopened (SIP023 §3).
            let packet = users
                .accounts
                .rewrite_for_next_server(datagram, &header.identified)?;
            return Ok(Opened::Passed(Arc::clone(next), packet));
        }
        let subkey = header.subkey.take();
        let (found, now) = (&header.identified, self.replays.now());
        let body = match session {
            Some(session) => session.packets.open(datagram, subkey, found, now)?,
            none => {
                let mut packets = ServerPackets::new(&self.users.load().accounts, found)?;
                let body = packets.open(datagram, subkey, found, now)?;
                let ended = self.resume(&mut packets, found)?;
                *none = Some(ClientSession { packets, ended });
                body
            }
        };
        let method = self.users.method;
        if !has_sessions(method) {
            self.replays.admit_packet(method, datagram)?;
        }
        Ok(Opened::Addressed(body))
    }

    fn user(&self, header: &Header) -> Option<Arc<User>> {
        self.users.load().user(header.identified.user).cloned()
    }

    fn encoder(&self, header: &Header) -> Result<Encoder, wire::Error> {
        if header.relayed {
            return Ok(Encoder::Bare);
        }
        let PacketHeader { session, user, .. } = header.identified;
        let peer = session.unwrap_or_default();
        let sealer = PacketSealer::server(&self.users.load().accounts, user, rand::random(), peer)?;
        let is_old = self.users.method.family() == Family::Aead2017;
        let sent = is_old.then(|| Arc::clone(&self.replays));
        Ok(Encoder::Seal(sealer, sent))
    }
}
