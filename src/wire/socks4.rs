//! SOCKS4 and SOCKS4a: the request and its answer.
//!
//! ```text
//! +----+----+---------+---------+------------+          +----+----+---------+---------+
//! | 04 | CD | port    | IPv4    | user id 00 |          | 00 | CD | port    | IPv4    |
//! |  1 |  1 | u16 be  |  4      | 1..        |          |  1 |  1 | u16 be  |  4      |
//! +----+----+---------+---------+------------+          +----+----+---------+---------+
//! ```
//!
//! An address `0.0.0.x` with x > 0 says that a host name, ended by 00, follows the user id (SOCKS4a).

use std::net::{Ipv4Addr, SocketAddr};

use super::{Address, Error};

/// The first byte of a request.
pub const VERSION: u8 = 4;
/// Longest user id, in bytes without its end.
const MAX_USER_ID: usize = 255;
/// Longest host name, in bytes without its end.
const MAX_HOST: usize = 255;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// CONNECT; the other command, BIND, is not offered.
    pub is_connect: bool,
    /// Where to.
    pub target: Address,
    /// The user id. It proves nothing.
    pub user_id: Vec<u8>,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The target has been reached.
    Granted,
    /// It has not, or the request was refused.
    Rejected,
}

impl Request {
    /// Reads a request and returns it with its length; `None` if more bytes are needed.
    ///
    /// # Errors
    /// When it is not SOCKS4, or a part is too long.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Error> {
        if bytes.first().is_some_and(|version| *version != VERSION) {
            return Err(Error::SocksVersion(
                bytes.first().copied().unwrap_or_default(),
            ));
        }
        let Some(([_, command, p1, p2, a, b, c, d], rest)) = bytes.split_first_chunk::<8>() else {
            return Ok(None);
        };
        let port = u16::from_be_bytes([*p1, *p2]);
        let Some((user_id, rest)) = text(rest, MAX_USER_ID)? else {
            return Ok(None);
        };
        let (target, rest) = match [*a, *b, *c, *d] {
            [0, 0, 0, last] if last > 0 => match text(rest, MAX_HOST)? {
                Some((name, rest)) => {
                    let name = std::str::from_utf8(name).map_err(|_| Error::AddressDomain)?;
                    (Address::domain(name, port)?, rest)
                }
                None => return Ok(None),
            },
            ip => (
                Address::Ip(SocketAddr::new(Ipv4Addr::from(ip).into(), port)),
                rest,
            ),
        };
        let request = Self {
            is_connect: *command == 1,
            target,
            user_id: user_id.to_vec(),
        };
        Ok(Some((request, bytes.len() - rest.len())))
    }
}

impl Reply {
    /// The bytes of the answer.
    #[must_use]
    pub const fn encode(self) -> [u8; 8] {
        let code = match self {
            Self::Granted => 90,
            Self::Rejected => 91,
        };
        [0, code, 0, 0, 0, 0, 0, 0]
    }
}

/// A text and the bytes behind its end.
type Text<'a> = (&'a [u8], &'a [u8]);

/// A text that ends with 00, and the bytes behind it; `None` if its end has not come.
fn text(bytes: &[u8], max: usize) -> Result<Option<Text<'_>>, Error> {
    match bytes.iter().take(max + 1).position(|byte| *byte == 0) {
        Some(end) => {
            let (text, rest) = bytes.split_at_checked(end).ok_or(Error::Truncated)?;
            Ok(Some((text, rest.get(1..).unwrap_or_default())))
        }
        None if bytes.len() > max => Err(Error::AddressDomain),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn requests_are_read_however_they_are_cut() {
        let four = [&[4, 1, 0x01, 0xbb, 192, 0, 2, 7][..], b"ann\0", b"ahead"].concat();
        let named = [&[4, 1, 0, 80, 0, 0, 0, 1][..], b"\0", b"example.com\0"].concat();
        for (bytes, target, user_id, len) in [
            (&four, "192.0.2.7:443", &b"ann"[..], 12),
            (&named, "example.com:80", b"", 21),
        ] {
            for cut in 0..len {
                assert_eq!(
                    Request::parse(bytes.get(..cut).unwrap()),
                    Ok(None),
                    "{cut} bytes"
                );
            }
            let (request, used) = Request::parse(bytes).unwrap().unwrap();
            assert_eq!(request.target.to_string(), target);
            assert_eq!((request.user_id.as_slice(), used), (user_id, len));
            assert!(request.is_connect);
        }
    }

    #[test]
    fn other_versions_and_endless_texts_are_refused() {
        assert!(Request::parse(&[5, 1, 0]).is_err());
        let endless = [&[4, 1, 0, 80, 1, 2, 3, 4][..], &[b'a'; 300]].concat();
        assert!(Request::parse(&endless).is_err());
        let endless = [&[4, 1, 0, 80, 0, 0, 0, 4, 0][..], &[b'a'; 300]].concat();
        assert!(Request::parse(&endless).is_err());
        let bind = [4, 2, 0, 80, 1, 2, 3, 4, 0];
        assert!(!Request::parse(&bind).unwrap().unwrap().0.is_connect);
    }

    #[test]
    fn replies_are_eight_bytes() {
        assert_eq!(Reply::Granted.encode(), [0, 90, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Reply::Rejected.encode(), [0, 91, 0, 0, 0, 0, 0, 0]);
    }
}
