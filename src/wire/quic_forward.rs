//! What `quic://` endpoints of forwards say to each other: one byte at the beginning of each stream, in the direction of the target.
//! The other end hears of a stream by its first byte only, and the target may be the one that speaks first.

/// The first byte of a stream.
pub const BEGIN: u8 = 0;
