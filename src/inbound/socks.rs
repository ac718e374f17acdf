//! SOCKS5: programs beside `ssr local` (RFC 1928, RFC 1929).

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use subtle::{Choice, ConstantTimeEq};
use tokio::time::{Instant, timeout_at};

use super::udp_associate::Associations;
use crate::net::{self, Stream};
use crate::relay::tcp::{First, Handshake, Inbound, Leg, Reply, Request};
use crate::relay::{Error, Side};
use crate::wire::socks::{
    AuthMethod, AuthStatus, Command, Credentials, Greeting, MethodSelection, Reply as Code,
    Response,
};
use crate::wire::{self, Address, AddressRef, reverse, socks};

/// Bytes of a handshake that are read at once. What a client sends ahead of our answers is taken along.
const READ: usize = 1024;
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
        let mut handshake = Dialogue {
            stream,
            read: Vec::new(),
        };
        let request = timeout_at(deadline, handshake.request(&self.logins));
        let (command, target) = request.await.unwrap_or(Err(Error::HandshakeTimeout))?;
        match command {
            // It would act for the user whose key this local has.
            Command::Connect if target.as_ref() == reverse::target() => {
                refuse(
                    &handshake.stream,
                    Code::NotAllowed,
                    "the carrier of reverse tunnels",
                )
                .await
            }
            Command::Connect => Ok(Handshake::Request(Request {
                leg: Leg {
                    stream: handshake.stream,
                    codec: None,
                    first: if handshake.read.is_empty() {
                        First::Nothing
                    } else {
                        First::Ahead(handshake.read)
                    },
                },
                target,
                reply: Some(Box::new(Answer)),
                trusted: false,
                peer,
            })),
            Command::UdpAssociate => match &self.udp {
                Some(udp) => Ok(Handshake::Job(Box::pin(udp.hold(
                    handshake.stream,
                    peer,
                    target.port(),
                )))),
                None => {
                    refuse(
                        &handshake.stream,
                        Code::CommandNotSupported,
                        "UDP ASSOCIATE (the config says `tcp_only`)",
                    )
                    .await
                }
            },
            Command::Bind => refuse(&handshake.stream, Code::CommandNotSupported, "BIND").await,
            Command::Other(_) => {
                let code = Code::CommandNotSupported;
                refuse(&handshake.stream, code, "an unknown command").await
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

/// A client's stream, and what of it has been read and not been understood yet.
struct Dialogue {
    stream: Stream,
    read: Vec<u8>,
}

impl Dialogue {
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
            answer(&self.stream, Code::of(*source)).await?;
        }
        request
    }

    /// Reads until `parse` has a value. A client that sends byte by byte is as welcome as one that sends all at once.
    async fn next<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, wire::Error>,
    ) -> Result<T, Error> {
        loop {
            let parsed = parse(&self.read).map_err(|source| Error::Wire {
                side: Side::Client,
                source,
            })?;
            if let Some((value, used)) = parsed {
                self.read.drain(..used);
                return Ok(value);
            }
            self.stream
                .readable()
                .await
                .map_err(Error::io(Side::Client))?;
            let mut room = [0; READ];
            match self
                .stream
                .try_read(&mut [std::io::IoSliceMut::new(&mut room)])
            {
                Ok(0) => return Err(Error::HandshakeEnd),
                Ok(count) => self
                    .read
                    .extend_from_slice(room.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(Error::io(Side::Client)(error)),
            }
        }
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
