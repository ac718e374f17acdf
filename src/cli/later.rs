//! Flags of features that are not supported yet: they are known, so that each can be refused by name.

use clap::Args;

/// Unsupported flags of both roles.
#[derive(Args)]
pub(super) struct Later {
    #[arg(long, hide = true)]
    acl: Option<String>,
    #[arg(long, hide = true)]
    outbound_user_cookie: Option<String>,
    #[arg(long, hide = true)]
    log_config: Option<String>,
    #[arg(short, long, hide = true)]
    daemonize: bool,
    #[arg(long, hide = true)]
    daemonize_pid: Option<String>,
    #[arg(short = 'a', long, hide = true)]
    user: Option<String>,
}

/// Unsupported flags of `ssr local`.
#[derive(Args)]
pub(super) struct LocalLater {
    #[arg(short, long, hide = true)]
    forward_addr: Option<String>,
    #[arg(long, hide = true)]
    tcp_redir: Option<String>,
    #[arg(long, hide = true)]
    udp_redir: Option<String>,
    #[arg(long, hide = true)]
    local_dns_addr: Option<String>,
    #[arg(long, hide = true)]
    remote_dns_addr: Option<String>,
    #[arg(long, hide = true)]
    dns_addr: Option<String>,
    #[arg(long, hide = true)]
    tun_interface_name: Option<String>,
    #[arg(long, hide = true)]
    tun_interface_address: Option<String>,
    #[arg(long, hide = true)]
    tun_interface_destination: Option<String>,
    #[arg(long, hide = true)]
    tun_device_fd_from_path: Option<String>,
    #[arg(long, hide = true)]
    fake_dns_record_expire_duration: Option<String>,
    #[arg(long, hide = true)]
    fake_dns_ipv4_network: Option<String>,
    #[arg(long, hide = true)]
    fake_dns_ipv6_network: Option<String>,
    #[arg(long, hide = true)]
    fake_dns_database_path: Option<String>,
    #[arg(long, hide = true)]
    online_config_url: Option<String>,
    #[arg(long, hide = true)]
    online_config_update_interval: Option<String>,
    #[arg(long, hide = true, alias = "online-config-allowed-plugins")]
    online_config_allowed_plugin: Vec<String>,
    #[arg(long, hide = true)]
    stat_path: Option<String>,
    #[arg(long, hide = true)]
    stat_addr: Option<String>,
    #[arg(long, hide = true)]
    vpn: bool,
}

impl Later {
    /// Each flag, and whether it asks for something.
    pub(super) fn given(&self) -> [(&'static str, bool); 6] {
        [
            ("--acl", self.acl.is_some()),
            (
                "--outbound-user-cookie",
                self.outbound_user_cookie.is_some(),
            ),
            ("--log-config", self.log_config.is_some()),
            ("--daemonize", self.daemonize),
            ("--daemonize-pid", self.daemonize_pid.is_some()),
            ("--user", self.user.is_some()),
        ]
    }
}

impl LocalLater {
    /// Each flag, and whether it asks for something.
    pub(super) fn given(&self) -> [(&'static str, bool); 20] {
        [
            ("--forward-addr", self.forward_addr.is_some()),
            ("--tcp-redir", self.tcp_redir.is_some()),
            ("--udp-redir", self.udp_redir.is_some()),
            ("--local-dns-addr", self.local_dns_addr.is_some()),
            ("--remote-dns-addr", self.remote_dns_addr.is_some()),
            ("--dns-addr", self.dns_addr.is_some()),
            ("--tun-interface-name", self.tun_interface_name.is_some()),
            (
                "--tun-interface-address",
                self.tun_interface_address.is_some(),
            ),
            (
                "--tun-interface-destination",
                self.tun_interface_destination.is_some(),
            ),
            (
                "--tun-device-fd-from-path",
                self.tun_device_fd_from_path.is_some(),
            ),
            (
                "--fake-dns-record-expire-duration",
                self.fake_dns_record_expire_duration.is_some(),
            ),
            (
                "--fake-dns-ipv4-network",
                self.fake_dns_ipv4_network.is_some(),
            ),
            (
                "--fake-dns-ipv6-network",
                self.fake_dns_ipv6_network.is_some(),
            ),
            (
                "--fake-dns-database-path",
                self.fake_dns_database_path.is_some(),
            ),
            ("--online-config-url", self.online_config_url.is_some()),
            (
                "--online-config-update-interval",
                self.online_config_update_interval.is_some(),
            ),
            (
                "--online-config-allowed-plugin",
                !self.online_config_allowed_plugin.is_empty(),
            ),
            ("--stat-path", self.stat_path.is_some()),
            ("--stat-addr", self.stat_addr.is_some()),
            ("--vpn", self.vpn),
        ]
    }
}
