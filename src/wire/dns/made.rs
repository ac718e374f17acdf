//! Answers that no name server has given.

use std::net::IpAddr;

use super::answer::Answer;
use super::{CLASS_IN, NXDOMAIN, QR, Query, REFUSED, SERVFAIL, TYPE_A, TYPE_AAAA, put_header};

/// How long a failure is kept, in seconds (RFC 9520 §3.2).
const FAILURE: u32 = 1;

/// Why there are no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// No name server has answered.
    Unreachable,
    /// A rule refuses the name.
    Blocked,
    /// The name is not answered here; somebody else should be asked.
    Prohibited,
    /// There is no room for one more name.
    Full,
    /// No host can have this name.
    NoHost,
}

impl Denial {
    /// The response code, the extended error (RFC 8914 §4), and how long it may be kept.
    const fn codes(self) -> (u16, Option<u8>, Option<u32>) {
        match self {
            // "No reachable authority".
            Self::Unreachable => (SERVFAIL, Some(22), Some(FAILURE)),
            // Not REFUSED: the client would ask the next name server.
            Self::Blocked => (NXDOMAIN, Some(15), None),
            Self::Prohibited => (REFUSED, Some(18), None),
            Self::Full => (SERVFAIL, Some(0), None),
            Self::NoHost => (NXDOMAIN, None, None),
        }
    }
}

impl Answer {
    /// The answer to `query` when no name server has answered.
    #[must_use]
    pub fn failure(query: &Query<'_>) -> Self {
        Self::denied(query, Denial::Unreachable)
    }

    /// An answer to `query` without records.
    #[must_use]
    pub fn denied(query: &Query<'_>, denial: Denial) -> Self {
        let (code, error, lifetime) = denial.codes();
        let options = error.map(|error| [0, 15, 0, 2, 0, error]);
        let options = options.as_ref().map_or(&[][..], |option| option);
        Self::made(query, code, None, (lifetime, options))
    }

    /// The answer to `query` with this address and its time to live in seconds, or without records.
    #[must_use]
    pub fn address(query: &Query<'_>, address: Option<(IpAddr, u32)>) -> Self {
        Self::made(query, 0, address, (None, &[]))
    }

    fn made(
        query: &Query<'_>,
        code: u16,
        address: Option<(IpAddr, u32)>,
        (lifetime, options): (Option<u32>, &[u8]),
    ) -> Self {
        let mut message = Vec::new();
        let records = u16::from(address.is_some());
        put_header(&mut message, 0, QR | code, [1, records, 0, 0]);
        message.extend(query.question.name);
        message.extend(query.question.kind.to_be_bytes());
        message.extend(query.question.class.to_be_bytes());
        let question_end = message.len();
        let mut ttls = Vec::new();
        if let Some((address, ttl)) = address {
            let kind = match address {
                IpAddr::V4(_) => TYPE_A,
                IpAddr::V6(_) => TYPE_AAAA,
            };
            // Its name is that of the question, behind the header.
            message.extend([0xc0, 12]);
            message.extend(kind.to_be_bytes());
            message.extend(CLASS_IN.to_be_bytes());
            ttls.extend(u16::try_from(message.len()).ok());
            message.extend(ttl.to_be_bytes());
            match address {
                IpAddr::V4(ip) => {
                    message.extend([0, 4]);
                    message.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    message.extend([0, 16]);
                    message.extend(ip.octets());
                }
            }
        }
        Self::from_parts(message, ttls, question_end, lifetime, options)
    }
}
