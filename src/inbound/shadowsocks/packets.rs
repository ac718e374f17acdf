//! Packets of Shadowsocks clients.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use crate::crypto::ended::SessionKey;
use crate::crypto::{Family, Key};
use crate::relay::User;
use crate::relay::replay::{ReplayFilter, SessionMemory};
use crate::relay::udp::framing::Encoder;
use crate::relay::udp::{ClientKey, Opened, PacketInbound};
use crate::relay::users::Table;
use crate::wire;
use crate::wire::ss::Accounts;
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

/// What is prepared for packets that arrive together.
#[derive(Default)]
pub struct Prepared {
    subkeys: Subkeys,
    /// Whose the last packet was, and from where, if it takes a trial to know.
    last: Option<(IpAddr, usize)>,
    /// Whose keys `subkeys` are made of, then.
    of: Option<usize>,
    /// For what fails to open.
    room: Vec<u8>,
}

/// The front of a packet, and the key that was prepared for it.
pub struct Header {
    identified: PacketHeader,
    subkey: Option<Key>,
    /// What has been opened already, and where it came from.
    opened: Option<(Range<usize>, IpAddr)>,
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

impl ShadowsocksPackets {
    /// Finds whose a packet is, by trial.
    fn find_user(
        &self,
        accounts: &Accounts,
        batch: &mut Prepared,
        datagram: &mut [u8],
        peer: SocketAddr,
    ) -> Result<(ClientKey, Header), wire::Error> {
        let ip = peer.ip();
        let subkey = batch.subkeys.next_for(datagram);
        let prepared = batch.of.zip(subkey);
        let likely = match batch.last {
            Some((last, user)) if last == ip => Some(user),
            _ => self.users.likely(ip),
        };
        let (identified, body) =
            accounts.open_by_trial(datagram, prepared, likely, &mut batch.room, |bytes| {
                self.users.may_try(bytes)
            })?;
        let user = identified.user.unwrap_or_default();
        batch.last = Some((ip, user));
        let header = Header {
            identified,
            subkey: None,
            opened: Some((body, ip)),
            relayed: false,
        };
        Ok((ClientKey::User(peer, user), header))
    }
}

impl PacketInbound for ShadowsocksPackets {
    type Batch = Prepared;
    type Header = Header;
    /// Opens the client's packets; `None`: there was none yet, or they are passed on.
    type Session = Option<ClientSession>;

    const IS_REMOTE: bool = true;

    fn prepare<'a>(&self, batch: &mut Prepared, datagrams: impl Iterator<Item = &'a [u8]>) {
        let users = self.users.load();
        let (accounts, subkeys) = (&users.accounts, &mut batch.subkeys);
        if accounts.tries_users() {
            // Those of one client often come together.
            batch.of = batch.last.map(|(_, user)| user);
            accounts.derive_likely(batch.of, subkeys, datagrams);
        } else {
            accounts.derive_subkeys(subkeys, datagrams);
        }
    }

    fn identify(
        &self,
        batch: &mut Prepared,
        datagram: &mut [u8],
        peer: SocketAddr,
    ) -> Result<(ClientKey, Header), wire::Error> {
        let users = self.users.load();
        if users.accounts.tries_users() {
            return self.find_user(&users.accounts, batch, datagram, peer);
        }
        let subkey = batch.subkeys.next_for(datagram);
        let identified = users.accounts.identify(datagram)?;
        let account = identified.user.and_then(|id| users.accounts.user(id));
        let header = Header {
            relayed: account.is_some_and(|account| account.relayed),
            identified,
            subkey,
            opened: None,
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
        if let Some((body, ip)) = header.opened.take() {
            self.replays.admit_packet(self.users.method, datagram)?;
            self.users.note_sender(ip, header.identified.user);
            return Ok(Opened::Addressed(body));
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
