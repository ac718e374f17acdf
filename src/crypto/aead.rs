//! Authenticated encryption in place.
//!
//! There are two backends. aws-lc (assembly) seals and opens AES-GCM, ChaCha20-Poly1305, and XChaCha20-Poly1305, which is
//! ChaCha20-Poly1305 under a key that HChaCha20 derives for each nonce. RustCrypto has every algorithm and is used for the
//! ChaCha8 variants. The tests compare the two.

use std::fmt;

use aes_gcm::aes::Aes192;
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm};
use aws_lc_rs::aead as aws;
use aws_lc_rs::error::Unspecified;
use chacha20::{R20, hchacha};
use chacha20poly1305::aead::array::{Array, ArraySize};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::consts::{U12, U16};
use chacha20poly1305::{ChaCha8Poly1305, ChaCha20Poly1305, XChaCha8Poly1305, XChaCha20Poly1305};

use zeroize::Zeroizing;

use super::error::Error;
use super::key::{Bytes, Key};
use super::method::{Method, TAG_LEN};

/// Bytes of the longest nonce, that of XChaCha.
const MAX_NONCE_LEN: usize = 24;

/// An AEAD with its key. It takes no associated data, since Shadowsocks has none.
pub struct Aead(Cipher);

/// The portable AES key schedules are boxed, because they are large and not on the hot path.
enum Cipher {
    Native(aws::LessSafeKey),
    NativeXChaCha20(Zeroizing<[u8; 32]>),
    Aes128(Box<Aes128Gcm>),
    Aes192(Box<AesGcm<Aes192, U12>>),
    Aes256(Box<Aes256Gcm>),
    ChaCha20(ChaCha20Poly1305),
    ChaCha8(ChaCha8Poly1305),
    XChaCha20(XChaCha20Poly1305),
    XChaCha8(XChaCha8Poly1305),
}

/// The algorithm of a method.
#[derive(Clone, Copy)]
enum Algorithm {
    Aes128Gcm,
    Aes192Gcm,
    Aes256Gcm,
    ChaCha20,
    ChaCha8,
    XChaCha20,
    XChaCha8,
}

impl Algorithm {
    const fn of_stream(method: Method) -> Option<Self> {
        Some(match method {
            Method::None => return None,
            Method::Aes128Gcm | Method::Blake3Aes128Gcm => Self::Aes128Gcm,
            Method::Aes192Gcm => Self::Aes192Gcm,
            Method::Aes256Gcm | Method::Blake3Aes256Gcm => Self::Aes256Gcm,
            Method::ChaCha20Poly1305 | Method::Blake3ChaCha20Poly1305 => Self::ChaCha20,
            Method::XChaCha20Poly1305 => Self::XChaCha20,
            Method::Blake3ChaCha8Poly1305 => Self::ChaCha8,
        })
    }

    const fn of_packet(method: Method) -> Option<Self> {
        match method {
            Method::Blake3ChaCha20Poly1305 => Some(Self::XChaCha20),
            Method::Blake3ChaCha8Poly1305 => Some(Self::XChaCha8),
            _ => Self::of_stream(method),
        }
    }
}

impl Aead {
    /// The AEAD of stream chunks and of AEAD-2017 packets, under a subkey. `None` for [`Method::None`] and for a key that
    /// is not [`Method::key_len`] bytes long.
    #[must_use]
    pub fn stream(method: Method, key: &Key) -> Option<Self> {
        Self::native(Algorithm::of_stream(method)?, key)
    }

    /// The AEAD of packets. It differs from [`Aead::stream`] only for the ChaCha methods of AEAD-2022, whose packets are
    /// sealed under the PSK itself by XChaCha with a random nonce of 24 bytes (SIP022 §4.1). `None` as there.
    #[must_use]
    pub fn packet(method: Method, key: &Key) -> Option<Self> {
        Self::native(Algorithm::of_packet(method)?, key)
    }

    /// [`Aead::stream`] with RustCrypto only.
    #[must_use]
    pub fn portable_stream(method: Method, key: &Key) -> Option<Self> {
        Self::portable(Algorithm::of_stream(method)?, key)
    }

    /// [`Aead::packet`] with RustCrypto only.
    #[must_use]
    pub fn portable_packet(method: Method, key: &Key) -> Option<Self> {
        Self::portable(Algorithm::of_packet(method)?, key)
    }

    fn native(algorithm: Algorithm, key: &Key) -> Option<Self> {
        let cipher = match (algorithm, &key.0) {
            (Algorithm::Aes128Gcm, Bytes::Short(key)) => native_key(&aws::AES_128_GCM, key),
            (Algorithm::Aes192Gcm, Bytes::Medium(key)) => native_key(&aws::AES_192_GCM, key),
            (Algorithm::Aes256Gcm, Bytes::Long(key)) => native_key(&aws::AES_256_GCM, key),
            (Algorithm::ChaCha20, Bytes::Long(key)) => native_key(&aws::CHACHA20_POLY1305, key),
            (Algorithm::XChaCha20, Bytes::Long(key)) => {
                return Some(Self(Cipher::NativeXChaCha20(Zeroizing::new(*key))));
            }
            _ => return Self::portable(algorithm, key),
        };
        Some(Self(Cipher::Native(cipher.ok()?)))
    }

    fn portable(algorithm: Algorithm, key: &Key) -> Option<Self> {
        Some(Self(match (algorithm, &key.0) {
            (Algorithm::Aes128Gcm, Bytes::Short(key)) => {
                Cipher::Aes128(Box::new(Aes128Gcm::new(key.into())))
            }
            (Algorithm::Aes192Gcm, Bytes::Medium(key)) => {
                Cipher::Aes192(Box::new(AesGcm::new(key.into())))
            }
            (Algorithm::Aes256Gcm, Bytes::Long(key)) => {
                Cipher::Aes256(Box::new(Aes256Gcm::new(key.into())))
            }
            (Algorithm::ChaCha20, Bytes::Long(key)) => Cipher::ChaCha20(KeyInit::new(key.into())),
            (Algorithm::ChaCha8, Bytes::Long(key)) => Cipher::ChaCha8(KeyInit::new(key.into())),
            (Algorithm::XChaCha20, Bytes::Long(key)) => Cipher::XChaCha20(KeyInit::new(key.into())),
            (Algorithm::XChaCha8, Bytes::Long(key)) => Cipher::XChaCha8(KeyInit::new(key.into())),
            _ => return None,
        }))
    }

    /// Bytes of a nonce: 12, or 24 for XChaCha.
    #[must_use]
    pub const fn nonce_len(&self) -> usize {
        match self.0 {
            Cipher::NativeXChaCha20(_) | Cipher::XChaCha20(_) | Cipher::XChaCha8(_) => 24,
            _ => 12,
        }
    }

    /// Encrypts `data` in place and returns its tag. It allocates nothing, except a small key context for XChaCha20.
    ///
    /// A nonce must not be used twice under one key.
    ///
    /// # Errors
    /// [`Error::NonceLength`] unless the nonce has [`Aead::nonce_len`] bytes; [`Error::TooLong`].
    pub fn seal(&self, nonce: &[u8], data: &mut [u8]) -> Result<[u8; TAG_LEN], Error> {
        match &self.0 {
            Cipher::Native(key) => native_seal(key, nonce, data),
            Cipher::NativeXChaCha20(key) => {
                let (key, nonce) = extended(key, nonce)?;
                native_seal(&key, &nonce, data)
            }
            Cipher::Aes128(aead) => seal(&**aead, nonce, data),
            Cipher::Aes192(aead) => seal(&**aead, nonce, data),
            Cipher::Aes256(aead) => seal(&**aead, nonce, data),
            Cipher::ChaCha20(aead) => seal(aead, nonce, data),
            Cipher::ChaCha8(aead) => seal(aead, nonce, data),
            Cipher::XChaCha20(aead) => seal(aead, nonce, data),
            Cipher::XChaCha8(aead) => seal(aead, nonce, data),
        }
    }

    /// Authenticates and decrypts `sealed` = ciphertext ‖ tag in place and returns its prefix, the plaintext. It allocates
    /// no more than [`Aead::seal`].
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] when the tag is wrong or missing; the content of `sealed` is unspecified then.
    /// [`Error::NonceLength`] unless the nonce has [`Aead::nonce_len`] bytes.
    pub fn open<'a>(&self, nonce: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], Error> {
        let (data, tag) = sealed
            .split_last_chunk_mut::<TAG_LEN>()
            .ok_or(Error::Unauthenticated)?;
        match &self.0 {
            Cipher::Native(key) => native_open(key, nonce, data, tag)?,
            Cipher::NativeXChaCha20(key) => {
                let (key, nonce) = extended(key, nonce)?;
                native_open(&key, &nonce, data, tag)?;
            }
            Cipher::Aes128(aead) => open(&**aead, nonce, data, tag)?,
            Cipher::Aes192(aead) => open(&**aead, nonce, data, tag)?,
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

/// A key of aws-lc.
fn native_key(
    algorithm: &'static aws::Algorithm,
    key: &[u8],
) -> Result<aws::LessSafeKey, Unspecified> {
    Ok(aws::LessSafeKey::new(aws::UnboundKey::new(algorithm, key)?))
}

/// The ChaCha20-Poly1305 key and nonce that correspond to an XChaCha20-Poly1305 key and nonce
/// (draft-irtf-cfrg-xchacha §2.3): HChaCha20 of the nonce's first 16 bytes, and the other 8 behind four zeros.
fn extended(key: &[u8; 32], nonce: &[u8]) -> Result<(aws::LessSafeKey, [u8; 12]), Error> {
    let error = Error::NonceLength {
        needed: MAX_NONCE_LEN,
        got: nonce.len(),
    };
    let (head, tail) = nonce.split_first_chunk::<16>().ok_or(error)?;
    let tail = u64::from_be_bytes(tail.try_into().map_err(|_| error)?);
    let subkey = Zeroizing::new(<[u8; 32]>::from(hchacha::<R20>(key.into(), head.into())));
    // This cannot fail: only a key of the wrong length could be refused.
    let key = native_key(&aws::CHACHA20_POLY1305, &*subkey).map_err(|_| Error::Unauthenticated)?;
    let mut short = [0; 12];
    if let Some(low) = short.last_chunk_mut() {
        *low = tail.to_be_bytes();
    }
    Ok((key, short))
}

/// [`Aead::seal`] by aws-lc.
fn native_seal(
    key: &aws::LessSafeKey,
    nonce: &[u8],
    data: &mut [u8],
) -> Result<[u8; TAG_LEN], Error> {
    let tag = key
        .seal_in_place_separate_tag(native_nonce(nonce)?, aws::Aad::empty(), data)
        .map_err(|_| Error::TooLong)?;
    tag.as_ref().try_into().map_err(|_| Error::TooLong)
}

/// [`Aead::open`] by aws-lc.
fn native_open(
    key: &aws::LessSafeKey,
    nonce: &[u8],
    data: &mut [u8],
    tag: &[u8],
) -> Result<(), Error> {
    key.open_in_place_separate_tag(native_nonce(nonce)?, aws::Aad::empty(), tag, data)
        .map(drop)
        .map_err(|_| Error::Unauthenticated)
}

/// The nonce as aws-lc takes it.
fn native_nonce(nonce: &[u8]) -> Result<aws::Nonce, Error> {
    let error = Error::NonceLength {
        needed: aws::NONCE_LEN,
        got: nonce.len(),
    };
    aws::Nonce::try_assume_unique_for_key(nonce).map_err(|_| error)
}

/// [`Aead::seal`] by RustCrypto.
fn seal<A>(aead: &A, nonce: &[u8], data: &mut [u8]) -> Result<[u8; TAG_LEN], Error>
where
    A: AeadInOut<TagSize = U16>,
{
    let tag = aead.encrypt_inout_detached(sized(nonce)?, &[], data.into());
    tag.map(Into::into).map_err(|_| Error::TooLong)
}

/// [`Aead::open`] by RustCrypto.
fn open<A>(aead: &A, nonce: &[u8], data: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(), Error>
where
    A: AeadInOut<TagSize = U16>,
{
    aead.decrypt_inout_detached(sized(nonce)?, &[], data.into(), tag.into())
        .map_err(|_| Error::Unauthenticated)
}

/// The nonce as RustCrypto takes it.
fn sized<N: ArraySize>(nonce: &[u8]) -> Result<&Array<u8, N>, Error> {
    let error = Error::NonceLength {
        needed: N::USIZE,
        got: nonce.len(),
    };
    nonce.try_into().map_err(|_| error)
}

/// The nonces of one direction of one stream: 0, 1, 2, … as little-endian numbers (SIP004, SIP022 §3.1.1).
///
/// They repeat after 2⁶⁴ messages, which at one message a nanosecond takes 584 years.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NonceCounter {
    next: u64,
    len: u8,
}

impl NonceCounter {
    /// A counter at zero, for nonces of `len` bytes ([`Aead::nonce_len`]), limited to 8 to 24.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let len = len.clamp(size_of::<u64>(), MAX_NONCE_LEN);
        Self {
            next: 0,
            len: u8::try_from(len).unwrap_or(u8::MAX),
        }
    }

    /// How often it was incremented.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.next
    }

    /// The counter of which another one has given out `count` nonces.
    #[must_use]
    pub const fn after(self, count: u64) -> Self {
        Self {
            next: count,
            len: self.len,
        }
    }

    /// Returns the current nonce and increments the counter.
    #[expect(
        clippy::should_implement_trait,
        reason = "the sequence never ends, so there is no `Option`"
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

/// A nonce of a [`NonceCounter`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nonce {
    bytes: [u8; MAX_NONCE_LEN],
    len: u8,
}

impl Nonce {
    /// The bytes of the nonce, as many as the counter was created for.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.len))
            .unwrap_or(&self.bytes)
    }
}

#[cfg(test)]
mod tests;
