//! Ways in that are not SOCKS5: a client with another kind of inbound, and a server as always.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::link;
use crate::process::Process;
use crate::programs::{Programs, Role};
use crate::proxy::Proxy;
use crate::result::Result;
use crate::route::Route;
use crate::running::{Pair, Running, Setup, free_port, ready};
use crate::scenario::{DEFAULT, WayIn};

use super::{shadowsocks, sing_box};

/// A password.
const KEY: &str = "for measuring only";
/// The mark of sockets whose connections are not redirected.
const MARK: u32 = 0x55;
/// The network device of a client.
const DEVICE: &str = "tun0";
/// Its address and network.
const DEVICE_ADDRESS: &str = "10.77.0.1/24";

/// Starts both roles and waits until they are ready.
pub(crate) fn start(programs: &Programs, setup: &Setup<'_>, way: WayIn) -> Result<Running> {
    match setup.proxy {
        Proxy::Direct => return Ok(without(Route::Direct)),
        Proxy::Plain => return shadowsocks::start(programs, setup),
        Proxy::Dnsmasq => return dnsmasq(programs, setup),
        _ => {}
    }
    let server_ip = match setup.far {
        Some(_) => link::B,
        None => Ipv4Addr::LOCALHOST,
    };
    let server = SocketAddr::from((server_ip, free_port()?));
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let [local_command, server_command] = match setup.proxy {
        Proxy::SingBox => sing_box_commands(programs, setup, way, local, server)?,
        _ => commands(programs, setup, way, local, server)?,
    };
    let log = |name: &str| setup.directory.join(name).with_extension("log");
    let (server, server_start) = ready(
        server_command,
        [setup.far, setup.far],
        &log("server"),
        &[server],
    )?;
    let ports: &[SocketAddr] = match way {
        WayIn::Http | WayIn::Redir => &[local],
        // A name server of sing-box or shadowsocks-rust need not accept connections, and a device has no port.
        WayIn::Dns | WayIn::Tun => &[],
    };
    let (mut process, local_start) = ready(local_command, [None; 2], &log("local"), ports)?;
    let route = match way {
        WayIn::Http => Route::Http(local),
        WayIn::Dns => Route::NameServer(local),
        WayIn::Redir => {
            redirect(setup, local.port())?;
            Route::Direct
        }
        WayIn::Tun => {
            route_to_device(setup, &mut process)?;
            Route::Direct
        }
    };
    Ok(Running {
        processes: Some(Pair {
            local: process,
            server,
            local_start,
            server_start,
        }),
        forwarders: Vec::new(),
        route,
    })
}

fn without(route: Route) -> Running {
    Running {
        processes: None,
        forwarders: Vec::new(),
        route,
    }
}

/// `ssr` or shadowsocks-rust: local and server with the same config file.
fn commands(
    programs: &Programs,
    setup: &Setup<'_>,
    way: WayIn,
    local: SocketAddr,
    server: SocketAddr,
) -> Result<[Command; 2]> {
    let (address, port) = (local.ip(), local.port());
    let inbound = match way {
        WayIn::Http => json!({ "protocol": "http", "local_address": address, "local_port": port }),
        WayIn::Redir => {
            json!({ "protocol": "redir", "local_address": address, "local_port": port, "mode": "tcp_only" })
        }
        WayIn::Tun => json!({
            "protocol": "tun",
            "tun_interface_name": DEVICE, "tun_interface_address": DEVICE_ADDRESS,
            "mode": "tcp_and_udp",
        }),
        WayIn::Dns => {
            let name_server = setup.name_server.ok_or("no name server")?;
            let mut entry = json!({
                "protocol": "dns", "local_address": address, "local_port": port,
                "local_dns_address": name_server.ip(), "local_dns_port": name_server.port(),
                "mode": "udp_only",
            });
            // Without rules, shadowsocks-rust asks the remote one for everything, and ssr would ask it by TCP.
            if setup.proxy == Proxy::Rust {
                entry["remote_dns_address"] = json!(name_server.ip());
                entry["remote_dns_port"] = json!(name_server.port());
            }
            entry
        }
    };
    let mut config = json!({
        "server": server.ip(), "server_port": server.port(),
        "method": DEFAULT.name(), "password": KEY,
        "mode": "tcp_and_udp", "timeout": 300,
        "locals": [inbound],
    });
    if way == WayIn::Redir {
        config["outbound_fwmark"] = json!(MARK);
    }
    let path = setup.directory.join("way-in.json");
    fs::write(&path, config.to_string())?;
    Ok([Role::Local, Role::Server].map(|role| {
        let mut command = Command::new(programs.program(setup.proxy, role));
        if setup.proxy == Proxy::Ssr {
            command.arg(match role {
                Role::Local => "local",
                Role::Server => "server",
            });
        }
        command.arg("-c").arg(&path);
        command
    }))
}

fn sing_box_commands(
    programs: &Programs,
    setup: &Setup<'_>,
    way: WayIn,
    local: SocketAddr,
    server: SocketAddr,
) -> Result<[Command; 2]> {
    let listen =
        |kind: &str| json!({ "type": kind, "listen": local.ip(), "listen_port": local.port() });
    let inbound = match way {
        WayIn::Http => listen("http"),
        WayIn::Redir => listen("redirect"),
        WayIn::Dns => listen("direct"),
        WayIn::Tun => json!({
            "type": "tun", "interface_name": DEVICE, "address": [DEVICE_ADDRESS],
            "auto_route": false, "stack": "system",
        }),
    };
    let mut client = sing_box::local(inbound, server, DEFAULT.name(), KEY);
    let mark = (way == WayIn::Redir).then_some(MARK);
    if way == WayIn::Dns {
        let name_server = setup.name_server.ok_or("no name server")?;
        client["dns"] = json!({ "servers": [{ "type": "udp", "server": name_server.ip() }] });
        client["route"] = json!({ "rules": [{ "action": "hijack-dns" }] });
    }
    let command = |role, config: Value| sing_box::command(programs, setup.directory, role, config);
    Ok([
        command(Role::Local, client)?,
        command(
            Role::Server,
            sing_box::server(server, DEFAULT.name(), KEY, mark),
        )?,
    ])
}

/// dnsmasq, one process.
fn dnsmasq(programs: &Programs, setup: &Setup<'_>) -> Result<Running> {
    let name_server = setup.name_server.ok_or("no name server")?;
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let mut command = Command::new(programs.program(Proxy::Dnsmasq, Role::Local));
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--user=root",
        "--pid-file",
        "--cache-size=10000",
        "--listen-address=127.0.0.1",
    ]);
    command.arg(format!("--port={}", local.port()));
    command.arg(format!("--server={}", name_server.ip()));
    let log = setup.directory.join("dnsmasq.log");
    let (process, _) = ready(command, [None; 2], &log, &[local])?;
    Ok(Running {
        processes: None,
        forwarders: vec![process],
        route: Route::NameServer(local),
    })
}

/// Redirects connections to the targets to `port`, unless the server makes them.
fn redirect(setup: &Setup<'_>, port: u16) -> Result<()> {
    let target = setup.targets.first().ok_or("no target")?.ip();
    let rules = format!(
        "table ip bench {{ chain output {{\ntype nat hook output priority -100\nip daddr {target} meta mark != {MARK} tcp dport 1-65535 redirect to :{port}\n}}\n}}\n"
    );
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    nft.stdin
        .take()
        .ok_or("no input")?
        .write_all(rules.as_bytes())?;
    match nft.wait()?.success() {
        true => Ok(()),
        false => Err("nft refused the rule".into()),
    }
}

/// Sends packets for the targets to the device, as soon as there is one.
fn route_to_device(setup: &Setup<'_>, process: &mut Process) -> Result<()> {
    let target = setup.targets.first().ok_or("no target")?.ip();
    let begun = Instant::now();
    while !added(&target.to_string())? {
        process.check()?;
        if begun.elapsed() > Duration::from_secs(10) {
            return Err("no device appeared within 10 s".into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Whether the route could be added.
fn added(target: &str) -> Result<bool> {
    let output = Command::new("ip")
        .args(["route", "replace", target, "dev", DEVICE])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    Ok(output.success())
}
