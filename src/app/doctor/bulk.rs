//! What much data shows: long packets that vanish, and the speed.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::context::{Context, Job, all};
use super::exchange::{Conversation, End, Shift};
use super::key::Subject;
use super::path::black_hole;
use super::query;
use super::report::{Code, Problem, Verdict};
use crate::outbound::endpoint::Endpoint;

/// Bytes of an upload that shows whether long packets arrive; several of them.
const UPLOAD: usize = 24 * 1024;
/// Bytes after which long packets have arrived.
const ARRIVED: u64 = 4 * 1024;
/// How long they may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The lengths of segments that are tried, without headers.
const SEGMENTS: [u32; 8] = [1400, 1360, 1320, 1280, 1240, 1160, 960, 536];

/// How long the speed is measured, in each direction.
const MEASURED: Duration = Duration::from_millis(2500);
/// Fewer bytes say nothing of the speed.
const FEW: u64 = 48 * 1024;
/// Bytes of an upload; it ends with the time.
const LARGE: usize = 64 << 20;
/// Kilobits a second that are slow, and too slow.
const SLOW: u64 = 3000;
const TOO_SLOW: u64 = 1000;

/// Whether long packets arrive in one direction; `None`: that cannot be known.
type Passes = Option<bool>;

/// Sends long packets both ways. `reaches_web`: the target of the download answers.
pub(super) async fn mtu(cx: &Context<'_>, subject: &Subject<'_>, reaches_web: bool) -> Verdict {
    if !reaches_web {
        return Verdict::Skipped("the target of the download does not answer".to_owned());
    }
    let (up, down) = both(cx, subject, None).await;
    if up != Some(false) && down != Some(false) {
        let info =
            Conversation::begin(subject.endpoint, &cx.settings.up.target, Shift::default()).await;
        let info = info.ok().and_then(|talk| talk.stream.tcp_info());
        return match (up, down, info) {
            (None, None, _) => Verdict::Skipped("the target sends and takes too little".to_owned()),
            (_, _, Some(info)) => {
                Verdict::Ok(format!("packets of up to {} bytes arrive", info.path_mtu))
            }
            _ => Verdict::Ok("long packets arrive".to_owned()),
        };
    }
    let jobs = SEGMENTS.iter().map(|segment| {
        let job: Job<'_, (Passes, Passes)> = Box::pin(both(cx, subject, Some(*segment)));
        job
    });
    let tried = all(jobs.collect()).await;
    let longest = SEGMENTS.iter().zip(tried).find_map(|(segment, passes)| {
        let fails = passes.0 == Some(false) || passes.1 == Some(false);
        (!fails).then_some(*segment)
    });
    let way = match (up, down) {
        (Some(false), Some(false)) => "both ways",
        (Some(false), _) => "on the way there",
        _ => "on the way back",
    };
    black_hole(longest, way, subject.endpoint, is_v6(cx, subject).await)
}

async fn is_v6(cx: &Context<'_>, subject: &Subject<'_>) -> bool {
    let begun =
        Conversation::begin(subject.endpoint, &cx.settings.down.target, Shift::default()).await;
    let peer = begun.ok().and_then(|talk| talk.stream.peer_addr().ok());
    peer.is_some_and(|peer| peer.ip().to_canonical().is_ipv6())
}

/// Both directions, with segments of this length.
async fn both(cx: &Context<'_>, subject: &Subject<'_>, segment: Option<u32>) -> (Passes, Passes) {
    let Ok(mut endpoint) = cx.endpoint(subject.server, subject.plugin) else {
        return (None, None);
    };
    endpoint.dialer.options.max_segment = segment;
    tokio::join!(up(cx, &endpoint), down(cx, &endpoint))
}

async fn up(cx: &Context<'_>, endpoint: &Endpoint) -> Passes {
    let web = &cx.settings.up;
    let mut talk = begin(endpoint, &web.target).await?;
    talk.send(&query::post(web, UPLOAD)).await.ok()?;
    settled(&talk, PATIENCE).await;
    let before = talk.stream.tcp_info()?;
    let sent = talk.send(&[0; UPLOAD]).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let info = talk.stream.tcp_info()?;
        let arrived = info.acknowledged.saturating_sub(before.acknowledged);
        if arrived >= ARRIVED {
            return Some(true);
        }
        if sent.is_err() {
            return None;
        }
        if Instant::now() >= deadline {
            // Something of a normal length must have been sent again, and again in vain.
            let again = info.retransmitted > before.retransmitted;
            return (again && arrived < u64::from(info.segment)).then_some(false);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until everything that was sent is acknowledged.
async fn settled(talk: &Conversation, limit: Duration) {
    let deadline = Instant::now() + limit;
    while talk.stream.unacknowledged().is_some_and(|bytes| bytes > 0) && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
}

async fn down(cx: &Context<'_>, endpoint: &Endpoint) -> Passes {
    let web = &cx.settings.down;
    let mut talk = begin(endpoint, &web.target).await?;
    talk.send(&query::get(web)).await.ok()?;
    let mut arrived = 0;
    let read = async {
        loop {
            match talk.receive().await {
                // The file is short.
                Ok(bytes) if bytes.is_empty() => return Some(true),
                Ok(bytes) => arrived += u64::try_from(bytes.len()).unwrap_or(0),
                Err(End::Closed) => return None,
                Err(_) => return Some(true),
            }
            if arrived >= ARRIVED {
                return Some(true);
            }
        }
    };
    match timeout(PATIENCE, read).await {
        Ok(passes) => passes,
        // The same target has answered a request whose answer is short.
        Err(_) => Some(false),
    }
}

async fn begin(endpoint: &Endpoint, target: &crate::wire::Address) -> Option<Conversation> {
    let begun = Conversation::begin(endpoint, target, Shift::default());
    begun.await.ok()
}

/// Measures the speed down and up.
pub(super) async fn speed(cx: &Context<'_>, subject: &Subject<'_>, reaches_web: bool) -> Verdict {
    if !reaches_web {
        return Verdict::Skipped("the target of the download does not answer".to_owned());
    }
    let down = download(cx, subject.endpoint).await;
    let up = upload(cx, subject.endpoint).await;
    let text = |way: &str, rate: Option<u64>| match rate {
        Some(rate) => format!("{way} {}.{} Mbit/s", rate / 1000, rate % 1000 / 100),
        None => format!("{way} not measured: the target moves too little"),
    };
    let both = format!("{}, {}", text("down", down), text("up", up));
    let Some(slowest) = down.into_iter().chain(up).min() else {
        return Verdict::Skipped(format!("{both}; choose another `--url`"));
    };
    if slowest >= SLOW {
        return Verdict::Ok(both);
    }
    let problem = Problem::new(
        Code::SlowLink,
        format!("the way is slow: {both}"),
        format!(
            "from this machine by server {} to {}",
            subject.server.address, cx.settings.down.target
        ),
        "measure without the proxy: if that is slow too, it is your connection; if not, it is the server (its plan, its load) or the way to it: try another server or network",
    );
    match slowest < TOO_SLOW {
        true => Verdict::Fault(problem),
        false => Verdict::Warning(problem),
    }
}

/// Kilobits a second.
fn rate(bytes: u64, time: Duration) -> Option<u64> {
    let micros = u64::try_from(time.as_micros()).ok()?;
    (bytes >= FEW).then(|| (bytes * 8 * 1000).checked_div(micros))?
}

async fn download(cx: &Context<'_>, endpoint: &Endpoint) -> Option<u64> {
    let web = &cx.settings.down;
    let mut talk = begin(endpoint, &web.target).await?;
    talk.send(&query::get(web)).await.ok()?;
    let first = timeout(PATIENCE, talk.receive()).await.ok()?.ok()?;
    let begun = Instant::now();
    let mut bytes = 0;
    let read = async {
        if first.is_empty() {
            return;
        }
        while let Ok(more) = talk.receive().await {
            if more.is_empty() {
                return;
            }
            bytes += u64::try_from(more.len()).unwrap_or(0);
        }
    };
    let _over = timeout(MEASURED, read).await;
    match rate(bytes, begun.elapsed()) {
        // It was going on, and little came: that says enough.
        None if begun.elapsed() >= MEASURED && bytes > 0 => Some(
            bytes * 8
                / u64::try_from(begun.elapsed().as_millis())
                    .unwrap_or(1)
                    .max(1),
        ),
        rate => rate,
    }
}

/// What the server has acknowledged counts.
async fn upload(cx: &Context<'_>, endpoint: &Endpoint) -> Option<u64> {
    let web = &cx.settings.up;
    let mut talk = begin(endpoint, &web.target).await?;
    talk.send(&query::post(web, LARGE)).await.ok()?;
    settled(&talk, PATIENCE).await;
    let before = talk.stream.tcp_info()?.acknowledged;
    let begun = Instant::now();
    let piece = vec![0; 32 * 1024];
    let mut is_over = false;
    let write = async { while talk.send(&piece).await.is_ok() {} };
    if timeout(MEASURED, write).await.is_err() {
        is_over = true;
    }
    let time = begun.elapsed();
    let bytes = talk.stream.tcp_info()?.acknowledged.saturating_sub(before);
    match rate(bytes, time) {
        None if is_over && bytes > 0 => {
            Some(bytes * 8 / u64::try_from(time.as_millis()).unwrap_or(1).max(1))
        }
        rate => rate,
    }
}
