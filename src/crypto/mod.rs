//! Floor: crypto.
