//! Keys: where a master key comes from, and the keys derived from it.
//!
//! ```text
//! password ──EVP_BytesToKey(MD5)──> key ──HKDF-SHA1(salt, "ss-subkey")──> subkey of a stream or packet    SIP004
//! base64   ───────────────────────> PSK ──BLAKE3 "… session subkey"─────> subkey of a stream or session   SIP022
//!                                       ──BLAKE3 "… identity subkey"────> key of one identity header      SIP023
//!                                       ──BLAKE3(PSK)[..16]─────────────> what an identity header says    SIP023
//! ```

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hkdf::Hkdf;
use md5::{Digest as _, Md5};
use sha1::Sha1;
use subtle::ConstantTimeEq as _;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::method::{Family, Method};

/// A secret key of 16 or 32 bytes: a master key, a PSK or a subkey.
///
/// It is compared in constant time, masked in `Debug` and wiped when dropped.
#[derive(Clone, ZeroizeOnDrop)]
pub struct Key(pub(super) Bytes);

/// The bytes of a [`Key`] by length, so that the ciphers need no check of their own.
#[derive(Clone, zeroize::Zeroize)]
pub(super) enum Bytes {
    Short([u8; 16]),
    Long([u8; 32]),
}

impl Key {
    /// A key from its bytes; `None` unless there are 16 or 32 of them.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        if let Ok(short) = bytes.try_into() {
            return Some(Self(Bytes::Short(short)));
        }
        Some(Self(Bytes::Long(bytes.try_into().ok()?)))
    }

    /// The bytes of the key: 16 or 32.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Short(bytes) => bytes,
            Bytes::Long(bytes) => bytes,
        }
    }

    /// The master key of a SIP004 method from a password of any length: OpenSSL's `EVP_BytesToKey` with MD5, no salt
    /// and one iteration, as every Shadowsocks since 2012 does.
    ///
    /// A method without a key ([`Method::None`]) gets one of 16 bytes, which nothing uses.
    #[must_use]
    pub fn from_password(method: Method, password: &[u8]) -> Self {
        Self::fill(method.key_len(), |key| {
            let mut previous = Zeroizing::new([0; 16]);
            let mut seed: &[u8] = &[];
            for block in key.chunks_mut(16) {
                let digest = Md5::new()
                    .chain_update(seed)
                    .chain_update(password)
                    .finalize();
                *previous = digest.into();
                block.copy_from_slice(&*previous);
                seed = &*previous;
            }
        })
    }

    /// A key from base64: the PSK of a SIP022 method, or the ready-made `key` of a SIP004 one. The standard and the
    /// URL-safe alphabet are read, with or without padding.
    ///
    /// # Errors
    /// [`KeyError::NotBase64`], or [`KeyError::WrongLength`] when it is not exactly [`Method::key_len`] bytes.
    pub fn from_base64(method: Method, text: &str) -> Result<Self, KeyError> {
        // Bits beyond the last byte are ignored: implementations in Go write no such keys, but read them.
        const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true);
        const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
        const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

        let engine = if text.contains(['-', '_']) {
            URL_SAFE
        } else {
            STANDARD
        };
        let bytes = engine
            .decode(text)
            .map(Zeroizing::new)
            .map_err(|_| KeyError::NotBase64 { method })?;
        if bytes.len() != method.key_len() {
            return Err(KeyError::WrongLength {
                method,
                needed: method.key_len(),
                got: bytes.len(),
            });
        }
        Self::from_slice(&bytes).ok_or(KeyError::NotBase64 { method })
    }

    /// The key of one stream or packet (SIP004: HKDF-SHA1) or of one stream or session (SIP022: BLAKE3), from its salt.
    /// In SIP022 packets the session id, 8 bytes big-endian, is the salt.
    #[must_use]
    pub fn session_subkey(&self, method: Method, salt: &[u8]) -> Self {
        Self::fill(method.key_len(), |subkey| match method.family() {
            Family::Plain | Family::Aead => hkdf_sha1(self.as_bytes(), salt, subkey),
            Family::Aead2022 => self.blake3("shadowsocks 2022 session subkey", salt, subkey),
        })
    }

    /// The key of one identity header, from the salt of its stream (SIP023 §2). As long as this key.
    #[must_use]
    pub fn identity_subkey(&self, salt: &[u8]) -> Self {
        Self::fill(self.as_bytes().len(), |subkey| {
            self.blake3("shadowsocks 2022 identity subkey", salt, subkey)
        })
    }

    /// What an identity header says inside: the start of the BLAKE3 hash of the next PSK (SIP023 §2).
    #[must_use]
    pub fn identity_hash(&self) -> [u8; 16] {
        let mut hash = [0; 16];
        blake3::Hasher::new()
            .update(self.as_bytes())
            .finalize_xof()
            .fill(&mut hash);
        hash
    }

    fn blake3(&self, context: &str, salt: &[u8], out: &mut [u8]) {
        blake3::Hasher::new_derive_key(context)
            .update(self.as_bytes())
            .update(salt)
            .finalize_xof()
            .fill(out);
    }

    /// A key of `len` bytes, written in place by `write`.
    fn fill(len: usize, write: impl FnOnce(&mut [u8])) -> Self {
        if len == 32 {
            let mut bytes = Zeroizing::new([0; 32]);
            write(&mut *bytes);
            Self(Bytes::Long(*bytes))
        } else {
            let mut bytes = Zeroizing::new([0; 16]);
            write(&mut *bytes);
            Self(Bytes::Short(*bytes))
        }
    }
}

/// HKDF-SHA1 with the info of SIP004 §2.
#[expect(
    clippy::expect_used,
    reason = "subkeys have at most 32 bytes; HKDF-SHA1 gives up to 5100"
)]
fn hkdf_sha1(key: &[u8], salt: &[u8], out: &mut [u8]) {
    Hkdf::<Sha1>::new(Some(salt), key)
        .expand(b"ss-subkey", out)
        .expect("a subkey is short");
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// Why a base64 key was refused. The texts are for the person who wrote the config; the key is not in them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// The text is not base64.
    #[error("the key is not base64; {method} needs {} random bytes in base64: `ssr genkey -m {method}` makes them", method.key_len())]
    NotBase64 {
        /// The method that the key is for.
        method: Method,
    },
    /// The key is too short or too long for its method.
    #[error(
        "the key has {got} bytes, {method} needs exactly {needed}: `ssr genkey -m {method}` makes one"
    )]
    WrongLength {
        /// The method that the key is for.
        method: Method,
        /// Bytes that the method needs.
        needed: usize,
        /// Bytes that the text decodes to.
        got: usize,
    },
}
