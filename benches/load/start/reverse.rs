//! Reverse tunnels: a public port of one process leads to a target behind another.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use serde_json::json;

use crate::link;
use crate::programs::Programs;
use crate::proxy::Proxy;
use crate::result::Result;
use crate::route::Route;
use crate::running::{Pair, Running, Setup, free_port, ready};

/// A key for AEAD-2022: 32 bytes in base64.
const KEY: &str = "Zm9yIG1lYXN1cmluZyBvbmx5LCB3b3J0aCBub3RoaW4=";

/// Starts both ends of a tunnel with a public port for each target, and waits until these accept connections.
pub(crate) fn start(programs: &Programs, setup: &Setup<'_>) -> Result<Running> {
    let mut ports = Vec::new();
    for target in setup.targets {
        let public = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        ports.push((*target, public));
    }
    let (local_at, server_at, server_ip) = match setup.link {
        Some(link) => (Some(&link.a), Some(&link.b), link::B),
        None => (None, None, Ipv4Addr::LOCALHOST),
    };
    let control = SocketAddr::from((server_ip, free_port()?));
    let (near, far) = match setup.proxy {
        Proxy::Direct => {
            return Ok(Running {
                processes: None,
                forwarders: Vec::new(),
                route: Route::Direct,
            });
        }
        Proxy::Ssr => ssr(programs, setup, control, &ports)?,
        Proxy::Rathole | Proxy::Noise => rathole(programs, setup, control, &ports)?,
        _ => return Err("this implementation has no reverse tunnels".into()),
    };
    let publics: Vec<SocketAddr> = ports.iter().map(|(_, public)| *public).collect();
    let log = |name: &str| setup.directory.join(name).with_extension("log");
    let namespaces = [server_at, server_at];
    let (server, server_start) = ready(far, namespaces, &log("server"), &[control])?;
    // The client is ready when the server listens on the public ports.
    let namespaces = [local_at, server_at];
    let (local, local_start) = ready(near, namespaces, &log("local"), &publics)?;
    Ok(Running {
        processes: Some(Pair {
            local,
            server,
            local_start,
            server_start,
        }),
        forwarders: Vec::new(),
        route: Route::Forward(ports),
    })
}

fn ssr(
    programs: &Programs,
    setup: &Setup<'_>,
    control: SocketAddr,
    ports: &[(SocketAddr, SocketAddr)],
) -> Result<(Command, Command)> {
    let services: Vec<_> = ports
        .iter()
        .map(|(target, public)| {
            json!({ "name": public.to_string(), "bind": public.to_string(), "target": target.to_string() })
        })
        .collect();
    let config = json!({
        "server": control.ip(), "server_port": control.port(), "local_port": free_port()?,
        "method": "2022-blake3-aes-256-gcm", "password": KEY,
        "reverse": { "services": services, "links": "auto", "allow": [{ "bind": "127.0.0.1:1-65535" }] },
    });
    let path = setup.directory.join("reverse.json");
    fs::write(&path, config.to_string())?;
    let command = |role: &str| {
        let mut command = Command::new(programs.ssr());
        command.args([role, "-c"]).arg(&path);
        command
    };
    Ok((command("local"), command("server")))
}

/// rathole with Noise or without encryption.
fn rathole(
    programs: &Programs,
    setup: &Setup<'_>,
    control: SocketAddr,
    ports: &[(SocketAddr, SocketAddr)],
) -> Result<(Command, Command)> {
    let noise = |role: &str| {
        if setup.proxy == Proxy::Rathole {
            return String::new();
        }
        // Without keys the pattern authenticates nobody and costs the same.
        format!(
            "[{role}.transport]\ntype = \"noise\"\n[{role}.transport.noise]\npattern = \"Noise_NN_25519_ChaChaPoly_BLAKE2s\"\n"
        )
    };
    let mut client = format!("[client]\nremote_addr = \"{control}\"\ndefault_token = \"{KEY}\"\n");
    let mut server = format!("[server]\nbind_addr = \"{control}\"\ndefault_token = \"{KEY}\"\n");
    client += &noise("client");
    server += &noise("server");
    for (index, (target, public)) in ports.iter().enumerate() {
        write!(
            client,
            "[client.services.s{index}]\nlocal_addr = \"{target}\"\n"
        )?;
        write!(
            server,
            "[server.services.s{index}]\nbind_addr = \"{public}\"\n"
        )?;
    }
    let command = |role: &str, text: String| -> Result<Command> {
        let path = setup.directory.join(role).with_extension("toml");
        fs::write(&path, text)?;
        let mut command = Command::new(programs.rathole());
        command.arg(format!("--{role}")).arg(path);
        Ok(command)
    };
    Ok((command("client", client)?, command("server", server)?))
}
