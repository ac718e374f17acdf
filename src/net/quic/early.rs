//! Data that a client sends with its first packet (0-RTT, RFC 9001 §4.6), kept until the server has agreed to it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use quinn::{Connection, RecvStream, SendStream, WriteError};
use tokio::sync::watch;

use super::settings::broken;
use crate::limits::MAX_EARLY_DATA;

/// Whether the server has agreed to what was sent early; `None` until it is known.
pub(super) type Agreed = watch::Receiver<Option<bool>>;

type Again = (SendStream, RecvStream);

/// The early data of one stream.
pub(super) struct Early {
    kept: Vec<u8>,
    connection: Connection,
    agreed: Agreed,
    step: Step,
}

/// What is waited for.
enum Step {
    /// Until the wait has begun.
    Begin,
    Word(Pin<Box<dyn Future<Output = bool> + Send>>),
    Stream(Pin<Box<dyn Future<Output = io::Result<Again>> + Send>>),
}

impl Early {
    /// For a stream of `connection`, about which `agreed` will tell.
    pub(super) const fn new(connection: Connection, agreed: Agreed) -> Self {
        Self {
            kept: Vec::new(),
            connection,
            agreed,
            step: Step::Begin,
        }
    }

    /// As much of `bytes` as may be sent before the server has agreed; `None`: nothing more.
    pub(super) fn room<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        if !matches!(self.step, Step::Begin | Step::Word(_)) {
            return None;
        }
        let room = MAX_EARLY_DATA.saturating_sub(self.kept.len());
        bytes
            .get(..bytes.len().min(room))
            .filter(|bytes| !bytes.is_empty())
    }

    /// Remembers what was sent.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
    }

    /// Waits until the server has agreed, or until all was sent again in a new stream, which is returned.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Again>>> {
        loop {
            match &mut self.step {
                Step::Begin => {
                    let mut agreed = self.agreed.clone();
                    self.step = Step::Word(Box::pin(async move {
                        let word = agreed.wait_for(Option::is_some).await;
                        // Without a word the connection has ended: the stream says how.
                        word.map_or(true, |word| *word != Some(false))
                    }));
                }
                Step::Word(word) => {
                    if ready!(word.as_mut().poll(cx)) {
                        return Poll::Ready(Ok(None));
                    }
                    let (connection, kept) =
                        (self.connection.clone(), std::mem::take(&mut self.kept));
                    self.step = Step::Stream(Box::pin(again(connection, kept)));
                }
                Step::Stream(stream) => return stream.as_mut().poll(cx).map_ok(Some),
            }
        }
    }
}

async fn again(connection: Connection, kept: Vec<u8>) -> io::Result<Again> {
    let (mut send, recv) = connection.open_bi().await.map_err(|error| broken(&error))?;
    send.write_all(&kept).await.map_err(|error| match error {
        WriteError::ConnectionLost(error) => broken(&error),
        other => io::Error::new(io::ErrorKind::BrokenPipe, other.to_string()),
    })?;
    Ok((send, recv))
}
