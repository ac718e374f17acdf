//! `ssr`: an encrypted SOCKS5 proxy that speaks the Shadowsocks protocols.

pub mod app;
pub mod config;
pub mod crypto;
pub mod dns;
pub mod inbound;
pub mod net;
pub mod outbound;
pub mod relay;
pub mod wire;
