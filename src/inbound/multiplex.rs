//! The streams of a session of sing-box's `multiplex`, on the server.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use crate::net::Stream;
use crate::net::handshake::{HandshakeError, Reader};
use crate::relay::tcp::{Handshake, Inbound, Leg, Reply, Request, Reserved};
use crate::relay::{Error, Side, User};
use crate::wire::multiplex::{self, BRUTAL, Carries};
use crate::wire::{Address, AddressRef, udp_over_tcp};

/// What a client of sing-box shows to its user when it asks for TCP Brutal.
const NO_BRUTAL: &str =
    "TCP Brutal is not supported by this server; remove `brutal` from `multiplex`";

/// The streams of one session.
pub struct MultiplexStreams {
    /// The user who opened the session.
    pub user: Option<Arc<User>>,
}

impl Inbound for MultiplexStreams {
    async fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<Handshake<'_>, Error> {
        let mut reader = Reader::new(&stream);
        let parse = |bytes: &[u8]| {
            let parsed = Carries::parse(bytes)?;
            Ok(parsed.map(|(carries, target, len)| ((carries, target.to_owned()), len)))
        };
        let read = timeout_at(deadline, reader.next(parse)).await;
        let read = read.map_err(|_| Error::HandshakeTimeout)?;
        let (carries, target) = read.map_err(|error| match error {
            HandshakeError::Io(error) => Error::io(Side::Client)(error),
            HandshakeError::End => Error::HandshakeEnd,
            HandshakeError::Invalid(source) => Error::Wire {
                side: Side::Client,
                source,
            },
        })?;
        let ahead = reader.into_unread();
        if matches!(target.as_ref(), AddressRef::Domain(BRUTAL, _)) {
            let answer = multiplex::brutal_refusal(NO_BRUTAL);
            let told = async {
                stream.write_all(&answer).await?;
                stream.shutdown().await
            };
            let _ = timeout_at(deadline, told).await;
            return Err(Error::NotOffered("TCP Brutal is not supported"));
        }
        if Reserved::of(target.as_ref()) == Some(Reserved::Multiplex) {
            return Err(Error::NotOffered("a session inside a session"));
        }
        let (target, ahead) = match carries {
            Carries::Bytes => (target, ahead),
            // The outbound takes streams of datagrams by this target, with a request as in UDP over TCP.
            Carries::Datagrams | Carries::Addressed => {
                let connect = carries == Carries::Datagrams;
                let request = udp_over_tcp::request(connect, target.as_ref());
                let session = Address::Domain(multiplex::HOST.into(), multiplex::PORT);
                (session, [request, ahead].concat())
            }
        };
        let request = self.request(Leg::ahead(stream, ahead), target, peer);
        Ok(Handshake::Request(request))
    }
}

impl MultiplexStreams {
    fn request(&self, leg: Leg, target: Address, peer: SocketAddr) -> Request {
        Request {
            leg,
            target,
            reply: Some(Box::new(Answers)),
            trusted: false,
            peer,
            user: self.user.clone(),
            claimed: None,
        }
    }
}

/// The responses to the requests of streams.
struct Answers;

impl Reply for Answers {
    fn success(&self) -> Vec<u8> {
        multiplex::OPEN.to_vec()
    }

    fn failure(&self, error: &Error) -> Vec<u8> {
        match error {
            Error::Connect(_) | Error::Resolve { .. } | Error::Denied(_) | Error::Blocked(_) => {
                multiplex::refusal(&error.to_string())
            }
            _ => multiplex::refusal("the server cannot open the stream"),
        }
    }
}
