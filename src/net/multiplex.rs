//! Many streams in one, as sing-box's `multiplex` has them: smux, yamux and HTTP/2.
//!
//! ```text
//! Stream ┐                                                   ┌ Stream
//! Stream ┼ session ── one stream, perhaps padded ── session ┼ Stream
//! Stream ┘                                                   └ Stream
//! ```
//!
//! - `carrier.rs`: the one stream, as the crates read and write it.
//! - `padding.rs`: the padding of its first frames.
//! - `channel.rs`: a stream of yamux or HTTP/2 as a [`Stream`](crate::net::Stream).
//! - `session.rs`: what the multiplexers have in common.
//! - `yamux.rs`, `h2.rs`, `smux.rs`: the multiplexers, and `start.rs`, which chooses one.
//! - [`serve`] runs the session of a server, [`Client`] that of a client.

mod carrier;
mod channel;
mod client;
mod h2;
mod padding;
mod server;
mod session;
mod smux;
mod start;
mod yamux;

pub use carrier::Carrier;
pub use client::{Client, Token};
pub use server::serve;

#[cfg(test)]
mod tests;
