//! Packets of UDP associations in a connection, both sides: one DATAGRAM frame each (RFC 9221), or one unidirectional stream where
//! that is too short. The layout is that of [`quic_packets`].

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{Connection, ConnectionError, RecvStream, SendDatagramError};
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

use super::settings::CANCELLED;
use crate::limits::{
    MAX_QUIC_LONG_PACKETS, QUIC_DATAGRAM_BUFFER, QUIC_LONG_PACKET_TIME, UDP_STREAM_WINDOW,
};
use crate::net::alive::Limit;
use crate::net::sync::lock;
use crate::net::tasks::Tasks;
use crate::net::udp::{Sender, Sent};
use crate::wire::quic_packets::{Head, MAX_HEAD, MAX_PACKET, MAX_SENT_HEAD, parse};

/// Datagrams that are taken from the connection before others get their turn.
const TURN: usize = 64;
/// Bytes that a datagram takes in the buffer of the connection beside its own.
const OVERHEAD: usize = size_of::<Bytes>();

/// Sends packets. What is too much is lost.
pub(super) struct Outlet {
    connection: Connection,
    /// They send what is too long for a datagram.
    long: Tasks,
    /// The bytes of those.
    long_bytes: Limit,
}

impl Outlet {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection,
            long: Tasks::default(),
            long_bytes: Limit::new(UDP_STREAM_WINDOW),
        }
    }

    /// Sends `packets`, each with the number of its association. `bytes` and `count`: those of all.
    pub(super) fn send<'a>(
        &self,
        (bytes, count): (usize, usize),
        packets: impl Iterator<Item = (u16, &'a [u8])>,
    ) -> Sent {
        let longest = self.connection.max_datagram_size().unwrap_or_default();
        let mut space = self.connection.datagram_send_buffer_space();
        // One piece of memory for all, as long as all find room: what waits in the connection keeps it, so it must not keep the
        // memory of those that are lost.
        let whole = bytes + count * (MAX_SENT_HEAD + OVERHEAD);
        let mut room = BytesMut::with_capacity(if whole <= space { whole } else { 0 });
        let mut lost = 0;
        for (association, packet) in packets {
            let head = Head::new(association);
            let len = head.bytes().len() + packet.len();
            let is_long = len > longest;
            // Otherwise the connection would drop the oldest, which nobody counts.
            if !is_long && len + OVERHEAD > space {
                lost += 1;
                continue;
            }
            room.put_slice(head.bytes());
            room.put_slice(packet);
            let datagram = room.split().freeze();
            let is_sent = if is_long {
                self.send_long(datagram)
            } else {
                space -= len + OVERHEAD;
                self.connection.send_datagram(datagram).is_ok()
            };
            lost += usize::from(!is_sent);
        }
        Sent {
            lost,
            is_busy: space < QUIC_DATAGRAM_BUFFER / 2,
        }
    }

    /// Sends what stands in a datagram; returns whether it was not lost.
    pub(super) fn send_datagram(&self, datagram: Bytes) -> bool {
        match self.connection.send_datagram(datagram.clone()) {
            Ok(()) => true,
            Err(SendDatagramError::TooLarge | SendDatagramError::UnsupportedByPeer) => {
                self.send_long(datagram)
            }
            Err(SendDatagramError::Disabled | SendDatagramError::ConnectionLost(_)) => false,
        }
    }

    /// Sends what is too long for a datagram in a stream of its own.
    fn send_long(&self, packet: Bytes) -> bool {
        let most = usize::try_from(MAX_QUIC_LONG_PACKETS).unwrap_or(usize::MAX);
        let Some(counted) = self.long_bytes.take(packet.len()) else {
            return false;
        };
        let connection = self.connection.clone();
        let sending = async move {
            let _counted = counted;
            // The peer may allow no stream now. Later, nobody wants the packet any more.
            let _ = timeout(QUIC_LONG_PACKET_TIME, in_stream(connection, packet)).await;
        };
        self.long.try_spawn(most, sending).is_some()
    }
}

async fn in_stream(connection: Connection, packet: Bytes) -> io::Result<()> {
    /// Breaks the stream off, unless all was sent: without that it would end as if it were complete.
    struct Stream(quinn::SendStream);
    impl Drop for Stream {
        fn drop(&mut self) {
            let _ = self.0.reset(CANCELLED);
        }
    }
    let mut stream = Stream(connection.open_uni().await?);
    // As datagrams, before what bulk flows send.
    let _ = stream.0.set_priority(1);
    stream.0.write_chunk(packet).await?;
    let _ = stream.0.finish();
    // It counts until the peer has it.
    let _ = stream.0.stopped().await;
    Ok(())
}

/// Receives what comes in `connection` and hands it to `deliver`, beginning with `first`, until the connection ends.
pub(super) async fn receive(
    connection: &Connection,
    first: Option<Arrived>,
    mut deliver: impl FnMut(Bytes),
) -> ConnectionError {
    let most = usize::try_from(MAX_QUIC_LONG_PACKETS).unwrap_or(usize::MAX);
    let mut long = JoinSet::new();
    let mut next = first;
    loop {
        match next.take() {
            Some(Arrived::Datagram(datagram)) => deliver(datagram),
            Some(Arrived::Stream(stream)) => drop(long.spawn(read_long(stream))),
            None => {}
        }
        let taken = (0..TURN).map_while(|_| read_now(connection));
        if taken.map(&mut deliver).count() == TURN {
            yield_now().await;
        }
        tokio::select! {
            arrived = arrival(connection, long.len() < most) => match arrived {
                Ok(arrived) => next = Some(arrived),
                Err(error) => return error,
            },
            Some(packet) = long.join_next() => if let Ok(Some(packet)) = packet {
                deliver(packet);
            },
        }
    }
}

/// What came: a datagram, or the stream of a packet that is too long for one.
pub enum Arrived {
    /// A datagram.
    Datagram(Bytes),
    /// A stream.
    Stream(RecvStream),
}

/// Waits for a datagram, or for a stream if `streams`. Cancel safe.
pub(super) async fn arrival(
    connection: &Connection,
    streams: bool,
) -> Result<Arrived, ConnectionError> {
    tokio::select! {
        datagram = connection.read_datagram() => datagram.map(Arrived::Datagram),
        stream = connection.accept_uni(), if streams => stream.map(Arrived::Stream),
    }
}

/// The next datagram, if there is one.
fn read_now(connection: &Connection) -> Option<Bytes> {
    // Nobody waits here.
    let mut cx = Context::from_waker(Waker::noop());
    match pin!(connection.read_datagram()).poll(&mut cx) {
        Poll::Ready(datagram) => datagram.ok(),
        Poll::Pending => None,
    }
}

async fn read_long(mut stream: RecvStream) -> Option<Bytes> {
    let read = stream.read_to_end(MAX_HEAD + MAX_PACKET);
    let read = timeout(QUIC_LONG_PACKET_TIME, read).await;
    Some(read.ok()?.ok()?.into())
}

/// Where the packets of a client's associations go, by their numbers.
#[derive(Default)]
pub(super) struct Lanes(Mutex<Open>);

#[derive(Default)]
struct Open {
    next: u16,
    senders: HashMap<u16, Arc<Sender>>,
}

impl Lanes {
    /// Gives an association a number; `None`: all are taken.
    pub(super) fn open(&self, sender: Arc<Sender>) -> Option<u16> {
        let mut open = lock(&self.0);
        let first = open.next;
        let mut numbers = (first..=u16::MAX).chain(0..first);
        let number = numbers.find(|number| !open.senders.contains_key(number))?;
        open.next = number.wrapping_add(1);
        open.senders.insert(number, sender);
        Some(number)
    }

    pub(super) fn close(&self, number: u16) {
        lock(&self.0).senders.remove(&number);
    }

    /// Passes on what came. What is for no association is dropped.
    pub(super) fn deliver(&self, mut datagram: Bytes) {
        if let Some((number, start)) = parse(&datagram)
            && let Some(sender) = lock(&self.0).senders.get(&number)
        {
            sender.send_bytes(datagram.split_off(start));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::net::udp::Socket;

    #[test]
    fn numbers_are_given_once_and_again_when_they_are_free() {
        let lanes = Lanes::default();
        let sender = Arc::new(Socket::with_sender(|_| true).1);
        let open = || lanes.open(Arc::clone(&sender));
        assert_eq!((open(), open()), (Some(0), Some(1)));
        lanes.close(0);
        assert_eq!(open(), Some(2), "one that was used lately comes last");
        for number in 3..=u16::MAX {
            assert_eq!(open(), Some(number));
        }
        assert_eq!((open(), open()), (Some(0), None));
        lanes.close(7);
        assert_eq!(open(), Some(7));
    }
}
