//! `tun`: the packets of a network interface.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use socket2::SockRef;

use super::builder::Builder;
use super::redir::sniff;
use crate::app::error::Error;
use crate::app::routing::Router;
use crate::app::worker::{Job, Phase, Shared};
use crate::config::{Local, TunDevice, TunLocal};
use crate::inbound::redir::Guard;
use crate::inbound::redir::packets::RedirPackets;
use crate::inbound::tun::TunStreams;
use crate::net::listener::Listener;
use crate::net::tun::device::Opened;
use crate::net::tun::routes::AutoRoute;
use crate::net::tun::{self, Connections, Ends, Tun};
use crate::net::udp::Socket;
use crate::wire::Address;

impl Builder<'_> {
    /// Opens the device of an entry, and serves it on the first worker. What is relayed is shared by all.
    pub(super) async fn tun(
        &mut self,
        local: &Local,
        settings: &TunLocal,
        router: &Router,
    ) -> Result<(), Error> {
        let device = open(&settings.device).await?;
        let failed = |what| {
            let name = device.name.clone();
            move |source| Error::Tun { name, what, source }
        };
        let ends = addresses(&device, settings)
            .await
            .map_err(failed("cannot set it up"))?;
        if ends.is_empty() {
            let source = io::Error::other(
                "it has none; give it one with a prefix that has room for a second address, or set `tun_interface_address`",
            );
            return Err(failed("cannot find its address")(source));
        }
        let connections = Arc::new(Connections::default());
        let mut sides = Vec::new();
        for ends in &ends {
            let port = match local.mode.tcp {
                true => Some(self.listen_behind(
                    &device,
                    *ends,
                    &connections,
                    (local, settings),
                    router,
                )?),
                false => None,
            };
            sides.push((*ends, port));
        }
        if settings.auto_route {
            self.routes = Some(self.auto_route(&device, &ends, settings));
        }
        let (device_name, mode) = (device.name.clone(), local.mode.name());
        let listener = ends
            .first()
            .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ends| ends.own);
        let tun = Tun::new(device, sides, connections, settings.dns);
        let relay = local.mode.udp.then(|| {
            let guard = self.tun_guard(SocketAddr::new(listener, 0), settings);
            let inbound = RedirPackets {
                guard,
                fakes: self.fakes.clone(),
            };
            self.relay(inbound, router.clone())
        });
        let serve = async move || {
            let socket = Socket::tun(tun)?;
            match relay {
                Some(relay) => relay.serve(Arc::new(socket)).await,
                // TCP and echo requests are answered within; datagrams are nobody's.
                None => loop {
                    std::future::poll_fn(|cx| socket.poll_receive(cx, |_| ())).await?;
                },
            }
        };
        if let Some(jobs) = self.jobs.first_mut() {
            jobs.push(until_the_end(serve));
        }
        tracing::info!(device = %device_name, protocol = local.protocol.name(), mode, "listening");
        Ok(())
    }

    /// Listens for the connections that the device sends to its own address. Returns the port.
    fn listen_behind(
        &mut self,
        device: &Opened,
        ends: Ends,
        connections: &Arc<Connections>,
        (local, settings): (&Local, &TunLocal),
        router: &Router,
    ) -> Result<u16, Error> {
        let address = SocketAddr::new(ends.own, 0);
        let (bound, listeners) = self.bind_tcp(address, &self.config.socket)?;
        for listener in &listeners {
            // What comes by another interface is refused anyway, but later.
            let Listener::Tcp(listener) = listener else {
                continue;
            };
            let bound = SockRef::from(listener).bind_device(Some(device.name.as_bytes()));
            if let Err(error) = bound {
                tracing::debug!(%error, "the listener of a tun device takes connections of all interfaces");
            }
        }
        let inbound = TunStreams {
            connections: Arc::clone(connections),
            other: ends.other,
            dns: settings.dns,
            guard: self.tun_guard(bound, settings),
            fakes: self.fakes.clone(),
            sniff: sniff(local),
        };
        let idle = self.config.timeouts.idle;
        self.serve_tcp(listeners, inbound, router.clone(), idle, None);
        Ok(bound.port())
    }

    /// With `auto_route`, our own sockets pass the device by their mark.
    fn tun_guard(&self, listener: SocketAddr, settings: &TunLocal) -> Guard {
        let mut guard = self.guard(listener);
        if settings.auto_route {
            guard.servers.clear();
        }
        guard
    }

    fn auto_route(&self, device: &Opened, ends: &[Ends], settings: &TunLocal) -> AutoRoute {
        let servers = || self.config.servers.iter();
        let marks = servers().map(|server| server.socket.fwmark);
        let mut marks: Vec<u32> = marks.chain([self.config.socket.fwmark]).flatten().collect();
        marks.sort_unstable();
        marks.dedup();
        // Plugins know nothing of marks.
        let exempt = servers().filter(|server| server.plugin.is_some());
        AutoRoute {
            name: device.name.clone(),
            index: device.index,
            ends: ends.to_vec(),
            marks,
            exempt: exempt
                .filter_map(|server| match &server.address {
                    Address::Ip(address) => Some(address.ip()),
                    Address::Domain(..) => None,
                })
                .collect(),
            takes_dns: settings.dns.is_some(),
        }
    }
}

async fn open(device: &TunDevice) -> Result<Opened, Error> {
    let (name, what, opened) = match device {
        TunDevice::Named(name) => {
            let shown = name.clone().unwrap_or_default();
            let what = "cannot open it; that needs root or CAP_NET_ADMIN, and /dev/net/tun";
            (shown, what, Opened::create(name.as_deref()))
        }
        TunDevice::Descriptor(fd) => {
            let shown = format!("of file descriptor {fd}");
            let what =
                "cannot use it; it must be a tun device with IFF_NO_PI and without IFF_VNET_HDR";
            (shown, what, Opened::inherited(*fd))
        }
        TunDevice::FromPath(path) => {
            tracing::info!(path = %path.display(), "waiting for the file descriptor of a tun device");
            let shown = format!("from {}", path.display());
            let what = "cannot receive it; a program must connect to this path, and send the file descriptor of a tun device";
            (shown, what, received(path).await)
        }
    };
    opened.map_err(|source| Error::Tun { name, what, source })
}

async fn received(path: &Path) -> io::Result<Opened> {
    Opened::adopt(tun::handover::receive(path).await?)
}

/// Sets a device up as the config says, and finds out what it has where the config says nothing.
async fn addresses(device: &Opened, settings: &TunLocal) -> io::Result<Vec<Ends>> {
    if settings.ends.is_empty() {
        let ends = tun::ends_of(device).await?;
        tun::configure(device, &[], settings.mtu).await?;
        return Ok(ends);
    }
    let (v4, v6): (Vec<Ends>, Vec<Ends>) =
        settings.ends.iter().partition(|ends| ends.own.is_ipv4());
    let mut done = v4;
    tun::configure(device, &done, settings.mtu).await?;
    match tun::configure(device, &v6, None).await {
        Ok(()) => done.extend(v6),
        Err(error) if settings.is_default => {
            tracing::info!(%error, "no IPv6 on the tun device: the system has none");
        }
        Err(error) => return Err(error),
    }
    Ok(done)
}

/// The job that serves a device until the process ends: flows that are under way need it.
fn until_the_end<F>(serve: impl FnOnce() -> F + Send + 'static) -> Job
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    Box::new(move |shared: Shared| {
        let mut shared = shared.without_drain();
        Box::pin(async move {
            tokio::select! {
                () = shared.reached(Phase::Stop) => {}
                result = serve() => if let Err(error) = result {
                    tracing::error!(%error, "a tun device failed");
                },
            }
        })
    })
}
