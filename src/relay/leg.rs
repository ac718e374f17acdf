//! The two ends of a relay.

use crate::net::Stream;
use crate::net::pool::Buffer;
use crate::wire::ss::stream::{Opener, Sealer};

/// One end of a relay: a stream and its encryption.
pub struct Leg {
    /// The connection.
    pub stream: Stream,
    /// Its encryption; `None`: the stream is plain.
    pub codec: Option<(Opener, Sealer)>,
    /// The payload that came with the request.
    pub first: First,
}

impl Leg {
    /// A plain stream of which nothing has been read.
    #[must_use]
    pub const fn plain(stream: Stream) -> Self {
        Self {
            stream,
            codec: None,
            first: First::Nothing,
        }
    }
}

/// Payload that came together with a request.
pub enum First {
    /// None.
    Nothing,
    /// Plain bytes that were read after a handshake.
    Ahead(Vec<u8>),
    /// A buffer with opened payload, and perhaps sealed bytes after it.
    Opened(Buffer),
}
