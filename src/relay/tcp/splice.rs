//! One direction between two plain sockets, inside the kernel.

use std::io;
use std::task::{Context, Poll, ready};

use crate::net::Stream;
use crate::net::splice::KernelPipe;

/// Moves bytes through a kernel pipe. The pipe is held only while bytes are in it or are about to be.
#[derive(Default)]
pub(super) struct Splice {
    pipe: Option<KernelPipe>,
    /// The kernel cannot splice these sockets.
    refused: bool,
}

/// What one poll has done.
pub(super) enum Step {
    /// This many bytes have gone from the source into the sink.
    Moved(usize),
    /// The source has ended.
    End,
    /// Splicing is not possible: copy the bytes.
    Unavailable,
}

/// The side that broke.
pub(super) enum SpliceError {
    Source(io::Error),
    Sink(io::Error),
}

impl Splice {
    /// Whether bytes are in the pipe.
    pub(super) fn is_busy(&self) -> bool {
        self.pipe.as_ref().is_some_and(|pipe| pipe.held() > 0)
    }

    /// Takes the bytes out of the pipe.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn take_all(&mut self) -> io::Result<Vec<u8>> {
        match &mut self.pipe {
            Some(pipe) => pipe.take_all(),
            None => Ok(Vec::new()),
        }
    }

    /// Moves at most one pipeful, or waits for the source or the sink.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &Stream,
        sink: &Stream,
    ) -> Poll<Result<Step, SpliceError>> {
        if self.refused || !source.is_socket() || !sink.is_socket() {
            return Poll::Ready(Ok(Step::Unavailable));
        }
        while !self.is_busy() {
            if self.pipe.is_none() {
                ready!(source.poll_readable(cx)).map_err(SpliceError::Source)?;
                self.pipe = KernelPipe::take();
            }
            let Some(pipe) = &mut self.pipe else {
                return Poll::Ready(Ok(Step::Unavailable));
            };
            match pipe.try_fill(source) {
                Ok(0) => {
                    self.pipe = None;
                    return Poll::Ready(Ok(Step::End));
                }
                Ok(_) => {}
                Err(error) => {
                    self.pipe = None;
                    match error.kind() {
                        // The next look at readiness waits.
                        io::ErrorKind::WouldBlock => {}
                        io::ErrorKind::InvalidInput => {
                            self.refused = true;
                            return Poll::Ready(Ok(Step::Unavailable));
                        }
                        _ => return Poll::Ready(Err(SpliceError::Source(error))),
                    }
                }
            }
        }
        let Some(pipe) = &mut self.pipe else {
            return Poll::Ready(Ok(Step::Unavailable));
        };
        let count = ready!(pipe.poll_drain(cx, sink)).map_err(SpliceError::Sink)?;
        Poll::Ready(Ok(Step::Moved(count)))
    }
}
