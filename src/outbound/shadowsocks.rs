//! Through a Shadowsocks server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::direct::Direct;
use super::warm::{Warm, Wish};
use crate::net::{Stream, udp};
use crate::relay::Error;
use crate::relay::tcp::{First, Leg, Outbound, Request};
use crate::relay::udp::codec::{Unwrap, Wrap};
use crate::relay::udp::{Located, PacketOutbound, Upstream};
use crate::wire::ss::packet::{ClientPackets, PacketSealer};
use crate::wire::ss::stream::{Opener, Sealer};
use crate::wire::ss::{Credentials, Salt};
use crate::wire::{Address, AddressRef};

/// How long a server that could not be reached is passed over while there are others.
const PENALTY: Duration = Duration::from_secs(10);

/// One server, and what is known of it.
pub struct Server {
    /// Where it is.
    pub address: Address,
    /// What is spoken with it.
    pub credentials: Credentials,
    /// How it is connected to.
    pub direct: Direct,
    /// Whether it takes streams, and datagrams.
    pub mode: (bool, bool),
    warm: Warm,
    failed: AtomicBool,
    /// When it failed last, in milliseconds since the balancer began.
    failed_at: AtomicU64,
}

impl Server {
    /// A server of which nothing bad is known.
    #[must_use]
    pub fn new(
        address: Address,
        credentials: Credentials,
        direct: Direct,
        mode: (bool, bool),
        warm: Wish,
    ) -> Self {
        Self {
            address,
            credentials,
            direct,
            mode,
            warm: Warm::new(warm),
            failed: AtomicBool::new(false),
            failed_at: AtomicU64::new(0),
        }
    }
}

/// Servers in the order of the config: the first that can be reached is used.
#[derive(Clone)]
pub struct Servers(Arc<Inner>);

struct Inner {
    servers: Vec<Server>,
    begun: Instant,
}

impl Servers {
    /// With at least one server; without any, nothing can be reached.
    #[must_use]
    pub fn new(servers: Vec<Server>) -> Self {
        Self(Arc::new(Inner {
            servers,
            begun: Instant::now(),
        }))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The servers that `fits` accepts, those that failed a moment ago last.
    fn order<'a>(
        &'a self,
        fits: impl Fn(&Server) -> bool + Copy + 'a,
    ) -> impl Iterator<Item = &'a Server> {
        let now = self.now();
        let penalty = u64::try_from(PENALTY.as_millis()).unwrap_or(u64::MAX);
        let avoided = move |server: &Server| {
            server.failed.load(Relaxed)
                && now.saturating_sub(server.failed_at.load(Relaxed)) < penalty
        };
        let fitting = |last: bool| {
            let servers = self.0.servers.iter();
            servers.filter(move |server| fits(server) && avoided(server) == last)
        };
        fitting(false).chain(fitting(true))
    }

    /// A connection to `server`: a spare one if there is any, and spares for the requests to come.
    async fn connection(&self, server: &Server) -> Result<Stream, Error> {
        if let Some(stream) = server.warm.take() {
            server.warm.refill(&server.direct, &server.address);
            return Ok(stream);
        }
        let begun = Instant::now();
        let dialled = server.direct.dial(&server.address, true).await;
        match &dialled {
            Ok(_) => {
                if server.failed.swap(false, Relaxed) {
                    tracing::info!(server = %server.address, "server can be reached again");
                }
                server.warm.dialled(begun.elapsed());
                server.warm.refill(&server.direct, &server.address);
            }
            Err(error) => {
                server.failed_at.store(self.now(), Relaxed);
                if !server.failed.swap(true, Relaxed) {
                    tracing::warn!(server = %server.address, %error, "server cannot be reached");
                }
            }
        }
        dialled
    }
}

impl Outbound for Servers {
    /// While the last connection to the server that would be chosen was made.
    fn is_confident(&self) -> bool {
        self.order(|server| server.mode.0)
            .next()
            .is_some_and(|server| !server.failed.load(Relaxed))
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        self.reach(request.target.as_ref()).await
    }
}

impl Servers {
    /// Begins a stream to `target` through the first server that can be reached.
    ///
    /// # Errors
    /// That of the last server tried.
    pub async fn reach(&self, target: AddressRef<'_>) -> Result<Leg, Error> {
        let mut failure = Error::Connect(crate::net::Error::NoAddress);
        for server in self.order(|server| server.mode.0) {
            match self.connection(server).await {
                Ok(stream) => {
                    let salt = Salt::new(server.credentials.method(), rand::random());
                    let codec = (
                        Opener::response(&server.credentials, salt),
                        Sealer::request(&server.credentials, salt, target),
                    );
                    return Ok(Leg {
                        stream,
                        codec: Some(codec),
                        first: First::Nothing,
                    });
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

impl PacketOutbound for Servers {
    fn open(&self, _: bool) -> io::Result<Upstream> {
        let server = self
            .order(|server| server.mode.1)
            .next()
            .ok_or(io::ErrorKind::NotConnected)?;
        let session = rand::random();
        Ok(Upstream {
            socket: udp::Socket::new(
                server.direct.options.outgoing_udp()?,
                server.direct.fragment,
            )?,
            server: Some(server.address.clone()),
            wrap: Wrap::Seal(
                PacketSealer::client(&server.credentials, session).map_err(io::Error::other)?,
            ),
            unwrap: Unwrap::Open(Box::new(ClientPackets::new(&server.credentials, session))),
        })
    }

    fn locate(&self, server: AddressRef<'_>, _: bool) -> Located {
        self.0
            .servers
            .first()
            .map_or(Located::Denied, |first| first.direct.locate(server, true))
    }

    async fn resolve(&self, server: &Address, _: bool) -> Option<SocketAddr> {
        self.0.servers.first()?.direct.resolve(server, true).await
    }
}
