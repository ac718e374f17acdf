//! The command line. Flags of shadowsocks-rust keep their names; they become [`Overrides`] of the config.

mod later;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueHint};
use ssr::config::{Mode, Overrides, Role};
use ssr::crypto::Method;

use self::later::{Later, LocalLater};

/// An encrypted SOCKS5 proxy that speaks the Shadowsocks protocols.
#[derive(Parser)]
#[command(
    name = "ssr",
    version,
    about,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the client: accept SOCKS5 from programs and relay it to a server
    Local(Box<LocalArgs>),
    /// Run the server: accept clients and connect to targets
    Server(Box<ServerArgs>),
    /// Forward connections or datagrams to a fixed target, without Shadowsocks
    Forward(Box<ForwardArgs>),
    /// Check a config: print what it would run, or every error in it
    Check(CheckArgs),
    /// Generate a key or password
    Genkey(GenkeyArgs),
}

#[derive(Args)]
pub(crate) struct CheckArgs {
    /// The config file [default: the file that each role would use]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// Check it for one role only: local, server or forward [default: local and server]
    #[arg(long, value_name = "ROLE", value_parser = role)]
    pub(crate) role: Option<Role>,
}

#[derive(Args)]
pub(crate) struct GenkeyArgs {
    /// The encryption method
    #[arg(
        short = 'm',
        long = "encrypt-method",
        alias = "method",
        value_name = "METHOD"
    )]
    pub(crate) method: Method,
    /// Also print keys for this many users, one per line
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) users: u16,
}

/// The flags of `ssr local` and `ssr server`.
#[derive(Args)]
pub(crate) struct Common {
    /// The config file [default: local.json or server.json, then config.json, in the working directory, then in ssr/ and
    /// shadowsocks-rust/ in the XDG config directories and in /etc]
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
    /// What goes through the plugin: tcp_only, udp_only or tcp_and_udp [default: tcp_only]
    #[arg(long, value_name = "MODE", requires = "server_addr")]
    plugin_mode: Option<String>,
    /// Relay UDP only
    #[arg(short = 'u', conflicts_with = "tcp_and_udp")]
    udp_only: bool,
    /// Relay TCP and UDP (the default, unless the config has another mode)
    #[arg(short = 'U')]
    tcp_and_udp: bool,
    #[command(flatten)]
    general: General,
    #[command(flatten)]
    later: Later,
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
}

#[derive(Args)]
pub(crate) struct ForwardArgs {
    /// Pairs of URLs: where to listen, and the target. tcp://HOST:PORT, udp://HOST:PORT, ws://HOST[:PORT][/PATH] or
    /// wss://HOST[:PORT][/PATH]
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
    #[arg(long, value_name = "PROTOCOL", requires = "local_addr")]
    protocol: Option<String>,
    /// The address to listen on for UDP [default: --local-addr]
    #[arg(long, value_name = "HOST:PORT", requires = "local_addr")]
    udp_bind_addr: Option<String>,
    /// The address that SOCKS5 clients are told to send UDP to, if they reach this machine by another one
    #[arg(long, value_name = "HOST[:PORT]", requires = "local_addr")]
    udp_associate_addr: Option<String>,
    /// The server as an ss:// URL; replaces the servers in the config
    #[arg(long, value_name = "URL", conflicts_with = "server_addr", value_hint = ValueHint::Url)]
    server_url: Option<String>,
    /// Local address of outbound sockets
    #[arg(long, alias = "bind-addr", value_name = "IP")]
    outbound_bind_addr: Option<String>,
    #[command(flatten)]
    later: LocalLater,
}

#[derive(Args)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    common: Common,
    /// Local address of outbound sockets
    #[arg(short = 'b', long, alias = "bind-addr", value_name = "IP")]
    outbound_bind_addr: Option<String>,
    /// A proxy between the server and targets; repeat it for one behind the other
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    outbound_proxy: Vec<String>,
    #[arg(long, hide = true, alias = "manager-address")]
    manager_addr: Option<String>,
}

/// What a role runs with.
pub(crate) struct Request {
    /// The config named on the command line.
    pub(crate) config: Option<PathBuf>,
    /// The flags that override it.
    pub(crate) flags: Overrides,
}

impl LocalArgs {
    /// # Errors
    /// The flag that is not supported, or is wrong.
    pub(crate) fn request(self) -> Result<Request, String> {
        refuse(&self.later.given())?;
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
        if let Some(address) = self.outbound_bind_addr {
            flags.set("outbound_bind_addr", address, "--outbound-bind-addr");
        }
        Ok(request)
    }
}

impl ServerArgs {
    /// # Errors
    /// The flag that is not supported, or is wrong.
    pub(crate) fn request(self) -> Result<Request, String> {
        refuse(&[("--manager-addr", self.manager_addr.is_some())])?;
        let mut request = self.common.request()?;
        if let Some(address) = self.outbound_bind_addr {
            request
                .flags
                .set("outbound_bind_addr", address, "--outbound-bind-addr");
        }
        if !self.outbound_proxy.is_empty() {
            let (proxies, flag) = (self.outbound_proxy, "--outbound-proxy");
            request.flags.set("outbound_proxy", proxies, flag);
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
        Ok(Request {
            config: self.config,
            flags,
        })
    }
}

impl Common {
    fn request(self) -> Result<Request, String> {
        refuse(&self.later.given())?;
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
        self.general.apply(&mut flags);
        Ok(Request {
            config: self.config,
            flags,
        })
    }
}

impl General {
    fn apply(&self, flags: &mut Overrides) {
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

/// Refuses unsupported flags: the first that was given is an error.
fn refuse(flags: &[(&str, bool)]) -> Result<(), String> {
    match flags.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(format!("{flag}: not yet in this version of ssr")),
        None => Ok(()),
    }
}

/// Splits `host:port`, `[v6]:port` or a host alone. The config reports what is wrong with either.
fn host_and_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    }
}

fn role(text: &str) -> Result<Role, String> {
    match text {
        "local" => Ok(Role::Local),
        "server" => Ok(Role::Server),
        "forward" => Ok(Role::Forward),
        _ => Err("use `local`, `server` or `forward`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use clap::CommandFactory;

    fn request(args: &str) -> Result<Request, String> {
        match Cli::try_parse_from(args.split_whitespace())
            .map_err(|error| error.to_string())?
            .command
        {
            Command::Local(args) => args.request(),
            Command::Server(args) => args.request(),
            _ => panic!("no role"),
        }
    }

    #[test]
    fn flags_do_not_clash() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_shadowsocks_rust_are_taken() {
        for args in [
            "ssr local -b 127.0.0.1:1080 -s [::1]:8388 -m aes-256-gcm -k hello --timeout 30 -U -vvv",
            "ssr local -c x.json --protocol socks -b [::]:1 --udp-bind-addr 0.0.0.0:2 --udp-associate-addr 192.0.2.1:3",
            "ssr local --server-url ss://x --dns google --dns-cache-size 0 --tcp-no-delay --no-delay -6",
            "ssr server -s [::]:8388 -m aes-256-gcm -k x -u -b 192.0.2.1 --fast-open --mptcp --plugin-opts= --nofile 99",
            "ssr server -c x --inbound-send-buffer-size 1 --outbound-recv-buffer-size 2 --outbound-fwmark 3 -n 4",
            "ssr server -c x --single-threaded --log-without-time --bind-addr 192.0.2.1 --udp-max-associations 5",
        ] {
            let known = request(args);
            assert!(
                known.is_ok() || args.contains("ss://x"),
                "{args}: {:?}",
                known.err()
            );
        }
    }

    #[test]
    fn flags_of_features_to_come_are_refused_by_name() {
        for (args, flag) in [
            ("ssr local --acl x", "--acl"),
            ("ssr local -c x -f 192.0.2.1:53", "--forward-addr"),
            ("ssr server -c x -d", "--daemonize"),
            ("ssr server -c x -a nobody", "--user"),
            (
                "ssr server -c x --manager-address 127.0.0.1:1",
                "--manager-addr",
            ),
            (
                "ssr local --online-config-url https://x",
                "--online-config-url",
            ),
        ] {
            let error = request(args).err().unwrap();
            assert_eq!(error, format!("{flag}: not yet in this version of ssr"));
        }
    }

    #[test]
    fn a_password_needs_its_server() {
        assert!(request("ssr local -k x").is_err());
        assert!(request("ssr local -s a:1").is_err());
        assert!(request("ssr local -s a:1 -m aes-256-gcm -u -U").is_err());
    }

    #[test]
    fn flags_of_a_listener_need_its_address() {
        // Alone, they would put a listener without login in place of those of the config.
        for flag in [
            "--protocol socks",
            "--udp-bind-addr 127.0.0.1:1081",
            "--udp-associate-addr 192.0.2.1",
        ] {
            let error = request(&format!("ssr local -c x {flag}")).err().unwrap();
            assert!(error.contains("--local-addr <HOST:PORT>"), "{error}");
            assert!(request(&format!("ssr local -c x -b 127.0.0.1:1080 {flag}")).is_ok());
        }
    }

    #[test]
    fn addresses_are_split_at_the_port() {
        assert_eq!(host_and_port("[::1]:80"), ("[::1]", Some("80")));
        assert_eq!(host_and_port("::1"), ("::1", None));
        assert_eq!(host_and_port("a:80"), ("a", Some("80")));
        assert_eq!(host_and_port("a"), ("a", None));
    }
}
