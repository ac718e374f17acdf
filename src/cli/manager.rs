//! The flags of ssmanager of shadowsocks-rust, and of ss-manager of shadowsocks-libev.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use ssr::config::{Mode, Overrides};

use super::daemon::DaemonArgs;
use super::libev;
use super::nowhere::Nowhere;
use super::request::Request;
use super::roles::{General, manager_address};

/// The flags of ssmanager.
#[derive(Args)]
pub(super) struct RustArgs {
    /// The config file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// The host of the ports [default: 0.0.0.0]
    #[arg(short = 's', long, value_name = "HOST")]
    server_host: Option<String>,
    /// Where commands come: HOST:PORT, or the path of a unix socket
    #[arg(long, alias = "manager-address", value_name = "ADDRESS")]
    manager_addr: Option<String>,
    /// The encryption method of ports that are added without one
    #[arg(short = 'm', long, value_name = "METHOD")]
    encrypt_method: Option<String>,
    /// Relay UDP only
    #[arg(short = 'u', conflicts_with = "tcp_and_udp")]
    udp_only: bool,
    /// Relay TCP and UDP
    #[arg(short = 'U')]
    tcp_and_udp: bool,
    /// The plugin of ports that are added without one
    #[arg(long, value_name = "PLUGIN")]
    plugin: Option<String>,
    /// Options of the plugin
    #[arg(long, value_name = "OPTIONS")]
    plugin_opts: Option<String>,
    /// Which of TCP and UDP the plugin carries
    #[arg(long, value_name = "MODE")]
    plugin_mode: Option<String>,
    /// The file of access control rules
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    acl: Option<PathBuf>,
    /// Local address of outbound sockets
    #[arg(short = 'b', long, alias = "bind-addr", value_name = "IP")]
    outbound_bind_addr: Option<String>,
    /// How the ports are served: one process serves all of them, which is `builtin`
    #[arg(long, hide = true)]
    manager_server_mode: Option<String>,
    #[arg(long, hide = true)]
    manager_server_working_directory: Option<PathBuf>,
    #[command(flatten)]
    general: General,
    #[command(flatten)]
    daemon: DaemonArgs,
    #[command(flatten)]
    nowhere: Nowhere,
}

/// The flags of ss-manager.
#[derive(Args)]
pub(super) struct LibevArgs {
    #[command(flatten)]
    server: libev::Server,
    /// The program that serves a port: here it is this one
    #[arg(long, hide = true)]
    executable: Option<PathBuf>,
    #[arg(short = 'D', long, hide = true)]
    workdir: Option<PathBuf>,
}

impl RustArgs {
    /// # Errors
    /// The flag that is not supported.
    pub(super) fn request(self) -> Result<Request, String> {
        self.nowhere.refuse()?;
        if let Some(mode) = self.manager_server_mode.filter(|mode| mode != "builtin") {
            let known = ["standalone", "unix"].contains(&mode.as_str());
            return Err(match known {
                true => {
                    "--manager-server-mode: ssr serves all ports itself: use builtin".to_owned()
                }
                false => "--manager-server-mode: use builtin".to_owned(),
            });
        }
        let mut flags = Overrides::default();
        flags.need_manager();
        if self.udp_only {
            flags.mode(Mode::UDP_ONLY.name(), "-u");
        }
        if self.tcp_and_udp {
            flags.mode(Mode::TCP_AND_UDP.name(), "-U");
        }
        let acl = self.acl.map(|path| path.display().to_string());
        for (value, key, flag) in [
            (self.server_host, "server", "--server-host"),
            (self.encrypt_method, "method", "--encrypt-method"),
            (self.plugin, "plugin", "--plugin"),
            (self.plugin_opts, "plugin_opts", "--plugin-opts"),
            (self.plugin_mode, "plugin_mode", "--plugin-mode"),
            (acl, "acl", "--acl"),
            (
                self.outbound_bind_addr,
                "outbound_bind_addr",
                "--outbound-bind-addr",
            ),
        ] {
            if let Some(value) = value {
                flags.set(key, value, flag);
            }
        }
        if let Some(address) = &self.manager_addr {
            manager_address(&mut flags, address, "--manager-addr");
        }
        self.general.apply(&mut flags);
        let mut request = Request::new(self.config, flags);
        self.daemon.apply(&mut request);
        Ok(request)
    }
}

impl LibevArgs {
    /// # Errors
    /// The flag that is not supported.
    pub(super) fn request(self, bare: bool) -> Result<Request, String> {
        let mut request = self.server.manager(bare)?;
        request.flags.need_manager();
        Ok(request)
    }
}
