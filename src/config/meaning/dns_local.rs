//! The name servers of a `dns` local.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::wire::address::Address;

use super::context::{Context, host_address, key_at};
use super::model::DnsLocal;
use crate::config::written::file;
use crate::config::written::scalar::Number;

/// The port of DNS.
pub(super) const PORT: u16 = 53;
/// The name server that is asked through the server where the config names none.
const REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8));
/// How many connections to a name server are kept where the config does not say; as in shadowsocks-rust.
const STREAMS: usize = 5;

/// The name servers of the entry at `at`. If only a direct one is named, there is no other.
pub(super) fn name_servers(entry: &file::Local, at: &str, cx: &mut Context<'_>) -> DnsLocal {
    let local = entry
        .local_dns_address
        .as_deref()
        .filter(|text| !text.is_empty());
    let remote = entry
        .remote_dns_address
        .as_deref()
        .filter(|text| !text.is_empty());
    let local_port = port(entry.local_dns_port, "local_dns_port", at, cx);
    let remote_port = port(entry.remote_dns_port, "remote_dns_port", at, cx);
    let remote = match (remote, local) {
        (Some(text), _) => {
            let path = key_at(at, "remote_dns_address");
            host_address(&path, text, Some(remote_port), cx)
        }
        (None, Some(_)) => None,
        (None, None) => Some(Address::Ip((REMOTE, remote_port).into())),
    };
    let local = local.and_then(|text| direct(text, local_port, at, cx));
    if entry.socks5_auth_config_path.is_some() {
        let path = key_at(at, "socks5_auth_config_path");
        cx.report.warn(&path, "no effect: DNS has no logins");
    }
    let path = key_at(at, "client_cache_size");
    let streams = cx.count(&path, entry.client_cache_size);
    DnsLocal {
        local,
        remote,
        streams: streams.unwrap_or(STREAMS),
    }
}

fn port(written: Option<Number<u16>>, key: &str, at: &str, cx: &mut Context<'_>) -> u16 {
    let Number(port) = written.unwrap_or(Number(PORT));
    if port == 0 {
        let path = key_at(at, key);
        cx.report
            .error_hint(&path, "port 0 cannot be connected to", "use 1 to 65535");
    }
    port
}

/// The name server that is asked directly. A name would need another name server, and shadowsocks-rust takes what is not
/// an IP address for the path of a socket.
fn direct(text: &str, port: u16, at: &str, cx: &mut Context<'_>) -> Option<SocketAddr> {
    let text = text.trim();
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some((ip, port).into());
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address);
    }
    let message = if text.contains('/') {
        "a unix socket cannot be asked: not yet in this version of ssr"
    } else {
        "must be the IP address of a name server"
    };
    let path = key_at(at, "local_dns_address");
    cx.report
        .error_hint(&path, message, "use an IP address, such as `192.0.2.53`");
    None
}
