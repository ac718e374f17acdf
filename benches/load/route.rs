//! Ways from a client to a target: directly, by SOCKS5 (RFC 1928), by HTTP (RFC 9110 §9.3.6), or by a forward to a fixed
//! target.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

/// No step of any workload takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a client reaches targets.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    Direct,
    /// Through the SOCKS5 port of a local proxy.
    Socks(SocketAddr),
    /// Through the port of an HTTP proxy.
    Http(SocketAddr),
    /// A name server, which carries no connections.
    NameServer(SocketAddr),
    /// Through a port for each target: target and port.
    Forward(Vec<(SocketAddr, SocketAddr)>),
}

/// What a client wants to reach.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Address(SocketAddr),
    Name(String, u16),
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl Route {
    /// Opens a connection, ready for payload.
    pub(crate) fn connect(&self, target: &Target) -> io::Result<TcpStream> {
        let address = match (self, target) {
            (Self::Socks(proxy), _) => {
                let mut stream = dial(*proxy)?;
                handshake(&mut stream, 1, target)?;
                return Ok(stream);
            }
            (Self::Http(proxy), Target::Address(address)) => {
                let mut stream = dial(*proxy)?;
                connect_request(&mut stream, *address)?;
                return Ok(stream);
            }
            (Self::Direct, Target::Address(address)) => *address,
            (Self::Forward(ports), Target::Address(address)) => {
                let port = ports.iter().find(|(from, _)| from == address);
                port.ok_or_else(|| other("no forward to this target"))?.1
            }
            (Self::NameServer(_), _) => return Err(other("a name server carries no connections")),
            (_, Target::Name(..)) => return Err(other("only a SOCKS proxy resolves names")),
        };
        dial(address)
    }

    /// Opens a UDP association: where to send datagrams for `target`, the header to put in front of them, and the connection
    /// that keeps the association open.
    pub(crate) fn associate(
        &self,
        target: SocketAddr,
    ) -> io::Result<(SocketAddr, Vec<u8>, Option<TcpStream>)> {
        match self {
            Self::Direct => Ok((target, Vec::new(), None)),
            Self::Forward(_) | Self::Http(_) | Self::NameServer(_) => {
                Err(other("this way carries no datagrams"))
            }
            Self::Socks(proxy) => {
                let mut stream = dial(*proxy)?;
                let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
                let mut relay = SocketAddr::from(handshake(&mut stream, 3, &unknown.into())?);
                if relay.ip().is_unspecified() {
                    relay.set_ip(proxy.ip());
                }
                let mut header = vec![0, 0, 0];
                put_target(&mut header, &target.into())?;
                Ok((relay, header, Some(stream)))
            }
        }
    }
}

/// A UDP socket connected to `to`.
pub(crate) fn udp_socket(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    Ok(socket)
}

fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Asks an HTTP proxy for a tunnel to `target` and reads the head of its answer.
fn connect_request(stream: &mut TcpStream, target: SocketAddr) -> io::Result<()> {
    write!(
        stream,
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"
    )?;
    let mut head = Vec::new();
    let mut part = [0; 512];
    while !head.ends_with(b"\r\n\r\n") {
        // The target is silent until it is asked, so nothing follows the head.
        match stream.read(&mut part)? {
            0 => return Err(other("the proxy closed the connection")),
            length => head.extend(part.get(..length).unwrap_or_default()),
        }
    }
    match head.get(9..12) {
        Some(b"200") => Ok(()),
        _ => Err(other("the proxy refused the tunnel")),
    }
}

/// Sends `command`, step by step as browsers do, and returns the bound address.
fn handshake(stream: &mut TcpStream, command: u8, target: &Target) -> io::Result<SocketAddrV4> {
    stream.write_all(&[5, 1, 0])?;
    let mut method = [0; 2];
    stream.read_exact(&mut method)?;
    if method != [5, 0] {
        return Err(other("the proxy requires authentication"));
    }
    let mut request = vec![5, command, 0];
    put_target(&mut request, target)?;
    stream.write_all(&request)?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply)?;
    match reply {
        [5, 0, _, 1, a, b, c, d, high, low] => Ok(SocketAddrV4::new(
            Ipv4Addr::new(a, b, c, d),
            u16::from_be_bytes([high, low]),
        )),
        [5, 0, ..] => Err(other("the proxy binds an address that is not IPv4")),
        [_, code, ..] => Err(other(&format!("the proxy replied {code}"))),
    }
}

fn put_target(bytes: &mut Vec<u8>, target: &Target) -> io::Result<()> {
    match target {
        Target::Address(SocketAddr::V4(address)) => {
            bytes.push(1);
            bytes.extend(address.ip().octets());
            bytes.extend(address.port().to_be_bytes());
        }
        Target::Address(SocketAddr::V6(_)) => return Err(other("targets are IPv4")),
        Target::Name(name, port) => {
            let length = u8::try_from(name.len()).map_err(io::Error::other)?;
            bytes.extend([3, length]);
            bytes.extend(name.as_bytes());
            bytes.extend(port.to_be_bytes());
        }
    }
    Ok(())
}

fn other(message: &str) -> io::Error {
    io::Error::other(message.to_owned())
}
