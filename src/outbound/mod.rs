//! Floor: outbound.
