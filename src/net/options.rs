//! Options of sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::{congestion, linux};

/// Bytes of datagrams that may wait in a busy socket, where the config does not say; the system may grant less.
const UDP_BUFFER: usize = 4 << 20;

/// Options of the sockets towards clients, or of those towards servers and targets.
#[derive(Clone, Debug, Default)]
pub struct SocketOptions {
    /// TCP Fast Open (RFC 7413).
    pub fast_open: bool,
    /// Multipath TCP (RFC 8684).
    pub mptcp: bool,
    /// The congestion control of TCP; `None`: that of the system.
    pub congestion: Option<String>,
    /// Idle time before, and interval between, keepalive probes.
    pub keep_alive: Option<Duration>,
    /// `SO_SNDBUF` in bytes.
    pub send_buffer: Option<usize>,
    /// `SO_RCVBUF` in bytes.
    pub recv_buffer: Option<usize>,
    /// `SO_MARK` of outgoing sockets.
    pub mark: Option<u32>,
    /// The local addresses of outgoing sockets, at most one of each family.
    pub bind_addresses: Vec<IpAddr>,
    /// `SO_BINDTODEVICE` of outgoing sockets.
    pub bind_interface: Option<String>,
    /// The longest segment of TCP in bytes, in both directions (`TCP_MAXSEG`).
    pub max_segment: Option<u32>,
    /// Options of UDP sockets.
    pub udp: UdpOptions,
}

/// What a UDP socket does with long datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub struct UdpOptions {
    /// Datagrams longer than the path's MTU are fragmented by the system instead of being refused.
    pub fragment: bool,
    /// Datagrams of more bytes than this are dropped, in both directions.
    pub longest: Option<usize>,
    /// The socket receives what the firewall passes to it: see [`super::udp::transparent`].
    pub transparent: Option<TransparentUdp>,
}

/// Options of a UDP socket that receives datagrams for any address, and answers from there.
#[derive(Clone, Copy, Debug, Default)]
pub struct TransparentUdp {
    /// `SO_MARK` of the answers, by which the firewall knows them.
    pub mark: Option<u32>,
}

/// Who speaks first on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpeaksFirst {
    /// We do, as soon as it is connected: our first bytes can end the TCP handshake, which saves a segment.
    Us,
    /// Not known.
    Unknown,
}

impl SocketOptions {
    /// Makes a non-blocking TCP socket for a connection to `peer`. Keepalive is not set: most connections end before it
    /// matters, and [`super::Stream::keep_alive`] sets it on the others.
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
        if first == SpeaksFirst::Us && self.fast_open {
            // Only then: the system connects at the first write, and a target that speaks first would wait for ever.
            linux::set_fast_open_connect(&socket)?;
        } else if first == SpeaksFirst::Us {
            // If the system refuses, the handshake takes one more segment.
            let _ = linux::set_acknowledge_with_data(&socket);
        }
        if let Some(bytes) = self.max_segment {
            socket.set_tcp_mss(bytes)?;
        }
        self.apply_basics(&SockRef::from(&socket))?;
        Ok(socket)
    }

    /// Makes a UDP socket on a free port. It can send to both families where the system has both.
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
        // Marks and interfaces are not meant for loopback, and with an interface the connection would fail.
        if !peer.ip().is_loopback() {
            linux::set_route(socket, self.mark, self.bind_interface.as_deref())?;
        }
        Ok(())
    }

    /// Sets on a listener what its accepted connections inherit.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn apply_listener(&self, socket: &SockRef<'_>) -> io::Result<()> {
        if let Some(time) = self.keep_alive {
            keep_alive(socket, time)?;
        }
        self.apply_basics(socket)
    }

    /// As [`Self::apply_listener`], for one that listened before with other options.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn apply_again(&self, socket: &SockRef<'_>) -> io::Result<()> {
        if self.congestion.is_none() {
            congestion::reset(socket)?;
        }
        self.apply_listener(socket)
    }

    /// Sets what every TCP socket has. Nagle's algorithm is off: the relay writes whole chunks, which should not wait.
    fn apply_basics(&self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        if let Some(name) = &self.congestion {
            let set = socket.set_tcp_congestion(name.as_bytes());
            set.map_err(|error| {
                let message = format!("congestion control `{name}`: {error}");
                io::Error::new(error.kind(), message)
            })?;
        }
        self.apply_buffers(socket)
    }

    /// Sets the buffer sizes of the config, if any.
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

    /// Gives a socket that many datagrams come to its buffers.
    ///
    /// # Errors
    /// What the system refuses.
    pub(super) fn apply_datagram_buffers(&self, socket: &SockRef<'_>) -> io::Result<()> {
        let buffers = Self {
            send_buffer: self.send_buffer.or(Some(UDP_BUFFER)),
            recv_buffer: self.recv_buffer.or(Some(UDP_BUFFER)),
            ..Self::default()
        };
        buffers.apply_buffers(socket)
    }
}

/// Lets the system probe a silent peer after `time`, and then every `time`.
///
/// # Errors
/// What the system refuses.
pub(super) fn keep_alive(socket: &SockRef<'_>, time: Duration) -> io::Result<()> {
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(time).with_interval(time))
}

/// Whether it is a socket of MPTCP.
pub(super) fn is_multipath(socket: &SockRef<'_>) -> bool {
    matches!(socket.protocol(), Ok(Some(linux::MPTCP)))
}
