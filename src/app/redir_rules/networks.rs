//! Networks that are redirected, or are not, whatever else holds.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::config::Config;
use crate::dns::fake::networks;

/// Networks that are not redirected: this machine, private networks, link-local, multicast and reserved addresses.
pub(super) const PRIVATE_V4: [&str; 10] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
];
/// The same for IPv6.
pub(super) const PRIVATE_V6: [&str; 4] = ["::/127", "fc00::/7", "fe80::/10", "ff00::/8"];

/// What matches packets to the addresses of `fake-dns`, which are redirected although they are private ones.
pub(super) fn fakes(config: &Config) -> BTreeSet<String> {
    let all = config.locals.iter().filter_map(|one| one.fake_dns.as_ref());
    let all = all.flat_map(|fake| networks(&fake.names));
    all.map(|network| match network {
        IpNet::V4(network) => format!("ip daddr {network}"),
        IpNet::V6(network) => format!("ip6 daddr {network}"),
    })
    .collect()
}
