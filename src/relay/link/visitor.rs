//! A visitor of a reverse tunnel.

use crate::wire::Address;
use crate::wire::reverse::Connect;

/// A visitor's connection to a service.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// The stream or flow.
    pub id: u64,
    /// The service.
    pub service: u64,
    /// The visitor's address.
    pub source: Address,
    /// The public address to which the visitor connected.
    pub destination: Address,
}

impl Visitor {
    /// The visitor of a Connect frame.
    pub(super) fn new(id: u64, connect: Connect<'_>) -> Self {
        Self {
            id,
            service: connect.service,
            source: connect.source.to_owned(),
            destination: connect.destination.to_owned(),
        }
    }

    /// The contents of the Connect frame.
    pub(super) const fn connect(&self) -> Connect<'_> {
        Connect {
            service: self.service,
            source: self.source.as_ref(),
            destination: self.destination.as_ref(),
        }
    }
}
