//! QUIC, and the fallback beside it.

use std::net::IpAddr;

use super::context::Context;
use super::report::{Code, Problem, Verdict};
use super::{layers, path};
use crate::app::services::single::Running;
use crate::config::Server;
use crate::outbound::endpoint::Endpoint;

/// Runs the handshakes of the transport; of QUIC and of its fallback, where there is one.
pub(super) async fn handshake(
    cx: &Context<'_>,
    server: &Server,
    plugin: &Running,
    endpoint: &Endpoint,
    addresses: &[IpAddr],
) -> Verdict {
    let Some(beside) = server.beside_quic() else {
        return layers::handshake(cx, server, plugin, endpoint).await;
    };
    let alone = without_fallback(server);
    let (by_quic, by_tcp) = tokio::join!(
        Box::pin(one(cx, &alone, plugin, &[])),
        Box::pin(one(cx, &beside, plugin, addresses))
    );
    let name = layers::name(&beside);
    match (by_quic, by_tcp) {
        (Verdict::Ok(quic), Verdict::Ok(tcp)) => {
            Verdict::Ok(format!("{quic}; its fallback, {name}: {tcp}"))
        }
        (Verdict::Fault(quic), Verdict::Ok(tcp)) if quic.code == Code::Transport => {
            Verdict::Warning(Problem {
                code: Code::UdpBlocked,
                what: format!(
                    "QUIC does not work here ({}), and its fallback does, {name}: {tcp}",
                    quic.what
                ),
                cure: "nothing, where your network blocks UDP: requests go by the fallback; otherwise open the port for UDP in the firewall of the server and of its provider".to_owned(),
                ..quic
            })
        }
        (Verdict::Ok(quic), Verdict::Fault(tcp) | Verdict::Warning(tcp)) => {
            Verdict::Warning(Problem {
                what: format!("{quic}; its fallback, {name}, does not work: {}", tcp.what),
                ..tcp
            })
        }
        (Verdict::Fault(quic), Verdict::Fault(tcp)) if quic.code == Code::Transport => {
            Verdict::Fault(Problem {
                what: format!("QUIC does not work ({}), nor its fallback, {name}: {}", quic.what, tcp.what),
                ..tcp
            })
        }
        // A server that is not the right one is none on any way.
        (quic, _) => quic,
    }
}

/// The handshakes of one of the two; of TCP with connections to `addresses` first.
async fn one(cx: &Context<'_>, server: &Server, plugin: &Running, addresses: &[IpAddr]) -> Verdict {
    let endpoint = match cx.endpoint(server, plugin) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            return Verdict::Fault(Problem::new(
                Code::Config,
                error.to_string(),
                format!("server {}", server.name),
                "correct the config",
            ));
        }
    };
    if server.is_quic() {
        return layers::handshake(cx, server, plugin, &endpoint).await;
    }
    let connected = path::tcp(cx, &endpoint, addresses).await;
    match connected {
        Verdict::Ok(_) if server.transport.is_some() => {
            layers::handshake(cx, server, plugin, &endpoint).await
        }
        other => other,
    }
}

fn without_fallback(server: &Server) -> Server {
    let mut alone = server.clone();
    if let Some(transport) = &mut alone.transport {
        transport.fallback = None;
    }
    alone
}
