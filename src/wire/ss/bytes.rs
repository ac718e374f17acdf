//! Reads and writes the first bytes of slices.

use crate::wire::Error;

/// Reads the first `N` bytes; returns them and what follows.
pub(super) fn read<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), Error> {
    bytes
        .split_first_chunk::<N>()
        .map(|(head, rest)| (*head, rest))
        .ok_or(Error::Truncated)
}

/// Splits the slice at `at`.
pub(super) fn split(bytes: &mut [u8], at: usize) -> Result<(&mut [u8], &mut [u8]), Error> {
    bytes.split_at_mut_checked(at).ok_or(Error::Truncated)
}

/// Writes `bytes` to the front of `buf` and returns what follows.
pub(super) fn write<'a>(buf: &'a mut [u8], bytes: &[u8]) -> Result<&'a mut [u8], Error> {
    let (front, rest) = split(buf, bytes.len())?;
    front.copy_from_slice(bytes);
    Ok(rest)
}
