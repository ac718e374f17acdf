//! Bytes from one socket into another without a way through user space: splice(2), by way of a pipe.
//!
//! A pipe is held only while bytes move. Each worker keeps a few for its flows to share; how many all workers may hold is
//! bounded, since their pages are the kernel's and count against nobody's buffers.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::Interest;

use super::stream::once;
use super::{Stream, linux};

/// Bytes that a pipe is asked to hold; the system may grant less.
const CAPACITY: usize = 256 * 1024;
/// Pipes in use, of all workers: as many as a user without privileges may have of this size (pipe(7)).
const MAX_IN_USE: usize = 256;
/// Free pipes that a worker keeps.
const SPARE: usize = 16;

/// How much a pipe takes and gives depends on how its bytes are cut into pages, so a short count shows neither an empty
/// nor a full socket: with no room to fall short of, only the system's own `WouldBlock` clears readiness.
const SHORT_SAYS_NOTHING: usize = 0;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static FREE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe of the kernel, and how many bytes are in it. It goes back to the worker's pool when dropped empty.
pub struct Pipe {
    /// There until it is dropped.
    ends: Option<Ends>,
    held: usize,
}

impl Pipe {
    /// An empty pipe; `None` when too many are in use or the system has none to give: then bytes have to be copied.
    #[must_use]
    pub fn take() -> Option<Self> {
        if IN_USE.fetch_add(1, Ordering::Relaxed) >= MAX_IN_USE {
            IN_USE.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        // From here on, dropping it corrects the count.
        let mut pipe = Self {
            ends: FREE.try_with(|free| free.borrow_mut().pop()).ok().flatten(),
            held: 0,
        };
        if pipe.ends.is_none() {
            let (read, write) = linux::pipe(CAPACITY).ok()?;
            pipe.ends = Some(Ends { read, write });
        }
        Some(pipe)
    }

    /// Bytes in the pipe.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held
    }

    /// Takes what `source` has into the empty pipe; 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing to read, `InvalidInput` when this socket cannot be spliced, or what the
    /// system says.
    pub fn try_fill(&mut self, source: &Stream) -> io::Result<usize> {
        let (Some(ends), Some(stream)) = (&self.ends, source.tcp()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let count = once(
            SHORT_SAYS_NOTHING,
            |interest, io| stream.try_io(interest, io),
            Interest::READABLE,
            || linux::splice(stream, &ends.write, CAPACITY),
        )?;
        self.held += count;
        Ok(count)
    }

    /// Gives `sink` what it takes now, or waits until it takes something.
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
                SHORT_SAYS_NOTHING,
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

impl Drop for Pipe {
    fn drop(&mut self) {
        IN_USE.fetch_sub(1, Ordering::Relaxed);
        let (Some(ends), 0) = (self.ends.take(), self.held) else {
            return;
        };
        // While the thread ends there is no pool any more, and the pipe is simply closed.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < SPARE {
                free.push(ends);
            }
        });
    }
}
