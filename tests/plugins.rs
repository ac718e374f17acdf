//! Plugins that are programs (SIP003, SIP003u): simple-obfs and v2ray-plugin under both halves of `ssr`, under one of
//! them and shadowsocks-libev, and what becomes of a plugin when it or `ssr` ends.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use crate::common::{
    DEADLINE, eventually,
    matrix::{self, Targets},
    peers::{
        Half, Pair,
        Program::{Libev, Ssr},
        Spec, Start, ssr,
    },
    process::{Process, free_port},
    socks::CONNECT,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

const METHOD: &str = "aes-256-gcm";

/// A plugin of SIP003u without a protocol of its own: it passes on streams and datagrams.
pub(crate) const RELAY: &str = r#"#!/usr/bin/env python3
import asyncio, os, signal, sys
print("relay begins", sys.argv[1:], file=sys.stderr, flush=True)
signal.signal(signal.SIGTERM, lambda *_: (print("relay ends", flush=True), os._exit(0)))
def at(side):
    return os.environ[f"SS_{side}_HOST"], int(os.environ[f"SS_{side}_PORT"])
sides = at("LOCAL"), at("REMOTE")
options = os.environ["SS_PLUGIN_OPTIONS"]
here, there = reversed(sides) if "server" in options else sides
async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()
async def stream(reader, writer):
    far_reader, far_writer = await asyncio.open_connection(*there)
    await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
    writer.close()
    far_writer.close()
class Far(asyncio.DatagramProtocol):
    def __init__(self, near, client): self.near, self.client = near, client
    def datagram_received(self, data, _): self.near.sendto(data, self.client)
class Near(asyncio.DatagramProtocol):
    clients = {}
    def connection_made(self, transport): self.transport = transport
    def datagram_received(self, data, client):
        asyncio.ensure_future(self.send(data, client))
    async def send(self, data, client):
        if client not in self.clients:
            loop = asyncio.get_running_loop()
            self.clients[client] = loop.create_datagram_endpoint(lambda: Far(self.transport, client), remote_addr=there)
            self.clients[client] = (await self.clients[client])[0]
        self.clients[client].sendto(data)
async def main():
    if "udp" in options:
        await asyncio.get_running_loop().create_datagram_endpoint(Near, local_addr=here)
    if "tcp" in options:
        await asyncio.start_server(stream, *here)
    await asyncio.Event().wait()
asyncio.run(main())
"#;

/// Writes a program, and returns its path.
pub(crate) fn program(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The relay between both halves, and where its program is. `mode` is its `plugin_mode`.
fn through_relay(mode: &str) -> (Pair, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let relay = program(directory.path(), "relay", RELAY);
    let spec = Spec::new(METHOD);
    let server = Start::server(Ssr, &spec).with(
        json!({"plugin": relay, "plugin_opts": format!("server;{mode}"), "plugin_mode": mode}),
    );
    let pair = Pair::with(server, |at| {
        Start::local(Ssr, &spec, at)
            .with(json!({"plugin": relay, "plugin_opts": mode, "plugin_mode": mode, "plugin_args": ["-x", "a b"]}))
    });
    (pair, directory)
}

/// The processes whose parent is `parent`.
pub(crate) fn children(parent: u32) -> Vec<i32> {
    let all = fs::read_dir("/proc").unwrap();
    let pids = all.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit(") ").next().unwrap_or_default();
        rest.split(' ').nth(1) == Some(&parent.to_string())
    })
    .collect()
}

/// Whether a process has ended, collected or not.
fn is_gone(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Whether a byte comes back through the pair.
fn passes(half: &Half, targets: &Targets) -> bool {
    let request = half.socks().request(CONNECT, &targets.echo.v4());
    let Ok((mut stream, 0, _)) = request else {
        return false;
    };
    let mut byte = [7];
    stream.write_all(&byte).is_ok() && stream.read_exact(&mut byte).is_ok()
}

#[test]
fn streams_go_through_the_plugin_and_datagrams_beside_it() {
    let (pair, _directory) = through_relay("tcp_only");
    let targets = Targets::start();
    matrix::echoes(&pair.socks(), &targets.echo.v4(), 1_000_000);
    matrix::echoes_datagram(&pair.socks(), &targets, 1000);
    for (half, says) in [
        (&pair.local, "relay begins ['-x', 'a b']"),
        (&pair.server, "relay begins []"),
    ] {
        let log = half.process.log();
        assert!(log.contains(says), "its output is in our log: {log}");
        assert_eq!(children(half.process.id()).len(), 1);
    }
    let public = pair.server.address.port();
    let inner = children(pair.server.process.id())[0];
    assert!(!listens(inner, "udp", public), "UDP is ours");
    assert!(listens(inner, "tcp", public), "TCP is the plugin's");
}

/// Whether a process has a socket at this port.
fn listens(pid: i32, protocol: &str, port: u16) -> bool {
    let table = fs::read_to_string(format!("/proc/{pid}/net/{protocol}")).unwrap();
    let port = format!(":{port:04X}");
    let rows = table
        .lines()
        .skip(1)
        .map(|row| row.split_whitespace().collect::<Vec<_>>());
    let inodes: Vec<String> = rows
        .filter(|row| row[1].ends_with(&port))
        .map(|row| format!("socket:[{}]", row[9]))
        .collect();
    let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut links = files.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
    links.any(|link| {
        inodes
            .iter()
            .any(|inode| link.as_os_str() == inode.as_str())
    })
}

#[test]
fn datagrams_go_through_a_plugin_that_carries_them() {
    for mode in ["tcp_and_udp", "udp_only"] {
        let (pair, _directory) = through_relay(mode);
        let targets = Targets::start();
        matrix::echoes(&pair.socks(), &targets.echo.v4(), 100_000);
        matrix::echoes_datagram(&pair.socks(), &targets, 1000);
        let public = pair.server.address.port();
        let inner = children(pair.server.process.id())[0];
        assert!(listens(inner, "udp", public), "{mode}");
    }
}

#[test]
fn plugin_that_ends_is_started_again() {
    let (pair, _directory) = through_relay("tcp_only");
    let targets = Targets::start();
    assert!(passes(&pair.local, &targets));
    for half in [&pair.local, &pair.server] {
        let before = children(half.process.id());
        kill(before[0]);
        eventually("it runs again", || {
            let log = half.process.log();
            log.contains("the plugin ended; it is started again")
                && log.contains("the plugin runs again")
        });
        assert_ne!(children(half.process.id()), before);
        eventually("traffic passes again", || passes(&pair.local, &targets));
    }
}

#[test]
fn plugin_ends_with_ssr_however_that_ends() {
    for signal in [Signal::KILL, Signal::TERM] {
        let (mut pair, _directory) = through_relay("tcp_only");
        for half in [&mut pair.local, &mut pair.server] {
            let plugin = children(half.process.id())[0];
            half.process.signal(signal);
            half.process.wait(DEADLINE);
            eventually("the plugin is gone", || is_gone(plugin));
            let was_asked = half.process.log().contains("relay ends");
            assert_eq!(was_asked, signal == Signal::TERM, "{}", half.process.log());
        }
    }
}

#[test]
fn plugin_outlives_ctrl_c_until_connections_have_ended() {
    let (mut pair, _directory) = through_relay("tcp_only");
    let targets = Targets::start();
    let mut stream = pair.socks().connect(&targets.echo.v4());
    let mut byte = [7];
    stream.write_all(&byte).unwrap();
    stream.read_exact(&mut byte).unwrap();
    // A terminal sends it to the whole foreground group, which is that of `ssr`.
    let group = Pid::from_raw(i32::try_from(pair.local.process.id()).unwrap()).unwrap();
    rustix::process::kill_process_group(group, Signal::INT).unwrap();
    let stopping = || pair.local.process.log().contains("stopping");
    eventually("it drains", stopping);
    stream.write_all(&byte).unwrap();
    stream.read_exact(&mut byte).unwrap();
    drop(stream);
    pair.local.process.wait(DEADLINE);
}

/// The log of `ssr` with a plugin, and its exit code.
fn fails(role: &str, plugin: &str) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let config = json!({
        "server": "127.0.0.1", "server_port": free_port(), "local_port": free_port(), "method": METHOD,
        "password": "p", "plugin": plugin,
    });
    let path = directory.path().join("config.json");
    fs::write(&path, config.to_string()).unwrap();
    let mut command = ssr(&[role, "-c"]);
    let mut process = Process::spawn("ssr", command.arg(path)).unwrap();
    let (status, log) = process.wait(DEADLINE);
    (status.code(), log)
}

#[test]
fn plugin_that_cannot_run_is_an_error_with_its_name() {
    for role in ["local", "server"] {
        let (code, log) = fails(role, "no-such-plugin");
        assert_eq!(code, Some(78), "{log}");
        assert!(log.contains("`no-such-plugin` is not installed"), "{log}");
        assert!(log.contains(&std::env::var("PATH").unwrap()), "{log}");

        let directory = tempfile::tempdir().unwrap();
        let text = "#!/bin/sh\necho 'bad option'\nexit 3\n";
        let broken = program(directory.path(), "broken", text);
        let (code, log) = fails(role, &broken);
        assert_eq!(code, Some(69), "{log}");
        assert!(
            log.contains(&format!("the plugin `{broken}` ended before it listened, exit status: 3; it said: bad option")),
            "{log}"
        );
        assert_eq!(log.matches("plugin=").count(), 1, "it is tried once: {log}");
    }
}

#[test]
fn port_of_the_server_that_is_taken_is_named_before_the_plugin_starts() {
    let directory = tempfile::tempdir().unwrap();
    let relay = program(directory.path(), "relay", RELAY);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = json!({
        "server": "127.0.0.1", "server_port": taken.local_addr().unwrap().port(), "method": METHOD, "password": "p",
        "plugin": relay, "plugin_opts": "server;tcp",
    });
    let path = directory.path().join("config.json");
    fs::write(&path, config.to_string()).unwrap();
    let mut command = ssr(&["server", "-c"]);
    let mut process = Process::spawn("ssr", command.arg(path)).unwrap();
    let (_, log) = process.wait(DEADLINE);
    assert!(log.contains("the address is already in use"), "{log}");
    assert!(!log.contains("relay begins"), "{log}");
}

/// Options of simple-obfs at both ends.
fn obfs(kind: &str) -> (Value, Value) {
    let mode = json!("tcp_only");
    (
        json!({"plugin": "obfs-server", "plugin_opts": format!("obfs={kind}"), "mode": mode}),
        json!({"plugin": "obfs-local", "plugin_opts": format!("obfs={kind};obfs-host=www.example.com"), "mode": mode}),
    )
}

/// Waits for a peer whose plugin listens later than it, then moves bytes both ways.
fn carries(half: &Half) {
    let targets = Targets::start();
    eventually("the plugin carries a byte", || passes(half, &targets));
    matrix::echoes(&half.socks(), &targets.echo.v4(), 1_000_000);
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn simple_obfs_carries_ssr_and_libev_each_way_round() {
    let spec = Spec::new(METHOD);
    for kind in ["http", "tls"] {
        for (client, server) in [(Ssr, Ssr), (Ssr, Libev), (Libev, Ssr)] {
            eprintln!("{kind}: {client:?} to {server:?}");
            let (far, near) = obfs(kind);
            let pair = Pair::with(Start::server(server, &spec).with(far), |at| {
                Start::local(client, &spec, at).with(near)
            });
            carries(&pair.local);
        }
    }
}

#[test]
#[ignore = "needs peers: scripts/test"]
fn v2ray_plugin_as_a_program_carries_ssr_and_meets_the_built_in_one() {
    let spec = Spec::new(METHOD);
    let name = "ss-v2ray-plugin";
    let ends = |far: &str, near: &str| {
        let mode = json!("tcp_only");
        (
            json!({"plugin": far, "plugin_opts": "server;path=/x", "mode": mode}),
            json!({"plugin": near, "plugin_opts": "path=/x;host=localhost", "mode": mode}),
        )
    };
    let built_in = "builtin:v2ray-plugin";
    for (far, near) in [(name, name), (built_in, name), (name, built_in)] {
        eprintln!("{near} to {far}");
        let (far, near) = ends(far, near);
        let pair = Pair::with(Start::server(Ssr, &spec).with(far), |at| {
            Start::local(Ssr, &spec, at).with(near)
        });
        carries(&pair.local);
    }
}
