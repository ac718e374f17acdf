//! Floor: wire.
