//! Floor 4: reads what clients want.
//!
//! - [`mixed`]: programs that speak SOCKS5, SOCKS4 or HTTP to one port of `ssr local`; [`login`]: their users.
//! - [`socks`]: those that speak SOCKS5; [`socks4`]: those that speak SOCKS4.
//! - [`http`]: those that speak HTTP.
//! - [`udp_associate`]: which of them may send datagrams.
//! - [`dns`]: programs that ask `ssr local` for names.
//! - [`forward`]: clients of a port that has one target.
//! - [`redir`]: what the firewall redirects to `ssr local`; [`sniff`]: the names that it is for.
//! - [`tun`]: what programs open through a tun device.
//! - [`shadowsocks`]: clients of `ssr server`, and strangers who pretend to be clients.
//! - [`stream_datagrams`]: those of them who send datagrams in streams.
//! - [`multiplex`]: streams that such clients multiplex, as sing-box does.
//! - [`reverse`]: visitors of reverse tunnels.

pub mod dns;
pub mod forward;
pub mod http;
pub mod login;
pub mod mixed;
pub mod multiplex;
pub mod redir;
pub mod reverse;
pub mod shadowsocks;
pub mod sniff;
pub mod socks;
pub mod socks4;
pub mod stream_datagrams;
pub mod tun;
pub mod udp_associate;
