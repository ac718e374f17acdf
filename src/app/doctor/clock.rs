//! The clocks: AEAD-2022 wants them to agree to 30 seconds. Servers answer other times with silence, so times are tried.

use std::time::{Duration, UNIX_EPOCH};

use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use super::context::{Context, Job, first};
use super::exchange::{Heard, Shift};
use super::query::{self, Family};
use super::report::{Code, Problem, Verdict};
use super::web::{ask_directly, ask_web};
use crate::app::services::single::Running;
use crate::config::Server;
use crate::crypto::{self, TAG_LEN};
use crate::net::{udp, unix_now};
use crate::outbound::endpoint::Endpoint;
use crate::wire;
use crate::wire::ss::packet::{ClientPackets, PacketSealer};

/// How long one attempt may take.
const TRIED: Duration = Duration::from_millis(1200);
/// How long a web server may take to tell the time.
const DATED: Duration = Duration::from_secs(2);
/// How long the answer to a datagram may take.
const ANSWERED: Duration = Duration::from_secs(1);
/// Differences that datagrams try, in seconds: up to this one, and this far apart. A server accepts 30 s.
const FURTHEST: i64 = 86_400;
const APART: i64 = 40;
/// Datagrams that are sent at once, and the pause after them.
const BURST: usize = 12;
const PAUSE: Duration = Duration::from_millis(3);
/// Connections that are tried at once.
const AT_ONCE: usize = 42;
/// A time by which no response can be right, so that the server's clock is told; in seconds.
const ABSURD: i64 = 10_000_000;
/// Differences that are worth a word, and that are too many, in seconds.
const NOTABLE: i64 = 10;
const TOO_MUCH: i64 = 30;

/// The server's clock is `seconds` ahead of ours.
pub(super) fn fault(seconds: i64, place: &str) -> Verdict {
    problem(seconds, place, "", Verdict::Fault)
}

fn problem(seconds: i64, place: &str, whose: &str, kind: fn(Problem) -> Verdict) -> Verdict {
    let way = if seconds < 0 { "behind" } else { "ahead of" };
    kind(Problem::new(
        Code::Clock,
        format!(
            "the clock of the server is {} ({} s) {way} the clock of this machine{whose}; 30 s are allowed",
            span(seconds.unsigned_abs()),
            seconds.unsigned_abs()
        ),
        place,
        "set the clock that is wrong, and run an NTP client on both machines (`timedatectl set-ntp true`)",
    ))
}

fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Measures the difference where the key works.
pub(super) async fn measure(cx: &Context<'_>, endpoint: &Endpoint) -> Verdict {
    if endpoint.credentials.method().family() != crypto::Family::Aead2022 {
        return Verdict::Skipped("methods before AEAD-2022 do not look at the time".to_owned());
    }
    let shift = Shift {
        sent: 0,
        judged: ABSURD,
    };
    let reply = ask_web(cx, endpoint, shift, ANSWERED * 4).await;
    let Heard::Skewed(seconds) = reply.heard else {
        return Verdict::Skipped("the server did not answer a second request".to_owned());
    };
    let seconds = seconds + ABSURD;
    match seconds.abs() {
        ..NOTABLE => Verdict::Ok(format!("the clocks differ by {} s", seconds.abs())),
        _ => problem(
            seconds,
            &format!("server {}", endpoint.address),
            "",
            Verdict::Warning,
        ),
    }
}

/// Compares our clock with that of a web server.
pub(super) async fn against_the_web(cx: &Context<'_>) -> Verdict {
    let Some(seconds) = web_clock(cx).await else {
        let target = &cx.settings.down.target;
        return Verdict::Skipped(format!("{target} does not tell the time"));
    };
    let matters = cx.config.servers.iter();
    let matters = matters
        .map(|server| server.method.family())
        .any(|family| family == crypto::Family::Aead2022);
    let (way, apart) = match seconds < 0 {
        true => ("ahead of", seconds.unsigned_abs()),
        false => ("behind", seconds.unsigned_abs()),
    };
    if seconds.abs() < NOTABLE {
        return Verdict::Ok(format!("within {apart} s of {}", cx.settings.down.target));
    }
    let problem = Problem::new(
        Code::Clock,
        format!(
            "the clock of this machine is {} ({apart} s) {way} that of {}; AEAD-2022 allows 30 s",
            span(apart),
            cx.settings.down.target
        ),
        "this machine",
        "set the clock, and run an NTP client (`timedatectl set-ntp true`)",
    );
    match matters && seconds.abs() >= TOO_MUCH {
        true => Verdict::Fault(problem),
        false => Verdict::Warning(problem),
    }
}

/// How far a web server's clock is ahead of ours, in seconds.
async fn web_clock(cx: &Context<'_>) -> Option<i64> {
    let head = ask_directly(cx, DATED).await?;
    let date = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then(|| value.trim())
    })?;
    let time = httpdate::parse_http_date(date).ok()?;
    let time = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(time.cast_signed().saturating_sub(unix_now().cast_signed()))
}

/// Finds how far the clock of a silent server is ahead of ours, in seconds; `None`: the time is not what is wrong.
pub(super) async fn search(cx: &Context<'_>, server: &Server, plugin: &Running) -> Option<i64> {
    if server.method.family() != crypto::Family::Aead2022 {
        return None;
    }
    let endpoint = cx.endpoint(server, plugin).ok()?;
    let inside = server.udp_over_tcp.is_some()
        || server.multiplex.is_some()
        || server.transport.as_ref().is_some_and(|one| one.udp_inside);
    let is_direct = endpoint.packet_plugin.is_none() && endpoint.dialer.proxies.is_none();
    if server.mode.udp && is_direct && !inside {
        let found = by_datagrams(cx, &endpoint).await;
        if found.is_some() {
            return found;
        }
    }
    by_streams(cx, &endpoint).await
}

/// Sends a query for each time, all in one session. The one that the server accepts is answered.
async fn by_datagrams(cx: &Context<'_>, endpoint: &Endpoint) -> Option<i64> {
    let peer = endpoint.dialer.resolve(&endpoint.address, true).await?;
    let socket = endpoint.dialer.options.outgoing_udp().ok()?;
    let is_v6 = socket.local_addr().ok()?.is_ipv6();
    let socket = UdpSocket::from_std(socket.into()).ok()?;
    let peer = if is_v6 { udp::mapped(peer) } else { peer };
    socket.connect(peer).await.ok()?;

    let session = rand::random();
    let mut sealer = PacketSealer::client(&endpoint.credentials, session).ok()?;
    let target = cx.settings.name_server.as_ref();
    let mut body = vec![0; target.encoded_len()];
    target.encode(&mut body)?;
    body.extend(query::query(
        &query::asked_name(&cx.settings.down),
        Family::V4,
        rand::random(),
    )?);
    let send = async {
        let start = sealer.headroom();
        let (mut shift, mut sent) = (0, 0_usize);
        loop {
            let mut packet = vec![0; start + body.len() + TAG_LEN];
            if let Some(room) = packet.get_mut(start..start + body.len()) {
                room.copy_from_slice(&body);
            }
            let now = unix_now().saturating_add_signed(shift);
            let sealed = sealer.seal(&mut packet, start..start + body.len(), now, rand::random);
            if let Ok(range) = sealed {
                let _lost = socket.send(packet.get(range).unwrap_or_default()).await;
            }
            // Near differences first: 0, 40, -40, 80, …
            shift = if shift > 0 { -shift } else { APART - shift };
            if shift > FURTHEST {
                break;
            }
            sent += 1;
            if sent.is_multiple_of(BURST) {
                sleep(PAUSE).await;
            }
        }
        sleep(ANSWERED).await;
        None
    };
    let receive = async {
        let mut room = vec![0; 4096];
        loop {
            let Ok(len) = socket.recv(&mut room).await else {
                sleep(PAUSE).await;
                continue;
            };
            let mut packets = ClientPackets::new(&endpoint.credentials, session);
            let packet = room.get_mut(..len).unwrap_or_default();
            let now = unix_now().saturating_add_signed(ABSURD);
            if let Err(wire::Error::TimestampSkew { seconds }) = packets.open(packet, None, now) {
                return Some(seconds + ABSURD);
            }
        }
    };
    tokio::select! {
        found = receive => found,
        none = send => none,
    }
}

/// Tries what the web says, minutes, and the hours of time zones.
async fn by_streams(cx: &Context<'_>, endpoint: &Endpoint) -> Option<i64> {
    let mut shifts: Vec<i64> = web_clock(cx).await.into_iter().collect();
    let minutes = (1..=12).map(|count| 50 * count);
    let half_hours = (1..=28).map(|count| 1800 * count);
    for shift in minutes.chain(half_hours).chain([86_400]) {
        shifts.extend([shift, -shift]);
    }
    for group in shifts.chunks(AT_ONCE) {
        let jobs = group.iter().map(|sent| {
            let shift = Shift {
                sent: *sent,
                judged: ABSURD,
            };
            let job: Job<'_, Option<i64>> = Box::pin(async move {
                let asked = ask_web(cx, endpoint, shift, TRIED);
                match timeout(TRIED * 2, asked).await.ok()?.heard {
                    Heard::Skewed(seconds) => Some(seconds + ABSURD),
                    _ => None,
                }
            });
            job
        });
        let found = first(jobs.collect()).await;
        if found.is_some() {
            return found;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_readable() {
        let spans = [
            (7, "7 s"),
            (75, "1 min 15 s"),
            (10_800, "3 h 0 min"),
            (90_000, "1 d 1 h"),
        ];
        for (seconds, text) in spans {
            assert_eq!(span(seconds), text);
        }
    }
}
