//! The file as written: every supported key with its type, not yet validated.
//!
//! Every key is optional; defaults are filled in by the translation. Aliases, unsupported keys and keys without effect
//! are in [`super::schema`].

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::scalar::{List, NameOr, Number, ProbeTarget, Strings, Switch, UrlOr};
use crate::config::links::Links;
use crate::config::secret::Secret;
use crate::outbound::warm::WarmPolicy;

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Top {
    pub(crate) server: Option<Strings>,
    pub(crate) server_port: Option<Number<u16>>,
    pub(crate) password: Option<Secret>,
    pub(crate) method: Option<String>,
    pub(crate) users: Option<List<User>>,
    pub(crate) remarks: Option<String>,
    pub(crate) id: Option<String>,
    // shadowsocks-libev
    pub(crate) key: Option<Secret>,
    pub(crate) port_password: Option<BTreeMap<String, Option<Secret>>>,
    pub(crate) nameserver: Option<String>,
    pub(crate) mtu: Option<Number<u64>>,
    pub(crate) reuse_port: Option<bool>,
    pub(crate) local_ipv4_address: Option<String>,
    pub(crate) local_ipv6_address: Option<String>,
    pub(crate) tcp_incoming_sndbuf: Option<Number<u32>>,
    pub(crate) tcp_incoming_rcvbuf: Option<Number<u32>>,
    pub(crate) tcp_outgoing_sndbuf: Option<Number<u32>>,
    pub(crate) tcp_outgoing_rcvbuf: Option<Number<u32>>,
    pub(crate) user: Option<String>,
    pub(crate) tunnel_address: Option<String>,
    pub(crate) tcp_tproxy: Option<bool>,
    // shorthand for `locals[0]`
    pub(crate) local_address: Option<String>,
    pub(crate) local_port: Option<Number<u16>>,
    pub(crate) local_socket_mode: Option<String>,
    pub(crate) systemd_tcp_socket_name: Option<String>,
    pub(crate) systemd_udp_socket_name: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) servers: Option<List<Server>>,
    pub(crate) locals: Option<List<Local>>,
    pub(crate) forwards: Option<List<Forward>>,
    pub(crate) mode: Option<String>,
    pub(crate) timeout: Option<Number<u64>>,
    pub(crate) udp_timeout: Option<Number<u64>>,
    pub(crate) udp_max_associations: Option<Number<u64>>,
    pub(crate) udp_mtu: Option<Number<u64>>,
    pub(crate) dns: Option<Value>,
    pub(crate) dns_cache_size: Option<Number<u64>>,
    pub(crate) no_delay: Option<bool>,
    pub(crate) fast_open: Option<bool>,
    pub(crate) mptcp: Option<bool>,
    pub(crate) keep_alive: Option<Number<u64>>,
    pub(crate) ipv6_first: Option<bool>,
    pub(crate) ipv6_only: Option<bool>,
    pub(crate) nofile: Option<Number<u64>>,
    pub(crate) outbound_fwmark: Option<Number<u32>>,
    pub(crate) outbound_bind_addr: Option<String>,
    pub(crate) outbound_bind_interface: Option<String>,
    pub(crate) outbound_udp_allow_fragmentation: Option<bool>,
    pub(crate) inbound_udp_allow_fragmentation: Option<bool>,
    pub(crate) security: Option<Security>,
    pub(crate) log: Option<Log>,
    pub(crate) runtime: Option<Runtime>,
    // ssr
    pub(crate) acl: Option<String>,
    pub(crate) rules: Option<List<Rule>>,
    pub(crate) geoip_file: Option<String>,
    pub(crate) congestion: Option<String>,
    pub(crate) reverse: Option<Reverse>,
    pub(crate) timeouts: Option<Timeouts>,
    pub(crate) limits: Option<Limits>,
    pub(crate) balancer: Option<Switch<Balancer>>,
    pub(crate) online_config: Option<Online>,
    pub(crate) workers: Option<Number<u64>>,
    pub(crate) manager_address: Option<String>,
    pub(crate) manager_port: Option<Number<u16>>,
    pub(crate) admin: Option<Admin>,
    pub(crate) store: Option<Secret>,
    pub(crate) deny_private: Option<bool>,
    pub(crate) watch: Option<bool>,
    pub(crate) sandbox: Option<bool>,
    pub(crate) fair: Option<bool>,
    pub(crate) warm_connections: Option<WarmPolicy>,
    pub(crate) transport: Option<Transport>,
    pub(crate) udp_over_tcp: Option<Switch<UdpOverTcp>>,
    pub(crate) multiplex: Option<Multiplex>,
    pub(crate) plugin: Option<String>,
    pub(crate) plugin_opts: Option<String>,
    pub(crate) plugin_args: Option<Value>,
    pub(crate) plugin_mode: Option<String>,
    pub(crate) outbound_proxy: Option<Strings>,
    pub(crate) first_payload_wait_ms: Option<Number<u64>>,
    pub(crate) inbound_send_buffer_size: Option<Number<u32>>,
    pub(crate) inbound_recv_buffer_size: Option<Number<u32>>,
    pub(crate) outbound_send_buffer_size: Option<Number<u32>>,
    pub(crate) outbound_recv_buffer_size: Option<Number<u32>>,
}

/// An entry of `servers`, or the server at the top level.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Server {
    pub(crate) server: Option<Strings>,
    pub(crate) server_port: Option<Number<u16>>,
    pub(crate) password: Option<Secret>,
    pub(crate) key: Option<Secret>,
    pub(crate) method: Option<String>,
    pub(crate) users: Option<List<User>>,
    pub(crate) disabled: Option<bool>,
    pub(crate) timeout: Option<Number<u64>>,
    pub(crate) remarks: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) mode: Option<String>,
    pub(crate) tcp_weight: Option<f64>,
    pub(crate) udp_weight: Option<f64>,
    pub(crate) outbound_fwmark: Option<Number<u32>>,
    pub(crate) outbound_bind_addr: Option<String>,
    pub(crate) outbound_bind_interface: Option<String>,
    pub(crate) outbound_udp_allow_fragmentation: Option<bool>,
    pub(crate) inbound_udp_allow_fragmentation: Option<bool>,
    pub(crate) plugin: Option<String>,
    pub(crate) plugin_opts: Option<String>,
    pub(crate) plugin_args: Option<Value>,
    pub(crate) plugin_mode: Option<String>,
    pub(crate) outbound_proxy: Option<Strings>,
    // ssr
    pub(crate) congestion: Option<String>,
    pub(crate) warm_connections: Option<WarmPolicy>,
    pub(crate) transport: Option<Transport>,
    pub(crate) udp_over_tcp: Option<Switch<UdpOverTcp>>,
    pub(crate) multiplex: Option<Multiplex>,
    pub(crate) acl: Option<String>,
}

/// `transport`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Transport {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) headers: Option<BTreeMap<String, String>>,
    pub(crate) tls: Option<Switch<Tls>>,
    pub(crate) mux: Option<Number<u64>>,
    pub(crate) udp_over: Option<String>,
    pub(crate) alpn: Option<String>,
    pub(crate) congestion: Option<String>,
    pub(crate) trusted_proxies: Option<Strings>,
    pub(crate) fallback: Option<NameOr<Fallback>>,
    pub(crate) fallback_retry: Option<Number<u64>>,
}

/// `transport.fallback` where it is a site.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Fallback {
    pub(crate) root: Option<String>,
    pub(crate) proxy: Option<Strings>,
    pub(crate) strategy: Option<String>,
    pub(crate) check: Option<String>,
}

/// `udp_over_tcp`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct UdpOverTcp {
    pub(crate) enabled: Option<bool>,
    pub(crate) version: Option<Number<u64>>,
}

/// `multiplex`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Multiplex {
    pub(crate) enabled: Option<bool>,
    pub(crate) protocol: Option<String>,
    pub(crate) max_connections: Option<Number<u64>>,
    pub(crate) min_streams: Option<Number<u64>>,
    pub(crate) max_streams: Option<Number<u64>>,
    pub(crate) padding: Option<bool>,
    pub(crate) brutal: Option<Value>,
}

/// `tls` of a transport, or of an endpoint of a forward.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Tls {
    pub(crate) server_name: Option<String>,
    pub(crate) ca: Option<String>,
    pub(crate) cert: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) pin_sha256: Option<Strings>,
    pub(crate) insecure: Option<bool>,
}

/// `admin`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Admin {
    pub(crate) address: Option<String>,
    pub(crate) token: Option<Secret>,
    pub(crate) tls: Option<Tls>,
    pub(crate) state: Option<String>,
}

/// An entry of `users`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct User {
    pub(crate) name: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) server: Option<String>,
    pub(crate) server_port: Option<Number<u16>>,
    pub(crate) rate_limit: Option<Number<u64>>,
    pub(crate) quota_bytes: Option<Number<u64>>,
    pub(crate) quota_period: Option<String>,
    pub(crate) quota_day: Option<Number<u32>>,
    pub(crate) max_connections: Option<Number<u32>>,
    pub(crate) max_ips: Option<Number<u32>>,
    pub(crate) expires: Option<String>,
}

/// An entry of `locals`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Local {
    pub(crate) local_address: Option<String>,
    pub(crate) local_port: Option<Number<u16>>,
    pub(crate) local_socket_mode: Option<String>,
    pub(crate) systemd_tcp_socket_name: Option<String>,
    pub(crate) systemd_udp_socket_name: Option<String>,
    pub(crate) local_udp_address: Option<String>,
    pub(crate) local_udp_port: Option<Number<u16>>,
    pub(crate) udp_associate_addr: Option<String>,
    pub(crate) disabled: Option<bool>,
    pub(crate) mode: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) socks5_auth_config_path: Option<String>,
    pub(crate) http_auth_config_path: Option<String>,
    pub(crate) acl: Option<String>,
    pub(crate) forward_address: Option<String>,
    pub(crate) forward_port: Option<Number<u16>>,
    pub(crate) tcp_redir: Option<String>,
    pub(crate) udp_redir: Option<String>,
    pub(crate) sniff: Option<bool>,
    pub(crate) sniff_override_destination: Option<bool>,
    // of `dns`
    pub(crate) local_dns_address: Option<String>,
    pub(crate) local_dns_port: Option<Number<u16>>,
    pub(crate) remote_dns_address: Option<String>,
    pub(crate) remote_dns_port: Option<Number<u16>>,
    pub(crate) client_cache_size: Option<Number<u64>>,
    // of `fake-dns`
    pub(crate) fake_dns_record_expire_duration: Option<Number<u64>>,
    pub(crate) fake_dns_ipv4_network: Option<String>,
    pub(crate) fake_dns_ipv6_network: Option<String>,
    pub(crate) fake_dns_database_path: Option<String>,
    // of `tun`
    pub(crate) tun_interface_name: Option<String>,
    pub(crate) tun_interface_address: Option<Strings>,
    pub(crate) tun_interface_destination: Option<String>,
    pub(crate) tun_device_fd: Option<Number<u32>>,
    pub(crate) tun_device_fd_from_path: Option<String>,
    pub(crate) mtu: Option<Number<u64>>,
    pub(crate) auto_route: Option<bool>,
}

/// An entry of `rules`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Rule {
    pub(crate) domain: Option<Strings>,
    pub(crate) domain_suffix: Option<Strings>,
    pub(crate) domain_keyword: Option<Strings>,
    pub(crate) domain_regex: Option<Strings>,
    pub(crate) ip: Option<Strings>,
    pub(crate) geoip: Option<Strings>,
    pub(crate) list: Option<Strings>,
    pub(crate) port: Option<Value>,
    pub(crate) network: Option<String>,
    pub(crate) user: Option<Strings>,
    pub(crate) local: Option<Strings>,
    pub(crate) to: Option<String>,
    pub(crate) disabled: Option<bool>,
}

/// An entry of `forwards`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Forward {
    pub(crate) listen: Option<UrlOr<Endpoint>>,
    pub(crate) target: Option<UrlOr<Endpoint>>,
    pub(crate) disabled: Option<bool>,
}

/// The listener or the target of a forward: its URL, and options that may also be in the URL.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Endpoint {
    pub(crate) url: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) alpn: Option<String>,
    pub(crate) headers: Option<BTreeMap<String, Option<String>>>,
    pub(crate) tls: Option<Tls>,
}

/// `security`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Security {
    pub(crate) replay_attack: Option<ReplayAttack>,
}

/// `security.replay_attack`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ReplayAttack {
    pub(crate) policy: Option<String>,
}

/// `log`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Log {
    pub(crate) level: Option<Number<u32>>,
    pub(crate) format: Option<Format>,
    pub(crate) writers: Option<List<Writer>>,
}

/// `format` of `log` and of each of its writers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Format {
    pub(crate) without_time: Option<bool>,
    pub(crate) json: Option<bool>,
}

/// An entry of `log.writers`: exactly one of these.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Writer {
    pub(crate) console: Option<Console>,
    pub(crate) file: Option<LogFile>,
    pub(crate) syslog: Option<Syslog>,
}

/// `log.writers[].console`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Console {
    pub(crate) level: Option<Number<u32>>,
    pub(crate) format: Option<Format>,
}

/// `log.writers[].file`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LogFile {
    pub(crate) level: Option<Number<u32>>,
    pub(crate) format: Option<Format>,
    pub(crate) directory: Option<String>,
    pub(crate) rotation: Option<String>,
    pub(crate) prefix: Option<String>,
    pub(crate) suffix: Option<String>,
    pub(crate) max_files: Option<Number<u64>>,
}

/// `log.writers[].syslog`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Syslog {
    pub(crate) level: Option<Number<u32>>,
    pub(crate) format: Option<Format>,
    pub(crate) identity: Option<String>,
    pub(crate) facility: Option<Number<u32>>,
}

/// `runtime`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Runtime {
    pub(crate) mode: Option<String>,
    pub(crate) worker_count: Option<Number<u64>>,
}

/// `timeouts`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Timeouts {
    pub(crate) handshake: Option<Number<u64>>,
    pub(crate) connect: Option<Number<u64>>,
    pub(crate) idle: Option<Number<u64>>,
    pub(crate) half_close: Option<Number<u64>>,
}

/// `limits`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Limits {
    pub(crate) connections: Option<Number<u64>>,
    pub(crate) udp_associations: Option<Number<u64>>,
    pub(crate) handshakes: Option<Number<u64>>,
    pub(crate) visitors: Option<Number<u64>>,
    pub(crate) memory_mib: Option<Number<u64>>,
}

/// `balancer`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Balancer {
    pub(crate) max_server_rtt: Option<Number<u64>>,
    pub(crate) check_interval: Option<Number<u64>>,
    pub(crate) check_best_interval: Option<Number<u64>>,
    // ssr
    pub(crate) strategy: Option<String>,
    pub(crate) hash_by: Option<String>,
    pub(crate) probe: Option<ProbeTarget>,
    pub(crate) probe_udp: Option<ProbeTarget>,
}

/// `online_config`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Online {
    pub(crate) config_url: Option<Secret>,
    pub(crate) update_interval: Option<Number<u64>>,
    pub(crate) allowed_plugins: Option<Vec<String>>,
}

/// `reverse`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Reverse {
    pub(crate) services: Option<List<Service>>,
    pub(crate) links: Option<Links>,
    pub(crate) allow: Option<List<Allow>>,
    pub(crate) heartbeat: Option<Number<u64>>,
}

/// An entry of `reverse.services`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Service {
    pub(crate) name: Option<String>,
    pub(crate) bind: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) proxy_protocol: Option<String>,
    pub(crate) group: Option<bool>,
    pub(crate) disabled: Option<bool>,
}

/// An entry of `reverse.allow`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Allow {
    pub(crate) user: Option<String>,
    pub(crate) bind: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) protocol: Option<String>,
}
