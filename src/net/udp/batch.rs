//! Datagrams to be sent.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};

use super::connection::Inside;

/// The length of the longest datagram in bytes, and of the longest run that the kernel merges into one read.
pub const MAX_DATAGRAM: usize = 65_535;
/// The most bytes that the kernel takes as one run to one peer.
const MAX_RUN: usize = 65_000;

/// Where a datagram came from and to which of our addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The peer. An IPv4-mapped address is shown as IPv4.
    pub peer: SocketAddr,
    /// Our address that the peer used; replies leave from it.
    pub local: Option<IpAddr>,
    /// In a connection that is known by itself, not by the address of its client: what stands for the association in it.
    pub inside: Option<Inside>,
}

impl Path {
    /// To a peer, from any of our addresses.
    #[must_use]
    pub const fn to(peer: SocketAddr) -> Self {
        Self {
            peer,
            local: None,
            inside: None,
        }
    }
}

thread_local! {
    /// A worker fills one batch at a time, so the memory of one serves all its sockets.
    static SPARE: Cell<Batch> = Cell::default();
}

/// Datagrams to be sent together, contiguous in one buffer.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    datagrams: Vec<(usize, Path)>,
}

/// Neighbours in a batch that one system call sends. They have one peer and one length; only the last may be shorter.
pub(super) struct Run<'a> {
    pub(super) bytes: &'a [u8],
    /// The length of each but the last.
    pub(super) segment: usize,
    pub(super) path: Path,
}

impl Batch {
    /// An empty batch with the memory that [`Batch::keep`] kept.
    #[must_use]
    pub fn spare() -> Self {
        SPARE.take()
    }

    /// Keeps the memory of an empty batch for the worker's next one.
    pub fn keep(self) {
        SPARE.set(self);
    }

    /// Whether there are no datagrams in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Whether it should be sent before more datagrams are added.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= 4 * MAX_DATAGRAM
    }

    /// Adds a datagram of `len` bytes that `fill` writes; when `fill` fails, nothing is added.
    ///
    /// # Errors
    /// What `fill` says.
    pub fn push<E>(
        &mut self,
        path: Path,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        let result = fill(self.bytes.get_mut(start..).unwrap_or_default());
        match result {
            Ok(()) => self.datagrams.push((self.bytes.len(), path)),
            Err(_) => self.bytes.truncate(start),
        }
        result
    }

    /// How many bytes all datagrams have, and how many datagrams there are.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.bytes.len(), self.datagrams.len())
    }

    /// Iterates over the datagrams, and where each goes.
    pub fn datagrams(&self) -> impl Iterator<Item = (&[u8], Path)> {
        let mut start = 0;
        self.datagrams.iter().map(move |(end, path)| {
            let bytes = self.bytes.get(start..*end).unwrap_or_default();
            start = *end;
            (bytes, *path)
        })
    }

    /// The longest run of at most `most` datagrams that begins with datagram `from`, and where the next begins.
    pub(super) fn run(&self, from: usize, most: usize) -> Option<(Run<'_>, usize)> {
        let start = from
            .checked_sub(1)
            .and_then(|before| self.datagrams.get(before))
            .map_or(0, |before| before.0);
        let &(mut end, path) = self.datagrams.get(from)?;
        let segment = end - start;
        let mut next = from + 1;
        while next - from < most
            && segment > 0
            && end - start == segment * (next - from)
            && let Some(&(candidate, other)) = self.datagrams.get(next)
            && other == path
            && (1..=segment).contains(&(candidate - end))
            && candidate - start <= MAX_RUN
        {
            end = candidate;
            next += 1;
        }
        Some((
            Run {
                bytes: self.bytes.get(start..end)?,
                segment,
                path,
            },
            next,
        ))
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.datagrams.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn path(port: u16) -> Path {
        Path::to(([127, 0, 0, 1], port).into())
    }

    fn batch(datagrams: &[(u16, usize)]) -> Batch {
        let mut batch = Batch::default();
        for &(port, len) in datagrams {
            batch.push::<()>(path(port), len, |_| Ok(())).unwrap();
        }
        batch
    }

    fn runs(batch: &Batch) -> Vec<(u16, usize, usize)> {
        let (mut from, mut runs) = (0, Vec::new());
        while let Some((run, next)) = batch.run(from, 64) {
            runs.push((run.path.peer.port(), next - from, run.bytes.len()));
            from = next;
        }
        runs
    }

    #[test]
    fn neighbours_of_one_length_and_peer_leave_together() {
        let datagrams = [
            (1, 100),
            (1, 100),
            (1, 60),
            (1, 100),
            (2, 100),
            (2, 101),
            (2, 0),
            (2, 0),
        ];
        assert_eq!(
            runs(&batch(&datagrams)),
            [
                (1, 3, 260),
                (1, 1, 100),
                (2, 1, 100),
                (2, 1, 101),
                (2, 1, 0),
                (2, 1, 0)
            ]
        );
    }

    #[test]
    fn failed_datagram_leaves_no_trace() {
        let mut batch = batch(&[(1, 10)]);
        assert_eq!(batch.push(path(1), 10, |_| Err("no")), Err("no"));
        assert_eq!(runs(&batch), [(1, 1, 10)]);
    }
}
