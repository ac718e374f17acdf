//! The client: keeps links to the server and connects their visitors to the services.

use std::num::NonZeroUsize;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep, timeout};

use super::flows::{Flows, Way};
use super::own::{Arriving, Begun};
use crate::app::worker::{Job, Phase, Shared};
use crate::config::Service;
use crate::net::Stream;
use crate::net::tasks::Tasks;
use crate::outbound::current::Current;
use crate::outbound::dialer::Dialer;
use crate::outbound::reverse::ReverseTarget;
use crate::relay::link::limits::MAX_STREAMS;
use crate::relay::link::{self, Arrivals, Event, Handle, Host, LinkRole, Settings, Visitor};
use crate::relay::tcp::{FixedTarget, Service as StreamService, Timeouts};
use crate::relay::{Counters, Error};
use crate::wire::AddressRef;
use crate::wire::reverse::{self, Code, Frame, Protocol, Register};

/// The longest wait before the first new attempt; it doubles with each.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
/// The longest wait before any attempt.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The client of reverse tunnels, shared by its links.
pub(in crate::app) struct ReverseClient {
    settings: ClientSettings,
    /// Tells the server that several links belong to one client.
    token: [u8; 16],
}

/// What a client publishes, and what it needs for that.
pub(in crate::app) struct ClientSettings {
    pub(in crate::app) services: Vec<Service>,
    pub(in crate::app) heartbeat: Duration,
    pub(in crate::app) servers: Current,
    pub(in crate::app) dialer: Dialer,
    pub(in crate::app) timeouts: Timeouts,
    pub(in crate::app) udp_idle: Duration,
    /// The most UDP flows of one link.
    pub(in crate::app) flows: NonZeroUsize,
    pub(in crate::app) counters: Arc<Counters>,
}

/// Exponential backoff with full jitter, so that the clients of a server do not all reconnect at once.
struct Backoff(Duration);

impl Backoff {
    const fn new() -> Self {
        Self(MIN_BACKOFF)
    }

    fn next(&mut self) -> Duration {
        let wait = self.0.mul_f64(rand::random());
        self.0 = (self.0 * 2).min(MAX_BACKOFF);
        wait
    }
}

impl ReverseClient {
    pub(in crate::app) fn new(settings: ClientSettings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            token: rand::random(),
        })
    }

    /// What connects a visitor to `service`. `link`: where it is told whether that has worked.
    fn serving<I>(
        &self,
        service: &Service,
        inbound: I,
        visitor: Visitor,
        link: Option<Handle>,
    ) -> StreamService<I, ReverseTarget> {
        let settings = &self.settings;
        StreamService {
            inbound,
            outbound: ReverseTarget {
                dialer: settings.dialer.clone(),
                proxy: service.proxy,
                visitor,
                link,
            },
            timeouts: settings.timeouts,
            counters: Arc::clone(&settings.counters),
        }
    }

    /// The job that keeps link number `index` up.
    pub(in crate::app) fn job(self: &Arc<Self>, index: u8) -> Job {
        let client = Arc::clone(self);
        Box::new(move |shared| Box::pin(client.keep(index, shared)))
    }

    async fn keep(self: Arc<Self>, index: u8, mut shared: Shared) {
        let mut backoff = Backoff::new();
        loop {
            let mut retry = Duration::ZERO;
            let reached = tokio::select! {
                () = shared.reached(Phase::Retire) => return,
                reached = self.settings.servers.reach(reverse::target()) => reached,
            };
            match reached {
                Ok(leg) => {
                    let handle = Handle::new(LinkRole::Client);
                    let mut host = ClientLink::new(&self, &handle, index);
                    let settings = Settings {
                        role: LinkRole::Client,
                        heartbeat: self.settings.heartbeat,
                    };
                    let result = {
                        let mut running = pin!(link::run(leg, settings, &handle, &mut host));
                        tokio::select! {
                            result = running.as_mut() => result,
                            () = shared.reached(Phase::Retire) => {
                                handle.stop();
                                tokio::select! {
                                    _ = running => {}
                                    () = shared.reached(Phase::Stop) => {}
                                }
                                return;
                            }
                        }
                    };
                    if host.published {
                        backoff = Backoff::new();
                    }
                    retry = host.retry_after;
                    match result {
                        Ok(()) => tracing::info!(link = index, "reverse: link closed"),
                        Err(error) => {
                            tracing::warn!(link = index, %error, "reverse: link lost; reconnecting");
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(link = index, %error, "reverse: cannot reach the server; retrying");
                }
            }
            let wait = backoff.next().max(retry);
            tokio::select! {
                () = shared.reached(Phase::Retire) => return,
                () = sleep(wait) => {}
            }
        }
    }
}

/// The client's side of one link.
struct ClientLink {
    client: Arc<ReverseClient>,
    handle: Handle,
    /// The link's number.
    index: u8,
    /// The server has published at least one service.
    published: bool,
    /// How long the server asks to wait before the next link.
    retry_after: Duration,
    /// Services that the server has refused, to be registered again by `retry_timer`.
    refused: Vec<usize>,
    retry_timer: Option<Pin<Box<Sleep>>>,
    backoff: Backoff,
    streams: Tasks,
    flows: Flows,
    /// Streams that visitors have for themselves.
    arriving: Arriving,
}

/// The id of a service on a link.
const fn service_id(index: usize) -> u64 {
    2 * index as u64 + 1
}

/// The index of a service in the config.
fn service_index(id: u64) -> Option<usize> {
    usize::try_from(id / 2).ok().filter(|_| id % 2 == 1)
}

impl ClientLink {
    fn new(client: &Arc<ReverseClient>, handle: &Handle, index: u8) -> Self {
        let link = Self {
            client: Arc::clone(client),
            handle: handle.clone(),
            index,
            published: false,
            retry_after: Duration::ZERO,
            refused: Vec::new(),
            retry_timer: None,
            backoff: Backoff::new(),
            streams: Tasks::default(),
            flows: Flows::new(handle, client.settings.flows),
            arriving: Arriving::default(),
        };
        for index in 0..client.settings.services.len() {
            link.register(index);
        }
        link
    }

    fn register(&self, index: usize) {
        let Some(service) = self.client.settings.services.get(index) else {
            return;
        };
        let mut token = self.client.token;
        if let Some(last) = token.last_mut() {
            *last = self.index;
        }
        let register = Register {
            protocol: service.protocol,
            group: service.group,
            replace: true,
            bind: service.bind.into(),
            name: &service.name,
            token: &token,
            host: &service.host,
        };
        self.handle.register(service_id(index), register);
    }

    fn service(&self, id: u64) -> Option<&Service> {
        self.client.settings.services.get(service_index(id)?)
    }

    fn register_result(&mut self, id: u64, code: Code, bound: AddressRef<'_>, message: &str) {
        let Some(service) = self.service(id) else {
            return;
        };
        let (name, link) = (service.name.clone(), self.index);
        if code == Code::OK {
            self.published = true;
            tracing::info!(name, %bound, link, "reverse: published");
            return;
        }
        tracing::warn!(name, bind = %service.bind, link, reason = message, "reverse: the server refused to publish this service; retrying");
        self.refused.extend(service_index(id));
        if self.retry_timer.is_none() {
            let wait = self.backoff.next().max(MIN_BACKOFF / 2);
            self.retry_timer = Some(Box::pin(sleep(wait)));
        }
    }

    /// Connects a visitor's stream to the service.
    fn connect(&mut self, visitor: Visitor, stream: Stream) {
        let Some(service) = self.service(visitor.service) else {
            return;
        };
        let id = visitor.id;
        let peer = visitor.source.as_ref().socket_addr();
        let inbound = FixedTarget(service.target.clone());
        let link = Some(self.handle.clone());
        let service = self.client.serving(service, inbound, visitor, link);
        let served = async move { service.serve(stream, peer, || {}).await };
        if self.streams.try_spawn(MAX_STREAMS, served).is_none() {
            let message = "the client has too many streams".to_owned();
            self.handle.connect_result(id, Code::FULL, message);
        }
    }

    /// Connects a visitor with a stream of its own to the service, once its head has said to which.
    fn connect_own(&self, arrivals: Arc<Arrivals>, stream: Stream) {
        let client = Arc::clone(&self.client);
        let served = async move {
            let time = client.settings.timeouts.handshake;
            let begun = timeout(time, Box::pin(arrivals.begin(stream))).await;
            let (visitor, leg) = match begun.unwrap_or(Err(Error::HandshakeTimeout)) {
                Ok(begun) => begun,
                Err(error) => {
                    tracing::debug!(%error, "reverse: a visitor's stream did not begin");
                    return;
                }
            };
            let index = service_index(visitor.service);
            let service = index.and_then(|index| client.settings.services.get(index));
            let Some(service) = service.filter(|service| service.protocol != Protocol::Udp) else {
                return;
            };
            let peer = visitor.source.as_ref().socket_addr();
            tracing::debug!(%peer, name = service.name, "reverse: a visitor has a stream of its own");
            let (inbound, stream) = Begun::new(service.target.clone(), leg);
            let service = client.serving(service, inbound, visitor, None);
            service.serve(stream, peer, || {}).await;
        };
        // At the limit it is dropped, which resets it.
        let _ = self.streams.try_spawn(MAX_STREAMS, served);
    }

    /// Connects a visitor's flow of datagrams to the service.
    fn connect_flow(&mut self, visitor: &Visitor) {
        let Some(service) = self.service(visitor.service) else {
            return;
        };
        let settings = &self.client.settings;
        let way = Way {
            dialer: settings.dialer.clone(),
            target: service.target.clone(),
            idle: settings.udp_idle,
        };
        self.flows.begin(visitor, way);
    }
}

impl Host for ClientLink {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Frame(Frame::RegisterResult {
                service,
                code,
                bound,
                message,
            }) => self.register_result(service, code, bound, message),
            Event::Connect { visitor, stream } => match stream {
                Some(stream) => self.connect(visitor, stream),
                None => self.connect_flow(&visitor),
            },
            Event::Frame(Frame::Datagram { id, payload }) => self.flows.datagram(id, payload),
            Event::Arrivals(arrivals) => self.arriving.begin(arrivals),
            Event::Closed { id } => self.flows.end(id),
            Event::Frame(Frame::GoAway {
                code,
                retry_ms,
                message,
            }) => {
                let (link, code) = (self.index, code.0);
                tracing::info!(
                    link,
                    code,
                    reason = message,
                    "reverse: the server is closing the link"
                );
                self.retry_after = Duration::from_millis(retry_ms.into()).min(MAX_BACKOFF);
            }
            Event::Stopping => self.flows.end_all(),
            Event::Frame(_) => {}
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready((arrivals, stream)) = self.arriving.poll_next(cx) {
            self.connect_own(arrivals, stream);
        }
        let _: (Poll<()>, Poll<()>) = (self.streams.poll_ended(cx), self.flows.poll_ended(cx));
        if let Some(timer) = &mut self.retry_timer
            && timer.as_mut().poll(cx).is_ready()
        {
            self.retry_timer = None;
            for index in std::mem::take(&mut self.refused) {
                self.register(index);
            }
        }
    }

    fn is_busy(&self) -> bool {
        !self.streams.is_empty() || !self.flows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_half_a_minute_and_no_further() {
        let mut backoff = Backoff::new();
        for limit in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
            assert!(backoff.next() <= Duration::from_secs_f64(limit));
        }
        assert_eq!(backoff.0, MAX_BACKOFF);
    }
}
