//! Floor 5: from a config file, flags and `ss://` URLs to checked values.
//!
//! ```text
//! text ─ document ─> JSON that knows where it stood ─ overrides ─> … and what the flags say
//!      ─ reporter ─> file as written (`file.rs`)    ─ meaning ───> Config as meant (`model.rs`)
//! ```
//!
//! Files of shadowsocks-rust 1.25 and shadowsocks-libev 3.3 run unchanged, or are told by line, column and key why
//! not. Each step goes on after an error, so that one reading finds them all.
//!
//! [`parse`] does no IO; [`load()`] reads files around it.

mod load;
mod meaning;
mod overrides;
mod parse;
mod role;
mod secret;
mod summary;
mod text;
mod url;
mod written;

#[cfg(test)]
mod tests;

pub use self::load::{default_path, load, lookup_places};
pub use self::meaning::model::{
    Allow, Config, Credential, Endpoint, EndpointWs, Forward, Keys, Limits, Local, Log, Mode,
    Protocol, ReplayPolicy, Reverse, Rotation, Scheme, Server, Service, Sink, SocketOptions,
    Timeouts, Tls, Transport, User, WebSocket, Writer,
};
pub use self::overrides::Overrides;
pub use self::parse::{parse, parse_with};
pub use self::role::Role;
pub use self::secret::Secret;
pub use self::text::diagnostic::{Diagnostic, Position, Severity, is_for_other_role};
pub use self::url::{ServerUrl, UrlError};
pub use self::written::schema::documented_keys;
