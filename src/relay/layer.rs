//! A Shadowsocks stream as a layer: what is written to it is sealed, what is read from it has been opened.
//!
//! It is for a server between us and another server; the relay itself seals and opens without a layer.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::ops::Range;
use std::task::{Context, Poll, ready};

use super::leg::Leg;
use super::sealed::{self, StreamError};
use super::sizing::Sizing;
use crate::net::Stream;
use crate::net::pool::{Buffer, Size};
use crate::net::slots::scatter;
use crate::net::stream::Layer;
use crate::wire;
use crate::wire::ss::stream::{Opener, Sealer};

/// The most slots that are filled for one write.
const SLOTS: usize = 4;

/// A stream whose bytes are sealed on the way.
pub struct Sealed {
    inner: Stream,
    opener: Opener,
    sealer: Sealer,
    /// What was received, and where in it the payload is that was opened and not read yet.
    incoming: Option<Buffer>,
    payload: Range<usize>,
    /// What was sealed and not written yet, where it is, and how many bytes of the caller it stands for.
    outgoing: Option<(Buffer, Range<usize>, usize)>,
    sizing: Sizing,
    /// How the stream from the peer has ended.
    over: Option<Result<(), ErrorKind>>,
}

impl Sealed {
    /// The stream that `leg`, which must have a codec, leads to; `None`: it has none.
    #[must_use]
    pub fn over(leg: Leg) -> Option<Stream> {
        let (opener, sealer) = leg.codec?;
        Some(Stream::layered(Self {
            inner: leg.stream,
            opener,
            sealer,
            incoming: None,
            payload: 0..0,
            outgoing: None,
            sizing: Sizing::up_to(Size::Medium),
            over: None,
        }))
    }

    /// Opens, and reads if need be, until there is payload. An end or an error is remembered.
    fn advance(&mut self) -> io::Result<()> {
        while self.payload.is_empty() && self.over.is_none() {
            let opened = match &mut self.incoming {
                Some(buffer) => sealed::open(buffer, Some(&mut self.opener)),
                None => Ok(None),
            };
            match opened {
                Ok(Some(payload)) => self.payload = payload,
                Ok(None) => self.receive()?,
                Err(error) => {
                    tracing::debug!(%error, "a Shadowsocks server on the way sent something wrong");
                    self.over = Some(Err(ErrorKind::InvalidData));
                }
            }
        }
        Ok(())
    }

    /// Reads once.
    fn receive(&mut self) -> io::Result<()> {
        let (opener, size) = (Some(&self.opener), self.sizing.size());
        let (incoming, sizing) = (&mut self.incoming, &mut self.sizing);
        match sealed::read(&self.inner, incoming, opener, size, sizing) {
            Ok(()) => {}
            Err(StreamError::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                sealed::shrink(&mut self.incoming, Some(&self.opener));
                return Err(error);
            }
            Err(StreamError::Io(error)) => self.over = Some(Err(error.kind())),
            Err(StreamError::End) => self.over = Some(Ok(())),
            Err(StreamError::Cut) => self.over = Some(Err(ErrorKind::UnexpectedEof)),
            Err(StreamError::Wire(_)) => self.over = Some(Err(ErrorKind::InvalidData)),
        }
        Ok(())
    }

    /// Seals as much of `parts` as one buffer takes.
    fn seal(&mut self, parts: &[IoSlice<'_>]) -> Result<(), wire::Error> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let size = match len {
            0..=0x3fff => Size::Small,
            _ => Size::Medium,
        };
        let mut buffer = Buffer::take(size);
        let (bytes, _, _) = buffer.parts();
        let taken = {
            let mut slots: [_; SLOTS] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
            let used = self.sealer.slots(bytes, &mut slots);
            let slots = slots.get_mut(..used).unwrap_or_default();
            parts
                .iter()
                .fold(0, |done, part| done + scatter(part, slots, done))
        };
        let len = sealed::seal(&mut self.sealer, bytes, taken)?;
        self.outgoing = Some((buffer, 0..len, taken));
        Ok(())
    }
}

impl Layer for Sealed {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.advance() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ready!(self.inner.poll_readable(cx))?;
                }
                result => return Poll::Ready(result),
            }
        }
    }

    fn try_read(&mut self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.advance()?;
        if let Some(over) = self.over
            && self.payload.is_empty()
        {
            return over.map(|()| 0).map_err(io::Error::from);
        }
        let bytes = self.incoming.as_ref().map(Buffer::bytes);
        let payload = bytes.and_then(|bytes| bytes.get(self.payload.clone()));
        let count = scatter(payload.unwrap_or_default(), slots, 0);
        self.payload.start += count;
        Ok(count)
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if parts.iter().all(|part| part.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        if self.outgoing.is_none() {
            self.seal(parts).map_err(io::Error::other)?;
        }
        let Some((buffer, range, taken)) = &mut self.outgoing else {
            return Poll::Ready(Ok(0));
        };
        while let Some(bytes) = buffer.bytes().get(range.clone())
            && !bytes.is_empty()
        {
            range.start += ready!(self.inner.poll_write(cx, &[IoSlice::new(bytes)]))?;
        }
        let taken = *taken;
        self.outgoing = None;
        Poll::Ready(Ok(taken))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_shutdown(cx)
    }

    fn inner(&mut self) -> &mut Stream {
        &mut self.inner
    }
}
