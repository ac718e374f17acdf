//! Lost packets, by small ones that do not fill the way: datagrams that are answered, and segments of a stream.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, interval, sleep, sleep_until, timeout_at};

use super::context::Context;
use super::exchange::{Conversation, Shift};
use super::key::Subject;
use super::packets::Packets;
use super::query;
use super::report::{Code, Problem, Verdict};

/// Packets of each kind, and the time between two of them.
const COUNT: u16 = 150;
const APART: Duration = Duration::from_millis(8);
/// Bytes in a segment.
const SMALL: usize = 32;
/// How long after the last one answers and acknowledgements are waited for.
const AFTER: Duration = Duration::from_millis(900);
/// With fewer packets, nothing is said.
const ENOUGH: u64 = 60;
/// Lost packets in a thousand that are worth a word, and that are too many.
const NOTABLE: u64 = 10;
const TOO_MANY: u64 = 20;

/// Packets that were sent, and those of them that were lost.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    sent: u64,
    lost: u64,
}

impl Tally {
    fn per_mille(self) -> u64 {
        (self.lost * 1000).checked_div(self.sent).unwrap_or(0)
    }
}

/// Measures. `with_packets`: datagrams pass.
pub(super) async fn loss(cx: &Context<'_>, subject: &Subject<'_>, with_packets: bool) -> Verdict {
    let datagrams = async {
        match with_packets {
            true => datagrams(cx, subject).await,
            false => Tally::default(),
        }
    };
    let (datagrams, segments) = tokio::join!(datagrams, segments(cx, subject));
    judge(
        datagrams,
        segments,
        &format!("server {}", subject.server.address),
    )
}

fn judge(datagrams: Tally, segments: Tally, server: &str) -> Verdict {
    let both = Tally {
        sent: datagrams.sent + segments.sent,
        lost: datagrams.lost + segments.lost,
    };
    if both.sent < ENOUGH {
        return Verdict::Skipped("too few packets could be sent".to_owned());
    }
    let share = both.per_mille();
    let shares = format!(
        "{}.{} % of the packets were lost ({} of {} datagrams there and back, {} of {} segments of TCP on the way there)",
        share / 10,
        share % 10,
        datagrams.lost,
        datagrams.sent,
        segments.lost,
        segments.sent
    );
    if share < NOTABLE {
        return Verdict::Ok(shares);
    }
    let problem = Problem::new(
        Code::Loss,
        shares,
        format!("between this machine and {server}"),
        "try a cable in place of a wireless network, another network, or a server that is nearer; with the loss as it is, BBR helps (`sysctl net.ipv4.tcp_congestion_control=bbr` on both machines)",
    );
    match share < TOO_MANY {
        true => Verdict::Warning(problem),
        false => Verdict::Fault(problem),
    }
}

async fn datagrams(cx: &Context<'_>, subject: &Subject<'_>) -> Tally {
    let Ok(mut packets) = Packets::open(cx, subject).await else {
        return Tally::default();
    };
    let mut answered = HashSet::new();
    let mut ticks = interval(APART);
    let mut sent = 0;
    while sent < COUNT {
        tokio::select! {
            _ = ticks.tick() => {
                packets.send(sent);
                sent += 1;
            }
            received = packets.receive(|id| answered.extend([id])) => {
                if received.is_err() {
                    return Tally::default();
                }
            }
        }
    }
    let deadline = Instant::now() + AFTER;
    while answered.len() < usize::from(COUNT) {
        let received = packets.receive(|id| answered.extend([id]));
        if !matches!(timeout_at(deadline, received).await, Ok(Ok(()))) {
            break;
        }
    }
    // A name server that answers hardly anything limits how often it may be asked.
    match answered.len() * 2 < usize::from(COUNT) {
        true => Tally::default(),
        false => Tally {
            sent: u64::from(COUNT),
            lost: u64::from(COUNT).saturating_sub(u64::try_from(answered.len()).unwrap_or(0)),
        },
    }
}

/// Sends an upload in small pieces. The system counts those that it had to send again.
async fn segments(cx: &Context<'_>, subject: &Subject<'_>) -> Tally {
    let up = &cx.settings.up;
    let talk = Conversation::begin(subject.endpoint, &up.target, Shift::default()).await;
    let Ok(mut talk) = talk else {
        return Tally::default();
    };
    let Some(before) = talk.stream.tcp_info() else {
        return Tally::default();
    };
    let whole = usize::from(COUNT) * SMALL;
    if talk.send(&query::post(up, whole)).await.is_err() {
        return Tally::default();
    }
    let mut ticks = interval(APART);
    for _ in 0..COUNT {
        ticks.tick().await;
        if talk.send(&[0; SMALL]).await.is_err() {
            break;
        }
    }
    let deadline = Instant::now() + AFTER;
    while talk.stream.unacknowledged().is_some_and(|bytes| bytes > 0) && Instant::now() < deadline {
        sleep(APART).await;
    }
    sleep_until(deadline.min(Instant::now() + APART)).await;
    let Some(after) = talk.stream.tcp_info() else {
        return Tally::default();
    };
    let again = after.retransmitted.saturating_sub(before.retransmitted);
    let lost = again.saturating_sub(after.needless.saturating_sub(before.needless));
    let sent = after.sent.saturating_sub(before.sent);
    Tally {
        sent: u64::from(sent.saturating_sub(again)),
        lost: u64::from(lost.min(sent)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_told_from_none() {
        let tally = |sent, lost| Tally { sent, lost };
        let none = judge(tally(150, 0), tally(150, 1), "server a");
        assert!(matches!(none, Verdict::Ok(_)), "{none:?}");
        let some = judge(tally(150, 1), tally(150, 3), "server a");
        assert!(matches!(some, Verdict::Warning(_)), "{some:?}");
        let much = judge(tally(150, 8), tally(150, 7), "server a");
        assert!(matches!(much, Verdict::Fault(_)), "{much:?}");
        let unknown = judge(tally(0, 0), tally(9, 9), "server a");
        assert!(matches!(unknown, Verdict::Skipped(_)), "{unknown:?}");
    }
}
