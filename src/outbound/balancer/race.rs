//! Connects to one server after the other without waiting for those that do not answer.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::net;
use crate::relay::Error;

/// A connection attempt to the server at a place.
struct Running<'a, T> {
    place: usize,
    dial: Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>,
}

/// What has come of a race.
pub struct Won<T> {
    /// The place of the server.
    pub place: usize,
    /// The connection.
    pub stream: T,
    /// The places of the servers that were dialled before it and have not answered.
    pub unanswered: Vec<usize>,
    /// The places of those that could not be connected to.
    pub failed: Vec<usize>,
}

/// Dials the server at the first of `places`. When it fails, or does not answer within its `patience`, the next one is
/// dialled, beside those that have not failed. The first connection wins; the others are dropped.
///
/// # Errors
/// That of the last attempt, when all have failed.
pub async fn race<T, D, F>(
    places: impl IntoIterator<Item = usize>,
    patience: impl Fn(usize) -> Duration,
    dial: D,
) -> Result<Won<T>, Error>
where
    D: Fn(usize) -> F,
    F: Future<Output = Result<T, Error>> + Send,
{
    let mut waiting = places.into_iter().peekable();
    let mut running: Vec<Running<'_, T>> = Vec::new();
    let mut failed = Vec::new();
    let mut failure = Error::Connect(net::Error::NoAddress);
    let mut next_at = Instant::now();
    loop {
        if (running.is_empty() || Instant::now() >= next_at)
            && let Some(place) = waiting.next()
        {
            next_at = Instant::now() + patience(place);
            let dial = Box::pin(dial(place));
            running.push(Running { place, dial });
        }
        if running.is_empty() {
            return Err(failure);
        }
        tokio::select! {
            biased;
            (index, place, result) = first(&mut running) => match result {
                Ok(stream) => {
                    let earlier = running.iter().take(index);
                    let unanswered = earlier.map(|other| other.place).collect();
                    return Ok(Won { place, stream, unanswered, failed });
                }
                Err(error) => {
                    failure = error;
                    failed.push(place);
                    next_at = Instant::now();
                }
            },
            () = sleep_until(next_at), if waiting.peek().is_some() => {}
        }
    }
}

/// Waits for one of `running` to end, and removes it. Returns where it stood, its place and its result. Cancel safe.
async fn first<T>(running: &mut Vec<Running<'_, T>>) -> (usize, usize, Result<T, Error>) {
    poll_fn(|cx| {
        let mut ended = None;
        for (index, one) in running.iter_mut().enumerate() {
            if let Poll::Ready(result) = one.dial.as_mut().poll(cx) {
                ended = Some((index, one.place, result));
                break;
            }
        }
        let Some((index, place, result)) = ended else {
            return Poll::Pending;
        };
        // Dropped by `remove`: the order is that of the dials.
        drop(running.remove(index));
        Poll::Ready((index, place, result))
    })
    .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use tokio::time::sleep;

    const PATIENCE: Duration = Duration::from_millis(300);

    /// Dials servers that take this many milliseconds, or fail after it (negative).
    async fn run(times: &[i64]) -> Result<(usize, Vec<usize>, u128), Error> {
        let begun = Instant::now();
        let won = race(
            0..times.len(),
            |_| PATIENCE,
            |place| async move {
                let time = times.get(place).copied().unwrap();
                sleep(Duration::from_millis(time.unsigned_abs())).await;
                if time < 0 {
                    return Err(Error::HandshakeEnd);
                }
                Ok(())
            },
        )
        .await?;
        Ok((won.place, won.unanswered, begun.elapsed().as_millis()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_delays_by_its_patience_and_a_failing_one_not_at_all() {
        assert_eq!(run(&[10, 1]).await.unwrap(), (0, vec![], 10));
        assert_eq!(run(&[-5, 10]).await.unwrap(), (1, vec![], 15));
        assert_eq!(run(&[9000, 10]).await.unwrap(), (1, vec![0], 310));
        assert_eq!(run(&[310, 50]).await.unwrap(), (0, vec![], 310));
        assert_eq!(run(&[9000, -1, 10]).await.unwrap(), (2, vec![0], 311));
        assert!(run(&[-1, -2]).await.is_err());
        assert!(run(&[]).await.is_err());
    }
}
