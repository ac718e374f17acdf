//! What a stream has moved.

/// Payload bytes that were relayed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// From the client.
    pub(super) up: u64,
    /// To the client.
    pub(super) down: u64,
}
