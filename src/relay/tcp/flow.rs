//! Two connected legs and the bytes between them.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};
use zeroize::Zeroizing;

use super::account::Account;
use super::activity::Activity;
use super::fairness::Turn;
use super::half::{Codec, Half};
use super::moving::{self, About, Moved, Place};
use super::request::Timeouts;
use super::traffic::Traffic;
use super::watch::{Acknowledging, Watch};
use crate::limits::{UNACKNOWLEDGED, UNSENT};
use crate::net::Stream;
use crate::net::pool::Size;
use crate::relay::error::{Error, Side};
use crate::relay::leg::{Failure, Leg, Others};
use crate::relay::users::User;

/// The age at which a flow's upstream is given keepalive probes: shorter flows are not worth the system calls. Clients'
/// sockets have inherited theirs from the listener.
const SETTLED: Duration = Duration::from_secs(10);

/// How long a client waits for the first answer of a server that has failed and never answered anything.
const SUSPECT: Duration = Duration::from_secs(8);

/// How long the target of a visitor may take to send its first byte, if the visitor has ended and has sent none.
const ENDED_SILENT: Duration = Duration::from_secs(3);

/// Who ended a flow before anything came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    Server,
    Target,
    /// Perhaps it did not want to wait any longer.
    Client,
}

/// Two connected legs.
pub(super) struct Flow {
    client: Stream,
    upstream: Stream,
    up: Half,
    down: Half,
    turn: Turn,
    /// The side whose direction ended first.
    ended_first: Option<Side>,
    /// Knows the server, and that the flow goes on.
    others: Option<Box<dyn Others>>,
    /// It knows that something has come back.
    told_answer: bool,
    /// Whether the client and the upstream acknowledge what is sent to them.
    acknowledging: [Acknowledging; 2],
    /// Where somebody wants to know what moves.
    activity: Option<Arc<Activity>>,
    account: Option<Box<Account>>,
    /// Its place among the flows that can move to another process, once it was polled.
    place: Option<Place>,
    /// It goes on in another process.
    is_leaving: bool,
}

impl Flow {
    /// Joins the legs; at most one of them can be encrypted.
    pub(super) fn new(client: Leg, upstream: Leg) -> Result<Self, Error> {
        let (up, down) = match (client.codec, upstream.codec) {
            (None, None) => (Codec::Copy, Codec::Copy),
            (None, Some((opener, sealer))) => (Codec::Seal(sealer), Codec::Open(opener)),
            (Some((opener, sealer)), None) => (Codec::Open(opener), Codec::Seal(sealer)),
            (Some(_), Some(_)) => {
                return Err(Error::NotOffered(
                    "relaying between two encrypted streams is not supported",
                ));
            }
        };
        // The streams of a link share one core, and large buffers for each would not fit into its cache.
        let largest = if client.stream.is_pipe() || upstream.stream.is_pipe() {
            Size::Medium
        } else {
            Size::Large
        };
        let mut up = Half::new(up, Side::Client, largest);
        up.begin(client.first);
        let mut down = Half::new(down, Side::Upstream, largest);
        down.begin(upstream.first);
        Ok(Self {
            client: client.stream,
            upstream: upstream.stream,
            up,
            down,
            turn: Turn::new(),
            ended_first: None,
            others: upstream.others,
            told_answer: false,
            acknowledging: Default::default(),
            activity: None,
            account: None,
            place: None,
            is_leaving: false,
        })
    }

    /// Goes on where another process was. `None`: that is no flow.
    pub(super) fn resume(moved: &mut Moved) -> Option<Self> {
        let [client, upstream] = moved.sockets.take()?;
        let mut bytes: &[u8] = &moved.bytes;
        let up = Half::resume(&moved.up, Side::Client, &mut bytes)?;
        let down = Half::resume(&moved.down, Side::Upstream, &mut bytes)?;
        Some(Self {
            client: Stream::from_std(client).ok()?,
            upstream: Stream::from_std(upstream).ok()?,
            told_answer: down.moved() > 0,
            up,
            down,
            turn: Turn::new(),
            ended_first: moved.upstream_ended_first.map(|upstream| match upstream {
                true => Side::Upstream,
                false => Side::Client,
            }),
            others: None,
            acknowledging: Default::default(),
            activity: None,
            account: None,
            place: None,
            is_leaving: false,
        })
    }

    /// Whether it can ever go on in another process. The flows of visitors have places in this one.
    fn is_movable(&self) -> bool {
        self.activity.is_none() && self.client.is_socket() && self.upstream.is_socket()
    }

    /// Whether it ends here to go on in another process: it may, and is between two pieces.
    fn leaves(&mut self) -> bool {
        self.is_leaving = moving::is_allowed()
            && self.is_movable()
            && self.up.may_leave()
            && self.down.may_leave()
            && moving::take_permission();
        self.is_leaving
    }

    /// Whether [`Flow::relay`] has ended since the flow goes on in another process.
    pub(super) const fn is_leaving(&self) -> bool {
        self.is_leaving
    }

    /// What another process needs to go on with it. `None`: the system has failed, and the flow is broken.
    pub(super) fn leave(mut self, about: About, timeouts: &Timeouts) -> Option<Box<Moved>> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.up.free_source(&self.client);
        self.down.free_source(&self.upstream);
        let mut bytes = Zeroizing::new(Vec::new());
        let (up, down) = (self.up.leave(&mut bytes)?, self.down.leave(&mut bytes)?);
        let sockets = [self.client.into_socket()?, self.upstream.into_socket()?];
        Some(Box::new(Moved {
            about,
            idle_ms: ms(timeouts.idle),
            half_close_ms: ms(timeouts.half_close),
            keep_alive_ms: timeouts.keep_alive.map(ms),
            up,
            down,
            upstream_ended_first: self.ended_first.map(|side| side == Side::Upstream),
            bytes,
            sockets: Some(sockets),
        }))
    }

    /// The user for whom it is counted.
    pub(super) fn user(&self) -> Option<&Arc<User>> {
        self.account.as_ref().map(|account| account.user())
    }

    /// Notes there what moves.
    pub(super) fn noting(self, activity: Option<Arc<Activity>>) -> Self {
        Self { activity, ..self }
    }

    /// Counts payload that was sent upstream before the flow began.
    pub(super) const fn after_trial(mut self, sent: u64) -> Self {
        self.up.count(sent);
        self
    }

    /// The flow of a user.
    pub(super) fn of_user(mut self, account: Option<Account>) -> Self {
        if account.as_ref().is_some_and(Account::keeps_short) {
            self.client.limit_unsent(UNSENT);
            self.down.limit_buffers(Size::Small);
        }
        self.account = account.map(Box::new);
        self
    }

    /// Relays until both directions have ended, one side breaks, or nothing has moved for too long.
    pub(super) async fn relay(&mut self, timeouts: &Timeouts) -> Result<(), Box<Error>> {
        let is_suspect = self
            .others
            .as_ref()
            .is_some_and(|server| server.is_suspect());
        let idle = match is_suspect {
            true => SUSPECT.min(timeouts.idle),
            false => timeouts.idle,
        };
        let settles = timeouts
            .keep_alive
            .map_or(SETTLED, |time| SETTLED.min(time));
        let mut running = Running {
            flow: self,
            timeouts,
            watch: Watch::new(idle, settles),
            keep_alive: timeouts.keep_alive,
        };
        let mut tick = pin!(sleep(running.watch.step()));
        poll_fn(|cx| running.poll(cx, tick.as_mut())).await
    }

    /// Moves bytes in both directions, if it is this flow's turn. Returns how many of them have ended.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<usize, Error> {
        let mut ended = usize::from(self.up.is_done()) + usize::from(self.down.is_done());
        if !self.turn.may_go_on(cx.waker()) {
            return Ok(ended);
        }
        let before = self.moved();
        for (half, source, sink, side) in [
            (&mut self.up, &self.client, &self.upstream, Side::Client),
            (&mut self.down, &self.upstream, &self.client, Side::Upstream),
        ] {
            if !half.is_done() && half.poll(cx, source, sink, ended == 1)?.is_ready() {
                ended += 1;
                self.ended_first.get_or_insert(side);
            }
        }
        let moved = self.moved() - before;
        self.turn.after(cx.waker(), moved);
        if let Some(activity) = self.activity.as_ref().filter(|_| moved > 0) {
            activity.note(self.up.moved() > 0);
        }
        if !self.told_answer && self.down.moved() > 0 {
            self.told_answer = true;
            if let Some(server) = &self.others {
                server.answered(None);
            }
        }
        Ok(ended)
    }

    /// Fails if the side that has ended is gone altogether.
    fn check_ended(&self, cx: &Context<'_>) -> Result<(), Error> {
        let Some(side) = self.ended_first else {
            return Ok(());
        };
        let stream = match side {
            Side::Client => &self.client,
            Side::Upstream => &self.upstream,
        };
        match stream.poll_reset(cx) {
            Poll::Ready(()) => Err(Error::io(side)(ErrorKind::ConnectionReset.into())),
            Poll::Pending => Ok(()),
        }
    }

    /// Looks, `step` after the last look, whether data arrives where it was sent. Returns whether any is still on its way.
    fn check_acknowledged(&mut self, step: Duration) -> Result<bool, Error> {
        let mut is_waiting = false;
        let sides = [
            (&self.client, Side::Client),
            (&self.upstream, Side::Upstream),
        ];
        for ((stream, side), acknowledging) in sides.into_iter().zip(&mut self.acknowledging) {
            let info = stream.tcp_info().unwrap_or_default();
            is_waiting |= info.is_waiting;
            if acknowledging.has_ceased(&info, step) && !stream.is_multipath() {
                let seconds = UNACKNOWLEDGED.as_secs();
                return Err(Error::Unacknowledged { side, seconds });
            }
        }
        Ok(is_waiting)
    }

    /// Whether this is all that a client did which others wait behind: it has sent nothing, and ended. It is probably gone.
    fn has_only_ended(&self) -> bool {
        self.activity.is_some() && self.ended_first == Some(Side::Client) && self.moved() == 0
    }

    fn moved(&self) -> u64 {
        self.up.moved() + self.down.moved()
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            up: self.up.moved(),
            down: self.down.moved(),
        }
    }

    /// Whether the client has sent something and got nothing.
    pub(super) const fn is_unanswered(&self) -> bool {
        self.up.moved() > 0 && self.down.moved() == 0
    }

    /// Why a flow ended that was unanswered and did not break.
    pub(super) const fn unanswered(&self) -> Unanswered {
        match self.ended_first {
            Some(Side::Upstream) if self.down.opens() => Unanswered::Server,
            Some(Side::Upstream) => Unanswered::Target,
            _ => Unanswered::Client,
        }
    }

    /// Tells what knows the server that the flow has failed, if that was perhaps the server's fault.
    pub(super) fn blame_server(&self, failure: Option<Failure>, target: Option<&str>) {
        if let (Some(failure), Some(server)) = (failure, &self.others) {
            server.unanswered(&failure, target.unwrap_or_default());
        }
    }

    /// The server, where one of several was chosen.
    pub(super) fn server(&self) -> Option<String> {
        self.others.as_ref().and_then(|server| server.server())
    }

    /// Closes both streams after [`Flow::relay`]. The stream of a client that broke the protocol is returned instead.
    pub(super) fn close(self: Box<Self>, error: Option<&Error>) -> Option<Stream> {
        match error {
            None | Some(Error::Idle { .. }) => {
                if self.has_only_ended() {
                    self.upstream.reset_on_close();
                }
                None
            }
            Some(
                Error::Wire {
                    side: Side::Client, ..
                }
                | Error::Cut(Side::Client),
            ) => {
                self.upstream.reset_on_close();
                Some(self.client)
            }
            // A plain close would look like the end of the data, so a broken stream is passed on as a reset.
            Some(_) => {
                self.client.reset_on_close();
                self.upstream.reset_on_close();
                None
            }
        }
    }
}

/// A flow and its timers while it runs.
struct Running<'a> {
    flow: &'a mut Flow,
    timeouts: &'a Timeouts,
    watch: Watch,
    /// The keepalive time, until it is set.
    keep_alive: Option<Duration>,
}

impl Running<'_> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut tick: Pin<&mut Sleep>,
    ) -> Poll<Result<(), Box<Error>>> {
        let (flow, watch) = (&mut *self.flow, &mut self.watch);
        if flow.leaves() {
            return Poll::Ready(Ok(()));
        }
        if flow.place.is_none() && flow.is_movable() {
            flow.place = Some(Place::take(cx.waker()));
        }
        if let Some(account) = &mut flow.account {
            // A flow that waits for its user's rate is not idle.
            let Poll::Ready(may_go_on) = account.poll(cx) else {
                flow.turn.give_up();
                return Poll::Pending;
            };
            may_go_on?;
        }
        let had_answer = flow.told_answer;
        let ended = flow.turn(cx)?;
        let traffic = flow.traffic();
        if let Some(account) = &mut flow.account {
            account.note(traffic, &flow.client, cx);
        }
        if ended == 0 && flow.told_answer && !had_answer {
            watch.lengthen(self.timeouts.idle, tick.as_mut());
        }
        match ended {
            2 => return Poll::Ready(Ok(())),
            1 => {
                flow.check_ended(cx)?;
                // The idle limit is short now: no probes are needed.
                self.keep_alive = None;
                let (half_close, is_silent) = (self.timeouts.half_close, flow.has_only_ended());
                match is_silent {
                    true => watch.shorten(half_close.min(ENDED_SILENT), tick.as_mut()),
                    false => watch.shorten(half_close, tick.as_mut()),
                }
                if flow.activity.is_some() && !is_silent {
                    watch.lengthen(half_close.min(self.timeouts.idle), tick.as_mut());
                }
            }
            _ => {}
        }
        watch.note(flow.moved(), tick.as_mut());
        while tick.as_mut().poll(cx).is_ready() {
            if let Some(time) = self.keep_alive.take() {
                // If the system refuses, there is still the idle timeout.
                let _ = flow.upstream.keep_alive(time);
            }
            let is_waiting = flow.check_acknowledged(watch.step())?;
            watch.tick(flow.moved(), is_waiting).map_err(Box::new)?;
            tick.as_mut().reset(Instant::now() + watch.step());
        }
        Poll::Pending
    }
}
