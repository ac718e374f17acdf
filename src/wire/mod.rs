//! Floor 1: codecs. Slices in, values and slices out; no IO, no clock, no randomness.
//!
//! | file | what it reads and writes |
//! |---|---|
//! | [`address`] | where to: the address of SOCKS5 and Shadowsocks |
//! | [`socks`] | SOCKS5, both sides: greeting, password, request, reply, UDP header |
//! | [`ss`] | the Shadowsocks protocols: streams, packets, identities |
//! | [`http`] | the heads of an upgrade to WebSocket, and the answers to other requests |
//! | [`websocket`] | WebSocket frames that carry a stream of bytes |
//! | [`mux`] | mux.cool frames, as v2ray-plugin wraps its streams in |
//! | [`http_rewrite`] | HTTP requests on their way through a proxy |
//! | [`proxy_protocol`] | the PROXY protocol: who the visitor is |
//! | [`reverse`] | reverse tunnels: the frames of many streams inside one |
//! | [`peer_protocol`] | the protocol of a peer, guessed from its first byte |
//! | [`error`] | what a peer can get wrong |
//!
//! Every parser takes the bytes received so far and answers `Ok(None)` while they are too few, or the value together
//! with the number of bytes that it took. What follows those bytes is not looked at.
#![deny(
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

pub mod address;
pub mod error;
pub mod udp_over_stream;

pub mod http;
pub mod http_rewrite;
pub mod mux;
pub mod peer_protocol;
pub mod proxy_protocol;
pub mod reverse;
pub mod socks;
pub mod ss;
pub mod websocket;

pub use address::{Address, AddressRef};
pub use error::Error;
