//! `redir`: what the firewall redirects to `ssr local`.

use std::net::{SocketAddr, UdpSocket};

use super::builder::Builder;
use super::local::LocalSockets;
use super::sockets::incoming;
use crate::app::error::Error;
use crate::app::routing::Router;
use crate::config::{Local, TcpRedir};
use crate::inbound::redir::packets::RedirPackets;
use crate::inbound::redir::{Guard, Method, Redirected};
use crate::inbound::sniff::Sniff;
use crate::net::listener::{self, Listener};
use crate::net::passed::Wanted;
use crate::net::{self, TransparentUdp};
use crate::wire::Address;

impl Builder<'_> {
    pub(super) fn redir(&mut self, local: &Local, sockets: LocalSockets, router: &Router) {
        if let Some((address, udp)) = sockets.udp {
            let relay = self.relay(
                RedirPackets {
                    guard: self.guard(address),
                    fakes: self.fakes.clone(),
                },
                router.clone(),
            );
            let options = net::UdpOptions {
                // Programs are on this machine or near it: no datagram is too long.
                longest: None,
                transparent: Some(TransparentUdp {
                    mark: self.config.socket.fwmark,
                }),
                ..incoming(&self.config.socket).udp
            };
            self.serve_udp(&relay, udp, options);
        }
        if let Some((address, listeners)) = sockets.tcp {
            let inbound = Redirected {
                method: match local.tcp_redir {
                    TcpRedir::Redirect => Method::Redirect,
                    TcpRedir::Tproxy => Method::Tproxy,
                },
                guard: self.guard(address),
                fakes: self.fakes.clone(),
                sniff: sniff(local),
            };
            let idle = self.config.timeouts.idle;
            self.serve_tcp(listeners, inbound, router.clone(), idle, None);
        }
    }

    pub(super) fn guard(&self, listener: SocketAddr) -> Guard {
        let servers = self.config.servers.iter();
        Guard {
            listener,
            servers: servers
                .filter_map(|server| match &server.address {
                    Address::Ip(address) => Some(*address),
                    Address::Domain(..) => None,
                })
                .collect(),
        }
    }

    /// As [`Builder::bind_tcp`], for connections to any address.
    pub(super) fn bind_tproxy_tcp(
        &self,
        address: SocketAddr,
    ) -> Result<(SocketAddr, Vec<Listener>), Error> {
        let passed = self.passed_streams(Wanted::Address(address), &self.config.socket)?;
        if !passed.is_empty() {
            return Ok((address, passed));
        }
        let (group, options) = (self.tproxy(address), incoming(&self.config.socket));
        let listeners = listener::tcp(address, self.jobs.len(), group, &options)?;
        let listeners: Vec<Listener> = listeners.into_iter().map(Listener::from).collect();
        self.note_used(Wanted::Address(address), &listeners)?;
        Ok((address, listeners))
    }

    /// As [`Builder::bind_udp`], for datagrams to any address.
    pub(super) fn bind_tproxy_udp(
        &self,
        address: SocketAddr,
    ) -> Result<(SocketAddr, Vec<UdpSocket>), Error> {
        let passed = self.passed_datagrams(Wanted::Address(address))?;
        if !passed.is_empty() {
            return Ok((address, passed));
        }
        let (group, options) = (self.tproxy(address), incoming(&self.config.socket));
        let sockets = listener::udp(address, self.jobs.len(), group, &options)?;
        self.note_used(Wanted::Address(address), &sockets)?;
        Ok((address, sockets))
    }

    fn tproxy(&self, address: SocketAddr) -> listener::Group {
        listener::Group {
            transparent: true,
            ..self.group(address, &self.config.socket)
        }
    }
}

/// How a listener looks for names: as the config says, or where rules ask for names.
pub(super) fn sniff(local: &Local) -> Option<Sniff> {
    let live = local.rules.clone();
    let is_wanted: Box<dyn Fn() -> bool + Send + Sync> = match (local.sniff.wanted, live) {
        (Some(true), _) => Box::new(|| true),
        (None, Some(live)) => Box::new(move || live.current().has_names()),
        (Some(false), _) | (None, None) => return None,
    };
    Some(Sniff {
        is_wanted,
        overrides: local.sniff.overrides,
    })
}
