//! The server's side: the connections that come to a UDP port.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use aws_lc_rs::hmac;
use quinn::crypto::HmacKey;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Connection, Endpoint, EndpointConfig, Incoming, Runtime as _, ServerConfig, TokioRuntime,
    VarInt,
};
use rustls::ServerConfig as TlsConfig;
use tokio::sync::Notify;

use super::ids::Ids;
use super::packets::{Arrived, Outlet, arrival, receive};
use super::port::{Heir, Port};
use super::ports::Claim;
use super::settings::{FAREWELL, NO_ERROR, Settings, broken, take_packets, transport};
use super::stream::QuicStream;
use crate::limits::{
    MAX_QUIC_ASSOCIATIONS, MAX_QUIC_LONG_PACKETS, MAX_QUIC_STRANGER_STREAMS, MAX_QUIC_STREAMS,
    MAX_QUIC_WAITING, QUIC_CONNECTION_WINDOW, QUIC_LEAST_WINDOW, QUIC_UP_WINDOW,
};
use crate::net::alive::Limit;
use crate::net::sync::lock;
use crate::net::{Stream, pool, tls, udp};

/// How clients are served at a port.
pub struct Server {
    tls: tls::Server,
    settings: Settings,
    /// Whether clients may send packets of UDP associations.
    takes_packets: bool,
    reset: Arc<dyn HmacKey>,
    /// The config of QUIC that belongs to that of TLS, which changes with the certificate.
    current: Mutex<Option<(Arc<TlsConfig>, Arc<ServerConfig>)>>,
}

impl Server {
    /// With the certificate of `tls`, which is for QUIC. By `secret`, clients of the process before this one learn that it has ended
    /// (RFC 9000 §10.3).
    #[must_use]
    pub fn new(tls: tls::Server, settings: Settings, secret: &[u8; 32]) -> Arc<Self> {
        Self::with_packets(tls, settings, secret, false)
    }

    /// The same; `takes_packets`: clients may send packets of UDP associations.
    #[must_use]
    pub fn with_packets(
        tls: tls::Server,
        settings: Settings,
        secret: &[u8; 32],
        takes_packets: bool,
    ) -> Arc<Self> {
        let reset = hmac::Key::new(hmac::HMAC_SHA256, secret);
        Arc::new(Self {
            tls,
            settings,
            takes_packets,
            reset: Arc::new(reset),
            current: Mutex::default(),
        })
    }

    /// Listens in the place of who was there before, on the reactor of this thread.
    ///
    /// # Errors
    /// What the system says.
    pub fn listen(self: &Arc<Self>, mut claim: Claim) -> io::Result<Listener> {
        let config = (*self.config()?).clone();
        let runtime = Arc::new(TokioRuntime);
        let (socket, legacy) = claim.begin()?;
        let socket = runtime.wrap_udp_socket(socket)?;
        let (lineage, generation) = (Arc::clone(&legacy.lineage), legacy.next());
        let port = Port::new(socket, generation, legacy);
        claim.note(&port);
        let mut own = EndpointConfig::new(Arc::clone(&self.reset));
        own.cid_generator(move || {
            let lineage = Arc::clone(&lineage);
            Box::new(Ids {
                lineage,
                generation,
            })
        });
        let socket = Arc::clone(&port);
        let endpoint = Endpoint::new_with_abstract_socket(own, Some(config), socket, runtime)?;
        Ok(Listener {
            server: Arc::clone(self),
            endpoint,
            port,
        })
    }

    fn config(&self) -> io::Result<Arc<ServerConfig>> {
        let tls = self.tls.config();
        let mut current = lock(&self.current);
        if let Some((known, config)) = &*current
            && Arc::ptr_eq(known, &tls)
        {
            return Ok(Arc::clone(config));
        }
        let crypto = QuicServerConfig::try_from(Arc::clone(&tls));
        let crypto = crypto.map_err(|error| io::Error::other(error.to_string()))?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        // Until a client is authenticated.
        let mut transport = transport(&self.settings, QUIC_LEAST_WINDOW);
        // What one stream may send is also bounded by what the connection may.
        transport
            .stream_receive_window(VarInt::from_u32(QUIC_UP_WINDOW))
            .max_concurrent_bidi_streams(VarInt::from_u32(MAX_QUIC_STRANGER_STREAMS));
        if self.takes_packets {
            take_packets(&mut transport, MAX_QUIC_STRANGER_STREAMS);
        }
        config
            .transport_config(Arc::new(transport))
            .max_incoming(MAX_QUIC_WAITING);
        let config = Arc::new(config);
        *current = Some((tls, Arc::clone(&config)));
        Ok(config)
    }
}

/// A UDP port.
pub struct Listener {
    server: Arc<Server>,
    endpoint: Endpoint,
    port: Arc<Port>,
}

impl Listener {
    /// Waits for a connection. `None`: the listener is closed. Cancel safe.
    pub async fn accept(&self) -> Option<Arrival> {
        let incoming = self.endpoint.accept().await?;
        self.port.note(incoming.orig_dst_cid());
        Some(Arrival {
            server: Arc::clone(&self.server),
            incoming,
        })
    }

    /// Accepts nothing more; connections go on.
    pub fn retire(&self) {
        self.endpoint.set_server_config(None);
    }

    /// Whether another listener has taken the place of this one, and passes on what belongs to its connections. Waits while one is
    /// about to. Cancel safe.
    pub async fn is_followed(&self) -> bool {
        let mut heir = self.port.heir.subscribe();
        let heir = heir.wait_for(|heir| *heir != Heir::Expected).await;
        heir.is_ok_and(|heir| *heir == Heir::Begun)
    }

    /// Forgets earlier listeners whose connections are over, for as long as it is polled. Cancel safe.
    pub async fn tidy(&self) {
        self.port.tidy().await;
    }

    /// Waits until the listener after this one is gone, so that its connections hear nothing more. Cancel safe.
    pub async fn cut_off(&self) {
        self.port.cut_off().await;
    }

    /// Ends all connections, and waits until their ends were sent.
    pub async fn close(self) {
        self.endpoint.close(NO_ERROR, b"");
        self.endpoint.wait_idle().await;
    }
}

/// A connection whose handshake has not begun.
pub struct Arrival {
    server: Arc<Server>,
    incoming: Incoming,
}

impl Arrival {
    /// The address of the client.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        canonical(self.incoming.remote_address())
    }

    /// Has the client prove that it receives what is sent to this address (RFC 9000 §8.1.2), if it has not. Returns the connection
    /// otherwise.
    #[must_use]
    pub fn validated(self) -> Option<Self> {
        let Self { server, incoming } = self;
        if incoming.remote_address_validated() || !incoming.may_retry() {
            return Some(Self { server, incoming });
        }
        // It may.
        let _ = incoming.retry();
        None
    }

    /// Says nothing to the client.
    pub fn ignore(self) {
        self.incoming.ignore();
    }

    /// Runs the handshake, on the reactor of this thread. Streams may come before it is over.
    ///
    /// # Errors
    /// What the client did wrong, or `TimedOut`.
    pub async fn accept(self) -> io::Result<Session> {
        let Self { server, incoming } = self;
        let connecting = incoming.accept_with(server.config()?);
        let connecting = connecting.map_err(|error| broken(&error))?;
        let connection = match connecting.into_0rtt() {
            Ok((connection, _)) => connection,
            Err(connecting) => connecting.await.map_err(|error| broken(&error))?,
        };
        Ok(Session {
            connection,
            takes_packets: server.takes_packets,
        })
    }
}

/// A connection.
pub struct Session {
    connection: Connection,
    takes_packets: bool,
}

impl Session {
    /// The address of the client now: it may change.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        canonical(self.connection.remote_address())
    }

    /// Waits for a stream. Beside it is what waits, once the stream is over, until the client has all that was sent in it. Cancel safe.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn stream(&self) -> io::Result<(Stream, impl Future<Output = ()> + Send + 'static)> {
        let streams = self.connection.accept_bi().await;
        let streams = streams.map_err(|error| broken(&error))?;
        let stream = QuicStream::new(self.connection.clone(), streams);
        let (stream, delivery) = stream.with_delivery();
        Ok((Stream::quic(stream), delivery))
    }

    /// Gives the client what authenticated ones get: more streams and a wider window, as wide as the budget of buffers allows beside
    /// `others` connections.
    pub fn admit(&self, others: usize) {
        let share = pool::budget() / (2 * (others + 1));
        let window = u32::try_from(share).unwrap_or(u32::MAX);
        let window = window.clamp(QUIC_LEAST_WINDOW, QUIC_CONNECTION_WINDOW);
        self.connection.set_receive_window(VarInt::from_u32(window));
        let streams = VarInt::from_u32(MAX_QUIC_STREAMS);
        self.connection.set_max_concurrent_bi_streams(streams);
        if self.takes_packets {
            let streams = VarInt::from_u32(MAX_QUIC_LONG_PACKETS);
            self.connection.set_max_concurrent_uni_streams(streams);
        }
    }

    /// Waits for the first packet of a UDP association. Cancel safe.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn packet(&self) -> io::Result<Arrived> {
        let arrived = arrival(&self.connection, true).await;
        arrived.map_err(|error| broken(&error))
    }

    /// A socket for the packets of UDP associations, the limit that counts these, and what has to run as long as packets come,
    /// beginning with `first`. `authenticated` is notified when one of them was opened.
    pub fn packets(
        &self,
        first: Arrived,
        authenticated: Arc<Notify>,
    ) -> (udp::Socket, Limit, impl Future<Output = ()> + Send + use<>) {
        // Those that make room take a while to end.
        let most = MAX_QUIC_ASSOCIATIONS + MAX_QUIC_ASSOCIATIONS / 4;
        let associations = Limit::new(most);
        let connection = self.connection.clone();
        let own = udp::Connection::new(
            associations.clone(),
            MAX_QUIC_ASSOCIATIONS,
            authenticated,
            move || canonical(connection.remote_address()),
        );
        let outlet = Outlet::new(self.connection.clone());
        let send: Box<udp::SendFn> = Box::new(move |batch| {
            let packets = batch.datagrams();
            let packets =
                packets.filter_map(|(packet, path)| Some((path.inside?.association(), packet)));
            outlet.send(batch.size(), packets)
        });
        let (socket, sender) = udp::Socket::in_connection(own, send);
        let connection = self.connection.clone();
        let receiving = async move {
            let deliver = |datagram| {
                sender.send_bytes(datagram);
            };
            receive(&connection, Some(first), deliver).await;
        };
        (socket, associations, receiving)
    }

    /// Tells the client to begin new flows elsewhere. A client that does not listen for it hears nothing.
    pub fn say_farewell(&self) {
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(Ok(mut stream)) = pin!(self.connection.open_uni()).poll(&mut cx) {
            // There is room for it in a new stream. An error means that the connection has ended.
            let _ = Pin::new(&mut stream).poll_write(&mut cx, FAREWELL);
            let _ = stream.finish();
        }
    }

    /// Ends the connection.
    pub fn close(&self) {
        self.connection.close(NO_ERROR, b"");
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
