//! Implementations that have been started.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::link::{Link, Namespace};
use crate::process::Process;
use crate::proxy::Proxy;
use crate::result::Result;
use crate::route::Route;
use crate::scenario::Scenario;

/// What a workload needs from the proxies.
pub(crate) struct Setup<'a> {
    pub(crate) proxy: Proxy,
    pub(crate) scenario: Scenario,
    /// What a forward to a fixed target has to lead to.
    pub(crate) targets: &'a [SocketAddr],
    pub(crate) name_server: Option<SocketAddr>,
    pub(crate) link: Option<&'a Link>,
    /// Where the server runs, if not where its client does.
    pub(crate) far: Option<&'a Namespace>,
    /// Whether to run under the counting allocator: `ssr` only.
    pub(crate) counted: bool,
    /// Holds config files and logs.
    pub(crate) directory: &'a Path,
}

/// An implementation that has been started.
pub(crate) struct Running {
    /// Both roles, if it has roles.
    pub(crate) processes: Option<Pair>,
    /// Processes without roles.
    pub(crate) forwarders: Vec<Process>,
    pub(crate) route: Route,
}

/// A local and a server.
pub(crate) struct Pair {
    pub(crate) local: Process,
    pub(crate) server: Process,
    /// From exec until its ports accept connections.
    pub(crate) local_start: Duration,
    pub(crate) server_start: Duration,
}

impl Running {
    /// CPU time so far of both roles or of all forwarders.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        match &self.processes {
            Some(pair) => Ok(pair.local.family_cpu()? + pair.server.family_cpu()?),
            None => self.forwarders.iter().map(Process::family_cpu).sum(),
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

    /// Fails if a process has ended.
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

/// Starts a process, waits until all its ports accept connections, and returns how long that took. The first namespace
/// is that of the process, the second that of the ports.
pub(crate) fn ready(
    command: Command,
    [namespace, ports_at]: [Option<&Namespace>; 2],
    log: &Path,
    ports: &[SocketAddr],
) -> Result<(Process, Duration)> {
    let begun = Instant::now();
    let mut process = Process::spawn(command, namespace, log)?;
    let mut wait = || -> Result<Duration> {
        loop {
            if ports.iter().all(|port| TcpStream::connect(port).is_ok()) {
                return Ok(begun.elapsed());
            }
            process.check()?;
            if begun.elapsed() > Duration::from_secs(10) {
                return Err("a port accepted no connection within 10 s".into());
            }
            thread::sleep(Duration::from_micros(200));
        }
    };
    let outcome = match ports_at {
        Some(namespace) => namespace.run(wait)?,
        None => wait(),
    };
    match outcome {
        Ok(time) => Ok((process, time)),
        Err(error) => {
            let text = fs::read_to_string(log).unwrap_or_default();
            let last: Vec<&str> = text.lines().rev().take(3).collect();
            Err(format!("{error}: {}", last.join(" | ")).into())
        }
    }
}

/// A port without a listener, below the range from which the kernel gives clients theirs.
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
