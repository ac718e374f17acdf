//! The flags of shadowsocks-libev 3.3. Each replaces one key of the file, as there.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueHint};
use ssr::config::{Mode, Overrides};

use super::request::{Daemon, Request, Source};
use super::roles::{REPORTS, host_and_port, manager_address};

/// The method of shadowsocks-libev where none is given.
const METHOD: &str = "chacha20-ietf-poly1305";

/// The flags that ss-local, ss-server, ss-tunnel and ss-redir share.
#[derive(Args)]
pub(super) struct Libev {
    /// The host of the server; it may be given several times
    #[arg(short = 's', value_name = "HOST")]
    server: Vec<String>,
    /// The port of the server
    #[arg(short = 'p', value_name = "PORT")]
    server_port: Option<u16>,
    /// The local port
    #[arg(short = 'l', value_name = "PORT")]
    local_port: Option<u16>,
    /// The local address
    #[arg(short = 'b', value_name = "HOST")]
    local_address: Option<String>,
    /// The password
    #[arg(short = 'k', long, value_name = "PASSWORD")]
    password: Option<String>,
    /// The key in base64, instead of a password
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// The encryption method [default: chacha20-ietf-poly1305]
    #[arg(short = 'm', value_name = "METHOD")]
    method: Option<String>,
    /// Run in the background once it serves, and write the process id to this file
    #[arg(short = 'f', value_name = "FILE", value_hint = ValueHint::FilePath)]
    pid_file: Option<PathBuf>,
    /// Close connections that are idle for this many seconds
    #[arg(short = 't', value_name = "SECONDS")]
    timeout: Option<u64>,
    /// The config file; without any flag, that in shadowsocks-libev/
    #[arg(short = 'c', value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Network interface of outbound sockets
    #[arg(short = 'i', value_name = "INTERFACE")]
    interface: Option<String>,
    /// Become this user once the ports are bound
    #[arg(short = 'a', value_name = "USER", value_hint = ValueHint::Username)]
    user: Option<String>,
    /// Maximum number of open files
    #[arg(short = 'n', value_name = "COUNT")]
    nofile: Option<u64>,
    /// Relay TCP and UDP
    #[arg(short = 'u', overrides_with = "udp_only")]
    tcp_and_udp: bool,
    /// Relay UDP only
    #[arg(short = 'U')]
    udp_only: bool,
    /// Prefer IPv6 addresses
    #[arg(short = '6')]
    ipv6_first: bool,
    /// Log more; repeat it for even more
    #[arg(short, action = ArgAction::Count)]
    verbose: u8,
    /// One-time authentication, withdrawn in 2017
    #[arg(short = 'A', hide = true)]
    auth: bool,
    /// Use TCP Fast Open
    #[arg(long)]
    fast_open: bool,
    /// Let other processes bind the same address
    #[arg(long)]
    reuse_port: bool,
    /// Send small segments at once (TCP_NODELAY)
    #[arg(long)]
    no_delay: bool,
    /// Use Multipath TCP
    #[arg(long)]
    mptcp: bool,
    /// The MTU of the network interface, which limits datagrams
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u64>,
    /// The file of access control rules
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    acl: Option<PathBuf>,
    /// The plugin between TCP and Shadowsocks
    #[arg(long, value_name = "PLUGIN")]
    plugin: Option<String>,
    /// Options of the plugin
    #[arg(long, value_name = "OPTIONS")]
    plugin_opts: Option<String>,
    /// Send buffer of accepted connections
    #[arg(long, value_name = "BYTES")]
    tcp_incoming_sndbuf: Option<u32>,
    /// Receive buffer of accepted connections
    #[arg(long, value_name = "BYTES")]
    tcp_incoming_rcvbuf: Option<u32>,
    /// Send buffer of outbound connections
    #[arg(long, value_name = "BYTES")]
    tcp_outgoing_sndbuf: Option<u32>,
    /// Receive buffer of outbound connections
    #[arg(long, value_name = "BYTES")]
    tcp_outgoing_rcvbuf: Option<u32>,
}

/// The flags of ss-server.
#[derive(Args)]
pub(super) struct Server {
    #[command(flatten)]
    libev: Libev,
    /// Name servers, joined by commas
    #[arg(short = 'd', value_name = "ADDRESSES")]
    nameservers: Option<String>,
    /// Where commands of ss-manager come: HOST:PORT, or the path of a unix socket
    #[arg(long, value_name = "ADDRESS")]
    manager_address: Option<String>,
}

/// The flags of ss-tunnel.
#[derive(Args)]
pub(super) struct Tunnel {
    #[command(flatten)]
    libev: Libev,
    /// The target
    #[arg(short = 'L', value_name = "HOST:PORT")]
    tunnel_address: Option<String>,
}

/// The flags of ss-redir.
#[derive(Args)]
pub(super) struct Redir {
    #[command(flatten)]
    libev: Libev,
    /// Take redirected TCP by TPROXY, not by REDIRECT
    #[arg(short = 'T')]
    tcp_tproxy: bool,
}

impl Libev {
    /// What ss-local runs with; `bare`: without any flag, it searches its config.
    ///
    /// # Errors
    /// The flag that is not supported.
    pub(super) fn request(self, bare: bool) -> Result<Request, String> {
        let address = self.local_address.clone();
        let mut request = self.shared(bare)?;
        if let Some(address) = address {
            request.flags.set("local_address", address, "-b");
        }
        Ok(request)
    }

    /// Every flag but `-b`, whose meaning differs.
    fn shared(self, bare: bool) -> Result<Request, String> {
        if self.auth {
            return Err("-A: one-time authentication was withdrawn in 2017".to_owned());
        }
        let mut flags = Overrides::default();
        flags.default_method(METHOD);
        self.server(&mut flags);
        self.switches(&mut flags);
        self.values(&mut flags);
        if self.udp_only {
            flags.mode(Mode::UDP_ONLY.name(), "-U");
        } else if self.tcp_and_udp {
            flags.mode(Mode::TCP_AND_UDP.name(), "-u");
        }
        let mut request = Request::new(None, flags);
        request.source = match self.config {
            Some(path) => Source::File(path),
            None if bare => Source::Libev,
            None => Source::Flags,
        };
        request.daemon = self.pid_file.map(|path| Daemon {
            pid_file: Some(path),
        });
        Ok(request)
    }

    fn server(&self, flags: &mut Overrides) {
        if !self.server.is_empty() {
            flags.set("server", self.server.clone(), "-s");
        }
        if let Some(port) = self.server_port {
            flags.set("server_port", port, "-p");
        }
        // Either of them replaces both of the file.
        if self.password.is_some() || self.key.is_some() {
            flags.set("password", self.password.clone(), "-k");
            flags.set("key", self.key.clone(), "--key");
        }
    }

    fn switches(&self, flags: &mut Overrides) {
        for (given, key, flag) in [
            (self.ipv6_first, "ipv6_first", "-6"),
            (self.fast_open, "fast_open", "--fast-open"),
            (self.reuse_port, "reuse_port", "--reuse-port"),
            (self.no_delay, "no_delay", "--no-delay"),
            (self.mptcp, "mptcp", "--mptcp"),
        ] {
            if given {
                flags.set(key, true, flag);
            }
        }
    }

    fn values(&self, flags: &mut Overrides) {
        for (value, key, flag) in [
            (self.local_port.map(u64::from), "local_port", "-l"),
            (self.timeout, "timeouts.idle", "-t"),
            (self.nofile, "nofile", "-n"),
            (self.mtu, "mtu", "--mtu"),
            (
                Some(u64::from(self.verbose)).filter(|level| *level > 0),
                "log.level",
                "-v",
            ),
            (
                self.tcp_incoming_sndbuf.map(u64::from),
                "tcp_incoming_sndbuf",
                "--tcp-incoming-sndbuf",
            ),
            (
                self.tcp_incoming_rcvbuf.map(u64::from),
                "tcp_incoming_rcvbuf",
                "--tcp-incoming-rcvbuf",
            ),
            (
                self.tcp_outgoing_sndbuf.map(u64::from),
                "tcp_outgoing_sndbuf",
                "--tcp-outgoing-sndbuf",
            ),
            (
                self.tcp_outgoing_rcvbuf.map(u64::from),
                "tcp_outgoing_rcvbuf",
                "--tcp-outgoing-rcvbuf",
            ),
        ] {
            if let Some(value) = value {
                flags.set(key, value, flag);
            }
        }
        let acl = self.acl.as_ref().map(|path| path.display().to_string());
        for (value, key, flag) in [
            (&self.method, "method", "-m"),
            (&self.interface, "outbound_bind_interface", "-i"),
            (&self.user, "user", "-a"),
            (&acl, "acl", "--acl"),
            (&self.plugin, "plugin", "--plugin"),
            (&self.plugin_opts, "plugin_opts", "--plugin-opts"),
        ] {
            if let Some(value) = value {
                flags.set(key, value.as_str(), flag);
            }
        }
    }
}

impl Server {
    /// As [`Libev::request`]. `-b` is the address of outbound sockets.
    ///
    /// # Errors
    /// The flag that is not supported.
    pub(super) fn request(self, bare: bool) -> Result<Request, String> {
        if self.manager_address.is_some() {
            return Err(REPORTS.replace("FLAG", "--manager-address"));
        }
        let address = self.libev.local_address.clone();
        let mut request = self.libev.shared(bare)?;
        let flags = &mut request.flags;
        if let Some(address) = address {
            flags.set("outbound_bind_addr", address, "-b");
        }
        if let Some(list) = self.nameservers {
            flags.set("dns", list, "-d");
        }
        Ok(request)
    }

    /// What ss-manager runs with.
    ///
    /// # Errors
    /// The flag that is not supported.
    pub(super) fn manager(mut self, bare: bool) -> Result<Request, String> {
        let address = self.manager_address.take();
        let mut request = self.request(bare)?;
        if let Some(address) = address {
            manager_address(&mut request.flags, &address, "--manager-address");
        }
        Ok(request)
    }
}

impl Tunnel {
    /// As [`Libev::request`].
    ///
    /// # Errors
    /// The flag that is not supported.
    pub(super) fn request(self, bare: bool) -> Result<Request, String> {
        let mut request = self.libev.request(bare)?;
        if let Some(target) = self.tunnel_address {
            if host_and_port(&target).1.is_none() {
                return Err("-L: use HOST:PORT".to_owned());
            }
            request.flags.set("tunnel_address", target, "-L");
        }
        request.flags.listen_as("tunnel");
        Ok(request)
    }
}

impl Redir {
    /// As [`Libev::request`].
    ///
    /// # Errors
    /// The flag that is not supported.
    pub(super) fn request(self, bare: bool) -> Result<Request, String> {
        let mut request = self.libev.request(bare)?;
        if self.tcp_tproxy {
            request.flags.set("tcp_tproxy", true, "-T");
        }
        request.flags.listen_as("redir");
        Ok(request)
    }
}
