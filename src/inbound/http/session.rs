//! A client's connection: one request after the other, also to different hosts.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::{Instant, timeout, timeout_at};

use super::exchange::{self, Outcome, Upload};
use super::pages::Page;
use super::requests::{self, Asked};
use super::upstream::{Upstream, Upstreams};
use crate::inbound::login::Login;
use crate::net::Stream;
use crate::net::handshake::{HandshakeError, Reader, reject};
use crate::relay::tcp::Outbound;
use crate::relay::{Error, Side, User};
use crate::wire::Address;
use crate::wire::http_proxy::{CONNECTED, Forward, Kind};

/// A client's connection between its first plain request and its end.
pub(super) struct Session<'a, O> {
    client: Stream,
    peer: SocketAddr,
    /// Bytes of the client behind the current request.
    ahead: Vec<u8>,
    /// The connection of the last request, if it may be used for another one.
    kept: Option<Upstream>,
    logins: &'a [Login],
    upstreams: &'a Upstreams<O>,
}

/// What becomes of the client's connection.
enum Then {
    /// It waits for the next request.
    Next,
    /// It ends after what has been written.
    Close,
    /// It has ended.
    Ended,
}

impl<'a, O: Outbound + Clone + Send + 'static> Session<'a, O> {
    pub(super) const fn new(
        client: Stream,
        peer: SocketAddr,
        ahead: Vec<u8>,
        logins: &'a [Login],
        upstreams: &'a Upstreams<O>,
    ) -> Self {
        Self {
            client,
            peer,
            ahead,
            kept: None,
            logins,
            upstreams,
        }
    }

    /// Serves the first request and those that follow it.
    ///
    /// # Errors
    /// When the client's connection breaks, or had to be broken because a response was.
    pub(super) async fn run(mut self, mut asked: Asked) -> Result<(), Error> {
        loop {
            // In a box: between two requests, there is no room for its parts.
            let then = match asked.kind {
                Kind::Forward(forward) => {
                    Box::pin(self.forward(asked.target, asked.user, forward)).await?
                }
                Kind::Connect => Box::pin(self.tunnel(asked.target, asked.user)).await?,
            };
            match then {
                Then::Next => {}
                Then::Close => {
                    self.kept = None;
                    reject(&self.client, &[]).await;
                    return Ok(());
                }
                Then::Ended => return Ok(()),
            }
            match self.next().await? {
                Some(next) => asked = next,
                None => return Ok(()),
            }
        }
    }

    /// Reads the next request; `None`: the client makes none. Until it begins, the idle timeout holds, then that of a
    /// handshake.
    async fn next(&mut self) -> Result<Option<Asked>, Error> {
        let timeouts = &self.upstreams.timeouts;
        let mut reader = Reader::resume(&self.client, std::mem::take(&mut self.ahead));
        let idle = Instant::now() + timeouts.idle;
        loop {
            let begins = reader.next(|bytes| Ok::<_, Error>(bytes.first().map(|_| ((), 0))));
            let begins = tokio::select! {
                biased;
                begins = timeout_at(idle, begins) => begins,
                () = disturbed(self.kept.as_ref()) => {
                    self.kept = None;
                    continue;
                }
            };
            match begins {
                Ok(Ok(())) => break,
                Ok(Err(HandshakeError::End)) | Err(_) => return Ok(None),
                Ok(Err(HandshakeError::Io(error))) => return Err(Error::io(Side::Client)(error)),
                Ok(Err(HandshakeError::Invalid(error))) => return Err(error),
            }
        }
        let asked = requests::next(
            &self.client,
            &mut reader,
            self.logins,
            &self.upstreams.fakes,
        );
        let asked = timeout(timeouts.handshake, asked).await;
        let asked = asked.unwrap_or(Err(Error::HandshakeTimeout))?;
        self.ahead = reader.into_unread();
        Ok(Some(asked))
    }

    /// Forwards one request and passes its response on.
    async fn forward(
        &mut self,
        target: Address,
        user: Option<Arc<User>>,
        mut forward: Forward,
    ) -> Result<Then, Error> {
        let is_repeatable = forward.body.is_over() && forward.is_idempotent();
        let mut body = forward.body.clone();
        let mut first = std::mem::take(&mut forward.head);
        match body.advance(&self.ahead) {
            Ok(used) => first.extend(self.ahead.drain(..used)),
            Err(error) => return self.refuse(&Page::of_request(error), &forward, true).await,
        }
        let timeouts = &self.upstreams.timeouts;
        let kept = self.kept.take();
        if let Some(mut upstream) = kept.filter(|kept| kept.serves(&target, user.as_ref())) {
            let upload = Upload {
                first: &first,
                body: &mut body,
                ahead: &mut self.ahead,
            };
            let (outcome, persists) =
                exchange::run(&self.client, &mut upstream, upload, &forward, timeouts).await;
            // A server may close an idle connection just when the next request is on its way (RFC 9112 §9.3.1).
            if !(is_repeatable && matches!(outcome, Outcome::Unanswered(_))) {
                return self.settle(outcome, persists, upstream, &forward).await;
            }
        }
        let mut upstream = self.upstreams.open(target, user, self.peer, first);
        let upload = Upload {
            first: &[],
            body: &mut body,
            ahead: &mut self.ahead,
        };
        let (outcome, persists) =
            exchange::run(&self.client, &mut upstream, upload, &forward, timeouts).await;
        self.settle(outcome, persists, upstream, &forward).await
    }

    /// Does what the outcome of an exchange asks for. `persists`: the client's connection may be used again.
    async fn settle(
        &mut self,
        outcome: Outcome,
        persists: bool,
        mut upstream: Upstream,
        forward: &Forward,
    ) -> Result<Then, Error> {
        match outcome {
            Outcome::Complete {
                persists: upstream_persists,
            } => {
                if upstream_persists && persists {
                    self.kept = Some(upstream);
                }
                Ok(if persists { Then::Next } else { Then::Close })
            }
            Outcome::Unanswered(page) | Outcome::Failed(page) => {
                upstream.pipe.reset();
                drop(upstream);
                self.refuse(&page, forward, !persists).await
            }
            Outcome::Switched(first) => {
                let ahead = std::mem::take(&mut self.ahead);
                let timeouts = &self.upstreams.timeouts;
                exchange::raw(&self.client, &mut upstream, ahead, first, timeouts).await?;
                Ok(Then::Ended)
            }
            Outcome::Broken(error) => {
                upstream.pipe.reset();
                // A plain close could look like the end of the response.
                self.client.reset_on_close();
                Err(error)
            }
        }
    }

    /// Answers with a page.
    async fn refuse(&self, page: &Page, forward: &Forward, is_last: bool) -> Result<Then, Error> {
        let response = page.response(forward.is_head, is_last);
        let written = self.client.write_all(&response).await;
        written.map_err(Error::io(Side::Client))?;
        Ok(if is_last { Then::Close } else { Then::Next })
    }

    /// Serves CONNECT behind other requests.
    async fn tunnel(&mut self, target: Address, user: Option<Arc<User>>) -> Result<Then, Error> {
        self.kept = None;
        let ahead = std::mem::take(&mut self.ahead);
        let mut upstream = self.upstreams.open(target, user, self.peer, ahead);
        let answer = match upstream.reached().await {
            Ok(()) => CONNECTED.to_vec(),
            Err(page) => {
                let written = self.client.write_all(&page.response(false, true)).await;
                written.map_err(Error::io(Side::Client))?;
                return Ok(Then::Close);
            }
        };
        let timeouts = &self.upstreams.timeouts;
        exchange::raw(&self.client, &mut upstream, Vec::new(), answer, timeouts).await?;
        Ok(Then::Ended)
    }
}

/// Waits until a kept connection cannot be used any more.
async fn disturbed(kept: Option<&Upstream>) {
    match kept {
        Some(kept) => kept.disturbed().await,
        None => std::future::pending().await,
    }
}
