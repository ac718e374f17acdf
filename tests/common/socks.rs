//! A SOCKS5 client that says exactly what it is told to (RFC 1928, RFC 1929).

use super::{ANSWER, DEADLINE, SILENCE};
use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

/// A destination in the form of SOCKS5 and Shadowsocks: ATYP, address, port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target(pub Vec<u8>);

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        let mut bytes = Vec::new();
        match address.ip() {
            IpAddr::V4(ip) => {
                bytes.push(1);
                bytes.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                bytes.push(4);
                bytes.extend(ip.octets());
            }
        }
        bytes.extend(address.port().to_be_bytes());
        Self(bytes)
    }
}

impl Target {
    /// A destination by name.
    pub fn name(name: &str, port: u16) -> Self {
        let mut bytes = vec![3, u8::try_from(name.len()).unwrap()];
        bytes.extend(name.as_bytes());
        bytes.extend(port.to_be_bytes());
        Self(bytes)
    }

    /// Splits an address off the front of `bytes`.
    pub fn parse(bytes: &[u8]) -> (Self, &[u8]) {
        let len = match bytes[0] {
            1 => 1 + 4 + 2,
            3 => 1 + 1 + usize::from(bytes[1]) + 2,
            4 => 1 + 16 + 2,
            other => panic!("address type {other}"),
        };
        (Self(bytes[..len].to_vec()), &bytes[len..])
    }

    /// The socket address, if it is one.
    pub fn socket(&self) -> Option<SocketAddr> {
        let port = u16::from_be_bytes(*self.0.last_chunk().unwrap());
        let ip = match self.0[0] {
            1 => IpAddr::from(<[u8; 4]>::try_from(&self.0[1..5]).unwrap()),
            4 => IpAddr::from(<[u8; 16]>::try_from(&self.0[1..17]).unwrap()),
            _ => return None,
        };
        Some(SocketAddr::new(ip, port))
    }
}

/// Where a SOCKS5 proxy listens and how to log in.
#[derive(Clone, Debug)]
pub struct Socks {
    /// The proxy.
    pub proxy: SocketAddr,
    /// User and password, if it asks for them.
    pub login: Option<(String, String)>,
}

/// `CONNECT`.
pub const CONNECT: u8 = 1;
/// `BIND`.
pub const BIND: u8 = 2;
/// `UDP ASSOCIATE`.
pub const ASSOCIATE: u8 = 3;

impl Socks {
    /// A proxy without login.
    pub fn new(proxy: SocketAddr) -> Self {
        Self { proxy, login: None }
    }

    /// A bare connection to the proxy, with deadlines.
    pub fn dial(&self) -> TcpStream {
        dial(self.proxy)
    }

    /// Negotiates and sends one request; returns the stream, the reply code and the bound address.
    ///
    /// # Errors
    /// The method or status byte of a refused negotiation.
    pub fn request(&self, command: u8, target: &Target) -> Result<(TcpStream, u8, Target), u8> {
        let mut stream = self.dial();
        match &self.login {
            None => {
                stream.write_all(&[5, 1, 0]).unwrap();
                let chosen: [u8; 2] = read_array(&mut stream);
                if chosen != [5, 0] {
                    return Err(chosen[1]);
                }
            }
            Some((user, password)) => {
                stream.write_all(&[5, 1, 2]).unwrap();
                let chosen: [u8; 2] = read_array(&mut stream);
                if chosen != [5, 2] {
                    return Err(chosen[1]);
                }
                stream.write_all(&login_bytes(user, password)).unwrap();
                let status: [u8; 2] = read_array(&mut stream);
                assert_eq!(status[0], 1, "version of the login answer");
                if status[1] != 0 {
                    return Err(status[1]);
                }
            }
        }
        stream.write_all(&request_bytes(command, target)).unwrap();
        let (code, bound) = read_reply(&mut stream);
        Ok((stream, code, bound))
    }

    /// Connects to `target` through the proxy.
    pub fn connect(&self, target: &Target) -> TcpStream {
        let (stream, code, _) = self.request(CONNECT, target).expect("negotiation");
        assert_eq!(code, 0, "reply to CONNECT {target:?}");
        stream
    }

    /// Opens a UDP association.
    pub fn associate(&self) -> Association {
        let unspecified = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let (control, code, bound) = self
            .request(ASSOCIATE, &unspecified.into())
            .expect("negotiation");
        assert_eq!(code, 0, "reply to UDP ASSOCIATE");
        let mut relay = bound.socket().expect("a bound address");
        if relay.ip().is_unspecified() {
            relay.set_ip(self.proxy.ip());
        }
        let socket = UdpSocket::bind((self.proxy.ip(), 0)).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Association {
            control,
            socket,
            relay,
        }
    }
}

/// What an association is warmed up with.
const WARM_UP: &[u8] = b"warm-up";

/// A UDP association: its control connection and the client's socket.
#[derive(Debug)]
pub struct Association {
    /// The association ends with this connection.
    pub control: TcpStream,
    /// The client's socket.
    pub socket: UdpSocket,
    /// Where datagrams go.
    pub relay: SocketAddr,
}

impl Association {
    /// Sends `data` towards `target`.
    pub fn send(&self, target: &Target, data: &[u8]) {
        self.send_fragment(0, target, data);
    }

    /// Sends `data` with a FRAG byte.
    pub fn send_fragment(&self, frag: u8, target: &Target, data: &[u8]) {
        let packet = datagram(frag, target, data);
        let sent = self
            .socket
            .send_to(&packet, self.relay)
            .expect("send a datagram");
        assert_eq!(sent, packet.len());
    }

    /// The next datagram and the address that it claims to be from, or `None` after `wait`. Answers to
    /// [`Self::warm_up`] that come late, since it asks again before long, are none.
    pub fn receive(&self, wait: Duration) -> Option<(Target, Vec<u8>)> {
        loop {
            let (target, data) = self.receive_any(wait)?;
            if data != WARM_UP {
                return Some((target, data));
            }
        }
    }

    fn receive_any(&self, wait: Duration) -> Option<(Target, Vec<u8>)> {
        self.socket.set_read_timeout(Some(wait)).unwrap();
        let mut buf = vec![0; 65536];
        let (len, from) = self.socket.recv_from(&mut buf).ok()?;
        assert_eq!(from, self.relay, "datagrams come from the relay");
        assert_eq!(buf[..3], [0, 0, 0], "RSV and FRAG");
        let (target, data) = Target::parse(&buf[3..len]);
        Some((target, data.to_vec()))
    }

    /// Sends `data` and returns the answer.
    pub fn exchange(&self, target: &Target, data: &[u8]) -> (Target, Vec<u8>) {
        self.send(target, data);
        self.receive(ANSWER)
            .unwrap_or_else(|| panic!("no answer to {} bytes", data.len()))
    }

    /// Exchanges small datagrams until one comes back, since a relay may bind its UDP port after its TCP port.
    pub fn warm_up(&self, target: &Target) {
        for _ in 0..20 {
            self.send(target, WARM_UP);
            if self.receive_any(SILENCE).is_some() {
                return;
            }
        }
        panic!("UDP never worked: no answer to 20 datagrams");
    }
}

/// Connects with deadlines set.
pub fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A request: VER, CMD, RSV, address.
pub fn request_bytes(command: u8, target: &Target) -> Vec<u8> {
    [&[5, command, 0], target.0.as_slice()].concat()
}

/// A login: VER, user, password.
pub fn login_bytes(user: &str, password: &str) -> Vec<u8> {
    let len = |text: &str| vec![u8::try_from(text.len()).unwrap()];
    [
        vec![1],
        len(user),
        user.into(),
        len(password),
        password.into(),
    ]
    .concat()
}

/// A UDP request: RSV, FRAG, address, data.
pub fn datagram(frag: u8, target: &Target, data: &[u8]) -> Vec<u8> {
    [&[0, 0, frag], target.0.as_slice(), data].concat()
}

/// Reads a reply: its code and the bound address.
pub fn read_reply(stream: &mut TcpStream) -> (u8, Target) {
    let head: [u8; 4] = read_array(stream);
    assert_eq!(
        (head[0], head[2]),
        (5, 0),
        "version and reserved byte of a reply"
    );
    let mut bound = vec![head[3]];
    let rest = match head[3] {
        1 => 4 + 2,
        3 => {
            let [len] = read_array(stream);
            bound.push(len);
            usize::from(len) + 2
        }
        4 => 16 + 2,
        other => panic!("bound address type {other}"),
    };
    let at = bound.len();
    bound.resize(at + rest, 0);
    stream
        .read_exact(&mut bound[at..])
        .expect("a bound address");
    (head[1], Target(bound))
}

/// Reads exactly `N` bytes.
pub fn read_array<const N: usize>(stream: &mut TcpStream) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).expect("bytes from the peer");
    bytes
}

/// Writes every byte in a segment of its own.
///
/// # Errors
/// Those of the first write that the peer refuses.
pub fn write_byte_by_byte(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.set_nodelay(true).unwrap();
    for byte in bytes {
        stream.write_all(&[*byte])?;
        thread::sleep(Duration::from_micros(200)); // lets the segment be read alone
    }
    Ok(())
}
