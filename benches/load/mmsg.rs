//! Sends and receives many datagrams with one system call, so that the generator costs little beside the proxies.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

/// Datagrams of one call.
pub(crate) const BATCH: usize = 64;
/// Bytes for one datagram.
const SLOT: usize = 2048;

/// Slots of [`SLOT`] bytes, with the length and the peer of what each holds.
pub(crate) struct Batch {
    bytes: Vec<u8>,
    lengths: [usize; BATCH],
    peers: [libc::sockaddr_in; BATCH],
}

impl Batch {
    /// Fills every slot with `datagram`, cut to the slot's size.
    pub(crate) fn of(datagram: &[u8]) -> Self {
        let mut bytes = vec![0; BATCH * SLOT];
        let length = datagram.len().min(SLOT);
        for slot in bytes.chunks_exact_mut(SLOT) {
            for (to, from) in slot.iter_mut().zip(datagram) {
                *to = *from;
            }
        }
        // SAFETY: all-zero is a valid `sockaddr_in`.
        let nobody: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        Self {
            bytes,
            lengths: [length; BATCH],
            peers: [nobody; BATCH],
        }
    }

    /// Waits for one datagram and reads those that are there. Returns how many slots were filled.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.lengths = [SLOT; BATCH];
        let mut messages = self.messages(BATCH, true);
        // SAFETY: the headers point to slots, lengths and peers of `self`, which live and are not touched meanwhile.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.1.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_WAITFORONE as _,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (length, message) in self.lengths.iter_mut().zip(&messages.1).take(count) {
            *length = message.msg_len as usize;
        }
        Ok(count)
    }

    /// Sends the first `count` slots, each to its peer if `reply`, else to the connected address. Returns how many the
    /// kernel accepted.
    pub(crate) fn send(
        &mut self,
        socket: &UdpSocket,
        count: usize,
        reply: bool,
    ) -> io::Result<usize> {
        let mut messages = self.messages(count.min(BATCH), reply);
        // SAFETY: as above; the kernel only reads.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                messages.1.as_mut_ptr(),
                messages.1.len() as u32,
                0,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Headers of the first `count` slots. They point into `self`, and into the first vector.
    fn messages(&mut self, count: usize, named: bool) -> (Vec<libc::iovec>, Vec<libc::mmsghdr>) {
        let mut slots: Vec<libc::iovec> = self
            .bytes
            .chunks_exact_mut(SLOT)
            .zip(&self.lengths)
            .take(count)
            .map(|(slot, length)| libc::iovec {
                iov_base: slot.as_mut_ptr().cast(),
                iov_len: *length,
            })
            .collect();
        let messages = slots
            .iter_mut()
            .zip(&mut self.peers)
            .map(|(slot, peer)| {
                // SAFETY: all-zero is a valid `mmsghdr`.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = slot;
                message.msg_hdr.msg_iovlen = 1;
                if named {
                    message.msg_hdr.msg_name = std::ptr::from_mut(peer).cast();
                    message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
                }
                message
            })
            .collect();
        (slots, messages)
    }
}
