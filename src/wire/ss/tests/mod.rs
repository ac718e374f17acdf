//! Tests of the Shadowsocks codecs.
//!
//! - `stream`: both directions of a stream, slots, splits, chunks of other implementations.
//! - `head`: which stream headers server and client refuse; identities.
//! - `packet`: packets, their sessions, windows and identities.
//! - `subkeys`: packets whose subkeys are derived together.
//! - `trial`: users of AEAD-2017.
//! - `oracle`: comparison with an independent implementation.
//! - `random`: any payload, any split, any garbage.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod head;
mod oracle;
mod packet;
mod packet_bad;
mod random;
mod stream;
mod subkeys;
mod trial;

use std::io::IoSliceMut;

use super::request::{Progress, RequestOpener};
use super::stream::{Fresh, Opener, Sealer};
use super::{Account, Accounts, Credentials, Salt};
use crate::crypto::{Aead, Family, Key, Method, NonceCounter};
use crate::wire::{Address, AddressRef, Error};

/// The time of day of all tests, in Unix seconds.
pub(super) const NOW: u64 = 1_700_000_000;
/// Padding for requests without payload.
pub(super) const PADDING: [u8; 900] = [0xAA; 900];
pub(super) const FRESH: Fresh<'_> = Fresh {
    now: NOW,
    padding: &PADDING,
};

pub(super) const SEALED: [Method; 9] = [
    Method::Aes128Gcm,
    Method::Aes192Gcm,
    Method::Aes256Gcm,
    Method::ChaCha20Poly1305,
    Method::XChaCha20Poly1305,
    Method::Blake3Aes128Gcm,
    Method::Blake3Aes256Gcm,
    Method::Blake3ChaCha20Poly1305,
    Method::Blake3ChaCha8Poly1305,
];
pub(super) const WITH_IDENTITY: [Method; 2] = [Method::Blake3Aes128Gcm, Method::Blake3Aes256Gcm];

pub(super) fn of_2022() -> impl Iterator<Item = Method> {
    SEALED
        .into_iter()
        .filter(|method| method.family() == Family::Aead2022)
}

pub(super) fn aead_2017() -> impl Iterator<Item = Method> {
    SEALED
        .into_iter()
        .filter(|method| method.family() == Family::Aead2017)
}

pub(super) fn key(method: Method, seed: u8) -> Key {
    Key::from_slice(&vec![seed; method.key_len()])
        .unwrap_or_else(|| Key::from_password(method, &[seed]))
}

pub(super) fn salt(method: Method, seed: u8) -> Salt {
    Salt::new(method, [seed; 32])
}

/// The keys of both ends of a connection.
pub(super) struct Ends {
    pub(super) credentials: Credentials,
    pub(super) accounts: Accounts,
}

/// A server with one key.
pub(super) fn single(method: Method) -> Ends {
    Ends {
        credentials: Credentials::new(method, Vec::new(), key(method, 1)),
        accounts: Accounts::new(method, key(method, 1), Vec::new()),
    }
}

/// A server with the users 10, 11 and 12; the client is the one of `seed`.
pub(super) fn shared(method: Method, seed: u8) -> Ends {
    let users = [10, 11, 12].map(|seed| Account::new(key(method, seed)));
    Ends {
        credentials: Credentials::new(method, vec![key(method, 1)], key(method, seed)),
        accounts: Accounts::new(method, key(method, 1), users.into()),
    }
}

/// Both ends for every method, and again with users for methods that support them.
pub(super) fn every_end() -> impl Iterator<Item = Ends> {
    Method::ALL
        .into_iter()
        .map(single)
        .chain(WITH_IDENTITY.map(|method| shared(method, 11)))
}

pub(super) fn targets() -> [Address; 4] {
    [
        "192.0.2.1:80".parse().unwrap(),
        "[2001:db8::1]:443".parse().unwrap(),
        Address::domain("a", 1).unwrap(),
        Address::domain(&"x".repeat(255), 65_535).unwrap(),
    ]
}

pub(super) fn encoded(address: &Address) -> Vec<u8> {
    let mut bytes = vec![0; address.as_ref().encoded_len()];
    address.as_ref().encode(&mut bytes).unwrap();
    bytes
}

/// `len` bytes that differ by position.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// Seals one direction manually, by the specification, for messages that our sealer never makes.
pub(super) struct Hand {
    aead: Aead,
    nonce: NonceCounter,
    pub(super) bytes: Vec<u8>,
}

impl Hand {
    pub(super) fn new(method: Method, key: &Key, salt: Salt) -> Self {
        let aead = Aead::stream(method, &key.session_subkey(method, salt.as_slice())).unwrap();
        let nonce = NonceCounter::new(aead.nonce_len());
        Self {
            aead,
            nonce,
            bytes: salt.as_slice().to_vec(),
        }
    }

    pub(super) fn seal(&mut self, plain: &[u8]) -> &mut Self {
        let mut data = plain.to_vec();
        let tag = self
            .aead
            .seal(self.nonce.next().as_slice(), &mut data)
            .unwrap();
        self.bytes.extend_from_slice(&data);
        self.bytes.extend_from_slice(&tag);
        self
    }

    pub(super) fn chunk(&mut self, payload: &[u8]) -> &mut Self {
        self.seal(&u16::try_from(payload.len()).unwrap().to_be_bytes())
            .seal(payload)
    }

    /// An AEAD-2022 request header; `announced` is the length in the fixed header.
    pub(super) fn head(
        &mut self,
        kind: u8,
        time: u64,
        announced: usize,
        variable: &[u8],
    ) -> &mut Self {
        let mut fixed = vec![kind];
        fixed.extend_from_slice(&time.to_be_bytes());
        fixed.extend_from_slice(&u16::try_from(announced).unwrap().to_be_bytes());
        self.seal(&fixed).seal(variable)
    }

    /// An AEAD-2022 response header.
    pub(super) fn answer(
        &mut self,
        kind: u8,
        time: u64,
        request: &[u8],
        payload: &[u8],
    ) -> &mut Self {
        let mut fixed = vec![kind];
        fixed.extend_from_slice(&time.to_be_bytes());
        fixed.extend_from_slice(request);
        fixed.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        self.seal(&fixed).seal(payload)
    }
}

/// Seals `payload` as a relay does: in the slots of buffers of `room` bytes, each filled as far as possible.
pub(super) fn seal_all(sealer: &mut Sealer, mut payload: &[u8], room: usize) -> Vec<u8> {
    let mut sealed = Vec::new();
    loop {
        let mut buf = vec![0xEE; room];
        let count = fill(sealer, &mut buf, payload, 64);
        let len = sealer.seal(&mut buf, count, FRESH).unwrap();
        assert!(len <= room && (len > 0 || payload.is_empty()));
        sealed.extend_from_slice(&buf[..len]);
        payload = &payload[count..];
        if payload.is_empty() {
            return sealed;
        }
    }
}

/// Reads `payload` into at most `most` slots with one vectored read; returns how many bytes.
pub(super) fn fill(sealer: &Sealer, buf: &mut [u8], payload: &[u8], most: usize) -> usize {
    let mut slots: Vec<IoSliceMut<'_>> = (0..most).map(|_| IoSliceMut::new(&mut [])).collect();
    let used = sealer.slots(buf, &mut slots);
    let mut at = 0;
    for slot in &mut slots[..used] {
        assert!(!slot.is_empty());
        let part = &payload[at..payload.len().min(at + slot.len())];
        slot[..part.len()].copy_from_slice(part);
        at += part.len();
    }
    at
}

/// A whole request with `payload`, sealed in buffers of several chunks.
pub(super) fn request(ends: &Ends, target: &Address, payload: &[u8]) -> Vec<u8> {
    let salt = salt(ends.credentials.method(), 5);
    seal_all(
        &mut Sealer::request(&ends.credentials, salt, target.as_ref()),
        payload,
        100_000,
    )
}

/// A whole response with `payload` to [`request`].
pub(super) fn response(ends: &Ends, user: Option<usize>, payload: &[u8]) -> Vec<u8> {
    let method = ends.credentials.method();
    let key = ends.accounts.session_key(user).unwrap();
    seal_all(
        &mut Sealer::response(method, key, salt(method, 6), salt(method, 5)),
        payload,
        100_000,
    )
}

/// Receives a stream piece by piece and opens it.
pub(super) struct Receiver<'a> {
    head: Option<(&'a Accounts, RequestOpener)>,
    opener: Option<Opener>,
    buffer: Vec<u8>,
    at: usize,
    now: u64,
    failed: bool,
    /// Whether the opener has returned a salt to be checked.
    pub(super) authenticated: bool,
    pub(super) user: Option<usize>,
    pub(super) target: Option<Address>,
    /// The index of the next server, and the bytes to relay to it.
    pub(super) relayed: Option<(usize, Vec<u8>)>,
    pub(super) plain: Vec<u8>,
}

impl<'a> Receiver<'a> {
    pub(super) fn server(accounts: &'a Accounts) -> Self {
        let head = Some((accounts, RequestOpener::new(accounts.method())));
        Self {
            head,
            ..Self::client_with(None)
        }
    }

    pub(super) fn client(credentials: &Credentials) -> Self {
        Self::client_with(Some(Opener::response(
            credentials,
            salt(credentials.method(), 5),
        )))
    }

    fn client_with(opener: Option<Opener>) -> Self {
        Self {
            head: None,
            opener,
            buffer: Vec::new(),
            at: 0,
            now: NOW,
            failed: false,
            authenticated: false,
            user: None,
            target: None,
            relayed: None,
            plain: Vec::new(),
        }
    }

    /// With another time of day.
    pub(super) fn at(mut self, now: u64) -> Self {
        self.now = now;
        self
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let result = self.receive(bytes);
        assert!(!self.failed || result.is_err(), "goes on after an error");
        self.failed |= result.is_err();
        result
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.buffer.extend_from_slice(bytes);
        if self.opener.is_none() && self.relayed.is_none() {
            self.open_head()?;
        }
        let Some(opener) = &mut self.opener else {
            return Ok(());
        };
        loop {
            let opened = opener.open(&mut self.buffer[self.at..], || self.now)?;
            if opened.used == 0 {
                assert!(
                    opener.need() > self.buffer.len() - self.at,
                    "what is needed is there"
                );
                return Ok(());
            }
            self.plain
                .extend_from_slice(&self.buffer[self.at..][opened.payload]);
            self.at += opened.used;
        }
    }

    fn open_head(&mut self) -> Result<(), Error> {
        let (accounts, head) = self.head.as_mut().unwrap();
        loop {
            match head.open(accounts, &mut self.buffer, self.now)? {
                Progress::NeedMore => {
                    assert!(
                        head.need(accounts) > self.buffer.len(),
                        "what is needed is there"
                    );
                    return Ok(());
                }
                Progress::Authenticated(_) => {
                    assert!(!self.authenticated);
                    self.authenticated = true;
                }
                Progress::Relay { user, salt, rest } => {
                    self.relayed =
                        Some((user, [&self.buffer[salt], &self.buffer[rest..]].concat()));
                    return Ok(());
                }
                Progress::Complete(request) => {
                    assert!(self.authenticated || accounts.method() == Method::None);
                    self.user = head.user();
                    self.target = Some(request.target);
                    self.plain.extend_from_slice(&self.buffer[request.payload]);
                    (self.at, self.opener) = (request.rest, Some(request.opener));
                    return Ok(());
                }
            }
        }
    }

    /// Whether the stream is between two chunks.
    pub(super) fn at_boundary(&self) -> bool {
        self.at == self.buffer.len() && self.opener.as_ref().is_some_and(Opener::at_boundary)
    }
}

/// An address from text.
pub(super) fn target() -> Address {
    AddressRef::Domain("example.com", 443).to_owned()
}
