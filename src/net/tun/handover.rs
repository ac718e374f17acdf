//! Receives the file descriptor of a device from the program that opened it, through a unix socket.

use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// How long the other program may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Listens at `path`, and returns the first file descriptor that somebody sends.
///
/// # Errors
/// What the system says, or that none came within a minute.
pub async fn receive(path: &Path) -> io::Result<OwnedFd> {
    // A socket that a former process left is in the way; anything else is not ours.
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let first = async {
        loop {
            let (stream, _) = listener.accept().await?;
            if let Some(fd) = passed(&stream).await? {
                return Ok(fd);
            }
            tracing::warn!(path = %path.display(), "a program sent no file descriptor; waiting for another");
        }
    };
    let received = timeout(PATIENCE, first).await;
    // It has served its purpose.
    let _ = std::fs::remove_file(path);
    received.unwrap_or_else(|_| {
        let message = format!("nothing came within {} s", PATIENCE.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    })
}

/// The file descriptor in the next message.
async fn passed(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    stream
        .async_io(Interest::READABLE, || {
            let mut room = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut room);
            let mut bytes = [0; 1024];
            let mut parts = [IoSliceMut::new(&mut bytes)];
            recvmsg(stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
            let mut messages = ancillary.drain();
            let found = messages.find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            });
            Ok(found)
        })
        .await
}
