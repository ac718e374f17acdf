//! What the system says of this process, and of the sockets of this machine.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// What the process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Own {
    /// Seconds of CPU time, of the program and of the kernel for it.
    pub cpu_seconds: f64,
    /// Bytes of memory that is present.
    pub resident_bytes: u64,
    /// Bytes of addresses.
    pub virtual_bytes: u64,
    /// When it was started, in seconds since 1970.
    pub started: f64,
    /// Its threads.
    pub threads: u64,
    /// Open files.
    pub open_files: u64,
    /// The most that it may have.
    pub max_files: Option<u64>,
}

/// What the process uses now. What the system does not tell is 0.
#[must_use]
pub fn own() -> Own {
    let mut own = Own {
        open_files: open_files(),
        max_files: getrlimit(Resource::Nofile).current,
        ..Own::default()
    };
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name, which may contain anything: from the third field on (proc_pid_stat(5)).
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<u64> = rest
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
    let per_second = clock_ticks_per_second().max(1);
    let seconds = |ticks: u64| ticks as f64 / per_second as f64;
    own.cpu_seconds = seconds(field(14) + field(15));
    own.threads = field(20);
    own.started = boot_time() as f64 + seconds(field(22));
    own.virtual_bytes = field(23);
    own.resident_bytes = field(24) * page_size() as u64;
    own
}

/// The number of open files. Newer kernels tell it at once; a server may have a million.
fn open_files() -> u64 {
    const DIRECTORY: &str = "/proc/self/fd";
    match fs::metadata(DIRECTORY).map(|is| is.len()) {
        Ok(count) if count > 0 => count,
        _ => fs::read_dir(DIRECTORY).map_or(0, |files| files.count() as u64),
    }
}

/// When the machine was started, in seconds since 1970.
fn boot_time() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|time| time.trim().parse().ok()).unwrap_or(0)
}

/// Bytes of kernel memory in the sockets of this network namespace: of TCP, and of UDP.
#[must_use]
pub fn socket_memory() -> (u64, u64) {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let of = |protocol: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(protocol))?;
        let mut words = line.split_whitespace().skip_while(|word| *word != "mem");
        words.nth(1)?.parse::<u64>().ok()
    };
    let page = page_size() as u64;
    (
        of("TCP:").unwrap_or(0) * page,
        of("UDP:").unwrap_or(0) * page,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells_what_the_process_uses() {
        let own = own();
        assert!(own.resident_bytes > 1 << 20, "{own:?}");
        assert!(own.virtual_bytes >= own.resident_bytes, "{own:?}");
        assert!(own.threads >= 1 && own.open_files >= 3, "{own:?}");
        let now = crate::net::unix_now() as f64;
        assert!((now - own.started).abs() < 86_400.0, "{own:?}");
    }
}
