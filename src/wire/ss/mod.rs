//! The Shadowsocks protocols as bytes: SIP004 (AEAD), SIP022 (2022 edition), SIP023 (identity headers).
//!
//! - [`keys`]: what a client and what a server must know.
//! - [`stream`]: the chunks of a TCP stream, sealed and opened in place.
//! - [`request`]: the head of a request stream, as a server reads it.
//! - [`packet`]: UDP packets.
//!
//! `seal` moves plain to encrypted and `open` moves encrypted to plain. A client seals the request and opens the
//! response; a server opens the request and seals the response. Nothing here reads a clock or draws random bytes:
//! both are arguments.

mod bytes;
mod header;
pub mod keys;
pub mod packet;
pub mod request;
pub mod stream;

pub use header::{MAX_PADDING, MAX_TIME_SKEW};
pub use keys::{Account, Accounts, Credentials, Salt};

#[cfg(test)]
mod tests;
