//! mux.cool inside a WebSocket, as v2ray-plugin has it: a client's single stream, and a server's many.
//!
//! mux.cool has no window: who does not read one stream holds up all others. So a client of ours opens one stream in
//! each WebSocket, and a server stops reading while any of its streams is full.
//!
//! End closes a stream in both directions. Two ends of ours therefore end one direction by the WebSocket's own means
//! ([`super`]), which is the same thing while there is one stream in it. A server that has learnt that the client is
//! one of ours takes its stream as it is; the streams of others go through pipes.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};

use super::{WebSocket, invalid};
use crate::net::Stream;
use crate::net::pipe::{self, Pipe, Taken};
use crate::net::pool::{Buffer, Size};
use crate::net::stream::Layer as _;
use crate::wire::mux::{Decoder, Event, Frame, MAX_DATA};

/// Streams in one WebSocket at the same time, with those that have ended there and are still being served;
/// v2ray-plugin's clients open at most as many in all.
const MAX_STREAMS: usize = 128;
/// Bytes that a stream may have waiting for its reader, and for the WebSocket.
const WINDOW: usize = 256 * 1024;
const CAPACITY: usize = 128 * 1024;
/// Bytes read from the WebSocket at once.
const READ: Size = Size::Medium;
/// Bytes waiting in a stream above which nothing more is read: what is read next fits, with the part of the window
/// whose reading has not been told yet.
const FULL: usize = WINDOW / 4 * 3 - READ.bytes();
/// How long a WebSocket without streams is kept. v2ray-plugin's clients close it within 16 s, and until then may use it.
const EMPTY: Duration = Duration::from_secs(20);
/// Reads, and writes, after which others have their turn.
const TURNS: usize = 8;

/// The server's side of a WebSocket with streams in it.
pub struct Server {
    ws: WebSocket,
    decoder: Decoder,
    streams: BTreeMap<u16, Pipe>,
    /// The stream that had its turn last.
    last: u16,
    /// A frame on its way out: whose it is, and its data.
    out: Option<(u16, Buffer)>,
    /// A frame without data on its way out.
    flushing: bool,
    /// Whether the client has closed.
    closed: bool,
    /// Whether the client closes, and wants us to close, when its stream has ended.
    last_one: bool,
    idle: Option<Pin<Box<Sleep>>>,
}

impl Server {
    /// Over a WebSocket that begins with mux.cool.
    pub(super) fn new(ws: WebSocket) -> Self {
        Self {
            ws,
            decoder: Decoder::new(),
            streams: BTreeMap::new(),
            last: 0,
            out: None,
            flushing: false,
            closed: false,
            last_one: false,
            idle: None,
        }
    }

    /// Hands each stream to `serve` until the WebSocket has ended or has been without streams for long.
    ///
    /// # Errors
    /// What breaks below, or what the client did wrong; the streams are then broken too, and ended before this
    /// returns.
    pub async fn run<F>(mut self, serve: impl Fn(Stream) -> F) -> io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        let result = loop {
            tokio::select! {
                next = poll_fn(|cx| self.poll_next(cx)) => match next {
                    Ok(Some(stream)) => {
                        while tasks.try_join_next().is_some() {}
                        if tasks.len() >= MAX_STREAMS {
                            break Err(too_many());
                        }
                        tasks.spawn(serve(stream));
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                },
                Some(_) = tasks.join_next() => {}
            }
        };
        if result.is_err() {
            self.ws.reset_on_close();
        }
        // The streams of a WebSocket that is gone find their pipes broken or ended.
        drop(self);
        while tasks.join_next().await.is_some() {}
        result
    }

    /// Moves what there is to move; is ready with a new stream, or with the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Stream>>> {
        self.poll_out(cx)?;
        for _ in 0..TURNS {
            if self.closed {
                return Poll::Ready(Ok(None));
            }
            if self.is_full() {
                break;
            }
            match self.poll_in(cx)? {
                Poll::Ready(Some(stream)) => return Poll::Ready(Ok(Some(stream))),
                Poll::Ready(None) => {}
                Poll::Pending => return self.poll_idle(cx),
            }
        }
        if !self.is_full() {
            cx.waker().wake_by_ref();
        }
        self.poll_idle(cx)
    }

    /// Whether a stream's reader is too far behind.
    fn is_full(&self) -> bool {
        self.streams.values().any(|pipe| {
            // There is no window to be told of: what has been read is room again.
            let _ = pipe.take_credit();
            pipe.unread() > FULL && !pipe.is_abandoned()
        })
    }

    /// The time without streams.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Stream>>> {
        if !self.streams.is_empty() || self.out.is_some() || self.flushing {
            self.idle = None;
            return Poll::Pending;
        }
        if self.last_one {
            return Poll::Ready(Ok(None));
        }
        let idle = self.idle.get_or_insert_with(|| Box::pin(sleep(EMPTY)));
        if idle.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(None));
        }
        Poll::Pending
    }

    /// One read of the WebSocket, given to its streams; perhaps a new one.
    fn poll_in(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<Option<Stream>>> {
        let mut ahead = self.ws.take_ahead();
        if !ahead.is_empty() {
            let (used, stream) = self.give(&ahead)?;
            ahead.drain(..used);
            self.ws.put_ahead(ahead);
            return Ok(Poll::Ready(stream));
        }
        if self.ws.poll_readable(cx)?.is_pending() {
            return Ok(Poll::Pending);
        }
        let mut buffer = Buffer::take(READ);
        let (bytes, ..) = buffer.parts();
        let count = match self.ws.try_read(&mut [io::IoSliceMut::new(bytes)]) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Poll::Ready(None));
            }
            Err(error) => return Err(error),
        };
        if count == 0 {
            if !self.decoder.at_boundary() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.closed = true;
            self.streams.values().for_each(Pipe::finish);
            return Ok(Poll::Ready(None));
        }
        let read = bytes.get(..count).unwrap_or_default();
        let (used, stream) = self.give(read)?;
        let rest = read.get(used..).unwrap_or_default();
        if !rest.is_empty() {
            self.ws.put_ahead(rest.to_vec());
        }
        Ok(Poll::Ready(stream))
    }

    /// Gives `bytes` to their streams, up to the first new stream: how many were used, and that stream.
    fn give(&mut self, bytes: &[u8]) -> io::Result<(usize, Option<Stream>)> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = bytes.get(at..).unwrap_or_default();
            let (used, event) = self.decoder.next(rest).map_err(invalid)?;
            at += used;
            match event {
                Event::New(id) => {
                    if self.streams.len() >= MAX_STREAMS || self.streams.contains_key(&id) {
                        return Err(too_many());
                    }
                    // A peer that counts from 0 opens one stream in each WebSocket, and waits for its end.
                    self.last_one |= id == 0;
                    self.idle = None;
                    let (stream, pipe) = pipe::pair(WINDOW, CAPACITY);
                    self.streams.insert(id, pipe);
                    return Ok((at, Some(stream)));
                }
                Event::Data(id) => {
                    if let Some(pipe) = self.streams.get(&id) {
                        let data = rest.get(..used).unwrap_or_default();
                        match pipe.push(data) {
                            // What nobody will read is dropped; the stream's own end is told by its turn.
                            Ok(()) | Err(pipe::Refused::Closed) => {}
                            Err(pipe::Refused::Window) => {
                                return Err(io::ErrorKind::OutOfMemory.into());
                            }
                        }
                    }
                }
                Event::End(id, error) => {
                    if let Some(pipe) = self.streams.remove(&id)
                        && !error
                    {
                        pipe.finish();
                    }
                }
                Event::Nothing => {}
            }
        }
        Ok((at, None))
    }

    /// Writes what the streams have, each in its turn, until the socket is full or they have nothing.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        for _ in 0..TURNS {
            if self.poll_frame(cx)?.is_pending() {
                // While the socket is full, readers that catch up let us read on.
                self.streams.values().for_each(|pipe| pipe.watch(cx));
                return Ok(());
            }
            let ids = |range| self.streams.range(range).map(|(id, _)| *id);
            let after = (
                std::ops::Bound::Excluded(self.last),
                std::ops::Bound::Unbounded,
            );
            let order: Vec<u16> = if self.streams.len() == 1 {
                self.streams.keys().copied().collect()
            } else {
                ids(after)
                    .chain(self.streams.keys().copied())
                    .take(self.streams.len())
                    .collect()
            };
            let mut idle = true;
            for id in order {
                if self.poll_stream(cx, id)?.is_ready() {
                    self.last = id;
                    idle = false;
                    break;
                }
            }
            if idle {
                return Ok(());
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// The frame on its way out, and what the WebSocket has to say by itself.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        while let Some((id, buffer)) = &mut self.out {
            let (bytes, _, raw) = buffer.parts();
            let data = u16::try_from(raw.len()).unwrap_or(u16::MAX);
            let frame = Frame::Keep { id: *id, data };
            let rest = bytes.get_mut(raw.clone()).unwrap_or_default();
            match self.ws.poll_write_framed(cx, || frame.head(), rest)? {
                Poll::Ready(count) => raw.start += count,
                Poll::Pending => return Ok(Poll::Pending),
            }
            if raw.start == raw.end {
                self.out = None;
            }
        }
        // A Pong or a Ping may wait as well: the next frame must not take its place.
        match self.ws.poll_flushed(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Err(error)) if self.flushing => return Err(error),
            // If the connection is broken, the next read will tell.
            Poll::Ready(_) => self.flushing = false,
        }
        Ok(Poll::Ready(()))
    }

    /// Begins a frame of what stream `id` has; pending when it has nothing.
    fn poll_stream(&mut self, cx: &mut Context<'_>, id: u16) -> io::Result<Poll<()>> {
        let Some(pipe) = self.streams.get_mut(&id) else {
            return Ok(Poll::Pending);
        };
        let waiting = pipe.waiting();
        let size = Size::holding(waiting.min(MAX_DATA)).unwrap_or(Size::Medium);
        let taken = if waiting == 0 {
            pipe.poll_take(cx, &mut []).map(|taken| (taken, None))
        } else {
            let mut buffer = Buffer::take_exact(size);
            let (bytes, ..) = buffer.parts();
            let most = bytes.len().min(MAX_DATA);
            let taken = pipe.poll_take(cx, bytes.get_mut(..most).unwrap_or_default());
            taken.map(|taken| (taken, Some(buffer)))
        };
        match taken {
            Poll::Ready((Taken::Bytes(count), Some(mut buffer))) if count > 0 => {
                buffer.raw = 0..count;
                self.out = Some((id, buffer));
                return Ok(Poll::Ready(()));
            }
            Poll::Pending | Poll::Ready((Taken::Bytes(_), _)) => return Ok(Poll::Pending),
            Poll::Ready((taken, _)) => {
                if let Some(pipe) = self.streams.remove(&id) {
                    pipe.finish();
                }
                let error = taken == Taken::Reset;
                self.flushing = true;
                self.ws.send(cx, Frame::End { id, error }.head().bytes());
            }
        }
        Ok(Poll::Ready(()))
    }
}

fn too_many() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "too many streams, or one twice")
}

#[cfg(test)]
mod tests;
