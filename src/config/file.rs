//! The file as written: every key that has a meaning today, typed but not yet judged.
//!
//! All is optional: what a missing key means is decided where the file gets its meaning. Keys of features
//! that are still to come, aliases and keys without effect are in [`super::schema`].

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::scalar::{List, Number, Strings, TlsForm, UrlOr};
use super::secret::Secret;
use crate::outbound::warm::WarmPolicy;

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Top {
    pub(super) server: Option<Strings>,
    pub(super) server_port: Option<Number<u16>>,
    pub(super) password: Option<Secret>,
    pub(super) method: Option<String>,
    pub(super) users: Option<List<User>>,
    pub(super) remarks: Option<String>,
    pub(super) id: Option<String>,
    // shadowsocks-libev
    pub(super) key: Option<Secret>,
    pub(super) port_password: Option<BTreeMap<String, Option<Secret>>>,
    pub(super) nameserver: Option<String>,
    pub(super) mtu: Option<Number<u64>>,
    pub(super) reuse_port: Option<bool>,
    pub(super) local_ipv4_address: Option<String>,
    pub(super) local_ipv6_address: Option<String>,
    pub(super) tcp_incoming_sndbuf: Option<Number<u32>>,
    pub(super) tcp_incoming_rcvbuf: Option<Number<u32>>,
    pub(super) tcp_outgoing_sndbuf: Option<Number<u32>>,
    pub(super) tcp_outgoing_rcvbuf: Option<Number<u32>>,
    // the shorthand of locals[0]
    pub(super) local_address: Option<String>,
    pub(super) local_port: Option<Number<u16>>,
    pub(super) protocol: Option<String>,
    pub(super) servers: Option<List<Server>>,
    pub(super) locals: Option<List<Local>>,
    pub(super) forwards: Option<List<Forward>>,
    pub(super) mode: Option<String>,
    pub(super) timeout: Option<Number<u64>>,
    pub(super) udp_timeout: Option<Number<u64>>,
    pub(super) udp_max_associations: Option<Number<u64>>,
    pub(super) udp_mtu: Option<Number<u64>>,
    pub(super) dns: Option<Value>,
    pub(super) dns_cache_size: Option<Number<u64>>,
    pub(super) no_delay: Option<bool>,
    pub(super) fast_open: Option<bool>,
    pub(super) mptcp: Option<bool>,
    pub(super) keep_alive: Option<Number<u64>>,
    pub(super) ipv6_first: Option<bool>,
    pub(super) ipv6_only: Option<bool>,
    pub(super) nofile: Option<Number<u64>>,
    pub(super) outbound_fwmark: Option<Number<u32>>,
    pub(super) outbound_bind_addr: Option<String>,
    pub(super) outbound_bind_interface: Option<String>,
    pub(super) outbound_udp_allow_fragmentation: Option<bool>,
    pub(super) inbound_udp_allow_fragmentation: Option<bool>,
    pub(super) security: Option<Security>,
    pub(super) log: Option<Log>,
    pub(super) runtime: Option<Runtime>,
    // ssr
    pub(super) reverse: Option<Reverse>,
    pub(super) timeouts: Option<Timeouts>,
    pub(super) limits: Option<Limits>,
    pub(super) workers: Option<Number<u64>>,
    pub(super) deny_private: Option<bool>,
    pub(super) warm_connections: Option<WarmPolicy>,
    pub(super) transport: Option<Transport>,
    pub(super) plugin: Option<String>,
    pub(super) plugin_opts: Option<String>,
    pub(super) plugin_args: Option<Value>,
    pub(super) first_payload_wait_ms: Option<Number<u64>>,
    pub(super) inbound_send_buffer_size: Option<Number<u32>>,
    pub(super) inbound_recv_buffer_size: Option<Number<u32>>,
    pub(super) outbound_send_buffer_size: Option<Number<u32>>,
    pub(super) outbound_recv_buffer_size: Option<Number<u32>>,
}

/// An entry of `servers`; the top level is one too.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Server {
    pub(super) server: Option<Strings>,
    pub(super) server_port: Option<Number<u16>>,
    pub(super) password: Option<Secret>,
    pub(super) key: Option<Secret>,
    pub(super) method: Option<String>,
    pub(super) users: Option<List<User>>,
    pub(super) disabled: Option<bool>,
    pub(super) timeout: Option<Number<u64>>,
    pub(super) remarks: Option<String>,
    pub(super) id: Option<String>,
    pub(super) mode: Option<String>,
    pub(super) tcp_weight: Option<f64>,
    pub(super) udp_weight: Option<f64>,
    pub(super) outbound_fwmark: Option<Number<u32>>,
    pub(super) outbound_bind_addr: Option<String>,
    pub(super) outbound_bind_interface: Option<String>,
    pub(super) outbound_udp_allow_fragmentation: Option<bool>,
    pub(super) inbound_udp_allow_fragmentation: Option<bool>,
    pub(super) plugin: Option<String>,
    pub(super) plugin_opts: Option<String>,
    pub(super) plugin_args: Option<Value>,
    // ssr
    pub(super) warm_connections: Option<WarmPolicy>,
    pub(super) transport: Option<Transport>,
}

/// `transport`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Transport {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) path: Option<String>,
    pub(super) host: Option<String>,
    pub(super) headers: Option<BTreeMap<String, String>>,
    pub(super) tls: Option<TlsForm>,
    pub(super) mux: Option<Number<u64>>,
    pub(super) udp_over: Option<String>,
    pub(super) trusted_proxies: Option<Strings>,
}

/// `transport.tls`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tls {
    pub(super) server_name: Option<String>,
    pub(super) ca: Option<String>,
    pub(super) cert: Option<String>,
    pub(super) key: Option<String>,
    pub(super) pin_sha256: Option<Strings>,
    pub(super) insecure: Option<bool>,
}

/// An entry of `users`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct User {
    pub(super) name: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) server: Option<String>,
    pub(super) server_port: Option<Number<u16>>,
}

/// An entry of `locals`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Local {
    pub(super) local_address: Option<String>,
    pub(super) local_port: Option<Number<u16>>,
    pub(super) local_udp_address: Option<String>,
    pub(super) local_udp_port: Option<Number<u16>>,
    pub(super) udp_associate_addr: Option<String>,
    pub(super) disabled: Option<bool>,
    pub(super) mode: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) socks5_auth_config_path: Option<String>,
}

/// An entry of `forwards`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Forward {
    pub(super) listen: Option<UrlOr<Endpoint>>,
    pub(super) target: Option<UrlOr<Endpoint>>,
    pub(super) disabled: Option<bool>,
}

/// A side of a forward: its URL, and what else could stand in it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Endpoint {
    pub(super) url: Option<String>,
    pub(super) host: Option<String>,
    pub(super) headers: Option<BTreeMap<String, Option<String>>>,
    pub(super) tls: Option<ForwardTls>,
}

/// `tls` of a side of a forward.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ForwardTls {
    pub(super) server_name: Option<String>,
    pub(super) ca: Option<String>,
    pub(super) cert: Option<String>,
    pub(super) key: Option<String>,
    pub(super) pin_sha256: Option<String>,
    pub(super) insecure: Option<bool>,
}

/// `security`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Security {
    pub(super) replay_attack: Option<ReplayAttack>,
}

/// `security.replay_attack`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ReplayAttack {
    pub(super) policy: Option<String>,
}

/// `log`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Log {
    pub(super) level: Option<Number<u32>>,
    pub(super) format: Option<Format>,
    pub(super) writers: Option<List<Writer>>,
}

/// `format` of `log` and of each of its writers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Format {
    pub(super) without_time: Option<bool>,
}

/// An entry of `log.writers`: exactly one of these.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Writer {
    pub(super) console: Option<Console>,
    pub(super) file: Option<LogFile>,
    pub(super) syslog: Option<Syslog>,
}

/// `log.writers[].console`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Console {
    pub(super) level: Option<Number<u32>>,
    pub(super) format: Option<Format>,
}

/// `log.writers[].file`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LogFile {
    pub(super) level: Option<Number<u32>>,
    pub(super) format: Option<Format>,
    pub(super) directory: Option<String>,
    pub(super) rotation: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) suffix: Option<String>,
    pub(super) max_files: Option<Number<u64>>,
}

/// `log.writers[].syslog`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Syslog {
    pub(super) level: Option<Number<u32>>,
    pub(super) format: Option<Format>,
    pub(super) identity: Option<String>,
    pub(super) facility: Option<Number<u32>>,
}

/// `runtime`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Runtime {
    pub(super) mode: Option<String>,
    pub(super) worker_count: Option<Number<u64>>,
}

/// `timeouts`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Timeouts {
    pub(super) handshake: Option<Number<u64>>,
    pub(super) connect: Option<Number<u64>>,
    pub(super) idle: Option<Number<u64>>,
    pub(super) half_close: Option<Number<u64>>,
}

/// `limits`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Limits {
    pub(super) connections: Option<Number<u64>>,
    pub(super) udp_associations: Option<Number<u64>>,
    pub(super) handshakes: Option<Number<u64>>,
    pub(super) memory_mib: Option<Number<u64>>,
}

/// `reverse`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Reverse {
    pub(super) services: Option<List<Service>>,
    pub(super) links: Option<Number<u64>>,
    pub(super) allow: Option<List<Allow>>,
    pub(super) heartbeat: Option<Number<u64>>,
}

/// An entry of `reverse.services`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Service {
    pub(super) name: Option<String>,
    pub(super) bind: Option<String>,
    pub(super) target: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) host: Option<String>,
    pub(super) proxy_protocol: Option<String>,
    pub(super) group: Option<bool>,
    pub(super) disabled: Option<bool>,
}

/// An entry of `reverse.allow`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Allow {
    pub(super) user: Option<String>,
    pub(super) bind: Option<String>,
    pub(super) host: Option<String>,
    pub(super) protocol: Option<String>,
}
