//! The commands of `ssr`.

use clap::{Parser, Subcommand};

use super::acl::AclArgs;
use super::check::CheckArgs;
use super::doctor::DoctorArgs;
use super::genkey::GenkeyArgs;
use super::import::ImportArgs;
use super::pages::CompletionsArgs;
use super::redir_rules::RedirRulesArgs;
use super::roles::{ForwardArgs, LocalArgs, ServerArgs};
use super::status::StatusArgs;
#[cfg(feature = "admin")]
use super::top::TopArgs;
use super::upgrade::UpgradeArgs;
use super::url::UrlCommand;
#[cfg(feature = "admin")]
use super::user::UserArgs;
use super::why::WhyArgs;

/// An encrypted SOCKS5 proxy that speaks the Shadowsocks protocols.
#[derive(Parser)]
#[command(
    name = "ssr",
    version,
    propagate_version = true,
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
    /// Try what a config says, step by step, and say what is wrong and what to do
    Doctor(DoctorArgs),
    /// Generate a key or password
    Genkey(GenkeyArgs),
    /// Ask what the rules and ACL files of a config do
    Acl(AclArgs),
    /// Print the nftables rules that the `redir` listeners of a config need
    RedirRules(RedirRulesArgs),
    /// Ask a running ssr which connections failed, and why
    Why(WhyArgs),
    /// Ask a running ssr what it does, and what each user has used
    Status(StatusArgs),
    /// Have the program as it is now on disk take over from a running ssr, without cutting connections
    Upgrade(UpgradeArgs),
    #[cfg(feature = "admin")]
    /// List, add, change and remove the users of a running server
    User(Box<UserArgs>),
    #[cfg(feature = "admin")]
    /// Show what a running ssr does, live
    Top(TopArgs),
    /// Convert servers to and from ss:// URLs, and show them as QR codes
    #[command(subcommand)]
    Url(UrlCommand),
    /// Make a config from links, or from the file of another program
    Import(ImportArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print the manual page
    Man,
    /// Print the JSON Schema of the config, for editors
    Schema,
}
