//! Child processes, which end with their owner, and their CPU time and memory.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process_group, setrlimit};

use crate::link::Namespace;
use crate::result::Result;

/// A child that dies with this value, and with this process.
pub(crate) struct Process(Child);

impl Process {
    /// Starts `command`, in a network namespace if one is given, with its output in `log`.
    pub(crate) fn spawn(
        mut command: Command,
        namespace: Option<&Namespace>,
        log: &Path,
    ) -> Result<Self> {
        let log = fs::File::create(log)?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Self::start(command, namespace)
    }

    /// The same, with the standard streams as `command` has them.
    pub(crate) fn start(mut command: Command, namespace: Option<&Namespace>) -> Result<Self> {
        if let Some(namespace) = namespace {
            namespace.place(&mut command)?;
        }
        command.process_group(0);
        // SAFETY: between fork and exec this makes one system call, which takes no pointer.
        unsafe {
            command.pre_exec(
                || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                },
            );
        }
        let name = command.get_program().to_string_lossy().into_owned();
        match command.spawn() {
            Ok(child) => Ok(Self(child)),
            Err(error) => Err(format!("cannot start {name}: {error}").into()),
        }
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Fails if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.0.try_wait()? {
            Some(status) => Err(format!("a proxy has ended: {status}").into()),
            None => Ok(()),
        }
    }

    /// CPU time so far of all its threads, including ended ones, by the scheduler's clock (nanoseconds, not ticks).
    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu_of(self.pid())
    }

    /// The CPU time of the process and of the children that it has now or has had. What ended ones used is counted in ticks.
    pub(crate) fn family_cpu(&self) -> Result<Duration> {
        let pid = self.pid();
        let mut time = self.cpu()?;
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread or a child that ends meanwhile is among the ended ones next time.
            let children = fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace() {
                time += cpu_of(child.parse()?).unwrap_or_default();
            }
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, fields) = stat.rsplit_once(')').ok_or("a strange /proc/PID/stat")?;
        // cutime and cstime are fields 16 and 17; the one after the name is the third.
        let ticks: u64 = fields
            .split_whitespace()
            .skip(13)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        Ok(time + Duration::from_millis(ticks * 10))
    }

    /// Sends SIGTERM twice, since after the first it may wait for its flows. A program built for profiling writes its
    /// profile only when it ends by itself.
    fn terminate(&mut self, group: Pid) {
        for _ in 0..2 {
            let _ = kill_process_group(group, Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(1);
            while Instant::now() < deadline {
                if !matches!(self.0.try_wait(), Ok(None)) {
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Its anonymous memory in KiB: heap, stacks and written pages of its image, but no mapped files.
    pub(crate) fn anonymous_kib(&self) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid()))?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Anonymous:"));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
        Ok(kib.ok_or("no `Anonymous` in smaps_rollup")?.parse()?)
    }
}

/// [`Process::cpu`] of any process.
pub(crate) fn cpu_of(pid: u32) -> Result<Duration> {
    let mut clock = 0;
    let pid = libc::pid_t::try_from(pid)?;
    // SAFETY: `clock` is a valid place for the result.
    let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error).into());
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the result.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(Duration::new(
        u64::try_from(time.tv_sec)?,
        u32::try_from(time.tv_nsec)?,
    ))
}

impl Drop for Process {
    fn drop(&mut self) {
        // The group includes a plugin that it started. It may have ended already.
        if let Some(group) = Pid::from_raw(self.pid().cast_signed()) {
            if std::env::var_os("LLVM_PROFILE_FILE").is_some() {
                self.terminate(group);
            }
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// CPU time that the machine has spent on anything (steal included), and that of this process and its ended children.
pub(crate) fn machine_and_own_cpu() -> Result<(Duration, Duration)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().ok_or("an empty /proc/stat")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal
    let busy = [0, 1, 2, 5, 6, 7]
        .iter()
        .filter_map(|field| ticks.get(*field))
        .sum::<u64>();
    let mut own = Duration::ZERO;
    for who in [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN] {
        // SAFETY: all-zero is a valid `rusage`.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: `usage` is a valid place for the result.
        if unsafe { libc::getrusage(who, &raw mut usage) } != 0 {
            return Err(io::Error::last_os_error().into());
        }
        for time in [usage.ru_utime, usage.ru_stime] {
            own += Duration::from_secs(u64::try_from(time.tv_sec)?);
            own += Duration::from_micros(u64::try_from(time.tv_usec)?);
        }
    }
    // USER_HZ is 100 wherever Linux runs.
    Ok((Duration::from_millis(busy * 10), own))
}

/// How many files a process may have open.
pub(crate) fn file_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the limit of open files to the hard limit, for this process and its children.
pub(crate) fn raise_file_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let wanted = Rlimit {
        current: maximum,
        maximum,
    };
    // If it fails, the idle workload opens fewer connections.
    let _ = setrlimit(Resource::Nofile, wanted);
}
