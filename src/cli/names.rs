//! The programs that `ssr` is when a link to it has their name.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::Parser;

use super::command::{Cli, Command};
use super::libev::{Libev, Redir, Server, Tunnel};
use super::manager::{LibevArgs, RustArgs};
use super::request::Request;
use super::roles::{LocalArgs, ServerArgs};
use super::url::SsurlArgs;

/// The default of `mode` in those programs. In `ssr` it is `tcp_and_udp`.
const MODE: &str = "tcp_only";

/// The SOCKS5 client of shadowsocks-rust, by ssr.
#[derive(Parser)]
#[command(name = "sslocal", version, about, max_term_width = 100)]
struct RustLocal {
    #[command(flatten)]
    args: Box<LocalArgs>,
}

/// The server of shadowsocks-rust, by ssr.
#[derive(Parser)]
#[command(name = "ssserver", version, about, max_term_width = 100)]
struct RustServer {
    #[command(flatten)]
    args: Box<ServerArgs>,
}

/// The manager of shadowsocks-rust, which adds and removes ports on command, by ssr.
#[derive(Parser)]
#[command(name = "ssmanager", version, about, max_term_width = 100)]
struct SsManagerOfRust {
    #[command(flatten)]
    args: Box<RustArgs>,
}

/// The manager of shadowsocks-libev, which adds and removes ports on command, by ssr.
#[derive(Parser)]
#[command(name = "ss-manager", version, about, max_term_width = 100)]
struct SsManager {
    #[command(flatten)]
    args: Box<LibevArgs>,
}

/// Encodes and decodes ss:// URLs as ssurl of shadowsocks-rust does, by ssr.
#[derive(Parser)]
#[command(
    name = "ssurl",
    version,
    about,
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Ssurl {
    #[command(flatten)]
    args: SsurlArgs,
}

/// The SOCKS5 client of shadowsocks-libev, by ssr.
#[derive(Parser)]
#[command(name = "ss-local", version, about, max_term_width = 100)]
struct SsLocal {
    #[command(flatten)]
    args: Box<Libev>,
}

/// The server of shadowsocks-libev, by ssr.
#[derive(Parser)]
#[command(name = "ss-server", version, about, max_term_width = 100)]
struct SsServer {
    #[command(flatten)]
    args: Box<Server>,
}

/// A port that leads to one target, as ss-tunnel of shadowsocks-libev, by ssr.
#[derive(Parser)]
#[command(name = "ss-tunnel", version, about, max_term_width = 100)]
struct SsTunnel {
    #[command(flatten)]
    args: Box<Tunnel>,
}

/// The transparent proxy of shadowsocks-libev, by ssr.
#[derive(Parser)]
#[command(name = "ss-redir", version, about, max_term_width = 100)]
struct SsRedir {
    #[command(flatten)]
    args: Box<Redir>,
}

/// What a command line asks for.
pub(crate) enum Invocation {
    /// A command of `ssr`.
    Command(Command),
    /// `ssr local`, with these flags.
    Local(Result<Request, String>),
    /// `ssr server`, with these flags.
    Server(Result<Request, String>),
    /// `ssurl`.
    Ssurl(SsurlArgs),
    /// A program that does not exist here, and what to use.
    Missing(&'static str),
}

impl Invocation {
    /// Reads a command line. Its first element is the name that the program was called by.
    ///
    /// # Errors
    /// What clap prints: the flag that is wrong, or the help that was asked for.
    pub(crate) fn parse(line: &[OsString]) -> Result<Self, clap::Error> {
        let bare = line.len() <= 1;
        Ok(match name(line) {
            "sslocal" => {
                let request = RustLocal::try_parse_from(line)?.args.request();
                Self::Local(with_mode(request))
            }
            "ssserver" => {
                let request = RustServer::try_parse_from(line)?.args.request_of_ssserver();
                Self::Server(with_mode(request))
            }
            "ssurl" => Self::Ssurl(Ssurl::try_parse_from(line)?.args),
            "ss-local" => {
                let request = SsLocal::try_parse_from(line)?.args.request(bare);
                Self::Local(with_mode(request))
            }
            "ss-server" => {
                let request = SsServer::try_parse_from(line)?.args.request(bare);
                Self::Server(with_mode(request))
            }
            "ss-tunnel" => {
                let request = SsTunnel::try_parse_from(line)?.args.request(bare);
                Self::Local(with_mode(request))
            }
            "ss-redir" => {
                let request = SsRedir::try_parse_from(line)?.args.request(bare);
                Self::Local(with_mode(request))
            }
            "ssmanager" => {
                let request = SsManagerOfRust::try_parse_from(line)?.args.request();
                Self::Server(with_mode(request))
            }
            "ss-manager" => {
                let request = SsManager::try_parse_from(line)?.args.request(bare);
                Self::Server(with_mode(request))
            }
            "ss-nat" => {
                Self::Missing("ssr has no ss-nat: `ssr redir-rules` prints rules for the firewall")
            }
            _ => Self::Command(Cli::try_parse_from(line)?.command),
        })
    }
}

/// The name of the program, without directories.
fn name(line: &[OsString]) -> &str {
    line.first()
        .and_then(|first| Path::new(first).file_name())
        .and_then(OsStr::to_str)
        .unwrap_or_default()
}

fn with_mode(request: Result<Request, String>) -> Result<Request, String> {
    let mut request = request?;
    request.flags.default_mode(MODE);
    Ok(request)
}
