//! Spare connections to the server: there when asked for, gone when nobody asks.

use crate::common::{
    DEADLINE, eventually, matrix,
    peers::{Program, Spec, Start},
    process::v4,
    socks::Socks,
};
use rustix::process::Signal;
use serde_json::json;
use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// Stands before a server, passes streams on and keeps hold of them.
struct Gate {
    address: SocketAddr,
    accepted: Arc<Mutex<Vec<Passing>>>,
}

struct Passing {
    client: TcpStream,
    used: Arc<Mutex<bool>>,
}

impl Gate {
    fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(v4(0)).unwrap();
        let address = listener.local_addr().unwrap();
        let accepted: Arc<Mutex<Vec<Passing>>> = Arc::default();
        let list = Arc::clone(&accepted);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let used = Arc::default();
                list.lock().unwrap().push(Passing {
                    client: client.try_clone().unwrap(),
                    used: Arc::clone(&used),
                });
                thread::spawn(move || pass(client, server, &used));
            }
        });
        Self { address, accepted }
    }

    /// Connections accepted, and how many of them have carried anything.
    fn count(&self) -> (usize, usize) {
        let accepted = self.accepted.lock().unwrap();
        let used = accepted
            .iter()
            .filter(|passing| *passing.used.lock().unwrap());
        (accepted.len(), used.count())
    }

    /// Closes what has not been used.
    fn close_spares(&self) {
        for passing in self.accepted.lock().unwrap().iter() {
            if !*passing.used.lock().unwrap() {
                passing.client.shutdown(Shutdown::Both).unwrap();
            }
        }
    }
}

/// Connects on the first bytes only, so that the server's own timeout has no part in this.
fn pass(client: TcpStream, server: SocketAddr, used: &Mutex<bool>) {
    if !matches!(client.peek(&mut [0]), Ok(1)) {
        return;
    }
    *used.lock().unwrap() = true;
    let server = TcpStream::connect(server).unwrap();
    let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let back = thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (client, server);
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    back.join().unwrap();
}

fn echoes(socks: &Socks, targets: &matrix::Targets) {
    matrix::echoes(socks, &targets.echo.name(), 1000);
}

#[test]
fn spare_connections_follow_demand() {
    let spec = Spec::new("2022-blake3-aes-256-gcm");
    let server = Start::server(Program::Ssr, &spec).run();
    let gate = Gate::before(server.address);
    let local = Start::local(Program::Ssr, &spec, gate.address)
        .with(json!({"warm_connections": 1, "mode": "tcp_only"}))
        .run();
    let targets = matrix::Targets::start();
    let socks = local.socks();
    assert_eq!(gate.count(), (0, 0), "none is opened before anybody asks");

    echoes(&socks, &targets);
    eventually("a spare beside the first", || gate.count() == (2, 1));
    echoes(&socks, &targets);
    eventually("the spare was used and replaced", || gate.count() == (3, 2));

    gate.close_spares();
    echoes(&socks, &targets);
    eventually("the dead spare was passed over, and is replaced", || {
        let (accepted, used) = gate.count();
        used == 3 && (4..=6).contains(&accepted)
    });
}

#[test]
fn an_unused_spare_is_closed() {
    let spec = Spec::new("aes-256-gcm");
    let server = Start::server(Program::Ssr, &spec).run();
    let gate = Gate::before(server.address);
    let local = Start::local(Program::Ssr, &spec, gate.address)
        .with(json!({"warm_connections": 2, "mode": "tcp_only"}))
        .run();
    let targets = matrix::Targets::start();
    echoes(&local.socks(), &targets);
    eventually("two spares beside the first", || gate.count() == (3, 1));
    eventually("all are closed again, and no other is opened", || {
        let accepted = gate.accepted.lock().unwrap();
        let ended = accepted.iter().filter(|passing| {
            passing.client.set_nonblocking(true).unwrap();
            matches!(passing.client.peek(&mut [0]), Ok(0))
        });
        ended.count() == 3 && accepted.len() == 3
    });
}

#[test]
fn no_spare_is_opened_where_none_is_wanted() {
    let spec = Spec::new("aes-128-gcm");
    let server = Start::server(Program::Ssr, &spec).run();
    let targets = matrix::Targets::start();
    let gate = Gate::before(server.address);
    let local = Start::local(Program::Ssr, &spec, gate.address)
        .with(json!({"warm_connections": 0, "mode": "tcp_only"}))
        .run();
    for _ in 0..5 {
        echoes(&local.socks(), &targets);
    }
    assert_eq!(gate.count(), (5, 5));
}

#[test]
fn a_terminated_server_does_not_wait_for_spares() {
    let spec = Spec::new("2022-blake3-aes-256-gcm");
    let mut server = Start::server(Program::Ssr, &spec).run();
    let local = Start::local(Program::Ssr, &spec, server.address)
        .with(json!({"warm_connections": 4, "mode": "tcp_only"}))
        .run();
    let targets = matrix::Targets::start();
    echoes(&local.socks(), &targets);
    // Its spares are what is left then.
    eventually("spares stand at the server", || {
        established(server.address.port()) >= 4
    });
    server.process.signal(Signal::TERM);
    let (status, log) = server.process.wait(DEADLINE / 4);
    assert_eq!(status.code(), Some(0), "{log}");
}

/// TCP connections that a server on loopback has at `port`.
fn established(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let (port, established) = (format!(":{port:04X}"), "01");
    let of_server = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[1].ends_with(&port) && fields[3] == established
    };
    table.lines().skip(1).filter(of_server).count()
}
