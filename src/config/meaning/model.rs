//! The validated config that the services are built from.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use super::scheme::Scheme;
pub use super::sites::{Site, SiteSource};
pub use super::ways_in::{
    Credential, DnsLocal, FakeDns, PassedNames, Place, Sniff, TcpRedir, TunDevice, TunLocal,
};
use crate::config::links::Links;
pub use crate::crypto::ReplayPolicy;
use crate::crypto::{Key, Method};
use crate::dns;
use crate::net::quic;
use crate::net::tls::{Pem, Trust};
use crate::net::transport::Network;
use crate::outbound::balancer::Balancer;
use crate::outbound::shadowsocks::Weights;
use crate::outbound::warm::WarmPolicy;
use crate::relay::users;
use crate::route::Live;
use crate::wire::address::Address;
use crate::wire::{http, proxy_protocol, reverse, udp_over_tcp};

pub use super::between::Keys;
use super::between::{Multiplex, OnlineConfig, Plugin, ProxyHop};
pub use super::logs::{Log, Rotation, Sink, Writer};
use super::managed::Manager;
use crate::config::reread::Reread;
use crate::config::role::Role;
use crate::config::secret::Secret;
use crate::config::text::diagnostic::Diagnostic;

/// A whole config, for one role.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file, as an absolute path; `None`: there are only flags.
    pub file: Option<PathBuf>,
    /// The role that it was read for.
    pub role: Role,
    /// The servers: `ssr local` connects to them, `ssr server` listens as them. At least one, but none for `ssr forward`, and
    /// with a manager there may be none.
    pub servers: Vec<Server>,
    /// The listeners of `ssr local`, at least one; empty for the other roles.
    pub locals: Vec<Local>,
    /// Listeners that relay to a fixed target; at least one for `ssr forward`.
    pub forwards: Vec<Forward>,
    /// Listeners of sites.
    pub sites: Vec<SiteForward>,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// How long an idle UDP association is kept; at least 60 s if a server has an AEAD-2022 method (SIP022 §3.2.4).
    pub udp_timeout: Duration,
    /// Limits of the process.
    pub limits: Limits,
    /// Where names are resolved.
    pub dns: dns::Source,
    /// Entries of the DNS cache; `Some(0)` disables it, `None` means its default size.
    pub dns_cache_size: Option<usize>,
    /// Global socket options; those of one server are in [`Server::socket`].
    pub socket: SocketOptions,
    /// Worker threads; 0 means one per core.
    pub workers: usize,
    /// The limit on open files to set; `None` means the hard limit.
    pub nofile: Option<u64>,
    /// The user that the process becomes once its ports are bound, by name or number.
    pub user: Option<String>,
    /// What is done about a repeated salt of an AEAD-2017 method.
    pub replay: ReplayPolicy,
    /// Refuse targets in loopback, link-local, private and metadata networks after resolution.
    pub deny_private: bool,
    /// Whether the whole file is read again when it changes.
    pub watch: bool,
    /// Whether the process limits itself to what it needs of the system; `None`: as far as the system can do it.
    pub sandbox: Option<bool>,
    /// Whether active users of `ssr server` have equal shares of what the process can move.
    pub fair: bool,
    /// What is logged, and where.
    pub log: Log,
    /// How long `ssr local` waits for the client's first bytes after the dial, in order to send them with the header.
    pub first_payload_wait: Duration,
    /// The admin API; `None`: there is none.
    pub admin: Option<Admin>,
    /// Where a manager says which ports are served; `None`: there is none.
    pub manager: Option<Manager>,
    /// Reverse tunnels.
    pub reverse: Reverse,
    /// The directory in which `ssr server` keeps what users have used; `None`: it does not.
    pub state: Option<PathBuf>,
    /// The URL of the store that `ssr server` shares users with other servers in; `None`: it does not.
    pub store: Option<Secret>,
    /// How `ssr local` chooses among several servers; `None`: by their weights, without probes.
    pub balancer: Option<Balancer>,
    /// The list of servers on the web, beside [`Config::servers`]; `None`: there is none.
    pub online: Option<OnlineConfig>,
    /// The warnings that the file gave.
    pub warnings: Vec<Diagnostic>,
    /// Reads the file again; `None`: there is no file.
    pub reread: Option<Reread>,
}

/// The admin API.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Where it listens.
    pub address: Address,
    /// What callers must send; `None`: nothing, and only this machine can call.
    pub token: Option<Secret>,
    /// TLS; `None`: plain HTTP.
    pub tls: Option<Tls>,
}

/// Reverse tunnels: the services of a client, and what a server allows.
#[derive(Clone, Debug, PartialEq)]
pub struct Reverse {
    /// The services that `ssr local` publishes; names are unique. Empty for the server.
    pub services: Vec<Service>,
    /// How many links carry the visitors.
    pub links: Links,
    /// The time between two pings of a link; after three without an answer it is dead.
    pub heartbeat: Duration,
    /// What the server allows; empty means nothing. Empty for `ssr local`.
    pub allow: Vec<Allow>,
}

/// A service near `ssr local` that the server publishes.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// The unique name, 1 to 255 bytes.
    pub name: String,
    /// The public address on the server; port 0 means any allowed port.
    pub bind: SocketAddr,
    /// The address of the service, as `ssr local` reaches it.
    pub target: Address,
    /// The protocol of the service.
    pub protocol: reverse::Protocol,
    /// The host name of an HTTP service, in lower case; empty for other protocols.
    pub host: String,
    /// The version of the PROXY protocol that tells the service the visitor's address; `None`: it is not told.
    pub proxy: Option<proxy_protocol::Version>,
    /// Whether other clients may publish the same service and share the load.
    pub group: bool,
}

/// A permission to publish services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// The user; `None`: every user.
    pub user: Option<String>,
    /// The address; `0.0.0.0` means every IPv4 address, `::` every address.
    pub ip: IpAddr,
    /// The first and the last port.
    pub ports: (u16, u16),
    /// The host names of HTTP services: a name, `*.name` or `*`; `None`: no HTTP services.
    pub host: Option<String>,
    /// The protocol; `None`: any.
    pub protocol: Option<reverse::Protocol>,
}

/// A Shadowsocks server: one address, one method, one key or several users.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// `remarks`, else `id`, else the address.
    pub name: String,
    /// The address that the server listens on and `ssr local` connects to.
    pub address: Address,
    /// The encryption method.
    pub method: Method,
    /// The keys that the password stands for.
    pub keys: Keys,
    /// The password as it is written, from which `ssr doctor` makes the keys of other methods.
    pub password: Option<Secret>,
    /// Which of TCP and UDP it serves.
    pub mode: Mode,
    /// Users behind identity headers (SIP023); server only, names and keys are unique.
    pub users: Vec<User>,
    /// How many warm connections `ssr local` keeps to it.
    pub warm: WarmPolicy,
    /// How much `ssr local` prefers it to other servers.
    pub weights: Weights,
    /// The global socket options, overridden by those of this entry.
    pub socket: SocketOptions,
    /// The idle timeout of this entry, which overrides [`Timeouts::idle`].
    pub idle: Option<Duration>,
    /// The layers between TCP and Shadowsocks; `None`: none.
    pub transport: Option<Transport>,
    /// The version of UDP over TCP by which `ssr local` sends datagrams; `None`: it does not.
    pub udp_over_tcp: Option<udp_over_tcp::Version>,
    /// How `ssr local` multiplexes its streams; `None`: it does not.
    pub multiplex: Option<Multiplex>,
    /// The program between the network and Shadowsocks; `None`: none.
    pub plugin: Option<Plugin>,
    /// The proxies between `ssr local` and the server, or between `ssr server` and targets, the nearest first.
    pub proxies: Vec<ProxyHop>,
    /// The ACL file of this server or of the top level.
    pub acl: Option<AclFile>,
    /// What `ssr server` allows; `None`: everything. Filled by [`crate::config::load()`], not by [`crate::config::parse()`].
    pub rules: Option<Arc<Live>>,
}

impl Server {
    /// Whether its transport has TLS.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        let transport = self.transport.as_ref();
        transport.is_some_and(|transport| transport.tls.is_some())
    }

    /// Whether its transport is QUIC.
    #[must_use]
    pub fn is_quic(&self) -> bool {
        let transport = self.transport.as_ref();
        transport.is_some_and(|transport| transport.quic.is_some())
    }

    /// The same server as it is beside QUIC, where a network blocks UDP.
    #[must_use]
    pub fn beside_quic(&self) -> Option<Self> {
        let transport = self.transport.as_ref()?;
        let fallback = transport.fallback.as_ref()?;
        let beside = fallback.ws.as_ref().map(|ws| Transport {
            tls: transport.tls.clone(),
            ws: Some(ws.clone()),
            quic: None,
            fallback: None,
            udp_inside: true,
            udp_datagrams: false,
            site: None,
        });
        Some(Self {
            transport: beside,
            ..self.clone()
        })
    }

    /// Whether a rule that names `name` means this server: an entry with several addresses is several servers.
    pub fn is_named(&self, name: &str) -> bool {
        let rest = self.name.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || (rest.starts_with(" (") && rest.ends_with(')')))
    }
}

/// An ACL file.
#[derive(Clone, Debug)]
pub struct AclFile {
    /// The path of its key in the config, for errors.
    pub at: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Whether it is the same file, wherever the config names it.
impl PartialEq for AclFile {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

/// What is between TCP and Shadowsocks: TLS, WebSocket or both; or QUIC in the place of TCP.
#[derive(Clone, Debug, PartialEq)]
pub struct Transport {
    /// TLS, the outer layer.
    pub tls: Option<Tls>,
    /// WebSocket, the inner layer.
    pub ws: Option<WebSocket>,
    /// QUIC; then there is TLS, inside it.
    pub quic: Option<quic::Settings>,
    /// What is beside QUIC; `None`: nothing.
    pub fallback: Option<Fallback>,
    /// Whether `ssr local` sends datagrams through the WebSocket or QUIC, and not by UDP of their own.
    pub udp_inside: bool,
    /// Whether each of them goes in a datagram of QUIC, and not in a stream.
    pub udp_datagrams: bool,
    /// What strangers get.
    pub site: Option<Site>,
}

/// What is beside QUIC at the same port number, for networks that block UDP.
#[derive(Clone, Debug, PartialEq)]
pub struct Fallback {
    /// WebSocket in TLS; `None`: TCP alone.
    pub ws: Option<WebSocket>,
    /// How long `ssr local` does not try QUIC after it has lost.
    pub retry: Duration,
}

/// A listener of a site.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteForward {
    /// Where to listen: `http` or `https`.
    pub listen: Endpoint,
    /// The site.
    pub site: Site,
}

/// The TLS settings of a server or of an endpoint of a forward.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The path of its keys in the config, for errors.
    pub at: String,
    /// The name expected in the server's certificate; `None`: the host of the WebSocket, or the address.
    pub server_name: Option<String>,
    /// Which certificates a client accepts.
    pub trust: Trust,
    /// Certificate chain and private key; always present where we listen.
    pub identity: Option<(Pem, Pem)>,
}

/// Whether they mean the same, wherever they stand in the config.
impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.server_name == other.server_name
            && self.trust == other.trust
            && self.identity == other.identity
    }
}

/// The WebSocket settings of a server.
#[derive(Clone, Debug, PartialEq)]
pub struct WebSocket {
    /// Its path, host and headers. Without a host, the server accepts any and `ssr local` sends the server's address.
    pub endpoint: http::Endpoint,
    /// Whether `ssr local` speaks mux.cool in it.
    pub mux: bool,
    /// The networks whose `X-Forwarded-For` the server believes.
    pub trusted_proxies: Vec<Network>,
}

/// A user of a server, or another server behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    /// The name, unique on its server.
    pub name: String,
    /// The key, unique on its server.
    pub key: Key,
    /// The password that the key was made from.
    pub password: Secret,
    /// The server that this identity's traffic is forwarded to, instead of being served here (SIP023).
    pub next_hop: Option<Address>,
    /// What it may use.
    pub limits: users::Limits,
}

impl User {
    /// What a table of users takes.
    #[must_use]
    pub fn stated(&self) -> users::NewUser {
        users::NewUser {
            name: self.name.clone(),
            password: self.password.expose().to_owned().into(),
            limits: self.limits,
            next_hop: self.next_hop.clone(),
        }
    }
}

/// Which of TCP and UDP is served; at least one.
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

/// A listener of `ssr local`.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it listens, by UDP too unless there is another address.
    pub address: Place,
    /// The UDP address, if it is another one.
    pub udp_address: Option<Address>,
    /// The sockets that take the place of its own.
    pub passed: PassedNames,
    /// The address in replies to UDP ASSOCIATE, where clients see another one than this machine does. Port 0 means the
    /// port that is bound.
    pub udp_associate_address: Option<Address>,
    /// Which of TCP and UDP it serves.
    pub mode: Mode,
    /// The users that may log in; empty: no login. Filled by [`crate::config::load()`], not by [`crate::config::parse()`].
    pub auth: Vec<Credential>,
    /// The file that `auth` is read from.
    pub auth_file: Option<PathBuf>,
    /// As `auth`, for HTTP.
    pub http_auth: Vec<Credential>,
    /// The file that `http_auth` is read from.
    pub http_auth_file: Option<PathBuf>,
    /// The ACL file of this listener or of the top level.
    pub acl: Option<AclFile>,
    /// Where requests go; `None`: through the servers. Filled by [`crate::config::load()`], not by
    /// [`crate::config::parse()`].
    pub rules: Option<Arc<Live>>,
    /// The name servers of [`Protocol::Dns`].
    pub dns: Option<DnsLocal>,
    /// The networks of [`Protocol::FakeDns`].
    pub fake_dns: Option<FakeDns>,
    /// The target of a [`Protocol::Tunnel`], which always has one; `None` for the others.
    pub target: Option<Address>,
    /// How the firewall passes TCP to a [`Protocol::Redir`]. UDP always comes by TPROXY.
    pub tcp_redir: TcpRedir,
    /// Whether a [`Protocol::Redir`] looks for names in what programs send.
    pub sniff: Sniff,
    /// The device of [`Protocol::Tun`], which always has one.
    pub tun: Option<TunLocal>,
}

/// The protocol of a [`Local`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// SOCKS5 (RFC 1928), SOCKS4 and HTTP, told apart by the first byte.
    Socks,
    /// The same by another name.
    Mixed,
    /// HTTP only.
    Http,
    /// DNS.
    Dns,
    /// DNS with addresses that stand for their names.
    FakeDns,
    /// One target for every client, through the server.
    Tunnel,
    /// What the firewall redirects, to where it was sent.
    Redir,
    /// The packets of a network interface.
    Tun,
}

impl Protocol {
    /// Its name in a config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Socks => "socks",
            Self::Mixed => "mixed",
            Self::Http => "http",
            Self::Dns => "dns",
            Self::FakeDns => "fake-dns",
            Self::Tunnel => "tunnel",
            Self::Redir => "redir",
            Self::Tun => "tun",
        }
    }
}

/// A listener that relays to a fixed target.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// Where to listen.
    pub listen: Endpoint,
    /// The target; UDP if and only if `listen` is.
    pub target: Endpoint,
}

/// The listener or the target of a [`Forward`].
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// The protocol.
    pub scheme: Scheme,
    /// The address; port 0 of a listener means any free port.
    pub address: Address,
    /// The WebSocket settings of `ws` and `wss`; of `https` and `quic`, those of TLS.
    pub ws: Option<Box<EndpointWs>>,
    /// The settings of `quic`.
    pub quic: Option<quic::Settings>,
}

/// The WebSocket settings of an [`Endpoint`].
#[derive(Clone, PartialEq)]
pub struct EndpointWs {
    /// The request sent to a target; the request that a listener requires.
    pub request: http::Endpoint,
    /// The TLS settings of `wss`.
    pub tls: Option<Tls>,
}

/// Leaves out the header fields, which may hold secrets.
impl std::fmt::Debug for EndpointWs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndpointWs")
            .field("path", &self.request.path)
            .field("host", &self.request.host)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// How long each phase of a connection may take; never unbounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accepting the socket to a complete request.
    pub handshake: Duration,
    /// To connect to a server or a target.
    pub connect: Duration,
    /// Without a byte in either direction, while both are open.
    pub idle: Duration,
    /// Without a byte, after one direction has ended.
    pub half_close: Duration,
}

/// How many of each there may be at once; never unbounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections from clients.
    pub connections: usize,
    /// UDP associations; the least recently used one is evicted.
    pub udp_associations: usize,
    /// Connections that have not authenticated yet; the oldest is closed.
    pub handshakes: usize,
    /// Visitors of reverse tunnels and clients of `forwards`; the one that was silent for the longest time is closed.
    pub visitors: usize,
    /// Memory for the buffers of flows, in MiB; above it, flows get small buffers only.
    pub memory_mib: usize,
}

impl Limits {
    /// Bytes of memory for the buffers of flows.
    #[must_use]
    pub const fn buffers(&self) -> usize {
        self.memory_mib.saturating_mul(1 << 20)
    }
}

/// Socket options. Buffer sizes are in bytes; `None` leaves them to the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// TCP_NODELAY.
    pub no_delay: bool,
    /// TCP Fast Open.
    pub fast_open: bool,
    /// Multipath TCP.
    pub mptcp: bool,
    /// The congestion control of TCP; `None`: that of the system.
    pub congestion: Option<String>,
    /// The idle time before, and the interval between, keep-alive probes; `None`: no probes.
    pub keep_alive: Option<Duration>,
    /// Try a name's IPv6 addresses first.
    pub ipv6_first: bool,
    /// IPV6_V6ONLY on listeners.
    pub ipv6_only: bool,
    /// Let other processes bind the same address (SO_REUSEPORT from the first bind on).
    pub reuse_port: bool,
    /// SO_MARK of outbound sockets.
    pub fwmark: Option<u32>,
    /// The local address of outbound sockets of its family.
    pub bind_address: Option<IpAddr>,
    /// The local address of the other family, if both are given.
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
    /// The longest datagram between `ssr local` and the server and to targets, in bytes of UDP payload; longer ones are
    /// dropped.
    pub udp_mtu: Option<usize>,
    /// Whether the system may fragment datagrams sent to clients; `None`: yes.
    pub inbound_udp_allow_fragmentation: Option<bool>,
    /// Whether the system may fragment datagrams sent upstream; `None`: those to a server, but not those to targets.
    pub outbound_udp_allow_fragmentation: Option<bool>,
}
