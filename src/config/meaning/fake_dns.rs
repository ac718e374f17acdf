//! The networks and the file of a `fake-dns` local.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::context::{Context, key_at};
use super::model::{FakeDns, Local};
use crate::config::written::file;
use crate::dns::fake::{Settings, networks};

/// What holds where the config does not say; as in shadowsocks-rust.
const LIFETIME: Duration = Duration::from_secs(10);
const V4: (u32, u8) = (0xac10_0000, 12);
const V6: (u128, u8) = (0xfc00 << 112, 7);
const FILE: &str = "shadowsocks-fakedns.sled";

/// The settings of the entry at `at`.
pub(super) fn fake_dns(entry: &file::Local, at: &str, cx: &mut Context<'_>) -> FakeDns {
    let path = key_at(at, "fake_dns_record_expire_duration");
    let lifetime = cx.seconds(&path, entry.fake_dns_record_expire_duration);
    let v4 = match network(
        entry.fake_dns_ipv4_network.as_deref(),
        &key_at(at, "fake_dns_ipv4_network"),
        "10.128.0.0/12",
        cx,
    ) {
        Some(IpNet::V4(network)) => network,
        _ => Ipv4Net::new(V4.0.into(), V4.1).unwrap_or_default(),
    };
    let v6 = match network(
        entry.fake_dns_ipv6_network.as_deref(),
        &key_at(at, "fake_dns_ipv6_network"),
        "fd12:3456:789a::/96",
        cx,
    ) {
        Some(IpNet::V6(network)) => network,
        _ => Ipv6Net::new(V6.0.into(), V6.1).unwrap_or_default(),
    };
    let file = entry.fake_dns_database_path.as_deref();
    FakeDns {
        names: Settings {
            v4,
            v6,
            lifetime: lifetime.unwrap_or(LIFETIME),
        },
        file: PathBuf::from(file.filter(|path| !path.is_empty()).unwrap_or(FILE)),
    }
}

/// The network at `path`, of the IP version that `example` has.
fn network(
    written: Option<&str>,
    path: &str,
    example: &str,
    cx: &mut Context<'_>,
) -> Option<IpNet> {
    let text = written.filter(|text| !text.is_empty())?;
    let is_v6 = example.contains(':');
    let found = text.trim().parse::<IpNet>().ok();
    let found = found.filter(|network| matches!(network, IpNet::V6(_)) == is_v6);
    if found.is_none() {
        let version = if is_v6 { "IPv6" } else { "IPv4" };
        let message = format!("`{text}`: not an {version} network");
        let hint = format!("write the address and the length of its prefix, as in `{example}`");
        cx.report.error_hint(path, message, hint);
    }
    found.map(|network| network.trunc())
}

/// Reports entries that would hand out the same addresses, or write the same file. Entries that agree in everything share
/// their names.
pub(super) fn refuse_conflicts(locals: &[(String, Local)], cx: &mut Context<'_>) {
    let mut known: Vec<(&str, &FakeDns)> = Vec::new();
    for (at, local) in locals {
        let Some(fake) = &local.fake_dns else {
            continue;
        };
        for (other_at, other) in known.iter().filter(|(_, other)| *other != fake) {
            let overlaps = |network: &IpNet| {
                let others = networks(&other.names);
                let is_inside = |one: &IpNet| one.contains(network) || network.contains(one);
                others.iter().any(is_inside)
            };
            let (key, what) = if other.file == fake.file {
                ("fake_dns_database_path", "file")
            } else if networks(&fake.names).iter().any(overlaps) {
                ("protocol", "addresses")
            } else {
                continue;
            };
            let message = format!("`fake-dns` with the same {what} as `{other_at}`");
            let hint = "entries may agree in all `fake_dns_…` keys, and then share their names; else give each networks and a file of its own";
            cx.report.error_hint(&key_at(at, key), message, hint);
        }
        known.push((at, fake));
    }
}
