//! How long workloads last and what they find.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::result::Result;
use crate::running::Running;

/// What a workload has found: names with their units, and figures.
pub(crate) type Figures = Vec<(&'static str, f64)>;

/// How long a workload runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// Runs first and is not counted.
    pub(crate) warm: Duration,
    /// Is counted.
    pub(crate) time: Duration,
}

/// What was counted.
pub(crate) struct Interval {
    /// Increase of the counter in the counted time.
    pub(crate) count: f64,
    /// The counter at the end, including the time that was not counted.
    pub(crate) total: f64,
    pub(crate) seconds: f64,
    /// CPU seconds of the proxies.
    pub(crate) cpu: f64,
}

/// Watches `counter` while other threads run the workload.
pub(crate) fn measure(running: &Running, counter: &AtomicU64, span: Span) -> Result<Interval> {
    thread::sleep(span.warm);
    let begun = Instant::now();
    let (cpu, count) = (running.cpu()?, counter.load(Relaxed));
    thread::sleep(span.time);
    let total = counter.load(Relaxed);
    let (cpu, count) = (running.cpu()? - cpu, total - count);
    if count == 0 {
        return Err("nothing got through".into());
    }
    Ok(Interval {
        count: count as f64,
        total: total as f64,
        seconds: begun.elapsed().as_secs_f64(),
        cpu: cpu.as_secs_f64(),
    })
}
