//! The Shadowsocks protocols as bytes: AEAD-2017 (SIP004, SIP007) and AEAD-2022 (SIP022, with identity headers: SIP023).
//!
//! - [`keys`]: the keys and users of clients and servers.
//! - [`stream`]: the chunks of a TCP stream, sealed and opened in place.
//! - [`request`]: the header of a request stream, as a server reads it.
//! - [`packet`]: UDP packets.
//!
//! `seal` encrypts and `open` decrypts. A client seals the request and opens the response; a server opens the request and
//! seals the response. Nothing here reads a clock or generates random bytes: both are arguments.

mod bytes;
mod header;
pub mod keys;
pub mod packet;
pub mod request;
pub mod stream;
mod trial;

pub use header::{MAX_PADDING, MAX_TIME_SKEW, Now};
pub use keys::{Account, Accounts, Credentials, Salt};

#[cfg(test)]
mod tests;
