#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use super::*;

/// A SOCKS-style address and the frame type that it has in a stream.
fn addresses() -> [(AddressRef<'static>, u8); 3] {
    [
        (AddressRef::Ip(([192, 0, 2, 1], 53).into()), 0),
        (
            AddressRef::Ip(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 443).into()),
            1,
        ),
        (AddressRef::Domain("example.com", 9), 2),
    ]
}

fn datagram(address: AddressRef<'_>, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; Address::MAX_LEN];
    let len = address.encode(&mut bytes).unwrap();
    bytes.truncate(len);
    bytes.extend_from_slice(data);
    bytes
}

fn frame(frames: &Frames, datagram: &[u8]) -> Vec<u8> {
    let mut out = vec![0; MAX_FRAME];
    let len = frames.write(datagram, &mut out).unwrap();
    out.truncate(len);
    out
}

fn read(frames: &Frames, bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (datagram, used) = frames.next(bytes).unwrap()?;
    let mut out = vec![0; datagram.encoded_len()];
    datagram.write(&mut out).unwrap();
    Some((out, used))
}

#[test]
fn frame_is_as_sing_box_documents_it() {
    let sent = datagram(AddressRef::Ip(([192, 0, 2, 1], 53).into()), b"ab");
    let expected = [0, 192, 0, 2, 1, 0, 53, 0, 2, b'a', b'b'];
    assert_eq!(frame(&Frames::Addressed, &sent), expected);
    let sent = datagram(AddressRef::Domain("a.b", 258), b"");
    let expected = [2, 3, b'a', b'.', b'b', 1, 2, 0, 0];
    assert_eq!(frame(&Frames::Addressed, &sent), expected);
    let target = AddressRef::Domain("a.b", 258);
    let connected = Frames::connected(target).unwrap();
    assert_eq!(frame(&connected, b"xyz"), [0, 3, b'x', b'y', b'z']);
}

#[test]
fn datagrams_come_out_as_they_went_in() {
    let sent: Vec<Vec<u8>> = addresses()
        .into_iter()
        .flat_map(|(address, _)| [0, 1, 1200, 65_535].map(|len| datagram(address, &vec![7; len])))
        .collect();
    let mut stream = Vec::new();
    for datagram in &sent {
        stream.extend(frame(&Frames::Addressed, datagram));
    }
    let mut rest = stream.as_slice();
    for datagram in &sent {
        let (read, used) = read(&Frames::Addressed, rest).unwrap();
        assert_eq!(&read, datagram);
        rest = &rest[used..];
    }
    assert!(rest.is_empty() && read(&Frames::Addressed, rest).is_none());
}

#[test]
fn types_of_addresses_are_those_of_the_protocol() {
    for (address, kind) in addresses() {
        let framed = frame(&Frames::Addressed, &datagram(address, b"x"));
        assert_eq!(framed[0], kind, "{address}");
        let (read, _) = read(&Frames::Addressed, &framed).unwrap();
        assert_eq!(AddressRef::parse(&read).unwrap().unwrap().0, address);
    }
}

#[test]
fn frames_of_multiplexed_streams_have_the_addresses_of_socks() {
    for (address, _) in addresses() {
        let sent = datagram(address, b"x");
        let framed = frame(&Frames::Socks, &sent);
        assert_eq!(framed[0], sent[0], "{address}");
        let (back, used) = read(&Frames::Socks, &framed).unwrap();
        assert_eq!((back, used), (sent, framed.len()));
    }
}

#[test]
fn connected_datagrams_get_the_address_of_the_target() {
    for (target, _) in addresses() {
        let frames = Frames::connected(target).unwrap();
        let bytes = [0, 2, b'h', b'i', 0, 0];
        let (first, used) = read(&frames, &bytes).unwrap();
        assert_eq!((first, used), (datagram(target, b"hi"), 4));
        let (second, used) = read(&frames, &bytes[4..]).unwrap();
        assert_eq!((second, used), (datagram(target, b""), 2));
    }
}

#[test]
fn cut_frames_and_requests_wait_for_more() {
    let target = AddressRef::Domain("a.example", 1);
    let connected = Frames::connected(target).unwrap();
    for frames in [Frames::Addressed, Frames::Socks, connected] {
        let sent = match frames {
            Frames::Addressed | Frames::Socks => datagram(target, b"data"),
            Frames::Connected(_) => b"data".to_vec(),
        };
        let framed = frame(&frames, &sent);
        for len in 0..framed.len() {
            assert_eq!(read(&frames, &framed[..len]), None, "{len} bytes");
        }
    }
    let mut request = vec![0];
    request.extend(datagram(target, b""));
    for len in 0..request.len() {
        assert_eq!(Request::parse(&request[..len]), Ok(None), "{len} bytes");
    }
}

#[test]
fn unknown_types_of_addresses_are_errors() {
    for kind in 3..=255 {
        let bytes = [kind, 0, 0, 0, 0, 0, 0, 0, 0];
        let error = Frames::Addressed.next(&bytes).unwrap_err();
        assert_eq!(error, Error::AddressType(kind));
    }
    for kind in [0, 2, 5, 255] {
        let bytes = [1, kind, 0, 0, 0, 0, 0, 0];
        assert_eq!(Request::parse(&bytes), Err(Error::AddressType(kind)));
    }
    assert_eq!(Request::parse(&[0, 3, 0]), Err(Error::AddressDomain));
}

#[test]
fn request_is_written_for_the_first_datagram() {
    for (target, _) in addresses() {
        let mut out = [0; MAX_REQUEST];
        let len = write_request(&datagram(target, b"data"), &mut out).unwrap();
        let (request, read) = Request::parse(&out[..len]).unwrap().unwrap();
        assert_eq!((request.target, read), (target, len));
        assert!(!request.connect);
    }
    let connect = [1, 1, 192, 0, 2, 1, 0, 53, 0xff];
    let (request, read) = Request::parse(&connect).unwrap().unwrap();
    assert!(request.connect && read == 8);
    assert_eq!(write_request(b"", &mut [0; MAX_REQUEST]), None);
}

#[test]
fn what_cannot_be_sent_is_not_written() {
    let mut out = vec![0; MAX_FRAME];
    assert_eq!(Frames::Addressed.write(b"\x05no address", &mut out), None);
    let long = datagram(AddressRef::Domain("a", 1), &vec![0; 65_536]);
    assert_eq!(Frames::Addressed.write(&long, &mut out), None);
    let short = datagram(AddressRef::Domain("a", 1), b"data");
    assert_eq!(Frames::Addressed.write(&short, &mut [0; 8]), None);
}

#[test]
fn longest_frame_has_room() {
    let name = "a".repeat(255);
    let longest = datagram(AddressRef::Domain(&name, 1), &vec![0; 65_535]);
    assert_eq!(frame(&Frames::Addressed, &longest).len(), MAX_FRAME);
}

#[test]
fn versions_are_found_by_their_targets() {
    for version in [Version::V1, Version::V2] {
        assert_eq!(Version::of_target(version.target()), Some(version));
    }
    assert_eq!(Version::of_target("udp-over-tcp.arpa"), None);
}
