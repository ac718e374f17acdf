//! Floor 5: config files, command line flags and `ss://` URLs, validated.
//!
//! ```text
//! text ─ text::document ─> JSON with positions ─ overrides ─────────> the same, with the flags
//!      ─ text::reporter ─> file as written (written::file)
//!      ─ meaning::translate ─> Config as meant (meaning::model)
//! ```
//!
//! Files of shadowsocks-rust 1.25 and shadowsocks-libev 3.3 run unchanged, or are refused with line, column and key. Each
//! step continues after an error, so that one run finds all of them.
//!
//! [`parse()`] does no IO; [`load()`] reads the files.

mod files;
mod import;
mod links;
mod load;
mod meaning;
mod online;
mod overrides;
mod parse;
mod ports;
mod reread;
mod role;
mod secret;
mod share;
mod summary;
mod text;
mod url;
mod written;

#[cfg(test)]
mod tests;

pub use self::files::Files;
pub use self::import::{ImportError, Imported, import};
pub use self::links::Links;
pub use self::load::{default_path, libev_places, load, lookup_places};
pub use self::meaning::between::{Multiplex, OnlineConfig, Plugin, ProxyHop, ProxyScheme};
pub use self::meaning::managed::{ManagedPort, Manager, ManagerAddress};
pub use self::meaning::model::{
    AclFile, Admin, Allow, Config, Credential, DnsLocal, Endpoint, EndpointWs, FakeDns, Forward,
    Keys, Limits, Local, Log, Mode, PassedNames, Place, Protocol, ReplayPolicy, Reverse, Rotation,
    Scheme, Server, Service, Sink, Site, SiteForward, SiteSource, Sniff, SocketOptions, TcpRedir,
    Timeouts, Tls, Transport, TunDevice, TunLocal, User, WebSocket, Writer,
};
pub use self::online::{OnlineError, OnlineServer, online_servers};
pub use self::overrides::Overrides;
pub use self::parse::{parse, parse_with};
pub use self::reread::Reread;
pub use self::role::Role;
pub use self::secret::Secret;
pub use self::share::{Shared, share};
pub use self::text::diagnostic::{Diagnostic, Position, Severity, is_for_other_role, visible};
pub use self::url::{ServerUrl, UrlError};
pub use self::written::json_schema::json_schema;
pub use self::written::schema::documented_keys;
