//! Floor 4: rules. Decides for each request whether it goes direct, through a server, or nowhere.
//!
//! - [`rule`]: a rule: its conditions, its action, and where it was written.
//! - [`engine`]: all rules, indexed; the first rule in order that matches decides.
//! - [`domains`]: names by one hash probe a label.
//! - [`networks`]: addresses by sorted ranges.
//! - [`acl`]: the ACL files of shadowsocks-rust and libev, as rules.
//! - [`entry`]: one line of a list or an ACL file.
//! - [`list`]: files with names and networks, plain or compiled; [`geodata`]: v2ray's `geosite.dat` and `geoip.dat`.
//! - [`source`]: rules, lists and an ACL file together; [`live`]: the same, read again when a file changes.
//!
//! Nothing here resolves names or opens sockets: [`engine::Engine::decide`] says when it needs a name's addresses.

pub mod acl;
pub mod domains;
pub mod engine;
pub mod entry;
pub mod geodata;
pub mod list;
pub mod live;
pub mod networks;
pub mod rule;
pub mod source;

pub use engine::{Builder, Decision, Engine, Step};
pub use live::Live;
pub use rule::{Action, Host, Network, Origin, Query, Rule};
pub use source::{Loaded, Side, Source, Written};
