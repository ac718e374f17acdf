//! Floor 4: reads what clients want.
//!
//! - [`socks`]: programs that speak SOCKS5 to `ssr local`.
//! - [`udp_associate`]: which of them may send datagrams.
//! - [`forward`]: clients of a port that has one target.
//! - [`redir`]: what the firewall redirects to `ssr local`.
//! - [`shadowsocks`]: clients of `ssr server`, and strangers who pretend to be clients.
//! - [`reverse`]: visitors of reverse tunnels.

pub mod forward;
pub mod redir;
pub mod reverse;
pub mod shadowsocks;
pub mod socks;
pub mod udp_associate;
