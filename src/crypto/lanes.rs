//! HKDF-SHA1 (RFC 5869) for eight salts at once: every vector register holds the same word of eight computations.
//!
//! AEAD-2017 has a subkey for each packet. Deriving one takes ten runs of SHA-1's compression function, longer than
//! encrypting the packet on a CPU without instructions for SHA-1. Packets come and go in batches and their salts are
//! independent, so eight subkeys are derived together in less than the time of two. The tests compare every result with the
//! library that [`super::key`] uses.

use fearless_simd::{Level, Simd, dispatch, prelude::*, u32x8};

/// Subkeys that are derived together.
pub const LANES: usize = 8;

/// The HKDF info of SIP004, followed by the number of the output block.
const INFO: [&[u8]; 2] = [b"ss-subkey\x01", b"ss-subkey\x02"];

/// The initial hash value (FIPS 180-4 §5.3.1).
const INITIAL: [u32; 5] = [
    0x6745_2301,
    0xefcd_ab89,
    0x98ba_dcfe,
    0x1032_5476,
    0xc3d2_e1f0,
];

/// Bytes of a block of SHA-1.
const BLOCK_LEN: usize = 64;
/// Bytes of a digest.
const DIGEST_LEN: usize = 20;

/// The same word of eight computations.
type Word<S> = u32x8<S>;
/// Eight states of SHA-1.
type State<S> = [Word<S>; 5];
/// Eight blocks of 64 bytes.
type Block<S> = [Word<S>; 16];

/// HKDF-SHA1 of one key of at most 32 bytes with each of `salts` of at most 64 bytes, and with the info of SIP004. It writes
/// the first 20 bytes of each result if `short`, else all 32.
pub(super) fn hkdf_sha1(
    key: &[u8],
    salts: &[&[u8]; LANES],
    short: bool,
    out: &mut [[u8; 32]; LANES],
) {
    dispatch!(Level::new(), simd => derive(simd, key, salts, short, out));
}

/// The same for eight keys of equal length, of 16, 24 or 32 bytes, and one salt.
pub(super) fn hkdf_sha1_of_keys(
    keys: &[&[u8]; LANES],
    salt: &[u8],
    short: bool,
    out: &mut [[u8; 32]; LANES],
) {
    dispatch!(Level::new(), simd => derive_of_keys(simd, keys, salt, short, out));
}

#[inline(always)]
fn derive<S: Simd>(
    simd: S,
    key: &[u8],
    salts: &[&[u8]; LANES],
    short: bool,
    out: &mut [[u8; 32]; LANES],
) {
    // Loops here and below, because closures of `map` and `from_fn` would not be compiled for the CPU that runs them.
    let mut keys = [Word::splat(simd, 0); 16];
    for (t, place) in keys.iter_mut().enumerate() {
        *place = words(simd, salts, t);
    }
    let secret = Hmac::new(simd, &keys).tag(simd, &[], key);
    expand(simd, &secret, short, out);
}

#[inline(always)]
fn derive_of_keys<S: Simd>(
    simd: S,
    keys: &[&[u8]; LANES],
    salt: &[u8],
    short: bool,
    out: &mut [[u8; 32]; LANES],
) {
    let mut block = [Word::splat(simd, 0); 16];
    for (t, place) in block.iter_mut().enumerate() {
        *place = Word::splat(simd, word(salt, t));
    }
    let mut front = [Word::splat(simd, 0); 8];
    for (t, place) in front.iter_mut().enumerate() {
        *place = words(simd, keys, t);
    }
    let [first, ..] = keys;
    let front = front.get(..first.len() / 4).unwrap_or(&front);
    let secret = Hmac::new(simd, &block).tag(simd, front, &[]);
    expand(simd, &secret, short, out);
}

/// The word `t` of each of `texts`.
#[inline(always)]
fn words<S: Simd>(simd: S, texts: &[&[u8]; LANES], t: usize) -> Word<S> {
    let mut words = [0; LANES];
    for (place, text) in words.iter_mut().zip(texts) {
        *place = word(text, t);
    }
    Word::simd_from(simd, words)
}

/// The second half of HKDF, from eight pseudorandom keys.
#[inline(always)]
fn expand<S: Simd>(simd: S, secret: &State<S>, short: bool, out: &mut [[u8; 32]; LANES]) {
    let mut keys = [Word::splat(simd, 0); 16];
    for (place, word) in keys.iter_mut().zip(secret) {
        *place = *word;
    }
    let expand = Hmac::new(simd, &keys);
    let [first, second] = INFO;
    let first = expand.tag(simd, &[], first);
    write(out, 0, &first);
    if !short {
        write(out, DIGEST_LEN, &expand.tag(simd, &first, second));
    }
}

/// Writes eight digests to the results from byte `at` on, as far as there is room.
#[inline(always)]
fn write<S: Simd>(out: &mut [[u8; 32]; LANES], at: usize, digests: &State<S>) {
    for (index, words) in digests.iter().enumerate() {
        let at = at + 4 * index;
        for (lane, word) in out.iter_mut().zip(words.as_slice()) {
            if let Some(room) = lane.get_mut(at..at + 4) {
                room.copy_from_slice(&word.to_be_bytes());
            }
        }
    }
}

/// The big-endian word `t` of `bytes`, zero beyond their end.
#[inline(always)]
fn word(bytes: &[u8], t: usize) -> u32 {
    let bytes = bytes.get(4 * t..).unwrap_or_default();
    bytes
        .first_chunk()
        .map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// HMAC-SHA1 (RFC 2104) under eight keys.
struct Hmac<S: Simd> {
    inner: State<S>,
    outer: State<S>,
}

impl<S: Simd> Hmac<S> {
    /// With keys of at most one block, padded with zeros.
    #[inline(always)]
    fn new(simd: S, keys: &Block<S>) -> Self {
        let mut initial = [Word::splat(simd, 0); 5];
        for (place, word) in initial.iter_mut().zip(INITIAL) {
            *place = Word::splat(simd, word);
        }
        let (mut inner, mut outer) = (*keys, *keys);
        for (inner, outer) in inner.iter_mut().zip(&mut outer) {
            *inner ^= 0x3636_3636;
            *outer ^= 0x5c5c_5c5c;
        }
        Self {
            inner: compress(simd, &initial, &inner),
            outer: compress(simd, &initial, &outer),
        }
    }

    /// The tags of messages of at most 55 bytes: `front`, different in each lane, then `text`, the same in all.
    #[inline(always)]
    fn tag(&self, simd: S, front: &[Word<S>], text: &[u8]) -> State<S> {
        let digest = compress(simd, &self.inner, &last_block(simd, front, text));
        compress(simd, &self.outer, &last_block(simd, &digest, &[]))
    }
}

/// The second, last and padded block of a message whose first block was the key (FIPS 180-4 §5.1.1).
#[inline(always)]
fn last_block<S: Simd>(simd: S, front: &[Word<S>], text: &[u8]) -> Block<S> {
    let mut bytes = [0; BLOCK_LEN];
    let text_from = 4 * front.len();
    for (place, byte) in bytes
        .iter_mut()
        .skip(text_from)
        .zip(text.iter().chain(&[0x80]))
    {
        *place = *byte;
    }
    let bits = 8 * (BLOCK_LEN + text_from + text.len()) as u64;
    if let Some(length) = bytes.last_chunk_mut() {
        *length = bits.to_be_bytes();
    }
    let mut block = [Word::splat(simd, 0); 16];
    for (t, place) in block.iter_mut().enumerate() {
        *place = Word::splat(simd, word(&bytes, t));
    }
    for (place, word) in block.iter_mut().zip(front) {
        *place = *word;
    }
    block
}

/// SHA-1's compression function (FIPS 180-4 §6.1.2), unrolled: a loop keeps the schedule in memory and takes three
/// times as long.
#[inline(always)]
fn compress<S: Simd>(simd: S, state: &State<S>, block: &Block<S>) -> State<S> {
    // A subkey needs ten of these, so it is a function of its own, compiled for the instructions of `simd`.
    simd.vectorize(
        #[inline(always)]
        || {
            let mut w = *block;
            let [mut a, mut b, mut c, mut d, mut e] = *state;
            macro_rules! rounds {
                ($constant:literal, $mix:expr, $($t:literal)*) => {
                    let constant = Word::splat(simd, $constant);
                    $(
                        if $t >= 16 {
                            let mixed = w[($t + 13) % 16] ^ w[($t + 8) % 16] ^ w[($t + 2) % 16] ^ w[$t % 16];
                            w[$t % 16] = rotate(mixed, 1);
                        }
                        let next = rotate(a, 5) + $mix(b, c, d) + (e + constant + w[$t % 16]);
                        (a, b, c, d, e) = (next, a, rotate(b, 30), c, d);
                    )*
                };
            }
            rounds!(0x5a82_7999, choose, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19);
            rounds!(0x6ed9_eba1, parity, 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39);
            rounds!(0x8f1b_bcdc, majority, 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59);
            rounds!(0xca62_c1d6, parity, 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79);
            let [p, q, r, s, t] = *state;
            [p + a, q + b, r + c, s + d, t + e]
        },
    )
}

#[inline(always)]
fn rotate<S: Simd>(word: Word<S>, by: u32) -> Word<S> {
    (word << by) | (word >> (32 - by))
}

#[inline(always)]
fn choose<S: Simd>(x: Word<S>, y: Word<S>, z: Word<S>) -> Word<S> {
    z ^ (x & (y ^ z))
}

#[inline(always)]
fn parity<S: Simd>(x: Word<S>, y: Word<S>, z: Word<S>) -> Word<S> {
    x ^ y ^ z
}

#[inline(always)]
fn majority<S: Simd>(x: Word<S>, y: Word<S>, z: Word<S>) -> Word<S> {
    (x & y) | (z & (x | y))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;
    use hkdf::Hkdf;
    use proptest::prelude::*;
    use sha1::Sha1;

    proptest! {
        #[test]
        fn each_lane_is_what_the_library_derives(
            key in prop_oneof![prop::collection::vec(any::<u8>(), 16), prop::collection::vec(any::<u8>(), 32)],
            bytes in prop::collection::vec(any::<u8>(), 32 * LANES),
            words in prop_oneof![Just(4_usize), Just(8)],
        ) {
            let salts: [&[u8]; LANES] = std::array::from_fn(|lane| &bytes[32 * lane..][..4 * words]);
            let short = key.len() == 16;
            let wanted = if short { 16 } else { 32 };
            for level in [Level::baseline(), Level::new()] {
                let mut out = [[0; 32]; LANES];
                dispatch!(level, simd => derive(simd, &key, &salts, short, &mut out));
                for (salt, got) in salts.iter().zip(&out) {
                    let mut expected = vec![0; wanted];
                    Hkdf::<Sha1>::new(Some(salt), &key).expand(b"ss-subkey", &mut expected).unwrap();
                    prop_assert_eq!(&got[..wanted], &expected);
                }
            }
        }

        #[test]
        fn each_lane_is_what_the_library_derives_from_its_key(
            bytes in prop::collection::vec(any::<u8>(), 32 * LANES),
            salt in prop::collection::vec(any::<u8>(), 32),
            len in prop_oneof![Just(16_usize), Just(24), Just(32)],
        ) {
            let keys: [&[u8]; LANES] = std::array::from_fn(|lane| &bytes[32 * lane..][..len]);
            let (short, salt) = (len == 16, &salt[..len]);
            for level in [Level::baseline(), Level::new()] {
                let mut out = [[0; 32]; LANES];
                dispatch!(level, simd => derive_of_keys(simd, &keys, salt, short, &mut out));
                for (key, got) in keys.iter().zip(&out) {
                    let mut expected = vec![0; len];
                    Hkdf::<Sha1>::new(Some(salt), key).expand(b"ss-subkey", &mut expected).unwrap();
                    prop_assert_eq!(&got[..len], &expected);
                }
            }
        }
    }
}
