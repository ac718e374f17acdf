//! Implementations that have been started.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::kind::Kind;
use crate::link::{Link, Namespace};
use crate::process::Process;
use crate::result::Result;
use crate::route::Route;

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
