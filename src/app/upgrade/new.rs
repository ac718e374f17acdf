//! The side of the new process.

use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd as _;

use socket2::Socket;
use tokio::sync::mpsc;

use super::message::{MARK, Message, QUIC_VERSION};
use crate::app::services::Kept;
use crate::limits::UPGRADE_TIME;
use crate::net::handover::{Channel, Record};
use crate::net::passed::{Passed, PassedSocket};
use crate::relay::tcp::moving::{self, Moved};

/// What an earlier process has left to this one.
pub(in crate::app) struct Inherited {
    channel: Channel,
    sockets: Vec<PassedSocket>,
}

impl Inherited {
    /// From the parent process, if it has started this one for that; waits for its sockets. To be called before anything else
    /// reads from standard input.
    ///
    /// # Errors
    /// When the parent is gone, or another version.
    pub(in crate::app) fn from_parent() -> io::Result<Option<Self>> {
        if std::env::var_os(MARK).is_none() {
            return Ok(None);
        }
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        // A process that merely has the same environment has no socket there.
        if Socket::from(input.try_clone()?).local_addr().is_err() {
            return Ok(None);
        }
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        let mut this = Self {
            channel: Channel::from(input),
            sockets: Vec::new(),
        };
        this.channel.set_patience(Some(UPGRADE_TIME))?;
        loop {
            let mut record = this.next()?;
            match Message::of(&record)? {
                Message::Socket { name, asked } => {
                    if let Some(socket) = record.files.pop() {
                        let socket = PassedSocket::new(name, asked, Socket::from(socket));
                        this.sockets.push(socket);
                    }
                }
                Message::Begin => return Ok(Some(this)),
                _ => return Err(out_of_turn()),
            }
        }
    }

    /// The sockets that it listens on.
    pub(in crate::app) fn sockets(&mut self) -> Passed {
        Passed::inherited(std::mem::take(&mut self.sockets))
    }

    /// Says that this process can serve, and waits until the old one has closed its sockets.
    ///
    /// # Errors
    /// When the old process is gone: it goes on, or has ended.
    pub(in crate::app) fn take_over(&mut self, kept: &Kept) -> io::Result<()> {
        Message::Ready {
            flows: moving::VERSION,
            quic: QUIC_VERSION,
        }
        .send(&mut self.channel, &[], &[])?;
        loop {
            let mut record = self.next()?;
            match Message::of(&record)? {
                Message::Go => return Ok(()),
                Message::Quic {
                    address,
                    generation,
                } => {
                    if let Some(way) = record.files.pop() {
                        let ports = kept.quic();
                        ports.restore(address, generation, &record.blob, way);
                    }
                }
                message => learn(kept, &message, &record),
            }
        }
    }

    /// Says that this process cannot serve.
    pub(in crate::app) fn fail(mut self, message: String) {
        // If the old one is gone, nobody needs to know.
        let _ = Message::Failed { message }.send(&mut self.channel, &[], &[]);
    }

    /// Learns, on a thread of its own, what the old process has to tell until it ends. Its flows go to `flows`.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub(in crate::app) fn listen(
        mut self,
        kept: Kept,
        flows: mpsc::Sender<Box<Moved>>,
    ) -> io::Result<()> {
        self.channel.set_patience(None)?;
        let thread = std::thread::Builder::new().name("handover".to_owned());
        thread.spawn(move || {
            while let Ok(mut record) = self.next() {
                match Message::of(&record) {
                    Ok(Message::Flow(moved)) => {
                        let told = flows
                            .blocking_send(whole(moved, &mut record))
                            .is_ok_and(|()| {
                                Message::Taken.send(&mut self.channel, &[], &[]).is_ok()
                            });
                        if !told {
                            return;
                        }
                    }
                    Ok(message) => learn(&kept, &message, &record),
                    Err(_) => return,
                }
            }
        })?;
        Ok(())
    }

    fn next(&mut self) -> io::Result<Record> {
        let gone = || io::Error::new(io::ErrorKind::UnexpectedEof, "the old process has ended");
        self.channel.receive()?.ok_or_else(gone)
    }
}

/// A flow with its bytes and sockets.
fn whole(mut moved: Box<Moved>, record: &mut Record) -> Box<Moved> {
    moved.bytes = std::mem::take(&mut record.blob);
    let files = std::mem::take(&mut record.files).into_iter();
    let sockets: Vec<TcpStream> = files.map(TcpStream::from).collect();
    moved.sockets = sockets.try_into().ok();
    moved
}

fn learn(kept: &Kept, message: &Message, record: &Record) {
    if let Message::Seen { server, method, of } = message {
        kept.restore(server, method, *of, &record.blob);
    }
}

fn out_of_turn() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the old process says something out of turn",
    )
}
