//! Moves bytes from one socket to another inside the kernel: splice(2), through a pipe.
//!
//! A pipe is held only while bytes move. Each worker keeps a few free pipes for its flows. The number of pipes in use
//! is bounded, since their memory is the kernel's and no limit of buffers counts it.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::Interest;

use super::stream::socket::once;
use super::{Stream, linux};
use crate::limits::{KERNEL_PIPE, MAX_KERNEL_PIPES};

/// Free pipes that a worker keeps.
const SPARE: usize = 16;

/// The `room` of [`once`] for splice(2). How much a pipe takes and gives depends on how its bytes are cut into pages,
/// so a short count shows neither an empty nor a full socket. With a room of 0 only the system's own `WouldBlock`
/// clears readiness.
const ANY_COUNT: usize = 0;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static FREE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A kernel pipe. If it is empty when dropped, it returns to the worker's pool.
pub struct KernelPipe {
    /// `Some` until it is dropped.
    ends: Option<Ends>,
    held: usize,
}

impl KernelPipe {
    /// Takes an empty pipe. `None`: too many are in use, or the system refused one; the caller then copies bytes.
    #[must_use]
    pub fn take() -> Option<Self> {
        if IN_USE.fetch_add(1, Ordering::Relaxed) >= MAX_KERNEL_PIPES {
            IN_USE.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        // From here on, `Drop` corrects the count.
        let mut pipe = Self {
            ends: FREE.try_with(|free| free.borrow_mut().pop()).ok().flatten(),
            held: 0,
        };
        if pipe.ends.is_none() {
            let (read, write) = linux::pipe(KERNEL_PIPE).ok()?;
            pipe.ends = Some(Ends { read, write });
        }
        Some(pipe)
    }

    /// Takes all bytes out of the pipe into memory.
    ///
    /// # Errors
    /// What the system says.
    pub fn take_all(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.held];
        let mut read = 0;
        if let Some(ends) = &self.ends {
            while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
                match rustix::io::read(&ends.read, rest)? {
                    0 => break,
                    count => read += count,
                }
            }
        }
        self.held -= read;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Bytes in the pipe.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held
    }

    /// Moves bytes from `source` into the empty pipe; 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing to read, `InvalidInput` when this stream cannot be spliced, or what the
    /// system says.
    pub fn try_fill(&mut self, source: &Stream) -> io::Result<usize> {
        let (Some(ends), Some(stream)) = (&self.ends, source.tcp()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let count = once(
            ANY_COUNT,
            |interest, io| stream.try_io(interest, io),
            Interest::READABLE,
            || linux::splice(stream, &ends.write, KERNEL_PIPE),
        )?;
        self.held += count;
        Ok(count)
    }

    /// Moves bytes from the pipe to `sink`, or waits until `sink` takes some.
    ///
    /// # Errors
    /// What the system says.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, sink: &Stream) -> Poll<io::Result<usize>> {
        let (Some(ends), Some(stream)) = (&self.ends, sink.tcp()) else {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        loop {
            ready!(stream.poll_write_ready(cx))?;
            let result = once(
                ANY_COUNT,
                |interest, io| stream.try_io(interest, io),
                Interest::WRITABLE,
                || linux::splice(&ends.read, stream, self.held),
            );
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) if self.held > 0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    self.held -= count;
                    return Poll::Ready(Ok(count));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Drop for KernelPipe {
    fn drop(&mut self) {
        IN_USE.fetch_sub(1, Ordering::Relaxed);
        let (Some(ends), 0) = (self.ends.take(), self.held) else {
            return;
        };
        // A thread that is ending has no pool any more; the pipe is closed.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < SPARE {
                free.push(ends);
            }
        });
    }
}
