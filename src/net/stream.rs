//! A byte stream, read and written in vectors: a TCP connection, a layer over one, or the end of a pipe.
//!
//! What all kinds promise:
//! - One task polls a stream; it is the one that is woken.
//! - [`Stream::poll_readable`] is ready only when bytes, the end or an error are there for the caller, wherever they
//!   stand: in the socket, or decoded in a layer while the socket is silent. It may be mistaken about a socket, and
//!   then [`Stream::try_read`] says `WouldBlock`.
//! - What [`Stream::poll_write`] says it has taken is in the socket or the pipe: nothing has to be flushed.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::options;
use super::pipe::state::PipeStream;
use super::pool::Buffer;
use super::sync::lock;

/// A connected stream.
pub struct Stream(Kind);

/// TCP stands here bare, and whatever else there is must not make it larger: every flow holds two.
enum Kind {
    Tcp(TcpStream),
    /// TCP that is registered with no reactor; it can be read, not waited for.
    Parked(std::net::TcpStream),
    Pipe(PipeStream),
    Layer(Box<Mutex<dyn Layer>>),
}

/// What stands over another stream and changes its bytes: TLS, WebSocket. The methods are those of [`Stream`], with its
/// promises.
pub trait Layer: Send {
    /// As [`Stream::poll_readable`]. This is also where a layer sends what it has to say by itself (answers to pings,
    /// new keys), since it is called whenever anybody waits for the peer.
    ///
    /// # Errors
    /// When the stream below breaks.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// As [`Stream::try_read`].
    ///
    /// # Errors
    /// `WouldBlock`, what breaks below, or what the peer did wrong, as `InvalidData`.
    fn try_read(&mut self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize>;

    /// As [`Stream::poll_write`].
    ///
    /// # Errors
    /// What breaks below.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;

    /// As [`Stream::poll_write_mut`].
    ///
    /// # Errors
    /// What breaks below.
    fn poll_write_mut(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write(cx, &[IoSlice::new(bytes)])
    }

    /// As [`Stream::poll_shutdown`].
    ///
    /// # Errors
    /// What breaks below.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// As [`Stream::reset_on_close`].
    fn reset_on_close(&mut self) {
        self.inner().reset_on_close();
    }

    /// The stream below.
    fn inner(&mut self) -> &mut Stream;

    /// Gives up timers and wakers, which belong to the reactor that the stream is about to leave.
    fn leave_reactor(&mut self) {}
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Tcp(stream) => stream.fmt(f),
            Kind::Parked(stream) => stream.fmt(f),
            Kind::Pipe(_) => f.write_str("Pipe"),
            Kind::Layer(_) => f.write_str("Layer"),
        }
    }
}

impl Stream {
    /// A connected TCP stream.
    #[must_use]
    pub const fn new(stream: TcpStream) -> Self {
        Self(Kind::Tcp(stream))
    }

    /// The end of a pipe.
    #[must_use]
    pub(super) const fn piped(end: PipeStream) -> Self {
        Self(Kind::Pipe(end))
    }

    /// A layer over another stream.
    #[must_use]
    pub fn layered(layer: impl Layer + 'static) -> Self {
        Self(Kind::Layer(Box::new(Mutex::new(layer))))
    }

    /// Takes over a connected, non-blocking socket that is registered with no reactor.
    ///
    /// # Errors
    /// What the system says.
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        TcpStream::from_std(stream).map(Self::new)
    }

    /// Gives up the reactor, for use by another: this one or any, by [`Parked::resume`].
    ///
    /// # Errors
    /// What the system says; a pipe has no reactor, and gives `Unsupported`.
    pub fn park(mut self) -> io::Result<Parked> {
        self.0 = match self.0 {
            Kind::Tcp(stream) => Kind::Parked(stream.into_std()?),
            Kind::Layer(mut layer) => {
                let upper = exclusive(&mut layer);
                upper.leave_reactor();
                upper.inner().replace(|inner| {
                    let Parked(inner) = inner.park()?;
                    Ok(inner)
                })?;
                Kind::Layer(layer)
            }
            Kind::Parked(stream) => Kind::Parked(stream),
            Kind::Pipe(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Parked(self))
    }

    /// Puts another stream in its place: one that stands over it, say. After an error it is broken.
    ///
    /// # Errors
    /// That of `change`.
    pub fn replace(&mut self, change: impl FnOnce(Self) -> io::Result<Self>) -> io::Result<()> {
        // Between the two there has to be something.
        let this = std::mem::replace(self, Self(Kind::Pipe(PipeStream::broken())));
        *self = change(this)?;
        Ok(())
    }

    /// Waits until a read will find something: bytes, the end, or an error.
    ///
    /// # Errors
    /// When the runtime is going down, or the stream is broken.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            Kind::Tcp(stream) => stream.poll_read_ready(cx),
            Kind::Parked(_) => Poll::Ready(Err(parked())),
            Kind::Pipe(end) => end.poll_readable(cx),
            Kind::Layer(layer) => lock(layer).poll_readable(cx),
        }
    }

    /// As [`Stream::poll_readable`]. Cancel safe.
    ///
    /// # Errors
    /// As there.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// Reads into `slots`, in order; 0 is the end of the stream.
    ///
    /// A read that does not fill the slots has emptied a socket. That is told to the reactor here, which saves the
    /// next read its vain system call.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing to read, or what the system says.
    pub fn try_read(&self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match &self.0 {
            Kind::Tcp(stream) => {
                let room = slots.iter().map(|slot| slot.len()).sum();
                once(
                    room,
                    |interest, io| stream.try_io(interest, io),
                    Interest::READABLE,
                    || receive(stream, slots),
                )
            }
            Kind::Parked(stream) => receive(stream, slots),
            Kind::Pipe(end) => end.try_read(slots),
            Kind::Layer(layer) => lock(layer).try_read(slots),
        }
    }

    /// As [`Stream::try_read`], without a copy: of a pipe, a buffer whose one ready range is what has come. `None`: there
    /// is none, for whatever reason; read then.
    #[must_use]
    pub fn take_buffer(&self) -> Option<Buffer> {
        match &self.0 {
            Kind::Pipe(end) => end.take_buffer(),
            _ => None,
        }
    }

    /// As [`Stream::poll_write`], without a copy: a pipe takes the buffer with its one ready range, or waits until it
    /// can. What is left in `buffer` is to be written.
    ///
    /// # Errors
    /// As there.
    pub fn poll_give(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut Option<Buffer>,
    ) -> Poll<io::Result<()>> {
        match &self.0 {
            Kind::Pipe(end) => end.poll_give(cx, buffer),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Whether a socket has bytes to be read, by a look that leaves them there. Of whatever else, it is not known.
    #[must_use]
    pub fn has_bytes(&self) -> bool {
        self.tcp().is_some_and(|stream| {
            let peeked = recv(stream, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT);
            matches!(peeked, Ok((1.., _)))
        })
    }

    /// Reads at least a byte into `buf`; 0 is the end of the stream. Cancel safe.
    ///
    /// # Errors
    /// What the system says.
    pub async fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            self.readable().await?;
            match self.try_read(&mut [IoSliceMut::new(buf)]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Writes what of `parts` the stream takes now, or waits until it takes something. A caller that has been told to
    /// wait comes again with the same bytes and by the same method, since a layer may have coded them already.
    ///
    /// # Errors
    /// What the system says.
    pub fn poll_write(
        &self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &self.0 {
            Kind::Tcp(stream) => write_tcp(stream, cx, parts),
            Kind::Parked(_) => Poll::Ready(Err(parked())),
            Kind::Pipe(end) => end.poll_write(cx, parts),
            Kind::Layer(layer) => lock(layer).poll_write(cx, parts),
        }
    }

    /// As [`Stream::poll_write`], for bytes that are the caller's own: a layer may code them where they stand. All of
    /// `bytes` are then spoilt, whatever was written; the caller comes again with exactly the part that was not, as it
    /// finds it, and by this method.
    ///
    /// # Errors
    /// What the system says.
    pub fn poll_write_mut(
        &self,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match &self.0 {
            Kind::Layer(layer) => lock(layer).poll_write_mut(cx, bytes),
            _ => self.poll_write(cx, &[IoSlice::new(bytes)]),
        }
    }

    /// Writes all of `bytes`. Not cancel safe: some may have gone.
    ///
    /// # Errors
    /// What the system says.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = poll_fn(|cx| self.poll_write(cx, &[IoSlice::new(bytes)])).await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Tells the peer that nothing more will come. To be polled until it is ready; nothing is written afterwards.
    ///
    /// # Errors
    /// What the system says.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            Kind::Tcp(stream) => {
                Poll::Ready(SockRef::from(stream).shutdown(std::net::Shutdown::Write))
            }
            Kind::Parked(_) => Poll::Ready(Err(parked())),
            Kind::Pipe(end) => {
                end.shutdown();
                Poll::Ready(Ok(()))
            }
            Kind::Layer(layer) => lock(layer).poll_shutdown(cx),
        }
    }

    /// As [`Stream::poll_shutdown`].
    ///
    /// # Errors
    /// What the system says.
    pub async fn shutdown(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_shutdown(cx)).await
    }

    /// Makes the coming close a reset: the peer is not to take what it has for the whole.
    pub fn reset_on_close(&self) {
        match &self.0 {
            // A socket that the system has given up already is as good as reset.
            Kind::Tcp(stream) => drop(SockRef::from(stream).set_linger(Some(Duration::ZERO))),
            Kind::Parked(stream) => drop(SockRef::from(stream).set_linger(Some(Duration::ZERO))),
            Kind::Pipe(end) => end.reset_on_close(),
            Kind::Layer(layer) => lock(layer).reset_on_close(),
        }
    }

    /// Lets the system probe a silent peer after `time`; a peer that is gone then ends the stream.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn keep_alive(&self, time: Duration) -> io::Result<()> {
        match &self.0 {
            Kind::Tcp(stream) => options::keep_alive(&SockRef::from(stream), time),
            Kind::Parked(stream) => options::keep_alive(&SockRef::from(stream), time),
            Kind::Pipe(_) => Ok(()),
            Kind::Layer(layer) => lock(layer).inner().keep_alive(time),
        }
    }

    /// Whether it is the end of a pipe.
    #[must_use]
    pub const fn is_pipe(&self) -> bool {
        matches!(self.0, Kind::Pipe(_))
    }

    /// Whether it is a bare socket, whose bytes the kernel can move by itself.
    #[must_use]
    pub const fn is_socket(&self) -> bool {
        self.tcp().is_some()
    }

    /// The socket, where nothing stands over it.
    pub(super) const fn tcp(&self) -> Option<&TcpStream> {
        match &self.0 {
            Kind::Tcp(stream) => Some(stream),
            _ => None,
        }
    }

    /// Our own address.
    ///
    /// # Errors
    /// What the system says; a pipe has no address, and gives `Unsupported`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Kind::Tcp(stream) => stream.local_addr(),
            Kind::Parked(stream) => stream.local_addr(),
            Kind::Pipe(_) => Err(io::ErrorKind::Unsupported.into()),
            Kind::Layer(layer) => lock(layer).inner().local_addr(),
        }
    }
}

/// A stream that belongs to no reactor, so that any worker may take it.
#[derive(Debug)]
pub struct Parked(Stream);

impl Parked {
    /// Whether the peer has neither closed the stream nor said anything on it. What its layers exchange among
    /// themselves is dealt with here and does not count.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        let read = self.0.try_read(&mut [IoSliceMut::new(&mut [0])]);
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The stream, registered with the reactor of the thread that calls.
    ///
    /// # Errors
    /// What the system says.
    pub fn resume(self) -> io::Result<Stream> {
        let mut stream = self.0;
        stream.0 = match stream.0 {
            Kind::Parked(stream) => Kind::Tcp(TcpStream::from_std(stream)?),
            Kind::Layer(mut layer) => {
                let inner = exclusive(&mut layer).inner();
                inner.replace(|inner| Self(inner).resume())?;
                Kind::Layer(layer)
            }
            other => other,
        };
        Ok(stream)
    }
}

fn exclusive<T: ?Sized>(mutex: &mut Mutex<T>) -> &mut T {
    mutex.get_mut().unwrap_or_else(PoisonError::into_inner)
}

fn parked() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the stream is parked")
}

/// Into a single slot by recv(2): the kernel does more for readv(2), which is for files of all kinds.
fn receive(socket: impl AsFd, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    Ok(match slots {
        [slot] => recv(socket, &mut **slot, RecvFlags::empty())?.0,
        slots => rustix::io::readv(socket, slots)?,
    })
}

/// As [`receive`], the other way.
fn transmit(socket: impl AsFd, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    Ok(match parts {
        [part] => send(socket, part, SendFlags::NOSIGNAL)?,
        parts => rustix::io::writev(socket, parts)?,
    })
}

fn write_tcp(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    parts: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let len = parts.iter().map(|part| part.len()).sum();
    loop {
        ready!(stream.poll_write_ready(cx))?;
        let result = once(
            len,
            |interest, io| stream.try_io(interest, io),
            Interest::WRITABLE,
            || transmit(stream, parts),
        );
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result),
        }
    }
}

/// One system call inside `try_io`. A call that moved less than `room` has shown that the socket is empty (or full):
/// `try_io` is told `WouldBlock`, so that it waits for the next event, and the count is kept aside. The end of a stream
/// and errors are not lost by this, since the reactor never clears those.
pub(super) fn once(
    room: usize,
    try_io: impl FnOnce(Interest, &mut dyn FnMut() -> io::Result<()>) -> io::Result<()>,
    interest: Interest,
    mut call: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    let mut moved = None;
    let result = try_io(interest, &mut || loop {
        match call() {
            Ok(count) => {
                moved = Some(count);
                let short = count > 0 && count < room;
                return if short {
                    Err(io::ErrorKind::WouldBlock.into())
                } else {
                    Ok(())
                };
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    });
    match moved {
        Some(count) => Ok(count),
        None => result.map(|()| 0),
    }
}

#[cfg(test)]
mod tests;
