//! Carries the packets of a client's UDP associations in its connection to a server.

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::carrier::Carrier;
use super::client::Client;
use super::early::Agreed;
use crate::limits::MAX_EARLY_DATA;
use crate::net::udp::Switched;
use crate::net::{Error, sampled};
use crate::wire::quic_packets::{Head, MAX_SENT_HEAD};

/// What ended the carriage of an association.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// The association.
    Association,
    /// The connection.
    Connection,
    /// It is in doubt whether the server is heard, and there is another way.
    Doubt,
}

/// An association in a connection.
struct Lane<'a> {
    /// Whether it leaves the connection when it is in doubt whether the server is heard.
    leaves_in_doubt: bool,
    carrier: Arc<Carrier>,
    number: u16,
    ends: &'a Switched,
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        self.ends.send_by(None);
        self.carrier.lanes.close(self.number);
    }
}

impl Client {
    /// Carries packets between an association and the server at one of `addresses`, in the connection that is there or a new one,
    /// until the association or the connection ends. A [careful](Client::careful) client does so only while the server is heard.
    ///
    /// # Errors
    /// Those of [`Client::open`].
    pub async fn carry(
        &self,
        ends: &Switched,
        addresses: &[IpAddr],
        port: u16,
    ) -> Result<Carried, Error> {
        let carrier = self.carrier_in_time(addresses, port).await?;
        let Some(number) = carrier.lanes.open(ends.sender()) else {
            sampled::debug!("too many UDP associations in one QUIC connection");
            return Ok(Carried::Connection);
        };
        let _flow = carrier.begin();
        let lane = Lane {
            leaves_in_doubt: self.is_careful(),
            carrier,
            number,
            ends,
        };
        Ok(lane.run().await)
    }
}

impl Lane<'_> {
    async fn run(&self) -> Carried {
        if let Some(agreed) = self.carrier.undecided() {
            let early = self.early(agreed.clone());
            if Box::pin(early).await.is_err() {
                return Carried::Association;
            }
        }
        let (outlet, number) = (Arc::clone(&self.carrier.outlet), self.number);
        self.ends.send_by(Some(Box::new(move |batch| {
            let packets = batch.datagrams().map(|(packet, _)| (number, packet));
            outlet.send(batch.size(), packets)
        })));
        let ended = self.carrier.connection.closed();
        let in_doubt = self.carrier.doubts.notified();
        let rest = async {
            // What came before. Then only the end is left to come.
            while self.send_waiting().await.is_ok() {}
        };
        tokio::select! {
            () = rest => Carried::Association,
            _ = ended => Carried::Connection,
            () = in_doubt, if self.leaves_in_doubt => Carried::Doubt,
        }
    }

    /// Sends what waits until the server has agreed to early data. If it has refused, it has got none of it.
    async fn early(&self, mut agreed: Agreed) -> Result<(), ()> {
        let mut kept = Vec::new();
        let mut room = MAX_EARLY_DATA;
        let agreed = loop {
            tokio::select! {
                word = agreed.wait_for(Option::is_some) => {
                    // Without a word the connection has ended.
                    break word.map_or(true, |word| *word != Some(false));
                }
                taken = self.take_waiting(), if room > 0 => for packet in taken? {
                    room = room.saturating_sub(packet.len());
                    self.carrier.outlet.send_datagram(packet.clone());
                    kept.push(packet);
                },
            }
        };
        if !agreed {
            for packet in kept {
                self.carrier.outlet.send_datagram(packet);
            }
        }
        Ok(())
    }

    /// Waits for packets, and returns them with their heads. An error: the association has ended.
    async fn take_waiting(&self) -> Result<Vec<Bytes>, ()> {
        let mut packets = Vec::new();
        let socket = self.ends.socket();
        let received = poll_fn(|cx| {
            socket.poll_receive(cx, |mut received| {
                packets.extend(received.contents().map(|packet| {
                    let mut bytes = BytesMut::with_capacity(MAX_SENT_HEAD + packet.len());
                    bytes.put_slice(Head::new(self.number).bytes());
                    bytes.put_slice(packet);
                    bytes.freeze()
                }));
            })
        });
        received.await.map_err(drop)?;
        Ok(packets)
    }

    /// Waits for packets, and sends them.
    async fn send_waiting(&self) -> Result<(), ()> {
        for packet in self.take_waiting().await? {
            self.carrier.outlet.send_datagram(packet);
        }
        Ok(())
    }
}
