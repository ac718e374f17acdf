//! The checksum of the internet protocols (RFC 1071), and its change with what it covers (RFC 1624).

use std::net::IpAddr;

/// A sum of 16-bit words in one's complement, not yet folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of `bytes`; a last odd byte is followed by a zero.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        // Four bytes at a time: the carries of 32-bit words fold to those of 16-bit words. 65,575 bytes cannot overflow.
        let (words, rest) = bytes.as_chunks::<4>();
        let mut sum: u64 = words
            .iter()
            .map(|word| u64::from(u32::from_be_bytes(*word)))
            .sum();
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        sum += u64::from(u32::from_be_bytes(last));
        Self(sum)
    }

    /// The sum of an address.
    #[must_use]
    pub fn of_address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::of(&v4.octets()),
            IpAddr::V6(v6) => Self::of(&v6.octets()),
        }
    }

    /// The sum of a word.
    #[must_use]
    pub const fn of_word(word: u16) -> Self {
        Self(word as u64)
    }

    /// Both together. The first must be of an even number of bytes.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The sum as one word, with all carries added to it.
    #[must_use]
    pub fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum > u64::from(u16::MAX) {
            sum = (sum >> 16) + (sum & u64::from(u16::MAX));
        }
        u16::try_from(sum).unwrap_or(u16::MAX)
    }

    /// The checksum: the complement of the folded sum.
    #[must_use]
    pub fn complement(self) -> u16 {
        !self.folded()
    }
}

/// The checksum after what it covers has changed from `before` to `after` (RFC 1624 §3).
#[must_use]
pub fn changed(checksum: u16, before: Sum, after: Sum) -> u16 {
    !changed_sum(!checksum, before, after)
}

/// The same for a folded sum that is not complemented.
#[must_use]
pub fn changed_sum(sum: u16, before: Sum, after: Sum) -> u16 {
    Sum::of_word(sum)
        .plus(Sum::of_word(!before.folded()))
        .plus(after)
        .folded()
}
