//! Reads and writes at the front of byte slices.

use crate::wire::Error;

/// Splits `N` bytes off the front.
pub(super) fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), Error> {
    bytes
        .split_first_chunk::<N>()
        .map(|(head, rest)| (*head, rest))
        .ok_or(Error::Truncated)
}

/// Splits `at` bytes off the front, or tells that there are too few.
pub(super) fn split(bytes: &mut [u8], at: usize) -> Result<(&mut [u8], &mut [u8]), Error> {
    bytes.split_at_mut_checked(at).ok_or(Error::Truncated)
}

/// Writes `bytes` at the front of `buf` and returns what is behind them.
pub(super) fn put<'a>(buf: &'a mut [u8], bytes: &[u8]) -> Result<&'a mut [u8], Error> {
    let (front, rest) = split(buf, bytes.len())?;
    front.copy_from_slice(bytes);
    Ok(rest)
}
