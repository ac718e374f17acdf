//! Datagrams on their way: what waits for an address, and what is dropped.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::association::Association;
use crate::net::udp::Path;
use crate::relay::users::User;
use crate::wire::{self, Address, AddressRef};

/// A fixed target as a server expects it before the data. A bare socket leaves it out.
pub(super) struct Encoded([u8; Address::MAX_LEN], usize);

impl Encoded {
    pub(super) fn of(target: &Address) -> Result<Self, wire::Error> {
        let mut room = [0; Address::MAX_LEN];
        let len = target.as_ref().encode(&mut room);
        Ok(Self(room, len.ok_or(wire::Error::Truncated)?))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.get(..self.1).unwrap_or_default()
    }
}

/// Why a datagram was dropped, and its target if that is known.
pub(super) struct Dropped {
    pub(super) error: wire::Error,
    pub(super) target: Option<Box<Address>>,
    /// Who sent it, where it is dropped before it is opened.
    pub(super) user: Option<Arc<User>>,
}

impl Dropped {
    pub(super) fn of(target: AddressRef<'_>, error: wire::Error) -> Self {
        Self {
            target: Some(Box::new(target.to_owned())),
            ..Self::from(error)
        }
    }
}

impl From<wire::Error> for Dropped {
    fn from(error: wire::Error) -> Self {
        Self {
            error,
            target: None,
            user: None,
        }
    }
}

/// A datagram that waits for its target's address.
pub(super) struct Unresolved<S> {
    pub(super) association: Arc<Association<S>>,
    pub(super) target: Address,
    pub(super) address: Box<[u8]>,
    pub(super) data: Box<[u8]>,
    pub(super) trusted: bool,
}

/// A datagram whose route depends on the addresses of its target.
pub(super) struct Undecided {
    pub(super) target: Address,
    pub(super) datagram: Box<[u8]>,
    pub(super) path: Path,
}

/// The same, with the addresses.
pub(super) type Decidable = (Undecided, Arc<[IpAddr]>);

/// The tasks of datagrams that wait for an address.
pub(super) type Waiting = JoinSet<Option<Decidable>>;
