//! AES as a bare block cipher, for the blocks that SIP022 and SIP023 encrypt one at a time.

use std::fmt;

use aes::cipher::{BlockCipherDecrypt as _, BlockCipherEncrypt as _, KeyInit as _};
use aes::{Aes128, Aes192, Aes256};

use super::key::{Bytes, Key};

/// AES-128, AES-192 or AES-256, by the length of the key, with the key schedules of both directions.
///
/// It encrypts SIP022 packet headers (§3.2.1) and SIP023 identity headers. Under one key equal blocks encrypt to equal
/// blocks; both specifications make sure that no block repeats.
pub struct Block(Schedule);

enum Schedule {
    Aes128(Aes128),
    Aes192(Aes192),
    Aes256(Aes256),
}

impl Block {
    /// Expands the key.
    #[must_use]
    pub fn new(key: &Key) -> Self {
        match &key.0 {
            Bytes::Short(key) => Self(Schedule::Aes128(Aes128::new(key.into()))),
            Bytes::Medium(key) => Self(Schedule::Aes192(Aes192::new(key.into()))),
            Bytes::Long(key) => Self(Schedule::Aes256(Aes256::new(key.into()))),
        }
    }

    /// Encrypts one block in place.
    pub fn encrypt(&self, block: &mut [u8; 16]) {
        match &self.0 {
            Schedule::Aes128(aes) => aes.encrypt_block(block.into()),
            Schedule::Aes192(aes) => aes.encrypt_block(block.into()),
            Schedule::Aes256(aes) => aes.encrypt_block(block.into()),
        }
    }

    /// Decrypts one block in place.
    pub fn decrypt(&self, block: &mut [u8; 16]) {
        match &self.0 {
            Schedule::Aes128(aes) => aes.decrypt_block(block.into()),
            Schedule::Aes192(aes) => aes.decrypt_block(block.into()),
            Schedule::Aes256(aes) => aes.decrypt_block(block.into()),
        }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Block(…)")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_fips_197() {
        let plain = "00112233445566778899aabbccddeeff";
        for (key_len, sealed) in [
            (16, "69c4e0d86a7b0430d8cdb78070b4c55a"), // FIPS 197 C.1
            (32, "8ea2b7ca516745bfeafc49904b496089"), // FIPS 197 C.3
        ] {
            let key = Key::from_slice(&(0..key_len).collect::<Vec<u8>>()).unwrap();
            let aes = Block::new(&key);
            let mut block = [0; 16];
            hex::decode_to_slice(plain, &mut block).unwrap();
            aes.encrypt(&mut block);
            assert_eq!(hex::encode(block), sealed);
            aes.decrypt(&mut block);
            assert_eq!(hex::encode(block), plain);
        }
    }

    #[test]
    fn debug_is_masked() {
        let block = Block::new(&Key::from_slice(&[7; 16]).unwrap());
        assert_eq!(format!("{block:?}"), "Block(…)");
    }
}
