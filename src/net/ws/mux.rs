//! mux.cool inside a WebSocket, as v2ray-plugin speaks it: the server's side, with many streams.
//!
//! mux.cool has no windows: one stream that is not read holds up all others. So a client of ours opens one stream in
//! each WebSocket ([`SingleStream`](crate::wire::mux::SingleStream)), and the server stops reading while one of its
//! streams is full.
//!
//! The frame End closes a stream in both directions. So two sides of ours end one direction by the WebSocket itself
//! (see [`super`]), which is equivalent while there is one stream in it. A server that knows its client to be ours uses
//! the single stream without this module; the streams of other clients go through pipes.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::ops::Bound;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};

use super::{WebSocket, invalid};
use crate::limits::MAX_MUX_STREAMS;
use crate::limits::MUX_WINDOW;
use crate::net::Stream;
use crate::net::pipe::{self, Pipe, Taken};
use crate::net::pool::{Buffer, Size};
use crate::net::stream::Layer as _;
use crate::wire::mux::{Decoder, Event, Frame, MAX_DATA};

/// Bytes of a stream that may wait for the WebSocket.
const CAPACITY: usize = 128 * 1024;
/// Buffer for one read of the WebSocket.
const READ: Size = Size::Medium;
/// Unread bytes of a stream above which the WebSocket is not read: the next read still fits, beside the quarter of the
/// window that may be read without being credited.
const FULL: usize = MUX_WINDOW / 4 * 3 - READ.bytes();
/// How long a WebSocket without streams is kept. v2ray-plugin's clients close it within 16 s and may use it until then.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Reads, or writes, after which other tasks get their turn.
const TURNS: usize = 8;

/// The server's side of mux.cool in a WebSocket.
pub struct Server {
    ws: WebSocket,
    decoder: Decoder,
    streams: BTreeMap<u16, Pipe>,
    /// The stream that wrote last.
    last: u16,
    /// The frame that is being written: its stream and its data.
    out: Option<(u16, Buffer)>,
    /// Whether a frame without data is being written.
    flushing: bool,
    /// Whether the client has closed the WebSocket.
    closed: bool,
    /// Whether the client uses the WebSocket for one stream only, and expects us to close it afterwards.
    closes_after_stream: bool,
    idle: Option<Pin<Box<Sleep>>>,
}

impl Server {
    /// Wraps a WebSocket that begins with mux.cool.
    pub(super) fn new(ws: WebSocket) -> Self {
        Self {
            ws,
            decoder: Decoder::new(),
            streams: BTreeMap::new(),
            last: 0,
            out: None,
            flushing: false,
            closed: false,
            closes_after_stream: false,
            idle: None,
        }
    }

    /// Passes each stream to `serve`. Returns when the WebSocket has ended, or has had no streams for a while.
    ///
    /// # Errors
    /// An error of the connection, or `InvalidData` when the client broke the protocol. The streams then break too, and
    /// their tasks end before this returns.
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
                        if tasks.len() >= MAX_MUX_STREAMS {
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
        // Breaks or ends the pipes of the streams that are left.
        drop(self);
        while tasks.join_next().await.is_some() {}
        result
    }

    /// Moves bytes in both directions. Ready with a new stream, or with `None` at the end.
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

    /// Whether the reader of a stream is too far behind.
    fn is_full(&self) -> bool {
        self.streams.values().any(|pipe| {
            // mux.cool sends no credit: what was read is room again at once.
            let _ = pipe.take_credit();
            pipe.unread() > FULL && !pipe.is_abandoned()
        })
    }

    /// Waits for the end of the time without streams.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Stream>>> {
        if !self.streams.is_empty() || self.out.is_some() || self.flushing {
            self.idle = None;
            return Poll::Pending;
        }
        if self.closes_after_stream {
            return Poll::Ready(Ok(None));
        }
        let idle = self
            .idle
            .get_or_insert_with(|| Box::pin(sleep(IDLE_TIMEOUT)));
        if idle.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(None));
        }
        Poll::Pending
    }

    /// Reads the WebSocket once and distributes the data; returns a new stream, if one was opened.
    fn poll_in(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<Option<Stream>>> {
        let mut ahead = std::mem::take(&mut self.ws.ahead);
        if !ahead.is_empty() {
            let (used, stream) = self.give(&ahead)?;
            ahead.drain(..used);
            self.ws.ahead = ahead;
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
            self.ws.ahead = rest.to_vec();
        }
        Ok(Poll::Ready(stream))
    }

    /// Distributes `bytes` up to the first new stream; returns the bytes used, and that stream.
    fn give(&mut self, bytes: &[u8]) -> io::Result<(usize, Option<Stream>)> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = bytes.get(at..).unwrap_or_default();
            let (used, event) = self.decoder.next(rest).map_err(invalid)?;
            at += used;
            match event {
                Event::New(id) => {
                    if self.streams.len() >= MAX_MUX_STREAMS || self.streams.contains_key(&id) {
                        return Err(too_many());
                    }
                    // A client that counts from 0 opens one stream in each WebSocket and waits for its end.
                    self.closes_after_stream |= id == 0;
                    self.idle = None;
                    let (stream, pipe) = pipe::pair(MUX_WINDOW, CAPACITY);
                    self.streams.insert(id, pipe);
                    return Ok((at, Some(stream)));
                }
                Event::Data(id) => {
                    if let Some(pipe) = self.streams.get(&id) {
                        let data = rest.get(..used).unwrap_or_default();
                        match pipe.push(data) {
                            // Data that nobody will read is dropped; the end of the stream is sent in its turn.
                            Ok(()) | Err(pipe::PushError::Closed) => {}
                            Err(pipe::PushError::WindowExceeded) => {
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

    /// Writes the data of the streams, each in its turn, until the socket is full or nothing is left.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        for _ in 0..TURNS {
            if self.poll_frame(cx)?.is_pending() {
                // Even while the socket is full, a reader that catches up must wake this task.
                self.streams.values().for_each(|pipe| pipe.watch(cx));
                return Ok(());
            }
            let after = (Bound::Excluded(self.last), Bound::Unbounded);
            let order: Vec<u16> = self
                .streams
                .range(after)
                .chain(&self.streams)
                .map(|(id, _)| *id)
                .take(self.streams.len())
                .collect();
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

    /// Continues the frame that is being written, then the WebSocket's own frames.
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
        // A Ping or Pong may be waiting: the next frame must not replace it.
        match self.ws.poll_flushed(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Err(error)) if self.flushing => return Err(error),
            // If the connection is broken, the next read fails.
            Poll::Ready(_) => self.flushing = false,
        }
        Ok(Poll::Ready(()))
    }

    /// Begins a frame with the data of stream `id`; pending when it has none.
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
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the client opened too many streams, or one twice",
    )
}

#[cfg(test)]
mod tests;
