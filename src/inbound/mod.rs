//! Floor 4: who asks for what.
//!
//! - [`socks`]: programs beside `ssr local`, by SOCKS5.
//! - [`associations`]: which of them may send datagrams.
//! - [`tunnel`]: programs that are all taken to one target.
//! - [`shadowsocks`]: clients of `ssr server`, and strangers who pretend to be some.
//! - [`reverse`]: visitors of reverse tunnels.

pub mod associations;
pub mod reverse;
pub mod shadowsocks;
pub mod socks;
pub mod tunnel;
