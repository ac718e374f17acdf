//! The way to a server: routes, and connections to each of its addresses.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::time::{Instant, timeout};

use super::context::{Context, Job, all, millis};
use super::names::list;
use super::report::{Code, Problem, Verdict};
use crate::net::dial::SpeaksFirst;
use crate::net::{self, udp};
use crate::outbound::endpoint::Endpoint;
use crate::relay;

/// Ports that are tried to find out whether a machine is there at all.
const COMMON_PORTS: [u16; 4] = [443, 80, 22, 9];
/// Bytes of the headers of IPv4 and TCP, and of IPv6 and TCP.
const HEADERS_V4: u32 = 40;
const HEADERS_V6: u32 = 60;
/// How long such a try may take.
const ALIVE: Duration = Duration::from_millis(1500);

/// Whether there is a route to one of the addresses. Returns those that have one.
pub(super) fn routes(endpoint: &Endpoint, addresses: &[IpAddr]) -> (Verdict, Vec<IpAddr>) {
    let port = endpoint.address.port();
    let (mut from, mut reached, mut reason) = (Vec::new(), Vec::new(), None);
    for ip in addresses {
        match route(endpoint, (*ip, port).into()) {
            Ok(local) => {
                reached.push(*ip);
                if !from.contains(&local) {
                    from.push(local);
                }
            }
            Err(error) => reason = Some((*ip, words(&error))),
        }
    }
    let verdict = match (reached.is_empty(), reason) {
        (true, Some((ip, error))) => Verdict::Fault(Problem::new(
            Code::NoRoute,
            format!("no route to {ip}: {error}"),
            "this machine",
            "connect it to the network; check `ip route`, and `outbound_bind_addr` and `outbound_bind_interface` of the config",
        )),
        (_, Some((ip, error))) => {
            Verdict::Ok(format!("from {}; none to {ip}: {error}", list(&from)))
        }
        (_, None) => Verdict::Ok(format!("from {}", list(&from))),
    };
    (verdict, reached)
}

/// What the system says, without its number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next();
    words.unwrap_or_default().to_owned()
}

/// The address that datagrams to `peer` leave from. Nothing is sent.
fn route(endpoint: &Endpoint, peer: SocketAddr) -> io::Result<IpAddr> {
    let socket = endpoint.dialer.options.outgoing_udp()?;
    let is_v6 = socket.local_addr()?.is_ipv6();
    let peer = if is_v6 { udp::mapped(peer) } else { peer };
    socket.connect(&peer.into())?;
    let local = socket.local_addr()?.as_socket();
    let local = local.ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok(local.ip().to_canonical())
}

/// How one address reacts.
enum Met {
    Connected(Duration),
    Refused,
    Unreachable(String),
    Silent,
}

/// Connects to each of the addresses.
pub(super) async fn tcp(cx: &Context<'_>, endpoint: &Endpoint, addresses: &[IpAddr]) -> Verdict {
    if endpoint.stream_plugin.is_some() {
        return Verdict::Skipped("the plugin connects to the server".to_owned());
    }
    if endpoint.quic.is_some() && endpoint.fallback.is_some() {
        let skipped = "the transport is QUIC; its fallback is tried beside it";
        return Verdict::Skipped(skipped.to_owned());
    }
    if endpoint.quic.is_some() {
        return Verdict::Skipped("the transport is QUIC, which needs no TCP".to_owned());
    }
    if endpoint.dialer.proxies.is_some() {
        return through_proxies(endpoint).await;
    }
    let jobs = addresses.iter().map(|ip| {
        let job: Job<'_, (IpAddr, Met)> = Box::pin(async { (*ip, meet(endpoint, *ip).await) });
        job
    });
    let met = all(jobs.collect()).await;
    let connected: Vec<(IpAddr, Duration)> = met
        .iter()
        .filter_map(|(ip, met)| match met {
            Met::Connected(time) => Some((*ip, *time)),
            _ => None,
        })
        .collect();
    let port = endpoint.address.port();
    if let Some((_, time)) = connected.first() {
        let dead = met
            .iter()
            .find(|(ip, met)| ip.is_ipv6() && !matches!(met, Met::Connected(_)));
        let v4_works = connected.iter().any(|(ip, _)| ip.is_ipv4());
        if let (Some((ip, met)), true) = (dead, v4_works) {
            return Verdict::Warning(Problem::new(
                Code::Ipv6Broken,
                format!(
                    "IPv6 does not work: [{ip}]:{port} {}, and IPv4 answers. Each connection may lose a quarter of a second, and datagrams may be lost",
                    how(met)
                ),
                "the way to the server by IPv6",
                "repair IPv6 on this machine or on the server, or remove the AAAA record of the name, or write the IPv4 address in `server`",
            ));
        }
        let others: String = met
            .iter()
            .filter(|(_, met)| !matches!(met, Met::Connected(_)))
            .map(|(ip, met)| format!("; {ip} {}", how(met)))
            .collect();
        return Verdict::Ok(format!("connected in {}{others}", millis(*time)));
    }
    let Some((ip, met)) = met.into_iter().next() else {
        return Verdict::Skipped("there is no address".to_owned());
    };
    unreachable(cx, endpoint, (ip, port).into(), met).await
}

/// Names the fault where no address can be connected to.
async fn unreachable(cx: &Context<'_>, endpoint: &Endpoint, peer: SocketAddr, met: Met) -> Verdict {
    let place = format!("{peer}");
    if let Met::Refused = met {
        return Verdict::Fault(Problem::new(
            Code::PortClosed,
            "the machine answers, and refuses connections to this port: no server listens there",
            place,
            "start the server, or correct `server_port`; if the server runs, a firewall rejects the port: open it for TCP",
        ));
    }
    let what = how(&met);
    if is_there(endpoint, peer.ip()).await {
        return Verdict::Fault(Problem::new(
            Code::BlackHole,
            format!(
                "the machine is there, and connections to this port get no answer ({what}): packets to it are dropped"
            ),
            place,
            "open the port for TCP in the firewall of the server and of its provider; if it is open, your network blocks it: try another port",
        ));
    }
    let own = match offline(cx).await {
        true => format!(
            ". Neither does {}: this machine may have no connection at all",
            cx.settings.name_server
        ),
        false => String::new(),
    };
    Verdict::Fault(Problem::new(
        Code::ServerDown,
        format!(
            "the machine does not answer at all ({what}): it is down, or every packet to it is dropped{own}"
        ),
        place,
        "see in the panel of the provider whether the machine runs, and whether this is its address",
    ))
}

fn how(met: &Met) -> String {
    match met {
        Met::Connected(_) => "answers".to_owned(),
        Met::Refused => "refuses connections".to_owned(),
        Met::Unreachable(error) => format!("cannot be reached: {error}"),
        Met::Silent => "does not answer".to_owned(),
    }
}

async fn meet(endpoint: &Endpoint, ip: IpAddr) -> Met {
    let begun = Instant::now();
    let port = endpoint.address.port();
    let ips = [ip];
    let dial = endpoint.dialer.connect(&ips, port, SpeaksFirst::Unknown);
    match dial.await {
        Ok(_) => Met::Connected(begun.elapsed()),
        Err(relay::Error::Connect(net::Error::Connect { source, .. })) => match source.kind() {
            io::ErrorKind::ConnectionRefused => Met::Refused,
            io::ErrorKind::TimedOut => Met::Silent,
            _ => Met::Unreachable(words(&source)),
        },
        Err(_) => Met::Silent,
    }
}

async fn through_proxies(endpoint: &Endpoint) -> Verdict {
    let begun = Instant::now();
    let dial = endpoint
        .dialer
        .dial(&endpoint.address, true, SpeaksFirst::Unknown);
    match dial.await {
        Ok(_) => Verdict::Ok(format!(
            "connected in {} by `outbound_proxy`",
            millis(begun.elapsed())
        )),
        Err(error) => Verdict::Fault(Problem::new(
            Code::Proxy,
            error.to_string(),
            "`outbound_proxy`",
            "check that the proxy runs, its login, and that it may connect to the server",
        )),
    }
}

/// Whether a machine answers anything: a ping, or a connection to a common port.
async fn is_there(endpoint: &Endpoint, ip: IpAddr) -> bool {
    let mut jobs: Vec<Job<'_, bool>> = vec![Box::pin(async move {
        let pinged = timeout(ALIVE, ping(ip)).await;
        matches!(pinged, Ok(Ok(())))
    })];
    for port in COMMON_PORTS {
        jobs.push(Box::pin(async move {
            let ips = [ip];
            let dial = endpoint.dialer.connect(&ips, port, SpeaksFirst::Unknown);
            match timeout(ALIVE, dial).await {
                Ok(Ok(_)) => true,
                Ok(Err(relay::Error::Connect(net::Error::Connect { source, .. }))) => {
                    source.kind() == io::ErrorKind::ConnectionRefused
                }
                _ => false,
            }
        }));
    }
    all(jobs).await.contains(&true)
}

/// Whether the name server does not answer either, without a server in between.
async fn offline(cx: &Context<'_>) -> bool {
    let dialer = cx.parts.direct();
    let dial = dialer.dial(&cx.settings.name_server, true, SpeaksFirst::Unknown);
    !matches!(timeout(ALIVE, dial).await, Ok(Ok(_)))
}

/// Waits for the answer to an ICMP echo request. Many systems let users send them.
async fn ping(ip: IpAddr) -> io::Result<()> {
    let (domain, protocol, kind) = match ip {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.connect(&SocketAddr::new(ip, 0).into())?;
    let socket = tokio::net::UdpSocket::from_std(socket.into())?;
    // The system writes the identifier and the checksum.
    socket.send(&[kind, 0, 0, 0, 0, 0, 0, 1]).await?;
    let mut room = [0; 64];
    loop {
        socket.ready(Interest::READABLE).await?;
        match socket.try_recv(&mut room) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Long segments vanish; those of `longest` bytes arrive.
pub(super) fn black_hole(
    longest: Option<u32>,
    way: &str,
    endpoint: &Endpoint,
    is_v6: bool,
) -> Verdict {
    let place = format!("between this machine and server {}", endpoint.address);
    let Some(segment) = longest else {
        return Verdict::Warning(Problem::new(
            Code::TooSlow,
            format!(
                "small answers come, and larger amounts of data do not ({way}), whatever the length of packets"
            ),
            place,
            "run `ssr doctor` again; if it stays so, try another `--url`, and look at the load of the server",
        ));
    };
    let headers = if is_v6 { HEADERS_V6 } else { HEADERS_V4 };
    let longest = segment + headers;
    Verdict::Fault(Problem::new(
        Code::MtuBlackHole,
        format!(
            "packets of {longest} bytes arrive, and longer ones vanish without a message ({way})"
        ),
        place,
        format!(
            "lower the MTU of this machine's interface (`ip link set dev DEVICE mtu {longest}`), or of the tunnel on the way, and set `udp_mtu` to {}",
            longest.saturating_sub(headers)
        ),
    ))
}
