//! What is wrong with a message of a client or a server.

use super::super::http_strict;

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The message is not HTTP/1.1, or is ambiguous.
    #[error("the message is not valid HTTP/1.1, or is ambiguous")]
    Malformed,
    /// The head is longer than [`super::MAX_HEAD`], or has more than 128 header lines.
    #[error("the head of the message is longer than 64 KiB or has more than 128 lines")]
    TooLong,
    /// The request is not addressed to a proxy.
    #[error("the request is not addressed to a proxy: its target is not an absolute http:// URL")]
    NotForProxy,
}

impl From<http_strict::Malformed> for Error {
    fn from(_: http_strict::Malformed) -> Self {
        Self::Malformed
    }
}
