//! The admin API: HTTP/1.1 for operators and their programs.
//!
//! It runs on a thread of its own, so that nothing that is asked delays a flow.
//!
//! - [`access`]: who may call.
//! - `connections.rs`: accepts connections, and ends those that take too long.
//! - `routes.rs`: what can be asked.
//! - [`model`]: what is answered, as types that the description is made of.
//! - `edit.rs`: what callers change; [`settings`]: what they say of a user.
//! - `ssm.rs`: the same for programs that know the management API of Shadowsocks-NET.
//! - [`openapi`]: the description.
//! - `page.rs`: the dashboard.
//! - `context.rs`: what handlers use.
//! - `reply.rs`: answers as JSON.

pub mod access;
mod connections;
mod context;
mod edit;
pub mod model;
pub mod openapi;
mod page;
mod reply;
mod routes;
pub mod settings;
mod ssm;

pub use connections::Server;
pub use context::{Actions, MakeLink};
