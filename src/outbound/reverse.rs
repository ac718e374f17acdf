//! The two ends of a reverse tunnel: through the link to whoever offers a service, and from the link to its target.

use super::dialer::Dialer;
use crate::net::dial::SpeaksFirst;
use crate::relay::link::{Handle, Visitor};
use crate::relay::tcp::{Leg, Outbound, Request};
use crate::relay::{Error, Side};
use crate::wire::Address;
use crate::wire::proxy_protocol::{self, Version};
use crate::wire::reverse::Code;

/// On the server: a stream of the link on which a service was offered.
pub struct Through {
    /// The link.
    pub link: Handle,
    /// The service's number on it.
    pub service: u64,
}

impl Through {
    /// Opens a stream for the visitor of `request`.
    ///
    /// # Errors
    /// When the link is over.
    pub fn open(&self, request: &Request) -> Result<Leg, Error> {
        // Of a layered stream the address is that of its socket.
        let here = request.leg.stream.local_addr();
        let destination = here.map_or_else(|_| request.target.clone(), Address::Ip);
        let stream = self
            .link
            .open(self.service, request.peer.into(), destination);
        stream.map(Leg::plain).ok_or_else(gone)
    }
}

/// The client that offered the service is not there any more.
#[must_use]
pub fn gone() -> Error {
    Error::Io {
        side: Side::Upstream,
        source: std::io::ErrorKind::NotConnected.into(),
    }
}

impl Outbound for Through {
    fn may_confirm_early(&self) -> bool {
        true
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        self.open(request)
    }
}

/// On the client: the target of the service that a visitor wants.
pub struct Behind {
    /// Connects to the target.
    pub dialer: Dialer,
    /// Whether, and how, the target is told who the visitor is.
    pub proxy: Option<Version>,
    /// Who has come.
    pub visitor: Visitor,
    /// The link by which it came.
    pub link: Handle,
}

impl Behind {
    async fn reach(&self, target: &Address) -> Result<Leg, Error> {
        let stream = self.dialer.dial(target, true, SpeaksFirst::Unknown).await?;
        if let Some(version) = self.proxy {
            // A visitor comes to a socket from a socket; what says otherwise comes from nowhere.
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

impl Outbound for Behind {
    fn may_confirm_early(&self) -> bool {
        false
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        let reached = self.reach(&request.target).await;
        match &reached {
            Ok(_) => self.link.answer(self.visitor.id, Code::OK, String::new()),
            Err(error) => {
                let text = error.to_string();
                self.link.answer(self.visitor.id, Code::UNREACHABLE, text);
            }
        }
        reached
    }
}
