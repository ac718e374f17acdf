//! Floor 4: how to reach it.
//!
//! - [`direct`]: resolve and connect.
//! - [`shadowsocks`]: through one of several servers.

pub mod direct;
pub mod shadowsocks;
