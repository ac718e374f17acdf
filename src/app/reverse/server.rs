//! The server's end of a link: it opens what is granted, and nothing else.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::grants::{Grants, RequestError};
use super::registry::{Registry, Verdict};
use super::udp::{Flows, Public};
use crate::app::handshakes::Handshakes;
use crate::app::worker::{Job, Phase, Port, Shared};
use crate::config::Allow;
use crate::inbound::reverse::http::HttpVisitors;
use crate::net::listener::{self, Group};
use crate::net::sync::lock;
use crate::net::{SocketOptions, Stream};
use crate::outbound::reverse::{Through, gone};
use crate::relay::link::{self, Answer, Handle, Host, Kind, LinkRole, Settings, Visitor};
use crate::relay::tcp::{Fixed, Leg, Outbound, Request, Timeouts};
use crate::relay::{Counters, Error};
use crate::wire::reverse::{Code, Protocol, Register};
use crate::wire::{Address, AddressRef};

/// Services of one link.
const MAX_SERVICES: usize = 256;
/// HTTP ports that wait to be served.
const MAX_NEW_PORTS: usize = 1024;

/// All that `server` publishes.
pub(in crate::app) struct Publisher {
    grants: Grants,
    heartbeat: Duration,
    options: SocketOptions,
    timeouts: Timeouts,
    udp_idle: Duration,
    counters: Arc<Counters>,
    connections: Arc<Semaphore>,
    handshakes: Arc<Handshakes>,
    registry: Mutex<Registry>,
    http: mpsc::Sender<NewHttpPort>,
}

/// What visitors of every service share.
pub(in crate::app) struct Common {
    pub(in crate::app) options: SocketOptions,
    pub(in crate::app) timeouts: Timeouts,
    pub(in crate::app) udp_idle: Duration,
    pub(in crate::app) counters: Arc<Counters>,
    pub(in crate::app) connections: Arc<Semaphore>,
    pub(in crate::app) handshakes: Arc<Handshakes>,
}

struct NewHttpPort {
    listener: std::net::TcpListener,
    bound: SocketAddr,
    phase: watch::Sender<Phase>,
}

impl Publisher {
    /// With the grants of the config; the job must run for HTTP ports to be served and for links to be stopped.
    pub(in crate::app) fn new(
        allow: Vec<Allow>,
        heartbeat: Duration,
        common: Common,
    ) -> (Arc<Self>, Job) {
        let (http, ports) = mpsc::channel(MAX_NEW_PORTS);
        let publisher = Arc::new(Self {
            grants: Grants(allow),
            heartbeat,
            options: common.options,
            timeouts: common.timeouts,
            udp_idle: common.udp_idle,
            counters: common.counters,
            connections: common.connections,
            handshakes: common.handshakes,
            registry: Mutex::default(),
            http,
        });
        let this = Arc::clone(&publisher);
        let job: Job = Box::new(move |shared| Box::pin(this.serve_http(ports, shared)));
        (publisher, job)
    }

    /// Serves a link to its end.
    pub(in crate::app) async fn serve(
        self: Arc<Self>,
        leg: Leg,
        peer: SocketAddr,
        user: Option<String>,
    ) -> Result<(), Error> {
        let handle = Handle::new(LinkRole::Server);
        let mut host = Published {
            phase: watch::channel(Phase::Run).0,
            handle: handle.clone(),
            publisher: Arc::clone(&self),
            user,
            peer,
            services: HashMap::new(),
            flows: Arc::default(),
            tasks: JoinSet::new(),
        };
        lock(&self.registry).begin(&handle);
        let settings = Settings {
            end: LinkRole::Server,
            heartbeat: self.heartbeat,
        };
        let user = host.user.clone().unwrap_or_default();
        tracing::info!(%peer, user, "reverse: link is up");
        let result = link::run(leg, settings, &handle, &mut host).await;
        drop(host);
        match &result {
            Ok(()) => tracing::info!(%peer, user, "reverse: link is over"),
            Err(error) => tracing::info!(%peer, user, %error, "reverse: link is over"),
        }
        result
    }

    /// Serves the ports on which HTTP is spoken, and tells the links when it is time to end.
    async fn serve_http(
        self: Arc<Self>,
        mut ports: mpsc::Receiver<NewHttpPort>,
        mut shared: Shared,
    ) {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                () = shared.reached(Phase::Drain) => break,
                Some(_) = tasks.join_next() => {}
                Some(new) = ports.recv() => {
                    let publisher = Arc::clone(&self);
                    let bound = new.bound;
                    let inbound = HttpVisitors {
                        port: bound.port(),
                        knows: Box::new(move |host| lock(&publisher.registry).pick(bound, host).is_some()),
                    };
                    let outbound = ByHost { publisher: Arc::clone(&self), bound };
                    let port = Arc::new(self.port(inbound, outbound));
                    tasks.spawn(async move {
                        // The phase outlives the port's place in the registry: its visitors are to finish.
                        let shared = Shared::under(new.phase.subscribe());
                        port.serve(new.listener, shared).await;
                    });
                }
            }
        }
        lock(&self.registry).stop();
        tokio::select! {
            () = shared.reached(Phase::Stop) => {}
            () = async { while tasks.join_next().await.is_some() {} } => {}
        }
    }

    fn port<I, O>(&self, inbound: I, outbound: O) -> Port<I, O> {
        Port {
            inbound,
            outbound,
            timeouts: self.timeouts,
            counters: Arc::clone(&self.counters),
            connections: Arc::clone(&self.connections),
            handshakes: Arc::clone(&self.handshakes),
            transport: None,
        }
    }
}

/// The way to the service that a visitor's Host names.
struct ByHost {
    publisher: Arc<Publisher>,
    bound: SocketAddr,
}

impl Outbound for ByHost {
    fn may_confirm_early(&self) -> bool {
        false
    }

    async fn connect(&self, request: &Request) -> Result<Leg, Error> {
        let picked = match &request.target {
            Address::Domain(host, _) => lock(&self.publisher.registry).pick(self.bound, host),
            Address::Ip(_) => None,
        };
        let (link, service) = picked.ok_or_else(gone)?;
        Through { link, service }.open(request)
    }
}

/// What one link has published. With it, all of that ends.
struct Published {
    publisher: Arc<Publisher>,
    handle: Handle,
    user: Option<String>,
    peer: SocketAddr,
    services: HashMap<u64, SocketAddr>,
    flows: Arc<Flows>,
    /// The phase of its public ports, and their tasks.
    phase: watch::Sender<Phase>,
    tasks: JoinSet<()>,
}

impl Drop for Published {
    fn drop(&mut self) {
        lock(&self.publisher.registry).end(&self.handle);
    }
}

impl Published {
    fn publish(
        &mut self,
        service: u64,
        register: &Register<'_>,
    ) -> Result<SocketAddr, RequestError> {
        if register.name.is_empty() || self.services.contains_key(&service) {
            let reason = "a service needs a name and a number of its own";
            return Err((Code::INVALID, reason.to_owned()));
        }
        if self.services.len() >= MAX_SERVICES {
            return Err((Code::FULL, format!("more than {MAX_SERVICES} services")));
        }
        let publisher = Arc::clone(&self.publisher);
        let mut registry = lock(&publisher.registry);
        let user = self.user.clone();
        let mut choices = publisher.grants.choices(user.as_deref(), register)?;
        let verdict = registry.judge(user.as_deref(), register)?;
        let joins = matches!(verdict, Verdict::Joins(_));
        if let Verdict::Joins(bound) = verdict {
            choices = vec![bound];
        }
        let mut refusal = (Code::BIND, "no port to try".to_owned());
        for address in choices {
            let tried = match register.protocol {
                Protocol::Http => self.open_http(&mut registry, address, register),
                Protocol::Tcp => self.open_tcp(service, address, joins),
                Protocol::Udp => self.open_udp(service, address, joins),
            };
            match tried {
                Ok(bound) => {
                    registry.note(user.as_deref(), register, bound, (&self.handle, service));
                    self.services.insert(service, bound);
                    return Ok(bound);
                }
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// Joining links have a socket each, among which the system shares the visitors out.
    fn listen(
        &self,
        address: SocketAddr,
        share: bool,
    ) -> Result<std::net::TcpListener, RequestError> {
        let group = Group {
            share,
            ..Group::default()
        };
        let bound = listener::tcp(address, 1, group, &self.publisher.options);
        let listener = bound
            .map_err(|error| (Code::BIND, error.to_string()))?
            .pop();
        listener.ok_or_else(|| (Code::BIND, "no socket".to_owned()))
    }

    fn open_tcp(
        &mut self,
        service: u64,
        address: SocketAddr,
        share: bool,
    ) -> Result<SocketAddr, RequestError> {
        let listener = self.listen(address, share)?;
        let inbound = Fixed {
            target: address.into(),
        };
        let outbound = Through {
            link: self.handle.clone(),
            service,
        };
        let port = Arc::new(self.publisher.port(inbound, outbound));
        let shared = Shared::under(self.phase.subscribe());
        self.tasks.spawn(port.serve(listener, shared));
        Ok(address)
    }

    fn open_udp(
        &mut self,
        service: u64,
        address: SocketAddr,
        share: bool,
    ) -> Result<SocketAddr, RequestError> {
        let group = Group {
            share,
            ..Group::default()
        };
        let refuse = |error: &dyn std::fmt::Display| (Code::BIND, error.to_string());
        let bound = listener::udp(address, 1, group, &self.publisher.options);
        let socket = bound.map_err(|error| refuse(&error))?.pop();
        let socket = socket.ok_or_else(|| refuse(&"no socket"))?;
        let public = Public {
            socket: Arc::new(UdpSocket::from_std(socket).map_err(|error| refuse(&error))?),
            bound: address,
            link: self.handle.clone(),
            service,
            flows: Arc::clone(&self.flows),
            idle: self.publisher.udp_idle,
        };
        self.tasks.spawn(public.serve(self.phase.subscribe()));
        Ok(address)
    }

    fn open_http(
        &self,
        registry: &mut Registry,
        address: SocketAddr,
        register: &Register<'_>,
    ) -> Result<SocketAddr, RequestError> {
        let user = self.user.as_deref();
        if let Some(added) = registry.http_port(address, user, register) {
            return added.map(|()| address);
        }
        let listener = self.listen(address, false)?;
        let phase = watch::Sender::new(Phase::Run);
        let new = NewHttpPort {
            listener,
            bound: address,
            phase: phase.clone(),
        };
        let sent = self.publisher.http.try_send(new);
        sent.map_err(|error| match error {
            TrySendError::Full(_) => (Code::FULL, "too many new ports at once".to_owned()),
            TrySendError::Closed(_) => (Code::STOPPING, "the server is stopping".to_owned()),
        })?;
        registry.add_http_port(address, user, register, phase);
        Ok(address)
    }
}

impl Host for Published {
    fn register(&mut self, service: u64, register: Register<'_>) -> Answer {
        let (name, protocol) = (register.name, register.protocol.name());
        let (user, peer) = (self.user.clone().unwrap_or_default(), self.peer);
        match self.publish(service, &register) {
            Ok(bound) => {
                tracing::info!(name, protocol, %bound, host = register.host, user, %peer, "reverse: published");
                Answer {
                    code: Code::OK,
                    bound,
                    message: String::new(),
                }
            }
            Err((code, message)) => {
                tracing::warn!(name, protocol, bind = %register.bind, user, %peer, reason = message, "reverse: refused");
                Answer {
                    code,
                    bound: register.bind.socket_addr(),
                    message,
                }
            }
        }
    }

    fn registered(&mut self, _: u64, _: Code, _: AddressRef<'_>, _: &str) {}

    /// Nobody visits the server's clients from their own side.
    fn kind(&self, _: u64) -> Option<Kind> {
        None
    }

    fn stream(&mut self, _: Visitor, _: Stream) {}

    fn flow(&mut self, _: Visitor) {}

    fn datagram(&mut self, id: u64, bytes: &[u8]) {
        self.flows.answer(id, bytes);
    }

    fn refused(&mut self, id: u64, message: &str) {
        tracing::debug!(id, peer = %self.peer, reason = message, "reverse: the client turned a visitor away");
    }

    fn closed(&mut self, id: u64) {
        self.flows.remove(id);
    }

    fn leaving(&mut self) {
        self.phase.send_replace(Phase::Drain);
    }

    /// The client takes no more visitors: its ports are closed, those there are may end.
    fn going_away(&mut self, _: Code, _: Duration, message: &str) {
        tracing::debug!(peer = %self.peer, reason = message, "reverse: the client is leaving");
        self.leaving();
        lock(&self.publisher.registry).end(&self.handle);
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(_)) = self.tasks.poll_join_next(cx) {}
    }

    fn is_busy(&self) -> bool {
        !self.tasks.is_empty()
    }
}
