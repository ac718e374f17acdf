//! The flags of `ssr local`, `ssr server` and `ssr forward`, which are also those of `sslocal` and `ssserver`.
//!
//! A flag becomes the value of a key of the config. So a flag of a feature that the config refuses is refused by it too.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueHint};
use ssr::config::{Mode, Overrides};

use super::daemon::DaemonArgs;
use super::nowhere::{LocalNowhere, Nowhere};
use super::request::Request;

/// The flags of `ssr local` and `ssr server`.
#[derive(Args)]
pub(crate) struct Common {
    /// The config file [default: local.json or server.json, then config.json, in the working directory, then in ssr/,
    /// shadowsocks-rust/ and shadowsocks-libev/ in the XDG config directories and in /etc]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// The address of the server; replaces the servers in the config
    #[arg(
        short = 's',
        long,
        value_name = "HOST:PORT",
        requires = "encrypt_method"
    )]
    server_addr: Option<String>,
    /// The password or key; "${VAR}" reads an environment variable [default: "${SS_SERVER_PASSWORD}"]
    #[arg(short = 'k', long, value_name = "PASSWORD", requires = "server_addr")]
    password: Option<String>,
    /// The encryption method of the server
    #[arg(short = 'm', long, value_name = "METHOD", requires = "server_addr")]
    encrypt_method: Option<String>,
    /// The plugin between TCP and Shadowsocks: builtin:v2ray-plugin, or a program (SIP003)
    #[arg(long, value_name = "PLUGIN", requires = "server_addr")]
    plugin: Option<String>,
    /// Options of the plugin, for example `tls;host=example.com;path=/x`
    #[arg(long, value_name = "OPTIONS", requires = "server_addr")]
    plugin_opts: Option<String>,
    /// Relay UDP only
    #[arg(short = 'u', conflicts_with = "tcp_and_udp")]
    udp_only: bool,
    /// Relay TCP and UDP (the default, unless the config has another mode)
    #[arg(short = 'U')]
    tcp_and_udp: bool,
    /// Which of TCP and UDP the plugin carries: tcp_only, udp_only or tcp_and_udp [default: tcp_only]
    #[arg(long, value_name = "MODE", requires = "plugin")]
    plugin_mode: Option<String>,
    /// The file of access control rules
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    acl: Option<PathBuf>,
    #[command(flatten)]
    general: General,
    #[command(flatten)]
    daemon: DaemonArgs,
    #[command(flatten)]
    nowhere: Nowhere,
}

/// The flags of every role.
#[derive(Args)]
pub(crate) struct General {
    /// Close connections that are idle for this many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Name servers: [tcp://|udp://]IP[:PORT],… or system, google, cloudflare, quad9
    #[arg(long, value_name = "SERVERS")]
    dns: Option<String>,
    /// Number of names in the DNS cache; 0 disables it
    #[arg(long, value_name = "COUNT")]
    dns_cache_size: Option<u64>,
    /// Send small segments at once (TCP_NODELAY)
    #[arg(long, alias = "no-delay")]
    tcp_no_delay: bool,
    /// Use TCP Fast Open
    #[arg(long, alias = "fast-open")]
    tcp_fast_open: bool,
    /// Probe idle TCP connections after this many seconds; 0 means never
    #[arg(long, value_name = "SECONDS")]
    tcp_keep_alive: Option<u64>,
    /// Use Multipath TCP
    #[arg(long, alias = "mptcp")]
    tcp_multipath: bool,
    /// Close UDP associations that are idle for this many seconds
    #[arg(long, value_name = "SECONDS")]
    udp_timeout: Option<u64>,
    /// Maximum number of UDP associations
    #[arg(long, value_name = "COUNT")]
    udp_max_associations: Option<u64>,
    /// Send buffer of accepted connections
    #[arg(long, value_name = "BYTES")]
    inbound_send_buffer_size: Option<u32>,
    /// Receive buffer of accepted connections
    #[arg(long, value_name = "BYTES")]
    inbound_recv_buffer_size: Option<u32>,
    /// Send buffer of outbound connections
    #[arg(long, value_name = "BYTES")]
    outbound_send_buffer_size: Option<u32>,
    /// Receive buffer of outbound connections
    #[arg(long, value_name = "BYTES")]
    outbound_recv_buffer_size: Option<u32>,
    /// Network interface of outbound sockets
    #[arg(long, value_name = "INTERFACE")]
    outbound_bind_interface: Option<String>,
    /// Firewall mark (SO_MARK) of outbound sockets
    #[arg(long, value_name = "MARK")]
    outbound_fwmark: Option<u32>,
    /// Prefer IPv6 addresses
    #[arg(short = '6')]
    ipv6_first: bool,
    /// Log more; repeat it for even more
    #[arg(short, action = ArgAction::Count)]
    verbose: u8,
    /// Omit the time from log lines
    #[arg(long)]
    log_without_time: bool,
    /// Maximum number of open files
    #[arg(short, long, value_name = "COUNT")]
    nofile: Option<u64>,
    /// Use one worker thread
    #[arg(long, conflicts_with = "worker_threads")]
    single_threaded: bool,
    /// Number of worker threads [default: one per core]
    #[arg(long, value_name = "COUNT")]
    worker_threads: Option<u64>,
    /// Fail on warnings of the config too
    #[arg(long)]
    strict: bool,
}

#[derive(Args)]
pub(crate) struct ForwardArgs {
    /// Pairs of URLs: where to listen, and the target. tcp://HOST:PORT, udp://HOST:PORT, quic://HOST[:PORT],
    /// ws://HOST[:PORT][/PATH] or wss://HOST[:PORT][/PATH]
    #[arg(value_name = "LISTEN TARGET", value_hint = ValueHint::Url)]
    urls: Vec<String>,
    /// The config file; its "forwards" run if there are no URLs, and its servers and locals are ignored
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    #[command(flatten)]
    general: General,
}

#[derive(Args)]
pub(crate) struct LocalArgs {
    #[command(flatten)]
    common: Common,
    /// The address to listen on; replaces the listeners in the config
    #[arg(short = 'b', long, value_name = "HOST:PORT")]
    local_addr: Option<String>,
    /// The protocol at --local-addr: socks
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<String>,
    /// The address to listen on for UDP [default: --local-addr]
    #[arg(long, value_name = "HOST:PORT")]
    udp_bind_addr: Option<String>,
    /// The address that SOCKS5 clients are told to send UDP to, if they reach this machine by another one
    #[arg(long, value_name = "HOST[:PORT]")]
    udp_associate_addr: Option<String>,
    /// The server as an ss:// URL; replaces the servers in the config
    #[arg(long, value_name = "URL", conflicts_with = "server_addr", value_hint = ValueHint::Url)]
    server_url: Option<String>,
    /// Local address of outbound sockets
    #[arg(long, alias = "bind-addr", value_name = "IP")]
    outbound_bind_addr: Option<String>,
    /// A proxy on the way to the server: socks5://, http://, https:// or ss:// URL; repeat it for a chain
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    outbound_proxy: Vec<String>,
    #[command(flatten)]
    listener: Listener,
    #[command(flatten)]
    nowhere: LocalNowhere,
}

/// Flags of the listener of `ssr local` for one protocol each, and those of SIP008.
#[derive(Args)]
struct Listener {
    /// The target of --protocol tunnel
    #[arg(short, long, value_name = "HOST:PORT", requires = "protocol")]
    forward_addr: Option<String>,
    /// How TCP is redirected to --protocol redir: redirect or tproxy
    #[arg(long, value_name = "TYPE", requires = "protocol")]
    tcp_redir: Option<String>,
    /// How UDP is redirected to --protocol redir: tproxy
    #[arg(long, value_name = "TYPE", requires = "protocol")]
    udp_redir: Option<String>,
    /// The name server that --protocol dns asks directly
    #[arg(long, value_name = "HOST[:PORT]", requires = "protocol")]
    local_dns_addr: Option<String>,
    /// The name server that --protocol dns asks through the server
    #[arg(long, value_name = "HOST[:PORT]", requires = "protocol")]
    remote_dns_addr: Option<String>,
    /// The name of the device of --protocol tun
    #[arg(long, value_name = "NAME", requires = "protocol")]
    tun_interface_name: Option<String>,
    /// The address of the device of --protocol tun
    #[arg(long, value_name = "NETWORK", requires = "protocol")]
    tun_interface_address: Option<String>,
    /// The address at the other end of the device of --protocol tun
    #[arg(long, value_name = "NETWORK", requires = "protocol")]
    tun_interface_destination: Option<String>,
    /// A unix socket that passes the file descriptor of the device of --protocol tun
    #[arg(long, value_name = "PATH", requires = "protocol", value_hint = ValueHint::FilePath)]
    tun_device_fd_from_path: Option<String>,
    /// Seconds after which --protocol fake-dns forgets a name
    #[arg(long, value_name = "SECONDS", requires = "protocol")]
    fake_dns_record_expire_duration: Option<u64>,
    /// The IPv4 addresses that --protocol fake-dns hands out
    #[arg(long, value_name = "NETWORK", requires = "protocol")]
    fake_dns_ipv4_network: Option<String>,
    /// The IPv6 addresses that --protocol fake-dns hands out
    #[arg(long, value_name = "NETWORK", requires = "protocol")]
    fake_dns_ipv6_network: Option<String>,
    /// Where --protocol fake-dns keeps its names
    #[arg(long, value_name = "PATH", requires = "protocol", value_hint = ValueHint::AnyPath)]
    fake_dns_database_path: Option<String>,
    /// A list of servers on the web (SIP008)
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    online_config_url: Option<String>,
    /// Read the list again after this many seconds [default: 3600]
    #[arg(long, value_name = "SECONDS", requires = "online_config_url")]
    online_config_update_interval: Option<u64>,
    /// A plugin that servers of the list may use; without one, any
    #[arg(
        long,
        alias = "online-config-allowed-plugins",
        value_name = "PLUGIN",
        requires = "online_config_url"
    )]
    online_config_allowed_plugin: Vec<String>,
}

#[derive(Args)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    common: Common,
    /// Local address of outbound sockets
    #[arg(short = 'b', long, alias = "bind-addr", value_name = "IP")]
    outbound_bind_addr: Option<String>,
    /// A proxy on the way to targets: socks5://, http:// or https://[USER:PASSWORD@]HOST:PORT, or an ss:// URL; repeat it for a
    /// chain
    #[arg(long, value_name = "URL")]
    outbound_proxy: Vec<String>,
    /// Where commands of a manager come, which adds and removes ports: HOST:PORT, or the path of a unix socket
    #[arg(long, alias = "manager-address", value_name = "ADDRESS")]
    manager_addr: Option<String>,
}

impl LocalArgs {
    /// # Errors
    /// The flag that is not supported, or is wrong.
    pub(crate) fn request(self) -> Result<Request, String> {
        self.nowhere.refuse()?;
        let needs_address = [
            ("--udp-bind-addr", self.udp_bind_addr.is_some()),
            ("--udp-associate-addr", self.udp_associate_addr.is_some()),
        ];
        // A tun device has no address to listen on. Every other protocol would open a port that nobody named.
        if self.local_addr.is_none()
            && self
                .protocol
                .as_deref()
                .is_some_and(|protocol| protocol != "tun")
        {
            return Err("--protocol needs --local-addr <HOST:PORT>".to_owned());
        }
        if self.local_addr.is_none()
            && let Some((flag, _)) = needs_address.iter().find(|(_, given)| *given)
        {
            return Err(format!("{flag} needs --local-addr <HOST:PORT>"));
        }
        let mut request = self.common.request()?;
        let flags = &mut request.flags;
        if let Some(url) = &self.server_url {
            flags
                .server_url(url)
                .map_err(|error| format!("--server-url: {error}"))?;
        }
        for (text, host_key, port_key) in [
            (&self.local_addr, "local_address", "local_port"),
            (&self.udp_bind_addr, "local_udp_address", "local_udp_port"),
        ] {
            if let Some(text) = text {
                let (host, port) = host_and_port(text);
                flags.local(host_key, host);
                if let Some(port) = port {
                    flags.local(port_key, port);
                }
            }
        }
        if let Some(address) = self.udp_associate_addr {
            flags.local("udp_associate_addr", address);
        }
        if let Some(protocol) = self.protocol {
            flags.local("protocol", protocol);
        }
        self.listener.apply(flags);
        if !self.outbound_proxy.is_empty() {
            flags.set("outbound_proxy", self.outbound_proxy, "--outbound-proxy");
        }
        if let Some(address) = self.outbound_bind_addr {
            flags.set("outbound_bind_addr", address, "--outbound-bind-addr");
        }
        Ok(request)
    }
}

impl ServerArgs {
    /// What ssserver runs with.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub(super) fn request_of_ssserver(self) -> Result<Request, String> {
        if self.manager_addr.is_some() {
            return Err(REPORTS.replace("FLAG", "--manager-addr"));
        }
        self.request()
    }

    /// # Errors
    /// The flag that is not supported, or is wrong.
    pub(crate) fn request(self) -> Result<Request, String> {
        let mut request = self.common.request()?;
        if !self.outbound_proxy.is_empty() {
            request
                .flags
                .set("outbound_proxy", self.outbound_proxy, "--outbound-proxy");
        }
        if let Some(address) = &self.manager_addr {
            manager_address(&mut request.flags, address, "--manager-addr");
        }
        if let Some(address) = self.outbound_bind_addr {
            request
                .flags
                .set("outbound_bind_addr", address, "--outbound-bind-addr");
        }
        Ok(request)
    }
}

impl ForwardArgs {
    /// # Errors
    /// Which URL is missing.
    pub(crate) fn request(self) -> Result<Request, String> {
        if self.urls.is_empty() && self.config.is_none() {
            return Err("nothing to forward: use LISTEN TARGET or -c FILE".to_owned());
        }
        let mut flags = Overrides::default();
        for pair in self.urls.chunks(2) {
            match pair {
                [listen, target] => flags.forward(listen, target),
                _ => {
                    return Err("the last LISTEN has no TARGET: URLs must come in pairs".to_owned());
                }
            }
        }
        self.general.apply(&mut flags);
        let mut request = Request::new(self.config, flags);
        request.strict = self.general.strict;
        Ok(request)
    }
}

impl Listener {
    fn apply(self, flags: &mut Overrides) {
        for (text, host_key, port_key) in [
            (self.forward_addr, "forward_address", "forward_port"),
            (self.local_dns_addr, "local_dns_address", "local_dns_port"),
            (
                self.remote_dns_addr,
                "remote_dns_address",
                "remote_dns_port",
            ),
        ] {
            if let Some(text) = text {
                let (host, port) = host_and_port(&text);
                flags.local(host_key, host);
                if let Some(port) = port {
                    flags.local(port_key, port);
                }
            }
        }
        for (value, key) in [
            (self.tcp_redir, "tcp_redir"),
            (self.udp_redir, "udp_redir"),
            (self.tun_interface_name, "tun_interface_name"),
            (self.tun_interface_address, "tun_interface_address"),
            (self.tun_interface_destination, "tun_interface_destination"),
            (self.tun_device_fd_from_path, "tun_device_fd_from_path"),
            (self.fake_dns_ipv4_network, "fake_dns_ipv4_network"),
            (self.fake_dns_ipv6_network, "fake_dns_ipv6_network"),
            (self.fake_dns_database_path, "fake_dns_database_path"),
        ] {
            if let Some(value) = value {
                flags.local(key, value);
            }
        }
        if let Some(seconds) = self.fake_dns_record_expire_duration {
            flags.local("fake_dns_record_expire_duration", seconds);
        }
        if let Some(url) = self.online_config_url {
            flags.set("online_config.config_url", url, "--online-config-url");
        }
        if let Some(seconds) = self.online_config_update_interval {
            flags.set(
                "online_config.update_interval",
                seconds,
                "--online-config-update-interval",
            );
        }
        if !self.online_config_allowed_plugin.is_empty() {
            flags.set(
                "online_config.allowed_plugins",
                self.online_config_allowed_plugin,
                "--online-config-allowed-plugin",
            );
        }
    }
}

impl Common {
    fn request(self) -> Result<Request, String> {
        self.nowhere.refuse()?;
        let mut flags = Overrides::default();
        if let Some(address) = &self.server_addr {
            flags.server(
                address,
                self.encrypt_method.as_deref(),
                self.password.as_deref(),
            );
        }
        if self.udp_only {
            flags.mode(Mode::UDP_ONLY.name(), "-u");
        }
        if self.tcp_and_udp {
            flags.mode(Mode::TCP_AND_UDP.name(), "-U");
        }
        for (value, path, flag) in [
            (&self.plugin, "plugin", "--plugin"),
            (&self.plugin_opts, "plugin_opts", "--plugin-opts"),
            (&self.plugin_mode, "plugin_mode", "--plugin-mode"),
        ] {
            if let Some(value) = value {
                flags.set(path, value.as_str(), flag);
            }
        }
        if let Some(path) = &self.acl {
            flags.set("acl", path.display().to_string(), "--acl");
        }
        self.general.apply(&mut flags);
        let mut request = Request::new(self.config, flags);
        request.strict = self.general.strict;
        self.daemon.apply(&mut request);
        Ok(request)
    }
}

impl General {
    pub(super) fn apply(&self, flags: &mut Overrides) {
        self.switches(flags);
        self.values(flags);
    }

    /// Applies the flags without a value.
    fn switches(&self, flags: &mut Overrides) {
        for (given, path, flag) in [
            (self.tcp_no_delay, "no_delay", "--tcp-no-delay"),
            (self.tcp_fast_open, "fast_open", "--tcp-fast-open"),
            (self.tcp_multipath, "mptcp", "--tcp-multipath"),
            (self.ipv6_first, "ipv6_first", "-6"),
            (
                self.log_without_time,
                "log.format.without_time",
                "--log-without-time",
            ),
        ] {
            if given {
                flags.set(path, true, flag);
            }
        }
    }

    /// Applies the flags with a value.
    fn values(&self, flags: &mut Overrides) {
        for (value, path, flag) in [
            (self.timeout, "timeouts.idle", "--timeout"),
            (self.dns_cache_size, "dns_cache_size", "--dns-cache-size"),
            (self.tcp_keep_alive, "keep_alive", "--tcp-keep-alive"),
            (self.udp_timeout, "udp_timeout", "--udp-timeout"),
            (
                self.udp_max_associations,
                "limits.udp_associations",
                "--udp-max-associations",
            ),
            (
                wide(self.inbound_send_buffer_size),
                "inbound_send_buffer_size",
                "--inbound-send-buffer-size",
            ),
            (
                wide(self.inbound_recv_buffer_size),
                "inbound_recv_buffer_size",
                "--inbound-recv-buffer-size",
            ),
            (
                wide(self.outbound_send_buffer_size),
                "outbound_send_buffer_size",
                "--outbound-send-buffer-size",
            ),
            (
                wide(self.outbound_recv_buffer_size),
                "outbound_recv_buffer_size",
                "--outbound-recv-buffer-size",
            ),
            (
                wide(self.outbound_fwmark),
                "outbound_fwmark",
                "--outbound-fwmark",
            ),
            (self.nofile, "nofile", "--nofile"),
            (self.worker_threads, "workers", "--worker-threads"),
            (
                self.single_threaded.then_some(1),
                "workers",
                "--single-threaded",
            ),
            (
                Some(u64::from(self.verbose)).filter(|level| *level > 0),
                "log.level",
                "-v",
            ),
        ] {
            if let Some(value) = value {
                flags.set(path, value, flag);
            }
        }
        for (value, path, flag) in [
            (&self.dns, "dns", "--dns"),
            (
                &self.outbound_bind_interface,
                "outbound_bind_interface",
                "--outbound-bind-interface",
            ),
        ] {
            if let Some(value) = value {
                flags.set(path, value.as_str(), flag);
            }
        }
    }
}

fn wide(value: Option<u32>) -> Option<u64> {
    value.map(u64::from)
}

/// Why the servers of the references refuse the address of a manager.
pub(super) const REPORTS: &str = "FLAG: ssr reports to no manager, it is one itself: call it as ssmanager or ss-manager, or use `ssr server --manager-addr`";

/// Sets where commands of a manager come.
pub(super) fn manager_address(flags: &mut Overrides, text: &str, flag: &'static str) {
    let (host, port) = match text.contains('/') {
        true => (text, None),
        false => host_and_port(text),
    };
    flags.set("manager_address", host, flag);
    if let Some(port) = port {
        flags.set("manager_port", port, flag);
    }
}

/// Splits `host:port`, `[v6]:port` or a host alone. The config reports what is wrong with either.
pub(super) fn host_and_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    }
}
