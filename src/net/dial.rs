//! Connects to one of several addresses (RFC 8305).

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

pub use super::options::SpeaksFirst;
use super::{Error, SocketOptions, Stream};

use crate::limits::MAX_ATTEMPTS;

/// How long an attempt may take before the next one starts beside it (RFC 8305 §5).
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to the first of `addresses` that answers. The families take turns, beginning with that of the first
/// address; when an attempt has not answered within 250 ms, the next one starts beside it.
///
/// # Errors
/// [`Error::Connect`] with the error of the last address when all have failed, [`Error::ConnectTimeout`] after `limit`,
/// [`Error::NoAddress`] when there are none.
pub async fn tcp(
    addresses: &[IpAddr],
    port: u16,
    options: &SocketOptions,
    first: SpeaksFirst,
    limit: Duration,
) -> Result<Stream, Error> {
    let dial = async {
        match addresses {
            [] => Err(Error::NoAddress),
            [only] => connect((*only, port).into(), options, first).await,
            _ => {
                let one = |address| {
                    let options = options.clone();
                    async move { connect(address, &options, first).await }
                };
                race(interleave(addresses, port), one).await
            }
        }
    };
    tokio::time::timeout(limit, dial)
        .await
        .unwrap_or(Err(Error::ConnectTimeout {
            seconds: limit.as_secs(),
        }))
}

async fn connect(
    address: SocketAddr,
    options: &SocketOptions,
    first: SpeaksFirst,
) -> Result<Stream, Error> {
    let attempt = async {
        let socket = options.outgoing_tcp(address, first)?;
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if in_progress(&error) => {}
            Err(error) => return Err(error),
        }
        let stream = TcpStream::from_std(socket.into())?;
        // Writable means connected or failed. With fast open the socket is writable at once; the first write sends the
        // SYN.
        let ready = stream.ready(Interest::WRITABLE | Interest::ERROR).await?;
        let failed = ready.is_error() || ready.is_write_closed();
        match failed.then(|| stream.take_error()).transpose()?.flatten() {
            Some(error) => Err(error),
            None => Ok(Stream::new(stream)),
        }
    };
    attempt
        .await
        .map_err(|source| Error::Connect { address, source })
}

fn in_progress(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
}

/// The first of `addresses` that `connect` succeeds for. When an attempt has not answered within 250 ms, the next one starts beside
/// it.
pub(super) async fn race<T, F>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<T, Error>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    let mut waiting = addresses.into_iter();
    let mut running = JoinSet::new();
    let mut failed = Error::NoAddress;
    let mut next_at = Instant::now();
    loop {
        tokio::select! {
            biased;
            Some(ended) = running.join_next() => match ended {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => {
                    failed = error;
                    next_at = Instant::now();
                }
                Err(_) => {}
            },
            () = sleep_until(next_at), if waiting.len() > 0 => {
                if let Some(address) = waiting.next() {
                    running.spawn(connect(address));
                }
                next_at = Instant::now() + ATTEMPT_DELAY;
            }
            else => return Err(failed),
        }
    }
}

/// Orders the addresses so that the families take turns, beginning with that of the first (RFC 8305 §4).
pub(super) fn interleave(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    let (mut preferred, mut other) = (0, 1);
    let mut order: Vec<_> = addresses
        .iter()
        .map(|ip| {
            let family = if ip.is_ipv4() == first_is_v4 {
                &mut preferred
            } else {
                &mut other
            };
            let rank = *family;
            *family += 2;
            (rank, SocketAddr::new(*ip, port))
        })
        .collect();
    order.sort_unstable();
    order.truncate(MAX_ATTEMPTS);
    order.into_iter().map(|(_, address)| address).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn families_take_turns() {
        let addresses: Vec<IpAddr> = ["::1", "::2", "::3", "127.0.0.1"]
            .iter()
            .map(|ip| ip.parse().unwrap())
            .collect();
        let order: Vec<String> = interleave(&addresses, 80)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(order, ["[::1]:80", "127.0.0.1:80", "[::2]:80", "[::3]:80"]);
    }

    #[tokio::test]
    async fn dead_family_does_not_hold_up_the_other() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Nobody listens there on ::1, so that attempt fails at once and the next begins without its delay.
        let addresses: [IpAddr; 2] = ["::1".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        let stream = tcp(
            &addresses,
            port,
            &SocketOptions::default(),
            SpeaksFirst::Unknown,
            Duration::from_secs(5),
        )
        .await;
        assert!(stream.is_ok());
    }

    #[tokio::test]
    async fn refusal_names_the_address() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error = tcp(
            &["127.0.0.1".parse().unwrap()],
            port,
            &SocketOptions::default(),
            SpeaksFirst::Unknown,
            Duration::from_secs(5),
        )
        .await;
        assert!(
            matches!(error, Err(Error::Connect { source, .. }) if source.kind() == io::ErrorKind::ConnectionRefused)
        );
    }
}
