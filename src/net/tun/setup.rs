//! Sets up a device, and finds the addresses of one that another program has set up (rtnetlink).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::{LinkUnspec, RouteMessageBuilder};

use super::device::Opened;
use super::ends::Ends;
use crate::net::netlink::{Netlink, error, own, peer};

/// Gives a device its addresses and its MTU, and switches it on. Without `mtu` and for those addresses that it has, nothing
/// changes.
///
/// # Errors
/// What the system says.
pub async fn configure(device: &Opened, ends: &[Ends], mtu: Option<u32>) -> io::Result<()> {
    let netlink = Netlink::open()?;
    let handle = &netlink.handle;
    let link = LinkUnspec::new_with_index(device.index);
    let link = match mtu {
        Some(mtu) => link.mtu(mtu),
        None => link,
    };
    handle
        .link()
        .set(link.up().build())
        .execute()
        .await
        .map_err(error)?;
    for ends in ends {
        let mut address = handle.address().add(device.index, ends.own, ends.prefix);
        // Nobody else is on a device of packets, and we listen at once (RFC 4862 §5.4).
        address.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        address.replace().execute().await.map_err(error)?;
        let is_inside =
            IpNet::new(ends.own, ends.prefix).is_ok_and(|net| net.contains(&ends.other));
        if is_inside {
            continue;
        }
        let route = match ends.other {
            IpAddr::V4(other) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(other, 32)
                .output_interface(device.index)
                .build(),
            IpAddr::V6(other) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(other, 128)
                .output_interface(device.index)
                .build(),
        };
        let route = handle.route().add(route).replace();
        route.execute().await.map_err(error)?;
    }
    Ok(())
}

/// The addresses of a device that another program has set up, at most one of each IP version.
///
/// # Errors
/// What the system says.
pub async fn ends_of(device: &Opened) -> io::Result<Vec<Ends>> {
    let netlink = Netlink::open()?;
    let mut found: Vec<Ends> = Vec::new();
    let query = netlink.handle.address().get();
    let mut all = std::pin::pin!(query.set_link_index_filter(device.index).execute());
    while let Some(message) = all.try_next().await.map_err(error)? {
        let peer = peer(&message.attributes);
        let Some(ip) = own(&message.attributes).filter(|ip| !is_link_local(*ip)) else {
            continue;
        };
        let Ok(net) = IpNet::new(ip, message.header.prefix_len) else {
            continue;
        };
        if let Some(ends) = Ends::of(net, peer)
            && !found
                .iter()
                .any(|other| other.own.is_ipv4() == ip.is_ipv4())
        {
            found.push(ends);
        }
    }
    Ok(found)
}

const fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
