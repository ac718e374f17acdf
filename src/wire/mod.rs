//! Floor 1: codecs. Slices in, values and slices out; no IO, no clock, no randomness.
//!
//! | file | contents |
//! |---|---|
//! | [`address`] | the address format of SOCKS5 and Shadowsocks |
//! | [`sniff`] | the host that a client's first bytes are for: TLS server name, HTTP `Host` |
//! | [`socks`] | SOCKS5, both sides: greeting, password, request, response, UDP header |
//! | [`ss`] | the Shadowsocks protocols: streams, packets, identity headers |
//! | [`http`] | the HTTP upgrade to WebSocket, and responses to other requests |
//! | [`websocket`] | WebSocket frames that carry a byte stream |
//! | [`multiplex`] | sing-box's `multiplex`: the heads of sessions and streams, padding, smux |
//! | [`mux`] | mux.cool frames, in which v2ray-plugin carries several streams |
//! | [`http_connect`] | HTTP CONNECT, as a client of a proxy speaks it |
//! | [`http_rewrite`] | rewriting of HTTP requests that pass through a proxy |
//! | `http_strict` | the parts of HTTP in which parsers differ |
//! | [`proxy_protocol`] | the PROXY protocol: tells a target the address of its visitor |
//! | [`quic_forward`] | the beginning of the streams between `quic://` endpoints of forwards |
//! | [`dns`] | DNS messages, as a forwarder reads and changes them |
//! | [`ip`] | IP packets of a tun device, with TCP, UDP and ICMP |
//! | [`quic_packets`] | Shadowsocks packets in datagrams of QUIC |
//! | [`reverse`] | the frames of reverse tunnels, which carry many streams in one |
//! | [`reserved`] | the targets by which a client asks the server for a service of its own |
//! | [`udp_over_stream`] | Shadowsocks packets inside a stream |
//! | [`udp_over_tcp`] | plain datagrams inside a stream, as sing-box has them |
//! | [`client_hello`] | whether what a client has sent is a ClientHello of TLS, which may be sent twice |
//! | [`peer_protocol`] | the protocol of a peer, guessed from its first byte |
//! | [`error`] | what can be wrong with a message |
//!
//! Every parser gets the bytes received so far. It returns `Ok(None)` while they are too few, else the value and the number
//! of bytes that it read. It ignores what follows those bytes.
#![deny(
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

pub mod address;
pub mod client_hello;
pub mod dns;
pub mod error;
pub mod http;
pub mod http_connect;
pub mod http_proxy;
pub mod http_rewrite;
mod http_strict;
pub mod ip;
pub mod multiplex;
pub mod mux;
pub mod peer_protocol;
pub mod proxy_protocol;
pub mod quic_forward;
pub mod quic_packets;
pub mod reserved;
pub mod reverse;
pub mod sniff;
pub mod socks;
pub mod socks4;
pub mod ss;
pub mod udp_over_stream;
pub mod udp_over_tcp;
pub mod websocket;

pub use address::{Address, AddressRef};
pub use error::Error;
