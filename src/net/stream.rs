//! A byte stream, read and written in vectors.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A connected stream: today always TCP.
#[derive(Debug)]
pub struct Stream(TcpStream);

impl Stream {
    /// A connected TCP stream.
    #[must_use]
    pub const fn new(stream: TcpStream) -> Self {
        Self(stream)
    }

    /// Takes over a connected, non-blocking socket that is registered with no reactor.
    ///
    /// # Errors
    /// What the system says.
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        TcpStream::from_std(stream).map(Self)
    }

    /// Gives up the reactor, for use by another.
    ///
    /// # Errors
    /// What the system says.
    pub fn into_std(self) -> io::Result<std::net::TcpStream> {
        self.0.into_std()
    }

    /// Waits until a read will find something: bytes, the end, or an error.
    ///
    /// # Errors
    /// When the runtime is going down.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_ready(cx)
    }

    /// As [`Stream::poll_readable`]. Cancel safe.
    ///
    /// # Errors
    /// When the runtime is going down.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Reads into `slots`, in order; 0 is the end of the stream.
    ///
    /// A read that does not fill the slots has emptied the socket. That is told to the reactor here, which saves the
    /// next read its vain system call.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing to read, or what the system says.
    pub fn try_read(&self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let room = slots.iter().map(|slot| slot.len()).sum();
        once(
            room,
            |interest, io| self.0.try_io(interest, io),
            Interest::READABLE,
            || Ok(rustix::io::readv(&self.0, slots)?),
        )
    }

    /// Reads at least a byte into `buf`; 0 is the end of the stream. Cancel safe.
    ///
    /// # Errors
    /// What the system says.
    pub async fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            self.0.readable().await?;
            match self.try_read(&mut [IoSliceMut::new(buf)]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Writes what of `parts` the socket takes now, or waits until it takes something.
    ///
    /// # Errors
    /// What the system says.
    pub fn poll_write(
        &self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = parts.iter().map(|part| part.len()).sum();
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            let result = once(
                len,
                |interest, io| self.0.try_io(interest, io),
                Interest::WRITABLE,
                || Ok(rustix::io::writev(&self.0, parts)?),
            );
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Writes all of `bytes`. Not cancel safe: some may have gone.
    ///
    /// # Errors
    /// What the system says.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written =
                std::future::poll_fn(|cx| self.poll_write(cx, &[IoSlice::new(bytes)])).await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Tells the peer that nothing more will come.
    ///
    /// # Errors
    /// What the system says.
    pub fn shutdown(&self) -> io::Result<()> {
        SockRef::from(&self.0).shutdown(std::net::Shutdown::Write)
    }

    /// Makes the coming close a reset: the peer is not to take what it has for the whole.
    pub fn reset_on_close(&self) {
        // A socket that the system has given up already is as good as reset.
        let _ = SockRef::from(&self.0).set_linger(Some(Duration::ZERO));
    }

    /// Our own address.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// One system call inside `try_io`. A call that moved less than `room` has shown that the socket is empty (or full):
/// `try_io` is told `WouldBlock`, so that it waits for the next event, and the count is kept aside. The end of a stream
/// and errors are not lost by this, since the reactor never clears those.
fn once(
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
