//! TLS and WebSocket between TCP and Shadowsocks.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::context::{Context, Job, all, millis};
use super::exchange::{Heard, Shift};
use super::path::black_hole;
use super::report::{Code, Problem, Verdict};
use super::web::ask_web;
use crate::app::services::single::Running;
use crate::config::{Server, Tls, Transport, WebSocket};
use crate::net::dial::SpeaksFirst;
use crate::net::tls::{self, Trust};
use crate::net::{self, Stream};
use crate::outbound::endpoint::Endpoint;
use crate::relay;
use crate::wire::http::{Endpoint as Place, ResponseError};

/// How long another transport may take to answer.
const TRIED: Duration = Duration::from_millis(2500);

/// The bytes of segments that are short enough for any path.
const SHORT: u32 = 960;

/// The layers that a server may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layers {
    Bare,
    Tls,
    Ws,
    Wss,
    Quic,
}

impl Layers {
    pub(super) fn of(server: &Server) -> Self {
        match &server.transport {
            None => Self::Bare,
            Some(Transport { quic: Some(_), .. }) => Self::Quic,
            Some(Transport { tls, ws, .. }) => match (tls, ws) {
                (None, None) => Self::Bare,
                (Some(_), None) => Self::Tls,
                (None, Some(_)) => Self::Ws,
                (Some(_), Some(_)) => Self::Wss,
            },
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Bare => "no transport (bare Shadowsocks)",
            Self::Tls => "TLS",
            Self::Ws => "WebSocket without TLS",
            Self::Wss => "WebSocket in TLS",
            Self::Quic => "QUIC",
        }
    }

    const fn cure(self) -> &'static str {
        match self {
            Self::Bare => "remove `transport` from the config here, or set the same on the server",
            Self::Tls => {
                "set `\"transport\": {\"type\": \"tcp\", \"tls\": {…}}` here, or remove it on the server"
            }
            Self::Ws => {
                "set `\"transport\": {\"type\": \"ws\"}` without `tls` here, or change it on the server"
            }
            Self::Wss => {
                "set `\"transport\": {\"type\": \"ws\", \"tls\": {…}}` here, or change it on the server"
            }
            Self::Quic => {
                "set `\"transport\": {\"type\": \"quic\"}` here, or change it on the server"
            }
        }
    }
}

/// What a server speaks, in words.
pub(super) fn name(server: &Server) -> &'static str {
    Layers::of(server).name()
}

/// Connects and runs the handshakes of the transport.
pub(super) async fn handshake(
    cx: &Context<'_>,
    server: &Server,
    plugin: &Running,
    endpoint: &Endpoint,
) -> Verdict {
    if endpoint.stream_plugin.is_some() {
        return Verdict::Skipped("the plugin is the transport; it runs".to_owned());
    }
    if endpoint.transport.is_none() && endpoint.quic.is_none() {
        return Verdict::Skipped("the config has none".to_owned());
    }
    let begun = Instant::now();
    let Err(error) = endpoint.dial(SpeaksFirst::Us).await else {
        let name = Layers::of(server).name();
        return Verdict::Ok(format!("{name} agreed in {}", millis(begun.elapsed())));
    };
    let place = format!("server {}", endpoint.address);
    let problem =
        |code, cure: &str| Verdict::Fault(Problem::new(code, error.to_string(), &place, cure));
    match &error {
        relay::Error::Connect(net::Error::Tls { source, .. }) => {
            if let Some(found) = tls::problem(source).and_then(|known| certificate(known, &problem))
            {
                return found;
            }
        }
        _ if endpoint.quic.is_some() => {
            return problem(
                Code::Transport,
                "open the port for UDP in the firewall of the server and of its provider, and look whether the server runs with a `quic` transport; where your network blocks UDP, use a `ws` transport",
            );
        }
        relay::Error::Connect(net::Error::Upgrade(ResponseError::Status(status))) => {
            return upgrade_refused(*status, &problem);
        }
        relay::Error::Connect(
            net::Error::Upgrade(_)
            | net::Error::UpgradeIo(_)
            | net::Error::ConnectTimeout { .. }
            | net::Error::TransportTimeout { .. },
        ) => {}
        _ => {
            return problem(
                Code::Transport,
                "try again; if it stays so, read the log of the server",
            );
        }
    }
    let (short, other) = tokio::join!(
        with_short_segments(cx, server, plugin),
        mismatch(cx, server, plugin)
    );
    if let Some(verdict) = short.or(other) {
        return verdict;
    }
    problem(
        Code::TransportMismatch,
        "set the same `transport` on both sides; the server may not speak this one on this port",
    )
}

/// The handshake with short segments: certificates are long, and long packets may vanish.
async fn with_short_segments(
    cx: &Context<'_>,
    server: &Server,
    plugin: &Running,
) -> Option<Verdict> {
    let mut endpoint = cx.endpoint(server, plugin).ok()?;
    endpoint.dialer.options.max_segment = Some(SHORT);
    let stream = timeout(TRIED, endpoint.dial(SpeaksFirst::Us)).await.ok()?;
    let peer = stream.ok()?.peer_addr().ok()?;
    let is_v6 = peer.ip().to_canonical().is_ipv6();
    Some(black_hole(Some(SHORT), "the handshake", &endpoint, is_v6))
}

fn certificate(known: tls::Problem, problem: &dyn Fn(Code, &str) -> Verdict) -> Option<Verdict> {
    use tls::Problem as P;
    Some(match known {
        P::Name => problem(
            Code::TlsName,
            "set `transport.tls.server_name` to a name of the certificate",
        ),
        P::Expired => problem(
            Code::CertificateExpired,
            "renew the certificate on the server; if it is valid, set the clock of this machine",
        ),
        P::NotYetValid => problem(
            Code::CertificateNotYetValid,
            "set the clock of this machine",
        ),
        P::Untrusted => problem(
            Code::CertificateUntrusted,
            "if the certificate is your own, set `transport.tls.ca` or `transport.tls.pin_sha256`; if not, somebody intercepts the connection",
        ),
        P::Pin => problem(
            Code::WrongPin,
            "if the key of the server was changed on purpose, write the new SHA-256 into `transport.tls.pin_sha256`; if not, somebody intercepts the connection",
        ),
        P::NotTls => return None,
    })
}

fn upgrade_refused(status: u16, problem: &dyn Fn(Code, &str) -> Verdict) -> Verdict {
    match status {
        500.. => problem(
            Code::Transport,
            "the web server or CDN in front does not reach the Shadowsocks server: is it running, and is its address right there?",
        ),
        _ => problem(
            Code::WrongPath,
            "`transport.path` and `transport.host` must be the same here, on the server, and in the web server or CDN in front",
        ),
    }
}

/// What another transport says.
struct Tried {
    layers: Layers,
    /// The handshakes were agreed to, or refused in their own language.
    speaks: bool,
    /// The path was refused.
    refused: bool,
    /// The key was accepted.
    answers: bool,
}

/// Finds out which transport the server speaks in place of the one of the config; `None`: no other.
pub(super) async fn mismatch(
    cx: &Context<'_>,
    server: &Server,
    plugin: &Running,
) -> Option<Verdict> {
    if server.plugin.is_some() {
        return None;
    }
    let own = Layers::of(server);
    let all_layers = [Layers::Bare, Layers::Tls, Layers::Ws, Layers::Wss];
    let others = all_layers.into_iter().filter(|layers| *layers != own);
    let jobs = others.map(|layers| {
        let job: Job<'_, Tried> = Box::pin(attempt(cx, server, plugin, layers));
        job
    });
    let tried = all(jobs.collect()).await;
    let best = tried.iter().find(|one| one.answers);
    let best = best.or_else(|| {
        tried
            .iter()
            .find(|one| one.layers == Layers::Wss && one.speaks)
    });
    let best = best.or_else(|| {
        tried
            .iter()
            .find(|one| one.layers == Layers::Ws && one.speaks)
    });
    let best = best.or_else(|| {
        tried
            .iter()
            .find(|one| one.layers == Layers::Tls && one.speaks)
    })?;
    let speaks = match (best.refused, best.layers) {
        (true, Layers::Wss) => "HTTP in TLS",
        (true, _) => "HTTP",
        (false, layers) => layers.name(),
    };
    Some(Verdict::Fault(Problem::new(
        Code::TransportMismatch,
        format!(
            "the config says {}, and the server speaks {speaks} on this port",
            own.name()
        ),
        format!("server {}", server.address),
        best.layers.cure(),
    )))
}

async fn attempt(cx: &Context<'_>, server: &Server, plugin: &Running, layers: Layers) -> Tried {
    let mut tried = Tried {
        layers,
        speaks: false,
        refused: false,
        answers: false,
    };
    let Ok(endpoint) = cx.endpoint(&with(server, layers), plugin) else {
        return tried;
    };
    if layers != Layers::Bare {
        match timeout(TRIED, endpoint.dial(SpeaksFirst::Us)).await {
            Ok(Ok(stream)) => {
                tried.speaks = true;
                drop::<Stream>(stream);
            }
            Ok(Err(relay::Error::Connect(net::Error::Upgrade(error)))) => {
                tried.refused = matches!(error, ResponseError::Status(_) | ResponseError::Field(_));
                tried.speaks = tried.refused;
                return tried;
            }
            Ok(Err(relay::Error::Connect(net::Error::Tls { source, .. }))) => {
                // It spoke TLS, and was refused by us or refused us.
                let is_tls = tls::problem(&source) != Some(tls::Problem::NotTls);
                tried.speaks =
                    layers == Layers::Tls && is_tls && source.kind() == io::ErrorKind::InvalidData;
                return tried;
            }
            _ => return tried,
        }
    }
    let reply = ask_web(cx, &endpoint, Shift::default(), TRIED).await;
    tried.answers = matches!(reply.heard, Heard::Answer(_) | Heard::Skewed(_));
    tried
}

/// The same server with other layers.
fn with(server: &Server, layers: Layers) -> Server {
    let given = server.transport.as_ref();
    let tls = Tls {
        at: "transport.tls".to_owned(),
        server_name: given
            .and_then(|one| one.tls.as_ref())
            .and_then(|tls| tls.server_name.clone()),
        // It is only asked what it speaks.
        trust: Trust {
            insecure: true,
            ..Trust::default()
        },
        identity: None,
    };
    let ws = given.and_then(|one| one.ws.clone());
    let ws = ws.unwrap_or_else(|| WebSocket {
        endpoint: Place {
            path: "/".to_owned(),
            host: None,
            fields: Vec::new(),
        },
        mux: false,
        trusted_proxies: Vec::new(),
    });
    let (tls, ws) = match layers {
        Layers::Bare => (None, None),
        Layers::Tls => (Some(tls), None),
        Layers::Ws => (None, Some(ws)),
        Layers::Wss => (Some(tls), Some(ws)),
        // It is not tried in the place of others.
        Layers::Quic => return server.clone(),
    };
    let transport = (layers != Layers::Bare).then_some(Transport {
        tls,
        ws,
        quic: None,
        fallback: None,
        udp_inside: false,
        udp_datagrams: false,
        site: None,
    });
    Server {
        transport,
        ..server.clone()
    }
}
