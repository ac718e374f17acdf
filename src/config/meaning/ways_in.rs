//! What single ways into `ssr local` need beside their listener.

use std::net::SocketAddr;

use crate::wire::address::Address;

/// How the firewall passes TCP connections on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcpRedir {
    /// `REDIRECT` and `DNAT`: it changes the destination of the packets.
    #[default]
    Redirect,
    /// `TPROXY`: it leaves the packets as they are.
    Tproxy,
}

/// The name servers of a `dns` local.
#[derive(Clone, Debug)]
pub struct DnsLocal {
    /// The one that is asked directly.
    pub local: Option<SocketAddr>,
    /// The one that is asked through the server; with `local`, there is always one of the two.
    pub remote: Option<Address>,
    /// The most connections to each that are kept; at least one.
    pub streams: usize,
}
