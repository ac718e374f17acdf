//! Child processes with their logs kept, and the ports they listen on.

use std::{
    fs,
    io::Read,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long a process may take until it listens.
const START: Duration = Duration::from_secs(10);
/// A log longer than this is no longer kept, only drained.
const LOG_LIMIT: usize = 8 << 20;

/// Lets only the owner read a config: one that everybody can read is warned of.
pub fn make_private(config: &std::path::Path) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(config, mode).unwrap();
}

/// A running program. Dropping it kills it; dropping it in a failing test prints the end of its log.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts `command` with its output captured.
    ///
    /// # Errors
    /// Those of the spawn, a missing program above all.
    pub fn spawn(name: &str, command: &mut Command) -> std::io::Result<Self> {
        // In a group of its own, so that plugins that it starts end with it.
        let mut child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let readers = vec![
            drain(child.stdout.take().unwrap(), Arc::clone(&log)),
            drain(child.stderr.take().unwrap(), Arc::clone(&log)),
        ];
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
            readers,
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything written to stdout and stderr until now.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }

    /// The exit status, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the end and returns the status and the whole log.
    ///
    /// # Panics
    /// If the process is still running after `limit`.
    pub fn wait(&mut self, limit: Duration) -> (ExitStatus, String) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                for reader in self.readers.drain(..) {
                    reader.join().unwrap();
                }
                return (status, self.log());
            }
            assert!(
                start.elapsed() < limit,
                "{} runs on after {limit:?}",
                self.name
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until every address accepts TCP connections, by connecting. For others' programs: `ssr` says when it
    /// [runs](Self::running), and would take the one who looks for a client.
    ///
    /// # Errors
    /// The log, if the process ends first or does not listen within ten seconds.
    pub fn listening(&mut self, addresses: &[SocketAddr]) -> Result<(), String> {
        let start = Instant::now();
        for address in addresses {
            while TcpStream::connect_timeout(address, START).is_err() || !self.holds(address.port())
            {
                if let Some(status) = self.exited() {
                    return Err(format!(
                        "{} ended with {status}:\n{}",
                        self.name,
                        self.log()
                    ));
                }
                if start.elapsed() > START {
                    return Err(format!(
                        "{} does not listen on {address}:\n{}",
                        self.name,
                        self.log()
                    ));
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// Whether it is this process, or one that it has started, that listens on a TCP port: where the port was taken in the
    /// meantime, another program answers there until this one says so and ends.
    fn holds(&self, port: u16) -> bool {
        let id = self.child.id();
        let listeners: Vec<String> = ["tcp", "tcp6"]
            .iter()
            .filter_map(|table| fs::read_to_string(format!("/proc/{id}/net/{table}")).ok())
            .flat_map(|table| listeners(&table, port))
            .collect();
        let mut processes = fs::read_dir("/proc").unwrap().map_while(Result::ok);
        processes.any(|process| {
            let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
            // After the name: state, parent, group. Each process of ours has a group of its own.
            let group = stat
                .rsplit(')')
                .next()
                .and_then(|rest| rest.split(' ').nth(3));
            group == Some(id.to_string().as_str())
                && fs::read_dir(process.path().join("fd")).is_ok_and(|files| {
                    let mut files = files.map_while(Result::ok);
                    files.any(|file| {
                        let to = fs::read_link(file.path()).unwrap_or_default();
                        listeners
                            .iter()
                            .any(|listener| to.as_os_str() == listener.as_str())
                    })
                })
        })
    }

    /// Waits until `ssr` says that it runs: it has then all that it listens to, and nobody has connected to see.
    ///
    /// # Errors
    /// The log, if the process ends first or takes longer than [`DEADLINE`](super::DEADLINE).
    pub fn running(&mut self) -> Result<(), String> {
        let start = Instant::now();
        // On a terminal, with colours.
        let lines = [" running role=", " running \u{1b}[3mrole"];
        while !lines.iter().any(|line| self.log().contains(line)) {
            if self.exited().is_some() || start.elapsed() > super::DEADLINE {
                return Err(self.log());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// A field of `/proc/PID/smaps_rollup` or `/proc/PID/status`, in KiB.
    pub fn memory_kib(&self, field: &str) -> u64 {
        memory_kib(self.id(), field)
    }

    /// How many file descriptors it holds.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.id()))
            .unwrap()
            .count()
    }

    /// The same, when everything is open that is opened at the start.
    pub fn files_at_rest(&self) -> usize {
        let mut files = self.open_files();
        super::eventually("what is opened at the start is open", || {
            let before = std::mem::replace(&mut files, {
                thread::sleep(super::SILENCE);
                self.open_files()
            });
            files == before
        });
        files
    }
}

/// A field of `/proc/PID/smaps_rollup` or `/proc/PID/status`, in KiB.
pub fn memory_kib(process: u32, field: &str) -> u64 {
    let file = if field.starts_with("Vm") {
        "status"
    } else {
        "smaps_rollup"
    };
    let text = fs::read_to_string(format!("/proc/{process}/{file}")).unwrap();
    let line = text
        .lines()
        .find(|line| line.split(':').next() == Some(field))
        .unwrap_or_else(|| panic!("{file} has no {field}"));
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(group) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _gone = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _status = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            let from = log.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
            eprintln!("--- log of {} ---\n{}\n---", self.name, &log[from..]);
        }
    }
}

/// The files of those who listen on `port`, by a table of the system.
fn listeners(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let ending = format!(":{port:04X}");
    let lines = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = lines.filter(|fields| {
        fields
            .get(1)
            .is_some_and(|address| address.ends_with(&ending))
            && fields.get(3) == Some(&LISTEN)
    });
    found
        .filter_map(|fields| Some(format!("socket:[{}]", fields.get(9)?)))
        .collect()
}

fn drain(mut pipe: impl Read + Send + 'static, log: Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buf = [0; 8192];
        while let Ok(n @ 1..) = pipe.read(&mut buf) {
            let mut log = log.lock().unwrap();
            if log.len() < LOG_LIMIT {
                log.extend_from_slice(&buf[..n]);
            }
        }
    })
}

/// A port that was free for TCP and UDP on both loopbacks a moment ago.
///
/// It lies below the ports that the kernel hands out by itself, so that no outgoing connection of a test running
/// beside this one can take it in the time between this check and the bind of the program under test.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(u32::MAX);
    let mixed = std::process::id().wrapping_mul(2_654_435_761) >> 8;
    let _first_use = NEXT.compare_exchange(
        u32::MAX,
        mixed % COUNT,
        Ordering::Relaxed,
        Ordering::Relaxed,
    );
    for _ in 0..COUNT {
        let port = u16::try_from(FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT).unwrap();
        let free = [IpAddr::V4(Ipv4Addr::LOCALHOST), "::1".parse().unwrap()]
            .iter()
            .all(|&ip| {
                TcpListener::bind((ip, port)).is_ok() && UdpSocket::bind((ip, port)).is_ok()
            });
        if free {
            return port;
        }
    }
    panic!("no free port");
}

/// `127.0.0.1:port`.
pub fn v4(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
