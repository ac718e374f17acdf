//! Everything that is tried through the binary, a module for each subject.
//!
//! It is one program, so that what they share is built once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;
#[path = "../benches/load/link.rs"]
#[allow(
    unsafe_code,
    dead_code,
    clippy::cast_possible_truncation,
    reason = "a tool of the benchmark: namespaces and tun devices have no safe interface"
)]
mod emulated;

mod admin;
mod admin_cli;
mod admin_metrics;
mod admin_ssm;
mod admin_users;
mod browser;
mod cli;
mod combinations;
mod config_said;
mod congestion;
mod dead_server;
mod deploy_unit;
mod dns_local;
mod dns_rules;
mod docs;
mod docs_examples;
mod doctor;
mod doctor_faults;
mod failover;
mod failover_udp;
mod fair;
mod fairness;
mod fake_dns;
mod files;
mod forward;
mod forward_peers;
mod forward_quic;
mod forward_ws;
mod hostile;
mod hostile_client;
mod hostile_udp;
mod http_proxy;
mod http_proxy_bounds;
mod http_proxy_oracle;
mod http_visitors;
mod interop_libev;
mod interop_oracle;
mod interop_rust;
mod kernel_memory;
mod leaks;
mod lifecycle;
mod link;
mod log_blocked;
mod manager;
mod memory_mib;
mod multiplex;
mod multiplex_local;
mod multiplex_more;
mod multiplex_sing_box;
mod name_shares;
mod names;
mod network_change;
mod options;
mod outbound_proxy;
mod packaging;
mod pair;
mod plugins;
mod quic;
mod quic_fallback;
mod quic_link;
mod quic_udp;
mod quic_upgrade;
mod redir;
mod redir_names;
mod reload;
mod replays;
mod reverse;
mod reverse_links;
mod reverse_memory;
mod reverse_quic;
mod rules;
mod rules_files;
mod rules_reload;
mod said;
mod sandbox;
mod shipped_configs;
mod site;
mod site_proxy;
mod socket_options;
mod socks;
mod state;
mod store;
mod strangers;
mod subscription;
mod transport_mux;
mod transport_nginx;
mod transport_tls;
mod transport_ws;
mod tun;
mod tun_names;
mod tunnel;
mod udp_floods;
mod udp_over_tcp;
mod unacknowledged;
mod unix_sockets;
mod upgrade;
mod upgrade_flows;
mod users;
mod users_by_trial;
mod visitors;
mod warm;
mod why;
