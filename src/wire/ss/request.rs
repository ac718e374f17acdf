//! The head of a request stream, as a server reads it.

use std::ops::Range;

use crate::crypto::{Block, Family, Method, TAG_LEN};
use crate::wire::Error;
use crate::wire::address::{Address, AddressRef};

use super::bytes::take;
use super::header::{MAX_PADDING, TYPE_CLIENT, check_time};
use super::keys::{Accounts, Salt};
use super::stream::{Crypt, Opener, REQUEST_FIXED_LEN};

/// Reads a request's head from a buffer that fills up, step by step.
///
/// The bytes stay where they are and are opened in place, so the caller keeps the buffer as it was between two calls
/// and only adds to its end.
pub struct RequestOpener {
    method: Method,
    state: State,
    /// Bytes from the front of the buffer that are done with.
    used: usize,
    user: Option<usize>,
    salt: Option<Salt>,
}

enum State {
    Head,
    /// SIP022: the variable header of this length follows.
    Variable {
        crypt: Crypt,
        len: usize,
    },
    /// SIP004: the first chunk has been opened as far as it had come; it may hold the whole address.
    First {
        opener: Opener,
        plain: Range<usize>,
    },
    /// SIP004 and none: the plain bytes gathered so far do not hold a whole address.
    Address {
        opener: Opener,
        plain: Range<usize>,
    },
    Done,
    Broken(Error),
}

/// What [`RequestOpener::open`] came to.
pub enum Step {
    /// More bytes are needed: at least [`RequestOpener::need`] in all.
    More,
    /// The head is the work of somebody who knows the key. Look whether its salt has been here before, then go on.
    Authenticated(Salt),
    /// The stream belongs to another server: its salt and everything behind the identity header are to be passed on.
    Relay {
        /// The place of the identity in [`Accounts`].
        user: usize,
        /// Where the salt stands.
        salt: Range<usize>,
        /// Where what follows the identity header begins.
        rest: usize,
    },
    /// The request is whole.
    Done(Request),
}

/// A request that a server has opened.
pub struct Request {
    /// What the client wants to reach.
    pub target: Address,
    /// Where in the buffer the payload stands that came with the head.
    pub payload: Range<usize>,
    /// Where in the buffer begins what has not been opened yet.
    pub rest: usize,
    /// Opens what follows.
    pub opener: Opener,
}

impl RequestOpener {
    /// Begins with an empty buffer.
    #[must_use]
    pub const fn new(method: Method) -> Self {
        Self {
            method,
            state: State::Head,
            used: 0,
            user: None,
            salt: None,
        }
    }

    /// The user, once authenticated, on a server with users.
    #[must_use]
    pub const fn user(&self) -> Option<usize> {
        self.user
    }

    /// The request's salt, once authenticated.
    #[must_use]
    pub const fn salt(&self) -> Option<Salt> {
        self.salt
    }

    /// Bytes that the buffer must hold before the next step can do anything.
    #[must_use]
    pub fn need(&self, accounts: &Accounts) -> usize {
        match &self.state {
            State::Head => head_len(accounts),
            State::Variable { len, .. } => self.used + len + TAG_LEN,
            State::Address { opener, .. } => self.used + opener.need(),
            State::First { .. } | State::Done | State::Broken(_) => self.used,
        }
    }

    /// Goes one step on; `buf` is all that has come so far, `now` the time in Unix seconds.
    ///
    /// # Errors
    /// What is wrong with the request, and that again if asked again. The peer must not be able to tell.
    pub fn open(&mut self, accounts: &Accounts, buf: &mut [u8], now: u64) -> Result<Step, Error> {
        // A SIP004 request may be whole already when its first chunk is: nothing more is needed then.
        if buf.len() < self.need(accounts) && !matches!(self.state, State::Address { .. }) {
            return Ok(Step::More);
        }
        let step = match std::mem::replace(&mut self.state, State::Done) {
            State::Head => self.open_head(accounts, buf, now),
            State::Variable { crypt, len } => self.open_variable(crypt, len, buf),
            State::First { opener, plain } | State::Address { opener, plain } => {
                self.open_address(opener, plain, buf)
            }
            State::Done => Ok(Step::More),
            State::Broken(error) => Err(error),
        };
        step.inspect_err(|error| self.state = State::Broken(*error))
    }

    fn open_head(&mut self, accounts: &Accounts, buf: &mut [u8], now: u64) -> Result<Step, Error> {
        let salt = Salt::read(self.method, buf).ok_or(Error::Truncated)?;
        let salt_len = salt.as_slice().len();
        self.used = salt_len;
        match self.method.family() {
            Family::Plain => {
                // Nothing to authenticate and no salt to look for: go straight on.
                return self.open_address(Opener::chunks(self.method, None), 0..0, buf);
            }
            Family::Aead2017 => {
                let crypt = Crypt::new(self.method, accounts.session_key(None), &salt)
                    .ok_or(Error::Unauthenticated)?;
                let mut opener = Opener::chunks(self.method, Some(crypt));
                let rest = buf.get_mut(salt_len..).ok_or(Error::Truncated)?;
                let opened = opener.open(rest, || now)?;
                self.used += opened.used;
                let plain = salt_len + opened.payload.start..salt_len + opened.payload.end;
                self.state = State::First { opener, plain };
            }
            Family::Aead2022 => {
                if accounts.has_users() {
                    let (mut identity, _) =
                        take::<16>(buf.get(salt_len..).ok_or(Error::Truncated)?)?;
                    Block::new(&accounts.key().identity_subkey(salt.as_slice()))
                        .decrypt(&mut identity);
                    let user = accounts.find(&identity).ok_or(Error::UnknownIdentity)?;
                    self.user = Some(user);
                    self.used += identity.len();
                    if accounts.user(user).is_some_and(|user| user.relayed) {
                        return Ok(Step::Relay {
                            user,
                            salt: 0..salt_len,
                            rest: self.used,
                        });
                    }
                }
                let mut crypt = Crypt::new(self.method, accounts.session_key(self.user), &salt)
                    .ok_or(Error::Unauthenticated)?;
                let len = open_fixed(
                    &mut crypt,
                    buf.get_mut(self.used..).ok_or(Error::Truncated)?,
                    now,
                )?;
                self.used += REQUEST_FIXED_LEN + TAG_LEN;
                self.state = State::Variable { crypt, len };
            }
        }
        self.salt = Some(salt);
        Ok(Step::Authenticated(salt))
    }

    fn open_variable(
        &mut self,
        mut crypt: Crypt,
        len: usize,
        buf: &mut [u8],
    ) -> Result<Step, Error> {
        let start = self.used;
        let header = &*crypt.open(buf.get_mut(start..).ok_or(Error::Truncated)?, len)?;
        self.used += len + TAG_LEN;
        let (target, address_len) = AddressRef::parse(header)?.ok_or(Error::Truncated)?;
        let (padding, rest) = take::<2>(header.get(address_len..).ok_or(Error::Truncated)?)?;
        let padding = usize::from(u16::from_be_bytes(padding));
        // No payload and no padding would give a header of a length that tells what it is (SIP022 §3.1.3).
        if padding > MAX_PADDING || padding > rest.len() || (padding == 0 && rest.is_empty()) {
            return Err(Error::Padding);
        }
        let payload = start + address_len + 2 + padding..start + len;
        Ok(Step::Done(Request {
            target: target.to_owned(),
            payload,
            rest: self.used,
            opener: Opener::chunks(self.method, Some(crypt)),
        }))
    }

    fn open_address(
        &mut self,
        mut opener: Opener,
        mut plain: Range<usize>,
        buf: &mut [u8],
    ) -> Result<Step, Error> {
        loop {
            let bytes = buf.get(plain.clone()).ok_or(Error::Truncated)?;
            if let Some((target, len)) = AddressRef::parse(bytes)? {
                let (target, payload) = (target.to_owned(), plain.start + len..plain.end);
                return Ok(Step::Done(Request {
                    target,
                    payload,
                    rest: self.used,
                    opener,
                }));
            }
            let opened = opener.open(buf.get_mut(self.used..).ok_or(Error::Truncated)?, || 0)?;
            if opened.used == 0 {
                self.state = State::Address { opener, plain };
                return Ok(Step::More);
            }
            // An address cut in two by a chunk's border: bring its halves together.
            let from = self.used + opened.payload.start..self.used + opened.payload.end;
            if plain.is_empty() {
                plain = from;
            } else {
                let len = from.len();
                buf.copy_within(from, plain.end);
                plain.end += len;
            }
            self.used += opened.used;
        }
    }
}

/// The bytes without which the head of a request tells nothing.
fn head_len(accounts: &Accounts) -> usize {
    let method = accounts.method();
    match method.family() {
        Family::Plain => 1,
        Family::Aead2017 => method.salt_len() + 2 + TAG_LEN,
        Family::Aead2022 => {
            let identity = if accounts.has_users() { 16 } else { 0 };
            method.salt_len() + identity + REQUEST_FIXED_LEN + TAG_LEN
        }
    }
}

/// Opens the fixed header of SIP022 and returns the length of the variable one.
fn open_fixed(crypt: &mut Crypt, buf: &mut [u8], now: u64) -> Result<usize, Error> {
    let header = &*crypt.open(buf, REQUEST_FIXED_LEN)?;
    let ([kind], header) = take::<1>(header)?;
    let (time, header) = take::<8>(header)?;
    let (len, _) = take::<2>(header)?;
    if kind != TYPE_CLIENT {
        return Err(Error::HeaderType(kind));
    }
    check_time(u64::from_be_bytes(time), now)?;
    Ok(usize::from(u16::from_be_bytes(len)))
}
