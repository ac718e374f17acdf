//! The programs of the implementations.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::proxy::Proxy;
use crate::result::Result;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Local,
    Server,
}

/// Where the programs are.
pub(crate) struct Programs {
    ssr: PathBuf,
    rust: PathBuf,
    sing_box: PathBuf,
}

impl Programs {
    /// From `SSR_BIN`, `SSR_PEER_RUST_DIR` and `SSR_PEER_SING_BOX`, which scripts/bench sets.
    pub(crate) fn find() -> Self {
        let path =
            |name, or| std::env::var_os(name).map_or_else(|| PathBuf::from(or), PathBuf::from);
        Self {
            ssr: path("SSR_BIN", "target/release/ssr"),
            rust: path("SSR_PEER_RUST_DIR", "target/peers/bin"),
            sing_box: path("SSR_PEER_SING_BOX", "target/peers/venv/bin/sing-box"),
        }
    }

    pub(crate) fn ssr(&self) -> &Path {
        &self.ssr
    }

    /// rathole is installed beside shadowsocks-rust.
    pub(crate) fn rathole(&self) -> PathBuf {
        self.rust.join("rathole")
    }

    /// The program of a role.
    pub(crate) fn program(&self, proxy: Proxy, role: Role) -> PathBuf {
        match (proxy, role) {
            (Proxy::Ssr | Proxy::Unencrypted | Proxy::Plain, _) => self.ssr.clone(),
            (Proxy::Rust | Proxy::Plugin, Role::Local) => self.rust.join("sslocal"),
            (Proxy::Rust | Proxy::Plugin, Role::Server) => self.rust.join("ssserver"),
            (Proxy::Libev, Role::Local) => "/usr/bin/ss-local".into(),
            (Proxy::Libev, Role::Server) => "/usr/bin/ss-server".into(),
            (Proxy::Haproxy | Proxy::Splicing, _) => "/usr/sbin/haproxy".into(),
            (Proxy::Socat, _) => "/usr/bin/socat".into(),
            (Proxy::SingBox | Proxy::Hysteria2 | Proxy::Tuic, _) => self.sing_box.clone(),
            (Proxy::Dnsmasq, _) => "/usr/sbin/dnsmasq".into(),
            (Proxy::Rathole | Proxy::Noise, _) => self.rathole(),
            (Proxy::Direct, _) => PathBuf::new(),
        }
    }

    /// Bytes of all programs of an implementation.
    pub(crate) fn size(&self, proxy: Proxy) -> Result<u64> {
        let (local, server) = (
            self.program(proxy, Role::Local),
            self.program(proxy, Role::Server),
        );
        let mut size = fs::metadata(&local)?.len();
        if server != local {
            size += fs::metadata(&server)?.len();
        }
        Ok(size)
    }

    /// What the program says of its version, in one line.
    pub(crate) fn version(&self, proxy: Proxy) -> String {
        let flag = match proxy {
            Proxy::Haproxy => "-v",
            Proxy::Socat => "-V",
            Proxy::Libev => "-h",
            Proxy::SingBox | Proxy::Hysteria2 | Proxy::Tuic => "version",
            _ => "--version",
        };
        let output = Command::new(self.program(proxy, Role::Local))
            .arg(flag)
            .output();
        let Ok(output) = output else {
            return "missing".to_owned();
        };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty());
        line.unwrap_or("unknown").to_owned()
    }
}
