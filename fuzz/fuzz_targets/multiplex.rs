//! The codecs of sing-box's `multiplex`: anything that a peer may send, in pieces of any size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ssr::wire::Error;
use ssr::wire::multiplex::padding::Unpadder;
use ssr::wire::multiplex::smux::{Decoder, Event};
use ssr::wire::multiplex::{Carries, Head, datagram, response};
use ssr_fuzz::pieces;

/// All events of smux in `bytes`, with the data of adjacent pieces joined.
fn events(bytes: &[u8], cuts: &[u16]) -> (Vec<(Event, usize)>, Result<(), Error>) {
    let mut decoder = Decoder::default();
    let mut events: Vec<(Event, usize)> = Vec::new();
    let result = pieces(bytes, cuts, |mut rest| {
        while !rest.is_empty() {
            let (used, event) = decoder.next(rest)?;
            assert!(used > 0 && used <= rest.len());
            match (event, events.last_mut()) {
                (Event::Nothing, _) => {}
                (Event::Data(id), Some((Event::Data(other), len))) if *other == id => *len += used,
                (Event::Data(_), _) => events.push((event, used)),
                _ => events.push((event, 0)),
            }
            rest = &rest[used..];
        }
        Ok(())
    });
    (events, result)
}

/// The data that is left of `bytes` without padding.
fn unpadded(bytes: &[u8], cuts: &[u16]) -> Vec<u8> {
    let (mut unpadder, mut data) = (Unpadder::new(), Vec::new());
    let _ = pieces(bytes, cuts, |mut rest| {
        while !rest.is_empty() {
            let (skip, count) = unpadder.next(rest);
            data.extend(&rest[skip..skip + count]);
            rest = &rest[skip + count..];
        }
        Ok::<_, Error>(())
    });
    data
}

fuzz_target!(|input: (Vec<u16>, &[u8])| {
    let (cuts, bytes) = input;
    assert_eq!(events(bytes, &cuts), events(bytes, &[]));
    assert_eq!(unpadded(bytes, &cuts), unpadded(bytes, &[]));
    if let Ok(Some((head, len))) = Head::parse(bytes) {
        assert!(len <= bytes.len());
        let again = head.encode(3);
        assert_eq!(Head::parse(&again), Ok(Some((head, again.len()))));
    }
    if let Ok(Some((carries, target, len))) = Carries::parse(bytes) {
        assert!(len <= bytes.len());
        let again = carries.encode(target);
        assert_eq!(Carries::parse(&again), Ok(Some((carries, target, again.len()))));
    }
    if let Ok(Some((_, len))) = response(bytes) {
        assert!(len <= bytes.len());
    }
    for addressed in [false, true] {
        if let Ok(Some(((_, data), len))) = datagram(bytes, addressed) {
            assert!(data.len() < len && len <= bytes.len());
        }
    }
});
