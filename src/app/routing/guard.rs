//! The rules of `ssr server`: which targets its clients may reach, and which clients it serves.
//!
//! A client that is refused by its address is treated like a stranger: it gets no answer.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use crate::net::Stream;
use crate::outbound::dialer::{Candidate, Filter, Gate};
use crate::relay::tcp::{Handshake, Inbound};
use crate::relay::udp::framing::Encoder;
use crate::relay::udp::{ClientKey, Opened, PacketInbound};
use crate::relay::{Error, User};
use crate::route::{Action, Host, Live, Network, Query, Step};
use crate::wire::{self, AddressRef};

/// Refuses the targets that `rules` block. Each address of a name is looked at by itself, and only those that pass are
/// connected to.
pub(in crate::app) fn filter(rules: Option<&Arc<Live>>) -> Option<Filter> {
    Some(Arc::new(Targets(Arc::clone(rules?))))
}

/// Rules about the targets of a server.
struct Targets(Arc<Live>);

impl Gate for Targets {
    fn admits(&self, candidate: &Candidate<'_>) -> bool {
        let rules = self.0.current();
        match rules.decide(&query(candidate), Some(&[candidate.ip])) {
            Step::Decided(decision) => *decision.action != Action::Block,
            Step::Resolve => false,
        }
    }

    fn rule(&self, candidate: &Candidate<'_>) -> String {
        let rules = self.0.current();
        let decision = match self.admits(candidate) {
            true => "allow",
            false => "block",
        };
        rules.reason(&query(candidate), Some(&[candidate.ip]), decision)
    }
}

fn query<'a>(candidate: &Candidate<'a>) -> Query<'a> {
    Query {
        host: match candidate.target {
            AddressRef::Ip(address) => Host::Ip(address.ip()),
            AddressRef::Domain(name, _) => Host::of_name(name),
        },
        port: candidate.target.port(),
        network: if candidate.is_udp {
            Network::Udp
        } else {
            Network::Tcp
        },
        user: candidate.user,
        local: None,
    }
}

/// An inbound whose clients are looked at first.
pub(in crate::app) struct Guard<I> {
    pub(in crate::app) inner: I,
    /// The rules about clients; `None`: all may come.
    pub(in crate::app) rules: Option<Arc<Live>>,
}

impl<I> Guard<I> {
    fn refuses(&self, peer: SocketAddr) -> bool {
        let rules = self.rules.as_ref();
        rules.is_some_and(|rules| !rules.current().admits(peer.ip().to_canonical()))
    }
}

impl<I: Inbound> Inbound for Guard<I> {
    async fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<Handshake<'_>, Error> {
        if self.refuses(peer) {
            self.inner.drain_and_close(stream).await;
            return Err(Error::Blocked("client"));
        }
        self.inner.handshake(stream, peer, deadline).await
    }

    async fn drain_and_close(&self, stream: Stream) {
        self.inner.drain_and_close(stream).await;
    }
}

impl<I: PacketInbound> PacketInbound for Guard<I> {
    type Batch = I::Batch;
    type Header = I::Header;
    type Session = I::Session;

    const IS_REMOTE: bool = I::IS_REMOTE;

    fn prepare<'a>(&self, batch: &mut I::Batch, datagrams: impl Iterator<Item = &'a [u8]>) {
        self.inner.prepare(batch, datagrams);
    }

    fn identify(
        &self,
        batch: &mut I::Batch,
        datagram: &mut [u8],
        peer: SocketAddr,
    ) -> Result<(ClientKey, I::Header), wire::Error> {
        // Always, since it takes what was prepared for this datagram.
        let identified = self.inner.identify(batch, datagram, peer)?;
        if self.refuses(peer) {
            return Err(wire::Error::Blocked);
        }
        Ok(identified)
    }

    fn open(
        &self,
        session: &mut I::Session,
        header: &mut I::Header,
        datagram: &mut [u8],
    ) -> Result<Opened<'_>, wire::Error> {
        self.inner.open(session, header, datagram)
    }

    fn user(&self, header: &I::Header) -> Option<Arc<User>> {
        self.inner.user(header)
    }

    fn encoder(&self, header: &I::Header) -> Result<Encoder, wire::Error> {
        self.inner.encoder(header)
    }
}
