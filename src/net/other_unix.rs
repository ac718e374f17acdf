//! Stands in for `linux.rs` on other Unix systems: these functions do without, or return `Unsupported`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use socket2::{Domain, Protocol, Socket, Type};

/// A plain connection, since only Linux has Multipath TCP.
pub(super) const MPTCP: Protocol = Protocol::TCP;

pub(super) fn pipe(_: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn splice(_: impl AsFd, _: impl AsFd, _: usize) -> io::Result<usize> {
    Err(io::ErrorKind::InvalidInput.into())
}

pub(super) fn set_fast_open(_: &Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn set_fast_open_connect(_: &Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn set_acknowledge_with_data(_: &Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn set_route(_: &Socket, mark: Option<u32>, interface: Option<&str>) -> io::Result<()> {
    if mark.is_some() || interface.is_some() {
        Err(io::ErrorKind::Unsupported.into())
    } else {
        Ok(())
    }
}

pub(super) fn nonblocking(domain: Domain, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(domain, kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

pub(super) fn allow_fragments(_: &Socket) -> io::Result<()> {
    Ok(())
}
