//! Datagrams to a server through a SOCKS5 proxy (RFC 1928 §7).

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::sleep;

use super::dialer::Dialer;
use crate::limits::MAX_UDP_STREAMS;
use crate::net::Stream;
use crate::net::tasks::Tasks;
use crate::net::udp::{Batch, Path, Socket};
use crate::relay::Error;
use crate::wire::socks::{UDP_PREFIX, parse_udp_prefix};
use crate::wire::{Address, AddressRef};

/// The pause before a proxy is asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Batches that are moved before other tasks get their turn.
const TURN: usize = 4;

/// An in-memory socket does not look where its datagrams go.
const NOWHERE: Path = Path {
    peer: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
    local: None,
};

/// The socket of a new association, whose datagrams one of `tasks` carries to `server` through the proxy of `dialer`.
pub(super) fn socket(dialer: &Dialer, server: &Address, tasks: &Tasks) -> io::Result<Socket> {
    let (association, carried) = Socket::pair();
    let carrier = Carrier {
        dialer: dialer.clone(),
        head: head(server.as_ref()),
    };
    tasks
        .try_spawn(MAX_UDP_STREAMS, carrier.run(carried))
        .map(|_| association)
        .ok_or_else(|| io::Error::other("too many UDP associations through a proxy"))
}

/// What stands before each datagram to the proxy.
fn head(server: AddressRef<'_>) -> Arc<[u8]> {
    let mut address = [0; Address::MAX_LEN];
    let len = server.encode(&mut address).unwrap_or(0);
    let mut head = UDP_PREFIX.to_vec();
    head.extend_from_slice(address.get(..len).unwrap_or_default());
    head.into()
}

/// Carries the datagrams of one association.
struct Carrier {
    dialer: Dialer,
    head: Arc<[u8]>,
}

/// What ended an exchange.
enum Closed {
    /// The association.
    Association,
    /// The proxy ended its part, or the socket to it broke.
    Proxy,
}

impl Carrier {
    /// Carries datagrams until the association ends; asks the proxy again when it has ended its part.
    async fn run(self, association: Socket) {
        // The proxy is asked only when a datagram waits. When the association is gone, this is an error.
        while association.readable().await.is_ok() {
            match Box::pin(self.associate()).await {
                Ok((control, socket, relay)) => {
                    self.note(false);
                    match self.exchange(&association, &control, &socket, relay).await {
                        Closed::Association => return,
                        Closed::Proxy => {}
                    }
                }
                Err(error) if self.note(true) => {
                    tracing::warn!(%error, "the proxy relays no datagrams");
                }
                Err(error) => tracing::debug!(%error, "the proxy still relays no datagrams"),
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Notes whether the proxy failed. Returns whether that is new.
    fn note(&self, failed: bool) -> bool {
        let proxies = self.dialer.proxies.as_ref();
        proxies.is_some_and(|proxies| proxies.note_relay(failed))
    }

    /// Asks the proxy for a relay. It lasts as long as the stream that is returned.
    async fn associate(&self) -> Result<(Stream, Socket, SocketAddr), Error> {
        let (control, bound) = self.dialer.associate().await?;
        let socket = self.dialer.udp_socket().map_err(|source| Error::Proxy {
            proxy: bound.to_string(),
            reason: format!("cannot be sent datagrams: {source}"),
        })?;
        Ok((control, socket, bound))
    }

    /// Moves datagrams both ways.
    async fn exchange(
        &self,
        association: &Socket,
        control: &Stream,
        socket: &Socket,
        relay: SocketAddr,
    ) -> Closed {
        let mut ended = pin!(async {
            // The proxy says nothing here, until it ends.
            while matches!(control.read(&mut [0; 64]).await, Ok(1..)) {}
        });
        poll_fn(|cx| {
            if ended.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Closed::Proxy);
            }
            if self.poll_up(cx, association, socket, relay).is_ready() {
                return Poll::Ready(Closed::Association);
            }
            poll_down(cx, association, socket, relay).map(|()| Closed::Proxy)
        })
        .await
    }

    /// Moves datagrams to the proxy; is ready when the association has ended.
    fn poll_up(
        &self,
        cx: &mut Context<'_>,
        association: &Socket,
        socket: &Socket,
        relay: SocketAddr,
    ) -> Poll<()> {
        let path = Path {
            peer: relay,
            local: None,
        };
        for _ in 0..TURN {
            let mut batch = Batch::spare();
            let received = association.poll_receive(cx, |mut received| {
                for (datagram, _) in received.datagrams() {
                    push(&mut batch, path, &[&self.head, datagram]);
                    if batch.is_full() {
                        socket.send(&mut batch);
                    }
                }
                socket.send(&mut batch);
            });
            batch.keep();
            match received {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Moves datagrams from the proxy; is ready when the socket to it has broken.
fn poll_down(
    cx: &mut Context<'_>,
    association: &Socket,
    socket: &Socket,
    relay: SocketAddr,
) -> Poll<()> {
    for _ in 0..TURN {
        let mut batch = Batch::spare();
        let received = socket.poll_receive(cx, |mut received| {
            for (datagram, path) in received.datagrams() {
                if let (true, Some(body)) = (path.peer == relay, body(datagram)) {
                    push(&mut batch, NOWHERE, &[body]);
                }
            }
            association.send(&mut batch);
        });
        batch.keep();
        match received {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Pending => return Poll::Pending,
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// What is inside a datagram of the proxy; `None` for a fragment or anything invalid.
fn body(datagram: &[u8]) -> Option<&[u8]> {
    let (fragment, start) = parse_udp_prefix(datagram).ok()?;
    let rest = datagram.get(start..).filter(|_| fragment == 0)?;
    let (_, len) = AddressRef::parse(rest).ok()??;
    rest.get(len..)
}

fn push(batch: &mut Batch, path: Path, parts: &[&[u8]]) {
    let len = parts.iter().map(|part| part.len()).sum();
    // The parts always fit into the room of their length.
    let _ = batch.push(path, len, |mut room| {
        for part in parts {
            let (front, rest) = room.split_at_mut_checked(part.len()).ok_or(())?;
            front.copy_from_slice(part);
            room = rest;
        }
        Ok::<_, ()>(())
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn body_of_whole_datagrams_alone_is_taken() {
        let mut datagram = head(AddressRef::Domain("a", 1)).to_vec();
        datagram.extend_from_slice(b"data");
        assert_eq!(body(&datagram), Some(&b"data"[..]));
        assert_eq!(body(datagram.get(..5).unwrap()), None);
        *datagram.get_mut(2).unwrap() = 1;
        assert_eq!(body(&datagram), None, "a fragment");
    }
}
