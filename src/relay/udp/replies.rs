//! The way back: from an association's upstream to its client.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::association::Association;
use super::framing::{Decoder, Encoder};
use super::sides::Answers;
use super::table::AssociationTable;
use crate::net::sampled;
use crate::net::udp::Batch;
use crate::relay::counters::{Counters, Gauge};
use crate::relay::failed::{Network, Noted, Phase, Times, Way, Whose};
use crate::relay::idle::IdleTimer;
use crate::wire;

/// How long a server may take until something has come back.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long an association pauses after an error of its socket.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// The replies of one association.
pub(super) struct Replies<S: Default> {
    pub(super) association: Arc<Association<S>>,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) table: Arc<AssociationTable<S>>,
    pub(super) counters: Arc<Counters>,
    /// How long the association lives without a datagram, or up to a quarter longer.
    pub(super) timeout: Duration,
    /// Something has come back.
    pub(super) answered: bool,
    /// What takes the datagrams needs a turn.
    pub(super) is_busy: bool,
    /// Is told so, or that nothing has yet.
    pub(super) answers: Option<Arc<dyn Answers>>,
}

impl<S: Default> Replies<S> {
    /// Sends replies until the association ends.
    pub(super) async fn run(mut self) {
        let counters = Arc::clone(&self.counters);
        let _now = Gauge::new(&counters.associations_now);
        let association = Arc::clone(&self.association);
        let mut idle = IdleTimer::new(self.timeout);
        let mut tick = pin!(sleep(idle.period().min(PATIENCE)));
        let mut patient = true;
        loop {
            tokio::select! {
                received = poll_fn(|cx| self.poll(cx)) => match received {
                    Ok(()) => if self.is_busy {
                        yield_now().await;
                    },
                    // The other end of an in-memory upstream is gone.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                    Err(error) => {
                        // To end here would forget which packets have been seen. If the socket stays broken, the
                        // association ends by its timeout.
                        sampled::debug!("an association's socket failed", %error);
                        sleep(ERROR_PAUSE).await;
                    }
                },
                () = association.closed() => break,
                () = poll_fn(|cx| association.poll_refused(cx)) => break,
                ended = poll_fn(|cx| {
                    if patient {
                        return tick.as_mut().poll(cx).map(|()| false);
                    }
                    let moved = association.activity.load(Relaxed);
                    idle.poll(cx, tick.as_mut(), moved).map(|_| true)
                }) => {
                    if ended {
                        break;
                    }
                    patient = false;
                    self.tell();
                    tick.as_mut().reset(Instant::now() + idle.period());
                }
            }
        }
        if !self.answered {
            self.note_silence();
        }
        let user = association.user_name();
        let peer = association.client().0.peer;
        sampled::debug!(by peer, "association ended", %peer, user);
    }

    /// Tells whether something has come back.
    fn tell(&mut self) {
        if self.answered {
            if let Some(answers) = self.answers.take() {
                answers.answered();
            }
        } else if let Some(answers) = &self.answers {
            let sent = self.association.activity.load(Relaxed);
            answers.unanswered(self.association.client().0.peer, sent);
        }
    }

    /// Notes that nothing has come back from the server. Targets may well be silent.
    fn note_silence(&self) {
        let association = &self.association;
        let Some(server) = &association.server else {
            return;
        };
        self.counters.note(&Noted {
            whose: Whose::Client,
            network: Network::Udp,
            phase: Phase::Reply,
            peer: association.client().0.peer,
            user: association.user_name(),
            target: None,
            way: Way {
                server: Some(server.to_string()),
                ..Way::default()
            },
            status: "no_answer",
            error: &"no datagram came back through the server: UDP to it is blocked, it does not accept the key, the method \
                or the time of this machine, or no target answered",
            times: Times::default(),
            up: 0,
            down: 0,
        });
    }

    /// Receives a batch from the upstream and sends it to the client.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (association, counters) = (&self.association, &self.counters);
        let (decoder, encoder) = (&mut self.decoder, &mut self.encoder);
        let (answered, is_busy) = (&mut self.answered, &mut self.is_busy);
        let result = association.upstream.poll_receive(cx, |mut received| {
            let (client, socket) = association.client();
            let mut batch = Batch::spare();
            let send = |batch: &mut Batch| {
                let lost = socket.send(batch);
                counters.datagrams_lost.fetch_add(lost as u64, Relaxed);
            };
            decoder.decode(&mut received, association.sent_to(), |from, decoded| {
                let encoded = decoded.and_then(|(address, data)| {
                    if !association.may_pass(false) {
                        return Err(wire::Error::OverLimit);
                    }
                    association.count(false, data.len());
                    encoder.push(&mut batch, client, address, data)
                });
                match encoded {
                    Ok(()) => {
                        *answered = true;
                        counters.datagrams_down.fetch_add(1, Relaxed);
                        // Strangers may send to a bare socket, but not keep it open (RFC 4787 REQ-6).
                        if association.is_pinned {
                            association.activity.fetch_add(1, Relaxed);
                        }
                    }
                    Err(error) => {
                        let status = error.status();
                        counters.fail(status);
                        sampled::debug!(by status, "datagram dropped", upstream = %from.peer, status, %error);
                    }
                }
                if batch.is_full() {
                    send(&mut batch);
                }
            });
            if !batch.is_empty() {
                send(&mut batch);
            }
            batch.keep();
            *is_busy = socket.is_busy();
        });
        if self.answered && self.answers.is_some() {
            self.tell();
        }
        result
    }
}

impl<S: Default> Drop for Replies<S> {
    /// An association without this task would take its client's datagrams and never answer.
    fn drop(&mut self) {
        self.table.remove(&self.association);
        self.association.close();
    }
}
