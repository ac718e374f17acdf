//! What is counted, logged and noted of a stream when it has ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use super::flow::{Flow, Unanswered};
use super::moving::{About, Owner};
use super::request::Outbound;
use super::traffic::Traffic;
use crate::relay::counters::{Counters, Gauge};
use crate::relay::error::{Error, Side};
use crate::relay::failed::{Asked, Network, Noted, Phase, Stage, Times, Whose};
use crate::relay::leg::Failure;
use crate::relay::users::User;
use crate::wire::Address;

/// A client that ends its connection sooner than this has not waited for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a few bytes are that end before they can be opened.
const NOT_THE_PROTOCOL: &str = "what it sent is not the protocol";

/// The status of a stream that has not failed.
const OK: &str = "ok";

/// The status of a stream that took bytes from its client, and brought none back.
const NO_ANSWER: &str = "no_answer";

/// Why an orderly end is a failure.
const fn reason(unanswered: Unanswered) -> &'static str {
    match unanswered {
        Unanswered::Server => {
            "the server closed the connection before anything came back: it does not accept the key, the method or the \
             time of this machine, or the target cannot be reached or closed it"
        }
        Unanswered::Target => "the target closed the connection before anything came back",
        Unanswered::Client => {
            "nothing came back, and the client did not wait any longer: the target, or the way to it, is silent"
        }
    }
}

/// What is counted and logged of a stream when it has ended.
pub(super) struct FlowRecord<'a> {
    pub(super) peer: SocketAddr,
    pub(super) target: Option<Arc<str>>,
    /// The name that the client's first bytes give for it.
    pub(super) claimed: Option<Box<str>>,
    pub(super) user: Option<Arc<User>>,
    started: Instant,
    /// Milliseconds from the start to the complete request, and from there to the relay; [`NOT_REACHED`] before that.
    /// Kept for as long as a stream is idle, so they are small.
    handshake_ms: u32,
    connect_ms: u32,
    counters: &'a Counters,
    _now: Gauge<'a>,
}

const NOT_REACHED: u32 = u32::MAX;

/// How a stream that may have failed ended.
pub(super) struct End<'a> {
    stage: Stage,
    cause: Cause<'a>,
    /// Something had come back.
    answered: bool,
    traffic: Traffic,
    /// The server, where one of several was chosen.
    server: Option<String>,
}

/// Why a stream ended.
enum Cause<'a> {
    Error(&'a Error),
    Unanswered(Unanswered),
}

impl<'a> End<'a> {
    /// The end of a relay.
    pub(super) fn of_flow(error: Option<&'a Error>, flow: &Flow) -> Self {
        let (traffic, unanswered) = (flow.traffic(), flow.unanswered());
        let cause = match error {
            // It waited for the client after the other side had ended.
            Some(Error::Idle { .. }) if traffic.down == 0 && unanswered != Unanswered::Client => {
                Cause::Unanswered(unanswered)
            }
            Some(error) => Cause::Error(error),
            None => Cause::Unanswered(unanswered),
        };
        Self {
            stage: Stage::Relay,
            cause,
            answered: traffic.down > 0,
            traffic,
            server: flow.server(),
        }
    }

    /// An error before the relay.
    pub(super) fn before(stage: Stage, error: &'a Error) -> Self {
        Self {
            stage,
            cause: Cause::Error(error),
            answered: false,
            traffic: Traffic::default(),
            server: None,
        }
    }

    /// An error of what is done instead of a relay.
    pub(super) fn of_job(error: &'a Error) -> Self {
        Self {
            answered: true,
            ..Self::before(Stage::Relay, error)
        }
    }

    /// Whether somebody should know, of a stream that was relayed for this long: one that was idle, or that its client
    /// ended after an answer or before it could come, has not failed.
    fn is_failure(&self, relayed: Duration) -> bool {
        let waited = !self.answered && self.traffic.up > 0;
        match self.cause {
            Cause::Error(Error::Replaced) => false,
            _ if self.stage != Stage::Relay => true,
            Cause::Error(Error::Idle { .. }) => waited,
            Cause::Error(
                Error::Io {
                    side: Side::Client, ..
                }
                | Error::Unacknowledged {
                    side: Side::Client, ..
                },
            )
            | Cause::Unanswered(Unanswered::Client) => waited && relayed >= PATIENCE,
            Cause::Error(_) | Cause::Unanswered(_) => true,
        }
    }

    /// The user, where only the error knows it.
    const fn user(&self) -> Option<&'a str> {
        match self.cause {
            Cause::Error(error) => error.user(),
            Cause::Unanswered(_) => None,
        }
    }

    /// How the server failed, if nothing came back through it.
    fn failure_of_server(&self, relayed: Duration) -> Option<Failure> {
        if self.answered || self.stage != Stage::Relay {
            return None;
        }
        let waited = self.traffic.up > 0;
        Some(match &self.cause {
            Cause::Error(Error::Wire {
                side: Side::Upstream,
                source,
            }) => Failure::Broken(source.to_string()),
            Cause::Error(Error::Cut(Side::Upstream)) => Failure::Broken(NOT_THE_PROTOCOL.into()),
            _ if !waited => return None,
            Cause::Error(Error::Io {
                side: Side::Upstream,
                source,
            }) => Failure::of_io(source),
            Cause::Error(
                Error::Idle { .. }
                | Error::Unacknowledged {
                    side: Side::Upstream,
                    ..
                }
                | Error::Io {
                    side: Side::Client, ..
                },
            )
            | Cause::Unanswered(Unanswered::Client) => Failure::Silent(relayed),
            Cause::Unanswered(Unanswered::Server) => Failure::Closed,
            Cause::Unanswered(Unanswered::Target) | Cause::Error(_) => return None,
        })
    }

    fn phase(&self) -> Phase {
        match self.cause {
            Cause::Error(error) => Phase::of(error, self.stage, self.answered),
            Cause::Unanswered(_) => Phase::Reply,
        }
    }

    const fn status(&self) -> &'static str {
        match self.cause {
            Cause::Error(error) => error.status(),
            Cause::Unanswered(_) => NO_ANSWER,
        }
    }
}

impl<'a> FlowRecord<'a> {
    pub(super) fn begin(peer: SocketAddr, counters: &'a Counters) -> Self {
        counters.streams.fetch_add(1, Relaxed);
        Self {
            peer,
            target: None,
            claimed: None,
            user: None,
            started: Instant::now(),
            handshake_ms: NOT_REACHED,
            connect_ms: NOT_REACHED,
            counters,
            _now: Gauge::new(&counters.streams_now),
        }
    }

    /// The record of a flow that another process has begun.
    pub(super) fn resumed(about: &About, counters: &'a Counters) -> Self {
        let [handshake_ms, connect_ms, all] = about.times_ms;
        let all = Duration::from_millis(all.into());
        let mut record = Self::begin(about.peer, counters);
        record.target = about.target.as_deref().map(Arc::from);
        record.started = record.started.checked_sub(all).unwrap_or(record.started);
        (record.handshake_ms, record.connect_ms) = (handshake_ms, connect_ms);
        record
    }

    /// What another process needs of it; the flow is counted for `user`.
    pub(super) fn about(&self, user: Option<&Arc<User>>) -> About {
        About {
            peer: self.peer,
            target: self.target.as_deref().map(str::to_owned),
            owner: user.map_or(Owner::Nobody, |user| self.owner(user)),
            times_ms: [self.handshake_ms, self.connect_ms, self.elapsed_ms()],
        }
    }

    fn owner(&self, user: &Arc<User>) -> Owner {
        match self.counters.users.server_of(user) {
            Some(server) => Owner::User {
                server: server.to_string(),
                name: user.name().map(str::to_owned),
            },
            None => Owner::Everybody,
        }
    }

    /// The request is complete.
    pub(super) fn begin_connect(&mut self) {
        self.handshake_ms = self.elapsed_ms();
    }

    /// Both ends are connected.
    pub(super) fn begin_relay(&mut self) {
        self.connect_ms = self.elapsed_ms().saturating_sub(self.handshake_ms);
    }

    /// What a stream without a relay was doing.
    pub(super) const fn stage(&self) -> Stage {
        match self.target {
            None => Stage::Handshake,
            Some(_) => Stage::Connect,
        }
    }

    fn elapsed_ms(&self) -> u32 {
        let elapsed = self.started.elapsed().as_millis();
        u32::try_from(elapsed).map_or(NOT_REACHED - 1, |time| time.min(NOT_REACHED - 1))
    }

    fn times(&self) -> Times {
        let all = self.elapsed_ms();
        let reached = |time: u32| (time != NOT_REACHED).then_some(time);
        let (handshake, connect) = (reached(self.handshake_ms), reached(self.connect_ms));
        let after = |begun: Option<u32>| begun.map(|begun| all.saturating_sub(begun));
        let both = handshake
            .zip(connect)
            .map(|(one, other)| one.saturating_add(other));
        let time = |ms: Option<u32>| ms.map(|ms| Duration::from_millis(ms.into()));
        Times {
            handshake: time(handshake.or(Some(all))),
            connect: time(connect.or_else(|| after(handshake))),
            relay: time(after(both)),
        }
    }

    /// Notes a stream that has failed. Called only if it may have. Returns how its server failed, if it did.
    pub(super) fn note_failure(
        &self,
        outbound: &impl Outbound,
        mut end: End<'_>,
    ) -> Option<Failure> {
        let times = self.times();
        let relayed = times.relay.unwrap_or_default();
        if !end.is_failure(relayed) {
            return None;
        }
        let user = self.user.as_ref().and_then(|user| user.name());
        let user = user.or_else(|| end.user());
        let target = self.target.as_deref();
        let address = target.and_then(|target| target.parse::<Address>().ok());
        let mut way = outbound.way(&Asked {
            target: address.as_ref(),
            name: self.claimed.as_deref(),
            user,
        });
        way.server = end.server.take().or(way.server);
        let whose = match end.stage {
            _ if way.is_visitor => Whose::Visitor,
            Stage::Handshake => Whose::Stranger,
            Stage::Relay if end.answered => Whose::Broken,
            Stage::Connect | Stage::Relay => Whose::Client,
        };
        let reason;
        self.counters.note(&Noted {
            whose,
            network: Network::Tcp,
            phase: end.phase(),
            peer: self.peer,
            user,
            target,
            way,
            status: end.status(),
            error: match &end.cause {
                Cause::Error(error) => error,
                Cause::Unanswered(unanswered) => {
                    reason = self::reason(*unanswered);
                    &reason
                }
            },
            times,
            up: end.traffic.up,
            down: end.traffic.down,
        });
        end.failure_of_server(relayed)
    }

    pub(super) fn close(self, error: Option<&Error>, traffic: Traffic) {
        self.counters.bytes_up.fetch_add(traffic.up, Relaxed);
        self.counters.bytes_down.fetch_add(traffic.down, Relaxed);
        let status = match error {
            Some(error) => error.status(),
            None if traffic.up > 0 && traffic.down == 0 => NO_ANSWER,
            None => OK,
        };
        if status != OK {
            self.counters.fail(status);
            if let Some(user) = &self.user {
                user.fail();
            }
        }
        tracing::debug!(
            peer = %self.peer,
            user = self.user.as_ref().and_then(|user| user.name()).or_else(|| error.and_then(Error::user)),
            target = self.target.as_deref().unwrap_or("-"),
            status,
            error = error.map(tracing::field::display),
            up_bytes = traffic.up,
            down_bytes = traffic.down,
            elapsed_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "stream ended"
        );
    }
}
