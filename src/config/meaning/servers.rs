//! `servers`, and the server at the top level: addresses and options. Passwords are in [`super::keys`].

use crate::crypto::{Family, Method};
use crate::limits::MAX_WARM;
use crate::outbound::shadowsocks::Weights;
use crate::outbound::warm::WarmPolicy;
use crate::wire::address::Address;

use super::between::ProxyHop;
use super::context::{Context, host_address, key_at, refuse_same_address};
use super::model::{Mode, Server, SocketOptions};
use super::{
    keys, manager, multiplex, options, program, proxies, quic, rules, transport, udp_over_tcp,
};
use crate::config::role::Role;
use crate::config::secret::Secret;
use crate::config::written::file::{self, Top};
use crate::config::written::scalar::{Number, Strings};

/// The default of shadowsocks-libev.
const DEFAULT_METHOD: Method = Method::ChaCha20Poly1305;

/// Every server that is not disabled; at least one, or it is an error, unless a manager adds some.
pub(super) fn servers(
    top: &Top,
    mode: Mode,
    socket: &SocketOptions,
    cx: &mut Context<'_>,
) -> Vec<Server> {
    let mut found = Vec::new();
    let proxies = proxies::chain(top.outbound_proxy.as_ref(), "outbound_proxy", cx);
    let listed = top.servers.as_deref().unwrap_or_default();
    // Alone, it is the address of what a manager adds.
    let manages = manager::is_set(top, cx.role);
    let shorthand = (top.server.is_some() && !manages)
        || top.server_port.is_some()
        || top.password.is_some()
        || top.key.is_some()
        || top.port_password.is_some();
    if shorthand {
        let ports = port_passwords(top, cx);
        let defaults = Defaults {
            mode,
            socket,
            clients: mode,
            proxies: &proxies,
        };
        found.extend(entry_servers(&top_entry(top), "", &defaults, &ports, cx));
    } else if let Some(orphan) = [
        ("method", top.method.is_some()),
        ("users", top.users.is_some()),
    ]
    .into_iter()
    .find_map(|(key, given)| given.then_some(key))
        && !listed.is_empty()
    {
        cx.report
            .warn(orphan, "no effect at the top level without `server`");
    }
    let own_mode = match cx.role {
        Role::Server => mode,
        // The mode of the client's listeners says nothing about the server.
        Role::Local | Role::Forward => Mode::TCP_AND_UDP,
    };
    let defaults = Defaults {
        mode: own_mode,
        socket,
        clients: mode,
        proxies: &proxies,
    };
    for (index, entry) in listed.iter().enumerate() {
        if entry.disabled != Some(true) {
            let at = format!("servers[{index}]");
            found.extend(entry_servers(entry, &at, &defaults, &[], cx));
        }
    }
    let online = top.online_config.as_ref();
    let subscribes =
        cx.role == Role::Local && online.is_some_and(|online| online.config_url.is_some());
    if !shorthand
        && !subscribes
        && !manages
        && listed.iter().all(|entry| entry.disabled == Some(true))
    {
        let message = if listed.is_empty() {
            "no servers"
        } else {
            "every server is disabled"
        };
        if top.forwards.as_deref().unwrap_or_default().is_empty() {
            cx.report.error_hint(
                "servers",
                message,
                "add `server`, `server_port`, `password` and `method`",
            );
        } else {
            cx.report.error_other_role(
                "servers",
                message,
                "to run the forwards without a server, use `ssr forward -c FILE`",
            );
        }
    }
    if cx.role == Role::Server {
        let listeners = found.iter().flat_map(|(path, server)| {
            let is_quic = server.is_quic();
            let is_tcp = !is_quic || server.beside_quic().is_some();
            let (tcp, udp) = (server.mode.tcp && is_tcp, server.mode.udp || is_quic);
            let uses = [(tcp, "TCP"), (udp, "UDP")];
            uses.into_iter()
                .filter(|(used, _)| *used)
                .map(|(_, transport)| (path.clone(), &server.address, transport))
        });
        refuse_same_address(listeners, cx);
    }
    found.into_iter().map(|(_, server)| server).collect()
}

/// The top level as an entry of `servers`.
fn top_entry(top: &Top) -> file::Server {
    file::Server {
        server: top.server.clone(),
        server_port: top.server_port,
        password: top.password.clone(),
        key: top.key.clone(),
        method: top.method.clone(),
        users: top.users.clone(),
        remarks: top.remarks.clone(),
        id: top.id.clone(),
        warm_connections: top.warm_connections,
        transport: top.transport.clone(),
        udp_over_tcp: top.udp_over_tcp.clone(),
        multiplex: top.multiplex.clone(),
        plugin: top.plugin.clone(),
        plugin_opts: top.plugin_opts.clone(),
        plugin_args: top.plugin_args.clone(),
        plugin_mode: top.plugin_mode.clone(),
        ..file::Server::default()
    }
}

/// `port_password`: for the server, one server per port; for the client, used if `server_port` or `password` is missing.
fn port_passwords(top: &Top, cx: &mut Context<'_>) -> Vec<(u16, String, Secret)> {
    let Some(written) = &top.port_password else {
        return Vec::new();
    };
    let single = top.server_port.is_some() && (top.password.is_some() || top.key.is_some());
    match (cx.role, single) {
        (Role::Local, true) => return Vec::new(),
        (Role::Server, true) if !written.is_empty() => cx.report.warn(
            "server_port",
            "no effect for the server: `port_password` lists its ports",
        ),
        _ => {}
    }
    let mut ports = Vec::new();
    for (port, password) in written {
        let path = format!("port_password.{port}");
        match port.parse::<u16>() {
            Ok(number) if number > 0 => {
                ports.push((number, path, password.clone().unwrap_or_default()))
            }
            _ => cx.report.error(&path, "not a port: use 1 to 65535"),
        }
    }
    ports
}

/// What an entry inherits.
struct Defaults<'a> {
    mode: Mode,
    socket: &'a SocketOptions,
    /// What the clients of this process may use, where no entry says otherwise.
    clients: Mode,
    proxies: &'a [ProxyHop],
}

/// One server per address of the entry at `at`, and per port in `ports` if there are any, each with the path to blame.
fn entry_servers(
    entry: &file::Server,
    at: &str,
    defaults: &Defaults<'_>,
    ports: &[(u16, String, Secret)],
    cx: &mut Context<'_>,
) -> Vec<(String, Server)> {
    let mode = cx.mode(&key_at(at, "mode"), entry.mode.as_deref(), defaults.mode);
    let plugin = program::program(entry, at, mode, cx);
    let proxies = proxies::proxies(entry, at, defaults.proxies, cx);
    let transport = transport::transport(entry, at, cx);
    let udp_over_tcp = udp_over_tcp::version(entry, at, transport.as_ref(), mode, cx);
    let multiplex = multiplex::multiplex(entry, at, transport.as_ref(), mode, cx);
    let inside = transport.as_ref().is_some_and(|layers| layers.udp_inside);
    let mode = if inside || udp_over_tcp.is_some() || multiplex.is_some() {
        mode
    } else {
        proxies::mode(
            &proxies,
            entry.mode.is_some() || defaults.clients.udp,
            mode,
            cx,
        )
    };
    proxies::refuse_plugin(&proxies, plugin.as_ref(), cx);
    quic::refuse_proxies(&proxies, transport.as_ref(), cx);
    quic::refuse_mode(mode, transport.as_ref(), at, cx);
    let tcp = weight(entry.tcp_weight, &key_at(at, "tcp_weight"), cx);
    let udp = weight(entry.udp_weight, &key_at(at, "udp_weight"), cx);
    let weights = Weights {
        tcp: mode.tcp.then_some(tcp),
        udp: mode.udp.then_some(udp),
    };
    let is_quic = transport
        .as_ref()
        .is_some_and(|layers| layers.quic.is_some());
    let warm = match multiplex {
        // Sessions take their place.
        Some(_) => WarmPolicy::Count(0),
        None if is_quic => WarmPolicy::Count(0),
        None => warm(entry, at, cx),
    };
    let acl = rules::acl_file(entry.acl.as_deref(), at);
    let socket = options::socket_of(entry, at, defaults.socket, cx);
    let idle = match at {
        "" => None,
        _ => cx.seconds(&key_at(at, "timeout"), entry.timeout),
    };
    let method = method(entry, at, cx);
    let secrets = match ports {
        [] => vec![(
            entry.server_port,
            key_at(at, "password"),
            entry.password.clone(),
        )],
        _ => ports
            .iter()
            .map(|(port, path, secret)| (Some(Number(*port)), path.clone(), Some(secret.clone())))
            .collect(),
    };
    let mut found = Vec::new();
    for (port, path, secret) in secrets {
        let addresses = addresses(entry, at, port, cx);
        let password = secret.clone();
        let keys = method.and_then(|method| keys::keys(entry, method, &path, secret, cx));
        let (Some(method), Some(keys)) = (method, keys) else {
            continue;
        };
        let users = keys::users(entry, at, method, &keys, cx);
        let (keys, users) = match cx.role {
            Role::Server => (keys, users),
            Role::Local | Role::Forward => (
                keys::as_first_user(keys, method, &users, at, cx),
                Vec::new(),
            ),
        };
        let several = addresses.len() > 1 || !ports.is_empty();
        found.extend(addresses.into_iter().map(|(blame, address)| {
            let server = Server {
                name: name(entry, &address, several),
                address,
                method,
                keys: keys.clone(),
                password: password.clone(),
                mode,
                users: users.clone(),
                warm,
                weights,
                socket: socket.clone(),
                idle,
                transport: transport.clone(),
                udp_over_tcp,
                multiplex,
                plugin: plugin.clone(),
                proxies: proxies.clone(),
                acl: acl.clone(),
                rules: None,
            };
            (blame, server)
        }));
    }
    found
}

fn name(entry: &file::Server, address: &Address, several: bool) -> String {
    let given = [&entry.remarks, &entry.id]
        .into_iter()
        .flatten()
        .find(|name| !name.is_empty());
    match given {
        Some(name) if several => format!("{name} ({address})"),
        Some(name) => name.clone(),
        None => address.to_string(),
    }
}

fn warm(entry: &file::Server, at: &str, cx: &mut Context<'_>) -> WarmPolicy {
    let policy = entry.warm_connections.unwrap_or(WarmPolicy::Auto);
    if let WarmPolicy::Count(count) = policy
        && count > MAX_WARM
    {
        let path = key_at(at, "warm_connections");
        let message = format!("{count} is out of range: use 0 to {MAX_WARM}, or \"auto\"");
        cx.report.error(&path, message);
    }
    policy
}

fn weight(written: Option<f64>, path: &str, cx: &mut Context<'_>) -> f64 {
    let weight = written.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&weight) {
        cx.report.error(path, "a weight must be from 0 to 1");
    }
    weight
}

fn method(entry: &file::Server, at: &str, cx: &mut Context<'_>) -> Option<Method> {
    let path = key_at(at, "method");
    let Some(name) = &entry.method else {
        cx.report.warn_hint(
            &path,
            format!("missing: {DEFAULT_METHOD} is used, as in shadowsocks-libev"),
            "both sides must use the same method",
        );
        return Some(DEFAULT_METHOD);
    };
    match name.parse::<Method>() {
        Ok(method) => {
            if method.family() == Family::Plain {
                cx.report.warn(
                    &path,
                    "no encryption: anybody on the path can read the traffic, and anybody who finds the port can use it",
                );
            }
            Some(method)
        }
        Err(error) => {
            cx.report.error(&path, error.to_string());
            None
        }
    }
}

/// The addresses of the entry, each with the path to blame.
fn addresses(
    entry: &file::Server,
    at: &str,
    port: Option<Number<u16>>,
    cx: &mut Context<'_>,
) -> Vec<(String, Address)> {
    let written = entry.server.clone().unwrap_or_default();
    let path = key_at(at, "server");
    let port = match port {
        Some(Number(0)) => {
            let path = key_at(at, "server_port");
            cx.report
                .error_hint(&path, "port 0 cannot be connected to", "use 1 to 65535");
            return Vec::new();
        }
        Some(Number(port)) => Some(port),
        None => None,
    };
    let hosts = match (cx.role, &written) {
        (_, Strings { items, .. }) if !items.is_empty() => written,
        // The default of shadowsocks-libev.
        (Role::Server, _) if at.is_empty() => Strings {
            items: vec!["0.0.0.0".to_owned()],
            array: false,
        },
        _ => {
            cx.report.error(&path, "missing: the server's address");
            return Vec::new();
        }
    };
    let mut addresses = Vec::new();
    for (index, host) in hosts.items.iter().enumerate() {
        let path = hosts.path_of(&path, index);
        let Some(address) = address(at, &path, host, port, cx) else {
            continue;
        };
        // In an array, the port beside is that of the hosts without one.
        if let Some(port) = port
            && port != address.port()
            && !hosts.array
        {
            let message = format!(
                "the address has port {} of its own, so `server_port` {port} has no effect",
                address.port()
            );
            cx.report
                .warn_hint(&path, message, "remove one of the two ports");
        }
        addresses.push((path, address));
    }
    addresses
}

fn address(
    at: &str,
    path: &str,
    host: &str,
    port: Option<u16>,
    cx: &mut Context<'_>,
) -> Option<Address> {
    let port_path = key_at(at, "server_port");
    let Some(address) = host_address(path, host, port, cx) else {
        if port.is_none() && !at.is_empty() && host.is_empty() {
            cx.report.error(&port_path, "missing: the server's port");
        }
        return None;
    };
    if address.port() == 0 {
        cx.report.error(&port_path, "missing: the server's port");
        return None;
    }
    if cx.role == Role::Local
        && let Address::Ip(ip) = &address
        && ip.ip().is_unspecified()
    {
        cx.report.error_other_role(
            path,
            format!("{} is an address to listen on, not to connect to", ip.ip()),
            "use the server's public address or name",
        );
        return None;
    }
    Some(address)
}
