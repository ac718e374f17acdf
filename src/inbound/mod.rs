//! Floor 4: reads what clients want.
//!
//! - [`socks`]: programs that speak SOCKS5 to `ssr local`.
//! - [`udp_associate`]: which of them may send datagrams.
//! - [`dns`]: programs that ask `ssr local` for names.
//! - [`forward`]: clients of a port that has one target.
//! - [`shadowsocks`]: clients of `ssr server`, and strangers who pretend to be clients.
//! - [`reverse`]: visitors of reverse tunnels.

pub mod dns;
pub mod forward;
pub mod reverse;
pub mod shadowsocks;
pub mod socks;
pub mod udp_associate;
