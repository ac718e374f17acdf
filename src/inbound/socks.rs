//! SOCKS5: programs beside `ssr local` (RFC 1928, RFC 1929).

pub mod packets;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use subtle::{Choice, ConstantTimeEq};
use tokio::time::{Instant, timeout_at};

use super::udp_associate::Associations;
use crate::net::handshake::{HandshakeError, Reader};
use crate::net::{self, Stream};
use crate::relay::tcp::{First, Handshake, Inbound, Leg, Reply, Request};
use crate::relay::{Error, Side};
use crate::wire::socks::{
    AuthMethod, AuthStatus, Command, Credentials, Greeting, MethodSelection, Reply as Code,
    Response,
};
use crate::wire::{self, Address, AddressRef, reverse, socks};

/// Bytes of answers: the longest has a domain name in it.
const ANSWER: usize = 3 + Address::MAX_LEN;

/// A user name and a password.
pub type Login = (Vec<u8>, Vec<u8>);

/// The SOCKS5 side of `ssr local`.
pub struct Socks {
    /// Who may use it; empty: everybody.
    pub logins: Vec<Login>,
    /// The datagram side, if there is one.
    pub udp: Option<UdpAssociate>,
}

/// What UDP ASSOCIATE needs to know.
pub struct UdpAssociate {
    /// The address of the datagram socket.
    pub address: SocketAddr,
    /// The address that clients are told, if it is another.
    pub public: Option<Address>,
    /// Who may send to it.
    pub associations: Arc<Associations>,
    /// Ends what the relay holds for a client address.
    pub close: Box<dyn Fn(SocketAddr) + Send + Sync>,
}

impl Inbound for Socks {
    async fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<Handshake<'_>, Error> {
        let mut dialogue = Dialogue {
            stream: &stream,
            reader: Reader::new(&stream),
        };
        let request = timeout_at(deadline, dialogue.request(&self.logins));
        let (command, target) = request.await.unwrap_or(Err(Error::HandshakeTimeout))?;
        let ahead = dialogue.reader.into_unread();
        match command {
            // It would act for the user whose key this local has.
            Command::Connect if target.as_ref() == reverse::target() => {
                refuse(&stream, Code::NotAllowed, "the carrier of reverse tunnels").await
            }
            Command::Connect => Ok(Handshake::Request(Request {
                leg: Leg {
                    stream,
                    codec: None,
                    first: if ahead.is_empty() {
                        First::Nothing
                    } else {
                        First::Ahead(ahead)
                    },
                },
                target,
                reply: Some(Box::new(Answer)),
                trusted: false,
                peer,
            })),
            Command::UdpAssociate => match &self.udp {
                Some(udp) => Ok(Handshake::Job(Box::pin(udp.hold(
                    stream,
                    peer,
                    target.port(),
                )))),
                None => {
                    refuse(
                        &stream,
                        Code::CommandNotSupported,
                        "UDP ASSOCIATE (the config says `tcp_only`)",
                    )
                    .await
                }
            },
            Command::Bind => refuse(&stream, Code::CommandNotSupported, "BIND").await,
            Command::Other(_) => {
                let code = Code::CommandNotSupported;
                refuse(&stream, code, "an unknown command").await
            }
        }
    }

    async fn drain_and_close(&self, _: Stream) {}
}

async fn refuse<T>(stream: &Stream, code: Code, what: &'static str) -> Result<T, Error> {
    answer(stream, code).await?;
    Err(Error::NotOffered(what))
}

async fn answer(stream: &Stream, code: Code) -> Result<(), Error> {
    stream
        .write_all(&encode(&Response::failure(code)))
        .await
        .map_err(Error::io(Side::Client))
}

fn encode(response: &Response<'_>) -> Vec<u8> {
    let mut room = [0; ANSWER];
    let len = response.encode(&mut room).unwrap_or_default();
    room.get(..len).unwrap_or_default().to_vec()
}

/// A client's stream during its handshake.
struct Dialogue<'a> {
    stream: &'a Stream,
    reader: Reader<'a>,
}

impl Dialogue<'_> {
    async fn request(&mut self, logins: &[Login]) -> Result<(Command, Address), Error> {
        let needed = if logins.is_empty() {
            AuthMethod::None
        } else {
            AuthMethod::Password
        };
        let offered = self.next(|bytes| {
            Ok(Greeting::parse(bytes)?.map(|(greeting, used)| (greeting.offers(needed), used)))
        });
        let selected = if offered.await? {
            needed
        } else {
            AuthMethod::Unacceptable
        };
        self.write(&MethodSelection(selected).encode()).await?;
        match selected {
            AuthMethod::None => {}
            AuthMethod::Password => {
                let known = self.next(|bytes| {
                    Ok(Credentials::parse(bytes)?
                        .map(|(given, used)| (is_known(logins, &given), used)))
                });
                let known = known.await?;
                self.write(
                    &if known {
                        AuthStatus::Success
                    } else {
                        AuthStatus::Failure
                    }
                    .encode(),
                )
                .await?;
                if !known {
                    return Err(Error::Credentials);
                }
            }
            _ => {
                return Err(Error::NotOffered(
                    "any of the client's authentication methods",
                ));
            }
        }
        let request = self.next(|bytes| {
            Ok(socks::Request::parse(bytes)?
                .map(|(request, used)| ((request.command, request.address.to_owned()), used)))
        });
        let request = request.await;
        if let Err(Error::Wire { source, .. }) = &request {
            answer(self.stream, Code::of(*source)).await?;
        }
        request
    }

    async fn next<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, wire::Error>,
    ) -> Result<T, Error> {
        self.reader.next(parse).await.map_err(|error| match error {
            HandshakeError::Io(error) => Error::io(Side::Client)(error),
            HandshakeError::End => Error::HandshakeEnd,
            HandshakeError::Invalid(source) => Error::Wire {
                side: Side::Client,
                source,
            },
        })
    }

    async fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        self.stream
            .write_all(bytes)
            .await
            .map_err(Error::io(Side::Client))
    }
}

/// Compares with every login, so that the time tells nothing of them.
fn is_known(logins: &[Login], given: &Credentials<'_>) -> bool {
    let matches = |(user, password): &Login| {
        user.as_slice().ct_eq(given.user) & password.as_slice().ct_eq(given.password)
    };
    logins
        .iter()
        .map(matches)
        .fold(Choice::from(0), |found, same| found | same)
        .into()
}

/// The answers to CONNECT.
struct Answer;

impl Reply for Answer {
    fn success(&self) -> Vec<u8> {
        encode(&Response {
            reply: Code::Succeeded,
            ..Response::failure(Code::Succeeded)
        })
    }

    fn failure(&self, error: &Error) -> Vec<u8> {
        encode(&Response::failure(code_of(error)))
    }
}

/// What a client is told of a failure.
fn code_of(error: &Error) -> Code {
    match error {
        Error::Denied(_) => Code::NotAllowed,
        Error::Resolve { .. }
        | Error::Connect(net::Error::NoAddress | net::Error::ConnectTimeout { .. }) => {
            Code::HostUnreachable
        }
        Error::Connect(net::Error::Connect { source, .. }) => match source.kind() {
            ErrorKind::ConnectionRefused => Code::ConnectionRefused,
            ErrorKind::NetworkUnreachable => Code::NetworkUnreachable,
            ErrorKind::HostUnreachable | ErrorKind::TimedOut => Code::HostUnreachable,
            _ => Code::GeneralFailure,
        },
        _ => Code::GeneralFailure,
    }
}

impl UdpAssociate {
    /// Answers UDP ASSOCIATE and keeps the association until the client's connection ends (RFC 1928 §7).
    async fn hold(&self, stream: Stream, peer: SocketAddr, announced: u16) -> Result<(), Error> {
        let _ticket = self
            .associations
            .open(peer.ip().to_canonical(), announced, |peer| {
                (self.close)(peer)
            });
        let local = stream
            .local_addr()
            .map_err(Error::io(Side::Client))?
            .ip()
            .to_canonical();
        let bound = SocketAddr::new(reachable(self.address.ip(), local), self.address.port());
        let address = match &self.public {
            None => AddressRef::Ip(bound),
            Some(Address::Ip(public)) if public.port() == 0 => {
                AddressRef::Ip((public.ip(), bound.port()).into())
            }
            Some(public) => public.as_ref(),
        };
        let reply = Response {
            reply: Code::Succeeded,
            bound: address,
        };
        stream
            .write_all(&encode(&reply))
            .await
            .map_err(Error::io(Side::Client))?;
        let mut room = [0; 64];
        while stream
            .read(&mut room)
            .await
            .map_err(Error::io(Side::Client))?
            > 0
        {}
        Ok(())
    }
}

/// A wildcard is no address to send to: the client is told the one that it has reached us by.
fn reachable(bound: IpAddr, local: IpAddr) -> IpAddr {
    if bound.is_unspecified() { local } else { bound }
}
