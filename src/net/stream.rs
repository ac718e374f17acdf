//! A byte stream with vectored reads and writes: a TCP connection, a stream of QUIC, a layer over a stream, or one side of a pipe.
//!
//! What holds for all kinds:
//! - One task polls a stream; that task is woken.
//! - [`Stream::poll_readable`] is ready only when there are bytes, the end or an error for the caller, in the socket or
//!   already decoded in a layer. Of a socket it may be wrong; [`Stream::try_read`] then returns `WouldBlock`.
//! - The bytes that [`Stream::poll_write`] has taken are in the socket or the pipe: there is nothing to flush.

mod memory;
pub(crate) mod piped;
pub(super) mod socket;

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use super::linux::TcpInfo;
use super::pipe::state::PipeStream;
use super::pool::Buffer;
use super::quic::stream::QuicStream;
use super::sync::lock;
use super::{linux, options, redirect};
use socket::{once, receive, write_socket};

/// The address that stands for both ends of a unix stream: that of this machine, without a port.
pub const UNIX_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A connected stream.
pub struct Stream(Kind);

/// Every flow holds two of these: no variant may be larger than `Tcp`.
enum Kind {
    Tcp(TcpStream),
    /// A client on this machine.
    Unix(Box<UnixStream>),
    /// TCP without a reactor: it can be read, not waited for.
    Parked(std::net::TcpStream),
    Pipe(PipeStream),
    Quic(Box<Mutex<QuicStream>>),
    Layer(Box<Mutex<dyn Layer>>),
}

/// A layer over another stream that transforms its bytes, as TLS and WebSocket do. Its methods do what those of
/// [`Stream`] do, and what holds for a stream holds for it.
pub trait Layer: Send {
    /// As [`Stream::poll_readable`]. A layer also sends its own messages here (answers to pings, new keys), since this
    /// is called whenever the user of the stream waits for the peer.
    ///
    /// # Errors
    /// When the inner stream breaks.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// As [`Stream::try_read`].
    ///
    /// # Errors
    /// `WouldBlock`, an error of the inner stream, or `InvalidData` when the peer broke the layer's protocol.
    fn try_read(&mut self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize>;

    /// As [`Stream::poll_write`].
    ///
    /// # Errors
    /// An error of the inner stream.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;

    /// As [`Stream::poll_write_mut`].
    ///
    /// # Errors
    /// An error of the inner stream.
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
    /// An error of the inner stream.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// As [`Stream::reset_on_close`].
    fn reset_on_close(&mut self) {
        self.inner().reset_on_close();
    }

    /// The inner stream.
    fn inner(&mut self) -> &mut Stream;

    /// Drops timers and wakers: they belong to the reactor that the stream is about to leave.
    fn leave_reactor(&mut self) {}
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Tcp(stream) => stream.fmt(f),
            Kind::Unix(stream) => stream.fmt(f),
            Kind::Parked(stream) => stream.fmt(f),
            Kind::Pipe(_) => f.write_str("Pipe"),
            Kind::Quic(_) => f.write_str("Quic"),
            Kind::Layer(_) => f.write_str("Layer"),
        }
    }
}

impl Stream {
    /// Wraps a connected TCP stream.
    #[must_use]
    pub const fn new(stream: TcpStream) -> Self {
        Self(Kind::Tcp(stream))
    }

    /// Wraps a connected unix stream.
    #[must_use]
    pub fn unix(stream: UnixStream) -> Self {
        Self(Kind::Unix(Box::new(stream)))
    }

    /// Wraps one side of a pipe.
    #[must_use]
    pub(super) const fn piped(end: PipeStream) -> Self {
        Self(Kind::Pipe(end))
    }

    /// Wraps a stream of a QUIC connection.
    #[must_use]
    pub(super) fn quic(stream: QuicStream) -> Self {
        Self(Kind::Quic(Box::new(Mutex::new(stream))))
    }

    /// The QUIC connection that it is in; `None`: it is in none.
    #[must_use]
    pub(super) fn quic_connection(&self) -> Option<quinn::Connection> {
        match &self.0 {
            Kind::Quic(stream) => Some(lock(stream).connection()),
            _ => None,
        }
    }

    /// Wraps a layer over another stream.
    #[must_use]
    pub fn layered(layer: impl Layer + 'static) -> Self {
        Self(Kind::Layer(Box::new(Mutex::new(layer))))
    }

    /// Registers a connected, non-blocking socket with the reactor of this thread.
    ///
    /// # Errors
    /// What the system says.
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        TcpStream::from_std(stream).map(Self::new)
    }

    /// Takes the stream off its reactor. [`Parked::resume`] registers it with any reactor.
    ///
    /// # Errors
    /// What the system says; `Unsupported` for a pipe, which has no reactor, and for a unix stream.
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
            Kind::Unix(_) | Kind::Pipe(_) | Kind::Quic(_) => {
                return Err(io::ErrorKind::Unsupported.into());
            }
        };
        Ok(Parked(self))
    }

    /// Replaces the stream by what `change` makes of it, such as a layer over it. After an error the stream is broken.
    ///
    /// # Errors
    /// That of `change`.
    pub fn replace(&mut self, change: impl FnOnce(Self) -> io::Result<Self>) -> io::Result<()> {
        // A placeholder while `change` owns the stream.
        let this = std::mem::replace(self, Self(Kind::Pipe(PipeStream::broken())));
        *self = change(this)?;
        Ok(())
    }

    /// Waits until a read finds bytes, the end or an error.
    ///
    /// # Errors
    /// When the runtime is shutting down, or the stream is broken.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            Kind::Tcp(stream) => stream.poll_read_ready(cx),
            Kind::Unix(stream) => stream.poll_read_ready(cx),
            Kind::Parked(_) => Poll::Ready(Err(parked())),
            Kind::Pipe(end) => end.poll_readable(cx),
            Kind::Quic(stream) => lock(stream).poll_readable(cx),
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
    /// A read that does not fill the slots has emptied the socket. The reactor is told so here, which saves the next
    /// read a useless system call.
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
            Kind::Unix(stream) => {
                let room = slots.iter().map(|slot| slot.len()).sum();
                once(
                    room,
                    |interest, io| stream.try_io(interest, io),
                    Interest::READABLE,
                    || receive(stream.as_ref(), slots),
                )
            }
            Kind::Parked(stream) => receive(stream, slots),
            Kind::Pipe(end) => end.try_read(slots),
            Kind::Quic(stream) => lock(stream).try_read(slots),
            Kind::Layer(layer) => lock(layer).try_read(slots),
        }
    }

    /// Reads from a pipe without copying: takes a buffer whose only ready range holds the bytes. `None`: there is no
    /// such buffer, or this is not a pipe; use [`Stream::try_read`].
    #[must_use]
    pub fn take_buffer(&self) -> Option<Buffer> {
        match &self.0 {
            Kind::Pipe(end) => end.take_buffer(),
            _ => None,
        }
    }

    /// Writes to a pipe without copying: the pipe takes the buffer with its only ready range, or waits until it can. A
    /// buffer that is left in `buffer` must be written by [`Stream::poll_write`].
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

    /// Waits until a pipe takes bytes, and returns how many are worth reading for it now: what is read beyond them waits with
    /// its writer. Any other stream takes whatever there is.
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<usize> {
        match &self.0 {
            Kind::Pipe(end) => end.poll_room(cx),
            _ => Poll::Ready(usize::MAX),
        }
    }

    /// Whether a socket has bytes to read; they stay there. `false` for every other kind of stream.
    #[must_use]
    pub fn has_bytes(&self) -> bool {
        self.tcp().is_some_and(|stream| {
            let peeked = recv(stream, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT);
            matches!(peeked, Ok((1.., _)))
        })
    }

    /// Reads at least one byte into `buf`; 0 is the end of the stream. Cancel safe.
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

    /// Writes as much of `parts` as the stream takes now, or waits until it takes something. After `Pending` the caller
    /// must repeat the call with the same bytes and by the same method: a layer may have encoded them already.
    ///
    /// # Errors
    /// What the system says.
    pub fn poll_write(
        &self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &self.0 {
            Kind::Tcp(stream) => write_socket(
                stream,
                || stream.poll_write_ready(cx),
                |interest, io| stream.try_io(interest, io),
                parts,
            ),
            Kind::Unix(stream) => write_socket(
                stream.as_ref(),
                || stream.poll_write_ready(cx),
                |interest, io| stream.try_io(interest, io),
                parts,
            ),
            Kind::Parked(_) => Poll::Ready(Err(parked())),
            Kind::Pipe(end) => end.poll_write(cx, parts),
            Kind::Quic(stream) => lock(stream).poll_write(cx, parts),
            Kind::Layer(layer) => lock(layer).poll_write(cx, parts),
        }
    }

    /// As [`Stream::poll_write`], for bytes that a layer may encode in place. All of `bytes` may be changed, however
    /// few were written. The caller must pass the rest, as it is then, to this method again.
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

    /// Writes all of `bytes`. Not cancel safe: some may already be written.
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

    /// Ends our direction. To be polled until it is ready; nothing may be written afterwards.
    ///
    /// # Errors
    /// What the system says.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            Kind::Tcp(stream) => {
                Poll::Ready(SockRef::from(stream).shutdown(std::net::Shutdown::Write))
            }
            Kind::Unix(stream) => {
                Poll::Ready(SockRef::from(stream.as_ref()).shutdown(std::net::Shutdown::Write))
            }
            Kind::Parked(_) => Poll::Ready(Err(parked())),
            Kind::Pipe(end) => {
                end.shutdown();
                Poll::Ready(Ok(()))
            }
            Kind::Quic(stream) => lock(stream).poll_shutdown(cx),
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

    /// Makes the close a reset, so that the peer does not take what it has for the whole.
    pub fn reset_on_close(&self) {
        match &self.0 {
            // If this fails, the system has already given up the socket.
            Kind::Tcp(stream) => drop(SockRef::from(stream).set_linger(Some(Duration::ZERO))),
            Kind::Parked(stream) => drop(SockRef::from(stream).set_linger(Some(Duration::ZERO))),
            // It has no reset.
            Kind::Unix(_) => {}
            Kind::Pipe(end) => end.reset_on_close(),
            Kind::Quic(stream) => lock(stream).reset_on_close(),
            Kind::Layer(layer) => lock(layer).reset_on_close(),
        }
    }

    /// Lets the system probe a silent peer after `time`; without an answer the stream breaks.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn keep_alive(&self, time: Duration) -> io::Result<()> {
        match &self.0 {
            Kind::Tcp(stream) => options::keep_alive(&SockRef::from(stream), time),
            Kind::Parked(stream) => options::keep_alive(&SockRef::from(stream), time),
            // A QUIC connection does so by itself.
            Kind::Unix(_) | Kind::Pipe(_) | Kind::Quic(_) => Ok(()),
            Kind::Layer(layer) => lock(layer).inner().keep_alive(time),
        }
    }

    /// Bytes in the socket that the peer has not acknowledged. `None`: there is no socket, or it does not say.
    #[must_use]
    pub fn unacknowledged(&self) -> Option<usize> {
        match &self.0 {
            Kind::Tcp(stream) => linux::unacknowledged(stream).ok(),
            Kind::Parked(stream) => linux::unacknowledged(stream).ok(),
            Kind::Unix(_) | Kind::Pipe(_) | Kind::Quic(_) => None,
            Kind::Layer(layer) => lock(layer).inner().unacknowledged(),
        }
    }

    /// What the system knows of the connection. `None`: there is no socket, or it does not say.
    #[must_use]
    pub fn tcp_info(&self) -> Option<TcpInfo> {
        match &self.0 {
            Kind::Tcp(stream) => linux::tcp_info(stream).ok(),
            Kind::Parked(stream) => linux::tcp_info(stream).ok(),
            Kind::Unix(_) | Kind::Pipe(_) | Kind::Quic(_) => None,
            Kind::Layer(layer) => lock(layer).inner().tcp_info(),
        }
    }

    /// Whether the connection may have several paths (MPTCP): [`Self::tcp_info`] speaks of the first one only.
    pub(crate) fn is_multipath(&self) -> bool {
        match &self.0 {
            Kind::Tcp(stream) => options::is_multipath(&SockRef::from(stream)),
            Kind::Unix(_) | Kind::Parked(_) | Kind::Pipe(_) | Kind::Quic(_) => false,
            Kind::Layer(layer) => lock(layer).inner().is_multipath(),
        }
    }

    /// Whether it is a socket without layers, whose bytes the kernel can move by itself.
    #[must_use]
    pub const fn is_socket(&self) -> bool {
        self.tcp().is_some()
    }

    /// The socket, if there is no layer over it.
    pub(super) const fn tcp(&self) -> Option<&TcpStream> {
        match &self.0 {
            Kind::Tcp(stream) => Some(stream),
            _ => None,
        }
    }

    /// The local address.
    ///
    /// # Errors
    /// What the system says; `Unsupported` for a pipe, which has no address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Kind::Tcp(stream) => stream.local_addr(),
            Kind::Unix(_) => Ok(UNIX_ADDRESS),
            Kind::Parked(stream) => stream.local_addr(),
            Kind::Pipe(_) => Err(io::ErrorKind::Unsupported.into()),
            Kind::Quic(stream) => lock(stream).local_addr(),
            Kind::Layer(layer) => lock(layer).inner().local_addr(),
        }
    }

    /// The address that the client connected to before the firewall redirected the connection.
    ///
    /// # Errors
    /// What the system says, for instance that the connection was not redirected; `Unsupported` if this is not TCP itself.
    pub fn original_destination(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Kind::Tcp(stream) => redirect::original_destination(&SockRef::from(stream)),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Stream {
    /// The address of the peer.
    ///
    /// # Errors
    /// As [`Stream::local_addr`].
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Kind::Tcp(stream) => stream.peer_addr(),
            Kind::Unix(_) => Ok(UNIX_ADDRESS),
            Kind::Parked(stream) => stream.peer_addr(),
            Kind::Pipe(_) => Err(io::ErrorKind::Unsupported.into()),
            Kind::Quic(stream) => Ok(lock(stream).peer_addr()),
            Kind::Layer(layer) => lock(layer).inner().peer_addr(),
        }
    }
}

/// A stream without a reactor, which any worker may take.
#[derive(Debug)]
pub struct Parked(Stream);

impl Parked {
    /// Whether the peer has neither sent anything nor closed the stream. Messages of its layers, such as TLS tickets,
    /// are processed here and do not count.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        let read = self.0.try_read(&mut [IoSliceMut::new(&mut [0])]);
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Registers the stream with the reactor of this thread.
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

#[cfg(test)]
mod tests;
