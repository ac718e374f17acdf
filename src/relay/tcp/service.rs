//! Serves a stream from its handshake to its end.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::{Instant, timeout};

use super::account::Account;
use super::fairness;
use super::flow::Flow;
use super::record::{End, FlowRecord};
use super::request::{ClientJob, Handshake, Inbound, Outbound, Ready, Request, Timeouts};
use super::traffic::Traffic;
use super::{resumed, trial};
use crate::net::{Stream, sampled};
use crate::relay::counters::Counters;
use crate::relay::error::{Error, Side};
use crate::relay::leg::{First, Leg};
use crate::relay::users::{Protocol, Refusal, Session, User};

/// Serves the streams of one listener: reads requests from an inbound and connects them through an outbound.
pub struct Service<I, O> {
    /// Reads the handshakes of clients.
    pub inbound: I,
    /// Connects to their targets.
    pub outbound: O,
    /// How long each part of a stream's life may take.
    pub timeouts: Timeouts,
    /// Counts what happens.
    pub counters: Arc<Counters>,
}

/// What is left to do after the handshake.
enum Established<'a> {
    Flow(Box<Flow>),
    Job(ClientJob<'a>),
}

impl<I: Inbound, O: Outbound> Service<I, O> {
    /// Serves the stream of `peer` to its end. [`Ready::ready`] is called when the handshake has succeeded.
    ///
    /// An idle connection holds nothing but this future, so nothing is in it twice: an `async fn` would keep its arguments
    /// beside what they were moved into, and an error by value its room.
    pub fn serve(
        &self,
        stream: Stream,
        peer: SocketAddr,
        ready: impl Ready,
    ) -> impl Future<Output = ()> + Send {
        let record = FlowRecord::begin(peer, &self.counters);
        fairness::note_interactive();
        // In a box, so that the memory of handshake and dial is freed before the long part begins.
        let established = Box::pin(self.establish(stream, record, ready));
        async move {
            let (record, established) = established.await;
            match established {
                Ok(Established::Flow(mut flow)) => {
                    let error = flow.relay(&self.timeouts).await.err();
                    if flow.is_leaving() {
                        return resumed::move_on(*flow, record, &self.timeouts, &self.counters)
                            .await;
                    }
                    let traffic = flow.traffic();
                    if error.is_some() || flow.is_unanswered() {
                        let end = End::of_flow(error.as_deref(), &flow);
                        let failure = record.note_failure(&self.outbound, end);
                        flow.blame_server(failure, record.target.as_deref());
                    }
                    if let Some(client) = flow.close(error.as_deref()) {
                        Box::pin(self.inbound.drain_and_close(client)).await;
                    }
                    record.close(error.as_deref(), traffic);
                }
                Ok(Established::Job(job)) => {
                    let error = job.await.err();
                    if let Some(error) = &error {
                        record.note_failure(&self.outbound, End::of_job(error));
                    }
                    record.close(error.as_ref(), Traffic::default());
                }
                Err(error) => {
                    record.note_failure(&self.outbound, End::before(record.stage(), &error));
                    record.close(Some(&error), Traffic::default());
                }
            }
        }
    }

    /// Reads the handshake and connects to the target.
    async fn establish<'a>(
        &'a self,
        stream: Stream,
        mut record: FlowRecord<'a>,
        ready: impl Ready,
    ) -> (FlowRecord<'a>, Result<Established<'a>, Box<Error>>) {
        let deadline = Instant::now() + self.timeouts.handshake;
        let mut request = match self.inbound.handshake(stream, record.peer, deadline).await {
            Ok(Handshake::Request(request)) => request,
            Ok(Handshake::Job(job)) => {
                ready.ready();
                return (record, Ok(Established::Job(job)));
            }
            Ok(Handshake::Visitor(job)) => {
                ready.visitor();
                return (record, Ok(Established::Job(job)));
            }
            Err(error) => return (record, Err(error.into())),
        };
        let activity = ready.ready();
        record.begin_connect();
        let target: Arc<str> = request.target.to_string().into();
        record.target = Some(Arc::clone(&target));
        record.claimed.clone_from(&request.claimed);
        record.user.clone_from(&request.user);
        let everybody = self.counters.users.everybody();
        let account = match account(&request, everybody, target) {
            Ok(account) => account,
            Err(refusal) => {
                let error = refusal.into();
                self.report(&request, &error).await;
                return (record, Err(Box::new(error)));
            }
        };
        let flow = match self.connect(&mut request).await {
            Ok((upstream, sent)) => {
                let flow = Flow::new(request.leg, upstream);
                flow.map(|flow| flow.noting(activity).after_trial(sent).of_user(account))
            }
            Err(error) => {
                self.report(&request, &error).await;
                Err(error)
            }
        };
        if flow.is_ok() {
            record.begin_relay();
        }
        let established = flow.map(|flow| Established::Flow(Box::new(flow)));
        (record, established.map_err(Box::new))
    }

    /// Connects, and gives the client's first payload a chance to be sent with the head. Returns the upstream and how many
    /// bytes of payload have been sent on it already.
    async fn connect(&self, request: &mut Request) -> Result<(Leg, u64), Error> {
        // Only inbounds and outbounds that offer the service may do something with it: elsewhere, a client would act for
        // the operator, or go around the rules.
        if let Some(reserved) = request.reserved()
            && !self.outbound.offers(reserved)
        {
            return Err(Error::NotOffered(reserved.refusal()));
        }
        let early = self.outbound.may_confirm_early(request);
        if early {
            confirm(request).await?;
        }
        let upstream = self.outbound.connect(request).await?;
        if !early {
            confirm(request).await?;
        }
        let awaits_payload = upstream
            .codec
            .as_ref()
            .is_some_and(|(_, sealer)| sealer.at_head());
        if awaits_payload && matches!(request.leg.first, First::Nothing) {
            // With or without payload, the head is sent after this: the target may be the one that speaks first.
            let (wait, stream) = (self.timeouts.first_payload_wait, &request.leg.stream);
            let _ = timeout(wait, stream.readable()).await;
        }
        let others = upstream.others.as_ref();
        if others.is_some_and(|others| !others.is_only()) {
            // In a box: most services have one way only, and need no room for this.
            let may_repeat = self.inbound.may_repeat();
            return Box::pin(trial::settle(request, upstream, may_repeat)).await;
        }
        Ok((upstream, 0))
    }

    /// Tells the client, and where it can help the operator, why there is no connection.
    async fn report(&self, request: &Request, error: &Error) {
        if request.trusted {
            let (peer, target) = (request.peer, &request.target);
            sampled::warn!(by target, "cannot reach the target; closing the client's connection", %peer, %target, status = error.status(), %error);
        } else if request.leg.codec.is_some() {
            // The protocol of the client has no answer that would say it.
            let user = request.user.as_ref().and_then(|user| user.name());
            let (status, target) = (error.status(), &request.target);
            sampled::info!(by status, "a client's request got no connection", network = "tcp", user, %target, status, %error);
        }
        let stream = &request.leg.stream;
        match &request.reply {
            // A client that does not take the answer is gone anyway.
            Some(reply) => {
                let answer = reply.failure(error);
                let told = async {
                    stream.write_all(&answer).await?;
                    // Without it, the end of a multiplexed stream could overtake the answer.
                    stream.shutdown().await
                };
                let _ = timeout(self.timeouts.half_close, told).await;
            }
            None => stream.reset_on_close(),
        }
    }
}

/// Begins a session of the client's user, if it is known.
fn account(
    request: &Request,
    everybody: Option<&Arc<User>>,
    target: Arc<str>,
) -> Result<Option<Account>, Refusal> {
    let begin = |user: &Arc<User>| {
        let session = Session::begin(user, request.peer, target, Protocol::Tcp)?;
        Ok(Account::new(session))
    };
    let user = request.user.as_ref().or(everybody);
    user.map(begin).transpose()
}

/// Tells the client that it is connected.
async fn confirm(request: &mut Request) -> Result<(), Error> {
    if let Some(reply) = request.reply.take() {
        let stream = &mut request.leg.stream;
        stream
            .write_all(&reply.success())
            .await
            .map_err(Error::io(Side::Client))?;
        reply.upgrade(stream).map_err(Error::io(Side::Client))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::pipe;
    use crate::relay::tcp::FixedTarget;
    use crate::wire::Address;

    struct Nowhere;

    impl Outbound for Nowhere {
        fn may_confirm_early(&self, _: &Request) -> bool {
            false
        }

        async fn connect(&self, _: &Request) -> Result<Leg, Error> {
            Err(Error::HandshakeEnd)
        }
    }

    #[tokio::test]
    async fn future_of_an_idle_flow_is_small() {
        let time = std::time::Duration::from_secs(1);
        let service = Service {
            inbound: FixedTarget(Address::Domain("example.com".into(), 1)),
            outbound: Nowhere,
            timeouts: Timeouts {
                handshake: time,
                connect: time,
                idle: time,
                half_close: time,
                first_payload_wait: time,
                keep_alive: None,
            },
            counters: Arc::default(),
        };
        let (stream, _pipe) = pipe::pair(1, 1);
        let future = service.serve(stream, ([127, 0, 0, 1], 1).into(), || ());
        assert!(size_of_val(&future) <= 392, "{}", size_of_val(&future));
    }
}
