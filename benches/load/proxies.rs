//! The implementations that are compared, each started as its users start it, with the same config file where it can
//! read one.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::Result;
use crate::forwards::family_cpu;
use crate::link::{self, Link, Namespace};
use crate::plan::WEB_SOCKET;
use crate::process::{Process, file_limit};
use crate::route::Route;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Ssr,
    Rust,
    Libev,
    Haproxy,
    /// No proxy at all.
    Direct,
    /// `ssr` with the method `none`: the floor without AEAD.
    Plain,
    /// rathole without encryption; reverse tunnels only.
    Rathole,
    /// rathole with Noise; reverse tunnels only.
    Noise,
    /// Forwards only.
    Socat,
    /// haproxy with `option splice-auto`; forwards only.
    Splicing,
    /// shadowsocks-rust with v2ray-plugin, `mux=0`; over WebSocket only.
    Plugin,
    /// `ssr` over TCP, beside itself over WebSocket.
    Tcp,
}

impl Kind {
    pub(crate) const ALL: [Self; 12] = [
        Self::Ssr,
        Self::Rust,
        Self::Libev,
        Self::Haproxy,
        Self::Direct,
        Self::Plain,
        Self::Rathole,
        Self::Noise,
        Self::Socat,
        Self::Splicing,
        Self::Plugin,
        Self::Tcp,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ssr => "ssr",
            Self::Rust => "rust",
            Self::Libev => "libev",
            Self::Haproxy => "haproxy",
            Self::Direct => "direct",
            Self::Plain => "none",
            Self::Rathole => "rathole",
            Self::Noise => "noise",
            Self::Socat => "socat",
            Self::Splicing => "splicing",
            Self::Plugin => "plugin",
            Self::Tcp => "tcp",
        }
    }
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
    fn program(&self, kind: Kind, role: Role) -> PathBuf {
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Local,
    Server,
}

/// What a piece of work needs from the proxies.
pub(crate) struct Setup<'a> {
    pub(crate) kind: Kind,
    pub(crate) method: &'a str,
    /// Ports that a fixed forward has to lead to.
    pub(crate) targets: &'a [SocketAddr],
    pub(crate) name_server: Option<SocketAddr>,
    pub(crate) link: Option<&'a Link>,
    /// Under the counting allocator: `ssr` only.
    pub(crate) counted: bool,
    /// For config files and logs.
    pub(crate) directory: &'a Path,
}

/// An implementation at work: none, or both roles.
pub(crate) struct Running {
    pub(crate) processes: Option<Pair>,
    /// Processes that have no roles.
    pub(crate) forwarders: Vec<Process>,
    pub(crate) route: Route,
}

/// A local and a server.
pub(crate) struct Pair {
    pub(crate) local: Process,
    pub(crate) server: Process,
    /// From exec to a port that accepts.
    pub(crate) local_start: Duration,
    pub(crate) server_start: Duration,
}

impl Running {
    /// CPU time of both roles, or of all forwarders, so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        match &self.processes {
            Some(pair) => Ok(family_cpu(&pair.local)? + family_cpu(&pair.server)?),
            None => self.forwarders.iter().map(family_cpu).sum(),
        }
    }

    /// Anonymous memory of both roles, KiB.
    pub(crate) fn anonymous_kib(&self) -> Result<(f64, f64)> {
        match &self.processes {
            Some(pair) => Ok((pair.local.anonymous_kib()?, pair.server.anonymous_kib()?)),
            None => {
                let all = self.forwarders.iter().map(Process::anonymous_kib);
                Ok((all.sum::<Result<f64>>()?, 0.0))
            }
        }
    }

    /// An error when one has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(pair) = &mut self.processes {
            pair.local.check()?;
            pair.server.check()?;
        }
        for forwarder in &mut self.forwarders {
            forwarder.check()?;
        }
        Ok(())
    }
}

/// Starts an implementation and waits until it accepts.
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
    let forwarded = match setup.kind {
        Kind::Direct => {
            return Ok(Running {
                processes: None,
                forwarders: Vec::new(),
                route: Route::Direct,
            });
        }
        Kind::Haproxy => setup.targets,
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
    let (local_command, server_command) = if setup.kind == Kind::Haproxy {
        (
            haproxy(programs, setup.directory, "local", "", &locals, &servers)?,
            haproxy(
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
    let route = match setup.kind {
        Kind::Haproxy => Route::Forward(setup.targets.iter().copied().zip(locals).collect()),
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

/// Starts a role and waits until all its ports accept; returns how long that took. The namespaces are the role's and
/// that of the ports.
pub(crate) fn ready(
    command: Command,
    [namespace, ports_at]: [Option<&Namespace>; 2],
    log: &Path,
    ports: &[SocketAddr],
) -> Result<(Process, Duration)> {
    let begun = Instant::now();
    let mut process = Process::spawn(command, namespace, log)?;
    let mut try_it = || -> Result<Duration> {
        loop {
            if ports.iter().all(|port| TcpStream::connect(port).is_ok()) {
                return Ok(begun.elapsed());
            }
            process.check()?;
            if begun.elapsed() > Duration::from_secs(10) {
                return Err("a port does not accept".into());
            }
            thread::sleep(Duration::from_micros(200));
        }
    };
    let outcome = match ports_at {
        Some(namespace) => namespace.run(try_it)?,
        None => try_it(),
    };
    match outcome {
        Ok(time) => Ok((process, time)),
        Err(error) => {
            let said = fs::read_to_string(log).unwrap_or_default();
            let last: Vec<&str> = said.lines().rev().take(3).collect();
            Err(format!("{error}: {}", last.join(" | ")).into())
        }
    }
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
    let mut command = Command::new(programs.program(setup.kind, role));
    if matches!(setup.kind, Kind::Ssr | Kind::Plain | Kind::Tcp) {
        command.arg(name);
    }
    command.arg("-c").arg(config);
    Ok(command)
}

/// The config file of Shadowsocks implementations: the same for both roles, but for a plugin.
fn config(setup: &Setup<'_>, role: Role, local: SocketAddr, server: SocketAddr) -> Result<PathBuf> {
    let web_socket = setup.method == WEB_SOCKET;
    let method = match setup.kind {
        Kind::Plain => "none",
        _ if web_socket => "aes-256-gcm",
        _ => setup.method,
    };
    let mut config = json!({
        "server": server.ip(),
        "server_port": server.port(),
        "local_address": local.ip(),
        "local_port": local.port(),
        "method": method,
        // 32 bytes in base64: a key for 2022, a password for the others.
        "password": "Zm9yIG1lYXN1cmluZyBvbmx5LCB3b3J0aCBub3RoaW4=",
        "mode": if web_socket { "tcp_only" } else { "tcp_and_udp" },
        "timeout": 300,
    });
    if web_socket && setup.kind == Kind::Ssr {
        config["transport"] = json!({"type": "ws", "path": "/"});
    }
    if let (Some(address), Some(keys)) = (setup.name_server, config.as_object_mut()) {
        match setup.kind {
            Kind::Libev => keys.insert("nameserver".to_owned(), json!(address.ip())),
            _ => keys.insert("dns".to_owned(), json!(format!("udp://{address}"))),
        };
    }
    if setup.kind == Kind::Plugin {
        config["plugin"] = json!("ss-v2ray-plugin");
        config["plugin_opts"] = match role {
            Role::Local => json!("mux=0"),
            Role::Server => json!("server;mux=0"),
        };
    }
    let path = setup.directory.join(match role {
        Role::Local => "local.json",
        Role::Server => "server.json",
    });
    fs::write(&path, config.to_string())?;
    Ok(path)
}

/// A haproxy that forwards each port to another.
pub(crate) fn haproxy(
    programs: &Programs,
    directory: &Path,
    name: &str,
    option: &str,
    from: &[SocketAddr],
    to: &[SocketAddr],
) -> Result<Command> {
    // Two files a connection, as everywhere, and some for itself: it does not start where it could not have them all.
    // Pipes for splicing are a quarter as many.
    let connections = file_limit().min(65_536) / 3 - 100;
    let mut text = format!(
        "global\n  maxconn {connections}\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n{option}",
    );
    for (index, (from, to)) in from.iter().zip(to).enumerate() {
        text += &format!("listen port{index}\n  bind {from}\n  server next {to}\n");
    }
    let path = directory.join(format!("haproxy-{name}.cfg"));
    fs::write(&path, text)?;
    let mut command = Command::new(programs.program(Kind::Haproxy, Role::Local));
    command.arg("-db").arg("-f").arg(path);
    Ok(command)
}

/// A port that nobody listens on, below those that the kernel gives to clients.
pub(crate) fn free_port() -> Result<u16> {
    use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..1000 {
        let offset = NEXT
            .fetch_add(1, Relaxed)
            .wrapping_add(std::process::id() as u16);
        let port = 12_000 + offset % 16_000;
        let is_free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if is_free {
            return Ok(port);
        }
    }
    Err("no free port".into())
}
