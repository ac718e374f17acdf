//! What only Linux has.
#![expect(
    unsafe_code,
    reason = "some options of TCP, child processes and questions to the system have no safe interface"
)]

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
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
    set_option(socket, libc::IPPROTO_TCP, option, value)
}

fn set_option(
    socket: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let size = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and the pointer and size describe `value`,
    // which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
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

/// Which buffers of a socket have a fixed size: bits of `SO_BUF_LOCK` (Linux 5.14).
pub(super) const SEND_BUFFER_FIXED: libc::c_int = 1;
pub(super) const RECEIVE_BUFFER_FIXED: libc::c_int = 2;

pub(super) fn fix_buffers(socket: &impl AsFd, fixed: libc::c_int) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_BUF_LOCK, fixed)
}

pub(super) fn fixed_buffers(socket: &impl AsFd) -> io::Result<libc::c_int> {
    use std::os::fd::AsRawFd;
    let mut value: libc::c_int = 0;
    let mut size = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and the pointers describe `value` and its size, which
    // outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BUF_LOCK,
            (&raw mut value).cast(),
            &raw mut size,
        )
    };
    match result {
        0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
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

/// Lets the system kill the process that `command` starts when the thread that starts it ends; so also when this process
/// is killed.
pub(super) fn end_with_this_thread(command: &mut std::process::Command) {
    use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
    use std::os::unix::process::CommandExt as _;
    let parent = getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // A parent that ended before that call sends no signal.
        match getppid() == Some(parent) {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    };
    // SAFETY: between fork and exec, `prepare` makes two system calls and touches nothing else: it allocates no memory
    // and takes no lock.
    unsafe { command.pre_exec(prepare) };
}

/// Lets a socket use addresses that are not of this machine: to listen for what the firewall passes to it (TPROXY), and to
/// send from there. Needs CAP_NET_ADMIN.
pub(super) fn set_transparent(socket: &Socket, is_v6: bool) -> io::Result<()> {
    if is_v6 {
        socket.set_ip_transparent_v6(true)
    } else {
        socket.set_ip_transparent_v4(true)
    }
}

/// Makes the system say where each datagram was sent to, for [`receive_with_destinations`].
pub(super) fn set_receive_destination(socket: &Socket, is_v6: bool) -> io::Result<()> {
    if is_v6 {
        set_option(socket, libc::SOL_IPV6, libc::IPV6_RECVORIGDSTADDR, 1)?;
    }
    // An IPv6 socket needs it too, for the IPv4 datagrams that it receives.
    set_option(socket, libc::SOL_IP, libc::IP_RECVORIGDSTADDR, 1)
}

/// Bytes of the longest socket address here, that of IPv6.
const NAME_LEN: usize = 28;
/// Bytes for the control messages of one datagram: one address, and room to spare.
const CONTROL_LEN: usize = 128;

/// A datagram that the firewall passed to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Redirected {
    pub(super) len: usize,
    pub(super) peer: SocketAddr,
    /// Where it was sent to.
    pub(super) destination: SocketAddr,
}

/// Receives up to `N` datagrams into `slots` by one system call; `found` tells what each is, `None` for one that was too
/// long or whose addresses are not known. Returns how many came.
pub(super) fn receive_with_destinations<const N: usize>(
    socket: impl AsFd,
    slots: &mut [IoSliceMut<'_>; N],
    found: &mut [Option<Redirected>; N],
) -> io::Result<usize> {
    use std::os::fd::AsRawFd;
    let mut names = [[0_u8; NAME_LEN]; N];
    let mut controls = [[0_u8; CONTROL_LEN]; N];
    // SAFETY: all-zero is a valid `mmsghdr`: null pointers with lengths of zero.
    let mut headers: [libc::mmsghdr; N] = unsafe { std::mem::zeroed() };
    let parts = slots.iter_mut().zip(&mut names).zip(&mut controls);
    for (header, ((slot, name), control)) in headers.iter_mut().zip(parts) {
        let header = &mut header.msg_hdr;
        header.msg_name = name.as_mut_ptr().cast();
        header.msg_namelen = libc::socklen_t::try_from(NAME_LEN).map_err(io::Error::other)?;
        header.msg_iov = std::ptr::from_mut(slot).cast();
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_LEN as _;
    }
    let count = libc::c_uint::try_from(N).map_err(io::Error::other)?;
    let flags = libc::MSG_DONTWAIT;
    // SAFETY: the descriptor is open as long as `socket` is borrowed. Each header points to a name, a slot (`IoSliceMut` has
    // the layout of `iovec`) and a control buffer of the stated lengths, which outlive the call and are not used meanwhile.
    let received = unsafe {
        let fd = socket.as_fd().as_raw_fd();
        libc::recvmmsg(
            fd,
            headers.as_mut_ptr(),
            count,
            flags as _,
            std::ptr::null_mut(),
        )
    };
    let Ok(received) = usize::try_from(received) else {
        return Err(io::Error::last_os_error());
    };
    let parts = headers.iter().zip(&names).zip(&controls);
    for (found, ((header, name), control)) in found.iter_mut().zip(parts).take(received) {
        let message = &header.msg_hdr;
        let is_cut = message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
        *found = match (socket_address(name), destination(control)) {
            (Some(peer), Some(destination)) if !is_cut => Some(Redirected {
                len: usize::try_from(header.msg_len).unwrap_or_default(),
                peer,
                destination,
            }),
            _ => None,
        };
    }
    Ok(received)
}

/// The original destination among control messages.
fn destination(messages: &[u8]) -> Option<SocketAddr> {
    let is_destination = |kind| {
        matches!(
            kind,
            (libc::SOL_IP, libc::IP_ORIGDSTADDR) | (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR)
        )
    };
    socket_address(control_message(messages, is_destination)?)
}

/// The data of the first control message of a level and type that are `wanted` (`cmsg(3)`: length, level and type, then the data,
/// aligned). Zeros may follow the last.
fn control_message(mut messages: &[u8], wanted: impl Fn((i32, i32)) -> bool) -> Option<&[u8]> {
    const HEAD: usize = size_of::<usize>() + 8;
    loop {
        let (len, rest) = messages.split_first_chunk()?;
        let (level, rest) = rest.split_first_chunk()?;
        let (kind, _) = rest.split_first_chunk()?;
        let len = usize::from_ne_bytes(*len);
        let data = messages.get(HEAD..len)?;
        if wanted((i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind))) {
            return Some(data);
        }
        messages = messages.get(len.next_multiple_of(size_of::<usize>())..)?;
    }
}

/// Whether the system keeps what ICMP says of datagrams that were sent, for [`take_icmp_error`]. What is kept takes the room of what
/// is received.
pub(super) fn set_keep_icmp_errors(socket: &Socket, keeps: bool) -> io::Result<()> {
    let v6 = set_option(socket, libc::SOL_IPV6, libc::IPV6_RECVERR, keeps.into());
    // An IPv6 socket needs it too, for what it sends by IPv4.
    let v4 = set_option(socket, libc::SOL_IP, libc::IP_RECVERR, keeps.into());
    v6.or(v4)
}

/// A descriptor of `socket` whose errors are what ICMP says of what the socket sends, on the reactor of this thread.
pub(super) fn icmp_errors(socket: &std::net::UdpSocket) -> io::Result<AsyncFd<OwnedFd>> {
    let descriptor = OwnedFd::from(socket.try_clone()?);
    set_keep_icmp_errors(&SockRef::from(socket), true)?;
    // SAFETY: an `OwnedFd` is one and the same open descriptor until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::ERROR) }?)
}

/// What ICMP has said of a datagram, which is then forgotten; `None`: this was said by the system itself. `WouldBlock`: nothing more.
pub(super) fn take_icmp_error(socket: impl AsFd) -> io::Result<Option<io::Error>> {
    use std::os::fd::AsRawFd;
    let mut control = [0_u8; CONTROL_LEN];
    // SAFETY: all-zero is a valid `msghdr`: null pointers with lengths of zero.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_LEN as _;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the descriptor is open as long as `socket` is borrowed. The header points to a control buffer of the stated length,
    // which outlives the call and is not used meanwhile.
    let received = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, flags) };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    let is_error = |kind| {
        matches!(
            kind,
            (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)
        )
    };
    // struct sock_extended_err: the number, and who says it.
    let error = control_message(&control, is_error).and_then(|error| {
        let (number, rest) = error.split_first_chunk()?;
        let origin = *rest.first()?;
        let is_icmp = matches!(origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6);
        is_icmp.then(|| io::Error::from_raw_os_error(i32::from_ne_bytes(*number)))
    });
    // That a packet was too long does not end anything.
    Ok(error.filter(|error| error.raw_os_error() != Some(libc::EMSGSIZE)))
}

/// The address in a `sockaddr_in` or `sockaddr_in6`. An IPv4-mapped address is shown as IPv4.
fn socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let (family, rest) = bytes.split_first_chunk()?;
    let (port, rest) = rest.split_first_chunk()?;
    let ip: IpAddr = match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => rest.first_chunk::<4>().copied()?.into(),
        // The flow information is before the address.
        libc::AF_INET6 => rest.get(4..)?.first_chunk::<16>().copied()?.into(),
        _ => return None,
    };
    Some(SocketAddr::new(
        ip.to_canonical(),
        u16::from_be_bytes(*port),
    ))
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

/// What the system knows of a TCP connection (`TCP_INFO` of tcp(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// The smoothed round trip.
    pub round_trip: Duration,
    /// The shortest one of late.
    pub shortest_round_trip: Duration,
    /// Bytes of payload in a full segment that we send.
    pub segment: u32,
    /// The MTU of the path as far as the system knows it, in bytes.
    pub path_mtu: u32,
    /// Segments that were sent again.
    pub retransmitted: u32,
    /// Those of them that had arrived before, as the peer says (RFC 2883).
    pub needless: u32,
    /// Bytes that the peer has acknowledged; a connection's own SYN counts as one.
    pub acknowledged: u64,
    /// Segments with payload that were sent, those that were sent again included.
    pub sent: u32,
    /// Bytes are in the socket that were not sent yet, or not acknowledged.
    pub is_waiting: bool,
    /// How often the oldest of them were sent again. Probes of a peer that has no room are not counted.
    pub resent: u8,
    /// How long nothing has come from the peer but keepalive probes.
    pub silence: Duration,
    /// Changes with payload that is new, and with segments without payload. What the peer sends again does not change it.
    pub heard: u32,
}

/// Asks for the state of a connection. What an older system does not know is 0.
pub(super) fn tcp_info(socket: impl AsFd) -> io::Result<TcpInfo> {
    use std::os::fd::AsRawFd;
    const SIZE: usize = 256;
    let mut bytes = [0_u8; SIZE];
    let mut len = libc::socklen_t::try_from(SIZE).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open as long as `socket` is borrowed. The system writes at most `len` bytes to `bytes` and
    // the number of them to `len`; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            bytes.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // The layout is that of `struct tcp_info` of linux/tcp.h, to which fields are only added at the end.
    let word = |at: usize| {
        let word = bytes.get(at..).and_then(<[u8]>::first_chunk);
        word.map_or(0, |word| u32::from_ne_bytes(*word))
    };
    let long = |at: usize| {
        let long = bytes.get(at..).and_then(<[u8]>::first_chunk);
        long.map_or(0, |long| u64::from_ne_bytes(*long))
    };
    let without_payload = word(140).wrapping_sub(word(152));
    // The lower half is enough to see a change.
    let received = u32::try_from(long(128) & u64::from(u32::MAX)).unwrap_or_default();
    Ok(TcpInfo {
        segment: word(16),
        path_mtu: word(60),
        round_trip: Duration::from_micros(word(68).into()),
        shortest_round_trip: Duration::from_micros(word(148).into()),
        retransmitted: word(100),
        needless: word(216),
        acknowledged: long(120),
        sent: word(156),
        is_waiting: word(24) > 0 || word(144) > 0,
        resent: bytes.get(2).copied().unwrap_or_default(),
        silence: Duration::from_millis(word(52).min(word(56)).into()),
        heard: received.wrapping_add(without_payload),
    })
}

/// The tun device behind a file descriptor.
pub(super) fn tun_device(fd: OwnedFd) -> io::Result<tun_rs::SyncDevice> {
    use std::os::fd::IntoRawFd;
    // SAFETY: the descriptor is open and becomes the device's own. Whether it is that of a tun device without a header of
    // offload is checked there. Its framing (`IFF_NO_PI`) cannot be asked for: the documentation requires it, and otherwise
    // packets are refused as malformed.
    unsafe { tun_rs::SyncDevice::from_fd(fd.into_raw_fd()) }
}

/// A file descriptor that this process was started with, for our own use. Programs that we start do not get it.
pub(super) fn inherited(fd: i32) -> io::Result<OwnedFd> {
    use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
    use std::os::fd::BorrowedFd;
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is borrowed for two system calls, which say if it is not open; nothing else in this process closes it.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let own = fcntl_dupfd_cloexec(borrowed, 3)?;
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    Ok(own)
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

/// The first descriptor that a service manager passes (`SD_LISTEN_FDS_START`).
const FIRST_PASSED: RawFd = 3;

/// Takes the `count` descriptors that the service manager has passed to this process, up to the first that is not open.
/// They are taken once: a second call returns nothing.
pub(super) fn take_passed(count: usize) -> Vec<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Relaxed) {
        return Vec::new();
    }
    let take = |fd| {
        // SAFETY: the call changes one flag of a descriptor; for a number that is not open it fails.
        let is_open = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
        // SAFETY: it is open. The service manager says by LISTEN_PID that it has opened it for this process, before the
        // process began: so nothing else here owns it, and the flag above makes sure that it is taken once.
        is_open.then(|| unsafe { OwnedFd::from_raw_fd(fd) })
    };
    (FIRST_PASSED..).take(count).map_while(take).collect()
}

/// Opens a file or directory beneath `root` for reading. The system refuses a path or a link that leads out of it.
pub(super) fn open_beneath(root: &Path, path: &Path) -> io::Result<std::fs::File> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
    let flags = OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let root = openat(
        CWD,
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(root, path, flags | OFlags::RDONLY, Mode::empty(), within)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    /// Bytes of control messages, each with its level, type and data.
    fn control(messages: &[(i32, i32, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (level, kind, data) in messages {
            let len = size_of::<usize>() + 8 + data.len();
            bytes.extend(len.to_ne_bytes());
            bytes.extend(level.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*data);
            bytes.resize(bytes.len().next_multiple_of(size_of::<usize>()), 0);
        }
        bytes
    }

    #[test]
    fn destination_is_found_among_other_messages() {
        let mut v4 = [0; 16];
        v4[..2].copy_from_slice(&u16::try_from(libc::AF_INET).unwrap().to_ne_bytes());
        v4[2..8].copy_from_slice(&[0, 53, 192, 0, 2, 1]);
        let mut v6 = [0; 28];
        v6[..2].copy_from_slice(&u16::try_from(libc::AF_INET6).unwrap().to_ne_bytes());
        v6[2..4].copy_from_slice(&[1, 187]);
        v6[8] = 0x20;
        v6[23] = 9;
        let other = (libc::SOL_SOCKET, libc::SO_TIMESTAMP, &[1_u8; 13][..]);
        let of_v4 = (libc::SOL_IP, libc::IP_ORIGDSTADDR, &v4[..]);
        let of_v6 = (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR, &v6[..]);
        for (messages, expected) in [
            (&[of_v4][..], Some("192.0.2.1:53")),
            (&[other, of_v4], Some("192.0.2.1:53")),
            (&[other, of_v6], Some("[2000::9]:443")),
            (&[other], None),
            (&[], None),
        ] {
            let found = destination(&control(messages));
            assert_eq!(found, expected.map(|text| text.parse().unwrap()));
        }
    }

    #[test]
    fn cut_control_messages_have_no_destination() {
        let of_v4 = control(&[(
            libc::SOL_IP,
            libc::IP_ORIGDSTADDR,
            &[2, 0, 0, 53, 1, 2, 3, 4],
        )]);
        for len in 0..of_v4.len() {
            assert_eq!(destination(&of_v4[..len]), None, "{len}");
        }
        assert!(destination(&of_v4).is_some());
    }
}
