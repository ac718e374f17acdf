//! Every frame: round trips, cut anywhere, and malformed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use proptest::prelude::*;

use super::frame::{header, op};
use super::*;
use crate::wire::address::tests::addresses;
use crate::wire::{Address, Error};

fn written(frame: Frame<'_>) -> Vec<u8> {
    let mut out = vec![0; HEADER_LEN + MAX_PAYLOAD];
    let len = frame.encode(&mut out).unwrap();
    for short in [0, 1, len / 2, len - 1] {
        assert_eq!(frame.encode(&mut vec![0; short]), None);
    }
    out.truncate(len);
    out
}

/// The items of `pieces`, as text; consecutive data of one stream is joined.
fn found<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<String>, Error> {
    let mut decoder = Decoder::default();
    let mut out: Vec<String> = Vec::new();
    let mut stream: Option<(u64, Vec<u8>)> = None;
    for mut piece in pieces {
        loop {
            let (used, item) = decoder.next(piece)?;
            assert!(used <= piece.len());
            let Some(item) = item else {
                assert_eq!(used, piece.len(), "nothing is left over");
                break;
            };
            match (item, &mut stream) {
                (Item::Data { id, bytes }, Some((same, held))) if *same == id => {
                    held.extend_from_slice(bytes);
                }
                (item, _) => {
                    if let Some((id, bytes)) = stream.take() {
                        out.push(format!("{id} {bytes:?}"));
                    }
                    match item {
                        Item::Data { id, bytes } => stream = Some((id, bytes.to_vec())),
                        Item::Frame(frame) => out.push(format!("{frame:?}")),
                    }
                }
            }
            piece = &piece[used..];
        }
    }
    out.extend(stream.map(|(id, bytes)| format!("{id} {bytes:?}")));
    Ok(out)
}

fn shown(frame: &Frame<'_>) -> String {
    match frame {
        Frame::Data { id, payload } => format!("{id} {payload:?}"),
        other => format!("{other:?}"),
    }
}

/// A frame with owned fields.
#[derive(Clone, Debug)]
struct Owned {
    kind: u8,
    id: u64,
    number: u64,
    address: Address,
    other: Address,
    text: String,
    bytes: Vec<u8>,
}

impl Owned {
    fn frame(&self) -> Frame<'_> {
        let (id, code) = (self.id, Code(self.number as u16));
        let (address, message) = (self.address.as_ref(), self.text.as_str());
        match self.kind {
            0 => Frame::InitialRemoteServer { name: message },
            1 => Frame::InitialConnection { id, port: code.0 },
            2 => Frame::Heartbeat,
            3 => Frame::Data {
                id,
                payload: &self.bytes,
            },
            4 => Frame::Reset { id },
            5 => Frame::Hello(Hello {
                own_streams: match self.number % 3 {
                    0 => OwnStreams::No,
                    1 => OwnStreams::Yes,
                    _ => OwnStreams::With(LinkSecret([7; 32])),
                },
                window: (self.number >> 32) as u32,
                max_payload: self.number as u32,
            }),
            6 => Frame::Register {
                service: id,
                register: Register {
                    protocol: [Protocol::Tcp, Protocol::Udp, Protocol::Http][self.bytes.len() % 3],
                    group: self.number & 1 != 0,
                    replace: self.number & 2 != 0,
                    bind: address,
                    name: message,
                    token: &self.bytes[..self.bytes.len().min(255)],
                    host: message,
                },
            },
            7 => Frame::RegisterResult {
                service: id,
                code,
                bound: address,
                message,
            },
            8 => Frame::Connect {
                id,
                connect: Connect {
                    service: self.number & MAX_ID,
                    source: address,
                    destination: self.other.as_ref(),
                },
            },
            9 => Frame::ConnectResult { id, code, message },
            10 => Frame::Window {
                id,
                credit: self.number as u32,
            },
            11 => Frame::Fin { id },
            12 => Frame::Datagram {
                id,
                payload: &self.bytes,
            },
            13 => Frame::Ping {
                opaque: self.number,
            },
            14 => Frame::Pong {
                opaque: self.number,
            },
            15 => Frame::GoAway {
                code,
                retry_ms: self.number as u32,
                message,
            },
            _ => Frame::DialBack {
                id,
                nonce: [code.0 as u8; NONCE_LEN],
            },
        }
    }
}

fn frames() -> impl Strategy<Value = Owned> {
    (
        0u8..17,
        0..=MAX_ID,
        any::<u64>(),
        addresses(),
        addresses(),
        "[a-z0-9 .é-]{0,80}",
        prop::collection::vec(any::<u8>(), 1..400),
    )
        .prop_map(|(kind, id, number, address, other, text, bytes)| Owned {
            kind,
            id,
            number,
            address,
            other,
            text,
            bytes,
        })
}

proptest! {
    #[test]
    fn frames_read_as_written_wherever_they_are_cut(
        frames in prop::collection::vec(frames(), 1..12),
        cuts in prop::collection::vec(1usize..500, 1..40),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| written(frame.frame())).collect();
        let mut expected: Vec<String> = Vec::new();
        let mut last = None;
        let mut payload = Vec::new();
        for frame in &frames {
            // `found` joins consecutive data of one stream.
            if let Frame::Data { id, payload: more } = frame.frame() {
                if last == Some(id) {
                    expected.pop();
                } else {
                    payload.clear();
                }
                payload.extend_from_slice(more);
                expected.push(format!("{id} {payload:?}"));
                last = Some(id);
            } else {
                expected.push(shown(&frame.frame()));
                last = None;
            }
        }
        prop_assert_eq!(&found([bytes.as_slice()]).unwrap(), &expected);
        prop_assert_eq!(&found(bytes.chunks(1)).unwrap(), &expected);
        let mut pieces = Vec::new();
        let mut rest = bytes.as_slice();
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(&found(pieces).unwrap(), &expected);
    }

    #[test]
    fn whatever_comes_is_cut_the_same_way(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(found([bytes.as_slice()]), found(bytes.chunks(1)));
    }
}

#[test]
fn first_five_keep_the_bytes_of_port_proxy() {
    let id = 0x7F00_0001_1F90;
    let of = |frame| hex::encode(written(frame));
    assert_eq!(
        of(Frame::InitialRemoteServer { name: "web" }),
        "000000000003776562"
    );
    assert_eq!(
        of(Frame::InitialConnection { id, port: 80 }),
        "00017f0000011f900050"
    );
    assert_eq!(of(Frame::Heartbeat), "0002");
    assert_eq!(
        of(Frame::Data {
            id,
            payload: b"abc"
        }),
        "00037f0000011f9000000003616263"
    );
    assert_eq!(of(Frame::Reset { id }), "00047f0000011f90");
    assert_eq!(
        of(Frame::Window {
            id: 2,
            credit: 65536
        }),
        "000a0000000000020000000400010000"
    );
    assert_eq!(
        data_header(id, 3)[..],
        written(Frame::Data {
            id,
            payload: b"abc"
        })[..HEADER_LEN]
    );
}

#[test]
fn unknown_frames_are_skipped() {
    let mut bytes = header(0x0123, 7, 300).to_vec();
    bytes.extend([0xee; 300]);
    bytes.extend(written(Frame::Ping { opaque: 9 }));
    for size in [1, 13, 1000] {
        let found = found(bytes.chunks(size)).unwrap();
        assert_eq!(found, [format!("{:?}", Frame::Ping { opaque: 9 })]);
    }
}

#[test]
fn frames_with_nothing_in_them_cost_no_stack() {
    let mut bytes = header(op::DATA, 2, 0).repeat(50_000);
    bytes.extend([&header(0x0123, 7, 1)[..], &[0xee]].concat().repeat(50_000));
    bytes.extend(written(Frame::Ping { opaque: 9 }));
    let small = std::thread::Builder::new().stack_size(128 * 1024);
    let thread = small.spawn(move || found([bytes.as_slice()]).unwrap());
    let found = thread.unwrap().join().unwrap();
    assert_eq!(found, [format!("{:?}", Frame::Ping { opaque: 9 })]);
}

#[test]
fn too_long_is_refused_by_its_header() {
    for op in [op::DATA, op::HELLO, op::DATAGRAM, 0x4711] {
        let bytes = header(op, 0, MAX_PAYLOAD + 1);
        assert_eq!(found([&bytes[..]]), Err(Error::FrameLength));
        assert_eq!(found(bytes.chunks(1)), Err(Error::FrameLength));
    }
    assert_eq!(found([&[0, 0, 0, 1, 0, 0][..]]), Err(Error::FrameLength));
    let long = vec![0; MAX_PAYLOAD + 1];
    let mut out = vec![0; 2 * MAX_PAYLOAD];
    assert_eq!(
        Frame::Data {
            id: 1,
            payload: &long
        }
        .encode(&mut out),
        None
    );
    assert_eq!(Frame::Fin { id: MAX_ID + 1 }.encode(&mut out), None);
}

#[test]
fn payloads_that_are_too_short_or_unclean_are_refused() {
    let connect = Connect {
        service: 1,
        source: target(),
        destination: target(),
    };
    for frame in [
        Frame::Hello(Hello {
            own_streams: OwnStreams::No,
            window: 1,
            max_payload: 1,
        }),
        Frame::Connect { id: 2, connect },
        Frame::Ping { opaque: 1 },
        Frame::Window { id: 1, credit: 1 },
    ] {
        let bytes = written(frame);
        let mut cut = bytes[..bytes.len() - 1].to_vec();
        let len = u32::try_from(cut.len() - HEADER_LEN).unwrap();
        cut[8..12].copy_from_slice(&len.to_be_bytes());
        assert_eq!(
            found([cut.as_slice()]),
            Err(Error::FrameContent),
            "{frame:?}"
        );
        // Fields of a later version are ignored.
        let mut longer = [bytes.as_slice(), &[0]].concat();
        let len = u32::try_from(longer.len() - HEADER_LEN).unwrap();
        longer[8..12].copy_from_slice(&len.to_be_bytes());
        assert_eq!(found([longer.as_slice()]), Ok(vec![shown(&frame)]));
    }
    let unclean = Frame::ConnectResult {
        id: 2,
        code: Code::OK,
        message: "a\nb",
    };
    assert_eq!(
        found([written(unclean).as_slice()]),
        Err(Error::FrameContent)
    );
    let mut old = written(Frame::Hello(Hello {
        own_streams: OwnStreams::No,
        window: 1,
        max_payload: 1,
    }));
    old[HEADER_LEN] = 2;
    assert_eq!(found([old.as_slice()]), Err(Error::TunnelVersion(2)));
}

#[test]
fn long_messages_are_cut_between_characters() {
    let text = "é".repeat(MAX_MESSAGE);
    let bytes = written(Frame::ConnectResult {
        id: 2,
        code: Code::FULL,
        message: &text,
    });
    let cut = Frame::ConnectResult {
        id: 2,
        code: Code::FULL,
        message: &text[..MAX_MESSAGE],
    };
    assert_eq!(found([bytes.as_slice()]), Ok(vec![shown(&cut)]));
}
