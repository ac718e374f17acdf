//! How long each part of a stream's life may take.

use std::time::Duration;

/// How long each part of a stream's life may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From accept to a complete request. Within a transport, it holds for the transport's handshake and once more for
    /// the request.
    pub handshake: Duration,
    /// For connecting to a server or target.
    pub connect: Duration,
    /// Without a byte in either direction.
    pub idle: Duration,
    /// The same, once one direction has ended.
    pub half_close: Duration,
    /// How long a request waits for its first payload after the dial.
    pub first_payload: Duration,
    /// How long an upstream may be silent before the system probes it; `None`: for ever.
    pub keep_alive: Option<Duration>,
}
