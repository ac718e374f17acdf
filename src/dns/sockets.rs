//! The sockets of queries, which carry the mark of all that we send.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{
    RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime,
};
use socket2::SockRef;
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
    type Udp = UdpSocket;
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
            Ok(socket)
        })
    }
}
