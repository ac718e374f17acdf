//! Datagrams that clients send in streams, beside the packets of others.
//!
//! Both share the associations of one [relay](crate::relay::udp::Relay) and their limit. The stream has authenticated its
//! client already, so its datagrams come through an in-memory socket as they are: a SOCKS-style address and the data.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::relay::User;
use crate::relay::udp::framing::Encoder;
use crate::relay::udp::{ClientKey, Opened, PacketInbound, StreamClient};
use crate::wire;

/// Adds the datagrams of streams to those of another inbound.
pub struct WithStreams<I>(pub I);

/// What is known of the datagrams of one socket.
pub enum Batch<B> {
    /// They are for the other inbound.
    Packets(B),
    /// They are those of this client.
    Datagrams(StreamClient),
}

impl<B: Default> Default for Batch<B> {
    fn default() -> Self {
        Self::Packets(B::default())
    }
}

impl<B> From<StreamClient> for Batch<B> {
    fn from(client: StreamClient) -> Self {
        Self::Datagrams(client)
    }
}

/// What is known of a datagram before it is opened.
pub enum Header<H> {
    /// It is for the other inbound.
    Packet(H),
    /// It is one of this client.
    Datagram(StreamClient),
}

impl<I: PacketInbound> PacketInbound for WithStreams<I> {
    type Batch = Batch<I::Batch>;
    type Header = Header<I::Header>;
    type Session = I::Session;

    const IS_REMOTE: bool = I::IS_REMOTE;

    fn prepare<'a>(&self, batch: &mut Self::Batch, datagrams: impl Iterator<Item = &'a [u8]>) {
        if let Batch::Packets(batch) = batch {
            self.0.prepare(batch, datagrams);
        }
    }

    fn identify(
        &self,
        batch: &mut Self::Batch,
        datagram: &mut [u8],
        peer: SocketAddr,
    ) -> Result<(ClientKey, Self::Header), wire::Error> {
        match batch {
            Batch::Packets(batch) => {
                let (key, header) = self.0.identify(batch, datagram, peer)?;
                Ok((key, Header::Packet(header)))
            }
            // Every in-memory socket has an address of its own.
            Batch::Datagrams(client) => {
                Ok((ClientKey::Address(peer), Header::Datagram(client.clone())))
            }
        }
    }

    fn open(
        &self,
        session: &mut Self::Session,
        header: &mut Self::Header,
        datagram: &mut [u8],
    ) -> Result<Opened<'_>, wire::Error> {
        let whole = 0..datagram.len();
        match header {
            Header::Packet(header) => self.0.open(session, header, datagram),
            Header::Datagram(client) if client.connected => Ok(Opened::Connected(whole)),
            Header::Datagram(_) => Ok(Opened::Addressed(whole)),
        }
    }

    fn user(&self, header: &Self::Header) -> Option<Arc<User>> {
        match header {
            Header::Packet(header) => self.0.user(header),
            Header::Datagram(client) => client.user.clone(),
        }
    }

    fn encoder(&self, header: &Self::Header) -> Result<Encoder, wire::Error> {
        match header {
            Header::Packet(header) => self.0.encoder(header),
            Header::Datagram(_) => Ok(Encoder::Addressed),
        }
    }
}
