//! Datagrams to a server through proxies: SOCKS5 (RFC 1928 §7) and Shadowsocks.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::sleep;

use super::dialer::Dialer;
use super::proxy_chain::Protocol;
use crate::crypto::TAG_LEN;
use crate::limits::MAX_UDP_STREAMS;
use crate::net::tasks::Tasks;
use crate::net::udp::{Batch, Path, Socket};
use crate::net::{Stream, unix_now};
use crate::relay::Error;
use crate::relay::replay::{self, ReplayFilter};
use crate::wire::socks::{UDP_PREFIX, parse_udp_prefix};
use crate::wire::ss::packet::{ClientPackets, PacketSealer};
use crate::wire::{self, Address, AddressRef};

/// The pause before a proxy is asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Batches that are moved before other tasks get their turn.
const TURN: usize = 4;

/// An in-memory socket does not look where its datagrams go.
const NOWHERE: Path = Path::to(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0));

/// The socket of a new association, whose datagrams one of `tasks` carries to `server` through the proxies of `dialer`.
pub(super) fn socket(dialer: &Dialer, server: &Address, tasks: &Tasks) -> io::Result<Socket> {
    let (association, carried) = Socket::pair();
    let carrier = Carrier {
        dialer: dialer.clone(),
        server: server.clone(),
    };
    tasks
        .try_spawn(MAX_UDP_STREAMS, carrier.run(carried))
        .map(|_| association)
        .ok_or_else(|| io::Error::other("too many UDP associations through a proxy"))
}

/// Carries the datagrams of one association.
struct Carrier {
    dialer: Dialer,
    server: Address,
}

/// What ended an exchange.
enum Closed {
    /// The association.
    Association,
    /// A proxy ended its part, or the socket to the first one broke.
    Proxy,
}

/// A way through the proxies.
struct Passage {
    socket: Socket,
    /// Where the first proxy relays datagrams.
    relay: SocketAddr,
    /// What each proxy wants around a datagram, the nearest first.
    wraps: Vec<Wrap>,
    controls: Vec<Stream>,
}

impl Carrier {
    /// Carries datagrams until the association ends; asks the proxies again when one has ended its part.
    async fn run(self, association: Socket) {
        // The proxies are asked only when a datagram waits. When the association is gone, this is an error.
        while association.readable().await.is_ok() {
            match Box::pin(self.associate()).await {
                Ok(passage) => {
                    self.note(false);
                    match passage.exchange(&association).await {
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

    /// Notes whether a proxy failed. Returns whether that is new.
    fn note(&self, failed: bool) -> bool {
        let proxies = self.dialer.proxies.as_ref();
        proxies.is_some_and(|proxies| proxies.note_relay(failed))
    }

    /// Asks the proxies for their relays.
    async fn associate(&self) -> Result<Passage, Error> {
        let relays = self.dialer.associate().await?;
        let failed = |reason: String| Error::Proxy {
            proxy: relays.first.to_string(),
            reason,
        };
        let socket = self.dialer.udp_socket();
        let socket =
            socket.map_err(|source| failed(format!("cannot be sent datagrams: {source}")))?;
        let hops = self.dialer.proxies.as_ref();
        let hops = hops.and_then(|all| all.packet_relays()).unwrap_or_default();
        // Each proxy passes datagrams on to the relay of the next, the last to the server.
        let next = relays.places.iter().skip(1).chain([&self.server]);
        let wraps = hops.iter().zip(next);
        let wraps = wraps.map(|(hop, next)| Wrap::new(&hop.protocol, next.as_ref()));
        let wraps: Result<Vec<Wrap>, wire::Error> = wraps.collect();
        Ok(Passage {
            wraps: wraps.map_err(|error| failed(error.to_string()))?,
            relay: relays.first,
            controls: relays.controls,
            socket,
        })
    }
}

impl Passage {
    /// Moves datagrams both ways.
    async fn exchange(self, association: &Socket) -> Closed {
        let Self {
            socket,
            relay,
            mut wraps,
            controls,
        } = self;
        let path = Path::to(relay);
        let mut buffers = (Vec::new(), Vec::new());
        poll_fn(|cx| {
            let ended = |control: &Stream| has_ended(control, cx);
            if controls.iter().any(ended) {
                return Poll::Ready(Closed::Proxy);
            }
            let up = poll_moving(cx, association, &socket, |datagram, _, batch| {
                if let Some(wrapped) = wrap(&mut wraps, datagram, &mut buffers) {
                    push(batch, path, wrapped);
                }
            });
            if up.is_ready() {
                return Poll::Ready(Closed::Association);
            }
            let down = poll_moving(cx, &socket, association, |datagram, path, batch| {
                if let (true, Some(body)) = (path.peer == relay, unwrap(&mut wraps, datagram)) {
                    push(batch, NOWHERE, body);
                }
            });
            down.map(|()| Closed::Proxy)
        })
        .await
    }
}

/// Whether a proxy has ended its part; until then it says nothing on this stream.
fn has_ended(control: &Stream, cx: &mut Context<'_>) -> bool {
    let mut room = [0; 64];
    for _ in 0..TURN {
        if control.poll_readable(cx).is_pending() {
            return false;
        }
        match control.try_read(&mut [IoSliceMut::new(&mut room)]) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return true,
        }
    }
    cx.waker().wake_by_ref();
    false
}

/// Moves datagrams from one socket to another as `each` makes them; is ready when the first has ended or broken.
fn poll_moving(
    cx: &mut Context<'_>,
    from: &Socket,
    to: &Socket,
    mut each: impl FnMut(&mut [u8], Path, &mut Batch),
) -> Poll<()> {
    for _ in 0..TURN {
        let mut batch = Batch::spare();
        let received = from.poll_receive(cx, |mut received| {
            for (datagram, path) in received.datagrams() {
                each(datagram, path, &mut batch);
                if batch.is_full() {
                    to.send(&mut batch);
                }
            }
            to.send(&mut batch);
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

fn push(batch: &mut Batch, path: Path, datagram: &[u8]) {
    // It always fits into the room of its length.
    let _ = batch.push(path, datagram.len(), |room| {
        room.copy_from_slice(datagram);
        Ok::<_, ()>(())
    });
}

/// What a proxy wants around a datagram.
enum Wrap {
    /// A SOCKS5 proxy: this before it.
    Socks(Vec<u8>),
    /// A Shadowsocks server: this address before it, and both sealed.
    Shadowsocks {
        address: Vec<u8>,
        sealer: PacketSealer,
        opener: Box<ClientPackets>,
        seen: Option<Arc<ReplayFilter>>,
    },
}

impl Wrap {
    /// What makes the proxy pass a datagram on to `next`.
    fn new(protocol: &Protocol, next: AddressRef<'_>) -> Result<Self, wire::Error> {
        let mut address = [0; Address::MAX_LEN];
        let len = next.encode(&mut address).unwrap_or(0);
        let address = address.get(..len).unwrap_or_default();
        let Protocol::Shadowsocks(both) = protocol else {
            return Ok(Self::Socks([&UDP_PREFIX, address].concat()));
        };
        let (credentials, replays) = &**both;
        let session = rand::random();
        Ok(Self::Shadowsocks {
            address: address.to_vec(),
            sealer: PacketSealer::client(credentials, session)?,
            opener: Box::new(ClientPackets::new(credentials, session)),
            seen: replays.packets(credentials.method()),
        })
    }

    /// Makes `to` what the proxy wants of `datagram`; `None`: a session has no packet ids left.
    fn wrap(&mut self, datagram: &[u8], to: &mut Vec<u8>) -> Option<()> {
        to.clear();
        match self {
            Self::Socks(head) => {
                to.extend_from_slice(head);
                to.extend_from_slice(datagram);
            }
            Self::Shadowsocks {
                address,
                sealer,
                seen,
                ..
            } => {
                let (method, seen) = (sealer.method(), seen.as_ref());
                sealer.prepare(|| replay::salts(method, seen));
                to.resize(sealer.headroom(), 0);
                let start = to.len();
                to.extend_from_slice(address);
                to.extend_from_slice(datagram);
                let body = start..to.len();
                let tag = if sealer.is_plain() { 0 } else { TAG_LEN };
                to.resize(body.end + tag, 0);
                let salt = || replay::salt(method, seen);
                sealer.seal(to, body, unix_now(), salt).ok()?;
            }
        }
        Some(())
    }

    /// What is inside a datagram of the proxy; `None` for a fragment or anything invalid.
    fn unwrap(&mut self, datagram: &mut [u8]) -> Option<Range<usize>> {
        let inside = match self {
            Self::Socks(_) => {
                let (fragment, start) = parse_udp_prefix(datagram).ok()?;
                if fragment != 0 {
                    return None;
                }
                start..datagram.len()
            }
            Self::Shadowsocks { opener, seen, .. } => {
                let inside = opener.open(datagram, None, unix_now()).ok()?;
                if let Some(seen) = seen {
                    seen.admit_packet(opener.method(), datagram).ok()?;
                }
                inside
            }
        };
        let rest = datagram.get(inside.clone())?;
        let (_, len) = AddressRef::parse(rest).ok()??;
        (len <= rest.len()).then_some(inside.start + len..inside.end)
    }
}

/// Wraps a datagram for all proxies, the farthest first.
fn wrap<'a>(
    wraps: &mut [Wrap],
    datagram: &'a [u8],
    buffers: &'a mut (Vec<u8>, Vec<u8>),
) -> Option<&'a [u8]> {
    let (done, spare) = buffers;
    done.clear();
    done.extend_from_slice(datagram);
    for one in wraps.iter_mut().rev() {
        one.wrap(done, spare)?;
        std::mem::swap(done, spare);
    }
    Some(done)
}

/// Takes a datagram out of what all proxies have put around it, the nearest first.
fn unwrap<'a>(wraps: &mut [Wrap], mut datagram: &'a mut [u8]) -> Option<&'a [u8]> {
    for one in wraps {
        let inside = one.unwrap(datagram)?;
        datagram = datagram.get_mut(inside)?;
    }
    Some(datagram)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn body_of_whole_datagrams_alone_is_taken() {
        let mut wraps = [Wrap::new(&Protocol::Socks5, AddressRef::Domain("a", 1)).unwrap()];
        let mut buffers = (Vec::new(), Vec::new());
        let sent = wrap(&mut wraps, b"data", &mut buffers).unwrap().to_vec();
        assert_eq!(unwrap(&mut wraps, &mut sent.clone()), Some(&b"data"[..]));
        assert_eq!(unwrap(&mut wraps, sent.clone().get_mut(..5).unwrap()), None);
        let mut fragment = sent;
        *fragment.get_mut(2).unwrap() = 1;
        assert_eq!(unwrap(&mut wraps, &mut fragment), None);
    }
}
