//! One direction between two plain sockets, inside the kernel.

use std::io;
use std::task::{Context, Poll, ready};

use crate::net::Stream;
use crate::net::splice::Pipe;

/// What a pipe does for a direction. It is held only while bytes are in it, or may well be at once.
#[derive(Default)]
pub(super) struct Splice {
    pipe: Option<Pipe>,
    /// These sockets cannot do it.
    refused: bool,
}

/// What has come of one turn.
pub(super) enum Step {
    /// So many bytes have gone from the source into the sink.
    Moved(usize),
    /// The source has ended.
    End,
    /// Not this way: the bytes have to be copied.
    Unavailable,
}

/// What broke.
pub(super) enum Broken {
    Source(io::Error),
    Sink(io::Error),
}

impl Splice {
    /// Whether bytes are on their way.
    pub(super) fn is_busy(&self) -> bool {
        self.pipe.as_ref().is_some_and(|pipe| pipe.held() > 0)
    }

    /// Moves one pipe full, or waits for the source or for the sink.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &Stream,
        sink: &Stream,
    ) -> Poll<Result<Step, Broken>> {
        if self.refused || !source.is_socket() || !sink.is_socket() {
            return Poll::Ready(Ok(Step::Unavailable));
        }
        while !self.is_busy() {
            if self.pipe.is_none() {
                ready!(source.poll_readable(cx)).map_err(Broken::Source)?;
                self.pipe = Pipe::take();
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
                        _ => return Poll::Ready(Err(Broken::Source(error))),
                    }
                }
            }
        }
        let Some(pipe) = &mut self.pipe else {
            return Poll::Ready(Ok(Step::Unavailable));
        };
        let count = ready!(pipe.poll_drain(cx, sink)).map_err(Broken::Sink)?;
        Poll::Ready(Ok(Step::Moved(count)))
    }
}
