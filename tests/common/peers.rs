//! The programs under test: `ssr` itself, shadowsocks-libev and shadowsocks-rust, as client or as server.

use super::{
    process::{Process, free_port, v4},
    socks::Socks,
};
use serde_json::{Map, Value, json};
use std::{net::SocketAddr, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};
use tempfile::TempDir;

/// Whose program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The one that this crate builds.
    Ssr,
    /// `ss-local` and `ss-server` of shadowsocks-libev.
    Libev,
    /// `sslocal` and `ssserver` of shadowsocks-rust, in the directory that `SSR_PEER_RUST_DIR` names.
    Rust,
}

/// Which half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The SOCKS5 side.
    Local,
    /// The far side.
    Server,
}

impl Program {
    /// The command that runs this half with a config file.
    pub fn command(self, role: Role, config: &std::path::Path) -> Command {
        let mut command = match (self, role) {
            (Self::Ssr, Role::Local) => ssr(&["local"]),
            (Self::Ssr, Role::Server) => ssr(&["server"]),
            (Self::Libev, Role::Local) => Command::new("ss-local"),
            (Self::Libev, Role::Server) => Command::new("ss-server"),
            (Self::Rust, Role::Local) => Command::new(rust_dir().join("sslocal")),
            (Self::Rust, Role::Server) => Command::new(rust_dir().join("ssserver")),
        };
        command.arg("-c").arg(config);
        command
    }
}

/// `ssr` with these arguments and no settings from the environment.
pub fn ssr(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ssr"));
    command.args(arguments).env_remove("RUST_LOG");
    command
}

fn rust_dir() -> PathBuf {
    std::env::var_os("SSR_PEER_RUST_DIR")
        .map(PathBuf::from)
        .expect("SSR_PEER_RUST_DIR names the directory of sslocal and ssserver; scripts/test says how to get them")
}

/// What both halves agree on.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Method name.
    pub method: String,
    /// Password, or base64 keys.
    pub password: String,
}

impl Spec {
    /// A method with a password that fits it.
    pub fn new(method: &str) -> Self {
        Self {
            method: method.to_owned(),
            password: password(method, 1),
        }
    }
}

/// A password or key for `method`; another for every `seed`.
pub fn password(method: &str, seed: u64) -> String {
    if !method.starts_with("2022-") {
        return format!("correct horse {seed}");
    }
    let len = if method.contains("aes-128") { 16 } else { 32 };
    base64(&super::bytes::pattern(seed, len))
}

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(group);
        for i in 0..4 {
            let symbol = ALPHABET[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= chunk.len() {
                char::from(symbol)
            } else {
                '='
            });
        }
    }
    text
}

/// A running half, listening at `address`; a `Local` is a SOCKS5 proxy there.
#[derive(Debug)]
pub struct Half {
    /// The process.
    pub process: Process,
    /// Where it listens, TCP and UDP.
    pub address: SocketAddr,
    _config: TempDir,
}

impl Half {
    /// A SOCKS5 client of this half.
    pub fn socks(&self) -> Socks {
        Socks::new(self.address)
    }
}

/// How to start a half.
#[derive(Debug)]
pub struct Start<'a> {
    program: Program,
    role: Role,
    config: Map<String, Value>,
    wrapper: &'a [&'a str],
    flags: &'a [&'a str],
}

impl<'a> Start<'a> {
    /// The server half for `spec`, on 127.0.0.1.
    pub fn server(program: Program, spec: &Spec) -> Self {
        let config = json!({
            "server": "127.0.0.1", "method": spec.method, "password": spec.password, "mode": "tcp_and_udp",
        });
        Self::new(program, Role::Server, config)
    }

    /// The local half for `spec`, whose server is at `server`.
    pub fn local(program: Program, spec: &Spec, server: SocketAddr) -> Self {
        let config = json!({
            "server": server.ip().to_string(), "server_port": server.port(), "local_address": "127.0.0.1",
            "method": spec.method, "password": spec.password, "mode": "tcp_and_udp",
        });
        Self::new(program, Role::Local, config)
    }

    fn new(program: Program, role: Role, config: Value) -> Self {
        let Value::Object(config) = config else {
            unreachable!()
        };
        Self {
            program,
            role,
            config,
            wrapper: &[],
            flags: &[],
        }
    }

    /// Adds keys to the top level of the config.
    pub fn with(mut self, keys: Value) -> Self {
        let Value::Object(keys) = keys else {
            panic!("an object of config keys")
        };
        self.config.extend(keys);
        self
    }

    /// Puts a command such as `prlimit` in front.
    pub fn wrapped(mut self, wrapper: &'a [&'a str]) -> Self {
        self.wrapper = wrapper;
        self
    }

    /// Adds command line flags.
    pub fn flags(mut self, flags: &'a [&'a str]) -> Self {
        self.flags = flags;
        self
    }

    /// Starts it and waits until it listens.
    pub fn run(self) -> Half {
        let (port_key, address_key) = match self.role {
            Role::Local => ("local_port", "local_address"),
            Role::Server => ("server_port", "server"),
        };
        let mut last = String::new();
        for _ in 0..3 {
            let port = free_port();
            let mut config = self.config.clone();
            config.insert(port_key.to_owned(), json!(port));
            if let Some(Value::Array(locals)) = config.get_mut("locals") {
                locals[0][port_key] = json!(port);
                config.remove(port_key);
                config.remove(address_key);
            }
            if let Some(Value::Array(servers)) = config.get_mut("servers") {
                if self.role == Role::Server {
                    servers[0][port_key] = json!(port);
                    servers[0][address_key] = json!("127.0.0.1");
                }
                for key in ["server", "server_port", "method", "password"] {
                    config.remove(key);
                }
            }
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("config.json");
            std::fs::write(&path, serde_json::to_vec_pretty(&config).unwrap()).unwrap();
            // A config that everybody can read is warned of.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let mut process = self.spawn(&path);
            // A connection that only looks would be a stranger of ours, whom a test with few places would count.
            let started = match self.program {
                Program::Ssr => process.running(),
                _ => process.listening(&[v4(port)]),
            };
            match started {
                Ok(()) => {
                    return Half {
                        process,
                        address: v4(port),
                        _config: dir,
                    };
                }
                Err(log) if log.to_lowercase().contains("in use") => last = log,
                Err(log) => panic!("{log}"),
            }
        }
        panic!("three ports in a row were taken: {last}");
    }

    fn spawn(&self, config: &std::path::Path) -> Process {
        let plain = self.program.command(self.role, config);
        let mut command = match self.wrapper.split_first() {
            None => plain,
            Some((first, rest)) => {
                let mut wrapped = Command::new(first);
                wrapped
                    .args(rest)
                    .arg(plain.get_program())
                    .args(plain.get_args());
                wrapped
            }
        };
        command.args(self.flags);
        let name = format!("{:?} {:?}", self.program, self.role);
        Process::spawn(&name, &mut command).unwrap_or_else(|err| {
            panic!("{command:?}: {err}; scripts/test installs the programs that tests need")
        })
    }
}

/// A server and a local half that talk to each other.
#[derive(Debug)]
pub struct Pair {
    /// The SOCKS5 side.
    pub local: Half,
    /// The far side.
    pub server: Half,
}

impl Pair {
    /// One of the two.
    pub fn half(&mut self, role: Role) -> &mut Half {
        match role {
            Role::Local => &mut self.local,
            Role::Server => &mut self.server,
        }
    }

    /// `client` in front of `server`.
    pub fn new(client: Program, server: Program, spec: &Spec) -> Self {
        Self::with(Start::server(server, spec), |at| {
            Start::local(client, spec, at)
        })
    }

    /// Two halves of `ssr`.
    pub fn ssr(method: &str) -> Self {
        Self::new(Program::Ssr, Program::Ssr, &Spec::new(method))
    }

    /// Halves with settings of their own.
    pub fn with<'a>(server: Start<'_>, local: impl FnOnce(SocketAddr) -> Start<'a>) -> Self {
        let server = server.run();
        let local = local(server.address).run();
        Self { local, server }
    }

    /// A SOCKS5 client of the pair.
    pub fn socks(&self) -> Socks {
        self.local.socks()
    }
}
