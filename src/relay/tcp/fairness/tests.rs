#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::spawn;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;

use super::*;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

/// The turns of a test's flows, in order.
type Log = Arc<Mutex<Vec<&'static str>>>;

/// A bulk flow that takes `turns` turns.
fn bulk(name: &'static str, turns: usize, log: &Log) -> JoinHandle<()> {
    let log = Arc::clone(log);
    let mut left = turns;
    let mut flow = bulk_turn();
    spawn(poll_fn(move |cx| {
        if !flow.may_go_on(cx.waker()) {
            return Poll::Pending;
        }
        log.lock().unwrap().push(name);
        left -= 1;
        flow.after(cx.waker(), BULK);
        if left == 0 {
            return Poll::Ready(());
        }
        reschedule(cx.waker());
        Poll::Pending
    }))
}

/// The turn of a flow that has been a bulk flow for a while.
fn bulk_turn() -> Turn {
    let mut flow = Turn::new();
    for _ in 0..BULK_TURNS {
        flow.after(Waker::noop(), BULK);
    }
    flow
}

async fn soon(flow: JoinHandle<()>) {
    timeout(LIMIT, flow).await.expect("in time").unwrap();
}

#[test]
fn bulk_turns_are_short_for_a_while_after_an_interactive_one() {
    let (mut flow, waker) = (Turn::new(), Waker::noop());
    assert_eq!((largest(), turn()), (Size::Large, LONG_TURN));
    flow.after(waker, 0);
    flow.after(waker, 500_000);
    assert_eq!(largest(), Size::Large);
    Turn::new().after(waker, INTERACTIVE);
    for _ in 0..REMEMBERED_TURNS {
        assert_eq!((largest(), turn()), (Size::Medium, SHORT_TURN));
        flow.after(waker, 10_000);
        flow.after(waker, 80_000);
    }
    assert_eq!((largest(), turn()), (Size::Large, LONG_TURN));
}

#[test]
fn small_turns_beside_bulk_do_not_count_as_interactive() {
    let (mut flow, waker) = (Turn::new(), Waker::noop());
    for _ in 0..3 {
        for _ in 0..MAX_BULK_TURNS {
            flow.after(waker, BULK);
        }
        for _ in 0..MAX_BULK_TURNS {
            flow.after(waker, 13);
        }
        assert!(!is_due());
    }
    flow.after(waker, 13);
    assert!(is_due());
}

#[test]
fn web_page_is_not_bulk() {
    note_interactive();
    let (owner, mut page, waker) = (bulk_turn(), Turn::new(), Waker::noop());
    assert!(owner.may_go_on(waker));
    for _ in 0..BULK_TURNS {
        assert!(page.may_go_on(waker));
        page.after(waker, BULK);
    }
    assert!(!page.may_go_on(waker));
}

#[tokio::test]
async fn sockets_are_polled_between_two_bulk_turns() {
    let log = Log::default();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(socket.local_addr().unwrap()).await.unwrap();
    // A datagram arrives before each poll of the sockets.
    let beside = Arc::clone(&log);
    let small = spawn(async move {
        loop {
            socket.send(b"x").await.unwrap();
            socket.recv(&mut [0]).await.unwrap();
            assert!(socket.try_recv(&mut [0]).is_err());
            beside.lock().unwrap().push("datagram");
        }
    });
    while log.lock().unwrap().is_empty() {
        yield_now().await;
    }
    note_interactive();
    for flow in ["a", "b", "c"].map(|name| bulk(name, 4, &log)) {
        soon(flow).await;
    }
    small.abort();
    let log = log.lock().unwrap();
    let mut turns = [0_i32; 3];
    for pair in log.windows(2) {
        assert!(pair.contains(&"datagram"), "{log:?}");
        for (turns, name) in turns.iter_mut().zip(["a", "b", "c"]) {
            *turns += i32::from(pair[0] == name);
        }
        let (least, most) = (turns.iter().min(), turns.iter().max());
        assert!(most.unwrap() - least.unwrap() <= 2, "{log:?}");
    }
}

#[tokio::test]
async fn dropped_flow_passes_its_turn_on() {
    let log = Log::default();
    note_interactive();
    let owner = bulk_turn();
    assert!(owner.may_go_on(Waker::noop()));
    let (first, second) = (bulk("a", 2, &log), bulk("b", 2, &log));
    while QUEUE.with_borrow(|queue| queue.waiting.len()) < 2 {
        yield_now().await;
    }
    assert!(log.lock().unwrap().is_empty());
    // Drops the flow that is next, and then the one that has the turn.
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    drop(owner);
    soon(second).await;
    assert_eq!(*log.lock().unwrap(), ["b", "b"]);
    assert!(QUEUE.with_borrow(|queue| queue.turn.is_none() && queue.waiting.is_empty()));
}

#[tokio::test]
async fn waiting_flows_continue_when_fairness_ends() {
    let log = Log::default();
    note_interactive();
    let mut owner = bulk_turn();
    assert!(owner.may_go_on(Waker::noop()));
    let flows = ["a", "b"].map(|name| bulk(name, 3, &log));
    while QUEUE.with_borrow(|queue| queue.waiting.len()) < 2 {
        yield_now().await;
    }
    DUE.set(0);
    owner.after(Waker::noop(), BULK);
    for flow in flows {
        soon(flow).await;
    }
    assert_eq!(log.lock().unwrap().len(), 6);
}
