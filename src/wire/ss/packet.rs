//! UDP packets, sealed and opened in place.
//!
//! ```text
//! AEAD-2017        salt ‖ seal(address ‖ data)                                       nonce 0, a subkey for each packet
//! AEAD-2022 AES    block(session id u64 ‖ packet id u64be) ‖ identity×n ‖ seal(body) nonce = plain header [4..16]
//! AEAD-2022 ChaCha nonce 24 ‖ seal(session id ‖ packet id ‖ body)                    XChaCha20 under the PSK itself
//!   body           type ‖ unix seconds u64be ‖ [client session id, when type 1] ‖ padding length u16be ‖ padding
//!                  ‖ address ‖ data
//! ```
//!
//! A packet sealer needs room before the body ([`PacketSealer::headroom`]) and for a tag after it. The session of a packet is
//! read first ([`Accounts::identify`](super::Accounts::identify), [`ClientPackets::open`]); the state of a session changes only after the packet has been
//! opened and validated.

mod client;
mod header;
mod sealer;
mod server;
mod subkeys;

pub use super::keys::has_sessions;
pub use client::ClientPackets;
pub use sealer::PacketSealer;
pub use server::{PacketHeader, ServerPackets};
pub use subkeys::Subkeys;
