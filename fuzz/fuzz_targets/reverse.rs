//! The frames of reverse tunnels: any bytes, cut anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ssr::wire::Error;
use ssr::wire::reverse::{Decoder, Frame, HEADER_LEN, Item, MAX_PAYLOAD};

/// Everything that a decoder finds: frames as text, and the bytes of each run of Data.
fn found<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, Option<Error>) {
    let mut decoder = Decoder::default();
    let mut out: Vec<(Option<u64>, String)> = Vec::new();
    for mut piece in pieces {
        loop {
            let (used, item) = match decoder.next(piece) {
                Ok(next) => next,
                Err(error) => return (texts(out), Some(error)),
            };
            match item {
                None => {
                    assert_eq!(used, piece.len());
                    break;
                }
                Some(Item::Frame(frame)) => {
                    round_trips(&frame);
                    out.push((None, format!("{frame:?}")));
                }
                Some(Item::Data { id, bytes }) => match out.last_mut() {
                    Some((Some(same), text)) if *same == id => text.push_str(&format!("{bytes:?}")),
                    _ => out.push((Some(id), format!("{bytes:?}"))),
                },
            }
            piece = &piece[used..];
        }
    }
    (texts(out), None)
}

fn texts(found: Vec<(Option<u64>, String)>) -> Vec<String> {
    found
        .into_iter()
        .map(|(_, text)| text.replace("][", ", "))
        .collect()
}

/// A decoded frame encodes, and decodes to itself.
fn round_trips(frame: &Frame<'_>) {
    let mut out = vec![0; HEADER_LEN + MAX_PAYLOAD];
    let len = frame.encode(&mut out).expect("a decoded frame can be encoded");
    let mut decoder = Decoder::default();
    assert_eq!(decoder.next(&out[..len]), Ok((len, Some(Item::Frame(*frame)))));
}

fuzz_target!(|bytes: &[u8]| {
    let Some((size, bytes)) = bytes.split_first() else {
        return;
    };
    let whole = found(std::iter::once(bytes));
    assert_eq!(whole, found(bytes.chunks(usize::from(*size).max(1))));
    assert_eq!(whole, found(bytes.chunks(1)));
});
