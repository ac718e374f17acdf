//! Floor 4: how to reach it.
//!
//! - [`udp_over_stream`]: packets inside streams.
//! - [`direct`]: resolve and connect.
//! - [`reverse`]: through a reverse tunnel, and behind it.
//! - [`websocket`]: by WebSocket.
//! - [`shadowsocks`]: through one of several servers.
//! - [`warm`]: connections to a server that are there before they are asked for.

pub mod direct;
pub mod reverse;
pub mod shadowsocks;
pub mod udp_over_stream;
pub mod warm;
pub mod websocket;
