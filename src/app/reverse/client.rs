//! The client's links: made, kept and made again; and what comes out of them.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};

use super::udp::{MAX_FLOWS, QUEUE, carry};
use crate::app::worker::{Job, Phase, Shared};
use crate::config::Service;
use crate::net::Stream;
use crate::outbound::dialer::Dialer;
use crate::outbound::reverse::Behind;
use crate::outbound::shadowsocks::Servers;
use crate::relay::Counters;
use crate::relay::link::core::MAX_STREAMS;
use crate::relay::link::handle::Offer;
use crate::relay::link::{self, Answer, Handle, Host, Kind, LinkRole, Settings, Visitor};
use crate::relay::tcp::{self, FixedTarget, Timeouts};
use crate::wire::AddressRef;
use crate::wire::reverse::{self, Code, Protocol, Register};

/// The longest wait before the first attempt after a loss; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// And never gets longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What `local` offers, and all that its links share.
pub(in crate::app) struct Client {
    offered: Offered,
    /// Tells the server that several links are one client's.
    token: [u8; 16],
}

/// What is needed for it.
pub(in crate::app) struct Offered {
    pub(in crate::app) services: Vec<Service>,
    pub(in crate::app) heartbeat: Duration,
    pub(in crate::app) servers: Servers,
    pub(in crate::app) dialer: Dialer,
    pub(in crate::app) timeouts: Timeouts,
    pub(in crate::app) udp_idle: Duration,
    pub(in crate::app) counters: Arc<Counters>,
}

/// The waits between attempts: twice as long each time at most, and anything below that (full jitter), so that many
/// clients of one server do not come back all at once.
struct Backoff(Duration);

impl Backoff {
    const fn new() -> Self {
        Self(FIRST_WAIT)
    }

    fn next(&mut self) -> Duration {
        let wait = self.0.mul_f64(rand::random());
        self.0 = (self.0 * 2).min(LONGEST_WAIT);
        wait
    }
}

impl Client {
    pub(in crate::app) fn new(offered: Offered) -> Arc<Self> {
        Arc::new(Self {
            offered,
            token: rand::random(),
        })
    }

    /// The job of keeping link number `index`.
    pub(in crate::app) fn job(self: &Arc<Self>, index: u8) -> Job {
        let client = Arc::clone(self);
        Box::new(move |shared| Box::pin(client.keep(index, shared)))
    }

    async fn keep(self: Arc<Self>, index: u8, mut shared: Shared) {
        let mut backoff = Backoff::new();
        loop {
            let mut retry = Duration::ZERO;
            let reached = tokio::select! {
                () = shared.reached(Phase::Drain) => return,
                reached = self.offered.servers.reach(reverse::target()) => reached,
            };
            match reached {
                Ok(leg) => {
                    let handle = Handle::new(LinkRole::Client);
                    let mut host = Offering::new(&self, &handle, index);
                    let settings = Settings {
                        end: LinkRole::Client,
                        heartbeat: self.offered.heartbeat,
                    };
                    let result = {
                        let mut running = pin!(link::run(leg, settings, &handle, &mut host));
                        tokio::select! {
                            result = running.as_mut() => result,
                            () = shared.reached(Phase::Drain) => {
                                handle.stop();
                                tokio::select! {
                                    _ = running => {}
                                    () = shared.reached(Phase::Stop) => {}
                                }
                                return;
                            }
                        }
                    };
                    if host.accepted {
                        backoff = Backoff::new();
                    }
                    retry = host.retry_after;
                    match result {
                        Ok(()) => tracing::info!(link = index, "reverse: link is over"),
                        Err(error) => {
                            tracing::warn!(link = index, %error, "reverse: link lost");
                        }
                    }
                }
                Err(error) => tracing::debug!(link = index, %error, "reverse: no link"),
            }
            let wait = backoff.next().max(retry);
            tokio::select! {
                () = shared.reached(Phase::Drain) => return,
                () = sleep(wait) => {}
            }
        }
    }
}

/// The host of one link.
struct Offering {
    client: Arc<Client>,
    handle: Handle,
    index: u8,
    accepted: bool,
    leaving: bool,
    retry_after: Duration,
    /// Services that were refused, and when they are offered again.
    refused: Vec<usize>,
    again: Option<Pin<Box<Sleep>>>,
    backoff: Backoff,
    flows: HashMap<u64, mpsc::Sender<Box<[u8]>>>,
    tasks: JoinSet<()>,
}

/// The number of a service on a link, and back.
const fn number(index: usize) -> u64 {
    2 * index as u64 + 1
}

fn index(number: u64) -> Option<usize> {
    usize::try_from(number / 2).ok().filter(|_| number % 2 == 1)
}

impl Offering {
    fn new(client: &Arc<Client>, handle: &Handle, index: u8) -> Self {
        let offering = Self {
            client: Arc::clone(client),
            handle: handle.clone(),
            index,
            accepted: false,
            leaving: false,
            retry_after: Duration::ZERO,
            refused: Vec::new(),
            again: None,
            backoff: Backoff::new(),
            flows: HashMap::new(),
            tasks: JoinSet::new(),
        };
        for index in 0..client.offered.services.len() {
            offering.offer(index);
        }
        offering
    }

    fn offer(&self, index: usize) {
        let Some(service) = self.client.offered.services.get(index) else {
            return;
        };
        let mut token = self.client.token;
        if let Some(last) = token.last_mut() {
            *last = self.index;
        }
        self.handle.register(Offer {
            service: number(index),
            protocol: service.protocol,
            group: service.group,
            bind: service.bind.into(),
            name: service.name.clone(),
            token,
            host: service.host.clone(),
        });
    }

    fn service(&self, service: u64) -> Option<&Service> {
        self.client.offered.services.get(index(service)?)
    }
}

impl Host for Offering {
    /// Nobody offers services to a client.
    fn register(&mut self, _: u64, _: Register<'_>) -> Answer {
        Answer {
            code: Code::INVALID,
            bound: (Ipv4Addr::UNSPECIFIED, 0).into(),
            message: String::new(),
        }
    }

    fn registered(&mut self, service: u64, code: Code, bound: AddressRef<'_>, message: &str) {
        let Some(offered) = self.service(service) else {
            return;
        };
        let (name, link) = (offered.name.clone(), self.index);
        if code == Code::OK {
            self.accepted = true;
            tracing::info!(name, %bound, link, "reverse: published");
            return;
        }
        tracing::warn!(name, bind = %offered.bind, link, reason = message, "reverse: the server refused");
        self.refused.extend(index(service));
        if self.again.is_none() {
            let wait = self.backoff.next().max(FIRST_WAIT / 2);
            self.again = Some(Box::pin(sleep(wait)));
        }
    }

    fn kind(&self, service: u64) -> Option<Kind> {
        Some(match self.service(service)?.protocol {
            Protocol::Udp => Kind::Datagrams,
            Protocol::Tcp | Protocol::Http => Kind::Streams,
        })
    }

    fn stream(&mut self, visitor: Visitor, stream: Stream) {
        let Some(service) = self.service(visitor.service) else {
            return;
        };
        if self.tasks.len() >= MAX_STREAMS {
            let message = "too many streams".to_owned();
            self.handle.answer(visitor.id, Code::FULL, message);
            return;
        }
        let peer = visitor.source.as_ref().socket_addr();
        let inbound = FixedTarget(service.target.clone());
        let client = Arc::clone(&self.client);
        let outbound = Behind {
            dialer: client.offered.dialer.clone(),
            proxy: service.proxy,
            visitor,
            link: self.handle.clone(),
        };
        let service = tcp::Service {
            inbound,
            outbound,
            timeouts: client.offered.timeouts,
            counters: Arc::clone(&client.offered.counters),
        };
        self.tasks
            .spawn(async move { service.serve(stream, peer, || {}).await });
    }

    fn flow(&mut self, visitor: Visitor) {
        let Some(service) = self.service(visitor.service) else {
            return;
        };
        let id = visitor.id;
        if self.flows.len() >= MAX_FLOWS {
            let message = "too many flows".to_owned();
            self.handle.answer(id, Code::FULL, message);
            return;
        }
        let (sender, queue) = mpsc::channel(QUEUE);
        let target = service.target.clone();
        let offered = &self.client.offered;
        let (dialer, idle) = (offered.dialer.clone(), offered.udp_idle);
        let link = self.handle.clone();
        self.flows.insert(id, sender);
        self.tasks
            .spawn(carry(dialer, target, visitor, link, queue, idle));
    }

    fn datagram(&mut self, id: u64, bytes: &[u8]) {
        if let Some(flow) = self.flows.get(&id) {
            match flow.try_send(bytes.into()) {
                // A full queue loses datagrams, as a full socket does.
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => {
                    self.flows.remove(&id);
                    self.handle.reset(id);
                }
            }
        }
    }

    fn refused(&mut self, _: u64, _: &str) {}

    fn closed(&mut self, id: u64) {
        self.flows.remove(&id);
    }

    fn leaving(&mut self) {
        self.leaving = true;
        self.flows.clear();
    }

    fn going_away(&mut self, code: Code, retry: Duration, message: &str) {
        tracing::info!(
            link = self.index,
            reason = message,
            code = code.0,
            "reverse: the server is leaving"
        );
        self.retry_after = retry.min(LONGEST_WAIT);
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(_)) = self.tasks.poll_join_next(cx) {}
        if let Some(again) = &mut self.again
            && again.as_mut().poll(cx).is_ready()
        {
            self.again = None;
            for index in std::mem::take(&mut self.refused) {
                self.offer(index);
            }
        }
    }

    fn is_busy(&self) -> bool {
        !self.tasks.is_empty()
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
        assert_eq!(backoff.0, LONGEST_WAIT);
    }
}
