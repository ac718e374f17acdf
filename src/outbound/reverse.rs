//! The outbounds of a reverse tunnel: on the server a stream of the link, on the client the target of the service.

use super::dialer::Dialer;
use crate::net::dial::SpeaksFirst;
use crate::relay::failed::{Asked, Way};
use crate::relay::link::{Handle, Visitor};
use crate::relay::tcp::{Leg, Outbound, Request};
use crate::relay::{Error, Side};
use crate::wire::Address;
use crate::wire::proxy_protocol::{self, Version};
use crate::wire::reverse::{Code, Connect};

/// On the server: opens streams through the link of the client that offers the service.
pub struct ViaLink {
    /// The link.
    pub link: Handle,
    /// The number of the service on this link.
    pub service: u64,
}

impl ViaLink {
    /// Opens a stream for the visitor of `request`.
    ///
    /// # Errors
    /// When the link has ended.
    pub fn open(&self, request: &Request) -> Result<Leg, Error> {
        // For a layered stream, this is the address of its socket.
        let here = request.leg.stream.local_addr();
        let destination = here.map_or_else(|_| request.target.clone(), Address::Ip);
        let source = Address::Ip(request.peer);
        let beside = self.link.connect_beside(Connect {
            service: self.service,
            source: source.as_ref(),
            destination: destination.as_ref(),
        });
        if let Some(leg) = beside {
            return Ok(leg);
        }
        let stream = self.link.connect(self.service, source, destination);
        stream.map(Leg::plain).ok_or_else(gone)
    }
}

/// The error of a visitor whose service is no longer offered.
#[must_use]
pub fn gone() -> Error {
    Error::Io {
        side: Side::Upstream,
        source: std::io::ErrorKind::NotConnected.into(),
    }
}

impl Outbound for ViaLink {
    fn may_confirm_early(&self, _: &Request) -> bool {
        true
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        self.open(request)
    }

    fn way(&self, _: &Asked<'_>) -> Way {
        visitors()
    }
}

/// The way of visitors.
#[must_use]
pub fn visitors() -> Way {
    Way {
        is_visitor: true,
        ..Way::default()
    }
}

/// On the client: connects to the target of the service that a visitor requested.
pub struct ReverseTarget {
    /// Connects to the target.
    pub dialer: Dialer,
    /// The version of the PROXY protocol that tells the target the address of the visitor; `None`: it is not told.
    pub proxy: Option<Version>,
    /// The visitor.
    pub visitor: Visitor,
    /// The link that the visitor came through; `None`: it has a stream of its own, whose end says as much.
    pub link: Option<Handle>,
}

impl ReverseTarget {
    async fn reach(&self, target: &Address) -> Result<Leg, Error> {
        let stream = self.dialer.dial(target, true, SpeaksFirst::Unknown).await?;
        if let Some(version) = self.proxy {
            // A visitor has two socket addresses. Anything else becomes a header without addresses.
            let source = self.visitor.source.as_ref().socket_addr();
            let destination = self.visitor.destination.as_ref().socket_addr();
            stream
                .write_all(&proxy_protocol::header(version, source, destination))
                .await
                .map_err(Error::io(Side::Upstream))?;
        }
        Ok(Leg::plain(stream))
    }
}

impl Outbound for ReverseTarget {
    fn may_confirm_early(&self, _: &Request) -> bool {
        false
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        let reached = self.reach(&request.target).await;
        if let Some(link) = &self.link {
            let (code, message) = match &reached {
                Ok(_) => (Code::OK, String::new()),
                Err(error) => (Code::UNREACHABLE, error.to_string()),
            };
            link.connect_result(self.visitor.id, code, message);
        }
        reached
    }

    fn way(&self, _: &Asked<'_>) -> Way {
        visitors()
    }
}
