//! Listening sockets: one for each worker on the same address, refused when another process listens there.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::stream::UNIX_ADDRESS;
use super::{Error, SocketOptions, Stream, linux};

use crate::limits::BACKLOG;

/// How the sockets of one address share it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Group {
    /// Whether `[::]` leaves the IPv4 addresses alone.
    pub only_v6: bool,
    /// Whether other processes may listen on the same address.
    pub share: bool,
    /// Whether they take what the firewall passes to them, whatever its destination (TPROXY).
    pub transparent: bool,
}

/// A listening socket for streams, which no reactor has yet.
#[derive(Debug)]
pub enum Listener {
    /// Of TCP.
    Tcp(TcpListener),
    /// At a path.
    Unix(UnixListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

impl Listener {
    /// The address of TCP.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// `count` handles of the same socket, each for one worker.
    pub(super) fn share(self, count: usize) -> io::Result<Vec<Self>> {
        let copy = |listener: &Self| {
            Ok::<_, io::Error>(match listener {
                Self::Tcp(listener) => Self::Tcp(listener.try_clone()?),
                Self::Unix(listener) => Self::Unix(listener.try_clone()?),
            })
        };
        let mut all = (1..count)
            .map(|_| copy(&self))
            .collect::<io::Result<Vec<_>>>()?;
        all.push(self);
        Ok(all)
    }
}

/// A [`Listener`] on the reactor of this thread.
#[derive(Debug)]
pub enum Acceptor {
    /// Of TCP.
    Tcp(tokio::net::TcpListener),
    /// At a path.
    Unix(tokio::net::UnixListener),
}

impl Acceptor {
    /// Registers a listener, which must be non-blocking.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(listener: Listener) -> io::Result<Self> {
        Ok(match listener {
            Listener::Tcp(listener) => Self::Tcp(tokio::net::TcpListener::from_std(listener)?),
            Listener::Unix(listener) => Self::Unix(tokio::net::UnixListener::from_std(listener)?),
        })
    }

    /// Waits for a connection. Returns the address of its client too; for a unix stream, [`UNIX_ADDRESS`]. Cancel safe.
    ///
    /// # Errors
    /// What the system says.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::new(stream), peer))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::unix(stream), UNIX_ADDRESS))
            }
        }
    }
}

/// Binds `count` TCP listeners to `address`. With port 0 all get the same free port.
///
/// # Errors
/// [`Error::Bind`].
pub fn tcp(
    address: SocketAddr,
    count: usize,
    group: Group,
    options: &SocketOptions,
) -> Result<Vec<TcpListener>, Error> {
    let bind = |address, shared| -> io::Result<Socket> {
        let protocol = if options.mptcp {
            linux::MPTCP
        } else {
            Protocol::TCP
        };
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(protocol))?;
        socket.set_reuse_address(true)?;
        prepare(&socket, address, group, shared)?;
        if shared {
            // Accepted connections inherit the options of their listener.
            options.apply_listener(&SockRef::from(&socket))?;
            if options.fast_open {
                linux::set_fast_open(&socket)?;
            }
            socket.listen(BACKLOG)?;
        }
        Ok(socket)
    };
    bind_group("tcp", address, count, group.share, bind)
}

/// Binds `count` UDP sockets to `address`, as [`tcp`] does.
///
/// # Errors
/// [`Error::Bind`].
pub fn udp(
    address: SocketAddr,
    count: usize,
    group: Group,
    options: &SocketOptions,
) -> Result<Vec<UdpSocket>, Error> {
    let bind = |address, shared| -> io::Result<Socket> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        prepare(&socket, address, group, shared)?;
        options.apply_datagram_buffers(&SockRef::from(&socket))?;
        if group.transparent {
            linux::set_receive_destination(&socket, address.is_ipv6())?;
        }
        Ok(socket)
    };
    bind_group("udp", address, count, group.share, bind)
}

/// Binds `count` sockets to one address. `SO_REUSEPORT` alone would let a second `ssr` share the port silently. So the
/// first bind is made without it and fails as users expect; then the group is bound.
fn bind_group<T: From<Socket>>(
    protocol: &'static str,
    address: SocketAddr,
    count: usize,
    share: bool,
    bind: impl Fn(SocketAddr, bool) -> io::Result<Socket>,
) -> Result<Vec<T>, Error> {
    let group = || -> io::Result<Vec<T>> {
        let first = bind(address, share)?;
        let address = first.local_addr()?.as_socket().unwrap_or(address);
        drop(first);
        (0..count)
            .map(|_| bind(address, true).map(T::from))
            .collect()
    };
    group().map_err(|source| Error::Bind {
        protocol,
        address,
        source,
    })
}

fn prepare(socket: &Socket, address: SocketAddr, group: Group, shared: bool) -> io::Result<()> {
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(group.only_v6)?;
    }
    if group.transparent {
        linux::set_transparent(socket, address.is_ipv6()).map_err(|error| {
            let kind = error.kind();
            io::Error::new(kind, format!("{error}; TPROXY needs root or CAP_NET_ADMIN"))
        })?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())
}
