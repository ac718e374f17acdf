//! Listening sockets that are passed on: by the service manager (socket activation, sd_listen_fds(3)), or by a part of this
//! process, or an earlier process, that listened before.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use socket2::{Domain, SockRef, Socket, Type};

use super::listener::Listener;
use super::sync::lock;
use super::{SocketOptions, linux};

/// The name of a socket that has none.
const UNNAMED: &str = "unknown";

/// The sockets that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Passed {
    waiting: Mutex<Vec<PassedSocket>>,
    /// Copies of those that are in use, so that they can be passed on.
    used: Mutex<Vec<PassedSocket>>,
    /// Whether they come from the process before this one.
    is_inherited: bool,
}

/// Which sockets are meant.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// Those with this name (`FileDescriptorName=`).
    Name(&'a str),
    /// Those at this address.
    Address(SocketAddr),
    /// Those at this path.
    Path(&'a Path),
}

/// A socket, and who it is for.
#[derive(Debug)]
pub struct PassedSocket {
    /// The name that the service manager gave it.
    pub name: String,
    /// The address in the config, which may have port 0.
    pub asked: Option<SocketAddr>,
    socket: Socket,
    place: Place,
}

/// What a socket is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(PathBuf),
    /// Nothing that this process could use.
    Other,
}

impl fmt::Display for PassedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`, ", self.name)?;
        match &self.place {
            Place::Tcp(address) => write!(f, "TCP {address}"),
            Place::Udp(address) => write!(f, "UDP {address}"),
            Place::Unix(path) => write!(f, "{}", path.display()),
            Place::Other => write!(f, "which listens neither to TCP, nor UDP, nor at a path"),
        }
    }
}

impl Passed {
    /// Those that were passed to this process. To be called before anything else opens files.
    #[must_use]
    pub fn to_this_process() -> Self {
        let names = names(|name| std::env::var(name).ok(), std::process::id());
        let sockets = linux::take_passed(names.len())
            .into_iter()
            .map(Socket::from);
        let passed = names
            .into_iter()
            .zip(sockets)
            .map(|(name, socket)| PassedSocket::new(name, None, socket));
        Self::from(passed.collect::<Vec<_>>())
    }

    /// Those of the process before this one.
    #[must_use]
    pub fn inherited(sockets: Vec<PassedSocket>) -> Self {
        Self {
            is_inherited: true,
            ..Self::from(sockets)
        }
    }

    /// Whether they come from the process before this one.
    #[must_use]
    pub const fn is_inherited(&self) -> bool {
        self.is_inherited
    }

    /// Takes the listeners for streams that are wanted, each once for every one of `workers`.
    ///
    /// # Errors
    /// What the system says.
    pub fn take_streams(
        &self,
        wanted: Wanted<'_>,
        workers: usize,
        options: &SocketOptions,
    ) -> io::Result<Vec<Listener>> {
        let mut all = Vec::new();
        let found = self.take(wanted, Place::is_stream);
        let places: Vec<Place> = found.iter().map(|one| one.place.clone()).collect();
        for one in found {
            let was_made_here = one.was_made_here();
            let PassedSocket {
                name,
                socket,
                place,
                ..
            } = one;
            // Workers that had a socket each at this place share those out again.
            let group = places.iter().filter(|other| **other == place).count();
            let workers = workers.div_ceil(group.max(1));
            socket.set_nonblocking(true)?;
            let listener = if let Place::Unix(_) = place {
                Listener::Unix(socket.into())
            } else {
                let reference = SockRef::from(&socket);
                if was_made_here {
                    options.apply_again(&reference)?;
                } else {
                    options.apply_listener(&reference)?;
                }
                Listener::Tcp(socket.into())
            };
            self.note(&name, wanted, &listener)?;
            all.extend(listener.share(workers)?);
        }
        Ok(all)
    }

    /// Takes the sockets for datagrams that are wanted.
    ///
    /// # Errors
    /// What the system says.
    pub fn take_datagrams(
        &self,
        wanted: Wanted<'_>,
        options: &SocketOptions,
    ) -> io::Result<Vec<UdpSocket>> {
        let found = self.take(wanted, |place| !place.is_stream());
        let prepare = |found: PassedSocket| {
            found.socket.set_nonblocking(true)?;
            options.apply_datagram_buffers(&SockRef::from(&found.socket))?;
            self.note_used(wanted, &found.socket)?;
            Ok(found.socket.into())
        };
        found.into_iter().map(prepare).collect()
    }

    /// What nobody has taken, in words; it is closed.
    pub fn close_rest(&self) -> Vec<String> {
        let rest = std::mem::take(&mut *lock(&self.waiting));
        rest.iter().map(PassedSocket::to_string).collect()
    }

    /// Takes note that a socket is in use, so that it can be passed on.
    ///
    /// # Errors
    /// When the system has no file for a copy.
    pub fn note_used(&self, wanted: Wanted<'_>, socket: &impl AsFd) -> io::Result<()> {
        let name = match wanted {
            Wanted::Name(name) => name,
            Wanted::Address(_) | Wanted::Path(_) => UNNAMED,
        };
        self.note(name, wanted, socket)
    }

    fn note(&self, name: &str, wanted: Wanted<'_>, socket: &impl AsFd) -> io::Result<()> {
        let asked = match wanted {
            Wanted::Address(address) => Some(address),
            Wanted::Name(_) | Wanted::Path(_) => None,
        };
        let copy = Socket::from(socket.as_fd().try_clone_to_owned()?);
        lock(&self.used).push(PassedSocket::new(name.to_owned(), asked, copy));
        Ok(())
    }

    /// Those that were taken into use since the last call.
    pub fn take_used(&self) -> Vec<PassedSocket> {
        std::mem::take(&mut *lock(&self.used))
    }

    fn take(&self, wanted: Wanted<'_>, fits: impl Fn(&Place) -> bool) -> Vec<PassedSocket> {
        // Where two listeners have port 0, each has its own.
        let mut first: Option<Place> = None;
        let mut is_wanted = |one: &PassedSocket| {
            let is = fits(&one.place) && one.is(wanted);
            is && match wanted {
                Wanted::Address(_) => *first.get_or_insert_with(|| one.place.clone()) == one.place,
                Wanted::Name(_) | Wanted::Path(_) => true,
            }
        };
        lock(&self.waiting)
            .extract_if(.., |one| is_wanted(one))
            .collect()
    }
}

impl From<Vec<PassedSocket>> for Passed {
    fn from(sockets: Vec<PassedSocket>) -> Self {
        Self {
            waiting: Mutex::new(sockets),
            used: Mutex::default(),
            is_inherited: false,
        }
    }
}

impl PassedSocket {
    /// A socket for who asks for it by name, by the address `asked`, or by where it is.
    #[must_use]
    pub fn new(name: String, asked: Option<SocketAddr>, socket: Socket) -> Self {
        let place = place(&socket).unwrap_or(Place::Other);
        Self {
            name,
            asked,
            socket,
            place,
        }
    }

    /// Another handle of the same socket.
    ///
    /// # Errors
    /// When the system has no file for it.
    pub fn copy(&self) -> io::Result<Self> {
        Ok(Self {
            name: self.name.clone(),
            asked: self.asked,
            socket: self.socket.try_clone()?,
            place: self.place.clone(),
        })
    }

    /// Whether this program made it, now or before an upgrade, and no service manager with settings of its own.
    fn was_made_here(&self) -> bool {
        self.name == UNNAMED && self.asked.is_some()
    }

    fn is(&self, wanted: Wanted<'_>) -> bool {
        match (wanted, &self.place) {
            (Wanted::Name(name), Place::Tcp(_) | Place::Udp(_) | Place::Unix(_)) => {
                self.name == name
            }
            (Wanted::Address(wanted), Place::Tcp(address) | Place::Udp(address)) => {
                self.asked == Some(wanted)
                    || wanted.port() == address.port()
                        && wanted.ip().to_canonical() == address.ip().to_canonical()
            }
            (Wanted::Path(wanted), Place::Unix(path)) => wanted == path,
            _ => false,
        }
    }
}

impl AsFd for PassedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Place {
    const fn is_stream(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Unix(_))
    }
}

/// The names of the sockets that were passed to the process `pid`; one for each socket.
fn names(variable: impl Fn(&str) -> Option<String>, pid: u32) -> Vec<String> {
    let number = |name| variable(name).and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(pid) {
        return Vec::new();
    }
    // More descriptors a process cannot have.
    let count = number("LISTEN_FDS").unwrap_or(0).min(1 << 20);
    let given = variable("LISTEN_FDNAMES").unwrap_or_default();
    let mut given = given.split(':').filter(|name| !name.is_empty());
    (0..count)
        .map(|_| given.next().unwrap_or(UNNAMED).to_owned())
        .collect()
}

fn place(socket: &Socket) -> io::Result<Place> {
    let (kind, domain) = (socket.r#type()?, socket.domain()?);
    let address = socket.local_addr()?;
    let listens = kind == Type::STREAM && socket.is_listener()?;
    Ok(match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) if listens => Place::Tcp(address),
        (Some(address), _) if kind == Type::DGRAM => Place::Udp(address),
        (_, Some(path)) if listens && domain == Domain::UNIX => Place::Unix(path.to_owned()),
        _ => Place::Other,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn names_of(pid: &str, count: &str, given: Option<&str>) -> Vec<String> {
        let variable = |name: &str| match name {
            "LISTEN_PID" => Some(pid.to_owned()),
            "LISTEN_FDS" => Some(count.to_owned()),
            _ => given.map(str::to_owned),
        };
        names(variable, 7)
    }

    #[test]
    fn sockets_of_another_process_are_not_ours() {
        assert_eq!(names_of("8", "2", None), [""; 0]);
        assert_eq!(names_of("", "2", None), [""; 0]);
        assert_eq!(names_of("7", "x", None), [""; 0]);
        assert_eq!(names_of("7", "2", None), ["unknown", "unknown"]);
        assert_eq!(names_of("7", "3", Some("a:b")), ["a", "b", "unknown"]);
        assert_eq!(names_of("7", "1", Some("a:b")), ["a"]);
    }

    #[test]
    fn sockets_are_taken_once_by_name_or_by_address() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let connected = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let (at, udp_at) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
        let sockets = [
            Socket::from(tcp),
            Socket::from(udp),
            Socket::from(unix),
            Socket::from(connected),
        ];
        let passed = sockets.map(|socket| PassedSocket::new("all".to_owned(), None, socket));
        let passed = Passed::from(Vec::from(passed));
        let options = SocketOptions::default();
        let streams = |wanted| passed.take_streams(wanted, 2, &options).unwrap();
        assert_eq!(streams(Wanted::Address(udp_at)).len(), 0);
        assert_eq!(streams(Wanted::Address(at)).len(), 2);
        assert_eq!(streams(Wanted::Address(at)).len(), 0);
        assert_eq!(streams(Wanted::Path(&path)).len(), 2);
        let udp = passed
            .take_datagrams(Wanted::Name("all"), &options)
            .unwrap();
        assert_eq!(udp.first().unwrap().local_addr().unwrap(), udp_at);
        let rest = passed.close_rest();
        assert_eq!(
            rest,
            ["`all`, which listens neither to TCP, nor UDP, nor at a path"]
        );
    }
}
