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
/// How long short connections run under strace.
const SPAN: Span = Span {
    warm: Duration::ZERO,
    time: Duration::from_secs(1),
};
/// No step under strace takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// System calls of both roles together, by connection and by MiB.
pub(crate) fn count(running: &Running, targets: &Targets, directory: &Path) -> Result<Figures> {
    let pair = running.processes.as_ref().ok_or("no process to trace")?;
    // Threads that start with the first connections must exist when strace attaches.
    connections(running, &[targets.respond.into()], 4, SPAN)?;
    let (made, calls) = count_during(pair, directory, || {
        let interval = connections(running, &[targets.respond.into()], 4, SPAN)?;
        // Four connections were under way when counting ended: about half of each counts.
        Ok(interval.count + 2.0)
    })?;
    let each = calls / made;
    let (moved, calls) = count_during(pair, directory, || {
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

/// Returns what `run` returns, and the calls that both roles made meanwhile.
fn count_during(
    pair: &Pair,
    directory: &Path,
    run: impl FnOnce() -> Result<f64>,
) -> Result<(f64, f64)> {
    let tracers = [&pair.local, &pair.server]
        .into_iter()
        .map(|process| Tracer::attach(process.pid(), directory))
        .collect::<Result<Vec<_>>>()?;
    let done = run()?;
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
