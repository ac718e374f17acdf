//! Pairs that speak QUIC: `ssr` with its transport, sing-box with hysteria2 or TUIC.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::{Value, json};

use crate::link;
use crate::programs::{Programs, Role};
use crate::proxy::Proxy;
use crate::result::Result;
use crate::route::Route;
use crate::running::{Pair, Running, Setup, free_port, ready};
use crate::scenario::DEFAULT;

use super::sing_box;

const NAME: &str = "quic.example";
const PASSWORD: &str = "Zm9yIG1lYXN1cmluZyBvbmx5LCB3b3J0aCBub3RoaW4=";
const ID: &str = "5b5f0f4e-6a0a-4a43-9d8f-0d3c1a4a7f10";

/// Starts both roles and waits until they are ready.
pub(crate) fn start(programs: &Programs, setup: &Setup<'_>) -> Result<Running> {
    let (near, far) = match setup.link {
        Some(link) => (Some(&link.a), Some(&link.b)),
        None => (None, None),
    };
    let server_ip = if near.is_some() {
        link::B
    } else {
        Ipv4Addr::LOCALHOST
    };
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let server = SocketAddr::from((server_ip, free_port()?));
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([NAME.to_owned()])?;
    fs::write(setup.directory.join("cert.pem"), cert.pem())?;
    fs::write(setup.directory.join("key.pem"), signing_key.serialize_pem())?;
    let start = |role| match setup.proxy {
        Proxy::Ssr => ssr(programs, setup.directory, role, local, server),
        Proxy::Hysteria2 | Proxy::Tuic => sing_box(programs, setup, role, local, server),
        _ => Err("this implementation does not speak QUIC".into()),
    };
    let server_log = setup.directory.join("server.log");
    // It accepts no connections that could be tried.
    let (server, server_start) = ready(start(Role::Server)?, [far, far], &server_log, &[])?;
    let local_log = setup.directory.join("local.log");
    let (local_process, local_start) =
        ready(start(Role::Local)?, [near, near], &local_log, &[local])?;
    Ok(Running {
        processes: Some(Pair {
            local: local_process,
            server,
            local_start,
            server_start,
        }),
        forwarders: Vec::new(),
        route: Route::Socks(local),
    })
}

fn ssr(
    programs: &Programs,
    directory: &Path,
    role: Role,
    local: SocketAddr,
    server: SocketAddr,
) -> Result<Command> {
    let config = json!({
        "server": server.ip(),
        "server_port": server.port(),
        "local_address": local.ip(),
        "local_port": local.port(),
        "method": DEFAULT.name(),
        "password": PASSWORD,
        "transport": {"type": "quic", "tls": {
            "server_name": NAME,
            "cert": directory.join("cert.pem"), "key": directory.join("key.pem"), "ca": directory.join("cert.pem"),
        }},
    });
    let name = match role {
        Role::Local => "local",
        Role::Server => "server",
    };
    let path = directory.join(name).with_extension("json");
    fs::write(&path, config.to_string())?;
    let mut command = Command::new(programs.program(Proxy::Ssr, role));
    command.arg(name).arg("-c").arg(path);
    Ok(command)
}

fn sing_box(
    programs: &Programs,
    setup: &Setup<'_>,
    role: Role,
    local: SocketAddr,
    server: SocketAddr,
) -> Result<Command> {
    let (cert, key) = (
        setup.directory.join("cert.pem"),
        setup.directory.join("key.pem"),
    );
    let mut far: Value = match setup.proxy {
        Proxy::Tuic => json!({"type": "tuic", "congestion_control": "bbr"}),
        _ => json!({"type": "hysteria2"}),
    };
    let config = match role {
        Role::Server => {
            far["listen"] = json!(server.ip());
            far["listen_port"] = json!(server.port());
            far["users"] = json!([{"password": PASSWORD}]);
            if setup.proxy == Proxy::Tuic {
                far["users"][0]["uuid"] = json!(ID);
            }
            far["tls"] =
                json!({"enabled": true, "alpn": ["h3"], "certificate_path": cert, "key_path": key});
            json!({"inbounds": [far], "outbounds": [{"type": "direct"}]})
        }
        Role::Local => {
            far["server"] = json!(server.ip());
            far["server_port"] = json!(server.port());
            far["password"] = json!(PASSWORD);
            if setup.proxy == Proxy::Tuic {
                far["uuid"] = json!(ID);
            }
            far["tls"] = json!({"enabled": true, "alpn": ["h3"], "server_name": NAME, "certificate_path": cert});
            let inbound =
                json!({"type": "socks", "listen": local.ip(), "listen_port": local.port()});
            json!({"inbounds": [inbound], "outbounds": [far]})
        }
    };
    sing_box::command(programs, setup.directory, role, config)
}
