//! Floor 4: who asks for what.
//!
//! - [`socks`]: programs beside `ssr local`, by SOCKS5.
//! - [`udp_associate`]: which of them may send datagrams.
//! - [`forward`]: programs that are all taken to one target.
//! - [`shadowsocks`]: clients of `ssr server`, and strangers who pretend to be some.
//! - [`reverse`]: visitors of reverse tunnels.

pub mod forward;
pub mod reverse;
pub mod shadowsocks;
pub mod socks;
pub mod udp_associate;
