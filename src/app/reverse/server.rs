//! The server: opens public ports for its links, as far as they are granted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

use super::grants::{Grants, Refusal};
use super::registry::Registry;
use super::sharing::{Door, Sharing};
use super::udp::{Flows, Public};
use crate::app::handshakes::Handshakes;
use crate::app::room::Room;
use crate::app::visitors::Visitors;
use crate::app::worker::{Job, ListenerService, Phase, Shared};
use crate::inbound::reverse::http::HttpVisitors;
use crate::net::alive::{Alive, Limit};
use crate::net::listener::{self, Group};
use crate::net::sync::lock;
use crate::net::tasks::Tasks;
use crate::net::{SocketOptions, sampled, udp};
use crate::outbound::reverse::{ViaLink, gone, visitors};
use crate::relay::failed::{Asked, Way};
use crate::relay::link::limits::{MAX_NEW_HTTP_PORTS, MAX_SERVICES};
use crate::relay::link::{self, Event, Handle, Host, LinkRole, Settings};
use crate::relay::tcp::{FixedTarget, Leg, Outbound, Request, Service, Timeouts};
use crate::relay::{Counters, Error};
use crate::wire::Address;
use crate::wire::reverse::{Code, Frame, Protocol, Register};

/// The server of reverse tunnels, shared by its links.
pub(in crate::app) struct ReverseServer {
    settings: ServerSettings,
    registry: Mutex<Registry>,
    new_http_ports: mpsc::Sender<NewHttpPort>,
}

/// What a server grants, and what the visitors of all services share.
pub(in crate::app) struct ServerSettings {
    pub(in crate::app) grants: Grants,
    pub(in crate::app) heartbeat: Duration,
    pub(in crate::app) options: SocketOptions,
    pub(in crate::app) timeouts: Timeouts,
    pub(in crate::app) udp_idle: Duration,
    /// Public ports of all links.
    pub(in crate::app) ports: Limit,
    pub(in crate::app) counters: Arc<Counters>,
    pub(in crate::app) visitors: Arc<Visitors>,
    pub(in crate::app) handshakes: Arc<Handshakes>,
}

/// An HTTP port for the job that serves it.
struct NewHttpPort {
    listener: std::net::TcpListener,
    bound: SocketAddr,
    phase: watch::Sender<Phase>,
    place: Alive,
}

impl ReverseServer {
    /// Creates the server and its job, which serves HTTP ports and stops the links at the end.
    pub(in crate::app) fn new(settings: ServerSettings) -> (Arc<Self>, Job) {
        let (new_http_ports, ports) = mpsc::channel(MAX_NEW_HTTP_PORTS);
        let server = Arc::new(Self {
            settings,
            registry: Mutex::default(),
            new_http_ports,
        });
        let this = Arc::clone(&server);
        let job: Job = Box::new(move |shared| Box::pin(this.serve_http(ports, shared)));
        (server, job)
    }

    /// Serves a link until it closes.
    pub(in crate::app) async fn serve(
        self: Arc<Self>,
        leg: Leg,
        peer: SocketAddr,
        user: Option<String>,
    ) -> Result<(), Error> {
        let handle = Handle::new(LinkRole::Server);
        let mut host = ServerLink {
            phase: watch::channel(Phase::Run).0,
            handle: handle.clone(),
            server: Arc::clone(&self),
            user,
            peer,
            services: HashMap::new(),
            flows: Arc::default(),
            tasks: Tasks::default(),
        };
        lock(&self.registry).add_link(&handle);
        let settings = Settings {
            role: LinkRole::Server,
            heartbeat: self.settings.heartbeat,
        };
        let user = host.user.clone().unwrap_or_default();
        tracing::info!(%peer, user, "reverse: link is up");
        let result = link::run(leg, settings, &handle, &mut host).await;
        drop(host);
        match &result {
            Ok(()) => tracing::info!(%peer, user, "reverse: link closed"),
            Err(error) => tracing::info!(%peer, user, %error, "reverse: link lost"),
        }
        result
    }

    /// Serves HTTP ports, and stops the links when the process drains.
    async fn serve_http(
        self: Arc<Self>,
        mut ports: mpsc::Receiver<NewHttpPort>,
        mut shared: Shared,
    ) {
        let tasks = Tasks::default();
        loop {
            tokio::select! {
                () = shared.reached(Phase::Retire) => break,
                () = tasks.reap() => {}
                Some(new) = ports.recv() => {
                    let server = Arc::clone(&self);
                    let bound = new.bound;
                    let inbound = HttpVisitors {
                        port: bound.port(),
                        knows: Box::new(move |host| lock(&server.registry).pick(bound, host).is_some()),
                    };
                    let outbound = HostRouter { server: Arc::clone(&self), bound };
                    let port = Arc::new(self.port(inbound, outbound));
                    tasks.spawn(async move {
                        // The phase outlives the port's entry in the registry, so that visitors can finish.
                        let shared = Shared::under(new.phase.subscribe());
                        port.serve(new.listener.into(), shared).await;
                        drop(new.place);
                    });
                }
            }
        }
        lock(&self.registry).stop_links();
        tokio::select! {
            () = shared.reached(Phase::Stop) => {}
            () = tasks.ended() => {}
        }
    }

    fn port<I, O>(&self, inbound: I, outbound: O) -> ListenerService<I, O> {
        ListenerService {
            service: Service {
                inbound,
                outbound,
                timeouts: self.settings.timeouts,
                counters: Arc::clone(&self.settings.counters),
            },
            room: Room::Visitors(self.settings.visitors.port()),
            handshakes: Arc::clone(&self.settings.handshakes),
            transport: None,
        }
    }
}

/// Routes visitors of an HTTP port to the service of their Host.
struct HostRouter {
    server: Arc<ReverseServer>,
    bound: SocketAddr,
}

impl Outbound for HostRouter {
    fn may_confirm_early(&self, _: &Request) -> bool {
        false
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        let picked = match &request.target {
            Address::Domain(host, _) => lock(&self.server.registry).pick(self.bound, host),
            Address::Ip(_) => None,
        };
        let (link, service) = picked.ok_or_else(gone)?;
        ViaLink { link, service }.open(request)
    }

    fn way(&self, _: &Asked<'_>) -> Way {
        visitors()
    }
}

/// The server's side of one link. Its services end with it.
struct ServerLink {
    server: Arc<ReverseServer>,
    handle: Handle,
    user: Option<String>,
    peer: SocketAddr,
    /// The public addresses of its services.
    services: HashMap<u64, SocketAddr>,
    flows: Arc<Flows>,
    /// The phase of its public ports, and their tasks.
    phase: watch::Sender<Phase>,
    tasks: Tasks,
}

impl Drop for ServerLink {
    fn drop(&mut self) {
        lock(&self.server.registry).remove_link(&self.handle);
    }
}

impl ServerLink {
    /// Publishes a service, if it is granted, and answers the client.
    fn register(&mut self, service: u64, register: &Register<'_>) {
        let (name, protocol, bind) = (register.name, register.protocol.name(), register.bind);
        let (user, peer) = (self.user.clone().unwrap_or_default(), self.peer);
        let (code, bound, message) = match self.publish(service, register) {
            Ok(bound) => {
                tracing::info!(name, protocol, %bound, host = register.host, user, %peer, "reverse: published");
                (Code::OK, bound, String::new())
            }
            Err((code, reason)) => {
                let key = format_args!("{user} {name}: {reason}");
                sampled::warn!(by key, "reverse: refused to publish a client's service", name, protocol, %bind, user, %peer, reason);
                (code, bind.socket_addr(), reason)
            }
        };
        self.handle.register_result(service, code, bound, &message);
    }

    fn publish(&mut self, service: u64, register: &Register<'_>) -> Result<SocketAddr, Refusal> {
        if register.name.is_empty() || self.services.contains_key(&service) {
            let reason = "each service needs a name and an id of its own";
            return Err((Code::INVALID, reason.to_owned()));
        }
        if self.services.len() >= MAX_SERVICES {
            return Err((
                Code::FULL,
                format!("a link may publish at most {MAX_SERVICES} services"),
            ));
        }
        let server = Arc::clone(&self.server);
        let mut registry = lock(&server.registry);
        let user = self.user.clone();
        let granted = &server.settings.grants;
        let mut candidates = granted.candidates(user.as_deref(), register)?;
        let joined = registry.admit(user.as_deref(), register)?;
        if let Some(bound) = joined {
            candidates = vec![bound];
        }
        let mut refusal = (Code::BIND, "no port is granted".to_owned());
        for address in candidates {
            let opened = match register.protocol {
                Protocol::Http => self
                    .open_http(&mut registry, address, register)
                    .map(|()| None),
                Protocol::Tcp => {
                    let named = (service, register.name);
                    self.open_tcp(named, address, joined.is_some()).map(Some)
                }
                Protocol::Udp => self
                    .open_udp(service, address, joined.is_some())
                    .map(|()| None),
            };
            match opened {
                Ok(door) => {
                    let member = (&self.handle, service, door);
                    registry.insert(user.as_deref(), register, address, member);
                    self.services.insert(service, address);
                    return Ok(address);
                }
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// Binds a TCP listener; with `share` beside those of other links on the same port.
    fn listen(&self, address: SocketAddr, share: bool) -> Result<std::net::TcpListener, Refusal> {
        let options = &self.server.settings.options;
        let bound = listener::tcp(address, 1, group(share), options).map_err(bind_refusal)?;
        only(bound)
    }

    /// A place for one more public port, to be kept as long as the port is open.
    fn place(&self) -> Result<Alive, Refusal> {
        let place = self.server.settings.ports.take(1);
        place.ok_or_else(|| {
            let reason = "the server has as many public ports as its open files allow";
            (Code::FULL, reason.to_owned())
        })
    }

    /// Opens the port. Returns where the link takes visitors that other links have accepted.
    fn open_tcp(
        &mut self,
        (service, name): (u64, &str),
        address: SocketAddr,
        share: bool,
    ) -> Result<Door, Refusal> {
        let place = self.place()?;
        let listener = self.listen(address, share)?;
        let inbound = FixedTarget(address.into());
        let outbound = ViaLink {
            link: self.handle.clone(),
            service,
        };
        let port = Arc::new(self.server.port(inbound, outbound));
        let shared = Shared::under(self.phase.subscribe());
        let key = (self.user.clone(), name.to_owned());
        let (server, own) = (Arc::clone(&self.server), self.handle.clone());
        let lighter = Box::new(move || lock(&server.registry).lighter(&key, &own));
        let (sharing, door) = Sharing::new(&self.handle, lighter);
        self.tasks.spawn(async move {
            port.serve_beside(listener.into(), shared, sharing).await;
            drop(place);
        });
        Ok(door)
    }

    fn open_udp(&mut self, service: u64, address: SocketAddr, share: bool) -> Result<(), Refusal> {
        let place = self.place()?;
        let options = &self.server.settings.options;
        let bound = listener::udp(address, 1, group(share), options).map_err(bind_refusal)?;
        let socket = only(bound)?;
        let socket = udp::Socket::new(socket.into(), options.udp).map_err(bind_refusal)?;
        let public = Public {
            bound: address,
            link: self.handle.clone(),
            service,
            flows: Arc::clone(&self.flows),
        };
        let settings = &self.server.settings;
        let (idle, counters) = (settings.udp_idle, Arc::clone(&settings.counters));
        let phase = self.phase.subscribe();
        self.tasks.spawn(async move {
            public.serve(socket, idle, counters, phase).await;
            drop(place);
        });
        Ok(())
    }

    fn open_http(
        &self,
        registry: &mut Registry,
        address: SocketAddr,
        register: &Register<'_>,
    ) -> Result<(), Refusal> {
        let user = self.user.as_deref();
        if let Some(added) = registry.join_http_port(address, user, register) {
            return added;
        }
        let place = self.place()?;
        let listener = self.listen(address, false)?;
        let phase = watch::Sender::new(Phase::Run);
        let new = NewHttpPort {
            listener,
            bound: address,
            phase: phase.clone(),
            place,
        };
        let sent = self.server.new_http_ports.try_send(new);
        sent.map_err(|error| match error {
            TrySendError::Full(_) => (
                Code::FULL,
                "the server is busy opening other HTTP ports".to_owned(),
            ),
            TrySendError::Closed(_) => (Code::STOPPING, "the server is shutting down".to_owned()),
        })?;
        registry.add_http_port(address, user, register, phase);
        Ok(())
    }
}

/// How a socket shares its port.
fn group(share: bool) -> Group {
    Group {
        share,
        ..Group::default()
    }
}

/// The only socket of a group of one.
fn only<T>(mut bound: Vec<T>) -> Result<T, Refusal> {
    bound.pop().ok_or_else(|| bind_refusal("no socket"))
}

fn bind_refusal(error: impl std::fmt::Display) -> Refusal {
    (Code::BIND, error.to_string())
}

impl Host for ServerLink {
    fn event(&mut self, event: Event<'_>) {
        let peer = self.peer;
        match event {
            Event::Frame(Frame::Register { service, register }) => {
                self.register(service, &register);
            }
            Event::Frame(Frame::Datagram { id, payload }) => self.flows.answer(id, payload),
            Event::Frame(Frame::ConnectResult { id, code, message }) if code != Code::OK => {
                sampled::debug!("reverse: the client could not connect a visitor", id, %peer, reason = message);
            }
            Event::Closed { id } => self.flows.remove(id),
            Event::Frame(Frame::GoAway { message, .. }) => {
                tracing::debug!(%peer, reason = message, "reverse: the client is closing the link");
                // Its ports close; current visitors may finish.
                self.phase.send_replace(Phase::Drain);
                lock(&self.server.registry).remove_link(&self.handle);
            }
            Event::Stopping => {
                self.phase.send_replace(Phase::Drain);
            }
            Event::Frame(_) | Event::Connect { .. } | Event::Arrivals(_) => {}
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        let _: Poll<()> = self.tasks.poll_ended(cx);
    }

    fn is_busy(&self) -> bool {
        !self.tasks.is_empty()
    }
}
