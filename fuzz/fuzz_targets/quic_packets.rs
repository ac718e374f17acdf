//! Packets in datagrams of QUIC: which association they are for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ssr::wire::quic_packets::{Head, MAX_HEAD, parse};

fuzz_target!(|bytes: &[u8]| {
    let Some((association, start)) = parse(bytes) else {
        return;
    };
    assert!(start <= MAX_HEAD && start < bytes.len());
    // The shortest head says the same.
    let head = Head::new(association);
    assert!(head.bytes().len() <= start);
    let again = [head.bytes(), &bytes[start..]].concat();
    assert_eq!(parse(&again), Some((association, head.bytes().len())));
    // Without its packet it is nothing.
    assert_eq!(parse(&bytes[..start]), None);
});
