//! The datagram socket of a manager: of UDP, or at a path of the file system.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::os::unix::net;
use std::path::Path;

use tokio::net::unix;
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::time::timeout;

use super::unix::SocketFile;
use crate::limits::MANAGER_SEND_TIME;

/// Where commands come.
#[derive(Debug)]
pub struct Socket {
    kind: Kind,
    /// It goes when the socket does.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
enum Kind {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

/// Who sent a command.
#[derive(Debug)]
pub struct Visitor(From);

#[derive(Debug)]
enum From {
    Udp(SocketAddr),
    Unix(unix::SocketAddr),
}

impl Socket {
    /// Listens at an address of UDP.
    ///
    /// # Errors
    /// What the system says.
    pub fn udp(address: SocketAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            kind: Kind::Udp(UdpSocket::from_std(socket)?),
            _file: None,
        })
    }

    /// Listens at a path, which only this user can send to, and `owner` if there is one.
    ///
    /// # Errors
    /// What the system says, and why.
    pub fn unix(path: &Path, owner: Option<(u32, u32)>) -> io::Result<Self> {
        let (socket, file) = super::unix::receive(path)?;
        if let Some((user, group)) = owner {
            chown(path, Some(user), Some(group))?;
        }
        let socket = net::UnixDatagram::from(socket);
        Ok(Self {
            kind: Kind::Unix(UnixDatagram::from_std(socket)?),
            _file: Some(file),
        })
    }

    /// Receives a datagram; what does not fit into `buffer` is lost.
    ///
    /// # Errors
    /// What the system says.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Visitor)> {
        match &self.kind {
            Kind::Udp(socket) => {
                let (length, from) = socket.recv_from(buffer).await?;
                Ok((length, Visitor(From::Udp(from))))
            }
            Kind::Unix(socket) => {
                let (length, from) = socket.recv_from(buffer).await?;
                Ok((length, Visitor(From::Unix(from))))
            }
        }
    }

    /// Answers. Whoever has no address gets nothing, and whoever reads nothing is not waited for.
    ///
    /// # Errors
    /// What the system says.
    pub async fn send(&self, answer: &[u8], to: &Visitor) -> io::Result<()> {
        let send = async {
            match (&self.kind, &to.0) {
                (Kind::Udp(socket), From::Udp(to)) => socket.send_to(answer, to).await,
                (Kind::Unix(socket), From::Unix(to)) => match to.as_pathname() {
                    Some(path) => socket.send_to(answer, path).await,
                    None => Ok(0),
                },
                _ => Ok(0),
            }
        };
        let sent = timeout(MANAGER_SEND_TIME, send).await;
        sent.map_err(|_| ErrorKind::TimedOut)??;
        Ok(())
    }
}
