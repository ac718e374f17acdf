//! Reads, writes and seals the first bytes of slices.

use crate::crypto::{Aead, TAG_LEN};
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

/// Seals `len` bytes at the front of `buf` and writes the tag after them.
pub(super) fn seal(aead: &Aead, nonce: &[u8], buf: &mut [u8], len: usize) -> Result<(), Error> {
    let (data, rest) = split(buf, len)?;
    let tag = rest.first_chunk_mut::<TAG_LEN>().ok_or(Error::Truncated)?;
    *tag = aead.seal(nonce, data).map_err(|_| Error::Unauthenticated)?;
    Ok(())
}

/// A length as it is written on the wire.
pub(super) fn length(len: usize) -> Result<[u8; 2], Error> {
    let len = u16::try_from(len).map_err(|_| Error::ChunkLength)?;
    Ok(len.to_be_bytes())
}
