//! UDP over TCP: streams with requests and datagrams, with and without addresses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ssr::wire::udp_over_tcp::{Frames, MAX_FRAME, MAX_REQUEST, Request, write_request};
use ssr::wire::{AddressRef, Error};

/// The datagrams of a stream that arrives in two parts, and what ends it.
fn datagrams(frames: &Frames, bytes: &[u8], cut: usize) -> (Vec<Vec<u8>>, Option<Error>) {
    let (mut found, mut start) = (Vec::new(), 0);
    for end in [cut.min(bytes.len()), bytes.len()] {
        loop {
            match frames.next(&bytes[start..end]) {
                Ok(Some((datagram, used))) => {
                    assert!(used > 0 && used <= MAX_FRAME && start + used <= end);
                    let mut room = vec![0; datagram.encoded_len()];
                    datagram.write(&mut room).expect("room");
                    found.push(room);
                    start += used;
                }
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

fuzz_target!(|input: (u16, u8, &[u8])| {
    let (cut, kind, bytes) = input;
    let (frames, bytes) = if kind % 3 == 0 {
        let Ok(Some((request, used))) = Request::parse(bytes) else {
            return;
        };
        assert!(used <= MAX_REQUEST);
        for len in 0..used {
            assert_eq!(Request::parse(&bytes[..len]), Ok(None));
        }
        let frames = if request.connect {
            Frames::connected(request.target).expect("an address that was read")
        } else {
            Frames::Addressed
        };
        (frames, &bytes[used..])
    } else if kind % 3 == 1 {
        (Frames::Socks, bytes)
    } else {
        (Frames::Addressed, bytes)
    };
    let whole = datagrams(&frames, bytes, 0);
    assert_eq!(datagrams(&frames, bytes, cut.into()), whole);
    // What is written again is read again.
    let mut out = vec![0; MAX_FRAME];
    for datagram in &whole.0 {
        let Ok(Some((target, len))) = AddressRef::parse(datagram) else {
            // A name that is not valid; the relay drops it.
            continue;
        };
        let written = match &frames {
            Frames::Addressed | Frames::Socks => frames.write(datagram, &mut out),
            Frames::Connected(_) => frames.write(&datagram[len..], &mut out),
        };
        let written = written.expect("a datagram that was read");
        let (again, end) = datagrams(&frames, &out[..written], 0);
        assert_eq!(
            (again.as_slice(), end),
            (std::slice::from_ref(datagram), None)
        );
        let mut request = [0; MAX_REQUEST];
        let written = write_request(datagram, &mut request).expect("an address");
        let (read, used) = Request::parse(&request[..written]).unwrap().unwrap();
        assert_eq!((read.target, read.connect, used), (target, false, written));
    }
});
