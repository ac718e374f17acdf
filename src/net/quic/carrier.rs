//! A client's connection: its flows, its end when nobody uses it, and its moves to another network.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::time::Duration;

use quinn::{Connection, ConnectionError, Endpoint};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::early::Agreed;
use super::packets::{self, Lanes, Outlet};
use super::settings::{FAREWELL, NO_ERROR, socket};
use super::unread::Unread;
use crate::limits::QUIC_UNUSED;
use crate::net::{self, SocketOptions, sampled};

/// How often it is looked whether the server is heard.
const LOOK: Duration = Duration::from_millis(250);
/// A connection with flows that was busy and has heard nothing for so long tries another port of this machine.
const SILENCE: Duration = Duration::from_millis(750);
/// Looks without flows between two looks that matter.
const IDLE_LOOK: Duration = Duration::from_secs(5);
/// How often it is looked whether the server is heard again.
const QUICK_LOOK: Duration = Duration::from_millis(10);
/// For how long it is looked before the connection tries another port of this machine.
const QUICK_LOOKS: Duration = Duration::from_secs(1);
/// How long a connection goes on without flows that is not to have any more.
const LINGER: Duration = Duration::from_secs(1);

/// A connection that flows share.
pub(super) struct Carrier {
    pub(super) connection: Connection,
    pub(super) endpoint: Endpoint,
    /// Whether the server has agreed to early data, where some was sent.
    pub(super) agreed: Option<Agreed>,
    /// Sends packets of UDP associations, ...
    pub(super) outlet: Arc<Outlet>,
    /// ... and these get those that come.
    pub(super) lanes: Lanes,
    /// How long it is kept without flows.
    keeps: Duration,
    flows: AtomicUsize,
    /// How many challenges (RFC 9000 §9.3) must have come from the server: then it has heard us since that was last in doubt.
    challenges: AtomicU64,
    /// It is in doubt whether the server is heard.
    pub(super) doubts: Notify,
    /// A flow has begun.
    begun: Notify,
    /// The last flow has ended.
    unused: Notify,
    /// New flows are to begin elsewhere: the server has said so, or readers that do not read have used up the window.
    is_left: AtomicBool,
    /// It is so now.
    left: Notify,
    /// What it may have received and not yet read.
    unread: Option<Unread>,
}

/// A flow of a carrier, as long as it lasts.
pub(super) struct Flow(Arc<Carrier>);

impl Drop for Flow {
    fn drop(&mut self) {
        if self.0.flows.fetch_sub(1, SeqCst) == 1 {
            self.0.unused.notify_one();
        }
    }
}

impl Carrier {
    /// `alone`: no other flows will come.
    pub(super) fn new(connection: Connection, endpoint: Endpoint, alone: bool) -> Self {
        Self {
            outlet: Arc::new(Outlet::new(connection.clone())),
            lanes: Lanes::default(),
            keeps: if alone { net::FAREWELL } else { QUIC_UNUSED },
            connection,
            endpoint,
            agreed: None,
            flows: AtomicUsize::new(0),
            challenges: AtomicU64::new(0),
            doubts: Notify::new(),
            begun: Notify::new(),
            unused: Notify::new(),
            is_left: AtomicBool::new(false),
            left: Notify::new(),
            unread: (!alone).then(Unread::take),
        }
    }

    /// With what tells whether the server agrees to early data.
    pub(super) fn with_agreed(mut self, agreed: Option<Agreed>) -> Self {
        self.agreed = agreed;
        self
    }

    /// Counts a flow.
    pub(super) fn begin(self: &Arc<Self>) -> Flow {
        self.flows.fetch_add(1, SeqCst);
        self.begun.notify_one();
        Flow(Arc::clone(self))
    }

    /// What tells whether the server agrees to early data, as long as it has not said so.
    pub(super) fn undecided(&self) -> Option<&Agreed> {
        let agreed = self.agreed.as_ref();
        agreed.filter(|agreed| agreed.borrow().is_none())
    }

    /// Whether flows can begin.
    pub(super) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none() && !self.is_left()
    }

    /// Whether the connection ends with its present flows.
    pub(super) fn is_left(&self) -> bool {
        self.is_left.load(SeqCst)
    }

    /// Doubts that datagrams still go both ways, and sends from another port: a server that hears from there says so. What it sends by
    /// itself may come where nothing is let out.
    pub(super) fn doubt(&self, options: &SocketOptions) {
        self.challenges.store(self.challenged() + 1, Relaxed);
        self.doubts.notify_waiters();
        self.rebind(options);
    }

    /// Whether datagrams go both ways, as far as is known.
    pub(super) fn is_heard(&self) -> bool {
        self.challenged() >= self.challenges.load(Relaxed)
    }

    fn challenged(&self) -> u64 {
        self.connection.stats().frame_rx.path_challenge
    }

    /// Waits until datagrams go both ways. Cancel safe.
    pub(super) async fn until_heard(&self, options: &SocketOptions) -> Result<(), ConnectionError> {
        let mut since = Instant::now();
        loop {
            if let Some(end) = self.connection.close_reason() {
                return Err(end);
            }
            if self.is_heard() {
                return Ok(());
            }
            if since.elapsed() >= QUICK_LOOKS {
                since = Instant::now();
                self.rebind(options);
            }
            sleep(QUICK_LOOK).await;
        }
    }

    /// Sends from another port of this machine from now on: the server notices, and what was lost is sent again at once (RFC 9000
    /// §9). Where the network has changed, the new socket has an address of the new one.
    pub(super) fn rebind(&self, options: &SocketOptions) {
        if let Err(error) = socket(options).and_then(|socket| self.endpoint.rebind(socket)) {
            sampled::debug!("a QUIC connection cannot move to another socket", %error);
        }
    }

    /// Looks after the connection until it ends.
    pub(super) async fn look_after(self: Arc<Self>, options: SocketOptions) {
        // What is said before the server has refused early data would be lost with that.
        if let Some(agreed) = &self.agreed {
            // An error means that the connection has ended.
            let _ = agreed.clone().wait_for(Option::is_some).await;
        }
        if let Some(unread) = &self.unread {
            self.connection.set_receive_window(unread.window());
        }
        tokio::select! {
            () = self.keep(options) => {}
            () = self.leave() => {}
        }
    }

    /// Has new flows begin in another connection.
    fn be_left(&self) {
        self.is_left.store(true, SeqCst);
        self.left.notify_one();
    }

    /// Passes on packets of UDP associations. Ends the connection with its last flow, once new ones begin elsewhere.
    async fn leave(&self) {
        let received = packets::receive(&self.connection, None, |packet| {
            if *packet == *FAREWELL {
                self.be_left();
            } else {
                self.lanes.deliver(packet);
            }
        });
        let left = async {
            self.left.notified().await;
            while self.flows.load(SeqCst) > 0 {
                self.unused.notified().await;
            }
            // What they have sent may still be on its way.
            sleep(LINGER).await;
            self.connection.close(NO_ERROR, b"");
        };
        tokio::select! {
            _ = received => {}
            () = left => {}
        }
    }

    /// Ends the connection when no flow has used it for a while, moves it when the server is not heard any more, and leaves it when its
    /// window is used up.
    async fn keep(&self, options: SocketOptions) {
        let mut heard = Heard::new(&self.connection);
        let mut window = Window::default();
        let mut unused_since = None;
        loop {
            if self.connection.close_reason().is_some() {
                return;
            }
            if self.flows.load(Relaxed) == 0 {
                let since = *unused_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= self.keeps {
                    self.connection.close(NO_ERROR, b"");
                    return;
                }
                tokio::select! {
                    () = self.begun.notified() => unused_since = None,
                    () = sleep(IDLE_LOOK.min(self.keeps)) => {}
                }
                heard = Heard::new(&self.connection);
                continue;
            }
            unused_since = None;
            sleep(LOOK).await;
            if window.is_used_up(&self.connection) && !self.is_left() {
                sampled::debug!(
                    "readers that do not read hold up a QUIC connection: new flows begin in another one"
                );
                self.be_left();
            }
            // A server takes nothing from another port before the handshake is over (RFC 9000 §9).
            if self.undecided().is_none() && heard.is_silent(&self.connection) {
                self.doubt(&options);
            }
        }
    }
}

/// Whether what is received is read.
#[derive(Default)]
struct Window {
    /// How often the server has said that the window stops it (DATA_BLOCKED, RFC 9000 §19.12), and how often it was given more.
    stopped: u64,
    moved: u64,
    /// It may have been stopped since it was given more the last time.
    is_stopped: bool,
}

impl Window {
    /// Whether the server was stopped and has been given nothing since the last look.
    fn is_used_up(&mut self, connection: &Connection) -> bool {
        let stats = connection.stats();
        let (stopped, moved) = (stats.frame_rx.data_blocked, stats.frame_tx.max_data);
        let has_stopped = std::mem::replace(&mut self.stopped, stopped) != stopped;
        let has_moved = std::mem::replace(&mut self.moved, moved) != moved;
        self.is_stopped = has_stopped || (self.is_stopped && !has_moved);
        self.is_stopped && !has_moved
    }
}

/// What was heard of the server.
struct Heard {
    datagrams: u64,
    sent: u64,
    at: Instant,
    /// Something was heard since, or sent that is not answered.
    expects: bool,
}

impl Heard {
    fn new(connection: &Connection) -> Self {
        let stats = connection.stats();
        Self {
            datagrams: stats.udp_rx.datagrams,
            sent: stats.udp_tx.datagrams,
            at: Instant::now(),
            expects: false,
        }
    }

    /// Whether the server should have been heard and was not. Then it counts as heard now, so that tries have some distance.
    fn is_silent(&mut self, connection: &Connection) -> bool {
        let stats = connection.stats();
        if stats.udp_rx.datagrams != self.datagrams {
            // While much arrives, the next silence means something.
            let busy = stats.udp_rx.datagrams - self.datagrams > 1;
            *self = Self::new(connection);
            self.expects = busy;
            return false;
        }
        if stats.udp_tx.datagrams != self.sent {
            self.sent = stats.udp_tx.datagrams;
            self.expects = true;
        }
        let patience = SILENCE.max(3 * connection.rtt());
        if !self.expects || self.at.elapsed() < patience {
            return false;
        }
        self.at = Instant::now();
        true
    }
}
