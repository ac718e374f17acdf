//! QUIC (RFC 9000) as a transport, by quinn: one connection between the two halves, and in it one stream for each flow, and datagrams.
//!
//! - `client.rs`: the connection to a server, which all flows share.
//! - `carrier.rs`: one such connection: its flows, its end, and its moves to another network.
//! - `icmp.rs`: notices that nobody serves a port.
//! - `server.rs`: the connections that come to a UDP port.
//! - `ports.rs`: how one listener of a port follows another, in this process or the next; `port.rs`: the socket that they share;
//!   `ids.rs`: ids that say whose a connection is; `passage.rs`: passes datagrams to an earlier listener.
//! - `packets.rs`: the packets of UDP associations; `carry.rs`: those of a client.
//! - `stream.rs`: one stream; `early.rs`: what was sent in it before the server has agreed to 0-RTT.
//! - `beside.rs`: more streams of the connection that a stream is in.
//! - `settings.rs`: how connections send and receive; their errors.
//!
//! What is inside the streams is the same as inside TCP connections: nothing here knows users or strangers.

mod bbr;
mod beside;
mod carrier;
mod carry;
mod client;
mod early;
mod icmp;
mod ids;
mod packets;
mod passage;
mod port;
mod ports;
mod server;
mod settings;
pub(super) mod stream;
mod unread;

pub use beside::Beside;
pub use carry::Carried;
pub use client::Client;
pub use packets::Arrived;
pub use ports::{Claim, Passage, Ports};
pub use server::{Arrival, Listener, Server, Session};
pub use settings::{Congestion, Settings};

#[cfg(test)]
mod packet_tests;
#[cfg(test)]
mod tests;
