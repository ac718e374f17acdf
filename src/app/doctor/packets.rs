//! Datagrams through a server: whether they pass.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::task::Poll;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::context::{Context, millis};
use super::key::{Known, Subject};
use super::query::{self, Family};
use super::report::{Code, Problem, Verdict};
use crate::net::udp::{self, Batch, Path};
use crate::outbound::shadowsocks::Servers;
use crate::relay::udp::{PacketOutbound as _, Upstream};

/// When a query is sent again, and when it is given up.
const SENT_AT: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(500),
    Duration::from_millis(1200),
];
const GIVEN_UP: Duration = Duration::from_millis(3500);
/// How long the system may take to say that a port is closed.
const REFUSED: Duration = Duration::from_millis(700);

/// An association with the server, through which the name server is asked.
pub(super) struct Packets {
    upstream: Upstream,
    peer: SocketAddr,
    target: Vec<u8>,
    name: String,
    // It carries the datagrams where they do not go by UDP.
    _servers: Servers,
}

impl Packets {
    pub(super) async fn open(cx: &Context<'_>, subject: &Subject<'_>) -> Result<Self, String> {
        let servers = cx.parts.alone(subject.server, subject.plugin);
        let servers = servers.map_err(|error| error.to_string())?;
        let upstream = servers.associate((Ipv4Addr::LOCALHOST, 0).into(), false);
        let upstream = upstream.map_err(|error| error.to_string())?;
        let server = upstream
            .server
            .as_ref()
            .ok_or("the server has no address")?;
        let peer = servers.resolve(server, true).await;
        let peer = peer.ok_or("the name of the server cannot be resolved")?;
        let address = cx.settings.name_server.as_ref();
        let mut target = vec![0; address.encoded_len()];
        let _ = address.encode(&mut target);
        Ok(Self {
            upstream,
            peer,
            target,
            name: query::asked_name(&cx.settings.down),
            _servers: servers,
        })
    }

    /// Sends a query with this id.
    pub(super) fn send(&mut self, id: u16) {
        let Some(query) = query::query(&self.name, Family::V4, id) else {
            return;
        };
        let path = Path::to(self.peer);
        let mut batch = Batch::spare();
        let encoder = &mut self.upstream.encoder;
        if encoder.push(&mut batch, path, &self.target, &query).is_ok() {
            self.upstream.socket.send(&mut batch);
        }
        batch.keep();
    }

    /// Waits for answers, and calls `each` with their ids.
    pub(super) async fn receive(&mut self, mut each: impl FnMut(u16)) -> io::Result<()> {
        let Self { upstream, peer, .. } = self;
        let Upstream {
            socket, decoder, ..
        } = upstream;
        let mut ids = Vec::new();
        poll_fn(|cx| {
            let polled = socket.poll_receive(cx, |mut received| {
                decoder.decode(&mut received, Some(*peer), |_, decoded| {
                    let id = decoded.ok().and_then(|(_, data)| data.first_chunk::<2>());
                    ids.extend(id.map(|id| u16::from_be_bytes(*id)));
                });
            });
            match polled {
                Poll::Ready(Ok(())) if ids.is_empty() => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                other => other,
            }
        })
        .await?;
        ids.into_iter().for_each(&mut each);
        Ok(())
    }
}

/// Whether the config sends datagrams through the server.
pub(super) fn are_wanted(subject: &Subject<'_>) -> bool {
    subject.server.mode.udp && subject.server.weights.udp.is_some()
}

/// Asks the name server by datagrams through the server.
pub(super) async fn udp(cx: &Context<'_>, subject: &Subject<'_>, known: &Known) -> Verdict {
    if !are_wanted(subject) {
        return Verdict::Skipped("the config is for TCP only".to_owned());
    }
    let mut packets = match Packets::open(cx, subject).await {
        Ok(packets) => packets,
        Err(error) => {
            return Verdict::Fault(Problem::new(
                Code::UdpBlocked,
                format!("datagrams cannot be sent through the server: {error}"),
                format!("server {}", subject.server.address),
                "correct the server or `outbound_proxy` in the config, or set `mode` to \"tcp_only\"",
            ));
        }
    };
    let begun = Instant::now();
    for (index, at) in SENT_AT.iter().enumerate() {
        if let Err(passed) = received_before(&mut packets, begun + *at).await {
            return Verdict::Ok(passed);
        }
        packets.send(u16::try_from(index).unwrap_or_default());
    }
    if let Err(passed) = received_before(&mut packets, begun + GIVEN_UP).await {
        return Verdict::Ok(passed);
    }
    silent(cx, subject, known).await
}

/// Waits until `deadline`; an error says that an answer came before.
async fn received_before(packets: &mut Packets, deadline: Instant) -> Result<(), String> {
    let begun = Instant::now();
    let mut first = None;
    match timeout_at(deadline, packets.receive(|id| first = Some(id))).await {
        Ok(Ok(())) => Err(format!("an answer came in {}", millis(begun.elapsed()))),
        Ok(Err(_)) => {
            sleep_until(deadline).await;
            Ok(())
        }
        Err(_) => Ok(()),
    }
}

async fn silent(cx: &Context<'_>, subject: &Subject<'_>, known: &Known) -> Verdict {
    let place = format!("server {}", subject.server.address);
    let name_server = &cx.settings.name_server;
    if known.said.is_none() {
        return Verdict::Warning(Problem::new(
            Code::UdpBlocked,
            format!(
                "no answer to datagrams came. {name_server} does not answer by TCP either, so it may be the one to blame"
            ),
            place,
            "choose a name server that the server reaches with `--name-server HOST:PORT`",
        ));
    }
    let is_closed = subject.endpoint.packet_plugin.is_none()
        && subject.endpoint.dialer.proxies.is_none()
        && is_refused(subject).await;
    let (what, cure) = match is_closed {
        true => (
            "the machine refuses datagrams to the port: the server does not serve UDP".to_owned(),
            "set `\"mode\": \"tcp_and_udp\"` on the server, or \"tcp_only\" here",
        ),
        false => (
            format!(
                "TCP works, and no datagram comes back: UDP is blocked between this machine and the server, or between the server and {name_server}"
            ),
            "open the port for UDP in the firewall of the server and of its provider; where your network blocks UDP, use a `ws` transport with `\"udp_over\": \"ws\"`, or `\"mode\": \"tcp_only\"`",
        ),
    };
    Verdict::Fault(Problem::new(Code::UdpBlocked, what, place, cure))
}

/// Whether the system says that nobody listens for datagrams there.
async fn is_refused(subject: &Subject<'_>) -> bool {
    let refused = async {
        let endpoint = subject.endpoint;
        let peer = endpoint.dialer.resolve(&endpoint.address, true).await?;
        let socket = endpoint.dialer.options.outgoing_udp().ok()?;
        let is_v6 = socket.local_addr().ok()?.is_ipv6();
        let socket = UdpSocket::from_std(socket.into()).ok()?;
        let peer = if is_v6 { udp::mapped(peer) } else { peer };
        socket.connect(peer).await.ok()?;
        let stranger: [u8; 32] = rand::random();
        socket.send(&stranger).await.ok()?;
        loop {
            match socket.recv(&mut [0; 64]).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Some(()),
                Err(_) => return None,
                Ok(_) => sleep(Duration::from_millis(1)).await,
            }
        }
    };
    matches!(timeout(REFUSED, refused).await, Ok(Some(())))
}
