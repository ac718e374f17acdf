//! Floor: relay.
