//! Which process has a port, and how many files it has open: from /proc.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Processes that are looked at.
const MAX_PROCESSES: usize = 16_384;
/// Files of one process that are looked at.
const MAX_FILES: usize = 65_536;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) id: u32,
    pub(super) name: String,
}

/// The process that listens where `address` could not be bound, if this user may see it.
pub(super) fn of(address: SocketAddr, is_udp: bool) -> Option<Owner> {
    let tables = match is_udp {
        true => ["/proc/net/udp", "/proc/net/udp6"],
        false => ["/proc/net/tcp", "/proc/net/tcp6"],
    };
    let text = |table| fs::read_to_string(table).unwrap_or_default();
    let inodes: Vec<String> = tables
        .into_iter()
        .flat_map(|table| {
            let text = text(table);
            let lines = text.lines().skip(1);
            let found = lines.filter_map(|line| holder(line, address, is_udp));
            found.map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    process(&inodes)
}

/// The inode of the socket of a line, if it stands in the way of `address`.
fn holder(line: &str, address: SocketAddr, is_udp: bool) -> Option<&str> {
    /// The state of listeners.
    const LISTEN: &str = "0A";
    let mut words = line.split_whitespace().skip(1);
    let local = parse(words.next()?)?;
    let state = words.nth(1)?;
    let same = local.port() == address.port()
        && (local.ip() == address.ip()
            || local.ip().is_unspecified()
            || address.ip().is_unspecified());
    (same && (is_udp || state == LISTEN)).then(|| words.nth(5))?
}

/// An address as the kernel writes it: words in the order of the machine, in hexadecimal digits.
fn parse(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok();
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?.to_ne_bytes()).into(),
        32 => {
            let mut bytes = [0; 16];
            for (index, place) in bytes.chunks_exact_mut(4).enumerate() {
                place.copy_from_slice(&word(8 * index)?.to_ne_bytes());
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some((ip, u16::from_str_radix(port, 16).ok()?).into())
}

/// The process that has one of these sockets open.
fn process(inodes: &[String]) -> Option<Owner> {
    if inodes.is_empty() {
        return None;
    }
    let links: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").ok()?.flatten().take(MAX_PROCESSES);
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for id in ids {
        let Ok(files) = fs::read_dir(format!("/proc/{id}/fd")) else {
            continue;
        };
        let has = files.flatten().take(MAX_FILES).any(|file| {
            let link = fs::read_link(file.path());
            link.is_ok_and(|link| links.iter().any(|one| link.as_os_str() == one.as_str()))
        });
        if has {
            let name = fs::read_to_string(format!("/proc/{id}/comm")).ok()?;
            let name = name.trim().to_owned();
            return Some(Owner { id, name });
        }
    }
    None
}

/// How many files a process has open, and how many it may have.
pub(super) fn files(id: u32) -> Option<(u64, u64)> {
    let open = fs::read_dir(format!("/proc/{id}/fd")).ok()?.count();
    let limits = fs::read_to_string(format!("/proc/{id}/limits")).ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let limit = line.split_whitespace().next()?.parse().ok()?;
    Some((u64::try_from(open).ok()?, limit))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_process_that_listens_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let owner = of(listener.local_addr().unwrap(), false).unwrap();
        assert_eq!(owner.id, std::process::id());
        let socket = std::net::UdpSocket::bind("[::1]:0").unwrap();
        let owner = of(socket.local_addr().unwrap(), true).unwrap();
        assert_eq!(owner.id, std::process::id());
        let (open, limit) = files(owner.id).unwrap();
        assert!(open > 2 && open < limit);
    }

    #[test]
    fn nobody_has_a_free_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(of(address, false), None);
    }
}
