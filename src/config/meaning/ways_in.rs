//! What single ways into `ssr local` need beside their listener.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::secret::Secret;
use crate::dns::fake;
use crate::net::tun::Ends;
use crate::wire::address::Address;

/// A name and password of SOCKS5 (RFC 1929 §2) or HTTP (RFC 7617), each of 1 to 255 bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Credential {
    /// The user name (UNAME).
    pub user: String,
    /// The password (PASSWD).
    pub password: Secret,
}

/// Where a listener waits for its clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// At an address.
    Address(Address),
    /// At a path of the file system, for streams only; with the permissions of the file, `None`: what the umask leaves.
    Path(PathBuf, Option<u32>),
}

impl Place {
    /// The address, if it has one.
    pub const fn address(&self) -> Option<&Address> {
        match self {
            Self::Address(address) => Some(address),
            Self::Path(..) => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Path(path, _) => path.display().fmt(f),
        }
    }
}

/// The names of sockets that the service manager passes; with a name, nothing is bound.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PassedNames {
    /// Those for streams.
    pub tcp: Option<String>,
    /// Those for datagrams.
    pub udp: Option<String>,
}

/// How the firewall passes TCP connections on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcpRedir {
    /// `REDIRECT` and `DNAT`: it changes the destination of the packets.
    #[default]
    Redirect,
    /// `TPROXY`: it leaves the packets as they are.
    Tproxy,
}

/// Whether the names in TLS and HTTP are looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sniff {
    /// Whether they are; `None`: if rules ask for names.
    pub wanted: Option<bool>,
    /// Whether a connection goes to the name, and not to the address that the program meant.
    pub overrides: bool,
}

/// The name servers of a `dns` local.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsLocal {
    /// The one that is asked directly.
    pub local: Option<SocketAddr>,
    /// The one that is asked through the server; with `local`, there is always one of the two.
    pub remote: Option<Address>,
    /// The most connections to each that are kept; at least one.
    pub streams: usize,
}

/// The networks of a `fake-dns` local, and where its names are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeDns {
    /// What it hands out.
    pub names: fake::Settings,
    /// The file that keeps names over a restart, or a directory for it.
    pub file: PathBuf,
}

/// The device of a `tun` local.
#[derive(Clone, Debug, PartialEq)]
pub struct TunLocal {
    /// Which one.
    pub device: TunDevice,
    /// Its addresses, at most one of each IP version; empty: those that it has.
    pub ends: Vec<Ends>,
    /// Whether these are our choice: that of IPv6 is left out where the system has no IPv6.
    pub is_default: bool,
    /// Its MTU; `None`: that which it has.
    pub mtu: Option<u32>,
    /// Whether the traffic of the machine is led into it.
    pub auto_route: bool,
    /// Where queries go, whatever name server programs ask.
    pub dns: Option<SocketAddr>,
}

/// A tun device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunDevice {
    /// Of this name; `None`: the system chooses one.
    Named(Option<String>),
    /// Behind this file descriptor, with which the process was started.
    Descriptor(i32),
    /// Behind a file descriptor that comes through this unix socket.
    FromPath(PathBuf),
}
