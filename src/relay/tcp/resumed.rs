//! Flows that another process has begun, or this one before it was to be replaced.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::account::Account;
use super::flow::Flow;
use super::moving::{self, About, Moved, Owner};
use super::record::{End, FlowRecord};
use super::request::{Outbound, Request, Timeouts};
use crate::relay::counters::Counters;
use crate::relay::error::Error;
use crate::relay::leg::Leg;
use crate::relay::users::{Protocol, Refusal, Session};

/// Stands for the outbound of a flow that is connected already.
struct Connected;

impl Outbound for Connected {
    fn may_confirm_early(&self, _: &Request) -> bool {
        false
    }

    async fn connect(&self, _: &Request) -> Result<Leg, Error> {
        Err(Error::NotOffered("the flow is connected already"))
    }
}

/// Passes a flow on that leaves, or goes on with it if nobody moves flows any more. In a box: nearly no flow does this.
pub(super) fn move_on<'a>(
    flow: Flow,
    record: FlowRecord<'a>,
    timeouts: &Timeouts,
    counters: &'a Arc<Counters>,
) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
    let about = record.about(flow.user());
    drop(record);
    let moved = flow.leave(about, timeouts);
    let stays = moved.and_then(|moved| moving::pass_on(moved).err());
    Box::pin(async move {
        if let Some(stays) = stays {
            resume(stays, counters).await;
        }
    })
}

/// Serves a flow to its end, or until it goes on in yet another process.
pub async fn resume(mut moved: Box<Moved>, counters: &Arc<Counters>) {
    let mut record = FlowRecord::resumed(&moved.about, counters);
    let account = account(&moved.about, &mut record, counters);
    let ms = Duration::from_millis;
    let timeouts = Timeouts {
        handshake: ms(moved.idle_ms),
        connect: ms(moved.idle_ms),
        idle: ms(moved.idle_ms),
        half_close: ms(moved.half_close_ms),
        first_payload_wait: Duration::ZERO,
        keep_alive: moved.keep_alive_ms.map(ms),
    };
    let traffic = moved.traffic();
    let account = match account {
        Ok(account) => account.map(|account| account.after(traffic)),
        // Its sockets are closed: its user may not go on.
        Err(refusal) => return record.close(Some(&refusal.into()), traffic),
    };
    let Some(flow) = Flow::resume(&mut moved) else {
        let error = Error::NotOffered("the old process described it in another way");
        return record.close(Some(&error), traffic);
    };
    drop(moved);
    let mut flow = Box::new(flow.of_user(account));
    let error = flow.relay(&timeouts).await.err();
    if flow.is_leaving() {
        return move_on(*flow, record, &timeouts, counters).await;
    }
    let traffic = flow.traffic();
    if error.is_some() || flow.is_unanswered() {
        let end = End::of_flow(error.as_deref(), &flow);
        record.note_failure(&Connected, end);
    }
    // A client that breaks the protocol was authenticated: it needs no silence.
    drop(flow.close(error.as_deref()));
    record.close(error.as_deref(), traffic);
}

/// Begins a session of the flow's user here.
fn account(
    about: &About,
    record: &mut FlowRecord<'_>,
    counters: &Counters,
) -> Result<Option<Account>, Refusal> {
    let user = match &about.owner {
        Owner::Nobody => return Ok(None),
        Owner::Everybody => counters.users.everybody().map(Arc::clone),
        Owner::User { server, name } => {
            let found = counters.users.find(server, name.as_deref());
            record.user.clone_from(&found);
            Some(found.ok_or(Refusal::Removed)?)
        }
    };
    let target: Arc<str> = about.target.as_deref().unwrap_or_default().into();
    let begin = |user| Session::begin(&user, about.peer, target, Protocol::Tcp).map(Account::new);
    user.map(begin).transpose()
}
