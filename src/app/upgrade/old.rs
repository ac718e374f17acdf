//! The side of the old process.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use super::message::{MARK, Message, Seen};
use crate::limits::UPGRADE_TIME;
use crate::net::handover::Channel;
use crate::net::passed::PassedSocket;

/// Variables that are about this process alone.
const OWN: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// What one server has seen, by its address and method.
pub(in crate::app) type Legacy = (String, String, Seen, Vec<u8>);

/// The process that takes over.
pub(in crate::app) struct Successor {
    child: Child,
    channel: Channel,
}

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
            Ok(Some(Message::Ready)) => Ok(()),
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
