//! Floor: inbound.
