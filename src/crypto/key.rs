//! Keys: how a master key is made, and the keys derived from it.
//!
//! ```text
//! password ──EVP_BytesToKey(MD5)──> key ──HKDF-SHA1(salt, "ss-subkey")──> subkey of a stream or packet    AEAD-2017
//! base64   ───────────────────────> PSK ──BLAKE3 "… session subkey"─────> subkey of a stream or session   AEAD-2022
//!                                       ──BLAKE3 "… identity subkey"────> key of one identity header      SIP023
//!                                       ──BLAKE3(PSK)[..16]─────────────> content of an identity header   SIP023
//! ```

use std::fmt;

use hkdf::Hkdf;
use md5::{Digest as _, Md5};
use sha1::Sha1;
use subtle::ConstantTimeEq as _;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::lanes::{self, LANES};
use super::method::{Family, Method};

/// A secret key of 16, 24 or 32 bytes: a master key, a PSK or a subkey.
///
/// It is compared in constant time, masked in `Debug` and wiped when dropped.
#[derive(Clone, ZeroizeOnDrop)]
pub struct Key(pub(super) Bytes);

/// The bytes of a [`Key`], typed by length so that the ciphers need not check it.
#[derive(Clone, zeroize::Zeroize)]
pub(super) enum Bytes {
    Short([u8; 16]),
    Medium([u8; 24]),
    Long([u8; 32]),
}

impl Key {
    /// A key from its bytes; `None` unless there are 16, 24 or 32 of them.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        if let Ok(short) = bytes.try_into() {
            return Some(Self(Bytes::Short(short)));
        }
        if let Ok(medium) = bytes.try_into() {
            return Some(Self(Bytes::Medium(medium)));
        }
        Some(Self(Bytes::Long(bytes.try_into().ok()?)))
    }

    /// The bytes of the key: 16, 24 or 32.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Short(bytes) => bytes,
            Bytes::Medium(bytes) => bytes,
            Bytes::Long(bytes) => bytes,
        }
    }

    /// The master key of an AEAD-2017 method from a password of any length: OpenSSL's `EVP_BytesToKey` with MD5, no salt
    /// and one iteration, as in every Shadowsocks since 2012.
    ///
    /// [`Method::None`], which needs no key, gets one of 16 bytes that nothing uses.
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
                for (to, byte) in block.iter_mut().zip(&*previous) {
                    *to = *byte;
                }
                seed = &*previous;
            }
        })
    }

    /// A key from base64: the PSK of an AEAD-2022 method, or the `key` that replaces the password of an AEAD-2017 one. The
    /// standard and the URL-safe alphabet are read, with or without padding.
    ///
    /// # Errors
    /// [`KeyError::NotBase64`], or [`KeyError::WrongLength`] unless it has exactly [`Method::key_len`] bytes.
    pub fn from_base64(method: Method, text: &str) -> Result<Self, KeyError> {
        let bytes = super::base64::decode(text).ok_or(KeyError::NotBase64 { method })?;
        if bytes.len() != method.key_len() {
            return Err(KeyError::WrongLength {
                method,
                needed: method.key_len(),
                got: bytes.len(),
            });
        }
        Self::from_slice(&bytes).ok_or(KeyError::NotBase64 { method })
    }

    /// The key in base64, standard alphabet with padding, as config files write a PSK.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(super::base64::encode(self.as_bytes()))
    }

    /// The key of one stream or packet (AEAD-2017: HKDF-SHA1) or of one stream or session (AEAD-2022: BLAKE3), from its
    /// salt. The salt of AEAD-2022 packets is the session id, 8 bytes big-endian.
    #[must_use]
    pub fn session_subkey(&self, method: Method, salt: &[u8]) -> Self {
        Self::fill(method.key_len(), |subkey| match method.family() {
            Family::Plain | Family::Aead2017 => hkdf_sha1(self.as_bytes(), salt, subkey),
            Family::Aead2022 => self.blake3("shadowsocks 2022 session subkey", salt, subkey),
        })
    }

    /// [`Key::session_subkey`] for each of `salts`; for AEAD-2017 this takes less time than two of them one by one.
    #[must_use]
    pub fn session_subkeys(&self, method: Method, salts: &[&[u8]; LANES]) -> [Self; LANES] {
        if method.family() == Family::Aead2022 {
            return salts.map(|salt| self.session_subkey(method, salt));
        }
        let mut subkeys = Zeroizing::new([[0; 32]; LANES]);
        let short = method.key_len() == 16;
        lanes::hkdf_sha1(self.as_bytes(), salts, short, &mut subkeys);
        Self::of_lanes(method, &subkeys)
    }

    /// [`Key::session_subkey`] of each of `keys`, which are of an AEAD-2017 method, for one salt. It takes less time than two of
    /// them one by one.
    #[must_use]
    pub fn subkeys_of(method: Method, keys: &[&Self; LANES], salt: &[u8]) -> [Self; LANES] {
        let mut subkeys = Zeroizing::new([[0; 32]; LANES]);
        let short = method.key_len() == 16;
        let keys = keys.map(Self::as_bytes);
        lanes::hkdf_sha1_of_keys(&keys, salt, short, &mut subkeys);
        Self::of_lanes(method, &subkeys)
    }

    fn of_lanes(method: Method, lanes: &[[u8; 32]; LANES]) -> [Self; LANES] {
        lanes.each_ref().map(|bytes| {
            Self::fill(method.key_len(), |key| {
                key.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
            })
        })
    }

    /// The key of one identity header, from the salt of its stream (SIP023, TCP). It is as long as this key.
    #[must_use]
    pub fn identity_subkey(&self, salt: &[u8]) -> Self {
        Self::fill(self.as_bytes().len(), |subkey| {
            self.blake3("shadowsocks 2022 identity subkey", salt, subkey)
        })
    }

    /// The content of an identity header for this PSK: the first bytes of its BLAKE3 hash (SIP023).
    #[must_use]
    pub fn identity_hash(&self) -> [u8; 16] {
        let mut hash = [0; 16];
        blake3::Hasher::new()
            .update(self.as_bytes())
            .finalize_xof()
            .fill(&mut hash);
        hash
    }

    /// A secret of the server that has this key, for stateless resets of QUIC (RFC 9000 §10.3): the same after a restart.
    #[must_use]
    pub fn reset_secret(&self) -> Zeroizing<[u8; 32]> {
        let mut secret = Zeroizing::new([0; 32]);
        self.blake3("ssr 2026 quic stateless reset", &[], &mut secret[..]);
        secret
    }

    /// The key of one direction of the stream that visitor `number` of a reverse tunnel has for itself, from the secret of its link.
    #[must_use]
    pub fn of_visitor(method: Method, secret: &[u8; 32], number: u64, direction: u8) -> Self {
        let secret = Self(Bytes::Long(*secret));
        let mut salt = [direction; 9];
        if let Some(front) = salt.first_chunk_mut() {
            *front = number.to_be_bytes();
        }
        Self::fill(method.key_len(), |key| {
            secret.blake3("ssr 2026 visitor of a reverse tunnel", &salt, key);
        })
    }

    fn blake3(&self, context: &str, salt: &[u8], out: &mut [u8]) {
        blake3::Hasher::new_derive_key(context)
            .update(self.as_bytes())
            .update(salt)
            .finalize_xof()
            .fill(out);
    }

    /// A key of 32 or 24 bytes, or else of 16, written in place by `write`.
    fn fill(len: usize, write: impl FnOnce(&mut [u8])) -> Self {
        if len == 32 {
            let mut bytes = Zeroizing::new([0; 32]);
            write(&mut *bytes);
            Self(Bytes::Long(*bytes))
        } else if len == 24 {
            let mut bytes = Zeroizing::new([0; 24]);
            write(&mut *bytes);
            Self(Bytes::Medium(*bytes))
        } else {
            let mut bytes = Zeroizing::new([0; 16]);
            write(&mut *bytes);
            Self(Bytes::Short(*bytes))
        }
    }
}

/// A secret that is made of another one, for `purpose` alone.
#[must_use]
pub fn secret_of(other: &[u8], purpose: &str) -> Zeroizing<[u8; 32]> {
    let mut secret = Zeroizing::new([0; 32]);
    blake3::Hasher::new_derive_key("ssr 2026 secret of a private key")
        .update(purpose.as_bytes())
        .update(&[0])
        .update(other)
        .finalize_xof()
        .fill(&mut secret[..]);
    secret
}

/// HKDF-SHA1 with the info of AEAD-2017 (SIP004).
#[expect(
    clippy::expect_used,
    reason = "subkeys have at most 32 bytes; HKDF-SHA1 has up to 5100"
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

/// Why a base64 key was refused. The texts are for the person who wrote the config and do not contain the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// The text is not base64.
    #[error("the key is not base64; {method} needs {} random bytes in base64; `ssr genkey -m {method}` makes them", method.key_len())]
    NotBase64 {
        /// The method that the key is for.
        method: Method,
    },
    /// There is no password.
    #[error("the password is empty: give the user one of its own")]
    Empty,
    /// The key is too short or too long for its method.
    #[error(
        "the key has {got} bytes, but {method} needs exactly {needed}; `ssr genkey -m {method}` makes one"
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;
    use base64::Engine as _;
    use shadowsocks::config::ServerUser;
    use shadowsocks::crypto::v1::openssl_bytes_to_key;

    /// `from`, `from + 1`, … as a key or salt of `len` bytes.
    fn counting(from: u8, len: u8) -> Vec<u8> {
        (from..from + len).collect()
    }

    #[test]
    fn has_16_24_or_32_bytes() {
        for len in 0..=64 {
            let bytes = vec![9; len];
            let key = Key::from_slice(&bytes);
            assert_eq!(key.is_some(), [16, 24, 32].contains(&len), "{len}");
            assert!(key.is_none_or(|key| key.as_bytes() == bytes));
        }
    }

    #[test]
    fn password_key_is_that_of_openssl() {
        // openssl enc -aes-256-cbc -k foobar -nosalt -md md5 -P
        let known = "3858f62230ac3c915f300c664312c63f568378529614d22ddb49237d2f60bfdf";
        let key = Key::from_password(Method::Aes256Gcm, b"foobar");
        assert_eq!(hex::encode(key.as_bytes()), known);
        let key = Key::from_password(Method::Aes128Gcm, b"foobar");
        assert_eq!(hex::encode(key.as_bytes()), known[..32]);
    }

    #[test]
    fn password_key_agrees_with_an_independent_implementation() {
        for method in [
            Method::Aes128Gcm,
            Method::Aes192Gcm,
            Method::Aes256Gcm,
            Method::ChaCha20Poly1305,
        ] {
            for password in ["", "x", "barfoo!", "пароль", &"long".repeat(100)] {
                let mut expected = vec![0; method.key_len()];
                openssl_bytes_to_key(password.as_bytes(), &mut expected);
                let key = Key::from_password(method, password.as_bytes());
                assert_eq!(key.as_bytes(), expected);
            }
        }
    }

    #[test]
    fn aead_2017_subkey_is_hkdf_sha1() {
        // Computed with the HMAC of Python's standard library.
        for (method, len, known) in [
            (Method::Aes128Gcm, 16, "54fe416d0610f80cbd9d34d66f5b8661"),
            (
                Method::XChaCha20Poly1305,
                32,
                "a781d41039196a383882022211666153cc06e2dcd2dc60763307d8849e6cc949",
            ),
        ] {
            let key = Key::from_slice(&counting(100, len)).unwrap();
            let subkey = key.session_subkey(method, &counting(0, len));
            assert_eq!(hex::encode(subkey.as_bytes()), known);
        }
    }

    #[test]
    fn blake3_is_that_of_the_published_vectors() {
        // BLAKE3 test_vectors.json, input_len 1023: here 32 bytes of key and 991 of salt.
        let input: Vec<u8> = (0..=250).cycle().take(1023).collect();
        let key = Key::from_slice(&input[..32]).unwrap();
        let mut out = [0; 32];
        key.blake3(
            "BLAKE3 2019-12-27 16:29:52 test vectors context",
            &input[32..],
            &mut out,
        );
        let known = "74a16c1c3d44368a86e1ca6df64be6a2f64cce8f09220787450722d85725dea5";
        assert_eq!(hex::encode(out), known);
    }

    #[test]
    fn aead_2022_subkeys_differ_by_context_and_salt() {
        let key = Key::from_slice(&[1; 16]).unwrap();
        let session = key.session_subkey(Method::Blake3Aes128Gcm, &[2; 16]);
        let identity = key.identity_subkey(&[2; 16]);
        assert_eq!(
            (session.as_bytes().len(), identity.as_bytes().len()),
            (16, 16)
        );
        assert_ne!(session, identity);
        assert_ne!(identity, key.identity_subkey(&[3; 16]));
        let context = "shadowsocks 2022 identity subkey";
        let derived = blake3::derive_key(context, &[[1; 16], [2; 16]].concat());
        assert_eq!(identity.as_bytes(), &derived[..16]);
    }

    #[test]
    fn identity_hash_agrees_with_an_independent_implementation() {
        for len in [16, 32] {
            let key = Key::from_slice(&counting(40, len)).unwrap();
            let user = ServerUser::new("user", key.as_bytes().to_vec());
            assert_eq!(user.identity_hash(), key.identity_hash());
        }
    }

    #[test]
    fn reads_base64_in_every_common_spelling() {
        use base64::engine::general_purpose as alphabets;
        let method = Method::Blake3Aes128Gcm;
        let bytes = [0xfb, 0xff, 0xbe, 0x01].repeat(4);
        let texts = [
            alphabets::STANDARD.encode(&bytes),
            alphabets::STANDARD_NO_PAD.encode(&bytes),
            alphabets::URL_SAFE.encode(&bytes),
            alphabets::URL_SAFE_NO_PAD.encode(&bytes),
        ];
        assert!(texts[0].contains(['+', '/']) && texts[2].contains(['-', '_']));
        for text in texts {
            let key = Key::from_base64(method, &text).unwrap();
            assert_eq!(key.as_bytes(), bytes, "{text}");
            assert_eq!(*key.to_base64(), alphabets::STANDARD.encode(&bytes));
        }
    }

    #[test]
    fn refuses_base64_of_another_length() {
        let engine = base64::engine::general_purpose::STANDARD;
        for method in Method::ALL
            .into_iter()
            .filter(|method| *method != Method::None)
        {
            let needed = method.key_len();
            for got in 0..=40 {
                let key = vec![5; got];
                let read = Key::from_base64(method, &engine.encode(&key));
                if got == needed {
                    assert_eq!(read.unwrap().as_bytes(), key);
                } else {
                    assert_eq!(
                        read,
                        Err(KeyError::WrongLength {
                            method,
                            needed,
                            got
                        })
                    );
                }
            }
        }
    }

    #[test]
    fn key_errors_say_what_to_do() {
        let method = Method::Blake3Aes256Gcm;
        let error = Key::from_base64(method, "not base64!").unwrap_err();
        assert_eq!(error, KeyError::NotBase64 { method });
        let short = Key::from_base64(method, "AAAA").unwrap_err();
        assert!(short.to_string().contains("has 3 bytes"), "{short}");
        for text in [error.to_string(), short.to_string()] {
            assert!(
                text.contains("32") && text.contains("`ssr genkey -m 2022-blake3-aes-256-gcm`"),
                "{text}"
            );
        }
    }

    #[test]
    fn compares_by_content_and_length() {
        let key = |len| Key::from_slice(&vec![0; len]).unwrap();
        assert_eq!(key(16), key(16));
        assert_ne!(key(16), key(32));
        assert_ne!(key(32), Key::from_slice(&[1; 32]).unwrap());
        assert_eq!(format!("{:?}", key(32)), "Key(…)");
    }
}
