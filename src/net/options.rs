//! What may be set on a socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::linux;

/// Options of the sockets of one side: those towards clients, or those towards servers and targets.
#[derive(Clone, Debug, Default)]
pub struct SocketOptions {
    /// TCP Fast Open (RFC 7413).
    pub fast_open: bool,
    /// Multipath TCP (RFC 8684).
    pub mptcp: bool,
    /// Idle time before, and interval between, keepalive probes.
    pub keep_alive: Option<Duration>,
    /// `SO_SNDBUF` in bytes.
    pub send_buffer: Option<usize>,
    /// `SO_RCVBUF` in bytes.
    pub recv_buffer: Option<usize>,
    /// `SO_MARK`, of outgoing sockets.
    pub mark: Option<u32>,
    /// The local addresses of outgoing sockets, one of each family at most.
    pub bind_addresses: Vec<IpAddr>,
    /// `SO_BINDTODEVICE`, of outgoing sockets.
    pub bind_interface: Option<String>,
    /// Of sockets for datagrams.
    pub udp: UdpOptions,
}

/// What a socket for datagrams does with long ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct UdpOptions {
    /// Those longer than the path takes are cut by the system instead of being refused.
    pub fragment: bool,
    /// Those of more bytes are dropped, in both directions.
    pub longest: Option<usize>,
}

/// Who speaks first on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpeaksFirst {
    /// We do, as soon as it stands: what we say can end the handshake, which saves a segment.
    Us,
    /// That is not known.
    Unknown,
}

impl SocketOptions {
    /// A non-blocking TCP socket towards `peer`, not yet connected, and without keepalive: most connections are over
    /// before it matters, and it is set on those that are not ([`super::Stream::keep_alive`]).
    ///
    /// # Errors
    /// What the system refuses.
    pub fn outgoing_tcp(&self, peer: SocketAddr, first: SpeaksFirst) -> io::Result<Socket> {
        let protocol = if self.mptcp {
            linux::MPTCP
        } else {
            Protocol::TCP
        };
        let socket = linux::nonblocking(Domain::for_address(peer), Type::STREAM, protocol)?;
        self.apply_outgoing(&socket, peer)?;
        if let Some(address) = self
            .bind_addresses
            .iter()
            .find(|address| address.is_ipv4() == peer.is_ipv4())
        {
            socket.bind(&SocketAddr::new(*address, 0).into())?;
        }
        if self.fast_open {
            linux::set_fast_open_connect(&socket)?;
        } else if first == SpeaksFirst::Us {
            // Where it cannot be, there is a segment more.
            let _ = linux::set_acknowledge_with_data(&socket);
        }
        self.apply_basics(&SockRef::from(&socket))?;
        Ok(socket)
    }

    /// A UDP socket that may send to either family, where the system has both, bound to a free port.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn outgoing_udp(&self) -> io::Result<Socket> {
        if let Some(address) = self.bind_addresses.first() {
            return self.bound_udp(SocketAddr::new(*address, 0));
        }
        self.bound_udp((std::net::Ipv6Addr::UNSPECIFIED, 0).into())
            .or_else(|_| self.bound_udp((std::net::Ipv4Addr::UNSPECIFIED, 0).into()))
    }

    fn bound_udp(&self, address: SocketAddr) -> io::Result<Socket> {
        let domain = Domain::for_address(address);
        let socket = linux::nonblocking(domain, Type::DGRAM, Protocol::UDP)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        self.apply_outgoing(&socket, address)?;
        self.apply_buffers(&SockRef::from(&socket))?;
        socket.bind(&address.into())?;
        Ok(socket)
    }

    fn apply_outgoing(&self, socket: &Socket, peer: SocketAddr) -> io::Result<()> {
        // What leaves by loopback is not what a mark or an interface is for, and an interface would make it fail.
        if !peer.ip().is_loopback() {
            linux::set_route(socket, self.mark, self.bind_interface.as_deref())?;
        }
        Ok(())
    }

    /// Sets what every accepted stream has, on its listener, from which it inherits.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn apply_listener(&self, socket: &SockRef<'_>) -> io::Result<()> {
        if let Some(time) = self.keep_alive {
            keep_alive(socket, time)?;
        }
        self.apply_basics(socket)
    }

    /// Nagle's algorithm is off everywhere: the relay writes whole chunks, and a delayed one would only be late.
    fn apply_basics(&self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        self.apply_buffers(socket)
    }

    /// Sets the buffer sizes, where any are given.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn apply_buffers(&self, socket: &SockRef<'_>) -> io::Result<()> {
        if let Some(size) = self.send_buffer {
            socket.set_send_buffer_size(size)?;
        }
        if let Some(size) = self.recv_buffer {
            socket.set_recv_buffer_size(size)?;
        }
        Ok(())
    }
}

/// Probes a silent peer after `time`, and every `time` from then on.
///
/// # Errors
/// What the system refuses.
pub(super) fn keep_alive(socket: &SockRef<'_>, time: Duration) -> io::Result<()> {
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(time).with_interval(time))
}
