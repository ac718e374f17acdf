//! Floor 0: cryptography. Bytes in, bytes out; no IO, no clock, no randomness.
//!
//! | file | what it knows |
//! |---|---|
//! | [`lanes`] | HKDF-SHA1 for eight salts at once |
//! | [`method`] | the table of encryption methods: names, lengths, families |
//! | [`key`] | master keys, and every key derived from one |
//! | [`aead`] | sealing and opening in place, and the nonce that counts |
//! | [`base64`] | base64 as people write keys |
//! | [`block`] | the bare AES block of SIP022 packet headers and SIP023 identity headers |
//! | [`salt_pool`] | salts seen before: replay protection of streams |
//! | [`window`] | packet ids seen before: replay protection of datagrams |
//!
//! The caller brings what makes a run unrepeatable (random salts, the time of day), so that everything here can be
//! tested against published vectors.
#![deny(
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

pub mod aead;
pub mod base64;
pub mod block;
pub mod key;
pub mod lanes;
pub mod method;
pub mod salt_pool;
pub mod window;

pub use aead::{Aead, Nonce, NonceCounter, TAG_LEN};
pub use block::Block;
pub use key::{Key, KeyError};
pub use lanes::LANES;
pub use method::{Family, Method, MethodError};
pub use salt_pool::{ReplayPolicy, SaltPool};
pub use window::Window;

/// Why sealing or opening failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// The peer's fault: the tag does not fit key, nonce and ciphertext, or there is no room for a tag at all.
    #[error("authentication failed: wrong key, or the data was changed on its way")]
    Unauthenticated,
    /// The caller's fault: a nonce of `got` bytes for an AEAD that takes `needed`.
    #[error("a nonce of {got} bytes where {needed} are needed")]
    NonceLength {
        /// Bytes that this AEAD takes.
        needed: usize,
        /// Bytes that were given.
        got: usize,
    },
    /// The caller's fault: more plaintext than the AEAD takes under one nonce (64 GiB and more).
    #[error("the message is too long for one nonce")]
    TooLong,
}
