//! Packets of Shadowsocks clients.

use std::net::SocketAddr;
use std::sync::Arc;

use super::replay::ReplayFilter;
use crate::crypto::Key;
use crate::net::unix_now;
use crate::relay::User;
use crate::relay::udp::framing::Encoder;
use crate::relay::udp::{ClientKey, Opened, PacketInbound};
use crate::wire::ss::packet::{PacketHeader, PacketSealer, ServerPackets, Subkeys};
use crate::wire::ss::{Accounts, Salt};
use crate::wire::{self, Address};

/// The packet side of `ssr server`.
pub struct ShadowsocksPackets {
    /// The keys of the server and its users.
    pub accounts: Arc<Accounts>,
    /// The user of each account, by the account's index.
    pub users: Vec<Arc<User>>,
    /// The next server of each relayed user, by its index among the accounts (SIP023).
    pub next_hops: Vec<Option<Address>>,
    /// Refuses packets without ids that were seen before.
    pub replays: ReplayFilter,
}

/// The front of a packet, and the key that was prepared for it.
pub struct Header {
    identified: PacketHeader,
    subkey: Option<Key>,
}

impl ShadowsocksPackets {
    /// The server that a packet is to be passed on to; `None`: it is for this one.
    fn next_hop(&self, header: &Header) -> Option<&Address> {
        self.next_hops.get(header.identified.user?)?.as_ref()
    }
}

impl PacketInbound for ShadowsocksPackets {
    type Batch = Subkeys;
    type Header = Header;
    /// Opens the client's packets; `None`: there was none yet, or they are passed on.
    type Session = Option<ServerPackets>;

    const IS_REMOTE: bool = true;

    fn prepare<'a>(&self, batch: &mut Subkeys, datagrams: impl Iterator<Item = &'a [u8]>) {
        self.accounts.derive_subkeys(batch, datagrams);
    }

    fn identify(
        &self,
        batch: &mut Subkeys,
        datagram: &mut [u8],
        peer: SocketAddr,
    ) -> Result<(ClientKey, Header), wire::Error> {
        let subkey = batch.next_for(datagram);
        let identified = self.accounts.identify(datagram)?;
        let header = Header { identified, subkey };
        let key = match header.identified.session {
            Some(id) if self.next_hop(&header).is_none() => {
                ClientKey::Session(id, header.identified.user)
            }
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
        if let Some(next) = self.next_hop(header) {
            // Without our identity header, and otherwise unopened (SIP023 §3).
            let packet = self
                .accounts
                .rewrite_for_next_server(datagram, &header.identified)?;
            return Ok(Opened::Fixed(next, packet));
        }
        let packets = match session {
            Some(packets) => packets,
            none => none.insert(ServerPackets::new(&self.accounts, &header.identified)?),
        };
        let subkey = header.subkey.take();
        let body = packets.open(datagram, subkey, &header.identified, unix_now())?;
        // The salt is in front of the body, where opening leaves it as it was.
        if let Some(salt) = Salt::read(self.accounts.method(), datagram) {
            self.replays.admit(&salt)?;
        }
        Ok(Opened::Addressed(body))
    }

    fn user(&self, header: &Header) -> Option<Arc<User>> {
        self.users.get(header.identified.user?).cloned()
    }

    fn encoder(&self, header: &Header) -> Result<Encoder, wire::Error> {
        if self.next_hop(header).is_some() {
            return Ok(Encoder::Bare);
        }
        let PacketHeader { session, user, .. } = header.identified;
        let peer = session.unwrap_or_default();
        PacketSealer::server(&self.accounts, user, rand::random(), peer).map(Encoder::Seal)
    }
}
