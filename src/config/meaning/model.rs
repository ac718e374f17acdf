//! The config as meant: what the services are built from. Every value has been checked.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use crate::crypto::ReplayPolicy;
use crate::crypto::{Key, Method};
use crate::dns;
use crate::net::tls::{Pem, Trust};
use crate::net::transport::Network;
use crate::outbound::shadowsocks::Weights;
use crate::outbound::warm::WarmPolicy;
use crate::wire::address::Address;
use crate::wire::{http, proxy_protocol, reverse};

use crate::config::role::Role;
use crate::config::secret::Secret;
use crate::config::text::diagnostic::Diagnostic;

/// A whole config, for one role.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whom it was read for.
    pub role: Role,
    /// At least one, but for forward. What local connects to, and what server listens as.
    pub servers: Vec<Server>,
    /// What local listens on, at least one; empty for the others.
    pub locals: Vec<Local>,
    /// From where to where bytes are carried as they are; at least one for forward.
    pub forwards: Vec<Forward>,
    /// How long each thing may take.
    pub timeouts: Timeouts,
    /// How long a UDP association stays without traffic; at least 60 s where a method of 2022 is used (SIP022 §3.2).
    pub udp_timeout: Duration,
    /// How much there may be of each thing.
    pub limits: Limits,
    /// Who answers for domain names.
    pub dns: dns::Source,
    /// Entries of the DNS cache; `Some(0)` switches it off, `None` leaves the size to it.
    pub dns_cache_size: Option<usize>,
    /// Socket options; a server's own are in [`Server::socket`].
    pub socket: SocketOptions,
    /// Worker threads; 0 is one a core.
    pub workers: usize,
    /// Open files to ask the system for; `None` is as many as the hard limit grants.
    pub nofile: Option<u64>,
    /// What is done about a repeated salt of an AEAD-2017 method.
    pub replay: ReplayPolicy,
    /// Refuse targets in loopback, link-local, private and metadata networks after resolution.
    pub deny_private: bool,
    /// What is logged, and where to.
    pub log: Log,
    /// How long local waits, at most, for first bytes of a client after the dial, to send them with the header.
    pub first_bytes_wait: Duration,
    /// Reverse tunnels.
    pub reverse: Reverse,
    /// What deserves a warning at start.
    pub warnings: Vec<Diagnostic>,
}

/// Reverse tunnels: what local offers, and what server lets be offered.
#[derive(Clone, Debug)]
pub struct Reverse {
    /// What local offers; names are unique. Empty for server.
    pub services: Vec<Service>,
    /// Over how many links; at least one.
    pub links: usize,
    /// Between two pings of a link; after three without an answer it is dead.
    pub heartbeat: Duration,
    /// What server grants; empty: nothing. Empty for local.
    pub allow: Vec<Allow>,
}

/// Something near local that the server is to publish.
#[derive(Clone, Debug)]
pub struct Service {
    /// Unique, 1 to 255 bytes.
    pub name: String,
    /// Where visitors come to, on the server; port 0: any that is granted.
    pub bind: SocketAddr,
    /// Where they are taken to.
    pub target: Address,
    /// What it speaks.
    pub protocol: reverse::Protocol,
    /// Of HTTP: its Host, in small letters; else empty.
    pub host: String,
    /// Whether, and how, the target is told who the visitor is.
    pub proxy: Option<proxy_protocol::Version>,
    /// Whether other clients may offer the same and share the load.
    pub group: bool,
}

/// What some users may publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// Who; `None`: everybody.
    pub user: Option<String>,
    /// At which addresses; an unspecified one stands for all of its family, `::` for all.
    pub ip: IpAddr,
    /// At which ports, the first and the last.
    pub ports: (u16, u16),
    /// For HTTP, under which Host: a name, `*.` and a name, `*`; `None`: none.
    pub host: Option<String>,
    /// By which protocol; `None`: any.
    pub protocol: Option<reverse::Protocol>,
}

/// A Shadowsocks server: one address, one method, one key or several users.
#[derive(Clone, Debug)]
pub struct Server {
    /// `remarks`, else `id`, else the address.
    pub name: String,
    /// Where server listens and local connects to.
    pub address: Address,
    /// The encryption method.
    pub method: Method,
    /// The keys that the password stands for.
    pub keys: Keys,
    /// Which of TCP and UDP it serves.
    pub mode: Mode,
    /// Users behind identity headers (SIP023); server only, names and keys are unique.
    pub users: Vec<User>,
    /// Spare connections that local keeps to it.
    pub warm: WarmPolicy,
    /// How much local prefers it to others.
    pub weights: Weights,
    /// The global socket options with those of this entry over them.
    pub socket: SocketOptions,
    /// This entry's own idle timeout, over [`Timeouts::idle`].
    pub idle: Option<Duration>,
    /// What stands between TCP and Shadowsocks; `None`: nothing.
    pub transport: Option<Transport>,
}

/// What stands between TCP and Shadowsocks. At least one of TLS and WebSocket.
#[derive(Clone, Debug)]
pub struct Transport {
    /// TLS, the outer one of the two.
    pub tls: Option<Tls>,
    /// WebSocket.
    pub ws: Option<WebSocket>,
    /// Whether local sends datagrams inside it, and not beside it.
    pub udp_inside: bool,
}

/// TLS, for both roles.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The key path that described it.
    pub at: String,
    /// The server's name, where it is another than its address or the host of WebSocket.
    pub server_name: Option<String>,
    /// Which server local takes for the right one.
    pub trust: Trust,
    /// The server's chain of certificates and its key; always there for server.
    pub identity: Option<(Pem, Pem)>,
}

/// WebSocket, for both roles.
#[derive(Clone, Debug)]
pub struct WebSocket {
    /// Where it is served. Without a host, server takes any and local sends the server's address.
    pub endpoint: http::Endpoint,
    /// Whether local puts mux.cool into it.
    pub mux: bool,
    /// Whose `X-Forwarded-For` server believes.
    pub trusted_proxies: Vec<Network>,
}

/// The keys of one server. For server, `key` is its own and `identity` is empty.
#[derive(Clone, Debug)]
pub struct Keys {
    /// iPSKs, outermost first, of the servers that forward or sort by identity (SIP023).
    pub identity: Vec<Key>,
    /// The key that the traffic is encrypted under.
    pub key: Key,
}

/// A user of one server, or a server behind it.
#[derive(Clone, Debug)]
pub struct User {
    /// Unique on its server.
    pub name: String,
    /// Unique on its server.
    pub key: Key,
    /// Where to forward this identity's traffic to instead of serving it (SIP023 relay).
    pub next_hop: Option<Address>,
}

/// Which transports something serves; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// TCP.
    pub tcp: bool,
    /// UDP.
    pub udp: bool,
}

impl Mode {
    /// `tcp_only`.
    pub const TCP_ONLY: Self = Self {
        tcp: true,
        udp: false,
    };
    /// `udp_only`.
    pub const UDP_ONLY: Self = Self {
        tcp: false,
        udp: true,
    };
    /// `tcp_and_udp`.
    pub const TCP_AND_UDP: Self = Self {
        tcp: true,
        udp: true,
    };

    /// Its name in a config.
    pub fn name(self) -> &'static str {
        match self {
            Self::TCP_ONLY => "tcp_only",
            Self::UDP_ONLY => "udp_only",
            _ => "tcp_and_udp",
        }
    }
}

/// Where programs ask `ssr local` for connections.
#[derive(Clone, Debug)]
pub struct Local {
    /// What is spoken there.
    pub protocol: Protocol,
    /// Where TCP listens, and UDP too unless it has its own address.
    pub address: Address,
    /// Where UDP listens, if elsewhere.
    pub udp_address: Option<Address>,
    /// The address that UDP ASSOCIATE names in its reply, where clients see another than we do. Port 0: the real one.
    pub udp_associate_address: Option<Address>,
    /// Which of TCP and UDP it serves.
    pub mode: Mode,
    /// Who may use it; empty: everybody. Read by [`crate::config::load()`], not by [`crate::config::parse()`].
    pub auth: Vec<Credential>,
    /// The file that `auth` comes from.
    pub auth_file: Option<PathBuf>,
}

/// A name and password of SOCKS5 (RFC 1929 §2), each of 1 to 255 bytes.
#[derive(Clone, Debug)]
pub struct Credential {
    /// UNAME.
    pub user: String,
    /// PASSWD.
    pub password: Secret,
}

/// What a [`Local`] speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// SOCKS5 (RFC 1928).
    Socks,
}

impl Protocol {
    /// Its name in a config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Socks => "socks",
        }
    }
}

/// A port whose connections, or datagrams, go to one target.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Where to listen.
    pub listen: Endpoint,
    /// Where to carry to; UDP if and only if `listen` is.
    pub target: Endpoint,
}

/// A side of a [`Forward`].
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// What is spoken there.
    pub scheme: Scheme,
    /// Where; port 0 on the listening side is any free one.
    pub address: Address,
    /// Of `ws` and `wss`: the rest.
    pub ws: Option<Box<EndpointWs>>,
}

/// What belongs to a WebSocket beyond its address.
#[derive(Clone)]
pub struct EndpointWs {
    /// What a target is asked for; where we listen, what has to be asked for.
    pub request: http::Endpoint,
    /// Of `wss`.
    pub tls: Option<Tls>,
}

/// There may be secrets in header fields.
impl std::fmt::Debug for EndpointWs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndpointWs")
            .field("path", &self.request.path)
            .field("host", &self.request.host)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.ws.as_ref().map_or("", |ws| ws.request.path.as_str());
        write!(f, "{}://{}{path}", self.scheme.name(), self.address)
    }
}

/// What is spoken at an [`Endpoint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// A plain stream.
    Tcp,
    /// Datagrams.
    Udp,
    /// WebSocket (RFC 6455).
    Ws,
    /// WebSocket in TLS.
    Wss,
}

impl Scheme {
    /// Its name in a URL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Tcp, Self::Udp, Self::Ws, Self::Wss];
        all.into_iter().find(|scheme| scheme.name() == name)
    }

    pub(super) fn is_ws(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    pub(super) fn default_port(self) -> Option<u16> {
        match self {
            Self::Tcp | Self::Udp => None,
            Self::Ws => Some(80),
            Self::Wss => Some(443),
        }
    }
}

/// How long each thing may take; never unbounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accept to a complete request.
    pub handshake: Duration,
    /// To reach a server or a target.
    pub connect: Duration,
    /// Without a byte in either direction.
    pub idle: Duration,
    /// Without a byte, once one direction has ended.
    pub half_close: Duration,
}

/// How much there may be at once; never unbounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections from clients.
    pub connections: usize,
    /// UDP associations; the least recently used makes room.
    pub udp_associations: usize,
    /// Connections that have not authenticated yet.
    pub handshakes: usize,
    /// Memory for buffers, in MiB; 0: a share of what the machine has.
    pub memory_mib: usize,
}

/// Options of sockets. Buffer sizes in bytes, `None` leaves them to the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// TCP_NODELAY.
    pub no_delay: bool,
    /// TCP Fast Open.
    pub fast_open: bool,
    /// Multipath TCP.
    pub mptcp: bool,
    /// Idle time before, and interval between, keep-alive probes; `None`: no probes.
    pub keep_alive: Option<Duration>,
    /// Prefer IPv6 addresses of a name.
    pub ipv6_first: bool,
    /// IPV6_V6ONLY on listeners.
    pub ipv6_only: bool,
    /// Let other processes bind the same address (SO_REUSEPORT from the first bind on).
    pub reuse_port: bool,
    /// SO_MARK of outbound sockets.
    pub fwmark: Option<u32>,
    /// Local address of outbound sockets of its family.
    pub bind_address: Option<IpAddr>,
    /// The same for the other family, where both are given.
    pub bind_address_other: Option<IpAddr>,
    /// SO_BINDTODEVICE of outbound sockets.
    pub bind_interface: Option<String>,
    /// SO_SNDBUF of accepted sockets.
    pub inbound_send_buffer: Option<u32>,
    /// SO_RCVBUF of accepted sockets.
    pub inbound_recv_buffer: Option<u32>,
    /// SO_SNDBUF of outbound sockets.
    pub outbound_send_buffer: Option<u32>,
    /// SO_RCVBUF of outbound sockets.
    pub outbound_recv_buffer: Option<u32>,
    /// Longest datagram between local and server and towards targets, in bytes of UDP payload; longer ones are dropped.
    pub udp_mtu: Option<usize>,
    /// Let the system fragment datagrams sent to clients; `None`: it may.
    pub inbound_udp_allow_fragmentation: Option<bool>,
    /// Let the system fragment datagrams sent on; `None`: those to a server, not those to targets.
    pub outbound_udp_allow_fragmentation: Option<bool>,
}

/// What is logged, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// 0 info, 1 debug, 2 trace, 3 trace of everything.
    pub level: u8,
    /// Leave the time out.
    pub without_time: bool,
    /// Where to; empty: nowhere.
    pub writers: Vec<Writer>,
}

/// One place that the log goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    /// As [`Log::level`].
    pub level: u8,
    /// As [`Log::without_time`].
    pub without_time: bool,
    /// The place.
    pub sink: Sink,
}

/// The place that a [`Writer`] writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Standard error.
    Console,
    /// Files in a directory.
    File {
        /// The directory.
        directory: PathBuf,
        /// When a new file begins.
        rotation: Rotation,
        /// Begin of the file name; `None`: the program's name.
        prefix: Option<String>,
        /// End of the file name; `None`: `log`.
        suffix: Option<String>,
        /// Files to keep; `None`: all.
        max_files: Option<usize>,
    },
    /// The system log.
    Syslog {
        /// What it knows us as; `None`: the program's name.
        identity: Option<String>,
        /// RFC 5424 §6.2.1; 1 is "user".
        facility: u32,
    },
}

/// When a new log file begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Never.
    Never,
    /// Every hour.
    Hourly,
    /// Every day.
    Daily,
}
