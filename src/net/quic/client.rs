//! The client's side: one connection to a server, shared by all flows to it.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, TokioRuntime, VarInt,
    ZeroRttAccepted,
};
use tokio::sync::watch;
use tokio::time::timeout;

use super::carrier::Carrier;
use super::early::{Agreed, Early};
use super::settings::{KEEP_ALIVE, NO_ERROR, Settings, broken, transport};
use super::stream::QuicStream;
use crate::limits::QUIC_CONNECTION_WINDOW;
use crate::net::dial::{interleave, race};
use crate::net::sync::lock;
use crate::net::tasks::Tasks;
use crate::net::{Error, SocketOptions, Stream, tls};

/// How one server is reached by QUIC.
pub struct Client {
    dialer: Arc<Dialer>,
    /// The time limit for a connection.
    limit: Duration,
    current: tokio::sync::Mutex<Option<Arc<Carrier>>>,
    /// The address of the last connection.
    known: Mutex<Option<SocketAddr>>,
    tasks: Tasks,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.dialer.name;
        f.debug_struct("Client")
            .field("name", name)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// For a server whose certificate is as `tls` says. A connection is made when there is a flow.
    ///
    /// # Errors
    /// When TLS cannot be set up for QUIC.
    pub fn new(
        tls: &tls::Client,
        settings: &Settings,
        options: SocketOptions,
        limit: Duration,
    ) -> Result<Self, tls::Error> {
        let tls = tls.for_quic(&settings.alpn)?;
        let crypto = QuicClientConfig::try_from(tls.config).map_err(|error| tls::Error::Value {
            key: "tls",
            problem: error.to_string(),
        })?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        let mut transport = transport(settings, QUIC_CONNECTION_WINDOW);
        transport
            .keep_alive_interval(Some(KEEP_ALIVE))
            // Servers open no streams.
            .max_concurrent_bidi_streams(VarInt::from_u32(0));
        config.transport_config(Arc::new(transport));
        Ok(Self {
            dialer: Arc::new(Dialer {
                config,
                name: tls.name,
                refusals: tls.refusals,
                options,
            }),
            limit,
            current: tokio::sync::Mutex::default(),
            known: Mutex::default(),
            tasks: Tasks::default(),
        })
    }

    /// Opens a stream to the server at one of `addresses`, in the connection that is there or a new one.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Tls`], [`Error::ConnectTimeout`], [`Error::NoAddress`].
    pub async fn open(&self, addresses: &[IpAddr], port: u16) -> Result<Stream, Error> {
        let open = async {
            let carrier = self.carrier(addresses, port).await?;
            let connection = &carrier.connection;
            let streams = connection.open_bi().await;
            let streams =
                streams.map_err(|error| self.dialer.failed(connection.remote_address(), &error))?;
            let local = carrier.endpoint.local_addr().ok();
            let stream = QuicStream::new(connection.clone(), streams);
            let stream = stream.of_flow(local, carrier.begin());
            Ok(Stream::quic(match carrier.undecided() {
                Some(agreed) => stream.with_early(Early::new(connection.clone(), agreed.clone())),
                None => stream,
            }))
        };
        let seconds = self.limit.as_secs();
        let opened = timeout(self.limit, open).await;
        opened.unwrap_or(Err(Error::ConnectTimeout { seconds }))
    }

    /// Moves the connection to a new socket: one of the network as it is now.
    pub fn network_changed(&self) {
        if let Ok(current) = self.current.try_lock()
            && let Some(carrier) = current.as_ref().filter(|carrier| carrier.is_open())
        {
            carrier.rebind(&self.dialer.options);
        }
    }

    /// Ends the connection.
    #[cfg(test)]
    pub(super) async fn end(&self) {
        if let Some(carrier) = self.current.lock().await.take() {
            carrier.connection.close(NO_ERROR, b"");
        }
    }

    /// Whether the server has agreed to early data, once it has said so.
    #[cfg(test)]
    pub(super) async fn agreed(&self) -> Option<bool> {
        let current = self.current.lock().await;
        let agreed = current.as_ref()?.agreed.as_ref()?;
        *agreed.borrow()
    }

    async fn carrier(&self, addresses: &[IpAddr], port: u16) -> Result<Arc<Carrier>, Error> {
        // Flows that come in the meantime wait for this connection.
        let mut current = self.current.lock().await;
        if let Some(carrier) = current.as_ref().filter(|carrier| carrier.is_open()) {
            return Ok(Arc::clone(carrier));
        }
        *current = None;
        let (carrier, accepted) = self.connect(addresses, port).await?;
        let connection = carrier.connection.clone();
        *lock(&self.known) = Some(connection.remote_address());
        let agreed = accepted.map(|accepted| self.agreement(connection, accepted));
        let carrier = Arc::new(carrier.with_agreed(agreed));
        let options = self.dialer.options.clone();
        self.tasks.spawn(Arc::clone(&carrier).look_after(options));
        *current = Some(Arc::clone(&carrier));
        Ok(carrier)
    }

    async fn connect(&self, addresses: &[IpAddr], port: u16) -> Result<Connected, Error> {
        let mut order = interleave(addresses, port);
        if let Some(known) = *lock(&self.known) {
            // First the one that has given us tickets.
            order.sort_by_key(|address| address.ip() != known.ip().to_canonical());
        }
        if order.is_empty() {
            return Err(Error::NoAddress);
        }
        race(order, |address| Arc::clone(&self.dialer).connect(address)).await
    }

    /// Notes whether the server agrees to early data. A server that says nothing in time has no connection.
    fn agreement(&self, connection: Connection, accepted: ZeroRttAccepted) -> Agreed {
        let (word, agreed) = watch::channel(None);
        let limit = self.limit;
        self.tasks.spawn(async move {
            match timeout(limit, accepted).await {
                Ok(accepted) => drop(word.send(Some(accepted))),
                Err(_) => connection.close(NO_ERROR, b""),
            }
        });
        agreed
    }
}

/// A connection, and what tells whether the server agrees to early data, if some can be sent.
type Connected = (Carrier, Option<ZeroRttAccepted>);

/// Makes connections.
struct Dialer {
    config: ClientConfig,
    /// The name in the server's certificate.
    name: String,
    refusals: tls::Refusals,
    options: SocketOptions,
}

impl Dialer {
    async fn connect(self: Arc<Self>, address: SocketAddr) -> Result<Connected, Error> {
        let wrong = |source| Error::Connect { address, source };
        let endpoint = self.endpoint().map_err(wrong)?;
        let is_v6 = endpoint.local_addr().is_ok_and(|local| local.is_ipv6());
        let config = self.config.clone();
        let connecting = endpoint
            .connect_with(config, as_family(address, is_v6), &self.name)
            .map_err(|error| wrong(io::Error::other(error.to_string())))?;
        let connecting = match connecting.into_0rtt() {
            Ok((connection, accepted)) => {
                return Ok((Carrier::new(connection, endpoint), Some(accepted)));
            }
            Err(connecting) => connecting,
        };
        let connected = connecting.await;
        let connection = connected.map_err(|error| self.failed(address, &error))?;
        Ok((Carrier::new(connection, endpoint), None))
    }

    fn endpoint(&self) -> io::Result<Endpoint> {
        let socket = UdpSocket::from(self.options.outgoing_udp()?);
        let config = EndpointConfig::default();
        Endpoint::new(config, None, socket, Arc::new(TokioRuntime))
    }

    /// Why there is no connection: TLS, or the network.
    fn failed(&self, address: SocketAddr, error: &ConnectionError) -> Error {
        let source = self.refusals.take().or_else(|| match error {
            ConnectionError::ConnectionClosed(closed) => tls::alert(closed.error_code.into()),
            ConnectionError::TransportError(broken) => tls::alert(broken.code.into()),
            _ => None,
        });
        match source {
            Some(source) => Error::Tls {
                server: self.name.clone(),
                source,
            },
            None => Error::Connect {
                address,
                source: broken(error),
            },
        }
    }
}

/// An IPv4 address as a socket of IPv6 has it.
fn as_family(address: SocketAddr, is_v6: bool) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if is_v6 => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        _ => address,
    }
}
