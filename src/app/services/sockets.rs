//! Listening sockets, and the options of all sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;

use super::builder::Builder;
use crate::app::error::Error;
use crate::config::{self, Role};
use crate::dns::Resolver;
use crate::net::listener::{self, Listener};
use crate::net::passed::Wanted;
use crate::net::unix::{self, SocketFile};
use crate::net::{self, SocketOptions};
use crate::wire::Address;

impl Builder<'_> {
    /// Listens on `address`: on the sockets there that the service manager has passed, else on a new one for each worker.
    /// Returns the address with the real port.
    pub(super) fn bind_tcp(
        &self,
        address: SocketAddr,
        options: &config::SocketOptions,
    ) -> Result<(SocketAddr, Vec<Listener>), Error> {
        let passed = self.passed_streams(Wanted::Address(address), options)?;
        if let Some(first) = passed.first() {
            return Ok((first.address().unwrap_or(address), passed));
        }
        let (workers, group) = (self.jobs.len(), self.group(address, options));
        let listeners = listener::tcp(address, workers, group, &incoming(options))?;
        let listeners: Vec<Listener> = listeners.into_iter().map(Listener::from).collect();
        self.note_used(Wanted::Address(address), &listeners)?;
        let bound = listeners.first().and_then(Listener::address);
        Ok((bound.unwrap_or(address), listeners))
    }

    /// As [`Builder::bind_tcp`], for datagrams.
    pub(super) fn bind_udp(
        &self,
        address: SocketAddr,
        options: &config::SocketOptions,
    ) -> Result<(SocketAddr, Vec<UdpSocket>), Error> {
        self.bind_udp_sockets(address, options, self.jobs.len())
    }

    /// As [`Builder::bind_udp`], on a given number of sockets.
    pub(super) fn bind_udp_sockets(
        &self,
        address: SocketAddr,
        options: &config::SocketOptions,
        count: usize,
    ) -> Result<(SocketAddr, Vec<UdpSocket>), Error> {
        let passed = self.passed_datagrams(Wanted::Address(address))?;
        if let Some(first) = passed.first() {
            return Ok((first.local_addr().unwrap_or(address), passed));
        }
        let group = self.group(address, options);
        let sockets = listener::udp(address, count, group, &incoming(options))?;
        self.note_used(Wanted::Address(address), &sockets)?;
        let bound = sockets.first().and_then(|first| first.local_addr().ok());
        Ok((bound.unwrap_or(address), sockets))
    }

    /// Listens at a path, as [`Builder::bind_tcp`] does at an address.
    pub(super) fn bind_path(
        &mut self,
        path: &Path,
        mode: Option<u32>,
    ) -> Result<Vec<Listener>, Error> {
        let passed = self.passed_streams(Wanted::Path(path), &self.config.socket)?;
        if !passed.is_empty() {
            if self.passed.is_inherited() {
                // It was made by the process before this one. Without it, there is nothing to remove.
                self.files.extend(SocketFile::found_at(path));
            }
            return Ok(passed);
        }
        let listening = unix::listen(path, mode, self.jobs.len());
        let (listeners, file) = listening.map_err(|source| Error::Path {
            path: path.to_owned(),
            source,
        })?;
        self.files.push(file);
        // All are handles of one socket.
        self.note_used(Wanted::Path(path), listeners.get(..1).unwrap_or_default())?;
        Ok(listeners)
    }

    /// Keeps copies of new sockets, so that what replaces their owner can go on with them.
    pub(super) fn note_used(&self, wanted: Wanted<'_>, sockets: &[impl AsFd]) -> Result<(), Error> {
        let mut noted = sockets.iter().map(|one| self.passed.note_used(wanted, one));
        let noted = noted.try_for_each(|one| one);
        noted.map_err(Error::system("cannot keep a copy of a listening socket"))
    }

    /// The listeners for streams that the service manager has passed; none is no error.
    pub(super) fn passed_streams(
        &self,
        wanted: Wanted<'_>,
        options: &config::SocketOptions,
    ) -> Result<Vec<Listener>, Error> {
        let options = incoming(options);
        let taken = self.passed.take_streams(wanted, self.jobs.len(), &options);
        taken.map_err(Error::system("cannot use a socket that systemd passed"))
    }

    /// The sockets for datagrams that the service manager has passed; none is no error.
    pub(super) fn passed_datagrams(&self, wanted: Wanted<'_>) -> Result<Vec<UdpSocket>, Error> {
        let options = incoming(&self.config.socket);
        let taken = self.passed.take_datagrams(wanted, &options);
        taken.map_err(Error::system("cannot use a socket that systemd passed"))
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

    /// Records what the config listens on; to be called before any of it is bound.
    pub(in crate::app) fn note_listeners(&mut self) {
        let config = self.config;
        let locals = config.locals.iter();
        let locals = locals.flat_map(|local| [local.address.address(), local.udp_address.as_ref()]);
        self.note_wildcards(locals.flatten());
        if config.role == Role::Server {
            self.note_wildcards(config.servers.iter().map(|server| &server.address));
        }
        self.note_wildcards(
            config
                .forwards
                .iter()
                .map(|forward| &forward.listen.address),
        );
        self.note_wildcards(config.sites.iter().map(|site| &site.listen.address));
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
        listen_address(address, self.resolver).await
    }
}

/// Resolves a listening address, which may be a name.
pub(in crate::app) async fn listen_address(
    address: &Address,
    resolver: &Resolver,
) -> Result<SocketAddr, Error> {
    let (name, port) = match address {
        Address::Ip(address) => return Ok(*address),
        Address::Domain(name, port) => (name, *port),
    };
    let addresses = resolver.lookup(name).await;
    let addresses = addresses.map_err(|source| Error::Listen {
        name: name.to_string(),
        source,
    })?;
    let first = addresses.first().copied();
    let ip = first.unwrap_or(IpAddr::V6(Ipv6Addr::LOCALHOST));
    Ok(SocketAddr::new(ip, port))
}

/// Options of the sockets that clients connect to.
pub(super) fn incoming(options: &config::SocketOptions) -> SocketOptions {
    SocketOptions {
        fast_open: options.fast_open,
        mptcp: options.mptcp,
        congestion: options.congestion.clone(),
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
        congestion: options.congestion.clone(),
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
