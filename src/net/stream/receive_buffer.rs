//! Whether the receive buffer of a socket may grow.

use super::{Kind, Stream};
use crate::net::linux;
use crate::net::sync::lock;

impl Stream {
    /// Has the system keep the receive buffer of the socket as large as it is. `false`: it has a fixed size already, or there is
    /// no socket whose buffer the system lets grow.
    #[must_use]
    pub fn hold_receive_buffer(&self) -> bool {
        match &self.0 {
            Kind::Tcp(stream) => linux::hold_receive_buffer(stream).unwrap_or(false),
            Kind::Unix(_) | Kind::Parked(_) | Kind::Pipe(_) | Kind::Quic(_) => false,
            Kind::Layer(layer) => lock(layer).inner().hold_receive_buffer(),
        }
    }

    /// Lets the system decide again, after [`Self::hold_receive_buffer`].
    pub fn release_receive_buffer(&self) {
        match &self.0 {
            // If this fails, the buffer stays as it is.
            Kind::Tcp(stream) => drop(linux::release_receive_buffer(stream)),
            Kind::Unix(_) | Kind::Parked(_) | Kind::Pipe(_) | Kind::Quic(_) => {}
            Kind::Layer(layer) => lock(layer).inner().release_receive_buffer(),
        }
    }
}
