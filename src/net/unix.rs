//! Listening at a path of the file system.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::listener::Listener;
use crate::limits::BACKLOG;

type Id = (u64, u64, i64, i64);

fn id(file: &fs::Metadata) -> Id {
    (file.dev(), file.ino(), file.mtime(), file.mtime_nsec())
}

/// The file of a socket. Dropping it removes the file, unless another socket is there by then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Its device, its number, and when it was made: a number is used again.
    id: Id,
}

impl SocketFile {
    /// The file at a path, whose socket came from another process.
    ///
    /// # Errors
    /// What the system says.
    pub fn found_at(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            id: id(&found),
        })
    }

    /// Leaves the file to another process.
    pub fn leave(mut self) {
        // There is no such file, so nothing is removed.
        self.path = PathBuf::new();
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| id(&found) == self.id) {
            // After a change of user it may stay; the next start removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens at `path`, for `count` workers. `mode` is that of the file; without it, what the umask leaves. A socket that an
/// earlier process left there is replaced; one that somebody listens on is not.
///
/// # Errors
/// What the system says, and why.
pub fn listen(
    path: &Path,
    mode: Option<u32>,
    count: usize,
) -> io::Result<(Vec<Listener>, SocketFile)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            remove_stale(path, Type::STREAM)?;
            socket.bind(&address)?;
        }
        result => result?,
    }
    let found = fs::symlink_metadata(path)?;
    let file = SocketFile {
        path: path.to_owned(),
        id: id(&found),
    };
    // Nobody can connect before `listen`.
    if let Some(mode) = mode {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    socket.listen(BACKLOG)?;
    let listeners = Listener::Unix(socket.into()).share(count)?;
    Ok((listeners, file))
}

/// Receives datagrams at `path`, from this user alone. A socket that an earlier process left there is replaced; one that
/// somebody listens on is not.
///
/// # Errors
/// What the system says, and why.
pub fn receive(path: &Path) -> io::Result<(Socket, SocketFile)> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    // The file gets the mode of the socket: nobody else can send before it is changed.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            remove_stale(path, Type::DGRAM)?;
            socket.bind(&address)?;
        }
        result => result?,
    }
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let file = SocketFile::found_at(path)?;
    Ok((socket, file))
}

/// Removes the file of a socket that nobody listens on.
fn remove_stale(path: &Path, kind: Type) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        let message = "a file that is no socket is there; remove it or choose another path";
        return Err(io::Error::new(ErrorKind::AlreadyExists, message));
    }
    let probe = Socket::new(Domain::UNIX, kind, None)?;
    // A full queue must not hold us up.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        // Somebody listens, or it cannot be known.
        _ => {
            let message = "another program listens there; stop it or choose another path";
            Err(io::Error::new(ErrorKind::AddrInUse, message))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn socket_is_replaced_only_if_nobody_listens_and_removed_by_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (first, file) = listen(&path, Some(0o600), 3).unwrap();
        assert_eq!(first.len(), 3);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let busy = listen(&path, None, 1).unwrap_err();
        assert!(busy.to_string().contains("listens there"), "{busy}");
        drop(first);
        // It is stale now, as after a kill.
        let (_second, newer) = listen(&path, None, 1).unwrap();
        drop(file);
        assert!(path.exists(), "an older owner removed the file of another");
        drop(newer);
        assert!(!path.exists());
    }

    #[test]
    fn socket_for_datagrams_is_for_its_user_alone_and_replaced_only_if_nobody_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (first, file) = receive(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let busy = receive(&path).unwrap_err();
        assert!(busy.to_string().contains("listens there"), "{busy}");
        drop(first);
        let (_second, newer) = receive(&path).unwrap();
        drop(file);
        assert!(path.exists(), "an older owner removed the file of another");
        drop(newer);
        assert!(!path.exists());
    }

    #[test]
    fn other_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "x").unwrap();
        let error = listen(&path, None, 1).unwrap_err();
        assert!(error.to_string().contains("no socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"x");
    }
}
