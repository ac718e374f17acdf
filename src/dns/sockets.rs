//! The sockets of queries, which carry the mark of all that we send.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{
    DnsUdpSocket, RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime,
};
use socket2::SockRef;
use tokio::io::{Interest, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

/// How long a connection to a name server may take, if hickory does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes the sockets of queries.
#[derive(Clone, Default)]
pub(super) struct Sockets {
    tokio: TokioRuntimeProvider,
    mark: Option<u32>,
}

impl Sockets {
    /// Sockets with this `SO_MARK`.
    pub(super) fn new(mark: Option<u32>) -> Self {
        Self {
            tokio: TokioRuntimeProvider::default(),
            mark,
        }
    }

    /// Marks are not meant for loopback.
    fn mark_for(&self, server: SocketAddr) -> Option<u32> {
        self.mark.filter(|_| !server.ip().is_loopback())
    }
}

type Opened<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl RuntimeProvider for Sockets {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = Connected;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.tokio.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        local: Option<SocketAddr>,
        limit: Option<Duration>,
    ) -> Opened<Self::Tcp> {
        let mark = self.mark_for(server);
        Box::pin(async move {
            let socket = match server {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }?;
            if let Some(mark) = mark {
                SockRef::from(&socket).set_mark(mark)?;
            }
            if let Some(local) = local {
                socket.bind(local)?;
            }
            socket.set_nodelay(true)?;
            let connected = timeout(limit.unwrap_or(CONNECT_TIMEOUT), socket.connect(server)).await;
            connected
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                .map(AsyncIoTokioAsStd)
        })
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Opened<Self::Udp> {
        let mark = self.mark_for(server);
        Box::pin(async move {
            let socket = UdpSocket::bind(local).await?;
            if let Some(mark) = mark {
                SockRef::from(&socket).set_mark(mark)?;
            }
            // The system reports to a connected socket that nobody listens there: the next server is asked at once.
            socket.connect(server).await?;
            Ok(Connected(socket))
        })
    }
}

/// A UDP socket that is connected to a name server.
pub(super) struct Connected(UdpSocket);

type Received<'a> = Pin<Box<dyn Future<Output = io::Result<(usize, SocketAddr)>> + Send + 'a>>;

impl DnsUdpSocket for Connected {
    type Time = TokioTime;

    fn poll_recv_from(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut buffer = ReadBuf::new(buffer);
        let from = ready!(self.0.poll_recv_from(context, &mut buffer))?;
        Poll::Ready(Ok((buffer.filled().len(), from)))
    }

    // A reported error makes a socket neither readable nor closed: who waits for data alone is not woken by it.
    fn recv_from<'a, 'b, 'c>(&'a self, buffer: &'b mut [u8]) -> Received<'c>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        let Self(socket) = self;
        Box::pin(async move {
            let either = Interest::READABLE.add(Interest::ERROR);
            let receive = || match socket.take_error()? {
                Some(error) => Err(error),
                None => socket.try_recv_from(buffer),
            };
            socket.async_io(either, receive).await
        })
    }

    fn poll_send_to(
        &self,
        context: &mut Context<'_>,
        data: &[u8],
        server: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.0.poll_send_to(context, data, server)
    }
}
