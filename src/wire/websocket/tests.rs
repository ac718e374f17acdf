#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use proptest::prelude::*;
use tungstenite::protocol::{Role as PeerRole, WebSocket, WebSocketConfig};
use tungstenite::{Error as PeerError, Message};

use super::*;

const KEYS: [Key; 2] = [[0x37, 0xfa, 0x21, 0x3d], [1, 2, 3, 4]];

/// A frame by hand, masked when `key` is given.
fn frame(first: u8, payload: &[u8], key: Option<Key>) -> Vec<u8> {
    let mut bytes = vec![first];
    let mask = if key.is_some() { 0x80 } else { 0 };
    match payload.len() {
        len @ 0..126 => bytes.push(mask | u8::try_from(len).unwrap()),
        len @ 126..0x1_0000 => {
            bytes.push(mask | 126);
            bytes.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            bytes.push(mask | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(key.iter().flatten());
    let key = key.unwrap_or_default();
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(a, b)| a ^ b));
    bytes
}

/// What `role` reads from `bytes`, cut where `cuts` say.
fn read(role: Role, bytes: &[u8], cuts: &[usize]) -> (Vec<u8>, Decoder) {
    let mut decoder = Decoder::new(role);
    let mut payload = Vec::new();
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    for cut in cuts.windows(2) {
        let mut piece = bytes[cut[0]..cut[1]].to_vec();
        let len = decoder.decode(&mut piece);
        payload.extend_from_slice(&piece[..len]);
    }
    (payload, decoder)
}

fn client_reads(bytes: &[u8]) -> (Vec<u8>, Status) {
    let (payload, decoder) = read(Role::Client, bytes, &[]);
    (payload, decoder.status())
}

/// What the decoder answers, as frames without masks.
fn replies(decoder: &mut Decoder) -> Vec<u8> {
    let encoder = Encoder::new(Role::Server);
    let mut bytes = Vec::new();
    while let Some(head) = encoder.reply(decoder, [0; 4]) {
        bytes.extend_from_slice(head.bytes());
    }
    bytes
}

#[test]
fn reads_the_examples_of_rfc_6455() {
    let hello = |bytes: &[u8]| assert_eq!(client_reads(bytes), (b"Hello".to_vec(), Status::Active));
    hello(&[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
    hello(&[0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f]);
    let masked = [
        0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    assert_eq!(read(Role::Server, &masked, &[]).0, b"Hello");
    let ping = [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
    let (payload, mut decoder) = read(Role::Client, &ping, &[]);
    assert!(payload.is_empty() && decoder.has_reply());
    let pong = Encoder::new(Role::Client)
        .reply(&mut decoder, KEYS[0])
        .unwrap();
    let expected = [
        0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    assert_eq!(pong.bytes(), expected);
    assert!(!decoder.has_reply());
}

#[test]
fn xor_goes_on_where_it_stopped() {
    let key = [0xde, 0xad, 0xbe, 0xef];
    let plain: Vec<u8> = (0..251).cycle().take(300).collect();
    let expected: Vec<u8> = plain
        .iter()
        .zip(key.iter().cycle())
        .map(|(a, b)| a ^ b)
        .collect();
    for cut in 0..plain.len() {
        let mut data = plain.clone();
        let (front, back) = data.split_at_mut(cut);
        let key = xor(front, key);
        let _ = xor(back, key);
        assert_eq!(data, expected, "{cut}");
    }
}

#[test]
fn each_length_has_its_shortest_header() {
    for (len, header) in [
        (0, 2),
        (125, 2),
        (126, 4),
        (65_535, 4),
        (65_536, 10),
        (1 << 20, 10),
    ] {
        for (role, key_len) in [(Role::Server, 0), (Role::Client, 4)] {
            let mut encoder = Encoder::new(role);
            let _greeting = encoder.data(&[], 1, KEYS);
            let (head, key) = encoder.data(&[], len, KEYS);
            assert_eq!(head.bytes().len(), header + key_len, "{len}");
            assert_eq!(key, (role == Role::Client).then_some(KEYS[0]));
            let by_hand = frame(0x82, &vec![0; len], key);
            assert_eq!(head.bytes(), &by_hand[..header + key_len]);
        }
    }
}

#[test]
fn what_a_caller_adds_is_masked_with_the_payload() {
    let mut encoder = Encoder::new(Role::Client);
    let (head, key) = encoder.data(b"extra", 3, KEYS);
    let mut payload = *b"abc";
    let _ = xor(&mut payload, key.unwrap());
    let wire = [head.bytes(), &payload].concat();
    let (read, decoder) = read(Role::Server, &wire, &[]);
    assert_eq!(read, b"extraabc");
    assert!(decoder.at_boundary());
}

#[test]
fn violations_are_named_and_answered() {
    for (bytes, violation, code) in [
        (&[0xc2, 0x00][..], FrameError::Reserved, 1002),
        (&[0xa2, 0x00], FrameError::Reserved, 1002),
        (&[0x92, 0x00], FrameError::Reserved, 1002),
        (&[0x83, 0x00], FrameError::Opcode(3), 1002),
        (&[0x87, 0x00], FrameError::Opcode(7), 1002),
        (&[0x8b, 0x00], FrameError::Opcode(0xb), 1002),
        (&[0x8f, 0x00], FrameError::Opcode(0xf), 1002),
        (&[0x82, 0x80], FrameError::Mask, 1002),
        (&[0x80, 0x00], FrameError::Continuation, 1002),
        (&[0x02, 0x00, 0x82, 0x00], FrameError::Continuation, 1002),
        (&[0x02, 0x00, 0x01, 0x00], FrameError::Continuation, 1002),
        (&[0x09, 0x00], FrameError::ControlFragment, 1002),
        (&[0x08, 0x00], FrameError::ControlFragment, 1002),
        (&[0x89, 126, 0, 126], FrameError::ControlLength, 1002),
        (&[0x88, 127], FrameError::ControlLength, 1002),
        (&[0x82, 126, 0, 125], FrameError::Length, 1002),
        (
            &[0x82, 127, 0, 0, 0, 0, 0, 0, 255, 255],
            FrameError::Length,
            1002,
        ),
        (
            &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0],
            FrameError::TooBig,
            1009,
        ),
        (&[0x88, 1, 3], FrameError::CloseCode, 1002),
        (&[0x88, 3, 3, 232, 0xff], FrameError::CloseReason, 1007),
        (&[0x02, 0, 0x80, 0, 0x82, 1, 1], FrameError::AfterEnd, 1002),
    ] {
        let (_, mut decoder) = read(Role::Client, bytes, &[]);
        assert_eq!(decoder.status(), Status::Failed(violation), "{bytes:x?}");
        let [high, low] = u16::to_be_bytes(code);
        assert_eq!(replies(&mut decoder), [0x88, 2, high, low], "{bytes:x?}");
        // It decodes nothing after that.
        assert_eq!(decoder.decode(&mut [0x82, 1, 1]), 0);
    }
    let unmasked = read(Role::Server, &[0x82, 0x00], &[]).1;
    assert_eq!(unmasked.status(), Status::Failed(FrameError::Mask));
}

#[test]
fn close_codes_are_those_that_may_be_sent() {
    for code in 0..=5000_u16 {
        let right = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        let mut bytes = vec![0x88, 2];
        bytes.extend(code.to_be_bytes());
        let (_, mut decoder) = read(Role::Client, &bytes, &[]);
        let expected = if right {
            Status::Closed(code)
        } else {
            Status::Failed(FrameError::CloseCode)
        };
        assert_eq!(decoder.status(), expected);
        if right {
            assert_eq!(replies(&mut decoder), bytes, "echoed");
        }
    }
    let (_, mut decoder) = read(Role::Client, &[0x88, 0], &[]);
    assert_eq!(decoder.status(), Status::Closed(1005));
    assert_eq!(replies(&mut decoder), [0x88, 2, 3, 232]);
}

#[test]
fn payload_before_a_violation_is_not_lost() {
    let bytes = [&frame(0x82, b"good", None), &frame(0xf2, b"bad", None)[..]].concat();
    let (payload, status) = client_reads(&bytes);
    assert_eq!(payload, b"good");
    assert_eq!(status, Status::Failed(FrameError::Reserved));
}

#[test]
fn nothing_is_read_behind_a_close() {
    let bytes = [&[0x88, 2, 3, 232], &frame(0x82, b"late", None)[..]].concat();
    assert_eq!(client_reads(&bytes), (Vec::new(), Status::Closed(1000)));
}

#[test]
fn control_frames_stand_within_messages() {
    let bytes = [
        frame(0x02, b"one ", None),
        frame(0x89, b"ping", None),
        frame(0x00, b"two ", None),
        frame(0x8a, b"pong", None),
        frame(0x80, b"three", None),
    ]
    .concat();
    let (payload, mut decoder) = read(Role::Client, &bytes, &[]);
    assert_eq!(payload, b"one two three");
    assert_eq!(replies(&mut decoder), frame(0x8a, b"ping", None));
}

#[test]
fn flood_of_pings_is_answered_once_with_the_latest() {
    let mut bytes = Vec::new();
    for n in 0..10_000_u16 {
        bytes.extend(frame(0x89, &n.to_be_bytes(), None));
    }
    let (payload, mut decoder) = read(Role::Client, &bytes, &[]);
    assert!(payload.is_empty());
    assert_eq!(
        replies(&mut decoder),
        frame(0x8a, &9999_u16.to_be_bytes(), None)
    );
}

#[test]
fn end_of_one_direction_is_understood_and_told() {
    for role in [Role::Client, Role::Server] {
        let peer = if role == Role::Client {
            Role::Server
        } else {
            Role::Client
        };
        let mut encoder = Encoder::new(role);
        let (head, key) = encoder.data(&[], 4, KEYS);
        let mut data = *b"data";
        if let Some(key) = key {
            let _ = xor(&mut data, key);
        }
        let bytes = [head.bytes(), &data].concat();
        let (payload, decoder) = read(peer, &bytes, &[]);
        assert_eq!(payload, b"data");
        assert_eq!(decoder.understands_end(), Some(true));
        let (again, key) = encoder.data(&[], 4, KEYS);
        let mut data = *b"more";
        if let Some(key) = key {
            let _ = xor(&mut data, key);
        }
        let end = encoder.end(KEYS);
        let ping = encoder.ping(KEYS[0]);
        let bytes = [&bytes, again.bytes(), &data, end.bytes(), ping.bytes()].concat();
        let (payload, decoder) = read(peer, &bytes, &[]);
        assert_eq!(payload, b"datamore");
        assert_eq!(decoder.status(), Status::Ended);
        assert!(decoder.at_boundary() && decoder.has_reply());
    }
    assert_eq!(Decoder::new(Role::Client).understands_end(), None);
    let foreign = frame(0x82, b"x", None);
    assert_eq!(
        read(Role::Client, &foreign, &[]).1.understands_end(),
        Some(false)
    );
    // An empty message in one piece is nothing at all.
    let empty = frame(0x82, b"", None);
    assert_eq!(read(Role::Client, &empty, &[]).1.status(), Status::Active);
}

#[test]
fn decoder_tells_what_can_be_read_without_a_copy() {
    let mut decoder = Decoder::new(Role::Client);
    assert_eq!(decoder.payload_left(), 0);
    let mut bytes = [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0, b'a'];
    assert_eq!(decoder.decode(&mut bytes), 1);
    assert_eq!(decoder.payload_left(), 65_535);
    let mut rest = vec![7; 65_535];
    assert_eq!(decoder.decode(&mut rest), rest.len());
    assert!(decoder.at_boundary());
    // That of a control frame is not for the caller.
    assert_eq!(decoder.decode(&mut [0x89, 5, 1]), 0);
    assert_eq!(decoder.payload_left(), 0);
    assert!(!decoder.at_boundary());
}

#[derive(Clone, Debug)]
enum Piece {
    Data(Vec<u8>, bool),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let bytes = |most: usize| prop::collection::vec(any::<u8>(), 0..most);
    let data = prop_oneof![4 => bytes(40), 2 => bytes(400), 1 => Just(vec![5; 70_000])];
    let piece = prop_oneof![
        3 => (data, any::<bool>()).prop_map(|(data, last)| Piece::Data(data, last)),
        1 => bytes(126).prop_map(Piece::Ping),
        1 => bytes(126).prop_map(Piece::Pong),
    ];
    prop::collection::vec(piece, 0..8)
}

/// The frames of `pieces`, their payload, and the payload of the last Ping.
fn spell(pieces: &[Piece], key: Option<Key>) -> (Vec<u8>, Vec<u8>, Option<Vec<u8>>) {
    let (mut wire, mut payload, mut ping) = (Vec::new(), Vec::new(), None);
    let mut within = false;
    for piece in pieces {
        match piece {
            Piece::Data(data, last) => {
                // An empty message in fragments has a meaning of its own.
                let data = if data.is_empty() { &b"-"[..] } else { data };
                let code = (u8::from(!within) * 2) | (u8::from(*last) * 0x80);
                wire.extend(frame(code, data, key));
                payload.extend_from_slice(data);
                within = !last;
            }
            Piece::Ping(data) => {
                wire.extend(frame(0x89, data, key));
                ping = Some(data.clone());
            }
            Piece::Pong(data) => wire.extend(frame(0x8a, data, key)),
        }
    }
    (wire, payload, ping)
}

proptest! {
    #[test]
    fn cuts_change_nothing(
        pieces in pieces(),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
        key in any::<Option<Key>>(),
    ) {
        let (wire, payload, ping) = spell(&pieces, key);
        let role = if key.is_some() { Role::Server } else { Role::Client };
        let (got, mut decoder) = read(role, &wire, &cuts);
        prop_assert!(got == payload);
        prop_assert_eq!(decoder.status(), Status::Active);
        prop_assert!(decoder.at_boundary());
        let expected = ping.map_or_else(Vec::new, |ping| frame(0x8a, &ping, None));
        prop_assert_eq!(replies(&mut decoder), expected);
    }

    #[test]
    fn anything_is_read_alike_however_it_is_cut(
        bytes in prop::collection::vec(prop_oneof![Just(0_u8), Just(0x82), Just(0x02), Just(0x80), any::<u8>()], 0..200),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
        server in any::<bool>(),
    ) {
        let role = if server { Role::Server } else { Role::Client };
        let (whole, mut at_once) = read(role, &bytes, &[]);
        let (parts, mut in_parts) = read(role, &bytes, &cuts);
        prop_assert_eq!(whole, parts);
        prop_assert_eq!(at_once.status(), in_parts.status());
        prop_assert_eq!(replies(&mut at_once), replies(&mut in_parts));
    }
}

/// The other side of a peer that thinks in messages.
#[derive(Default)]
struct Wire {
    incoming: std::io::Cursor<Vec<u8>>,
    outgoing: Vec<u8>,
}

impl std::io::Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self.incoming.read(buf)? {
            0 => Err(std::io::ErrorKind::WouldBlock.into()),
            len => Ok(len),
        }
    }
}

impl std::io::Write for Wire {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.outgoing.extend_from_slice(buf);
        Ok(buf.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn peer(role: Role, incoming: Vec<u8>) -> WebSocket<Wire> {
    let wire = Wire {
        incoming: std::io::Cursor::new(incoming),
        outgoing: Vec::new(),
    };
    let role = match role {
        Role::Client => PeerRole::Client,
        Role::Server => PeerRole::Server,
    };
    WebSocket::from_raw_socket(wire, role, Some(WebSocketConfig::default()))
}

const BOTH: [(Role, Role); 2] = [(Role::Client, Role::Server), (Role::Server, Role::Client)];

#[test]
fn tungstenite_reads_what_we_write() {
    for (we, they) in BOTH {
        let mut encoder = Encoder::new(we);
        let mut wire = Vec::new();
        let mut expected = Vec::new();
        for len in [1, 125, 126, 65_535, 65_536, 300_000] {
            let mut payload: Vec<u8> = (0..251).cycle().take(len).collect();
            expected.extend_from_slice(&payload);
            let (head, key) = encoder.data(&[], len, KEYS);
            if let Some(key) = key {
                let _ = xor(&mut payload, key);
            }
            wire.extend_from_slice(head.bytes());
            wire.extend_from_slice(&payload);
            wire.extend_from_slice(encoder.ping(KEYS[1]).bytes());
        }
        wire.extend_from_slice(encoder.end(KEYS).bytes());
        wire.extend_from_slice(encoder.close(close::NORMAL, KEYS[1]).bytes());
        let mut peer = peer(they, wire);
        let mut got = Vec::new();
        let mut pings = 0;
        let closed = loop {
            match peer.read() {
                Ok(Message::Binary(data)) => got.extend_from_slice(&data),
                Ok(Message::Ping(_)) => pings += 1,
                Ok(Message::Close(frame)) => break frame.unwrap(),
                other => panic!("{other:?}"),
            }
        };
        assert!(got == expected);
        assert_eq!(pings, 6);
        assert_eq!(u16::from(closed.code), close::NORMAL);
    }
}

#[test]
fn we_read_what_tungstenite_writes() {
    for (we, they) in BOTH {
        let mut peer = peer(they, Vec::new());
        let mut expected = Vec::new();
        for len in [0, 1, 125, 126, 65_535, 65_536, 300_000] {
            let payload: Vec<u8> = (0..249).cycle().take(len).collect();
            expected.extend_from_slice(&payload);
            peer.send(Message::binary(payload)).unwrap();
            peer.send(Message::Ping(b"are you there".to_vec().into()))
                .unwrap();
        }
        peer.send(Message::text("text is data")).unwrap();
        expected.extend_from_slice(b"text is data");
        peer.close(None).unwrap();
        let wire = peer.get_ref().outgoing.clone();
        let (in_parts, _) = read(we, &wire, &[1, 2, 3, 500, 66_000]);
        let (at_once, mut decoder) = read(we, &wire, &[]);
        assert!(at_once == expected && in_parts == expected);
        assert!(matches!(decoder.status(), Status::Closed(1000 | 1005)));
        // It takes our answers for what they are.
        let encoder = Encoder::new(we);
        let mut answers = Vec::new();
        while let Some(head) = encoder.reply(&mut decoder, KEYS[1]) {
            answers.extend_from_slice(head.bytes());
        }
        peer.get_mut().incoming = std::io::Cursor::new(answers);
        assert!(matches!(peer.read(), Ok(Message::Pong(data)) if &data[..] == b"are you there"));
        assert!(matches!(peer.read(), Ok(Message::Close(_))));
    }
}

#[test]
fn tungstenite_agrees_on_what_is_wrong() {
    for bytes in [
        &[0xc2, 0x00][..],
        &[0x83, 0x00],
        &[0x8b, 0x00],
        &[0x80, 0x00],
        &[0x02, 0x01, 0x41, 0x82, 0x00],
        &[0x09, 0x00],
        &[0x89, 126, 0, 126],
        &[0x88, 1, 3],
    ] {
        assert!(
            matches!(client_reads(bytes).1, Status::Failed(_)),
            "{bytes:x?}"
        );
        // It looks at the length of a control frame only when all of it is there.
        let mut peer = peer(Role::Client, [bytes, &[0; 130]].concat());
        let read = std::iter::repeat_with(|| peer.read()).find(Result::is_err);
        assert!(
            matches!(read, Some(Err(PeerError::Protocol(_)))),
            "{bytes:x?}"
        );
    }
}
