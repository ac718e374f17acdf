//! The server's side of a session: serves the streams that a client opens.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::session::Role;
use super::start::session;
use crate::limits::MAX_MULTIPLEX_STREAMS;
use crate::net::{FAREWELL, Stream};
use crate::wire::multiplex::Head;

/// Passes each stream of a client's session to `serve`. Returns when the session has ended, or had no streams for `idle`,
/// or has none and `draining` has become true.
///
/// # Errors
/// An error of the connection, or `InvalidData` when the client broke the protocol. The streams then break too, and their
/// tasks end before this returns.
pub async fn serve<F>(
    stream: Stream,
    head: Head,
    idle: Duration,
    mut draining: watch::Receiver<bool>,
    serve: impl Fn(Stream) -> F,
) -> io::Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut session = session(stream, head, Role::Server);
    let mut tasks = JoinSet::new();
    let mut quiet = pin!(sleep(idle));
    let result = loop {
        tokio::select! {
            biased;
            Some(_) = tasks.join_next() => {
                while tasks.try_join_next().is_some() {}
                if tasks.is_empty() {
                    quiet.as_mut().reset(Instant::now() + idle);
                }
            }
            next = poll_fn(|cx| session.poll_accept(cx)) => match next {
                // Beyond the limit it is reset by being dropped.
                Ok(Some(stream)) => if tasks.len() < MAX_MULTIPLEX_STREAMS {
                    tasks.spawn(serve(stream));
                },
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            },
            () = &mut quiet, if tasks.is_empty() => break Ok(()),
            _ = draining.wait_for(|draining| *draining), if tasks.is_empty() => break Ok(()),
        }
    };
    if result.is_ok() {
        // A client that does not take the end is gone anyway.
        let _ = timeout(FAREWELL, poll_fn(|cx| session.poll_close(cx))).await;
    }
    drop(session);
    while tasks.join_next().await.is_some() {}
    result
}
