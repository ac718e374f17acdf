//! The two ends of a relay.

use crate::net::Stream;
use crate::net::pool::Buffer;
use crate::wire::ss::stream::{Opener, Sealer};

/// One end of a relay: a stream, and what is spoken on it.
pub struct Leg {
    /// The connection.
    pub stream: Stream,
    /// How bytes are coded on it; `None`: not at all.
    pub codec: Option<(Opener, Sealer)>,
    /// What came with the request.
    pub first: First,
}

impl Leg {
    /// A stream on which bytes are what they are, and none has come yet.
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
    /// A few bytes behind a handshake.
    Ahead(Vec<u8>),
    /// A buffer with payload ready and perhaps sealed bytes behind it.
    Opened(Buffer),
}
