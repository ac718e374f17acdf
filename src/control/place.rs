//! Where the sockets of running processes are.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, geteuid, test_kill_process};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::limits::ASK_TIMEOUT;

/// The directory of processes that root started.
const OF_ROOT: &str = "/run/ssr";
/// The ending of a socket's name; before it stands the process id.
const ENDING: &str = ".sock";

/// A socket, and the process that it is named after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The process.
    pub pid: u32,
    /// Its socket.
    pub path: PathBuf,
}

/// The path for the socket of this process. Makes the directory, and removes from it what processes have left that were
/// killed.
///
/// # Errors
/// When there is no directory that only this user can write to.
pub fn own() -> io::Result<PathBuf> {
    let directory = directory()?;
    for left in sockets_in(&directory) {
        let gone = i32::try_from(left.pid)
            .ok()
            .and_then(Pid::from_raw)
            .is_some_and(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH));
        // The process may be one of another container that shares the directory.
        if gone && is_abandoned(&left.path) {
            // Another process may do the same at this moment.
            let _ = fs::remove_file(&left.path);
        }
    }
    let path = directory.join(format!("{}{ENDING}", std::process::id()));
    if path.exists() && is_abandoned(&path) {
        fs::remove_file(&path)?;
    }
    Ok(path)
}

/// Connects to a socket.
pub(super) fn connect(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_read_timeout(Some(ASK_TIMEOUT))?;
    // It limits the time for connecting too.
    socket.set_write_timeout(Some(ASK_TIMEOUT))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// Whether nobody listens on a socket any more.
fn is_abandoned(path: &Path) -> bool {
    connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// The directory for the sockets of this user: that of systemd (`RuntimeDirectory=`), `/run/ssr` for root, `ssr` in the
/// user's runtime directory, or one of its own in `/tmp`.
///
/// # Errors
/// When there is none that only this user can write to.
pub fn directory() -> io::Result<PathBuf> {
    let uid = geteuid().as_raw();
    if let Some(directory) = of_service() {
        return Ok(directory);
    }
    if uid == 0 {
        let directory = PathBuf::from(OF_ROOT);
        make(&directory, 0o755)?;
        return Ok(directory);
    }
    let mut bases = of_session(uid).into_iter();
    let directory = match bases.find(|base| is_owned(base, uid)) {
        Some(base) => base.join("ssr"),
        None => in_tmp(uid),
    };
    make(&directory, 0o700)?;
    Ok(directory)
}

/// Makes a directory unless it exists, and looks whether nobody else can put something there.
fn make(directory: &Path, mode: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(mode).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if is_owned(directory, geteuid().as_raw()) {
        return Ok(());
    }
    let message = format!("{} belongs to somebody else", directory.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}

/// Whether it is a directory, not a link to one, that belongs to the user, and in which nobody else can write.
fn is_owned(directory: &Path, uid: u32) -> bool {
    fs::symlink_metadata(directory)
        .is_ok_and(|is| is.is_dir() && is.uid() == uid && is.mode() & 0o022 == 0)
}

/// The directory that systemd made for the service that this process is.
fn of_service() -> Option<PathBuf> {
    let list = std::env::var_os("RUNTIME_DIRECTORY")?;
    // With `DynamicUser=`, it is a link.
    let first = std::env::split_paths(&list).next()?.canonicalize().ok()?;
    is_owned(&first, geteuid().as_raw()).then_some(first)
}

/// The runtime directories of a user that has logged in.
fn of_session(uid: u32) -> Vec<PathBuf> {
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let named = named.filter(|path| path.is_absolute());
    let usual = PathBuf::from(format!("/run/user/{uid}"));
    named.into_iter().chain([usual]).collect()
}

fn in_tmp(uid: u32) -> PathBuf {
    PathBuf::from(format!("/tmp/ssr-{uid}"))
}

/// The sockets that this user may ask, by process id; for root, those of all users. Some may be abandoned.
#[must_use]
pub fn all() -> Vec<Place> {
    let uid = geteuid().as_raw();
    let mut directories = vec![PathBuf::from(OF_ROOT)];
    directories.extend(of_service());
    directories.extend(of_session(uid).iter().map(|base| base.join("ssr")));
    directories.push(in_tmp(uid));
    if uid == 0 {
        directories.extend(entries("/run/user").map(|base| base.join("ssr")));
        let in_tmp = entries("/tmp");
        directories.extend(in_tmp.filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("ssr-"))
        }));
    }
    // What another user has put into a place of this one is none of its processes.
    directories.retain(|directory| {
        directory == Path::new(OF_ROOT) || uid == 0 || is_owned(directory, uid)
    });
    let mut all: Vec<Place> = directories
        .iter()
        .flat_map(|directory| sockets_in(directory))
        .collect();
    all.sort_by(|a, b| (a.pid, &a.path).cmp(&(b.pid, &b.path)));
    all.dedup();
    all
}

fn entries(directory: impl AsRef<Path>) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.flatten().map(|entry| entry.path())
}

fn sockets_in(directory: &Path) -> Vec<Place> {
    let pid = |path: &Path| {
        let name = path.file_name()?.to_str()?;
        name.strip_suffix(ENDING)?.parse().ok()
    };
    let paths = entries(directory);
    paths
        .filter_map(|path| {
            Some(Place {
                pid: pid(&path)?,
                path,
            })
        })
        .collect()
}
