//! What the system keeps for a socket: whether its receive buffer may grow, and how much it takes before it can be sent.

use std::io;

use socket2::SockRef;
use tokio::net::TcpStream;

use super::{Kind, Stream};
use crate::limits::{FIRST_RECEIVE_BUFFER, MAX_UNSENT};
use crate::net::linux::{RECEIVE_BUFFER_FIXED, SEND_BUFFER_FIXED, fix_buffers, fixed_buffers};
use crate::net::sync::lock;

impl Stream {
    /// Has the system keep the receive buffer of the socket as large as it is. `false`: it has a fixed size already, or there is
    /// no socket whose buffer the system lets grow.
    #[must_use]
    pub fn hold_receive_buffer(&self) -> bool {
        match &self.0 {
            Kind::Tcp(stream) => hold(stream).unwrap_or(false),
            Kind::Unix(_) | Kind::Parked(_) | Kind::Pipe(_) | Kind::Quic(_) => false,
            Kind::Layer(layer) => lock(layer).inner().hold_receive_buffer(),
        }
    }

    /// Lets the system decide again, after [`Self::hold_receive_buffer`].
    pub fn release_receive_buffer(&self) {
        match &self.0 {
            // If this fails, the buffer stays as it is.
            Kind::Tcp(stream) => drop(release(stream)),
            Kind::Unix(_) | Kind::Parked(_) | Kind::Pipe(_) | Kind::Quic(_) => {}
            Kind::Layer(layer) => lock(layer).inner().release_receive_buffer(),
        }
    }

    /// Has the system take no more than [`MAX_UNSENT`] bytes that it cannot send yet.
    pub fn bound_unsent(&self) {
        match &self.0 {
            // Old kernels do not have it for Multipath TCP: a slow peer holds more memory.
            Kind::Tcp(stream) => drop(SockRef::from(stream).set_tcp_notsent_lowat(MAX_UNSENT)),
            Kind::Unix(_) | Kind::Parked(_) | Kind::Pipe(_) | Kind::Quic(_) => {}
            Kind::Layer(layer) => lock(layer).inner().bound_unsent(),
        }
    }
}

/// Fixes the size of a receive buffer as it is now. `false`: it was fixed already, or it is not small any more.
fn hold(socket: &TcpStream) -> io::Result<bool> {
    let fixed = fixed_buffers(socket)?;
    let size = SockRef::from(socket).recv_buffer_size()?;
    if fixed & RECEIVE_BUFFER_FIXED != 0 || size > FIRST_RECEIVE_BUFFER {
        return Ok(false);
    }
    fix_buffers(socket, fixed | RECEIVE_BUFFER_FIXED)?;
    Ok(true)
}

/// Lets the system change a receive buffer again that [`hold`] has fixed. It lets a buffer grow when more is read in a round trip
/// than ever before, and counts what was read while the buffer was fixed: so the buffer is made larger first, as far as the system
/// allows it.
fn release(socket: &TcpStream) -> io::Result<()> {
    let options = SockRef::from(socket);
    // The system doubles what it is told.
    options.set_recv_buffer_size(options.recv_buffer_size()? * 2)?;
    fix_buffers(socket, fixed_buffers(socket)? & SEND_BUFFER_FIXED)
}
