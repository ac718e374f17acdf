#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use padding::{FRAMES, Unpadder};
use proptest::prelude::*;
use smux::{Decoder, Event, Frame};

#[test]
fn heads_of_both_versions_are_read_however_they_are_cut() {
    for protocol in [Protocol::Smux, Protocol::Yamux, Protocol::H2] {
        assert_eq!(Protocol::named(protocol.name()), Some(protocol));
        for padding in [false, true] {
            let head = Head { protocol, padding };
            let mut bytes = head.encode(300);
            let len = bytes.len();
            bytes.extend_from_slice(b"rest");
            for cut in 0..len {
                assert_eq!(Head::parse(&bytes[..cut]), Ok(None), "{cut} of {len}");
            }
            assert_eq!(Head::parse(&bytes), Ok(Some((head, len))));
        }
    }
    let unpadded = Head {
        protocol: Protocol::Yamux,
        padding: false,
    };
    assert_eq!(Head::parse(&[1, 1, 0, 9]), Ok(Some((unpadded, 3))));
    for wrong in [&[2][..], &[0, 3], &[1, 0, 2]] {
        assert!(Head::parse(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn requests_of_streams_have_the_layout_of_sing_box() {
    let target = AddressRef::Domain("a.test", 443);
    let bytes = Carries::Bytes.encode(target);
    assert_eq!(bytes, b"\0\0\x03\x06a.test\x01\xbb");
    for carries in [Carries::Bytes, Carries::Datagrams, Carries::Addressed] {
        let bytes = carries.encode(target);
        let parsed = Carries::parse(&bytes).unwrap();
        assert_eq!(parsed, Some((carries, target, bytes.len())));
        for cut in 0..bytes.len() {
            assert_eq!(Carries::parse(&bytes[..cut]), Ok(None));
        }
    }
    assert_eq!(Carries::Addressed.encode(target)[..2], [0, 3]);
    assert!(Carries::parse(&[0, 0, 9, 9, 9]).is_err());
}

#[test]
fn responses_are_read_back_and_are_bounded() {
    assert_eq!(response(&OPEN), Ok(Some((Ok(()), 1))));
    for len in [0, 5, 127, 128, 300, MAX_MESSAGE] {
        let message = "x".repeat(len);
        let bytes = refusal(&message);
        for cut in 0..bytes.len() {
            assert_eq!(response(&bytes[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(response(&bytes), Ok(Some((Err(message), bytes.len()))));
    }
    let cut = refusal(&"é".repeat(MAX_MESSAGE));
    assert!(cut.len() <= MAX_MESSAGE + 3);
    assert!(response(&cut).unwrap().is_some());
    assert!(response(&[2]).is_err());
    assert!(response(&[1, 0xff, 0xff, 0xff]).is_err(), "too long");
    let (shown, _) = response(&[1, 3, b'a', b'\n', b'b']).unwrap().unwrap();
    assert_eq!(shown, Err("ab".to_owned()), "no control characters in logs");
}

#[test]
fn datagrams_are_read_with_and_without_addresses() {
    let plain = [0, 2, 7, 8, 0];
    assert_eq!(datagram(&plain, false), Ok(Some(((None, &[7, 8][..]), 4))));
    assert_eq!(datagram(&plain[..3], false), Ok(None));
    let addressed = [1, 127, 0, 0, 1, 0, 53, 0, 1, 9];
    let address = AddressRef::Ip(([127, 0, 0, 1], 53).into());
    let expected = Some(((Some(address), &[9][..]), 10));
    assert_eq!(datagram(&addressed, true), Ok(expected));
    for cut in 0..addressed.len() {
        assert_eq!(datagram(&addressed[..cut], true), Ok(None));
    }
    assert!(datagram(&[9, 9], true).is_err());
}

#[test]
fn wrong_smux_frames_are_refused() {
    let wrong = [
        [2, 2, 0, 0, 0, 0, 0, 0],
        [1, 4, 0, 0, 0, 0, 0, 0],
        [1, 0, 1, 0, 3, 0, 0, 0],
    ];
    for head in wrong {
        assert!(Decoder::default().next(&head).is_err(), "{head:?}");
    }
    assert_eq!(Frame::Data(0x0201, 3).head(), [1, 2, 3, 0, 1, 2, 0, 0]);
}

/// Feeds `bytes` to `next` in pieces of these lengths, over and over.
fn in_pieces(bytes: &[u8], cuts: &[usize], mut next: impl FnMut(&[u8])) {
    let mut rest = bytes;
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            return;
        }
        let (piece, after) = rest.split_at((*cut).clamp(1, rest.len()));
        next(piece);
        rest = after;
    }
}

proptest! {
    #[test]
    fn padding_is_taken_out_however_it_is_cut(
        frames in proptest::collection::vec((0_u16..40, 0_u16..40), 0..24),
        cuts in proptest::collection::vec(1_usize..50, 1..6),
    ) {
        let (mut sent, mut data) = (Vec::new(), Vec::<u8>::new());
        for (number, (len, padding)) in frames.iter().enumerate() {
            let padded = number < usize::from(FRAMES);
            if padded {
                sent.extend(padding::head(*len, *padding));
            }
            let bytes: Vec<u8> = (0..*len).map(|byte| byte.to_le_bytes()[0]).collect();
            sent.extend(&bytes);
            data.extend(&bytes);
            if padded {
                sent.resize(sent.len() + usize::from(*padding), 0xee);
            }
        }
        let (mut unpadder, mut found) = (Unpadder::new(), Vec::<u8>::new());
        in_pieces(&sent, &cuts, |mut piece| while !piece.is_empty() {
            let (skip, count) = unpadder.next(piece);
            found.extend(&piece[skip..skip + count]);
            piece = &piece[skip + count..];
        });
        prop_assert_eq!(found, data);
        prop_assert!(unpadder.at_boundary());
    }

    #[test]
    fn smux_frames_come_out_as_they_went_in(
        frames in proptest::collection::vec((0_u8..4, 0_u32..9, 0_u16..60), 0..20),
        cuts in proptest::collection::vec(1_usize..50, 1..6),
    ) {
        let (mut sent, mut expected) = (Vec::new(), Vec::new());
        for (kind, stream, len) in frames {
            let frame = match kind {
                0 => Frame::Open(stream),
                1 => Frame::End(stream),
                2 => Frame::Data(stream, len),
                _ => Frame::Nothing,
            };
            sent.extend(frame.head());
            match frame {
                Frame::Open(stream) => expected.push((Event::Open(stream), 0)),
                Frame::End(stream) => expected.push((Event::End(stream), 0)),
                Frame::Data(stream, len) => {
                    sent.resize(sent.len() + usize::from(len), 1);
                    expected.extend((0..len).map(|_| (Event::Data(stream), 1)));
                }
                Frame::Nothing => {}
            }
        }
        let (mut decoder, mut found) = (Decoder::default(), Vec::new());
        in_pieces(&sent, &cuts, |mut piece| while !piece.is_empty() {
            let (used, event) = decoder.next(piece).unwrap();
            match event {
                Event::Nothing => {}
                Event::Data(_) => found.extend((0..used).map(|_| (event, 1))),
                event => found.push((event, 0)),
            }
            piece = &piece[used..];
        });
        prop_assert_eq!(found, expected);
        prop_assert!(decoder.at_boundary());
    }
}
