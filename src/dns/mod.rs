//! Floor: dns.
