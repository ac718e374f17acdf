//! Reverse tunnels: many streams multiplexed over one.
//!
//! ```text
//! 0000 InitialRemoteServer   op u16be ‖ length u32be ‖ name          \
//! 0001 InitialConnection     op ‖ id u48be ‖ port u16be               | v0, port-proxy's protocol
//! 0002 Heartbeat             op                                      /
//! 0003 Data                  op ‖ id ‖ length u32be ‖ bytes          \ both versions
//! 0004 Reset                 op ‖ id                                 / v0: CloseConnection
//! 0005… (v1)                 op ‖ id ‖ length u32be ‖ payload        unknown ops are skipped
//! ```
//!
//! On a v1 link each side sends [`Frame::Hello`] first. The server gives its streams even ids, the client odd ones;
//! no id is used twice. `docs/wire.md` describes the protocol for other implementations.

mod decoder;
mod frame;
mod payload;

pub use decoder::{Decoder, Item};
pub use frame::{Frame, data_header};
pub use payload::{
    Code, Connect, HEADER_LEN, Hello, LinkSecret, MAX_ID, MAX_MESSAGE, MAX_PAYLOAD, NONCE_LEN,
    OwnStreams, Protocol, Register,
};

use super::AddressRef;

/// The reserved target host by which a client asks the server for a link. No resolver knows the name, so a server
/// that does not speak this protocol refuses the request.
pub const HOST: &str = "tunnel.v1.ssr.invalid";
/// The port that goes with [`HOST`].
pub const PORT: u16 = 9015;

/// The reserved target address of a link.
#[must_use]
pub const fn target() -> AddressRef<'static> {
    AddressRef::Domain(HOST, PORT)
}

#[cfg(test)]
mod tests;
