#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use proptest::prelude::*;

use super::*;

/// The bytes before the data in a New frame of v2ray-plugin.
const V2RAY: &[u8] = &[
    0, 12, 0, 1, 1, 1, 1, 0, 0, 1, 127, 0, 0, 1, 0, 3, b'a', b'b', b'c',
];
const SING_BOX: &[u8] = b"\x00\x14\x00\x00\x01\x00\x01\x02\x9a\x02\x0bv1.mux.cool";
const MIHOMO: &[u8] = &[0, 12, 0, 0, 1, 0, 1, 0, 0, 1, 127, 0, 0, 1];

/// All events of `bytes`, cut where `cuts` say; data of neighbouring pieces is joined.
fn events(bytes: &[u8], cuts: &[usize]) -> Result<Vec<(Event, Vec<u8>)>, FrameError> {
    let mut decoder = Decoder::new();
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    let mut events: Vec<(Event, Vec<u8>)> = Vec::new();
    for cut in cuts.windows(2) {
        let mut rest = &bytes[cut[0]..cut[1]];
        while !rest.is_empty() {
            let left = decoder.data_left();
            let (used, event) = decoder.next(rest)?;
            assert!(used > 0, "no progress");
            match (event, events.last_mut()) {
                (Event::Nothing, _) => {}
                (Event::Data(id), last) => {
                    assert!(usize::from(left) >= used);
                    match last {
                        Some((Event::Data(other), data)) if *other == id => {
                            data.extend_from_slice(&rest[..used]);
                        }
                        _ => events.push((event, rest[..used].to_vec())),
                    }
                }
                _ => events.push((event, Vec::new())),
            }
            rest = &rest[used..];
        }
    }
    Ok(events)
}

#[test]
fn writes_what_v2ray_plugin_writes() {
    assert_eq!(Frame::New { id: 1, data: 3 }.head().bytes(), &V2RAY[..16]);
    assert_eq!(
        Frame::New { id: 1, data: 0 }.head().bytes(),
        [0, 12, 0, 1, 1, 0, 1, 0, 0, 1, 127, 0, 0, 1]
    );
    assert_eq!(
        Frame::Keep {
            id: 0x102,
            data: 0x304
        }
        .head()
        .bytes(),
        [0, 4, 1, 2, 2, 1, 3, 4]
    );
    let end = |error| Frame::End { id: 1, error }.head();
    assert_eq!(end(false).bytes(), [0, 4, 0, 1, 3, 0]);
    assert_eq!(end(true).bytes(), [0, 4, 0, 1, 3, 2]);
}

#[test]
fn reads_the_frames_of_its_kin() {
    assert_eq!(
        events(V2RAY, &[]).unwrap(),
        [(Event::New(1), vec![]), (Event::Data(1), b"abc".to_vec())]
    );
    assert_eq!(events(SING_BOX, &[]).unwrap(), [(Event::New(0), vec![])]);
    assert_eq!(events(MIHOMO, &[]).unwrap(), [(Event::New(0), vec![])]);
    let rest = [
        0, 4, 0, 7, 3, 2, 0, 4, 0, 0, 4, 0, 0, 4, 0, 9, 2, 1, 0, 1, 5,
    ];
    assert_eq!(
        events(&rest, &[]).unwrap(),
        [(Event::End(7, true), vec![]), (Event::Data(9), vec![5])]
    );
}

#[test]
fn data_of_no_stream_is_skipped() {
    let bytes = [
        0, 4, 0, 1, 4, 1, 0, 2, 8, 8, 0, 4, 0, 1, 3, 1, 0, 2, 9, 9, 0, 4, 0, 1, 2, 1, 0, 0,
    ];
    assert_eq!(
        events(&bytes, &[]).unwrap(),
        [(Event::End(1, false), vec![])]
    );
}

#[test]
fn longest_head_is_read_and_a_longer_one_is_not() {
    let mut bytes = vec![2, 0, 0, 1, 1, 0];
    bytes.resize(2 + 512, 0);
    assert_eq!(events(&bytes, &[]).unwrap(), [(Event::New(1), vec![])]);
    for meta in [0_u16, 3, 513, 0xffff] {
        let [high, low] = meta.to_be_bytes();
        let read = events(&[high, low, 0, 1, 1, 0], &[]);
        assert_eq!(read, Err(FrameError::MetaLength(meta)));
    }
    for status in [0, 5, 255] {
        let read = events(&[0, 4, 0, 1, status, 0], &[]);
        assert_eq!(read, Err(FrameError::Status(status)));
    }
}

#[test]
fn kinds_are_told_apart_as_early_as_can_be() {
    for bytes in [V2RAY, SING_BOX, MIHOMO] {
        for len in 0..DETECT_LEN {
            assert_eq!(detect(&bytes[..len]), None);
            let mut other = bytes[..DETECT_LEN].to_vec();
            other[len] ^= 0x40;
            let expected = if len == 2 || len == 3 {
                Kind::Mux
            } else {
                Kind::Bare
            };
            assert_eq!(detect(&other), Some(expected), "{len}");
        }
        assert_eq!(detect(bytes), Some(Kind::Mux));
    }
    assert_eq!(detect(&[1]), Some(Kind::Bare));
    assert_eq!(detect(&[0, 13]), Some(Kind::Bare));
    // A mixture of the two is neither.
    let mixed = [&MIHOMO[..7], &SING_BOX[7..14]].concat();
    assert_eq!(detect(&mixed), Some(Kind::Bare));
}

proptest! {
    #[test]
    fn cuts_change_nothing(
        frames in prop::collection::vec((any::<u16>(), 0..4_u8, prop::collection::vec(any::<u8>(), 0..300)), 0..8),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let mut wire = Vec::new();
        for (id, kind, data) in &frames {
            let (id, len) = (*id, u16::try_from(data.len()).unwrap());
            let frame = match kind {
                0 => Frame::New { id, data: len },
                1 => Frame::Keep { id, data: len },
                kind => Frame::End { id, error: *kind == 3 },
            };
            wire.extend_from_slice(frame.head().bytes());
            if *kind < 2 {
                wire.extend_from_slice(data);
            }
        }
        let whole = events(&wire, &[]).unwrap();
        prop_assert_eq!(&events(&wire, &cuts).unwrap(), &whole);
        let data = |events: &[(Event, Vec<u8>)]| events.iter().flat_map(|(_, data)| data.clone()).collect::<Vec<_>>();
        let sent: Vec<u8> = frames.iter().filter(|(_, kind, _)| *kind < 2).flat_map(|(.., data)| data.clone()).collect();
        prop_assert_eq!(data(&whole), sent);
    }

    #[test]
    fn anything_is_read_alike_however_it_is_cut(
        bytes in prop::collection::vec(0..6_u8, 0..200),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        prop_assert_eq!(events(&bytes, &cuts), events(&bytes, &[]));
        prop_assert!(bytes.len() < DETECT_LEN || detect(&bytes).is_some());
    }
}
