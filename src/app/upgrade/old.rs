//! The side of the old process.

use std::ffi::OsString;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::message::{MARK, Message, QUIC_VERSION, Seen};
use crate::limits::UPGRADE_TIME;
use crate::net::handover::Channel;
use crate::net::passed::PassedSocket;
use crate::net::quic::Passage;
use crate::relay::tcp::moving::{self, Moved, Moving};

/// Variables that are about this process alone.
const OWN: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// What one server has seen, by its address and method.
pub(in crate::app) type Legacy = (String, String, Seen, Vec<u8>);

/// The process that takes over.
pub(in crate::app) struct Successor {
    child: Child,
    channel: Channel,
    /// The version of flows that it goes on with.
    flows: u16,
    /// The version of QUIC ports that it goes on with.
    quic: u16,
}

/// How many flows may be on their way at once: what leaves waits for those before it.
const AT_ONCE: usize = 32;
/// How long a flow may take to leave that was told to. One that cannot stays, for others to be asked.
const LEAVE_TIME: Duration = Duration::from_millis(50);
/// How long a process may take to end that does not answer any more.
const END_TIME: Duration = Duration::from_secs(1);
/// How long flows are moved at most; those that are left end in this process.
const MOVE_TIME: Duration = Duration::from_secs(10);

/// The program of this process, as it was found at the start: its path may hold another one by now.
fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = PROGRAM.get_or_init(|| {
        let name = PathBuf::from(std::env::args_os().next()?);
        match name.parent() {
            // From PATH, where it is looked for again.
            Some(parent) if parent.as_os_str().is_empty() => Some(name),
            _ => std::path::absolute(name).ok(),
        }
    });
    found.as_deref()
}

impl Successor {
    /// Notes where the program is. To be called at the start.
    pub(in crate::app) fn prepare() {
        let _ = program();
    }

    /// Starts the program again with the same arguments, passes `sockets` to it, and waits until it is ready. It blocks.
    ///
    /// # Errors
    /// Why it does not take over.
    pub(in crate::app) fn start(sockets: &[PassedSocket]) -> Result<Self, String> {
        let (ours, theirs) = Channel::pair().map_err(system("cannot make a pair of sockets"))?;
        let patience = ours.set_patience(Some(UPGRADE_TIME));
        patience.map_err(system("cannot limit the time of the new process"))?;
        let child = spawn(theirs.into())?;
        let mut this = Self {
            child,
            channel: ours,
            flows: 0,
            quic: 0,
        };
        match this.offer(sockets) {
            Ok(()) => Ok(this),
            Err(message) => {
                // It may have ended by itself.
                let _ = this.child.kill();
                let _ = this.child.wait();
                Err(message)
            }
        }
    }

    fn offer(&mut self, sockets: &[PassedSocket]) -> Result<(), String> {
        let sent = sockets.iter().try_for_each(|socket| {
            let message = Message::Socket {
                name: socket.name.clone(),
                asked: socket.asked,
            };
            message.send(&mut self.channel, &[], &[socket.as_fd()])
        });
        let begun = sent.and_then(|()| Message::Begin.send(&mut self.channel, &[], &[]));
        begun.map_err(|error| self.ended(&error))?;
        let said = self.channel.receive().and_then(|record| match record {
            Some(record) => Message::of(&record).map(Some),
            None => Ok(None),
        });
        match said {
            Ok(Some(Message::Ready { flows, quic })) => {
                (self.flows, self.quic) = (flows, quic);
                Ok(())
            }
            Ok(Some(Message::Failed { message })) => Err(message),
            Ok(Some(_)) => Err("the new process says something out of turn".to_owned()),
            Ok(None) => Err(self.ended(&io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(self.ended(&error)),
        }
    }

    /// What is known of a process that does not answer.
    fn ended(&mut self, error: &io::Error) -> String {
        let is_slow = matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        );
        if is_slow {
            let seconds = UPGRADE_TIME.as_secs();
            return format!("the new process is not ready after {seconds} s");
        }
        if error.kind() == io::ErrorKind::InvalidData {
            return error.to_string();
        }
        match self.child.wait() {
            Ok(status) => format!(
                "the new process ended before it was ready, {status}; its own lines say why, and `ssr check` checks the config"
            ),
            Err(error) => format!("the new process cannot be waited for: {error}"),
        }
    }

    /// Its process id.
    pub(in crate::app) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells it what the servers have seen. It blocks.
    ///
    /// # Errors
    /// When it is gone.
    pub(in crate::app) fn tell(&mut self, seen: &[Legacy]) -> io::Result<()> {
        seen.iter().try_for_each(|(server, method, of, bytes)| {
            let message = Message::Seen {
                server: server.clone(),
                method: method.clone(),
                of: *of,
            };
            message.send(&mut self.channel, bytes, &[])
        })
    }

    /// Whether it passes on what comes for QUIC connections of this process.
    pub(in crate::app) const fn passes_quic(&self) -> bool {
        self.quic == QUIC_VERSION
    }

    /// Leaves QUIC ports to it, with the ways to their earlier listeners. It blocks.
    ///
    /// # Errors
    /// When it is gone.
    pub(in crate::app) fn leave_quic(&mut self, passages: &[Passage]) -> io::Result<()> {
        passages.iter().try_for_each(|passage| {
            let message = Message::Quic {
                address: passage.address,
                generation: passage.generation,
            };
            message.send(&mut self.channel, &passage.secret, &[passage.as_fd()])
        })
    }

    /// Passes on the flows that can move. Returns how many it has taken, and those that go on in this process after all. It
    /// blocks.
    pub(in crate::app) fn move_flows(&mut self) -> (usize, Vec<Moved>) {
        if self.flows != moving::VERSION {
            return (0, Vec::new());
        }
        let (moving, begun) = (Moving::begin(), Instant::now());
        let (mut taken, mut staying) = (0, Vec::new());
        let mut quiet = 0;
        // Some of those that are asked cannot leave now: all have been asked twice before this ends.
        while quiet <= 2 * moving.left().div_ceil(AT_ONCE) && begun.elapsed() < MOVE_TIME {
            moving.allow(AT_ONCE);
            let mut left = 0;
            while left < AT_ONCE
                && let Some(moved) = moving.next(LEAVE_TIME)
            {
                left += 1;
                match self.pass_on(moved) {
                    Ok(()) => taken += 1,
                    // It was not sent.
                    Err((moved, error)) if error.kind() == io::ErrorKind::InvalidInput => {
                        staying.push(*moved);
                    }
                    Err((moved, error)) => {
                        tracing::warn!(%error, "upgrade: the new process does not take connections; they go on in this one");
                        // If it lives, it may go on with this one, and both would use the same nonces.
                        if self.has_ended() {
                            staying.push(*moved);
                        }
                        staying.extend(moving.end());
                        return (taken, staying);
                    }
                }
            }
            quiet = if left > 0 { 0 } else { quiet + 1 };
        }
        staying.extend(moving.end());
        (taken, staying)
    }

    /// Whether the new process is gone; one that is ending is given a moment.
    fn has_ended(&mut self) -> bool {
        let begun = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(_)) => return true,
                Ok(None) if begun.elapsed() < END_TIME => sleep(LEAVE_TIME),
                _ => return false,
            }
        }
    }

    fn pass_on(&mut self, mut moved: Box<Moved>) -> Result<(), (Box<Moved>, io::Error)> {
        let (bytes, sockets) = (std::mem::take(&mut moved.bytes), moved.sockets.take());
        let message = Message::Flow(moved);
        let passed = self.pass(&message, &bytes, sockets.as_ref());
        let Message::Flow(mut moved) = message else {
            return Ok(());
        };
        passed.map_err(|error| {
            (moved.bytes, moved.sockets) = (bytes, sockets);
            (moved, error)
        })
    }

    /// Sends a flow, and waits until it has been taken.
    fn pass(
        &mut self,
        message: &Message,
        bytes: &[u8],
        sockets: Option<&[TcpStream; 2]>,
    ) -> io::Result<()> {
        let sockets = sockets.ok_or(io::ErrorKind::InvalidInput)?;
        let files = sockets.each_ref().map(AsFd::as_fd);
        message.send(&mut self.channel, bytes, &files)?;
        let gone = io::ErrorKind::UnexpectedEof;
        match Message::of(&self.channel.receive()?.ok_or(gone)?)? {
            Message::Taken => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Lets it serve. It blocks.
    ///
    /// # Errors
    /// When it is gone.
    pub(in crate::app) fn go(&mut self) -> io::Result<()> {
        Message::Go.send(&mut self.channel, &[], &[])
    }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> String {
    move |error| format!("{what}: {error}")
}

fn spawn(socket: OwnedFd) -> Result<Child, String> {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| OsString::from("ssr"));
    let program = program().unwrap_or_else(|| Path::new("/proc/self/exe"));
    let mut command = Command::new(program);
    command
        .arg0(name)
        .args(arguments)
        .env(MARK, "1")
        .stdin(Stdio::from(socket));
    for variable in OWN {
        command.env_remove(variable);
    }
    let program = program.display();
    command
        .spawn()
        .map_err(|error| format!("cannot start {program}: {error}"))
}
