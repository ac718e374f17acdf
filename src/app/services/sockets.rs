//! Listening sockets, and the options of all sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use super::builder::Builder;
use crate::app::error::Error;
use crate::config;
use crate::net::{self, SocketOptions, listener};
use crate::wire::Address;

impl Builder<'_> {
    pub(super) fn bind_tcp(
        &self,
        address: SocketAddr,
        options: &config::SocketOptions,
    ) -> Result<(SocketAddr, Vec<TcpListener>), Error> {
        let listeners = listener::tcp(
            address,
            self.jobs.len(),
            self.group(address, options),
            &incoming(options),
        )?;
        let bound = listeners
            .first()
            .and_then(|listener| listener.local_addr().ok())
            .unwrap_or(address);
        Ok((bound, listeners))
    }

    pub(super) fn bind_udp(
        &self,
        address: SocketAddr,
        options: &config::SocketOptions,
    ) -> Result<Vec<UdpSocket>, Error> {
        Ok(listener::udp(
            address,
            self.jobs.len(),
            self.group(address, options),
            &incoming(options),
        )?)
    }

    fn group(&self, address: SocketAddr, options: &config::SocketOptions) -> listener::Group {
        listener::Group {
            only_v6: options.ipv6_only || self.four.contains(&address.port()),
            share: options.reuse_port,
        }
    }

    pub(super) fn note_wildcards<'a>(&mut self, addresses: impl Iterator<Item = &'a Address>) {
        let wildcards = addresses.filter_map(|address| match address {
            Address::Ip(address) if address.ip() == Ipv4Addr::UNSPECIFIED => Some(address.port()),
            _ => None,
        });
        self.four.extend(wildcards);
    }

    /// The socket address of a listening address, which may be a name.
    pub(super) async fn listen_address(&self, address: &Address) -> Result<SocketAddr, Error> {
        match address {
            Address::Ip(address) => Ok(*address),
            Address::Domain(name, port) => {
                let addresses = self.resolver.lookup(name).await;
                let addresses = addresses.map_err(|source| Error::Listen {
                    name: name.to_string(),
                    source,
                })?;
                let ip = addresses
                    .first()
                    .copied()
                    .unwrap_or(IpAddr::V6(Ipv6Addr::LOCALHOST));
                Ok(SocketAddr::new(ip, *port))
            }
        }
    }
}

/// Options of the sockets that clients come to.
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
        },
        ..SocketOptions::default()
    }
}

/// Options of the sockets that go out, to a server or to targets. What is long for the path because of our own tags and
/// headers should not be lost, so on the way to a server the system may cut it where the config does not say.
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
        udp: net::UdpOptions {
            fragment: options
                .outbound_udp_allow_fragmentation
                .unwrap_or(to_server),
            longest: options.udp_mtu,
        },
    }
}

fn size(bytes: Option<u32>) -> Option<usize> {
    bytes.and_then(|bytes| usize::try_from(bytes).ok())
}
