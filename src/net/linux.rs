//! What only Linux has.
#![expect(
    unsafe_code,
    reason = "some options of TCP and of child processes have no safe interface"
)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use socket2::{Domain, Protocol, Socket, Type};

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
