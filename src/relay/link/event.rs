//! What a link reports to its host.

use std::sync::Arc;
use std::task::Context;

use super::own::Arrivals;
use super::visitor::Visitor;
use crate::net::Stream;
use crate::wire::reverse::Frame;

/// The user of a link: publishes services on the server, or connects visitors to them on the client. The link's task
/// calls all methods, so none may block.
pub trait Host: Send {
    /// Handles an event.
    fn event(&mut self, event: Event<'_>);

    /// Drives the host's own work in the link's task.
    fn poll(&mut self, cx: &mut Context<'_>);

    /// Whether work remains that must finish before a stopping link closes.
    fn is_busy(&self) -> bool;
}

/// Something that has happened on a link.
#[derive(Debug)]
pub enum Event<'a> {
    /// A frame of the peer. Answer [`Frame::Register`] with [`Handle::register_result`](super::Handle::register_result).
    ///
    /// From the [`Core`](super::core::Core) every frame that concerns a stream comes this way, and [`Frame::Reset`] also
    /// when this side has closed the stream. The host gets only Register, RegisterResult, ConnectResult, Datagram and
    /// GoAway.
    Frame(Frame<'a>),
    /// A visitor has connected to a registered service. Answer with
    /// [`Handle::connect_result`](super::Handle::connect_result).
    Connect {
        /// The visitor.
        visitor: Visitor,
        /// The visitor's stream. `None`: the service is UDP, and the visitor has a flow of datagrams.
        stream: Option<Stream>,
    },
    /// The server may open streams of their own for visitors: they come here.
    Arrivals(Arc<Arrivals>),
    /// A stream or flow is closed, by either side.
    Closed {
        /// The stream or flow.
        id: u64,
    },
    /// This side is stopping: the link takes no more visitors and closes when the current ones have left.
    Stopping,
}
