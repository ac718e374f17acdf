//! Streams of QUIC for one target.

use std::net::SocketAddr;

use tokio::time::{Instant, timeout_at};

use crate::net::Stream;
use crate::relay::tcp::{FixedTarget, Handshake, Inbound, Request};
use crate::relay::{Error, Side};
use crate::wire::{self, quic_forward};

/// Accepts streams of QUIC for one target.
pub struct QuicForward(pub FixedTarget);

impl Inbound for QuicForward {
    async fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<Handshake<'_>, Error> {
        let mut first = [0];
        let read = timeout_at(deadline, stream.read(&mut first)).await;
        let read = read.map_err(|_| Error::HandshakeTimeout)?;
        match read.map_err(Error::io(Side::Client))? {
            0 => Err(Error::HandshakeEnd),
            _ if first == [quic_forward::BEGIN] => {
                let target = self.0.0.clone();
                Ok(Handshake::Request(Request::chosen(stream, peer, target)))
            }
            _ => Err(Error::Wire {
                side: Side::Client,
                source: wire::Error::FrameContent,
            }),
        }
    }
}
