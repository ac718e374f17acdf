//! Visitors of reverse tunnels whose service depends on what they send. A port of one service needs no inbound of its own:
//! see [`crate::relay::tcp::FixedTarget`].

pub mod http;
