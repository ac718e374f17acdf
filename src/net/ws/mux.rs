//! mux.cool inside a WebSocket, as v2ray-plugin speaks it: the server's side, with many streams.
//!
//! mux.cool has no windows: one stream that is not read holds up all others. So a client of ours opens one stream in
//! each WebSocket ([`SingleStream`](crate::wire::mux::SingleStream)), and the server stops reading while one of its
//! streams is full.
//!
//! The frame End closes a stream in both directions. So two sides of ours end one direction by the WebSocket itself
//! (see [`super`]), which is equivalent while there is one stream in it. A server that knows its client to be ours uses
//! the single stream without this module; the streams of other clients go through pipes.
//!
//! A stream that has sent nothing costs its id only: it begins with its first bytes, if [`Admission`] lets it.

mod admission;

pub use admission::{Admission, Admitted};

use std::collections::{BTreeMap, BTreeSet};
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
/// The same while the client is not authenticated.
const STRANGER_READ: Size = Size::Small;
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
    /// Streams that are open and have sent nothing.
    silent: BTreeSet<u16>,
    streams: BTreeMap<u16, Pipe>,
    /// The first bytes of a stream that is not admitted yet. Nothing is read until it is.
    held: Option<(u16, Vec<u8>)>,
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
            silent: BTreeSet::new(),
            streams: BTreeMap::new(),
            held: None,
            last: 0,
            out: None,
            flushing: false,
            closed: false,
            closes_after_stream: false,
            idle: None,
        }
    }

    /// Passes each stream to `serve` when it has sent something and is admitted. Returns when the WebSocket has ended, or
    /// has had no such streams for a while.
    ///
    /// # Errors
    /// An error of the connection, or `InvalidData` when the client broke the protocol. The streams then break too, and
    /// their tasks end before this returns.
    pub async fn run<F>(
        mut self,
        admission: &Admission,
        serve: impl Fn(Stream, Admitted) -> F,
    ) -> io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        let result = loop {
            tokio::select! {
                next = poll_fn(|cx| self.poll_next(cx, admission)) => match next {
                    Ok(Some((stream, admitted))) => {
                        while tasks.try_join_next().is_some() {}
                        if tasks.len() >= MAX_MUX_STREAMS {
                            break Err(too_many());
                        }
                        tasks.spawn(serve(stream, admitted));
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                },
                Some(_) = tasks.join_next() => {}
                () = admission.changed.notified() => {}
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
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        admission: &Admission,
    ) -> Poll<io::Result<Option<Begun>>> {
        self.poll_out(cx)?;
        if self.held.is_some()
            && let Some(admitted) = admission.admit()
            && let Some((id, data)) = self.held.take()
        {
            return Poll::Ready(self.begin(id, &data, admitted).map(Some));
        }
        for _ in 0..TURNS {
            if self.closed {
                return Poll::Ready(Ok(None));
            }
            if self.is_full(cx, admission) {
                break;
            }
            match self.poll_in(cx, admission)? {
                Poll::Ready(Some(stream)) => return Poll::Ready(Ok(Some(stream))),
                Poll::Ready(None) => {}
                Poll::Pending => return self.poll_idle(cx),
            }
        }
        if !self.is_full(cx, admission) {
            cx.waker().wake_by_ref();
        }
        self.poll_idle(cx)
    }

    /// Whether the reader of a stream is too far behind, or a stream waits to be admitted. Until the client is
    /// authenticated, every byte has to be read before others are: what a stranger sends stays in the socket.
    fn is_full(&self, cx: &Context<'_>, admission: &Admission) -> bool {
        if self.held.is_some() {
            return true;
        }
        if !admission.is_authenticated() {
            return self.streams.values().any(|pipe| {
                pipe.watch_reader(cx);
                pipe.unread() > 0 && !pipe.is_abandoned()
            });
        }
        self.streams.values().any(|pipe| {
            // mux.cool sends no credit: what was read is room again at once.
            let _ = pipe.take_credit();
            pipe.unread() > FULL && !pipe.is_abandoned()
        })
    }

    /// Waits for the end of the time without streams.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Begun>>> {
        if !self.streams.is_empty() || self.held.is_some() || self.out.is_some() || self.flushing {
            self.idle = None;
            return Poll::Pending;
        }
        if self.closes_after_stream && self.silent.is_empty() {
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
    fn poll_in(
        &mut self,
        cx: &mut Context<'_>,
        admission: &Admission,
    ) -> io::Result<Poll<Option<Begun>>> {
        let mut ahead = std::mem::take(&mut self.ws.ahead);
        if !ahead.is_empty() {
            let (used, begun) = self.give(&ahead, admission)?;
            ahead.drain(..used);
            self.ws.ahead = ahead;
            return Ok(Poll::Ready(begun));
        }
        if self.ws.poll_readable(cx)?.is_pending() {
            return Ok(Poll::Pending);
        }
        let size = match admission.is_authenticated() {
            true => READ,
            false => STRANGER_READ,
        };
        let mut buffer = Buffer::take(size);
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
        let (used, begun) = self.give(read, admission)?;
        let rest = read.get(used..).unwrap_or_default();
        if !rest.is_empty() {
            self.ws.ahead = rest.to_vec();
        }
        Ok(Poll::Ready(begun))
    }

    /// Distributes `bytes` up to the first stream that begins or is held; returns the bytes used, and the stream that
    /// begins.
    fn give(&mut self, bytes: &[u8], admission: &Admission) -> io::Result<(usize, Option<Begun>)> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = bytes.get(at..).unwrap_or_default();
            let (used, event) = self.decoder.next(rest).map_err(invalid)?;
            at += used;
            match event {
                Event::New(id) => {
                    let open = self.streams.len() + self.silent.len();
                    let is_known = self.streams.contains_key(&id) || !self.silent.insert(id);
                    if open >= MAX_MUX_STREAMS || is_known {
                        return Err(too_many());
                    }
                    // A client that counts from 0 opens one stream in each WebSocket and waits for its end.
                    self.closes_after_stream |= id == 0;
                    self.idle = None;
                }
                Event::Data(id) => {
                    let data = rest.get(..used).unwrap_or_default();
                    if self.silent.remove(&id) {
                        let Some(admitted) = admission.admit() else {
                            self.held = Some((id, data.to_vec()));
                            return Ok((at, None));
                        };
                        return Ok((at, Some(self.begin(id, data, admitted)?)));
                    }
                    self.push(id, data)?;
                }
                Event::End(id, error) => {
                    self.silent.remove(&id);
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

    /// Begins a stream with its first bytes.
    fn begin(&mut self, id: u16, data: &[u8], admitted: Admitted) -> io::Result<Begun> {
        let (stream, pipe) = pipe::pair(MUX_WINDOW, CAPACITY);
        self.streams.insert(id, pipe);
        self.push(id, data)?;
        Ok((stream, admitted))
    }

    /// Passes on bytes of a stream.
    fn push(&self, id: u16, data: &[u8]) -> io::Result<()> {
        match self.streams.get(&id).map(|pipe| pipe.push(data)) {
            // Data that nobody will read is dropped; the end of the stream is sent in its turn.
            None | Some(Ok(()) | Err(pipe::PushError::Closed)) => Ok(()),
            Some(Err(pipe::PushError::WindowExceeded)) => Err(io::ErrorKind::OutOfMemory.into()),
        }
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

/// A stream that begins, and its permit.
type Begun = (Stream, Admitted);

fn too_many() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the client opened too many streams, or one twice",
    )
}

#[cfg(test)]
mod tests;
