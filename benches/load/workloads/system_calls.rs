//! System calls of the proxies, counted by strace.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::Flows;
use crate::measure::{Figures, Span};
use crate::process::Process;
use crate::result::Result;
use crate::running::{Pair, Running};
use crate::targets::Targets;

use super::tcp::connections;

/// MiB moved under strace.
const BULK_MIB: u64 = 256;
/// How long short connections are made under strace.
const SPAN: Span = Span {
    warm: Duration::ZERO,
    time: Duration::from_secs(1),
};
/// strace attaches and detaches faster.
const PATIENCE: Duration = Duration::from_secs(20);

/// Calls a MiB and a connection, of both roles together.
pub(crate) fn count(running: &Running, targets: &Targets, directory: &Path) -> Result<Figures> {
    let pair = running.processes.as_ref().ok_or("no process to trace")?;
    // Threads that are started by the first work exist when strace attaches.
    connections(running, &[targets.respond.into()], 4, SPAN)?;
    let (made, calls) = during(pair, directory, || {
        let interval = connections(running, &[targets.respond.into()], 4, SPAN)?;
        // Those that were under way when counting ended are four.
        Ok(interval.count + 2.0)
    })?;
    let each = calls / made;
    let (moved, calls) = during(pair, directory, || {
        let flows = Flows::start(&running.route, targets, false, 1)?;
        let begun = Instant::now();
        while flows.moved.load(Relaxed) < BULK_MIB << 20 && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(5));
        }
        flows.check()?;
        let moved = flows.moved.load(Relaxed) as f64;
        drop(flows);
        Ok(moved / f64::from(1 << 20))
    })?;
    Ok(vec![("calls/conn", each), ("calls/MiB", calls / moved)])
}

/// What `work` returns, and the calls that both roles made meanwhile.
fn during(pair: &Pair, directory: &Path, work: impl FnOnce() -> Result<f64>) -> Result<(f64, f64)> {
    let tracers = [&pair.local, &pair.server]
        .into_iter()
        .map(|process| Tracer::attach(process.pid(), directory))
        .collect::<Result<Vec<_>>>()?;
    let done = work()?;
    thread::sleep(Duration::from_millis(200));
    let mut calls = 0.0;
    for tracer in tracers {
        calls += tracer.finish()?;
    }
    Ok((done, calls))
}

struct Tracer {
    process: Process,
    output: std::path::PathBuf,
}

impl Tracer {
    fn attach(pid: u32, directory: &Path) -> Result<Self> {
        let output = directory.join(format!("strace-{pid}"));
        let mut command = Command::new("strace");
        command
            .args(["-f", "-c", "-o"])
            .arg(&output)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut process = Process::start(command, None)?;
        let begun = Instant::now();
        while !is_traced(pid)? {
            process.check()?;
            if begun.elapsed() > PATIENCE {
                return Err("strace does not attach".into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { process, output })
    }

    /// The calls it has counted.
    fn finish(mut self) -> Result<f64> {
        let pid = Pid::from_raw(i32::try_from(self.process.pid())?).ok_or("no pid")?;
        kill_process(pid, Signal::INT)?;
        self.process.child().wait()?;
        let table = fs::read_to_string(&self.output)?;
        // 100.00    0.012345           3      4321        12 total
        let line = table.lines().rev().find(|line| line.ends_with(" total"));
        let calls = line.and_then(|line| line.split_whitespace().nth(3));
        Ok(calls.ok_or("strace counted nothing")?.parse()?)
    }
}

/// Whether every thread of a process has a tracer.
fn is_traced(pid: u32) -> Result<bool> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        if status.lines().any(|line| line == "TracerPid:\t0") {
            return Ok(false);
        }
    }
    Ok(true)
}
