//! Floor 0: cryptography. Bytes in, bytes out; no IO, no clock, no randomness.
//!
//! | file | contents |
//! |---|---|
//! | [`method`] | the table of encryption methods: names, lengths, families |
//! | [`key`] | master keys, and the keys derived from them |
//! | [`lanes`] | HKDF-SHA1 for eight salts at once |
//! | [`aead`] | sealing and opening in place, and nonce counters |
//! | [`block`] | the bare AES block of SIP022 packet headers and SIP023 identity headers |
//! | `generations` | a map that forgets its oldest entries |
//! | [`salt_pool`] | replay protection of streams, and of AEAD-2017 packets |
//! | [`window`] | replay protection of AEAD-2022 packets |
//! | [`ended`] | the same, of sessions that have ended |
//! | [`base64`] | base64 as people write keys |
//!
//! "AEAD-2017" is the protocol of SIP004 (streams) and SIP007 (packets), "AEAD-2022" that of SIP022 and SIP023.
//!
//! The caller passes in random salts and the time of day, so that everything here can be tested against published vectors.
#![deny(
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

pub mod aead;
pub mod base64;
pub mod block;
pub mod ended;
mod error;
mod generations;
pub mod key;
pub mod lanes;
pub mod method;
pub mod salt_pool;
pub mod window;

pub use aead::{Aead, Nonce, NonceCounter};
pub use block::Block;
pub use ended::EndedSessions;
pub use error::Error;
pub use key::{Key, KeyError};
pub use lanes::LANES;
pub use method::{Family, Method, MethodError, TAG_LEN};
pub use salt_pool::{ReplayPolicy, SaltPool, SaltRefusal};
pub use window::Window;
