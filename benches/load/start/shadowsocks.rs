//! Local and server as their users start them, with the same config file where they can read one; or two haproxy hops.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use ssr::crypto::Method;

use crate::link;
use crate::programs::{Programs, Role};
use crate::proxy::Proxy;
use crate::result::Result;
use crate::route::Route;
use crate::running::{Pair, Running, Setup, free_port, ready};
use crate::scenario::Scenario;

use super::haproxy;

/// Starts both roles and waits until they accept connections.
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
    let forwarded = match setup.proxy {
        Proxy::Direct => {
            return Ok(Running {
                processes: None,
                forwarders: Vec::new(),
                route: Route::Direct,
            });
        }
        Proxy::Haproxy => setup.targets,
        _ => setup.targets.get(..1).unwrap_or_default(),
    };
    let mut locals = Vec::new();
    let mut servers = Vec::new();
    for _ in forwarded {
        locals.push(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)));
        servers.push(SocketAddr::from((server_ip, free_port()?)));
    }
    let local = *locals.first().ok_or("no target")?;
    let server = *servers.first().ok_or("no target")?;
    let (local_command, server_command) = if setup.proxy == Proxy::Haproxy {
        (
            haproxy::command(programs, setup.directory, "local", "", &locals, &servers)?,
            haproxy::command(
                programs,
                setup.directory,
                "server",
                "",
                &servers,
                setup.targets,
            )?,
        )
    } else {
        let start = |role| {
            let config = config(setup, role, local, server)?;
            command(programs, setup, role, &config)
        };
        (start(Role::Local)?, start(Role::Server)?)
    };
    let server_log = setup.directory.join("server.log");
    let (server, server_start) = ready(server_command, [far, far], &server_log, &servers)?;
    let local_log = setup.directory.join("local.log");
    let (local_process, local_start) = ready(local_command, [near, near], &local_log, &locals)?;
    let route = match setup.proxy {
        Proxy::Haproxy => Route::Forward(setup.targets.iter().copied().zip(locals).collect()),
        _ => Route::Socks(local),
    };
    Ok(Running {
        processes: Some(Pair {
            local: local_process,
            server,
            local_start,
            server_start,
        }),
        forwarders: Vec::new(),
        route,
    })
}

fn command(programs: &Programs, setup: &Setup<'_>, role: Role, config: &Path) -> Result<Command> {
    let name = match role {
        Role::Local => "local",
        Role::Server => "server",
    };
    if setup.counted {
        let socket = setup.directory.join(name).with_extension("socket");
        if socket.exists() {
            fs::remove_file(&socket)?;
        }
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["counted", name]).arg(config).arg(socket);
        return Ok(command);
    }
    let mut command = Command::new(programs.program(setup.proxy, role));
    if matches!(setup.proxy, Proxy::Ssr | Proxy::Unencrypted | Proxy::Plain) {
        command.arg(name);
    }
    command.arg("-c").arg(config);
    Ok(command)
}

/// The config file of Shadowsocks implementations: the same for both roles unless there is a plugin.
fn config(setup: &Setup<'_>, role: Role, local: SocketAddr, server: SocketAddr) -> Result<PathBuf> {
    let web_socket = setup.scenario == Scenario::WebSocket;
    let method = match setup.proxy {
        Proxy::Unencrypted => Method::None,
        _ => setup.scenario.method(),
    };
    let mut config = json!({
        "server": server.ip(),
        "server_port": server.port(),
        "local_address": local.ip(),
        "local_port": local.port(),
        "method": method.name(),
        // 32 bytes in base64: a key for AEAD-2022, a password for the others.
        "password": "Zm9yIG1lYXN1cmluZyBvbmx5LCB3b3J0aCBub3RoaW4=",
        "mode": if web_socket { "tcp_only" } else { "tcp_and_udp" },
        "timeout": 300,
    });
    if web_socket && setup.proxy == Proxy::Ssr {
        config["transport"] = json!({"type": "ws", "path": "/"});
    }
    if let (Some(address), Some(keys)) = (setup.name_server, config.as_object_mut()) {
        match setup.proxy {
            Proxy::Libev => keys.insert("nameserver".to_owned(), json!(address.ip())),
            _ => keys.insert("dns".to_owned(), json!(format!("udp://{address}"))),
        };
    }
    if setup.proxy == Proxy::Plugin {
        config["plugin"] = json!("ss-v2ray-plugin");
        config["plugin_opts"] = match role {
            Role::Local => json!("mux=0"),
            Role::Server => json!("server;mux=0"),
        };
    }
    if let (Scenario::Rules(count), true) = (
        setup.scenario,
        role == Role::Local && setup.proxy != Proxy::Plain,
    ) {
        config["acl"] = json!(acl(setup.directory, count)?);
    }
    let path = setup.directory.join(match role {
        Role::Local => "local.json",
        Role::Server => "server.json",
    });
    fs::write(&path, config.to_string())?;
    Ok(path)
}

/// An ACL of `count` names, none of which a workload uses.
fn acl(directory: &Path, count: usize) -> Result<PathBuf> {
    let path = directory.join("names.acl");
    let mut text = "[proxy_all]\n[bypass_list]\n".to_owned();
    for number in 0..count {
        writeln!(text, "||host{number}.example")?;
    }
    fs::write(&path, text)?;
    Ok(path)
}
