//! Streams opened by a server and a client: random bytes, damaged streams, and invalid streams of a key holder.
#![no_main]

use std::io::IoSliceMut;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ssr::wire::Error;
use ssr::wire::ss::request::{Progress, RequestOpener};
use ssr::wire::ss::stream::{Fresh, Opener, Sealer};
use ssr_fuzz::{
    Edit, Ends, Hand, NOW, Setting, edit, encoded, is_sealed, key, pieces, salt, target,
};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    setting: Setting,
    to_client: bool,
    cuts: Vec<u16>,
    kind: Kind<'a>,
}

#[derive(Arbitrary, Debug)]
enum Kind<'a> {
    /// Random bytes.
    Garbage(&'a [u8]),
    /// A valid stream of these payloads, damaged.
    Damaged {
        payloads: Vec<&'a [u8]>,
        padding: u16,
        edits: Vec<Edit>,
    },
    /// Messages sealed in the right order with any content.
    Nonsense { parts: Vec<Part<'a>> },
}

#[derive(Arbitrary, Debug)]
enum Part<'a> {
    /// Bytes under one nonce.
    Raw(&'a [u8]),
    /// A length and that many bytes.
    Chunk(&'a [u8]),
    /// Only a length.
    Length(u16),
    /// The target's address and what follows it, in one chunk.
    Address(&'a [u8]),
    /// A fixed header with a variable one of this padding.
    Head {
        kind: u8,
        off: i8,
        stretch: i8,
        padding: u16,
        given: u8,
        payload: &'a [u8],
    },
    /// A response's header.
    Answer {
        kind: u8,
        off: i8,
        salt: u8,
        payload: &'a [u8],
    },
}

fuzz_target!(|input: Input<'_>| {
    let ends = input.setting.ends();
    match &input.kind {
        Kind::Garbage(bytes) => {
            let ends = input.setting.strangers();
            let got = receive(&ends, input.to_client, bytes, &input.cuts);
            assert!(!is_sealed(ends.method) || got.plain.is_empty() && got.target.is_none());
        }
        Kind::Damaged {
            payloads,
            padding,
            edits,
        } => {
            let truth = payloads.concat();
            let mut bytes = sealed(&ends, input.to_client, payloads, *padding);
            let damaged = edit(&mut bytes, edits);
            let got = receive(&ends, input.to_client, &bytes, &input.cuts);
            if is_sealed(ends.method) {
                assert!(truth.starts_with(&got.plain), "wrong plain text");
            }
            if !damaged {
                assert_eq!((got.result, got.plain), (Ok(()), truth));
            }
        }
        Kind::Nonsense { parts } => {
            if let Some(bytes) = nonsense(&ends, input.to_client, parts) {
                receive(&ends, input.to_client, &bytes, &input.cuts);
            }
        }
    }
});

struct Got {
    plain: Vec<u8>,
    target: Option<String>,
    result: Result<(), Error>,
}

fn receive(ends: &Ends, to_client: bool, bytes: &[u8], cuts: &[u16]) -> Got {
    let mut receiver = Receiver {
        ends,
        head: RequestOpener::new(ends.method),
        opener: to_client.then(|| Opener::response(&ends.credentials, salt(ends.method, 5))),
        buffer: Vec::new(),
        at: 0,
        authenticated: 0,
        got: Got {
            plain: Vec::new(),
            target: None,
            result: Ok(()),
        },
    };
    let result = pieces(bytes, cuts, |piece| receiver.feed(piece));
    if let Err(error) = result {
        // An error stays.
        assert_eq!(receiver.feed(b"more"), Err(error));
    }
    receiver.got.result = result;
    receiver.got
}

struct Receiver<'a> {
    ends: &'a Ends,
    head: RequestOpener,
    opener: Option<Opener>,
    buffer: Vec<u8>,
    at: usize,
    authenticated: usize,
    got: Got,
}

impl Receiver<'_> {
    fn feed(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.buffer.extend_from_slice(piece);
        if self.opener.is_none() && !self.open_head()? {
            return Ok(());
        }
        let Some(opener) = &mut self.opener else {
            return Ok(());
        };
        loop {
            let rest = &mut self.buffer[self.at..];
            let opened = opener.open(rest, || NOW)?;
            if opened.used == 0 {
                assert!(opener.need() > rest.len());
                return Ok(());
            }
            assert!(opened.used <= rest.len() && opened.payload.end <= opened.used);
            self.got.plain.extend_from_slice(&rest[opened.payload]);
            self.at += opened.used;
        }
    }

    /// Whether the header has been opened.
    fn open_head(&mut self) -> Result<bool, Error> {
        let accounts = &self.ends.accounts;
        loop {
            match self.head.open(accounts, &mut self.buffer, NOW)? {
                Progress::NeedMore => {
                    assert!(self.head.need(accounts) > self.buffer.len());
                    return Ok(false);
                }
                Progress::Authenticated(_) => {
                    self.authenticated += 1;
                    assert_eq!(self.authenticated, 1);
                }
                Progress::Relay { user, salt, rest } => {
                    assert!(accounts.user(user).is_some_and(|user| user.relayed));
                    assert!(salt.end <= rest && rest <= self.buffer.len());
                    // The rest belongs to another server.
                    self.opener = Some(Opener::response(
                        &self.ends.credentials,
                        ssr_fuzz::salt(self.ends.method, 5),
                    ));
                    self.at = self.buffer.len();
                    return Ok(false);
                }
                Progress::Complete(request) => {
                    assert!(self.authenticated == 1 || !is_sealed(self.ends.method));
                    assert!(
                        request.payload.end <= request.rest && request.rest <= self.buffer.len()
                    );
                    self.got.target = Some(request.target.to_string());
                    self.got
                        .plain
                        .extend_from_slice(&self.buffer[request.payload]);
                    (self.at, self.opener) = (request.rest, Some(request.opener));
                    return Ok(true);
                }
            }
        }
    }
}

/// A valid stream.
fn sealed(ends: &Ends, to_client: bool, payloads: &[&[u8]], padding: u16) -> Vec<u8> {
    let (own, request) = (
        salt(ends.method, if to_client { 6 } else { 5 }),
        salt(ends.method, 5),
    );
    let mut sealer = if to_client {
        Sealer::response(
            ends.method,
            ends.accounts
                .session_key(ends.user)
                .expect("a user that there is"),
            own,
            request,
        )
    } else {
        Sealer::request(&ends.credentials, own, target())
    };
    let padding = vec![0x77; usize::from(padding) % 900 + 1];
    let fresh = Fresh {
        now: NOW,
        padding: &padding,
    };
    let mut bytes = Vec::new();
    for payload in payloads.iter().chain([&[].as_slice()]) {
        let mut buf = vec![0; payload.len() + 2000];
        let mut slots = [IoSliceMut::new(&mut [])];
        let used = sealer.slots(&mut buf, &mut slots);
        assert_eq!(used, 1);
        let Some(slot) = slots[0].get_mut(..payload.len()) else {
            return bytes;
        };
        slot.copy_from_slice(payload);
        let len = sealer
            .seal(&mut buf, payload.len(), fresh)
            .expect("the slots were made for it");
        bytes.extend_from_slice(&buf[..len]);
    }
    bytes
}

/// A stream of a key holder who violates the protocol; `None` for the method `none`.
fn nonsense(ends: &Ends, to_client: bool, parts: &[Part<'_>]) -> Option<Vec<u8>> {
    let method = ends.method;
    let own = salt(method, if to_client { 6 } else { 5 });
    let mut hand = Hand::new(
        method,
        ends.accounts
            .session_key(ends.user)
            .expect("a user that there is"),
        own,
    )?;
    if ends.user.is_some() && !to_client {
        // Only the identity header is certainly valid.
        let mut identity = ends.credentials.key().identity_hash();
        ssr::crypto::Block::new(&key(method, 1).identity_subkey(own.as_slice()))
            .encrypt(&mut identity);
        hand.bytes.extend_from_slice(&identity);
    }
    let time = |off: i8| NOW.saturating_add_signed(i64::from(off)).to_be_bytes();
    let length = |len: usize, stretch: i8| {
        u16::try_from(len)
            .unwrap_or(u16::MAX)
            .saturating_add_signed(stretch.into())
    };
    for part in parts.iter().take(32) {
        match part {
            Part::Raw(bytes) => hand.seal(bytes),
            Part::Chunk(bytes) => {
                hand.seal(&length(bytes.len(), 0).to_be_bytes());
                hand.seal(bytes);
            }
            Part::Length(len) => hand.seal(&len.to_be_bytes()),
            Part::Address(bytes) => {
                let bytes = [&encoded(target()), *bytes].concat();
                hand.seal(&length(bytes.len(), 0).to_be_bytes());
                hand.seal(&bytes);
            }
            Part::Head {
                kind,
                off,
                stretch,
                padding,
                given,
                payload,
            } => {
                let mut variable = encoded(target());
                variable.extend_from_slice(&padding.to_be_bytes());
                variable.extend(vec![0; usize::from(*given)]);
                variable.extend_from_slice(payload);
                let mut fixed = vec![*kind];
                fixed.extend_from_slice(&time(*off));
                fixed.extend_from_slice(&length(variable.len(), *stretch).to_be_bytes());
                hand.seal(&fixed);
                hand.seal(&variable);
            }
            Part::Answer {
                kind,
                off,
                salt: seed,
                payload,
            } => {
                let mut fixed = vec![*kind];
                fixed.extend_from_slice(&time(*off));
                fixed.extend_from_slice(salt(method, *seed).as_slice());
                fixed.extend_from_slice(&length(payload.len(), 0).to_be_bytes());
                hand.seal(&fixed);
                hand.seal(payload);
            }
        }
    }
    Some(hand.bytes)
}
