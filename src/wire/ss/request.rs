//! The header of a request stream, as a server reads it.

use std::ops::Range;

use crate::crypto::{Block, Family, Method, TAG_LEN};
use crate::wire::Error;
use crate::wire::address::{Address, AddressRef};

use super::bytes::read;
use super::header::{MAX_PADDING, Now, TYPE_CLIENT, check_time};
use super::keys::{Accounts, Salt};
use super::stream::{Crypt, LENGTH_LEN, Opener, REQUEST_FIXED_LEN};

/// Opens the header of a request step by step, in a buffer that fills up.
///
/// The bytes are opened in place, so between two calls the caller may only append to the buffer.
pub struct RequestOpener {
    method: Method,
    state: State,
    /// Bytes at the front of the buffer that have been opened.
    used: usize,
    user: Option<usize>,
    /// Whose key is tried first, where requests do not say whose they are.
    likely: Option<usize>,
    salt: Option<Salt>,
    timestamp: Option<u64>,
}

enum State {
    Head,
    /// AEAD-2022: a variable header of this length follows.
    Variable {
        crypt: Crypt,
        len: usize,
    },
    /// AEAD-2017: the first chunk has been opened if it had arrived; it may contain the whole address.
    First {
        opener: Opener,
        plain: Range<usize>,
    },
    /// AEAD-2017 and `none`: the plain bytes so far do not contain a whole address.
    Address {
        opener: Opener,
        plain: Range<usize>,
    },
    Done,
    Broken(Error),
}

/// The result of [`RequestOpener::open`].
pub enum Progress {
    /// More bytes are needed: at least [`RequestOpener::need`] in total.
    NeedMore,
    /// The sender knows the key. Check that the salt is not replayed, then call `open` again.
    Authenticated(Salt),
    /// The stream belongs to another server, which must get the salt and everything after the identity header.
    Relay {
        /// Id of the identity in [`Accounts`].
        user: usize,
        /// Position of the salt in the buffer.
        salt: Range<usize>,
        /// Start of what follows the identity header.
        rest: usize,
    },
    /// The header is complete.
    Complete(Request),
}

/// A request that a server has opened.
pub struct Request {
    /// The address that the client wants to reach.
    pub target: Address,
    /// Position of the payload that came with the header.
    pub payload: Range<usize>,
    /// Start of what has not been opened yet.
    pub rest: usize,
    /// Opens the rest of the stream.
    pub opener: Opener,
}

impl RequestOpener {
    /// An opener for a new stream.
    #[must_use]
    pub const fn new(method: Method) -> Self {
        Self {
            method,
            state: State::Head,
            used: 0,
            user: None,
            likely: None,
            salt: None,
            timestamp: None,
        }
    }

    /// The same for a stream that is probably one of this user: its key is tried first, where requests do not say whose they are.
    #[must_use]
    pub const fn likely_of(mut self, user: Option<usize>) -> Self {
        self.likely = user;
        self
    }

    /// The id of the user, once authenticated, on a server with users.
    #[must_use]
    pub const fn user(&self) -> Option<usize> {
        self.user
    }

    /// The request's salt, once authenticated.
    #[must_use]
    pub const fn salt(&self) -> Option<Salt> {
        self.salt
    }

    /// When the request was sealed, in Unix seconds, once authenticated; `None` for methods that do not say it.
    #[must_use]
    pub const fn timestamp(&self) -> Option<u64> {
        self.timestamp
    }

    /// Bytes that the buffer must contain before the next step can do anything.
    #[must_use]
    pub fn need(&self, accounts: &Accounts) -> usize {
        match &self.state {
            State::Head => first_part_len(accounts),
            State::Variable { len, .. } => self.used + len + TAG_LEN,
            State::Address { opener, .. } => self.used + opener.need(),
            State::First { .. } | State::Done | State::Broken(_) => self.used,
        }
    }

    /// Opens the next part; `buf` is everything received so far, `now` the time.
    ///
    /// # Errors
    /// What is wrong with the request; later calls return the same error. The peer must not be able to tell which it is.
    pub fn open(
        &mut self,
        accounts: &Accounts,
        buf: &mut [u8],
        now: impl Into<Now>,
    ) -> Result<Progress, Error> {
        // An AEAD-2017 request may be complete with its first chunk: then nothing more is needed.
        if buf.len() < self.need(accounts) && !matches!(self.state, State::Address { .. }) {
            return Ok(Progress::NeedMore);
        }
        let progress = match std::mem::replace(&mut self.state, State::Done) {
            State::Head => self.open_head(accounts, buf, now.into()),
            State::Variable { crypt, len } => self.open_variable(crypt, len, buf),
            State::First { opener, plain } | State::Address { opener, plain } => {
                self.open_address(opener, plain, buf)
            }
            State::Done => Ok(Progress::NeedMore),
            State::Broken(error) => Err(error),
        };
        progress.inspect_err(|error| self.state = State::Broken(*error))
    }

    fn open_head(
        &mut self,
        accounts: &Accounts,
        buf: &mut [u8],
        now: Now,
    ) -> Result<Progress, Error> {
        let salt = Salt::read(self.method, buf).ok_or(Error::Truncated)?;
        let salt_len = salt.as_slice().len();
        self.used = salt_len;
        match self.method.family() {
            Family::Plain => {
                // There is nothing to authenticate and no salt to check.
                return self.open_address(Opener::chunks(self.method, None), 0..0, buf);
            }
            Family::Aead2017 => {
                let rest = buf.get_mut(salt_len..).ok_or(Error::Truncated)?;
                let crypt = self.first_crypt(accounts, &salt, rest)?;
                let mut opener = Opener::chunks(self.method, Some(crypt));
                let opened = opener.open(rest, || now.unix)?;
                self.used += opened.used;
                let plain = salt_len + opened.payload.start..salt_len + opened.payload.end;
                self.state = State::First { opener, plain };
            }
            Family::Aead2022 => {
                if accounts.has_users() {
                    let (mut identity, _) =
                        read::<16>(buf.get(salt_len..).ok_or(Error::Truncated)?)?;
                    Block::new(&accounts.key().identity_subkey(salt.as_slice()))
                        .decrypt(&mut identity);
                    let user = accounts.find(&identity).ok_or(Error::UnknownIdentity)?;
                    self.user = Some(user);
                    self.used += identity.len();
                    if accounts.user(user).is_some_and(|user| user.relayed) {
                        return Ok(Progress::Relay {
                            user,
                            salt: 0..salt_len,
                            rest: self.used,
                        });
                    }
                }
                let mut crypt = Crypt::new(self.method, accounts.session_key(self.user)?, &salt)
                    .ok_or(Error::Unauthenticated)?;
                let (timestamp, len) = open_fixed(
                    &mut crypt,
                    buf.get_mut(self.used..).ok_or(Error::Truncated)?,
                    now,
                )?;
                self.timestamp = Some(timestamp);
                self.used += REQUEST_FIXED_LEN + TAG_LEN;
                self.state = State::Variable { crypt, len };
            }
        }
        self.salt = Some(salt);
        Ok(Progress::Authenticated(salt))
    }

    /// The AEAD of an AEAD-2017 stream whose sealed bytes begin with `sealed`.
    fn first_crypt(
        &mut self,
        accounts: &Accounts,
        salt: &Salt,
        sealed: &[u8],
    ) -> Result<Crypt, Error> {
        let crypt = if accounts.has_users() {
            let sealed = sealed.get(..LENGTH_LEN).ok_or(Error::Truncated)?;
            let mut room = [0; LENGTH_LEN];
            let (likely, salt) = (self.likely, salt.as_slice());
            let found = likely.and_then(|id| accounts.try_sender(id, salt, sealed, &mut room));
            let found = found
                .or_else(|| accounts.find_sender(likely, salt, sealed, &mut room))
                .ok_or(Error::Unauthenticated)?;
            self.user = Some(found.user);
            Crypt::of_subkey(self.method, &found.subkey)
        } else {
            Crypt::new(self.method, accounts.session_key(None)?, salt)
        };
        crypt.ok_or(Error::Unauthenticated)
    }

    fn open_variable(
        &mut self,
        mut crypt: Crypt,
        len: usize,
        buf: &mut [u8],
    ) -> Result<Progress, Error> {
        let start = self.used;
        let header = &*crypt.open(buf.get_mut(start..).ok_or(Error::Truncated)?, len)?;
        self.used += len + TAG_LEN;
        let (target, address_len) = AddressRef::parse(header)?.ok_or(Error::Truncated)?;
        let (padding, rest) = read::<2>(header.get(address_len..).ok_or(Error::Truncated)?)?;
        let padding = usize::from(u16::from_be_bytes(padding));
        // Without payload and padding the header's length would reveal what it is (SIP022 §3.1.3).
        if padding > MAX_PADDING || padding > rest.len() || (padding == 0 && rest.is_empty()) {
            return Err(Error::Padding);
        }
        let payload = start + address_len + 2 + padding..start + len;
        Ok(Progress::Complete(Request {
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
    ) -> Result<Progress, Error> {
        loop {
            let bytes = buf.get(plain.clone()).ok_or(Error::Truncated)?;
            if let Some((target, len)) = AddressRef::parse(bytes)? {
                let (target, payload) = (target.to_owned(), plain.start + len..plain.end);
                return Ok(Progress::Complete(Request {
                    target,
                    payload,
                    rest: self.used,
                    opener,
                }));
            }
            let opened = opener.open(buf.get_mut(self.used..).ok_or(Error::Truncated)?, || 0)?;
            if opened.used == 0 {
                self.state = State::Address { opener, plain };
                return Ok(Progress::NeedMore);
            }
            // The address spans two chunks: join its parts.
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

/// Bytes needed to open the first part of a header.
fn first_part_len(accounts: &Accounts) -> usize {
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

/// Opens the fixed header of AEAD-2022 and returns its timestamp and the length of the variable one.
fn open_fixed(crypt: &mut Crypt, buf: &mut [u8], now: Now) -> Result<(u64, usize), Error> {
    let header = &*crypt.open(buf, REQUEST_FIXED_LEN)?;
    let ([kind], header) = read::<1>(header)?;
    let (time, header) = read::<8>(header)?;
    let (len, _) = read::<2>(header)?;
    if kind != TYPE_CLIENT {
        return Err(Error::HeaderType(kind));
    }
    let timestamp = u64::from_be_bytes(time);
    check_time(timestamp, now)?;
    Ok((timestamp, usize::from(u16::from_be_bytes(len))))
}
