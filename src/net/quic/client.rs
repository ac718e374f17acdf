//! The client's side: one connection to a server, shared by all flows to it.

use std::fmt;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
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
use super::icmp::IcmpErrors;
use super::settings::{KEEP_ALIVE, NO_ERROR, Settings, broken, socket, take_packets, transport};
use super::stream::QuicStream;
use super::unread;
use crate::limits::{
    MAX_QUIC_LONG_PACKETS, QUIC_CONNECTION_WINDOW, QUIC_STREAM_WINDOW, QUIC_UP_WINDOW,
};
use crate::net::dial::{interleave, race};
use crate::net::pool;
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
    /// Whether data is sent with the first packet only where it is known that UDP reaches the server.
    is_careful: bool,
    /// Whether that is known, on the network as it is now.
    works: Arc<AtomicBool>,
    /// A change of the network came while the connection could not be looked at.
    missed: AtomicBool,
    /// Its connection is for one stream, and for those that both ends open beside it.
    is_alone: bool,
    /// The connections of clients that are for one stream.
    alone: Arc<Mutex<Vec<Weak<Carrier>>>>,
    tasks: Arc<Tasks>,
}

/// How long the answer to early data may take until it is doubted that UDP reaches the server.
const DOUBT: Duration = Duration::from_millis(750);

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
        let transport = |all: u32, stream: u32| {
            let mut transport = transport(settings, all);
            transport
                .keep_alive_interval(Some(KEEP_ALIVE))
                .stream_receive_window(VarInt::from_u32(stream))
                // Servers open no streams, unless they are allowed to, but those of long packets, and one to say that others serve in
                // their place.
                .max_concurrent_bidi_streams(VarInt::from_u32(0));
            take_packets(&mut transport, MAX_QUIC_LONG_PACKETS);
            Arc::new(transport)
        };
        // A connection gets its part when it is made; the first of all gets this.
        let all = unread::part_of(pool::budget());
        let stream = QUIC_STREAM_WINDOW.min(all / 16);
        config.transport_config(transport(QUIC_UP_WINDOW, stream));
        let mut alone = config.clone();
        alone.transport_config(transport(QUIC_CONNECTION_WINDOW, QUIC_UP_WINDOW));
        Ok(Self {
            dialer: Arc::new(Dialer {
                config,
                alone,
                name: tls.name,
                refusals: tls.refusals,
                options,
            }),
            limit,
            current: tokio::sync::Mutex::default(),
            known: Mutex::default(),
            is_careful: false,
            works: Arc::default(),
            missed: AtomicBool::new(false),
            is_alone: false,
            alone: Arc::default(),
            tasks: Arc::default(),
        })
    }

    /// The same for one stream, which gets a connection of its own, and for those that both ends open beside it.
    #[must_use]
    pub fn alone(&self) -> Self {
        Self {
            dialer: Arc::clone(&self.dialer),
            limit: self.limit,
            current: tokio::sync::Mutex::default(),
            known: Mutex::new(*lock(&self.known)),
            is_careful: self.is_careful,
            works: Arc::clone(&self.works),
            missed: AtomicBool::new(false),
            is_alone: true,
            alone: Arc::clone(&self.alone),
            tasks: Arc::clone(&self.tasks),
        }
    }

    /// The same where there is another way to the server: nothing depends on UDP until it is known that it reaches the server.
    #[must_use]
    pub fn careful(mut self) -> Self {
        self.is_careful = true;
        self
    }

    pub(super) const fn is_careful(&self) -> bool {
        self.is_careful
    }

    /// Whether a stream can be opened without waiting, in a connection whose server is heard.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let current = self.current.try_lock();
        current.is_ok_and(|current| current.as_ref().is_some_and(|one| self.can_use(one)))
    }

    /// Waits until a stream can be opened in a connection whose server is heard on the network as it is now. Makes the connection if
    /// there is none.
    ///
    /// # Errors
    /// Those of [`Client::open`].
    pub async fn ready(&self, addresses: &[IpAddr], port: u16) -> Result<(), Error> {
        let ready = async {
            loop {
                let carrier = self.carrier(addresses, port).await?;
                if self.missed.swap(false, Relaxed) {
                    carrier.doubt(&self.dialer.options);
                }
                if self.can_use(&carrier) {
                    return Ok(());
                }
                // Where the server says that it does not know the connection, another one is made.
                if carrier.until_heard(&self.dialer.options).await.is_ok() {
                    self.works.store(true, Relaxed);
                    return Ok(());
                }
            }
        };
        self.in_time(ready).await
    }

    /// Whether the server of a connection is heard, or was in another connection before.
    fn can_use(&self, carrier: &Carrier) -> bool {
        let works = self.works.load(Relaxed);
        carrier.is_open() && works && (carrier.is_heard() || carrier.undecided().is_some())
    }

    async fn in_time<T>(&self, open: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let seconds = self.limit.as_secs();
        let opened = timeout(self.limit, open).await;
        opened.unwrap_or(Err(Error::ConnectTimeout { seconds }))
    }

    /// Opens a stream to the server at one of `addresses`, in the connection that is there or a new one.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Tls`], [`Error::ConnectTimeout`], [`Error::NoAddress`].
    pub async fn open(&self, addresses: &[IpAddr], port: u16) -> Result<Stream, Error> {
        let open = async {
            let (carrier, flow) = loop {
                let carrier = self.carrier(addresses, port).await?;
                let flow = carrier.begin();
                // Else the server has told it in this moment to go elsewhere.
                if !carrier.is_left() {
                    break (carrier, flow);
                }
            };
            let connection = &carrier.connection;
            let streams = connection.open_bi().await;
            let streams =
                streams.map_err(|error| self.dialer.failed(connection.remote_address(), &error))?;
            let local = carrier.endpoint.local_addr().ok();
            let stream = QuicStream::new(connection.clone(), streams);
            let stream = stream.of_flow(local, flow);
            Ok(Stream::quic(match carrier.undecided() {
                Some(agreed) => stream.with_early(Early::new(connection.clone(), agreed.clone())),
                None => stream,
            }))
        };
        self.in_time(open).await
    }

    /// The connection that is there or a new one, within the time limit.
    pub(super) async fn carrier_in_time(
        &self,
        addresses: &[IpAddr],
        port: u16,
    ) -> Result<Arc<Carrier>, Error> {
        self.in_time(self.carrier(addresses, port)).await
    }

    /// Moves the connection to a new socket: one of the network as it is now.
    pub fn network_changed(&self) {
        self.works.store(false, Relaxed);
        for carrier in lock(&self.alone).iter().filter_map(Weak::upgrade) {
            if carrier.is_open() {
                carrier.doubt(&self.dialer.options);
            }
        }
        let Ok(current) = self.current.try_lock() else {
            self.missed.store(true, Relaxed);
            return;
        };
        if let Some(carrier) = current.as_ref().filter(|carrier| carrier.is_open()) {
            carrier.doubt(&self.dialer.options);
        }
    }

    /// Ends the connection.
    #[cfg(test)]
    pub(super) async fn end(&self) {
        if let Some(carrier) = self.current.lock().await.take() {
            carrier.connection.close(NO_ERROR, b"");
        }
    }

    /// Whether data was sent with the first packet of the connection.
    #[cfg(test)]
    pub(super) async fn was_early(&self) -> bool {
        let current = self.current.lock().await;
        current.as_ref().is_some_and(|one| one.agreed.is_some())
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
        if let Some(ConnectionError::TimedOut) =
            current.take().and_then(|one| one.connection.close_reason())
        {
            self.works.store(false, Relaxed);
        }
        let early = !self.is_careful || self.works.load(Relaxed);
        let (carrier, accepted) = self.connect(addresses, port, early).await?;
        let connection = carrier.connection.clone();
        if accepted.is_none() {
            self.works.store(true, Relaxed);
        }
        *lock(&self.known) = Some(connection.remote_address());
        let agreed = accepted.map(|accepted| self.agreement(connection, accepted));
        let carrier = Arc::new(carrier.with_agreed(agreed));
        let options = self.dialer.options.clone();
        self.tasks.spawn(Arc::clone(&carrier).look_after(options));
        if self.is_alone {
            let mut alone = lock(&self.alone);
            alone.retain(|carrier| carrier.strong_count() > 0);
            alone.push(Arc::downgrade(&carrier));
        }
        *current = Some(Arc::clone(&carrier));
        Ok(carrier)
    }

    async fn connect(
        &self,
        addresses: &[IpAddr],
        port: u16,
        early: bool,
    ) -> Result<Connected, Error> {
        let mut order = interleave(addresses, port);
        if let Some(known) = *lock(&self.known) {
            // First the one that has given us tickets.
            order.sort_by_key(|address| address.ip() != known.ip().to_canonical());
        }
        if order.is_empty() {
            return Err(Error::NoAddress);
        }
        // Without another way, a server that is being restarted is waited for.
        let ends_by_icmp = self.is_careful;
        race(order, |address| {
            let dialer = Arc::clone(&self.dialer);
            dialer.connect(address, early, (ends_by_icmp, self.is_alone))
        })
        .await
    }

    /// Notes whether the server agrees to early data. A server that says nothing in time has no connection.
    fn agreement(&self, connection: Connection, accepted: ZeroRttAccepted) -> Agreed {
        let (word, agreed) = watch::channel(None);
        let (limit, works) = (self.limit, Arc::clone(&self.works));
        self.tasks.spawn(async move {
            let mut accepted = pin!(accepted);
            let mut answer = timeout(limit.min(DOUBT), &mut accepted).await;
            if answer.is_err() {
                works.store(false, Relaxed);
                answer = timeout(limit.saturating_sub(DOUBT), accepted).await;
            }
            match answer {
                Ok(accepted) => {
                    works.store(connection.close_reason().is_none(), Relaxed);
                    // Nobody may be waiting for it.
                    let _ = word.send(Some(accepted));
                }
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
    /// For connections with one stream, and those that both ends open beside it.
    alone: ClientConfig,
    /// The name in the server's certificate.
    name: String,
    refusals: tls::Refusals,
    options: SocketOptions,
}

impl Dialer {
    /// `early`: the connection is there at once if data can be sent with the first packet. `ends_by_icmp`: what ICMP says of the first
    /// packets ends it.
    async fn connect(
        self: Arc<Self>,
        address: SocketAddr,
        early: bool,
        (ends_by_icmp, alone): (bool, bool),
    ) -> Result<Connected, Error> {
        let wrong = |source| Error::Connect { address, source };
        let (endpoint, errors) = self.endpoint(ends_by_icmp).map_err(wrong)?;
        let is_v6 = endpoint.local_addr().is_ok_and(|local| local.is_ipv6());
        let config = match alone {
            true => self.alone.clone(),
            false => self.config.clone(),
        };
        let connecting = endpoint
            .connect_with(config, as_family(address, is_v6), &self.name)
            .map_err(|error| wrong(io::Error::other(error.to_string())))?;
        let connecting = match early {
            true => connecting.into_0rtt(),
            false => Err(connecting),
        };
        let connecting = match connecting {
            Ok((connection, accepted)) => {
                let carrier = Carrier::new(connection, endpoint, alone);
                return Ok((carrier, Some(accepted)));
            }
            Err(connecting) => connecting,
        };
        let refused = async {
            match &errors {
                Some(errors) => errors.next().await,
                None => pending().await,
            }
        };
        let connected = tokio::select! {
            biased;
            connected = connecting => connected,
            error = refused => return Err(wrong(error)),
        };
        let connection = connected.map_err(|error| self.failed(address, &error))?;
        Ok((Carrier::new(connection, endpoint, alone), None))
    }

    /// A socket, and what ICMP says of what it sends, if that is `wanted`.
    fn endpoint(&self, wanted: bool) -> io::Result<(Endpoint, Option<IcmpErrors>)> {
        let socket = socket(&self.options)?;
        // Without it, a port that nobody serves is noticed by the time limit.
        let errors = wanted.then(|| IcmpErrors::of(&socket).ok()).flatten();
        let config = EndpointConfig::default();
        let endpoint = Endpoint::new(config, None, socket, Arc::new(TokioRuntime))?;
        Ok((endpoint, errors))
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
