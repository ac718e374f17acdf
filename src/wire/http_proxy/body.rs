//! Where a body ends (RFC 9112 §6, §7).

use super::super::http_strict::{self, chunk_size};
use super::error::Error;
use super::fields::Fields;

/// Longest line with a chunk's size and its extensions, in bytes.
const MAX_SIZE_LINE: usize = 1024;
/// Longest trailer section, in bytes.
const MAX_TRAILERS: usize = 16 * 1024;

/// A body that passes: how much of it is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    Empty,
    /// This many bytes.
    Length(u64),
    /// Chunks; what is left of one that has begun.
    Chunked(Chunks),
    /// Everything up to the end of the stream.
    UntilEnd,
}

/// The place in a chunked body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    state: State,
    /// Bytes of a line that has not ended; they have passed already.
    line: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    /// This many bytes of a chunk and of the CRLF behind it are left.
    Data(u64),
    Trailers,
}

impl Body {
    pub(super) fn of_request(fields: &Fields<'_>, version: u8) -> Result<Self, Error> {
        Ok(Self::framed(fields, version)?.unwrap_or(Self::Empty))
    }

    pub(super) fn of_response(fields: &Fields<'_>, version: u8) -> Result<Self, Error> {
        Ok(Self::framed(fields, version)?.unwrap_or(Self::UntilEnd))
    }

    /// What the fields say; `None`: nothing.
    fn framed(fields: &Fields<'_>, version: u8) -> Result<Option<Self>, Error> {
        let mut length = None;
        for value in fields.all("content-length") {
            if length
                .replace(http_strict::content_length(value)?)
                .is_some()
            {
                return Err(Error::Malformed);
            }
        }
        if ["content-length", "transfer-encoding"]
            .iter()
            .any(|name| fields.has_unreadable(name))
        {
            return Err(Error::Malformed);
        }
        let mut codings = fields.all("transfer-encoding");
        match (codings.next(), codings.next(), length) {
            (None, _, None) => Ok(None),
            (None, _, Some(0)) => Ok(Some(Self::Empty)),
            (None, _, Some(length)) => Ok(Some(Self::Length(length))),
            (Some(coding), None, None)
                if version == 1 && coding.eq_ignore_ascii_case("chunked") =>
            {
                Ok(Some(Self::Chunked(Chunks::default())))
            }
            (Some(_), ..) => Err(Error::Malformed),
        }
    }

    /// Whether the body has ended.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// Says how many of `bytes`, which come next, belong to the body, and goes on by them.
    ///
    /// # Errors
    /// When a chunk is malformed.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        match self {
            Self::Empty => Ok(0),
            Self::UntilEnd => Ok(bytes.len()),
            Self::Length(left) => {
                let used = take(left, bytes.len());
                if *left == 0 {
                    *self = Self::Empty;
                }
                Ok(used)
            }
            Self::Chunked(chunks) => {
                let (used, is_over) = chunks.advance(bytes)?;
                if is_over {
                    *self = Self::Empty;
                }
                Ok(used)
            }
        }
    }
}

/// Takes up to `len` from what is left, and says how much.
fn take(left: &mut u64, len: usize) -> usize {
    let used = usize::try_from(*left).unwrap_or(usize::MAX).min(len);
    *left -= used as u64;
    used
}

impl Chunks {
    /// How many bytes belong to the body, and whether it ends with them.
    fn advance(&mut self, bytes: &[u8]) -> Result<(usize, bool), Error> {
        let mut used = 0;
        while used < bytes.len() {
            let rest = bytes.get(used..).unwrap_or_default();
            match &mut self.state {
                State::Data(left) => {
                    let before = *left;
                    let len = take(left, rest.len());
                    // The last two bytes are the CRLF.
                    for (byte, wanted) in [(2, b'\r'), (1, b'\n')] {
                        let at = before.saturating_sub(byte);
                        let found = usize::try_from(at).ok().filter(|_| before >= byte);
                        let found = found.filter(|at| *at < len).and_then(|at| rest.get(at));
                        if found.is_some_and(|found| *found != wanted) {
                            return Err(Error::Malformed);
                        }
                    }
                    used += len;
                    if *left == 0 {
                        self.state = State::Size;
                    }
                }
                State::Size => {
                    let Some((len, size)) = self.line(rest, MAX_SIZE_LINE, chunk_size)? else {
                        return Ok((bytes.len(), false));
                    };
                    used += len;
                    self.state = match size {
                        0 => State::Trailers,
                        size => State::Data(size.checked_add(2).ok_or(Error::Malformed)?),
                    };
                }
                State::Trailers => {
                    let Some((len, ())) = self.line(rest, MAX_TRAILERS, trailers)? else {
                        return Ok((bytes.len(), false));
                    };
                    return Ok((used + len, true));
                }
            }
        }
        Ok((used, false))
    }

    /// Reads a part that ends with a line, of which the beginning may have come before: how many of `rest` are of it.
    fn line<T>(
        &mut self,
        rest: &[u8],
        limit: usize,
        parse: impl Fn(&[u8]) -> Result<Option<(usize, T)>, http_strict::Malformed>,
    ) -> Result<Option<(usize, T)>, Error> {
        let before = self.line.len();
        let room = limit.saturating_sub(before).min(rest.len());
        self.line
            .extend_from_slice(rest.get(..room).unwrap_or_default());
        match parse(&self.line)? {
            Some((len, value)) => {
                self.line = Vec::new();
                Ok(Some((len.saturating_sub(before), value)))
            }
            None if self.line.len() >= limit => Err(Error::Malformed),
            None => Ok(None),
        }
    }
}

fn trailers(lines: &[u8]) -> Result<Option<(usize, ())>, http_strict::Malformed> {
    Ok(http_strict::trailers(lines)?.map(|len| (len, ())))
}
