//! Asks the kernel about links, addresses and routes (rtnetlink).

use std::io;
use std::net::IpAddr;

use rtnetlink::Handle;
use rtnetlink::packet_route::address::AddressAttribute;

use super::tasks::Tasks;

/// A connection to the kernel, until it is dropped.
pub(super) struct Netlink {
    pub(super) handle: Handle,
    _connection: Tasks,
}

impl Netlink {
    /// On the reactor of this thread.
    pub(super) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let tasks = Tasks::default();
        tasks.spawn(connection);
        Ok(Self {
            handle,
            _connection: tasks,
        })
    }
}

/// What the system said.
pub(super) fn error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

/// The machine's own address. `Local` is that one where `Address` is the address of the other end (`ifa_address`).
pub(super) fn own(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let local = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    local.or_else(|| peer(attributes))
}

/// The address of the other end, or the own one where there is no other end.
pub(super) fn peer(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_of_the_other_end_is_not_ours() {
        let [near, far] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let both = [
            AddressAttribute::Address(far),
            AddressAttribute::Local(near),
        ];
        assert_eq!((own(&both), peer(&both)), (Some(near), Some(far)));
        assert_eq!(own(&both[..1]), Some(far));
        assert_eq!(own(&[]), None);
    }
}
