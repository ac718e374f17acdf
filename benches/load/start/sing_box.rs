//! The config of sing-box.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::programs::{Programs, Role};
use crate::proxy::Proxy;
use crate::result::Result;

/// A sing-box of `role` with this config.
pub(super) fn command(
    programs: &Programs,
    directory: &Path,
    role: Role,
    mut config: Value,
) -> Result<Command> {
    config["log"] = json!({ "level": "error" });
    let name = match role {
        Role::Local => "sing-box-local.json",
        Role::Server => "sing-box-server.json",
    };
    let path = directory.join(name);
    fs::write(&path, config.to_string())?;
    let mut command = Command::new(programs.program(Proxy::SingBox, role));
    command.arg("run").arg("-c").arg(path);
    Ok(command)
}

/// The config of a server.
pub(super) fn server(at: SocketAddr, method: &str, password: &str, mark: Option<u32>) -> Value {
    let mut direct = json!({ "type": "direct" });
    if let Some(mark) = mark {
        direct["routing_mark"] = json!(mark);
    }
    json!({
        "inbounds": [{
            "type": "shadowsocks",
            "listen": at.ip(), "listen_port": at.port(),
            "method": method, "password": password,
        }],
        "outbounds": [direct],
    })
}

/// The config of a client with this inbound.
pub(super) fn local(inbound: Value, server: SocketAddr, method: &str, password: &str) -> Value {
    json!({
        "inbounds": [inbound],
        "outbounds": [{
            "type": "shadowsocks",
            "server": server.ip(), "server_port": server.port(),
            "method": method, "password": password,
        }],
    })
}
