//! What only pipes can tell, and what only sockets can do.

use std::os::fd::{AsFd as _, OwnedFd};
use std::task::{Context, Poll};

use socket2::SockRef;

use super::{Kind, Stream};
use crate::net::linux::{self, TcpInfo};
use crate::net::sync::lock;

/// Looks at a connection from outside of its task. The connection is not closed before this is dropped.
#[derive(Debug)]
pub(crate) struct Probe(OwnedFd);

impl Probe {
    /// What the system says of it.
    pub(crate) fn tcp_info(&self) -> Option<TcpInfo> {
        linux::tcp_info(&self.0).ok()
    }
}

impl Stream {
    /// The socket of a TCP connection without layers, off its reactor. `None`: it is another stream, or the system fails.
    #[must_use]
    pub fn into_socket(self) -> Option<std::net::TcpStream> {
        match self.0 {
            Kind::Tcp(stream) => stream.into_std().ok(),
            _ => None,
        }
    }

    /// A look at its connection; `None`: it has none, or there are no more files.
    pub(crate) fn probe(&self) -> Option<Probe> {
        let socket = match &self.0 {
            Kind::Tcp(stream) => stream.as_fd().try_clone_to_owned(),
            Kind::Parked(stream) => stream.as_fd().try_clone_to_owned(),
            Kind::Unix(_) | Kind::Pipe(_) | Kind::Quic(_) => return None,
            Kind::Layer(layer) => return lock(layer).inner().probe(),
        };
        socket.ok().map(Probe)
    }

    /// Whether it is one side of a pipe.
    #[must_use]
    pub const fn is_pipe(&self) -> bool {
        matches!(self.0, Kind::Pipe(_))
    }

    /// Ready when the other side has reset a pipe, which a reader that has found the end would not notice. Pending for all
    /// others.
    pub fn poll_reset(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.0 {
            Kind::Pipe(end) => end.poll_reset(cx),
            _ => Poll::Pending,
        }
    }

    /// Has the socket take no more while so many bytes in it were not sent yet (`TCP_NOTSENT_LOWAT`).
    pub(crate) fn limit_unsent(&self, bytes: u32) {
        let set = match &self.0 {
            Kind::Tcp(stream) => SockRef::from(stream).set_tcp_notsent_lowat(bytes),
            Kind::Parked(stream) => SockRef::from(stream).set_tcp_notsent_lowat(bytes),
            Kind::Unix(_) | Kind::Pipe(_) | Kind::Quic(_) => return,
            Kind::Layer(layer) => return lock(layer).inner().limit_unsent(bytes),
        };
        // Where the system does not know it, more waits.
        let _ignored = set;
    }
}
