//! The programs of the implementations.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kind::Kind;
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
}

impl Programs {
    /// From `SSR_BIN` and `SSR_PEER_RUST_DIR`, which scripts/bench sets.
    pub(crate) fn find() -> Self {
        let path =
            |name, or| std::env::var_os(name).map_or_else(|| PathBuf::from(or), PathBuf::from);
        Self {
            ssr: path("SSR_BIN", "target/release/ssr"),
            rust: path("SSR_PEER_RUST_DIR", "target/peers/bin"),
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
    pub(crate) fn program(&self, kind: Kind, role: Role) -> PathBuf {
        match (kind, role) {
            (Kind::Ssr | Kind::Plain | Kind::Tcp, _) => self.ssr.clone(),
            (Kind::Rust | Kind::Plugin, Role::Local) => self.rust.join("sslocal"),
            (Kind::Rust | Kind::Plugin, Role::Server) => self.rust.join("ssserver"),
            (Kind::Libev, Role::Local) => "/usr/bin/ss-local".into(),
            (Kind::Libev, Role::Server) => "/usr/bin/ss-server".into(),
            (Kind::Haproxy | Kind::Splicing, _) => "/usr/sbin/haproxy".into(),
            (Kind::Socat, _) => "/usr/bin/socat".into(),
            (Kind::Rathole | Kind::Noise, _) => self.rathole(),
            (Kind::Direct, _) => PathBuf::new(),
        }
    }

    /// Bytes of all programs of an implementation.
    pub(crate) fn size(&self, kind: Kind) -> Result<u64> {
        let (local, server) = (
            self.program(kind, Role::Local),
            self.program(kind, Role::Server),
        );
        let mut size = fs::metadata(&local)?.len();
        if server != local {
            size += fs::metadata(&server)?.len();
        }
        Ok(size)
    }

    /// What the program says of its version, in one line.
    pub(crate) fn version(&self, kind: Kind) -> String {
        let flag = match kind {
            Kind::Haproxy => "-v",
            Kind::Socat => "-V",
            Kind::Libev => "-h",
            _ => "--version",
        };
        let output = Command::new(self.program(kind, Role::Local))
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
