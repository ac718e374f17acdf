//! Passes records and open files to another process, through a pair of connected unix sockets.
//!
//! ```text
//! record     "SSRU" ‖ version u16be ‖ files u16be ‖ head length u32be ‖ blob length u32be ‖ head ‖ blob
//! ```
//!
//! The files travel with the first byte (`SCM_RIGHTS`). All lengths are bounded.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use zeroize::Zeroizing;

use crate::limits::{MAX_HANDOVER_BLOB, MAX_HANDOVER_HEAD};

/// Both processes must have the same: see `app/upgrade`.
const VERSION: u16 = 1;
const MAGIC: &[u8; 4] = b"SSRU";
const HEADER_LEN: usize = 16;
/// Files of one record.
const MAX_FILES: usize = 2;

/// One end.
#[derive(Debug)]
pub struct Channel(UnixStream);

/// What was received.
#[derive(Debug)]
pub struct Record {
    /// What it says.
    pub head: Zeroizing<Vec<u8>>,
    /// Bytes beside it.
    pub blob: Zeroizing<Vec<u8>>,
    /// The files that came with it.
    pub files: Vec<OwnedFd>,
}

impl Channel {
    /// Both ends.
    ///
    /// # Errors
    /// What the system says.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = UnixStream::pair()?;
        Ok((Self(one), Self(other)))
    }

    /// How long one read or write may take; `None`: as long as it takes.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_patience(&self, time: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(time)?;
        self.0.set_write_timeout(time)
    }

    /// Sends a record.
    ///
    /// # Errors
    /// What the system says, or that the record is too long.
    pub fn send(&mut self, head: &[u8], blob: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "a record is too long");
        if head.len() > MAX_HANDOVER_HEAD || blob.len() > MAX_HANDOVER_BLOB {
            return Err(too_long());
        }
        let mut header = [0; HEADER_LEN];
        let count = u16::try_from(files.len()).map_err(|_| too_long())?;
        let lengths = [head.len(), blob.len()].map(u32::try_from);
        let [Ok(head_len), Ok(blob_len)] = lengths else {
            return Err(too_long());
        };
        let parts: [&[u8]; 5] = [
            MAGIC,
            &VERSION.to_be_bytes(),
            &count.to_be_bytes(),
            &head_len.to_be_bytes(),
            &blob_len.to_be_bytes(),
        ];
        let mut rest: &mut [u8] = &mut header;
        for part in parts {
            rest.write_all(part)?;
        }
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut ancillary = SendAncillaryBuffer::new(&mut room);
        if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(too_long());
        }
        let sent = retry(|| {
            let parts = [IoSlice::new(&header)];
            sendmsg(self.0.as_fd(), &parts, &mut ancillary, SendFlags::NOSIGNAL)
        })?;
        self.0.write_all(header.get(sent..).unwrap_or_default())?;
        self.0.write_all(head)?;
        self.0.write_all(blob)
    }

    /// Receives the next record; `None`: there are no more.
    ///
    /// # Errors
    /// What the system says, or that it is no record of this version.
    pub fn receive(&mut self) -> io::Result<Option<Record>> {
        let mut header = [0; HEADER_LEN];
        let mut files = Vec::new();
        let read = {
            let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut room);
            let received = retry(|| {
                let mut parts = [IoSliceMut::new(&mut header)];
                recvmsg(
                    self.0.as_fd(),
                    &mut parts,
                    &mut ancillary,
                    RecvFlags::CMSG_CLOEXEC,
                )
            })?;
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(passed) = message {
                    files.extend(passed);
                }
            }
            received.bytes
        };
        if read == 0 {
            return Ok(None);
        }
        self.0
            .read_exact(header.get_mut(read..).unwrap_or_default())?;
        let wrong = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
        let (head, blob) = lengths(&header, files.len()).map_err(wrong)?;
        let mut record = Record {
            head: Zeroizing::new(vec![0; head]),
            blob: Zeroizing::new(vec![0; blob]),
            files,
        };
        self.0.read_exact(&mut record.head)?;
        self.0.read_exact(&mut record.blob)?;
        Ok(Some(record))
    }
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self(socket.into())
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0.into()
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

/// The lengths of head and blob.
fn lengths(header: &[u8; HEADER_LEN], files: usize) -> Result<(usize, usize), &'static str> {
    let mut rest: &[u8] = header;
    let mut next = |len: usize| {
        let (part, left) = rest.split_at_checked(len).unwrap_or_default();
        rest = left;
        part.iter()
            .fold(0, |number: u64, byte| (number << 8) | u64::from(*byte))
    };
    let magic = MAGIC
        .iter()
        .fold(0, |number: u64, byte| (number << 8) | u64::from(*byte));
    if next(4) != magic {
        return Err("this is no record of ssr");
    }
    if next(2) != u64::from(VERSION) {
        return Err("the other ssr speaks another version of the handover: restart instead");
    }
    if usize::try_from(next(2)) != Ok(files) {
        return Err("files of a record are missing: too many are open");
    }
    match [next(4), next(4)].map(usize::try_from) {
        [Ok(head), Ok(blob)] if head <= MAX_HANDOVER_HEAD && blob <= MAX_HANDOVER_BLOB => {
            Ok((head, blob))
        }
        _ => Err("a record is too long"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn records_arrive_with_their_files() {
        let (mut one, mut other) = Channel::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let sent = std::thread::spawn(move || {
            one.send(b"a", b"", &[]).unwrap();
            one.send(b"b", &[7; 300_000], &[file.as_fd(), file.as_fd()])
                .unwrap();
            one.send(b"", b"c", &[file.as_fd()]).unwrap();
        });
        let counts = [(1, 0, 0), (1, 300_000, 2), (0, 1, 1)].map(|expected| {
            let record = other.receive().unwrap().unwrap();
            let got = (record.head.len(), record.blob.len(), record.files.len());
            assert_eq!(got, expected);
            record.blob.iter().filter(|byte| **byte == 7).count()
        });
        assert_eq!(counts, [0, 300_000, 0]);
        sent.join().unwrap();
        assert!(other.receive().unwrap().is_none());
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"SSRU\0\x02\0\0\0\0\0\0\0\0\0\0",
            b"SSRU\0\x01\0\x01\0\0\0\0\0\0\0\0",
            b"SSRU\0\x01\0\0\xff\0\0\0\0\0\0\0",
            b"SSRU\0\x01\0\0\0\0\0\0\xff\0\0\0",
            b"SSRU\0\x01",
        ] {
            let (mut one, mut other) = Channel::pair().unwrap();
            one.0.write_all(bytes).unwrap();
            drop(one);
            assert!(other.receive().is_err());
        }
    }
}
