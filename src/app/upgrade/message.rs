//! What the two processes say to each other. A record is a message in JSON, with bytes and files beside it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::net::handover::{Channel, Record};
use crate::relay::tcp::moving::Moved;

/// Set for a process that takes over from its parent: the socket is its standard input.
pub(super) const MARK: &str = "SSR_TAKES_OVER";

/// The version of [`Message::Quic`].
pub(super) const QUIC_VERSION: u16 = 1;

/// A message.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// A listening socket, which is the file beside it.
    Socket {
        /// The name that the service manager gave it.
        name: String,
        /// The address in the config.
        asked: Option<SocketAddr>,
    },
    /// These were all sockets.
    Begin,
    /// The new process can serve.
    Ready {
        /// The version of flows that it goes on with; 0: it cannot.
        #[serde(default)]
        flows: u16,
        /// The version of QUIC ports that it goes on with; 0: it cannot.
        #[serde(default)]
        quic: u16,
    },
    /// The new process cannot serve.
    Failed {
        /// Why.
        message: String,
    },
    /// What a server has seen: bytes of `relay/replay/record.rs` beside it.
    Seen {
        /// The address of the server in the config.
        server: String,
        /// Its method.
        method: String,
        /// Of what.
        of: Seen,
    },
    /// A listener of a QUIC port whose connections go on: the file beside it leads there. The secret of the port is beside it, too.
    Quic {
        /// The address of the port.
        address: SocketAddr,
        /// The number of the listener.
        generation: u16,
    },
    /// The old process has closed its sockets.
    Go,
    /// A flow; its bytes and its sockets are beside it.
    Flow(Box<Moved>),
    /// The flow that came last goes on here.
    Taken,
}

/// Kinds of what a server has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::app) enum Seen {
    /// Salts of streams.
    Streams,
    /// Salts of packets.
    Packets,
    /// Sessions of packets that have ended.
    Sessions,
}

impl Message {
    pub(super) fn send(
        &self,
        channel: &mut Channel,
        blob: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let head = Zeroizing::new(serde_json::to_vec(self)?);
        channel.send(&head, blob, files)
    }

    pub(super) fn of(record: &Record) -> io::Result<Self> {
        let said = serde_json::from_slice(&record.head);
        said.map_err(|_| {
            let what = "the other ssr says what this one does not know: restart instead";
            io::Error::new(io::ErrorKind::InvalidData, what)
        })
    }
}
