//! One of the servers that requests go through: how it is reached, and what is known of it.

use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::balancer::health::{Fault, Health};
use super::balancer::packet_probe;
use super::balancer::probe::{Ask, Asked, Kind, Probe};
use super::balancer::silence::IN_A_ROW;
use super::endpoint::Endpoint;
use super::multiplex::{self, Opened, Sessions};
use super::proxied_packets;
use super::reach::{self, Sharing};
use super::udp_over_stream::{Carried, UdpOverStream};
use super::warm::{Warm, WarmPolicy};
use crate::net::tasks::Tasks;
use crate::net::{self, Stream, sampled};
use crate::relay::Error;
use crate::relay::tcp::{Failure, Leg, NextLeg, Others};
use crate::relay::udp::framing::{Decoder, Encoder};
use crate::relay::udp::{Answers, Upstream};
use crate::wire::ss::packet::{ClientPackets, PacketSealer};
use crate::wire::{Address, AddressRef};

/// How much a server is preferred, from 0 (only if no other has more) to 1; `None`: it does not offer this at all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// For streams.
    pub tcp: Option<f64>,
    /// For datagrams.
    pub udp: Option<f64>,
}

/// What is known of a server.
#[derive(Clone, Debug)]
pub struct ServerState {
    /// What the config calls it.
    pub name: String,
    /// Its address.
    pub address: String,
    /// The transport that requests take, where there is another beside QUIC: `quic`, `ws` or `tcp`.
    pub way: Option<&'static str>,
    /// Whether the next request goes through it.
    pub is_next: bool,
    /// Whether the operator has chosen it.
    pub is_chosen: bool,
    /// Whether the last that is known of it is a failure.
    pub has_failed: bool,
    /// The median of its probes, or the usual time to connect to it.
    pub latency: Option<Duration>,
    /// Streams through it now; `None`: they are not counted, since there is no other server.
    pub streams: Option<usize>,
    /// How often it has failed.
    pub failures: u64,
}

/// One server, its spare connections, and what is known of it.
pub struct Server {
    /// What the config calls it.
    pub(super) name: Box<str>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) weights: Weights,
    /// Set if datagrams go inside streams; `None`: they go as UDP.
    over_stream: Option<UdpOverStream>,
    /// The sessions that streams go in; `None`: each stream has a connection.
    pub(super) sessions: Option<Arc<Sessions>>,
    pub(super) warm: Warm,
    pub(super) health: Arc<Health>,
    /// The same for datagrams, by probes alone.
    pub(super) packet_health: Arc<Health>,
}

impl Server {
    /// A server that has not failed yet.
    #[must_use]
    pub fn new(
        endpoint: Endpoint,
        weights: Weights,
        over_stream: Option<UdpOverStream>,
        warm: WarmPolicy,
    ) -> Self {
        Self {
            name: endpoint.address.to_string().into(),
            endpoint: Arc::new(endpoint),
            weights,
            over_stream,
            sessions: None,
            warm: Warm::new(warm),
            health: Arc::default(),
            packet_health: Arc::default(),
        }
    }

    /// The same, by the name that the config gives it.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// The same, whose streams share sessions of `multiplex`.
    #[must_use]
    pub fn multiplexed(mut self, settings: multiplex::Settings) -> Self {
        let (endpoint, health) = (Arc::clone(&self.endpoint), Arc::clone(&self.health));
        self.sessions = Some(Arc::new(Sessions::new(settings, endpoint, health)));
        self
    }

    /// Opens the way of a new association, whose packets `tasks` carry if they go inside streams.
    pub(super) fn packets(&self, tasks: &Tasks) -> io::Result<Upstream> {
        let endpoint = &self.endpoint;
        let session = rand::random();
        let socket = match &self.over_stream {
            None if endpoint.dialer.proxies.is_some() => {
                proxied_packets::socket(&endpoint.dialer, &endpoint.address, tasks)?
            }
            None => endpoint.dialer.udp_socket()?,
            Some(settings) => settings.socket(endpoint, self.sessions.as_ref(), tasks)?,
        };
        let peer = socket.peer().map(Address::Ip);
        let credentials = &endpoint.credentials;
        let carried = self.over_stream.as_ref().map(|settings| settings.carried);
        let (encoder, decoder) = match carried {
            // The stream is sealed, and what is in it is not.
            Some(Carried::Datagrams(_) | Carried::Multiplexed) => {
                (Encoder::Addressed, Decoder::Addressed)
            }
            Some(Carried::Packets | Carried::QuicDatagrams) | None => {
                let sealer =
                    PacketSealer::client(credentials, session).map_err(io::Error::other)?;
                let opener = Box::new(ClientPackets::new(credentials, session));
                let seen = endpoint.replays.packets(credentials.method());
                (
                    Encoder::Seal(sealer, seen.clone()),
                    Decoder::Open(opener, seen),
                )
            }
        };
        Ok(Upstream {
            server: Some(peer.unwrap_or_else(|| endpoint.packet_address())),
            socket,
            encoder,
            decoder,
            check: None,
            answers: Some(Arc::new(PacketAnswers {
                endpoint: Arc::clone(endpoint),
                health: Arc::clone(&self.packet_health),
            })),
        })
    }

    /// Takes a spare connection, or opens one. Refills the spares for later requests. Returns whether it was a spare.
    pub(super) async fn connection(&self) -> Result<(Stream, bool), Error> {
        if let Some(stream) = self.warm.take() {
            self.warm.refill(&self.endpoint);
            return Ok((stream, true));
        }
        Ok((self.open().await?, false))
    }

    /// Opens a connection.
    pub(super) async fn open(&self) -> Result<Stream, Error> {
        let (stream, time) = reach::dial(&self.endpoint, &self.health, false).await?;
        self.warm.note_dial(time);
        self.warm.refill(&self.endpoint);
        Ok(stream)
    }

    /// Opens what a request needs.
    pub(super) async fn way_in(&self, sharing: Sharing) -> Result<WayIn, Error> {
        match &self.sessions {
            _ if sharing == Sharing::Alone && self.endpoint.quic.is_some() => {
                let (stream, _) = reach::dial(&self.endpoint, &self.health, true).await?;
                Ok(WayIn::Own(stream, false))
            }
            Some(sessions) if sharing == Sharing::Session => {
                let opened = sessions.open().await?;
                Ok(WayIn::Shared(Arc::clone(sessions), opened))
            }
            _ => {
                let (stream, is_spare) = self.connection().await?;
                Ok(WayIn::Own(stream, is_spare))
            }
        }
    }

    pub(super) fn unreachable(&self, error: &dyn std::fmt::Display) {
        reach::unreachable(&self.endpoint, &self.health, error);
    }

    /// It could be connected to, and did not answer what another server did.
    pub(super) fn unanswered(&self, failure: &Failure) {
        if self.health.fail(Fault::Unanswered) {
            let server = &self.endpoint.address;
            tracing::warn!(%server, reason = %failure, "server did not answer what another server answered");
        }
        self.warm.clear();
    }

    /// It has not answered a request for `target`, and no other server has.
    pub(super) fn silent(&self, failure: &Failure, target: &str) {
        let (health, server) = (&self.health, &self.endpoint.address);
        if matches!(failure, Failure::Reset) && health.has_answered() {
            return no_answer(server, target, failure);
        }
        let noted = health.unanswered(target, 1);
        if noted.has_failed {
            self.warm.clear();
        }
        if let Some(requests) = noted.say {
            tracing::warn!(reason = %failure, "no reply from {server} ({requests} requests): password, method, clock or transport may differ from the server's");
        } else if health.has_answered() && matches!(failure, Failure::Closed) {
            no_answer(server, target, failure);
        }
    }

    pub(super) fn answered(&self, after: Option<Duration>) {
        if self.health.answer(after) {
            let server = &self.endpoint.address;
            tracing::info!(%server, "server answers again");
        }
    }
}

/// Says that a request got no answer through a server that works.
fn no_answer(server: &Address, target: &str, failure: &Failure) {
    sampled::info!(by server, "the server ended a request without an answer: it may not reach the target, or refuse it", %server, %target, reason = %failure);
}

/// Notes whether datagrams come back through a server.
struct PacketAnswers {
    endpoint: Arc<Endpoint>,
    health: Arc<Health>,
}

impl Answers for PacketAnswers {
    fn answered(&self) {
        if self.health.packets_answered() {
            let server = &self.endpoint.address;
            tracing::info!(%server, "datagrams come back from the server again");
        }
    }

    fn unanswered(&self, client: SocketAddr, datagrams: u64) {
        let count = u32::try_from(datagrams).unwrap_or(u32::MAX);
        if self.health.has_answered() && count < IN_A_ROW {
            // They may have been lost, or their target is silent.
            return;
        }
        let noted = self.health.unanswered(&client.to_string(), count);
        if let Some(sent) = noted.say {
            let server = &self.endpoint.address;
            tracing::warn!(
                "no datagram came back from {server} ({sent} sent): password, method or clock may differ from the server's, or UDP to it is blocked"
            );
        }
    }
}

/// What knows the only server, for as long as a leg through it is used.
pub(super) struct Only(pub(super) Arc<Server>);

impl Others for Only {
    fn acknowledged_within(&self) -> Duration {
        self.0.health.acknowledged_within()
    }

    fn answered_within(&self) -> Duration {
        self.0.health.answered_within()
    }

    fn answered(&self, after: Option<Duration>) {
        self.0.answered(after);
    }

    fn failed(&self, failure: &Failure) {
        self.0.unanswered(failure);
    }

    fn unanswered(&self, failure: &Failure, target: &str) {
        self.0.silent(failure, target);
    }

    fn has_answered(&self) -> bool {
        self.0.health.has_answered()
    }

    fn is_suspect(&self) -> bool {
        self.0.health.is_suspect()
    }

    fn is_only(&self) -> bool {
        true
    }

    fn next<'a>(&'a self, _: &'a Address) -> NextLeg<'a> {
        Box::pin(ready(Err(Error::Connect(net::Error::NoAddress))))
    }
}

/// A way to a server for one request.
pub(super) enum WayIn {
    /// A connection, and whether it was a spare.
    Own(Stream, bool),
    /// A stream in a session.
    Shared(Arc<Sessions>, Opened),
}

impl WayIn {
    pub(super) const fn is_spare(&self) -> bool {
        matches!(self, Self::Own(_, true))
    }

    /// The leg to `target`, which is behind `server`.
    pub(super) fn leg(self, server: &Server, target: AddressRef<'_>) -> Leg {
        match self {
            Self::Own(stream, _) => server.endpoint.leg(stream, target),
            Self::Shared(sessions, opened) => sessions.leg(opened, target),
        }
    }
}

impl Server {
    /// What is known of it.
    pub(super) const fn health(&self, kind: Kind) -> &Arc<Health> {
        match kind {
            Kind::Tcp => &self.health,
            Kind::Udp => &self.packet_health,
        }
    }

    pub(super) const fn weight(&self, kind: Kind) -> Option<f64> {
        match kind {
            Kind::Tcp => self.weights.tcp,
            Kind::Udp => self.weights.udp,
        }
    }
}

/// Probes a server for streams.
pub(super) struct AskStreams(pub(super) Arc<Server>);

impl Ask for AskStreams {
    fn ask<'a>(&'a self, probe: &'a Probe) -> Asked<'a> {
        Box::pin(probe.request(&self.0.endpoint))
    }
}

/// Probes a server for datagrams. The tasks carry them if they go inside streams.
pub(super) struct AskPackets(pub(super) Arc<Server>, pub(super) Tasks);

impl Ask for AskPackets {
    fn ask<'a>(&'a self, probe: &'a Probe) -> Asked<'a> {
        Box::pin(async {
            let target = probe.name_server.as_ref();
            let target = target.ok_or("nothing to ask")?;
            let upstream = self.0.packets(&self.1).map_err(|error| error.to_string())?;
            let dialer = &self.0.endpoint.dialer;
            let at = match &upstream.server {
                Some(server) => dialer.resolve(server, true).await,
                None => None,
            };
            let at = at.ok_or("its name has no address")?;
            packet_probe::ask(upstream, at, target.as_ref(), probe.longest).await
        })
    }
}
