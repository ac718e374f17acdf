//! A slow link in user space: two network namespaces, a tun device in each, and threads that carry packets between them
//! with delay, loss and a rate. The kernel needs only tun (no netem). Nothing is left behind: the namespaces have no names
//! and end with the last process in them.
//!
//! ```text
//! namespace a                                             namespace b
//!   client, ssr local      10.99.0.1 ── link ── 10.99.0.2      ssr server, target
//! ```

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The address of namespace a.
pub(crate) const A: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The address of namespace b.
pub(crate) const B: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

/// `TUNSETIFF` of linux/if_tun.h.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
/// Room for a packet: the MTU of tun devices is 1500.
const PACKET: usize = 2048;
/// How often a thread checks whether it should end.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What the link does to packets, the same in each direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// One way.
    pub(crate) delay: Duration,
    /// Probability that a packet is lost.
    pub(crate) loss: f64,
    /// Bits a second.
    pub(crate) rate: f64,
    /// How long a packet may wait for its turn; one that would wait longer is lost.
    pub(crate) queue: Duration,
    /// Seed of the losses.
    pub(crate) seed: u64,
}

/// A network namespace without a name.
#[derive(Debug)]
pub(crate) struct Namespace(File);

impl Namespace {
    /// A new namespace without devices.
    ///
    /// # Errors
    ///
    /// The process may not create one (root may).
    fn new() -> io::Result<Self> {
        let made = thread::spawn(|| {
            // SAFETY: changes this thread only, which ends at once.
            checked(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            File::open("/proc/thread-self/ns/net")
        });
        let file = made
            .join()
            .map_err(|_| io::Error::other("a thread panicked"))?;
        Ok(Self(file?))
    }

    /// A new namespace with only a loopback device.
    ///
    /// # Errors
    ///
    /// The process may not create one.
    pub(crate) fn loopback() -> io::Result<Self> {
        let namespace = Self::new()?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Makes `command` start in this namespace.
    pub(crate) fn place(&self, command: &mut Command) -> io::Result<()> {
        let file = self.0.try_clone()?;
        // SAFETY: between fork and exec this makes one system call, which takes no pointer.
        unsafe {
            command.pre_exec(move || checked(libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET)));
        }
        Ok(())
    }

    /// Moves the calling thread, and those that it will start, into this namespace.
    pub(crate) fn enter(&self) -> io::Result<()> {
        // SAFETY: changes this thread only.
        checked(unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) })
    }

    /// Runs `body` on a thread in this namespace.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> io::Result<T> {
        let outcome = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter()?;
                Ok(body())
            });
            inside.join()
        });
        outcome.map_err(|_| io::Error::other("a thread panicked"))?
    }

    /// Runs `ip ARGUMENTS` in this namespace.
    pub(crate) fn ip(&self, arguments: &str) -> io::Result<()> {
        let mut command = Command::new("ip");
        command.args(arguments.split(' ')).stdin(Stdio::null());
        self.place(&mut command)?;
        let output = command.output()?;
        if output.status.success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("ip {arguments}: {message}")))
    }

    /// Adds the tun device `name` with `address`.
    fn device(&self, name: &str, address: Ipv4Addr) -> io::Result<File> {
        let file = self.run(|| tun(name))??;
        self.ip("link set lo up")?;
        self.ip(&format!("addr add {address}/24 dev {name}"))?;
        // Whole windows leave at once; what the device's queue could not hold would be lost unnoticed.
        self.ip(&format!("link set {name} txqueuelen 10000 up"))?;
        Ok(file)
    }

    /// A new namespace that a pair of devices connects with this one: this is at [`A`], the new one at [`B`].
    ///
    /// # Errors
    ///
    /// The process may not create one.
    pub(crate) fn neighbour(&self) -> io::Result<Self> {
        let far = Self::loopback()?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), far.0.as_raw_fd());
        self.ip(&format!(
            "link add near0 type veth peer name far0 netns {path}"
        ))?;
        self.ip(&format!("addr add {A}/24 dev near0"))?;
        self.ip("link set near0 up")?;
        far.ip(&format!("addr add {B}/24 dev far0"))?;
        far.ip("link set far0 up")?;
        Ok(far)
    }

    fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

fn checked(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Creates the tun device `name` in the namespace of this thread.
fn tun(name: &str) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the kernel reads and writes one `ifreq`, which lives and is not touched meanwhile.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
    Ok(file)
}

/// The link. It ends when dropped.
pub(crate) struct Link {
    pub(crate) a: Namespace,
    pub(crate) b: Namespace,
    dark: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    /// How long packets to namespace a have waited for their turn.
    waits: Arc<Waits>,
    threads: Vec<JoinHandle<()>>,
}

impl Link {
    /// # Errors
    ///
    /// It needs root, `/dev/net/tun` and `ip`.
    pub(crate) fn new(shape: Shape) -> io::Result<Self> {
        Self::between(Namespace::new()?, Namespace::new()?, "link0", (A, B), shape)
    }

    /// A second link, `link1`, from a new namespace with the address `near` to the namespace a of this one, which has the
    /// address `far` there.
    ///
    /// # Errors
    ///
    /// As [`Link::new`].
    pub(crate) fn extend(&self, near: Ipv4Addr, far: Ipv4Addr, shape: Shape) -> io::Result<Self> {
        let (a, b) = (Namespace::new()?, self.a.try_clone()?);
        Self::between(a, b, "link1", (near, far), shape)
    }

    fn between(
        a: Namespace,
        b: Namespace,
        device: &str,
        addresses: (Ipv4Addr, Ipv4Addr),
        shape: Shape,
    ) -> io::Result<Self> {
        let near = a.device(device, addresses.0)?;
        let far = b.device(device, addresses.1)?;
        let mut link = Self {
            a,
            b,
            dark: Arc::default(),
            stop: Arc::default(),
            waits: Arc::default(),
            threads: Vec::new(),
        };
        link.direction(&near, &far, shape, Arc::default())?;
        let shape = Shape {
            seed: !shape.seed << 1,
            ..shape
        };
        let waits = Arc::clone(&link.waits);
        link.direction(&far, &near, shape, waits)?;
        Ok(link)
    }

    /// The median time, in whole milliseconds, that packets to namespace a have waited for their turn.
    pub(crate) fn waited(&self) -> u32 {
        self.waits.median()
    }

    /// Makes the link drop every packet, or carry packets again.
    pub(crate) fn set_dark(&self, dark: bool) {
        self.dark.store(dark, Relaxed);
    }

    fn direction(
        &mut self,
        from: &File,
        to: &File,
        shape: Shape,
        waits: Arc<Waits>,
    ) -> io::Result<()> {
        let queue = Arc::new(Queue::default());
        let (from, stop, filled) = (
            from.try_clone()?,
            Arc::clone(&self.stop),
            Arc::clone(&queue),
        );
        let dark = Arc::clone(&self.dark);
        self.threads.push(thread::spawn(move || {
            receive(&from, shape, (&filled, &waits), &dark, &stop);
        }));
        let (to, stop) = (to.try_clone()?, Arc::clone(&self.stop));
        self.threads
            .push(thread::spawn(move || deliver(&to, &queue, &stop)));
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has ended, too.
            let _ = thread.join();
        }
    }
}

/// Packets on their way, in the order of their arrival.
#[derive(Default)]
struct Queue {
    packets: Mutex<VecDeque<(Instant, Vec<u8>)>>,
    filled: Condvar,
}

/// How many packets have waited for so many milliseconds, in the order of the milliseconds.
#[derive(Default)]
struct Waits(Mutex<Vec<u32>>);

impl Waits {
    fn note(&self, wait: Duration) {
        // A queue is much shorter than a second.
        let place = wait.as_millis().min(1000) as usize;
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let len = counts.len().max(place + 1);
        counts.resize(len, 0);
        counts
            .iter_mut()
            .skip(place)
            .take(1)
            .for_each(|count| *count += 1);
    }

    fn median(&self) -> u32 {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let half = counts.iter().sum::<u32>() / 2;
        let mut passed = 0;
        let below = counts.iter().take_while(|count| {
            passed += **count;
            passed <= half
        });
        below.count() as u32
    }
}

/// Reads packets from a device and decides whether and when each arrives.
fn receive(
    device: &File,
    shape: Shape,
    (queue, waits): (&Queue, &Waits),
    dark: &AtomicBool,
    stop: &AtomicBool,
) {
    // Spreads the seed over all bits with the constant of splitmix64, or the first numbers would be small.
    let mut random = (shape.seed | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut free = Instant::now();
    let mut packet = [0; PACKET];
    while !stop.load(Relaxed) {
        if !is_readable(device) {
            continue;
        }
        let Ok(length) = (&mut &*device).read(&mut packet) else {
            return;
        };
        // xorshift64: good enough for losses, and repeatable.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let is_lost =
            dark.load(Relaxed) || shape.loss > (random >> 11) as f64 / (1_u64 << 53) as f64;
        let now = Instant::now();
        let wait = free.saturating_duration_since(now);
        if is_lost || wait > shape.queue {
            continue;
        }
        waits.note(wait);
        free = free.max(now) + Duration::from_secs_f64(length as f64 * 8.0 / shape.rate);
        let bytes = packet.get(..length).unwrap_or_default().to_vec();
        let mut packets = queue.packets.lock().unwrap_or_else(PoisonError::into_inner);
        packets.push_back((free + shape.delay, bytes));
        queue.filled.notify_one();
    }
}

/// Writes packets to the other device when they are due.
fn deliver(device: &File, queue: &Queue, stop: &AtomicBool) {
    // SAFETY: changes this thread only: sleeps end within a microsecond, not fifty later.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    let mut packets = queue.packets.lock().unwrap_or_else(PoisonError::into_inner);
    while !stop.load(Relaxed) {
        let Some((due, packet)) = packets.pop_front() else {
            let waited = queue.filled.wait_timeout(packets, POLL_INTERVAL);
            packets = waited.unwrap_or_else(PoisonError::into_inner).0;
            continue;
        };
        drop(packets);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // A full device drops packets, as real devices do.
        let _ = (&mut &*device).write(&packet);
        packets = queue.packets.lock().unwrap_or_else(PoisonError::into_inner);
    }
}

fn is_readable(device: &File) -> bool {
    let mut wanted = libc::pollfd {
        fd: device.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: the kernel reads and writes one `pollfd`, which lives and is not touched meanwhile.
    let ready = unsafe { libc::poll(&raw mut wanted, 1, POLL_INTERVAL.as_millis() as libc::c_int) };
    ready > 0
}
