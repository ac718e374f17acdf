//! What only pipes can tell.

use std::task::{Context, Poll};

use super::{Kind, Stream};

impl Stream {
    /// Whether it is one side of a pipe.
    #[must_use]
    pub const fn is_pipe(&self) -> bool {
        matches!(self.0, Kind::Pipe(_))
    }

    /// Ready when the other side has reset a pipe, which a reader that has found the end would not notice. Pending for all
    /// others.
    pub fn poll_reset(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.0 {
            Kind::Pipe(end) => end.poll_reset(cx),
            _ => Poll::Pending,
        }
    }
}
