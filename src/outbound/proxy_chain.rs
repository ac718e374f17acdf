//! Proxies between us and a target (`outbound_proxy`): each connects to the next, the last to the target.
//!
//! Nothing is read after the last answer of a proxy, so the stream to the target is the socket itself (or TLS over it).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::request_leg;
use crate::limits::MAX_CONNECT_RESPONSE;
use crate::net::{Stream, tls};
use crate::relay::Error;
use crate::relay::plain::plain;
use crate::relay::replay::ClientReplays;
use crate::wire::socks::{
    AuthMethod, AuthStatus, Command, Credentials, Greeting, MethodSelection, Reply, Request,
    Response,
};
use crate::wire::{Address, AddressRef, http_connect, socks, ss};

/// Bytes of the longest message to a SOCKS5 proxy: its login.
const MAX_MESSAGE: usize = 3 + 2 * 255;

/// A proxy.
pub struct Hop {
    /// Its URL without the login, for messages.
    pub name: String,
    /// Its address.
    pub address: Address,
    /// What it speaks.
    pub protocol: Protocol,
    /// The login that it requires.
    pub login: Option<Login>,
}

/// What a proxy speaks.
pub enum Protocol {
    /// SOCKS5 (RFC 1928).
    Socks5,
    /// HTTP CONNECT, inside TLS or bare.
    Http(Option<tls::Client>),
    /// Shadowsocks.
    Shadowsocks(Box<(ss::Credentials, ClientReplays)>),
}

/// A user name and a password, each of at most 255 bytes.
pub struct Login {
    /// The user name.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({:?}, …)", self.user)
    }
}

/// Proxies in the order in which they are passed; at least one.
pub struct Chain {
    hops: Vec<Hop>,
    /// Whether the last request for a relay of datagrams failed.
    relays_nothing: AtomicBool,
}

impl Chain {
    /// A chain of these proxies; `None` if there are none.
    #[must_use]
    pub fn new(hops: Vec<Hop>) -> Option<Self> {
        (!hops.is_empty()).then_some(Self {
            hops,
            relays_nothing: AtomicBool::new(false),
        })
    }

    /// The proxy to connect to.
    pub(super) fn first(&self) -> Option<&Hop> {
        self.hops.first()
    }

    /// All proxies, if each of them can relay datagrams.
    pub(super) fn packet_relays(&self) -> Option<&[Hop]> {
        let relays = |hop: &Hop| match hop.protocol {
            Protocol::Socks5 | Protocol::Shadowsocks(_) => true,
            Protocol::Http(_) => false,
        };
        self.hops.iter().all(relays).then_some(&*self.hops)
    }

    /// Notes whether a request for a relay of datagrams failed. Returns whether that is new.
    pub(super) fn note_relay(&self, failed: bool) -> bool {
        self.relays_nothing.swap(failed, Relaxed) != failed
    }

    /// Makes `stream`, a connection to the first proxy, a connection to `target`.
    ///
    /// # Errors
    /// [`Error::Proxy`].
    pub(super) async fn pass(
        &self,
        stream: Stream,
        target: AddressRef<'_>,
    ) -> Result<Stream, Error> {
        self.pass_some(self.hops.len(), stream, target).await
    }

    /// As [`Chain::pass`], through the first `count` proxies only.
    ///
    /// # Errors
    /// [`Error::Proxy`].
    pub(super) async fn pass_some(
        &self,
        count: usize,
        mut stream: Stream,
        target: AddressRef<'_>,
    ) -> Result<Stream, Error> {
        let mut hops = self.hops.iter().take(count).peekable();
        while let Some(hop) = hops.next() {
            let next = hops.peek().map_or(target, |next| next.address.as_ref());
            stream = hop.connect(stream, next).await?;
        }
        Ok(stream)
    }
}

impl Hop {
    /// Adds the name of this proxy to what went wrong with it.
    pub(super) fn failed(&self) -> impl Fn(String) -> Error {
        move |reason| Error::Proxy {
            proxy: self.name.clone(),
            reason,
        }
    }

    /// Asks the proxy at the other end of `stream` to connect to `target`.
    async fn connect(&self, stream: Stream, target: AddressRef<'_>) -> Result<Stream, Error> {
        let connected = match &self.protocol {
            Protocol::Socks5 => {
                let agreed = self.socks(&stream, Command::Connect, target).await;
                agreed.map(|_bound| stream)
            }
            Protocol::Http(tls) => self.http(stream, tls.as_ref(), target).await,
            // It answers nothing: the header goes out with the first bytes for the target.
            Protocol::Shadowsocks(both) => {
                let (credentials, replays) = &**both;
                let leg = request_leg::leg((credentials, replays), stream, target);
                Ok(plain(leg))
            }
        };
        connected.map_err(self.failed())
    }

    async fn http(
        &self,
        mut stream: Stream,
        tls: Option<&tls::Client>,
        target: AddressRef<'_>,
    ) -> Result<Stream, String> {
        if let Some(tls) = tls {
            stream = tls
                .connect(stream)
                .await
                .map_err(|error| error.to_string())?;
        }
        let login = self.login.as_ref();
        let login = login.map(|login| (login.user.as_str(), login.password.as_str()));
        let request = http_connect::request(target, login);
        send(&stream, request.as_bytes()).await?;
        let (parse, missing) = (http_connect::parse_response, http_connect::missing);
        receive(&stream, MAX_CONNECT_RESPONSE, parse, missing).await?;
        Ok(stream)
    }

    /// Logs in to a SOCKS5 proxy and makes a request. Returns the address in the response.
    ///
    /// # Errors
    /// What the proxy said, in words.
    pub(super) async fn socks(
        &self,
        stream: &Stream,
        command: Command,
        address: AddressRef<'_>,
    ) -> Result<Address, String> {
        let offered: &[AuthMethod] = match self.login {
            Some(_) => &[AuthMethod::None, AuthMethod::Password],
            None => &[AuthMethod::None],
        };
        let mut message = [0; MAX_MESSAGE];
        let len = Greeting::encode(offered, &mut message);
        send(stream, filled(&message, len)).await?;
        let parse = |bytes: &[u8]| MethodSelection::parse(bytes);
        let MethodSelection(method) = receive(stream, MAX_MESSAGE, parse, |_| 1).await?;
        match (method, &self.login) {
            (AuthMethod::None, _) => {}
            (AuthMethod::Password, Some(login)) => self.log_in(stream, login).await?,
            _ if self.login.is_none() => {
                return Err("wants a user name and a password".to_owned());
            }
            _ => return Err("takes no user name and password".to_owned()),
        }
        let len = Request { command, address }.encode(&mut message);
        send(stream, filled(&message, len)).await?;
        let parse = |bytes: &[u8]| {
            let parsed = Response::parse(bytes)?;
            Ok::<_, crate::wire::Error>(parsed.map(|(response, len)| {
                let bound: Address = response.bound.into();
                ((response.reply, bound), len)
            }))
        };
        match receive(stream, socks::MAX_REQUEST_LEN, parse, missing_of_response).await? {
            (Reply::Succeeded, bound) => Ok(bound),
            (reply, _) => Err(format!("refused: {}", in_words(reply))),
        }
    }

    async fn log_in(&self, stream: &Stream, login: &Login) -> Result<(), String> {
        let credentials = Credentials {
            user: login.user.as_bytes(),
            password: login.password.as_bytes(),
        };
        let mut message = [0; MAX_MESSAGE];
        let len = credentials.encode(&mut message);
        send(stream, filled(&message, len)).await?;
        let parse = |bytes: &[u8]| AuthStatus::parse(bytes);
        match receive(stream, MAX_MESSAGE, parse, |_| 1).await? {
            AuthStatus::Success => Ok(()),
            AuthStatus::Failure => Err(format!(
                "refused the login of `{}`: wrong user name or password",
                login.user
            )),
        }
    }
}

/// The part of a buffer that was written; nothing if the message did not fit, which the sizes exclude.
fn filled(message: &[u8], len: Option<usize>) -> &[u8] {
    len.and_then(|len| message.get(..len)).unwrap_or_default()
}

/// How many bytes of a SOCKS5 response can be read at once without reading beyond its end.
fn missing_of_response(bytes: &[u8]) -> usize {
    // Version, reply, reserved, address type, and the first byte of the address.
    let whole = match bytes {
        [_, _, _, 1, _, ..] => 4 + 4 + 2,
        [_, _, _, 4, _, ..] => 4 + 16 + 2,
        [_, _, _, 3, len, ..] => 4 + 1 + usize::from(*len) + 2,
        _ => 5,
    };
    whole.saturating_sub(bytes.len()).max(1)
}

async fn send(stream: &Stream, message: &[u8]) -> Result<(), String> {
    stream
        .write_all(message)
        .await
        .map_err(|error| format!("broke the connection: {error}"))
}

/// Reads one message of at most `max` bytes, and not a byte more; `missing` bytes can be read at once.
async fn receive<T, E: fmt::Display>(
    stream: &Stream,
    max: usize,
    parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, E>,
    missing: impl Fn(&[u8]) -> usize,
) -> Result<T, String> {
    let mut bytes = Vec::new();
    loop {
        let start = bytes.len();
        if start > max {
            return Err("sent too long an answer".to_owned());
        }
        bytes.resize(start + missing(&bytes), 0);
        let room = bytes.get_mut(start..).unwrap_or_default();
        match stream.read(room).await {
            Ok(0) => return Err("closed the connection".to_owned()),
            Ok(count) => bytes.truncate(start + count),
            Err(error) => return Err(format!("broke the connection: {error}")),
        }
        match parse(&bytes) {
            Ok(Some((value, _))) => return Ok(value),
            Ok(None) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn in_words(reply: Reply) -> &'static str {
    match reply {
        Reply::Succeeded | Reply::GeneralFailure => "general failure",
        Reply::NotAllowed => "its rules forbid the target",
        Reply::NetworkUnreachable => "the network of the target cannot be reached",
        Reply::HostUnreachable => "the target cannot be reached",
        Reply::ConnectionRefused => "the target refused the connection",
        Reply::TtlExpired => "the target did not answer in time",
        Reply::CommandNotSupported => "it does not know this command",
        Reply::AddressTypeNotSupported => "it does not know this type of address",
    }
}

/// The address to send to, where a proxy names none.
pub(super) fn relay_at(bound: SocketAddr, proxy: IpAddr) -> SocketAddr {
    let ip = if is_nowhere(bound) { proxy } else { bound.ip() };
    SocketAddr::new(ip.to_canonical(), bound.port())
}

/// Whether a proxy names no address.
pub(super) fn is_nowhere(bound: SocketAddr) -> bool {
    bound.ip().to_canonical() == IpAddr::V4(Ipv4Addr::UNSPECIFIED) || bound.ip().is_unspecified()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn relay_without_an_address_is_where_the_proxy_is() {
        let proxy = "192.0.2.1".parse().unwrap();
        for (bound, relay) in [
            ("0.0.0.0:5", "192.0.2.1:5"),
            ("[::]:5", "192.0.2.1:5"),
            ("[::ffff:0.0.0.0]:5", "192.0.2.1:5"),
            ("198.51.100.1:5", "198.51.100.1:5"),
        ] {
            let relay: SocketAddr = relay.parse().unwrap();
            assert_eq!(relay_at(bound.parse().unwrap(), proxy), relay, "{bound}");
        }
    }
}
