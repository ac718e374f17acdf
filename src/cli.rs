//! The command line. Flags become [`Overrides`] of the config.
//!
//! - `roles`: `ssr local`, `ssr server`, `ssr forward`; flags of shadowsocks-rust keep their names and meanings.
//! - `libev`, `manager`, `names`: what `ssr` is through a link named `ss-local`, `sslocal` and so on.
//! - `daemon`: running in the background.
//! - `url`, `import`, `check`, `genkey`, `pages`: commands that print something and end.
//! - `why`, `status`, `upgrade`: ask a running process; `asked` finds it.
//! - `doctor`: prints what is found wrong.
//! - `progress`: how far a download is, on a terminal.
//! - `hint`: what a terminal shows of `ssr local`.

pub(crate) mod acl;
#[cfg(feature = "admin")]
mod api;
mod asked;
pub(crate) mod check;
pub(crate) mod command;
pub(crate) mod daemon;
pub(crate) mod doctor;
pub(crate) mod genkey;
pub(crate) mod hint;
pub(crate) mod import;
mod libev;
mod manager;
pub(crate) mod names;
mod nowhere;
pub(crate) mod output;
pub(crate) mod pages;
pub(crate) mod progress;
pub(crate) mod redir_rules;
pub(crate) mod request;
mod roles;
pub(crate) mod status;
#[cfg(feature = "admin")]
pub(crate) mod top;
pub(crate) mod upgrade;
pub(crate) mod url;
#[cfg(feature = "admin")]
pub(crate) mod user;
pub(crate) mod why;

#[cfg(test)]
mod tests;
