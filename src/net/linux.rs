//! What only Linux has.
#![expect(
    unsafe_code,
    reason = "some options of TCP and two questions to the system have no safe interface"
)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Multipath TCP.
pub(super) const MPTCP: Protocol = Protocol::MPTCP;

/// Connections with data, but without a finished handshake, that the kernel may hold.
const FAST_OPEN_QUEUE: libc::c_int = 1024;

/// Lets a listener accept data with the SYN (RFC 7413).
pub(super) fn set_fast_open(socket: &Socket) -> io::Result<()> {
    set_tcp_option(socket, libc::TCP_FASTOPEN, FAST_OPEN_QUEUE)
}

/// Lets the SYN of a connecting socket carry its first write (RFC 7413).
pub(super) fn set_fast_open_connect(socket: &Socket) -> io::Result<()> {
    set_tcp_option(socket, libc::TCP_FASTOPEN_CONNECT, 1)
}

/// Lets the first write of a connecting socket carry the acknowledgement that ends its handshake. The write must come
/// soon, since the acknowledgement alone is sent only after 200 ms. Listeners use the same option for their side.
pub(super) fn set_acknowledge_with_data(socket: &Socket) -> io::Result<()> {
    set_tcp_option(socket, libc::TCP_DEFER_ACCEPT, 1)
}

fn set_tcp_option(socket: &Socket, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let size = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and the pointer and size describe `value`,
    // which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const value).cast(),
            size,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets the mark and the interface of an outgoing socket.
pub(super) fn set_route(
    socket: &Socket,
    mark: Option<u32>,
    interface: Option<&str>,
) -> io::Result<()> {
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    Ok(())
}

/// Makes a non-blocking socket by one system call.
pub(super) fn nonblocking(domain: Domain, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    Socket::new(domain, kind.nonblocking(), Some(protocol))
}

/// Lets the system fragment datagrams that are longer than the path's MTU.
pub(super) fn allow_fragments(socket: &Socket) -> io::Result<()> {
    use rustix::net::sockopt::{
        Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
    };
    if socket.domain()? == Domain::IPV6 {
        set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::WANT)?;
    }
    set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::WANT)?;
    Ok(())
}

/// Makes a non-blocking pipe for about `capacity` bytes; returns the read end and the write end.
pub(super) fn pipe(capacity: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
    let ends = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // A user who already has many pipes gets no larger ones; then the default size is kept.
    let _ = fcntl_setpipe_size(&ends.1, capacity);
    Ok(ends)
}

/// Moves up to `most` bytes from a socket to a pipe, or back, without copying them.
pub(super) fn splice(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    use rustix::pipe::SpliceFlags;
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    Ok(rustix::pipe::splice(from, None, to, None, most, flags)?)
}

/// Bytes that were written to a TCP socket and that its peer has not acknowledged.
pub(super) fn unacknowledged(socket: impl AsFd) -> io::Result<usize> {
    use std::os::fd::AsRawFd;
    let mut count: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and this request writes one `int` through the
    // pointer, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result == 0 {
        usize::try_from(count).map_err(io::Error::other)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// How long the system has been suspended since it started.
pub(super) fn suspended() -> Duration {
    read_clock(libc::CLOCK_BOOTTIME).saturating_sub(read_clock(libc::CLOCK_MONOTONIC))
}

fn read_clock(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a `timespec` that outlives the call. If the call fails, it stays zero.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::from_secs(seconds) + Duration::from_nanos(time.tv_nsec.unsigned_abs())
}

/// A socket on which the kernel reports changes of links, addresses and routes (rtnetlink), on the reactor of this thread.
pub(super) fn route_events() -> io::Result<AsyncFd<OwnedFd>> {
    use rustix::net::netlink::SocketAddrNetlink;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        // NETLINK_ROUTE is 0.
        None,
    )?;
    let groups = [
        libc::RTMGRP_LINK,
        libc::RTMGRP_IPV4_IFADDR,
        libc::RTMGRP_IPV4_ROUTE,
        libc::RTMGRP_IPV6_IFADDR,
        libc::RTMGRP_IPV6_ROUTE,
    ];
    let groups = groups
        .into_iter()
        .fold(0, |all, group| all | group.cast_unsigned());
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    // SAFETY: an `OwnedFd` is one and the same open descriptor until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}
