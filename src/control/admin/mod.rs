//! The admin API: HTTP/1.1 for operators and their programs.
//!
//! It runs on a thread of its own, so that nothing that is asked delays a flow.
//!
//! - [`access`]: who may call.
//! - `connections.rs`: accepts connections, and ends those that take too long.
//! - `routes.rs`: what can be asked.
//! - [`model`]: what is answered, as types that the description is made of.
//! - `reply.rs`: answers as JSON.

pub mod access;
mod connections;
pub mod model;
mod reply;
mod routes;

pub use connections::Server;
pub use routes::Actions;
