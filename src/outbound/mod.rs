//! Floor 4: how to reach a target.
//!
//! - [`balancer`]: which of several servers is used, and which are avoided.
//! - [`dialer`]: resolves a name and connects to one of its addresses.
//! - [`direct`]: connects straight to the target.
//! - [`proxy_chain`]: proxies on the way (`outbound_proxy`); `proxied_packets.rs`: datagrams through one.
//! - [`websocket`]: connects to the target and upgrades the connection to WebSocket.
//! - [`quic`]: opens a stream of QUIC to a target that takes it.
//! - [`endpoint`]: one Shadowsocks server: address, credentials, dialer, transport.
//! - [`ways`]: QUIC to a server, or what is used where a network blocks UDP.
//! - [`warm`]: spare connections to a server.
//! - [`udp_over_stream`]: datagrams inside streams to a server; `quic_packets.rs`: those in a QUIC connection.
//! - [`multiplex`]: the sessions of sing-box's `multiplex` with a server, and streams in them.
//! - [`shadowsocks`]: picks one of several servers and goes through it; `server.rs`: one of them;
//!   `reach.rs`: connects to it.
//! - [`current`]: servers that can be replaced while they are in use.
//! - [`reverse`]: through a reverse tunnel, and from its end to the target.

pub mod balancer;
pub mod current;
pub mod dialer;
pub mod direct;
pub mod endpoint;
pub mod multiplex;
mod proxied_packets;
pub mod proxy_chain;
pub mod quic;
mod quic_packets;
mod reach;
mod request_leg;
pub mod reverse;
mod server;
pub mod shadowsocks;
pub mod udp_over_stream;
pub mod warm;
pub mod ways;
pub mod websocket;
