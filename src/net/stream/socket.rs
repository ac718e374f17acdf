//! System calls of sockets that are streams.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsFd;
use std::task::{Poll, ready};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::Interest;

/// Reads from a socket: into a single slot by recv(2), since readv(2) costs the kernel more.
pub(super) fn receive(socket: impl AsFd, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    Ok(match slots {
        [slot] => recv(socket, &mut **slot, RecvFlags::empty())?.0,
        slots => rustix::io::readv(socket, slots)?,
    })
}

/// Writes to a socket: a single part by send(2).
fn transmit(socket: impl AsFd, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    Ok(match parts {
        [part] => send(socket, part, SendFlags::NOSIGNAL)?,
        parts => rustix::io::writev(socket, parts)?,
    })
}

pub(super) fn write_socket(
    socket: impl AsFd + Copy,
    mut writable: impl FnMut() -> Poll<io::Result<()>>,
    try_io: impl Fn(Interest, &mut dyn FnMut() -> io::Result<()>) -> io::Result<()>,
    parts: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let len = parts.iter().map(|part| part.len()).sum();
    loop {
        ready!(writable())?;
        let result = once(len, &try_io, Interest::WRITABLE, || transmit(socket, parts));
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result),
        }
    }
}

/// Makes one system call inside `try_io`. A call that moved less than `room` has shown that the socket is empty (or
/// full): `try_io` then gets `WouldBlock`, so that it waits for the next event, and the count is returned all the same.
/// The end of a stream and errors are not lost, since the reactor never clears those.
pub(in crate::net) fn once(
    room: usize,
    try_io: impl FnOnce(Interest, &mut dyn FnMut() -> io::Result<()>) -> io::Result<()>,
    interest: Interest,
    mut call: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    let mut moved = None;
    let result = try_io(interest, &mut || loop {
        match call() {
            Ok(count) => {
                moved = Some(count);
                let short = count > 0 && count < room;
                return if short {
                    Err(io::ErrorKind::WouldBlock.into())
                } else {
                    Ok(())
                };
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    });
    match moved {
        Some(count) => Ok(count),
        None => result.map(|()| 0),
    }
}
