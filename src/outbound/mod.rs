//! Floor 4: how to reach it.
//!
//! - [`datagrams`]: packets inside streams.
//! - [`direct`]: resolve and connect.
//! - [`reverse`]: through a reverse tunnel, and behind it.
//! - [`tunnel`]: by WebSocket.
//! - [`shadowsocks`]: through one of several servers.
//! - [`warm`]: connections to a server that are there before they are asked for.

pub mod datagrams;
pub mod direct;
pub mod reverse;
pub mod shadowsocks;
pub mod tunnel;
pub mod warm;
