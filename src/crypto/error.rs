//! Why sealing or opening failed.

/// Why sealing or opening failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// The peer's fault: the tag does not match key, nonce and ciphertext, or the message is shorter than a tag.
    #[error("authentication failed: wrong key, or the data was changed in transit")]
    Unauthenticated,
    /// The caller's fault: the nonce has the wrong length.
    #[error("the nonce has {got} bytes, but this AEAD needs {needed}")]
    NonceLength {
        /// Bytes that this AEAD needs.
        needed: usize,
        /// Bytes of the nonce.
        got: usize,
    },
    /// The caller's fault: more plaintext than the AEAD can seal under one nonce (about 64 GiB for AES-GCM).
    #[error("the message is too long for one nonce")]
    TooLong,
}
