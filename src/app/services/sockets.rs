//! Listening sockets, and the options of all sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use super::builder::Builder;
use crate::app::error::Error;
use crate::config;
use crate::net::{self, SocketOptions, listener};
use crate::wire::Address;

impl Builder<'_> {
    /// Binds a listener for each worker. Returns the address with the real port.
    pub(super) fn bind_tcp(
        &self,
        address: SocketAddr,
        options: &config::SocketOptions,
    ) -> Result<(SocketAddr, Vec<TcpListener>), Error> {
        let (workers, group) = (self.jobs.len(), self.group(address, options));
        let listeners = listener::tcp(address, workers, group, &incoming(options))?;
        let bound = listeners.first().and_then(|first| first.local_addr().ok());
        Ok((bound.unwrap_or(address), listeners))
    }

    /// Binds a socket for each worker. Returns the address with the real port.
    pub(super) fn bind_udp(
        &self,
        address: SocketAddr,
        options: &config::SocketOptions,
    ) -> Result<(SocketAddr, Vec<UdpSocket>), Error> {
        let (workers, group) = (self.jobs.len(), self.group(address, options));
        let sockets = listener::udp(address, workers, group, &incoming(options))?;
        let bound = sockets.first().and_then(|first| first.local_addr().ok());
        Ok((bound.unwrap_or(address), sockets))
    }

    pub(super) fn group(
        &self,
        address: SocketAddr,
        options: &config::SocketOptions,
    ) -> listener::Group {
        listener::Group {
            only_v6: options.ipv6_only || self.ipv4_wildcards.contains(&address.port()),
            share: options.reuse_port,
            transparent: false,
        }
    }

    /// Records the IPv4 wildcards among `addresses`; to be called before any of them is bound.
    pub(super) fn note_wildcards<'a>(&mut self, addresses: impl Iterator<Item = &'a Address>) {
        let wildcards = addresses.filter_map(|address| match address {
            Address::Ip(address) if address.ip() == Ipv4Addr::UNSPECIFIED => Some(address.port()),
            _ => None,
        });
        self.ipv4_wildcards.extend(wildcards);
    }

    /// Resolves a listening address, which may be a name.
    pub(super) async fn listen_address(&self, address: &Address) -> Result<SocketAddr, Error> {
        let (name, port) = match address {
            Address::Ip(address) => return Ok(*address),
            Address::Domain(name, port) => (name, *port),
        };
        let addresses = self.resolver.lookup(name).await;
        let addresses = addresses.map_err(|source| Error::Listen {
            name: name.to_string(),
            source,
        })?;
        let first = addresses.first().copied();
        let ip = first.unwrap_or(IpAddr::V6(Ipv6Addr::LOCALHOST));
        Ok(SocketAddr::new(ip, port))
    }
}

/// Options of the sockets that clients connect to.
pub(super) fn incoming(options: &config::SocketOptions) -> SocketOptions {
    SocketOptions {
        fast_open: options.fast_open,
        mptcp: options.mptcp,
        keep_alive: options.keep_alive,
        send_buffer: size(options.inbound_send_buffer),
        recv_buffer: size(options.inbound_recv_buffer),
        udp: net::UdpOptions {
            fragment: options.inbound_udp_allow_fragmentation.unwrap_or(true),
            longest: options.udp_mtu,
            transparent: None,
        },
        ..SocketOptions::default()
    }
}

/// Options of the sockets to a server or to targets. Our tags and headers can make a datagram too long for the path to a
/// server; unless the config says otherwise, the system may fragment it there.
pub(super) fn outgoing(options: &config::SocketOptions, to_server: bool) -> SocketOptions {
    SocketOptions {
        fast_open: options.fast_open,
        mptcp: options.mptcp,
        keep_alive: options.keep_alive,
        send_buffer: size(options.outbound_send_buffer),
        recv_buffer: size(options.outbound_recv_buffer),
        mark: options.fwmark,
        bind_addresses: options
            .bind_address
            .into_iter()
            .chain(options.bind_address_other)
            .collect(),
        bind_interface: options.bind_interface.clone(),
        max_segment: None,
        udp: net::UdpOptions {
            fragment: options
                .outbound_udp_allow_fragmentation
                .unwrap_or(to_server),
            longest: options.udp_mtu,
            transparent: None,
        },
    }
}

fn size(bytes: Option<u32>) -> Option<usize> {
    bytes.and_then(|bytes| usize::try_from(bytes).ok())
}
