//! What protocols implement on both sides of a packet relay.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use super::framing::{Decoder, Encoder};
use crate::net::udp::{Inside, Socket};
use crate::relay::failed::Way;
use crate::relay::users::User;
use crate::wire::{self, Address, AddressRef};

/// What identifies an association.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientKey {
    /// The client's address.
    Address(SocketAddr),
    /// The client's address, and the fake address that all datagrams of the association are for.
    Fake(SocketAddr, SocketAddr),
    /// The client's address and the id of its user, where clients have no sessions.
    User(SocketAddr, usize),
    /// The client's session id (SIP022 §3.2.1) and the index of its user.
    Session(u64, Option<usize>),
}

impl ClientKey {
    /// The same in a connection: there, clients are not known by their addresses.
    #[must_use]
    pub(super) fn within(self, inside: Option<Inside>) -> Self {
        match (self, inside) {
            (Self::Address(_), Some(inside)) => Self::Address(inside.address()),
            (Self::User(_, user), Some(inside)) => Self::User(inside.address(), user),
            (key, _) => key,
        }
    }
}

/// A datagram that has been authenticated and opened.
pub enum Opened<'a> {
    /// A SOCKS-style address and the data for it stand here.
    Addressed(Range<usize>),
    /// The same. All datagrams of the client are for this target, and only its own replies go back, without an address.
    Connected(Range<usize>),
    /// The data for a fixed target stand here. The target is trusted and gets them as they are. Without a server on the
    /// way, only its own replies go back; a server says where a reply comes from, but a target by name has no address here.
    Fixed(&'a Address, Range<usize>),
    /// The same, for a target that may change.
    Passed(Arc<Address>, Range<usize>),
    /// The data for a target that the client meant by a fake address. It is the only target of the association.
    Named(Address, Range<usize>),
}

/// The client of an in-memory socket, which a stream has made known.
#[derive(Clone, Debug)]
pub struct StreamClient {
    /// Its user.
    pub user: Option<Arc<User>>,
    /// Whether all its datagrams are for one target.
    pub connected: bool,
}

/// The protocol that clients speak on a packet socket.
pub trait PacketInbound: Send + Sync + 'static {
    /// State for the datagrams that arrive in one batch.
    type Batch: Default + Send;
    /// What is known of a datagram before it is opened.
    type Header;
    /// What an association remembers of its client's datagrams.
    type Session: Default + Send + 'static;

    /// Whether the clients are at other machines, and the protocol has no answer that would say why one gets nothing.
    const IS_REMOTE: bool = false;

    /// Prepares to open `datagrams`, which arrived together, in this order.
    fn prepare<'a>(&self, _: &mut Self::Batch, _: impl Iterator<Item = &'a [u8]>) {}

    /// Finds out which association a datagram from `peer` belongs to. Nothing has to be authenticated yet.
    ///
    /// # Errors
    /// What is wrong with the datagram.
    fn identify(
        &self,
        batch: &mut Self::Batch,
        datagram: &mut [u8],
        peer: SocketAddr,
    ) -> Result<(ClientKey, Self::Header), wire::Error>;

    /// Authenticates and opens a datagram. The session of a new client is the default one.
    ///
    /// # Errors
    /// What is wrong with the datagram, for instance that it is a replay. The session does not change.
    fn open(
        &self,
        session: &mut Self::Session,
        header: &mut Self::Header,
        datagram: &mut [u8],
    ) -> Result<Opened<'_>, wire::Error>;

    /// The user who sent the first datagram of a new association, if the protocol has users.
    fn user(&self, _: &Self::Header) -> Option<Arc<User>> {
        None
    }

    /// Encodes the replies to the client of a new association.
    ///
    /// # Errors
    /// When the keys do not fit the method.
    fn encoder(&self, header: &Self::Header) -> Result<Encoder, wire::Error>;
}

/// Where an association's datagrams go.
pub trait PacketOutbound: Send + Sync + 'static {
    /// Opens the upstream side of a new association with `client`. With `fixed_target`, all its datagrams go to one
    /// target.
    ///
    /// # Errors
    /// What the system says.
    fn associate(&self, client: SocketAddr, fixed_target: bool) -> io::Result<Upstream>;

    /// How many upstreams a client may have, at least one. With several, each datagram chooses by [`Self::route`], and each
    /// upstream has an association of its own. Then the inbound must open datagrams without regard to earlier ones.
    fn upstreams(&self) -> u16 {
        1
    }

    /// The upstream for a datagram to `target`. `addresses` are those of its name, if a query has found them. Called only
    /// if there are several upstreams.
    fn route(&self, _target: AddressRef<'_>, _addresses: Option<&[IpAddr]>) -> Route {
        Route::Upstream(0, None)
    }

    /// As [`Self::route`], for a user.
    fn route_for(
        &self,
        _user: Option<&str>,
        target: AddressRef<'_>,
        addresses: Option<&[IpAddr]>,
    ) -> Route {
        self.route(target, addresses)
    }

    /// The addresses of a target of `client` whose route is [`Route::Unresolved`]; empty: there are none.
    fn addresses(
        &self,
        _client: SocketAddr,
        _target: &Address,
    ) -> impl Future<Output = Arc<[IpAddr]>> + Send {
        std::future::ready(Arc::default())
    }

    /// As [`Self::associate`], for one of several upstreams.
    ///
    /// # Errors
    /// What the system says.
    fn associate_by(
        &self,
        _upstream: u16,
        client: SocketAddr,
        fixed_target: bool,
    ) -> io::Result<Upstream> {
        self.associate(client, fixed_target)
    }

    /// The destination of a datagram for `target`, as far as it is known without waiting.
    fn locate(&self, target: AddressRef<'_>, trusted: bool) -> Destination;

    /// The way of datagrams to `target`, which have failed.
    fn packet_way(&self, _target: &Address) -> Way {
        Way::default()
    }

    /// As [`Self::locate`], for a user.
    fn locate_for(
        &self,
        _user: Option<&str>,
        target: AddressRef<'_>,
        trusted: bool,
    ) -> Destination {
        self.locate(target, trusted)
    }

    /// As [`Self::resolve`], for a client: its user, and its address.
    fn resolve_for(
        &self,
        _client: (Option<&str>, SocketAddr),
        target: &Address,
        trusted: bool,
    ) -> impl Future<Output = Option<SocketAddr>> + Send {
        self.resolve(target, trusted)
    }

    /// The address of a datagram for `target`; `None`: it has none, or none that is allowed.
    fn resolve(
        &self,
        target: &Address,
        trusted: bool,
    ) -> impl Future<Output = Option<SocketAddr>> + Send;
}

/// The upstream side of a new association.
pub struct Upstream {
    /// Its socket.
    pub socket: Socket,
    /// The server that all its datagrams go to, or the other end of an in-memory socket; `None`: each goes to its target.
    pub server: Option<Address>,
    /// Encodes what goes out.
    pub encoder: Encoder,
    /// Decodes what comes in.
    pub decoder: Decoder,
    /// Whether it still works, where there is another way; `None`: there is none.
    pub check: Option<Arc<dyn ServerCheck>>,
    /// Is told whether anything comes back; `None`: nobody wants to know.
    pub answers: Option<Arc<dyn Answers>>,
}

/// Wants to know whether a server answers.
pub trait Answers: Send + Sync {
    /// The first datagram of an association has come back.
    fn answered(&self);

    /// So many datagrams of an association of `client` were sent, and none has come back for a while.
    fn unanswered(&self, client: SocketAddr, datagrams: u64);
}

/// Knows whether one of several servers works.
pub trait ServerCheck: Send + Sync {
    /// Whether it has failed and another one has not: then the client's next datagram begins an association there.
    fn has_failed(&self) -> bool;
}

/// Which of its client's upstreams a datagram takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// This one; to this address, if the choice has found it.
    Upstream(u16, Option<SocketAddr>),
    /// The addresses of the target's name have to be found first.
    Unresolved,
    /// None: a rule refuses the target.
    Blocked,
}

/// Where a datagram is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To this address.
    Address(SocketAddr),
    /// The target's name has to be resolved first.
    Unresolved,
    /// Nowhere: the target's name has no address.
    Unresolvable,
    /// Nowhere: the config forbids the target.
    Denied,
}
