//! WebSocket frames: anything that a peer may send, in pieces of any size, and what we send ourselves.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ssr::wire::websocket::{Decoder, Encoder, Key, Role, Status, xor};
use ssr_fuzz::pieces;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    server: bool,
    cuts: Vec<u16>,
    kind: Kind<'a>,
}

#[derive(Arbitrary, Debug)]
enum Kind<'a> {
    /// Random bytes.
    Garbage(&'a [u8]),
    /// Frames with any first byte, key and payload.
    Frames(Vec<(u8, Key, &'a [u8])>),
    /// Frames that we write: payloads, some with bytes of the caller before them.
    Ours(Vec<(&'a [u8], &'a [u8], [Key; 2])>),
}

/// What is decoded from `bytes`, and how it ended.
fn read(role: Role, bytes: &[u8], cuts: &[u16]) -> (Vec<u8>, Decoder) {
    let mut decoder = Decoder::new(role);
    let mut payload = Vec::new();
    let _ = pieces(bytes, cuts, |piece| {
        let mut piece = piece.to_vec();
        let direct = decoder.payload_left();
        let open = decoder.status() == Status::Open;
        let len = decoder.decode(&mut piece);
        assert!(len <= piece.len());
        if open && direct >= piece.len() as u64 {
            assert_eq!(len, piece.len(), "payload alone is all payload");
        }
        payload.extend_from_slice(&piece[..len]);
        Ok::<(), ()>(())
    });
    (payload, decoder)
}

fn replies(decoder: &mut Decoder) -> Vec<u8> {
    let encoder = Encoder::new(Role::Server);
    let mut bytes = Vec::new();
    while let Some(head) = encoder.reply(decoder, [0; 4]) {
        bytes.extend_from_slice(head.bytes());
    }
    // A Pong and a Close, whatever has arrived.
    assert!(bytes.len() <= 2 + 125 + 4);
    bytes
}

fuzz_target!(|input: Input<'_>| {
    let role = if input.server {
        Role::Server
    } else {
        Role::Client
    };
    let mut sent: Option<Vec<u8>> = None;
    let wire = match input.kind {
        Kind::Garbage(bytes) => bytes.to_vec(),
        Kind::Frames(frames) => {
            let mut wire = Vec::new();
            for (first, key, payload) in frames.iter().take(16) {
                let len = u8::try_from(payload.len().min(125)).unwrap_or_default();
                wire.extend([*first, len | u8::from(input.server) << 7]);
                if input.server {
                    wire.extend(key);
                }
                wire.extend(payload.iter().take(125));
            }
            wire
        }
        Kind::Ours(runs) => {
            let mut encoder = Encoder::new(if input.server {
                Role::Client
            } else {
                Role::Server
            });
            let (mut wire, mut expected) = (Vec::new(), Vec::new());
            for (extra, payload, keys) in runs.iter().take(16) {
                let extra = &extra[..extra.len().min(20)];
                if extra.is_empty() && payload.is_empty() {
                    continue;
                }
                let (head, key) = encoder.data(extra, payload.len(), *keys);
                let mut payload = payload.to_vec();
                expected.extend(extra);
                expected.extend(&payload);
                if let Some(key) = key {
                    let _ = xor(&mut payload, key);
                }
                wire.extend(head.bytes());
                wire.extend(payload);
                wire.extend(encoder.ping(keys[0]).bytes());
            }
            wire.extend(encoder.end([[1; 4], [2; 4]]).bytes());
            sent = Some(expected);
            wire
        }
    };
    let (payload, mut decoder) = read(role, &wire, &[]);
    let (in_parts, mut decoder_of_parts) = read(role, &wire, &input.cuts);
    assert_eq!(payload, in_parts);
    assert_eq!(decoder.status(), decoder_of_parts.status());
    assert_eq!(decoder.knows_end(), decoder_of_parts.knows_end());
    assert_eq!(replies(&mut decoder), replies(&mut decoder_of_parts));
    if let Some(sent) = sent {
        assert_eq!(payload, sent);
        assert_eq!(decoder.status(), Status::Ended);
        assert!(decoder.at_boundary());
    }
});
