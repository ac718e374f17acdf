//! SOCKS5: programs that use `ssr local` (RFC 1928, RFC 1929).

pub mod packets;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::login::{Login, find};
use super::udp_associate::Associations;
use crate::dns::fake::{Fakes, NoName};
use crate::net::handshake::{HandshakeError, Reader};
use crate::net::{self, Stream};
use crate::relay::tcp::{Handshake, Inbound, Leg, Reply, Request};
use crate::relay::{Error, Side, User};
use crate::wire::socks::{
    AuthMethod, AuthStatus, Command, Credentials, Greeting, MethodSelection, Reply as Code,
    Response,
};
use crate::wire::{self, Address, AddressRef, socks};

/// Bytes of the longest response, which contains a domain name.
const MAX_RESPONSE: usize = 3 + Address::MAX_LEN;

/// The SOCKS5 side of `ssr local`.
pub struct Socks {
    /// The users that may use it; empty: everybody.
    pub logins: Vec<Login>,
    /// The UDP side, if it is enabled.
    pub udp: Option<UdpAssociate>,
    /// Names behind fake addresses.
    pub fakes: Fakes,
}

/// The datagram socket of UDP ASSOCIATE.
pub struct UdpAssociate {
    /// The address of the socket.
    pub address: SocketAddr,
    /// The address for clients, if it is not the socket's own.
    pub public: Option<Address>,
    /// The clients that may send to it.
    pub associations: Arc<Associations>,
    /// Ends the relay's association of a client address.
    pub close: Box<dyn Fn(SocketAddr) + Send + Sync>,
}

impl Inbound for Socks {
    async fn handshake(
        &self,
        stream: Stream,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<Handshake<'_>, Error> {
        self.go_on(stream, Vec::new(), peer, deadline).await
    }
}

impl Socks {
    /// Reads the handshake of a client of which `unread` has been read already.
    pub(super) async fn go_on(
        &self,
        stream: Stream,
        unread: Vec<u8>,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<Handshake<'_>, Error> {
        let mut dialogue = Dialogue {
            stream: &stream,
            reader: Reader::resume(&stream, unread),
        };
        let request = timeout_at(deadline, dialogue.request(&self.logins));
        let requested = request.await.unwrap_or(Err(Error::HandshakeTimeout))?;
        let ahead = dialogue.reader.into_unread();
        let Requested {
            command,
            target,
            user,
        } = requested;
        let reason = match (command, &self.udp) {
            (Command::Connect, _) => {
                let target = match self.fakes.meant(target) {
                    Ok(target) => target,
                    Err(NoName(address)) => {
                        answer(&stream, Code::HostUnreachable).await?;
                        return Err(Error::NoName(address));
                    }
                };
                return Ok(Handshake::Request(Request {
                    leg: Leg::ahead(stream, ahead),
                    target,
                    reply: Some(Box::new(ConnectReply)),
                    trusted: false,
                    peer,
                    user,
                    claimed: None,
                }));
            }
            (Command::UdpAssociate, Some(udp)) => {
                let hold = udp.hold(stream, peer, target.port(), user);
                return Ok(Handshake::Job(Box::pin(hold)));
            }
            (Command::UdpAssociate, None) => "UDP ASSOCIATE is off: `mode` is `tcp_only`",
            (Command::Bind, _) => "the BIND command is not supported",
            (Command::Other(_), _) => "the command is unknown",
        };
        answer(&stream, Code::CommandNotSupported).await?;
        Err(Error::NotOffered(reason))
    }
}

async fn answer(stream: &Stream, code: Code) -> Result<(), Error> {
    stream
        .write_all(&encode(&Response::failure(code)))
        .await
        .map_err(Error::io(Side::Client))
}

fn encode(response: &Response<'_>) -> Vec<u8> {
    let mut bytes = [0; MAX_RESPONSE];
    let len = response.encode(&mut bytes).unwrap_or_default();
    bytes.get(..len).unwrap_or_default().to_vec()
}

/// What a client requests.
struct Requested {
    command: Command,
    target: Address,
    user: Option<Arc<User>>,
}

/// A client's stream during its handshake.
struct Dialogue<'a> {
    stream: &'a Stream,
    reader: Reader<'a>,
}

impl Dialogue<'_> {
    async fn request(&mut self, logins: &[Login]) -> Result<Requested, Error> {
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
        let user = match selected {
            AuthMethod::None => None,
            AuthMethod::Password => {
                let user = self.next(|bytes| {
                    Ok(Credentials::parse(bytes)?
                        .map(|(given, used)| (find(logins, given.user, given.password), used)))
                });
                let user = user.await?;
                let verdict = match user {
                    Some(_) => AuthStatus::Success,
                    None => AuthStatus::Failure,
                };
                self.write(&verdict.encode()).await?;
                Some(user.ok_or(Error::Credentials)?)
            }
            _ => {
                return Err(Error::NotOffered(
                    "the client offers no authentication method that is accepted here",
                ));
            }
        };
        let request = self.next(|bytes| {
            Ok(socks::Request::parse(bytes)?
                .map(|(request, used)| ((request.command, request.address.to_owned()), used)))
        });
        let request = request.await;
        if let Err(Error::Wire { source, .. }) = &request {
            answer(self.stream, Code::of(*source)).await?;
        }
        let (command, target) = request?;
        Ok(Requested {
            command,
            target,
            user,
        })
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

/// The answers to CONNECT.
struct ConnectReply;

impl Reply for ConnectReply {
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

/// The reply code for a failure.
fn code_of(error: &Error) -> Code {
    match error {
        Error::Denied(_) | Error::Blocked(_) | Error::NotOffered(_) => Code::NotAllowed,
        Error::Resolve { .. }
        | Error::Connect(
            net::Error::NoAddress
            | net::Error::ConnectTimeout { .. }
            | net::Error::TransportTimeout { .. },
        ) => Code::HostUnreachable,
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
    /// Answers UDP ASSOCIATE and holds the association until the client's connection ends (RFC 1928 §7).
    async fn hold(
        &self,
        stream: Stream,
        peer: SocketAddr,
        announced: u16,
        user: Option<Arc<User>>,
    ) -> Result<(), Error> {
        let ip = peer.ip().to_canonical();
        let _ticket = self
            .associations
            .open(ip, announced, user, |peer| (self.close)(peer));
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

/// The address that a client can send to: if the socket is bound to a wildcard, the one that the client connected to.
fn reachable(bound: IpAddr, local: IpAddr) -> IpAddr {
    if bound.is_unspecified() { local } else { bound }
}
