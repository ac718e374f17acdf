//! mux.cool frames: anything that a peer may send, in pieces of any size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ssr::wire::mux::{DETECT_LEN, Decoder, Event, Frame, FrameError, detect};
use ssr_fuzz::pieces;

/// All events of `bytes`, with the data of adjacent pieces joined.
fn events(bytes: &[u8], cuts: &[u16]) -> (Vec<(Event, usize)>, Result<(), FrameError>) {
    let mut decoder = Decoder::new();
    let mut events: Vec<(Event, usize)> = Vec::new();
    let result = pieces(bytes, cuts, |mut rest| {
        while !rest.is_empty() {
            let left = usize::from(decoder.data_left());
            let (used, event) = decoder.next(rest)?;
            assert!(used > 0 && used <= rest.len());
            match (event, events.last_mut()) {
                (Event::Nothing, _) => assert_eq!(left, 0),
                (Event::Data(id), Some((Event::Data(other), len))) if *other == id => *len += used,
                (Event::Data(_), _) => {
                    assert!(used <= left);
                    events.push((event, used));
                }
                _ => events.push((event, 0)),
            }
            rest = &rest[used..];
        }
        Ok(())
    });
    (events, result)
}

fuzz_target!(|input: (Vec<u16>, &[u8])| {
    let (cuts, bytes) = input;
    let whole = events(bytes, &[]);
    assert_eq!(events(bytes, &cuts), whole);
    // Once detected, the protocol stays the same.
    let kind = detect(bytes);
    assert!(kind.is_some() || bytes.len() < DETECT_LEN);
    for cut in 0..bytes.len().min(DETECT_LEN + 2) {
        let early = detect(&bytes[..cut]);
        assert!(early.is_none() || early == kind);
    }
    // A frame that is encoded again decodes to the same.
    let mut wire = Vec::new();
    for (event, len) in &whole.0 {
        let head = match *event {
            Event::New(id) => Frame::New { id, data: 0 }.head(),
            Event::End(id, error) => Frame::End { id, error }.head(),
            Event::Data(id) => {
                let data = u16::try_from(*len).unwrap_or(u16::MAX);
                let head = Frame::Keep { id, data }.head();
                wire.extend(head.bytes());
                wire.resize(wire.len() + usize::from(data), 0);
                continue;
            }
            Event::Nothing => continue,
        };
        wire.extend(head.bytes());
    }
    assert_eq!(events(&wire, &cuts).0, whole.0);
});
