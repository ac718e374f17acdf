//! The Shadowsocks protocols as bytes: SIP004 (AEAD), SIP022 (2022 edition), SIP023 (identity headers).
//!
//! - [`keys`]: what a client and what a server must know.
//! - [`stream`]: the chunks of a TCP stream, sealed and opened in place.
//! - [`request`]: the head of a request stream, as a server reads it.
//! - [`packet`]: UDP packets.
//!
//! `seal` moves plain to encrypted and `open` moves encrypted to plain. A client seals the request and opens the
//! response; a server opens the request and seals the response. Nothing here reads a clock or draws random bytes:
//! both are arguments.

pub mod keys;
pub mod packet;
pub mod request;
pub mod stream;

pub use keys::{Account, Accounts, Credentials, Salt};

use super::Error;

/// How far a peer's clock may be off, in seconds (SIP022 §3.1.5).
pub const MAX_TIME_SKEW: u64 = 30;
/// The longest padding of a header, in bytes (SIP022 §3.1.3).
pub const MAX_PADDING: usize = 900;

/// Header type of what a client sends (SIP022 §3.1.3).
const TYPE_CLIENT: u8 = 0;
/// Header type of what a server sends (SIP022 §3.1.3).
const TYPE_SERVER: u8 = 1;

/// Refuses a timestamp further than [`MAX_TIME_SKEW`] from `now`; both in Unix seconds.
fn check_time(timestamp: u64, now: u64) -> Result<(), Error> {
    if timestamp.abs_diff(now) <= MAX_TIME_SKEW {
        return Ok(());
    }
    let ahead = i64::try_from(timestamp.abs_diff(now)).unwrap_or(i64::MAX);
    Err(Error::TimestampSkew {
        seconds: if timestamp > now { ahead } else { -ahead },
    })
}

/// Splits `N` bytes off the front.
fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), Error> {
    bytes
        .split_first_chunk::<N>()
        .map(|(head, rest)| (*head, rest))
        .ok_or(Error::Truncated)
}

/// Splits `at` bytes off the front, or tells that there are too few.
fn split(bytes: &mut [u8], at: usize) -> Result<(&mut [u8], &mut [u8]), Error> {
    bytes.split_at_mut_checked(at).ok_or(Error::Truncated)
}

/// Writes `bytes` at the front of `buf` and returns what is behind them.
fn put<'a>(buf: &'a mut [u8], bytes: &[u8]) -> Result<&'a mut [u8], Error> {
    let (front, rest) = split(buf, bytes.len())?;
    front.copy_from_slice(bytes);
    Ok(rest)
}

#[cfg(test)]
mod tests;
