//! One request and its response, both at once: a server may answer before it has the whole request.

use std::future::{pending, poll_fn};
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::sleep;

use super::pages::Page;
use super::upstream::{Closed, Sink, Upstream};
use crate::net::Stream;
use crate::net::pipe::{Pipe, Taken};
use crate::net::pool::{Buffer, Size};
use crate::relay::tcp::Timeouts;
use crate::relay::{Error, Side};
use crate::wire::http_proxy::{self, Body, Forward, MAX_HEAD, Response};

/// How an exchange has ended.
pub(super) enum Outcome {
    /// The client has the whole response. `persists`: the upstream may be used again.
    Complete { persists: bool },
    /// Nothing has come from the upstream, for this reason.
    Unanswered(Page),
    /// What has come is no response, and the client has got nothing of it.
    Failed(Page),
    /// The protocol has changed. These bytes of the new one have come already.
    Switched(Vec<u8>),
    /// The client has a part of a response, or is gone.
    Broken(Error),
}

/// A request on its way to the upstream.
pub(super) struct Upload<'a> {
    /// Bytes to be sent before the rest.
    pub(super) first: &'a [u8],
    /// What is left of the request's body.
    pub(super) body: &'a mut Body,
    /// Bytes of the client that have been read already.
    pub(super) ahead: &'a mut Vec<u8>,
}

/// What the two directions of an exchange know of each other.
#[derive(Default)]
struct Progress {
    /// Bytes read and written.
    moved: AtomicU64,
    /// The upstream has the whole request.
    sent: AtomicBool,
    /// The client has a part of the response.
    responded: AtomicBool,
    /// One direction has ended.
    half: AtomicBool,
}

/// Sends a request and passes its response on. Says also whether the client's connection may be used again.
pub(super) async fn run(
    client: &Stream,
    upstream: &mut Upstream,
    upload: Upload<'_>,
    forward: &Forward,
    timeouts: &Timeouts,
) -> (Outcome, bool) {
    let progress = Progress::default();
    let mut persists = forward.persists;
    let outcome = {
        let Upstream { pipe, room, .. } = &mut *upstream;
        let pipe = &*pipe;
        let sink = Sink { pipe, room };
        tokio::select! {
            biased;
            outcome = receive_response(client, pipe, forward, &progress, &mut persists) => outcome,
            failed = send_request(client, sink, upload, &progress) => match failed {
                Err(error) => Some(Outcome::Broken(error)),
                Ok(page) => Some(Outcome::Failed(page)),
            },
            limit = progress.stalls(timeouts) => Some(Outcome::Failed(silence(limit))),
        }
    };
    let responded = progress.responded.load(Relaxed);
    let outcome = match outcome {
        None => Outcome::Unanswered(upstream.failure()),
        Some(Outcome::Failed(_)) if responded => Outcome::Broken(Error::Cut(Side::Upstream)),
        Some(outcome) => outcome,
    };
    // The rest of a request that was not taken would look like the next request.
    persists &= progress.sent.load(Relaxed);
    (outcome, persists)
}

fn silence(limit: Duration) -> Page {
    let seconds = limit.as_secs();
    Page::new(
        504,
        format!("The target did not answer within {seconds} s."),
    )
}

/// Passes the response on. `None`: the upstream ended before anything came.
async fn receive_response(
    client: &Stream,
    pipe: &Pipe,
    forward: &Forward,
    progress: &Progress,
    persists: &mut bool,
) -> Option<Outcome> {
    let mut raw = Vec::new();
    let mut is_first = true;
    let response = loop {
        let is_last =
            !forward.persists || !progress.sent.load(Relaxed) || progress.half.load(Relaxed);
        match parse(&raw, forward, is_last) {
            Ok(Some((response, len))) => {
                raw.drain(..len);
                *persists = !is_last && response.body != Body::UntilEnd;
                if response.status >= 200 || response.status == 101 {
                    break response;
                }
                is_first = false;
                // HTTP/1.0 has no interim responses.
                if forward.is_modern
                    && let Err(error) = progress.write(client, &response.head).await
                {
                    return Some(Outcome::Broken(error));
                }
                continue;
            }
            Ok(None) => {}
            Err(error) => return Some(Outcome::Failed(Page::of_response(error))),
        }
        match take(pipe).await {
            Some((buffer, len)) => {
                progress.note(len);
                raw.extend_from_slice(buffer.bytes().get(..len).unwrap_or_default());
            }
            None if is_first && raw.is_empty() => return None,
            None => {
                let text = "The target hung up in the middle of its answer.";
                return Some(Outcome::Failed(Page::new(502, text.to_owned())));
            }
        }
    };
    Some(pass_on(client, pipe, response, raw, progress).await)
}

/// Reads a response's head, and refuses what the client could not read.
fn parse(
    raw: &[u8],
    forward: &Forward,
    is_last: bool,
) -> Result<Option<(Response, usize)>, http_proxy::Error> {
    if raw.is_empty() {
        return Ok(None);
    }
    let parsed = Response::parse(raw, forward, is_last)?;
    if let Some((response, _)) = &parsed {
        let is_chunked = matches!(response.body, Body::Chunked(_));
        if (is_chunked && !forward.is_modern) || (response.status == 101 && !forward.upgrades) {
            return Err(http_proxy::Error::Malformed);
        }
    }
    Ok(parsed)
}

/// Passes a response's head and body on; `raw` are the bytes behind the head that have come already.
async fn pass_on(
    client: &Stream,
    pipe: &Pipe,
    response: Response,
    raw: Vec<u8>,
    progress: &Progress,
) -> Outcome {
    let Response {
        mut head,
        mut body,
        persists,
        status,
    } = response;
    if status == 101 {
        return match progress.write(client, &head).await {
            Ok(()) => Outcome::Switched(raw),
            Err(error) => Outcome::Broken(error),
        };
    }
    let mut has_more = match body.advance(&raw) {
        Ok(used) => {
            head.extend_from_slice(raw.get(..used).unwrap_or_default());
            used < raw.len()
        }
        Err(error) => return Outcome::Failed(Page::of_response(error)),
    };
    drop(raw);
    progress.responded.store(true, Relaxed);
    if let Err(error) = progress.write(client, &head).await {
        return Outcome::Broken(error);
    }
    drop(head);
    while !body.is_over() {
        let Some((buffer, len)) = take(pipe).await else {
            return match body {
                Body::UntilEnd if !is_reset(pipe).await => Outcome::Complete { persists: false },
                _ => Outcome::Broken(Error::Cut(Side::Upstream)),
            };
        };
        progress.note(len);
        let bytes = buffer.bytes().get(..len).unwrap_or_default();
        let Ok(used) = body.advance(bytes) else {
            let error = io::Error::new(io::ErrorKind::InvalidData, "a chunk is malformed");
            return Outcome::Broken(Error::io(Side::Upstream)(error));
        };
        has_more = used < len;
        let bytes = bytes.get(..used).unwrap_or_default();
        if let Err(error) = progress.write(client, bytes).await {
            return Outcome::Broken(error);
        }
    }
    Outcome::Complete {
        persists: persists && !has_more,
    }
}

/// Sends the request, and then notes when the client ends its direction. Ends only when the request is not valid or the
/// client is gone.
async fn send_request(
    client: &Stream,
    mut sink: Sink<'_>,
    upload: Upload<'_>,
    progress: &Progress,
) -> Result<Page, Error> {
    let Upload { first, body, ahead } = upload;
    if progress.push(&mut sink, first).await.is_err() {
        return pending().await;
    }
    while !body.is_over() {
        // The part of the body that was read with the head has been sent with it, and more than the body only comes last.
        let (buffer, len) = read(client).await?;
        if len == 0 {
            return Err(Error::Cut(Side::Client));
        }
        progress.note(len);
        let bytes = buffer.bytes().get(..len).unwrap_or_default();
        let used = match body.advance(bytes) {
            Ok(used) => used,
            Err(error) => return Ok(Page::of_request(error)),
        };
        let (bytes, rest) = bytes.split_at_checked(used).unwrap_or_default();
        ahead.extend_from_slice(rest);
        if progress.push(&mut sink, bytes).await.is_err() {
            // The upstream takes no more; perhaps it has answered before it ended.
            return pending().await;
        }
    }
    progress.sent.store(true, Relaxed);
    while ahead.len() < MAX_HEAD {
        let (buffer, len) = read(client).await?;
        if len == 0 {
            progress.half.store(true, Relaxed);
            break;
        }
        ahead.extend_from_slice(buffer.bytes().get(..len).unwrap_or_default());
    }
    pending().await
}

/// Passes bytes on in both directions until both have ended.
///
/// # Errors
/// When one side breaks, or nothing moves for too long.
pub(super) async fn raw(
    client: &Stream,
    upstream: &mut Upstream,
    ahead: Vec<u8>,
    first: Vec<u8>,
    timeouts: &Timeouts,
) -> Result<(), Error> {
    let progress = Progress::default();
    let Upstream { pipe, room, .. } = upstream;
    let pipe = &*pipe;
    let mut sink = Sink { pipe, room };
    let up = async {
        let mut open = progress.push(&mut sink, &ahead).await;
        drop(ahead);
        while open.is_ok() {
            let (buffer, len) = read(client).await?;
            if len == 0 {
                pipe.finish();
                break;
            }
            progress.note(len);
            let bytes = buffer.bytes().get(..len).unwrap_or_default();
            open = progress.push(&mut sink, bytes).await;
        }
        progress.half.store(true, Relaxed);
        Ok::<_, Error>(())
    };
    let down = async {
        progress.write(client, &first).await?;
        drop(first);
        while let Some((buffer, len)) = take(pipe).await {
            progress.note(len);
            let bytes = buffer.bytes().get(..len).unwrap_or_default();
            progress.write(client, bytes).await?;
        }
        if is_reset(pipe).await {
            return Err(Error::Cut(Side::Upstream));
        }
        client.shutdown().await.map_err(Error::io(Side::Client))?;
        progress.half.store(true, Relaxed);
        Ok(())
    };
    let result = tokio::select! {
        both = async { tokio::try_join!(up, down) } => both.map(|_| ()),
        limit = progress.stalls(timeouts) => Err(Error::Idle { seconds: limit.as_secs() }),
    };
    if result.is_err() {
        client.reset_on_close();
    }
    result
}

impl Progress {
    fn note(&self, len: usize) {
        self.moved.fetch_add(len as u64, Relaxed);
    }

    /// Writes all of `bytes` to the client.
    async fn write(&self, client: &Stream, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let written = poll_fn(|cx| client.poll_write(cx, &[IoSlice::new(bytes)])).await;
            let written = written.map_err(Error::io(Side::Client))?;
            self.note(written);
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends all of `bytes` to the upstream.
    async fn push(&self, sink: &mut Sink<'_>, mut bytes: &[u8]) -> Result<(), Closed> {
        while !bytes.is_empty() {
            let sent = sink.push(bytes).await?;
            self.note(sent);
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Waits until nothing has moved for too long, and says how long that is.
    async fn stalls(&self, timeouts: &Timeouts) -> Duration {
        let tick = timeouts.idle.min(timeouts.half_close) / 4;
        let mut last = 0;
        let mut quiet = Duration::ZERO;
        loop {
            sleep(tick).await;
            let moved = self.moved.load(Relaxed);
            quiet = if moved == last {
                quiet + tick
            } else {
                Duration::ZERO
            };
            last = moved;
            let limit = if self.half.load(Relaxed) {
                timeouts.half_close.min(timeouts.idle)
            } else {
                timeouts.idle
            };
            if quiet >= limit {
                return limit;
            }
        }
    }
}

/// Takes what the upstream has sent: a buffer and how many bytes at its beginning. `None`: the end, or a reset. No buffer
/// is held while nothing comes.
async fn take(pipe: &Pipe) -> Option<(Buffer, usize)> {
    match poll_fn(|cx| pipe.poll_take(cx, &mut [])).await {
        Taken::Bytes(_) => {}
        Taken::End | Taken::Reset => return None,
    }
    let is_much = pipe.waiting() > Size::Small.bytes();
    let mut buffer = Buffer::take(if is_much { Size::Medium } else { Size::Small });
    let (bytes, ..) = buffer.parts();
    match poll_fn(|cx| pipe.poll_take(cx, bytes)).await {
        Taken::Bytes(len) => Some((buffer, len)),
        Taken::End | Taken::Reset => None,
    }
}

/// Whether an upstream that has ended was reset.
async fn is_reset(pipe: &Pipe) -> bool {
    poll_fn(|cx| pipe.poll_take(cx, &mut [])).await == Taken::Reset
}

/// Reads from the client: a buffer and how many bytes at its beginning; 0 is the end.
async fn read(client: &Stream) -> Result<(Buffer, usize), Error> {
    loop {
        client.readable().await.map_err(Error::io(Side::Client))?;
        let mut buffer = Buffer::take(Size::Small);
        let (bytes, ..) = buffer.parts();
        match client.try_read(&mut [IoSliceMut::new(bytes)]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(Error::io(Side::Client)(error)),
            Ok(len) => return Ok((buffer, len)),
        }
    }
}
