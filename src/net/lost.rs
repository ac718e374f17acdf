//! Ends connections whose local address this machine has lost. No packet reaches them any more, and without this their
//! programs would wait for minutes.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;

use rustix::fd::RawFd;
use rustix::net::connect_unspec;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use socket2::{Socket, Type};

use super::own;

/// Addresses that are remembered after they were lost.
const MAX_LOST: usize = 256;

/// The addresses that this machine has, and those that it has lost.
#[derive(Debug, Default)]
pub struct OwnAddresses {
    present: BTreeSet<IpAddr>,
    lost: BTreeSet<IpAddr>,
}

impl OwnAddresses {
    /// Looks at the addresses again, and ends this process's TCP connections from addresses that are lost. As long as the
    /// machine has no address that leads elsewhere, nothing is ended: the link may come back with the same address, and
    /// TCP goes on then.
    ///
    /// Returns how many connections were ended.
    ///
    /// # Errors
    /// What the system says. The next call looks again.
    pub async fn look(&mut self) -> io::Result<usize> {
        let lost = self.note(own::addresses()?);
        if lost.is_empty() {
            return Ok(0);
        }
        let ended = tokio::task::spawn_blocking(move || end_connections_from(&lost));
        ended.await.map_err(io::Error::other)?
    }

    /// Takes note of the present addresses. Returns those that are lost for good.
    fn note(&mut self, present: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let before = std::mem::replace(&mut self.present, present);
        self.lost.extend(before);
        self.lost.retain(|ip| !self.present.contains(ip));
        while self.lost.len() > MAX_LOST {
            self.lost.pop_first();
        }
        match self.present.iter().any(leads_elsewhere) {
            true => std::mem::take(&mut self.lost),
            false => BTreeSet::new(),
        }
    }
}

/// Whether hosts beyond the link can be reached from this address.
fn leads_elsewhere(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    }
}

/// Ends all TCP connections of this process from these addresses, as by a reset from the peer.
fn end_connections_from(addresses: &BTreeSet<IpAddr>) -> io::Result<usize> {
    let process = pidfd_open(getpid(), PidfdFlags::empty())?;
    let mut ended = 0;
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse::<RawFd>().ok()) else {
            continue;
        };
        // A duplicate: the number may belong to another file the next moment. What is looked at is what is ended.
        let Ok(file) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else {
            continue;
        };
        let socket = Socket::from(file);
        if is_connected_from(&socket, addresses) && connect_unspec(&socket).is_ok() {
            ended += 1;
        }
    }
    Ok(ended)
}

fn is_connected_from(socket: &Socket, addresses: &BTreeSet<IpAddr>) -> bool {
    let local = || socket.local_addr().ok()?.as_socket();
    socket.r#type().is_ok_and(|kind| kind == Type::STREAM)
        && local().is_some_and(|local| addresses.contains(&local.ip().to_canonical()))
        // A listener may get its address back.
        && socket.peer_addr().is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::io::{ErrorKind, Read as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn all(text: &[&str]) -> BTreeSet<IpAddr> {
        text.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn address_is_lost_once_another_one_leads_elsewhere() {
        let mut own = OwnAddresses::default();
        assert_eq!(own.note(all(&["127.0.0.1", "10.0.0.1"])), all(&[]));
        assert_eq!(own.note(all(&["127.0.0.1", "fe80::1"])), all(&[]));
        let lost = own.note(all(&["127.0.0.1", "10.0.0.2"]));
        assert_eq!(lost, all(&["10.0.0.1", "fe80::1"]));
        assert_eq!(own.note(all(&["127.0.0.1", "10.0.0.2"])), all(&[]));
    }

    #[test]
    fn address_that_comes_back_is_not_lost() {
        let mut own = OwnAddresses::default();
        for present in [&["10.0.0.1", "::1"][..], &["::1"], &["10.0.0.1", "::1"]] {
            assert_eq!(own.note(all(present)), all(&[]), "{present:?}");
        }
    }

    #[test]
    fn lost_addresses_are_bounded() {
        let mut own = OwnAddresses::default();
        for number in 0..10_000_u32 {
            own.note([IpAddr::from(number.to_be_bytes())].into());
            own.note(all(&["::1"]));
        }
        assert!(own.lost.len() <= MAX_LOST);
    }

    #[test]
    fn connections_from_a_lost_address_are_reset_and_others_are_not() {
        // Addresses that no other test of this process connects from.
        let [lost, kept] = ["127.77.0.1", "127.77.0.2"];
        let pair = |address| {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let far = listener.accept().unwrap().0;
            far.set_nonblocking(true).unwrap();
            (listener, near, far)
        };
        let (listener, _near, mut far) = pair(lost);
        let (_other, _client, mut untouched) = pair(kept);
        assert_eq!(end_connections_from(&all(&[lost])).unwrap(), 1);
        let error = far.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let error = untouched.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert!(TcpStream::connect(listener.local_addr().unwrap()).is_ok());
    }
}
