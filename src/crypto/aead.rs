//! Authenticated encryption in place.
//!
//! Two backends do the same thing: aws-lc (assembly; the hot path) has AES-GCM and ChaCha20-Poly1305, RustCrypto has
//! everything and carries the rest. The tests hold each against the other.

use std::fmt;

use aes_gcm::{Aes128Gcm, Aes256Gcm};
use aws_lc_rs::aead as aws;
use chacha20poly1305::aead::array::{Array, ArraySize};
use chacha20poly1305::aead::{AeadInOut, KeyInit as _};
use chacha20poly1305::consts::U16;
use chacha20poly1305::{ChaCha8Poly1305, ChaCha20Poly1305, XChaCha8Poly1305, XChaCha20Poly1305};

use super::Error;
use super::key::{Bytes, Key};
use super::method::Method;

/// Bytes that sealing adds, for every AEAD here.
pub const TAG_LEN: usize = 16;

/// The longest nonce of any AEAD here: that of XChaCha.
const MAX_NONCE_LEN: usize = 24;

/// An AEAD with its key. No associated data: Shadowsocks uses none.
pub struct Aead(Cipher);

/// The portable AES key schedules are boxed: they are large, and not on the hot path.
enum Cipher {
    Native(aws::LessSafeKey),
    Aes128(Box<Aes128Gcm>),
    Aes256(Box<Aes256Gcm>),
    ChaCha20(ChaCha20Poly1305),
    ChaCha8(ChaCha8Poly1305),
    XChaCha20(XChaCha20Poly1305),
    XChaCha8(XChaCha8Poly1305),
}

impl Aead {
    /// The AEAD of TCP chunks and of SIP007 packets under a subkey. `None` for [`Method::None`] and for a key that is
    /// not [`Method::key_len`] bytes long.
    #[must_use]
    pub fn stream(method: Method, key: &Key) -> Option<Self> {
        let algorithm = match method {
            Method::Aes128Gcm | Method::Blake3Aes128Gcm => &aws::AES_128_GCM,
            Method::Aes256Gcm | Method::Blake3Aes256Gcm => &aws::AES_256_GCM,
            Method::ChaCha20Poly1305 | Method::Blake3ChaCha20Poly1305 => &aws::CHACHA20_POLY1305,
            Method::None | Method::XChaCha20Poly1305 | Method::Blake3ChaCha8Poly1305 => {
                return Self::portable_stream(method, key);
            }
        };
        let key = aws::UnboundKey::new(algorithm, key.as_bytes()).ok()?;
        Some(Self(Cipher::Native(aws::LessSafeKey::new(key))))
    }

    /// The AEAD of UDP packets. It differs from [`Aead::stream`] for the ChaCha methods of SIP022 alone, whose packets
    /// are sealed under the PSK itself with XChaCha and a random nonce of 24 bytes (SIP022 §3.2.3). `None` as there.
    #[must_use]
    pub fn packet(method: Method, key: &Key) -> Option<Self> {
        match method {
            Method::Blake3ChaCha20Poly1305 | Method::Blake3ChaCha8Poly1305 => {
                Self::portable_packet(method, key)
            }
            _ => Self::stream(method, key),
        }
    }

    /// [`Aead::stream`] by RustCrypto alone.
    #[must_use]
    pub fn portable_stream(method: Method, key: &Key) -> Option<Self> {
        let cipher = match (method, &key.0) {
            (Method::Aes128Gcm | Method::Blake3Aes128Gcm, Bytes::Short(key)) => {
                Cipher::Aes128(Box::new(Aes128Gcm::new(key.into())))
            }
            (Method::Aes256Gcm | Method::Blake3Aes256Gcm, Bytes::Long(key)) => {
                Cipher::Aes256(Box::new(Aes256Gcm::new(key.into())))
            }
            (Method::ChaCha20Poly1305 | Method::Blake3ChaCha20Poly1305, Bytes::Long(key)) => {
                Cipher::ChaCha20(ChaCha20Poly1305::new(key.into()))
            }
            (Method::XChaCha20Poly1305, Bytes::Long(key)) => {
                Cipher::XChaCha20(XChaCha20Poly1305::new(key.into()))
            }
            (Method::Blake3ChaCha8Poly1305, Bytes::Long(key)) => {
                Cipher::ChaCha8(ChaCha8Poly1305::new(key.into()))
            }
            _ => return None,
        };
        Some(Self(cipher))
    }

    /// [`Aead::packet`] by RustCrypto alone.
    #[must_use]
    pub fn portable_packet(method: Method, key: &Key) -> Option<Self> {
        let cipher = match (method, &key.0) {
            (Method::Blake3ChaCha20Poly1305, Bytes::Long(key)) => {
                Cipher::XChaCha20(XChaCha20Poly1305::new(key.into()))
            }
            (Method::Blake3ChaCha8Poly1305, Bytes::Long(key)) => {
                Cipher::XChaCha8(XChaCha8Poly1305::new(key.into()))
            }
            _ => return Self::portable_stream(method, key),
        };
        Some(Self(cipher))
    }

    /// Bytes of a nonce: 12, or 24 for XChaCha.
    #[must_use]
    pub const fn nonce_len(&self) -> usize {
        match self.0 {
            Cipher::XChaCha20(_) | Cipher::XChaCha8(_) => 24,
            _ => 12,
        }
    }

    /// Encrypts `data` in place and returns its tag. Nothing is allocated.
    ///
    /// A nonce must never seal twice under one key.
    ///
    /// # Errors
    /// [`Error::NonceLength`] unless the nonce has [`Aead::nonce_len`] bytes; [`Error::TooLong`].
    pub fn seal(&self, nonce: &[u8], data: &mut [u8]) -> Result<[u8; TAG_LEN], Error> {
        match &self.0 {
            Cipher::Native(key) => {
                let nonce = native_nonce(nonce)?;
                let tag = key
                    .seal_in_place_separate_tag(nonce, aws::Aad::empty(), data)
                    .map_err(|_| Error::TooLong)?;
                tag.as_ref().try_into().map_err(|_| Error::TooLong)
            }
            Cipher::Aes128(aead) => seal(&**aead, nonce, data),
            Cipher::Aes256(aead) => seal(&**aead, nonce, data),
            Cipher::ChaCha20(aead) => seal(aead, nonce, data),
            Cipher::ChaCha8(aead) => seal(aead, nonce, data),
            Cipher::XChaCha20(aead) => seal(aead, nonce, data),
            Cipher::XChaCha8(aead) => seal(aead, nonce, data),
        }
    }

    /// Authenticates and decrypts `sealed` = ciphertext ‖ tag in place and returns the plaintext, its prefix. Nothing
    /// is allocated.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] when the tag is wrong or missing: the content of `sealed` is unspecified then.
    /// [`Error::NonceLength`] unless the nonce has [`Aead::nonce_len`] bytes.
    pub fn open<'a>(&self, nonce: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], Error> {
        let (data, tag) = sealed
            .split_last_chunk_mut::<TAG_LEN>()
            .ok_or(Error::Unauthenticated)?;
        match &self.0 {
            Cipher::Native(key) => {
                let nonce = native_nonce(nonce)?;
                key.open_in_place_separate_tag(nonce, aws::Aad::empty(), tag, data)
                    .map_err(|_| Error::Unauthenticated)?;
            }
            Cipher::Aes128(aead) => open(&**aead, nonce, data, tag)?,
            Cipher::Aes256(aead) => open(&**aead, nonce, data, tag)?,
            Cipher::ChaCha20(aead) => open(aead, nonce, data, tag)?,
            Cipher::ChaCha8(aead) => open(aead, nonce, data, tag)?,
            Cipher::XChaCha20(aead) => open(aead, nonce, data, tag)?,
            Cipher::XChaCha8(aead) => open(aead, nonce, data, tag)?,
        }
        Ok(data)
    }
}

impl fmt::Debug for Aead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Aead(…)")
    }
}

/// [`Aead::seal`] for a RustCrypto cipher.
fn seal<A: AeadInOut<TagSize = U16>>(
    aead: &A,
    nonce: &[u8],
    data: &mut [u8],
) -> Result<[u8; TAG_LEN], Error> {
    let tag = aead
        .encrypt_inout_detached(sized(nonce)?, &[], data.into())
        .map_err(|_| Error::TooLong)?;
    Ok(tag.into())
}

/// [`Aead::open`] for a RustCrypto cipher.
fn open<A: AeadInOut<TagSize = U16>>(
    aead: &A,
    nonce: &[u8],
    data: &mut [u8],
    tag: &[u8; TAG_LEN],
) -> Result<(), Error> {
    aead.decrypt_inout_detached(sized(nonce)?, &[], data.into(), tag.into())
        .map_err(|_| Error::Unauthenticated)
}

/// The nonce as aws-lc takes it.
fn native_nonce(nonce: &[u8]) -> Result<aws::Nonce, Error> {
    aws::Nonce::try_assume_unique_for_key(nonce).map_err(|_| Error::NonceLength {
        needed: aws::NONCE_LEN,
        got: nonce.len(),
    })
}

/// The nonce as the array that its AEAD takes.
fn sized<N: ArraySize>(nonce: &[u8]) -> Result<&Array<u8, N>, Error> {
    nonce.try_into().map_err(|_| Error::NonceLength {
        needed: N::USIZE,
        got: nonce.len(),
    })
}

/// The nonces of one direction of one stream: 0, 1, 2, … as a little-endian number (SIP004 §2.2, SIP022 §3.1.2).
///
/// It counts to 2⁶⁴, which at one seal a nanosecond takes 584 years.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NonceCounter {
    next: u64,
    len: u8,
}

impl NonceCounter {
    /// A counter at zero, for nonces of `len` bytes ([`Aead::nonce_len`]): at least 8, at most 24.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let len = len.clamp(size_of::<u64>(), MAX_NONCE_LEN);
        Self {
            next: 0,
            len: u8::try_from(len).unwrap_or(u8::MAX),
        }
    }

    /// The current nonce; the counter moves on.
    #[expect(
        clippy::should_implement_trait,
        reason = "the sequence has no end, and so no `Option`"
    )]
    #[inline]
    pub fn next(&mut self) -> Nonce {
        let mut bytes = [0; MAX_NONCE_LEN];
        if let Some(low) = bytes.first_chunk_mut() {
            *low = self.next.to_le_bytes();
        }
        self.next = self.next.wrapping_add(1);
        Nonce {
            bytes,
            len: self.len,
        }
    }
}

/// One nonce out of a [`NonceCounter`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nonce {
    bytes: [u8; MAX_NONCE_LEN],
    len: u8,
}

impl Nonce {
    /// The bytes, as many as the counter was made for.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.len))
            .unwrap_or(&self.bytes)
    }
}
