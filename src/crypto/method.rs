//! Encryption methods: their names and the lengths of their parts.
//!
//! | family | specification | methods |
//! |---|---|---|
//! | [`Family::Plain`] | | `none` |
//! | [`Family::Aead2017`] | SIP004, SIP007 | `aes-{128,192,256}-gcm`, `chacha20-ietf-poly1305`, `xchacha20-ietf-poly1305` |
//! | [`Family::Aead2022`] | SIP022, SIP023 | `2022-blake3-*` |
//!
//! The old stream ciphers are known only by name, so that a config file that names one gets the reason why it is refused
//! instead of "unknown method": without authentication an active attacker can redirect and decrypt the traffic.

use std::fmt;
use std::str::FromStr;

/// Bytes that sealing adds to a message, for every AEAD.
pub const TAG_LEN: usize = 16;

/// An encryption method that this program supports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Method {
    /// No encryption: the Shadowsocks address header on a bare stream.
    None,
    /// `aes-128-gcm` (AEAD-2017).
    Aes128Gcm,
    /// `aes-192-gcm` (AEAD-2017), which shadowsocks-libev has.
    Aes192Gcm,
    /// `aes-256-gcm` (AEAD-2017).
    Aes256Gcm,
    /// `chacha20-ietf-poly1305` (AEAD-2017).
    ChaCha20Poly1305,
    /// `xchacha20-ietf-poly1305` (AEAD-2017), with a nonce of 24 bytes.
    XChaCha20Poly1305,
    /// `2022-blake3-aes-128-gcm` (AEAD-2022).
    Blake3Aes128Gcm,
    /// `2022-blake3-aes-256-gcm` (AEAD-2022).
    Blake3Aes256Gcm,
    /// `2022-blake3-chacha20-poly1305` (AEAD-2022).
    Blake3ChaCha20Poly1305,
    /// `2022-blake3-chacha8-poly1305` (AEAD-2022, optional there).
    Blake3ChaCha8Poly1305,
}

/// The protocol of a method: it decides how keys are derived and what the bytes on the wire mean.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    /// Not encrypted.
    Plain,
    /// "AEAD-2017", SIP004 for streams and SIP007 for packets: any password; no replay protection in the protocol.
    Aead2017,
    /// "AEAD-2022", SIP022: a random key; timestamps, session ids and replay protection.
    Aead2022,
}

impl Method {
    /// Every method, weakest family first.
    pub const ALL: [Self; 10] = [
        Self::None,
        Self::Aes128Gcm,
        Self::Aes192Gcm,
        Self::Aes256Gcm,
        Self::ChaCha20Poly1305,
        Self::XChaCha20Poly1305,
        Self::Blake3Aes128Gcm,
        Self::Blake3Aes256Gcm,
        Self::Blake3ChaCha20Poly1305,
        Self::Blake3ChaCha8Poly1305,
    ];

    /// The name in config files and `ss://` URLs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Aes128Gcm => "aes-128-gcm",
            Self::Aes192Gcm => "aes-192-gcm",
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-ietf-poly1305",
            Self::XChaCha20Poly1305 => "xchacha20-ietf-poly1305",
            Self::Blake3Aes128Gcm => "2022-blake3-aes-128-gcm",
            Self::Blake3Aes256Gcm => "2022-blake3-aes-256-gcm",
            Self::Blake3ChaCha20Poly1305 => "2022-blake3-chacha20-poly1305",
            Self::Blake3ChaCha8Poly1305 => "2022-blake3-chacha8-poly1305",
        }
    }

    /// The protocol of the method.
    #[must_use]
    pub const fn family(self) -> Family {
        match self {
            Self::None => Family::Plain,
            Self::Aes128Gcm
            | Self::Aes192Gcm
            | Self::Aes256Gcm
            | Self::ChaCha20Poly1305
            | Self::XChaCha20Poly1305 => Family::Aead2017,
            Self::Blake3Aes128Gcm
            | Self::Blake3Aes256Gcm
            | Self::Blake3ChaCha20Poly1305
            | Self::Blake3ChaCha8Poly1305 => Family::Aead2022,
        }
    }

    /// Bytes of the master key and of every subkey: 16, 24 or 32; 0 for [`Method::None`].
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::None => 0,
            Self::Aes128Gcm | Self::Blake3Aes128Gcm => 16,
            Self::Aes192Gcm => 24,
            Self::Aes256Gcm
            | Self::ChaCha20Poly1305
            | Self::XChaCha20Poly1305
            | Self::Blake3Aes256Gcm
            | Self::Blake3ChaCha20Poly1305
            | Self::Blake3ChaCha8Poly1305 => 32,
        }
    }

    /// Bytes of the salt at the start of a stream and of every AEAD-2017 packet: as many as the key has.
    #[must_use]
    pub const fn salt_len(self) -> usize {
        self.key_len()
    }

    /// Bytes that sealing adds to a message: 16, or 0 for [`Method::None`].
    #[must_use]
    pub const fn tag_len(self) -> usize {
        match self {
            Self::None => 0,
            _ => TAG_LEN,
        }
    }

    /// Whether several users can share a port by identity headers (SIP023). These are AES blocks, so only the AES methods of
    /// AEAD-2022 have them.
    #[must_use]
    pub const fn supports_identity(self) -> bool {
        matches!(self, Self::Blake3Aes128Gcm | Self::Blake3Aes256Gcm)
    }

    /// Whether several users can share a port: by identity headers, or under AEAD-2017 by trial.
    #[must_use]
    pub const fn supports_users(self) -> bool {
        self.supports_identity() || matches!(self.family(), Family::Aead2017)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why a method name was refused. The texts are for the person who wrote the config.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MethodError {
    /// The name is that of a stream cipher, which does not protect against an active attacker.
    #[error(
        "method \"{name}\" is insecure: {reason}; use \"{}\" or \"{}\" on both sides",
        Method::Blake3Aes256Gcm,
        Method::ChaCha20Poly1305
    )]
    Insecure {
        /// The name as written.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The name is that of an AEAD that this program does not have.
    #[error("method \"{name}\" is not supported; use \"{instead}\" on both sides")]
    Unsupported {
        /// The name as written.
        name: String,
        /// The method that is closest in strength and speed.
        instead: Method,
    },
    /// The name is not that of any known cipher.
    #[error("unknown method \"{name}\"{}", nearest.map(|method| format!("; did you mean \"{method}\"?")).unwrap_or_default())]
    Unknown {
        /// The name as written.
        name: String,
        /// The method with the most similar name, if one is similar.
        nearest: Option<Method>,
    },
}

impl FromStr for Method {
    type Err = MethodError;

    /// Reads a name, whatever its case. `plain` is another name of `none`; SIP004's names, such as `AEAD_AES_128_GCM`, are
    /// read too.
    ///
    /// # Errors
    /// [`MethodError::Insecure`] for stream ciphers, [`MethodError::Unsupported`] for AEADs that this program does not
    /// have, [`MethodError::Unknown`] for all other names.
    fn from_str(text: &str) -> Result<Self, MethodError> {
        let name = text.to_ascii_lowercase();
        if name == "plain" {
            return Ok(Self::None);
        }
        let usual = standard(&name).unwrap_or(&name);
        if let Some(method) = Self::ALL.into_iter().find(|method| method.name() == usual) {
            return Ok(method);
        }
        if let Some(reason) = insecure(&name) {
            return Err(MethodError::Insecure {
                name: text.to_owned(),
                reason,
            });
        }
        if let Some(instead) = unsupported(usual) {
            return Err(MethodError::Unsupported {
                name: text.to_owned(),
                instead,
            });
        }
        Err(MethodError::Unknown {
            name: text.to_owned(),
            nearest: nearest(&name),
        })
    }
}

/// The usual name of a method by its name in SIP004 (and in RFC 5116), in lowercase.
fn standard(name: &str) -> Option<&'static str> {
    Some(match name {
        "aead_aes_128_gcm" => "aes-128-gcm",
        "aead_aes_192_gcm" => "aes-192-gcm",
        "aead_aes_256_gcm" => "aes-256-gcm",
        "aead_chacha20_poly1305" => "chacha20-ietf-poly1305",
        "aead_xchacha20_poly1305" => "xchacha20-ietf-poly1305",
        "aead_aes_128_ccm" => "aes-128-ccm",
        "aead_aes_256_ccm" => "aes-256-ccm",
        "aead_aes_128_gcm_siv" => "aes-128-gcm-siv",
        "aead_aes_256_gcm_siv" => "aes-256-gcm-siv",
        _ => return None,
    })
}

/// Why the stream cipher of this lowercase name is insecure; `None` if the name is not one of a stream cipher.
fn insecure(name: &str) -> Option<&'static str> {
    const MALLEABLE: &str =
        "a stream cipher without authentication lets anyone on the path alter and decrypt traffic";
    match name {
        "table" => Some("a fixed byte substitution is not encryption"),
        "rc4" => {
            Some("RC4 without a per-connection IV uses the same key stream for every connection")
        }
        "rc4-md5" | "rc4-md5-6" => Some("RC4 is broken, and nothing authenticates the traffic"),
        "salsa20" | "xsalsa20" | "chacha20" | "xchacha20" | "chacha20-ietf" => Some(MALLEABLE),
        _ => {
            let (cipher, mode) = name.rsplit_once('-')?;
            let block_cipher = ["aes-", "camellia-"]
                .iter()
                .any(|prefix| cipher.starts_with(prefix))
                || ["bf", "cast5", "des", "idea", "rc2", "seed"].contains(&cipher);
            let stream_mode = ["cfb", "cfb1", "cfb8", "cfb128", "ctr", "ofb"].contains(&mode);
            (block_cipher && stream_mode).then_some(MALLEABLE)
        }
    }
}

/// What to use instead of the AEAD of this lowercase name; `None` if the name is not one of an unsupported AEAD.
fn unsupported(name: &str) -> Option<Method> {
    match name {
        "aes-128-ccm" | "aes-128-gcm-siv" | "sm4-gcm" | "sm4-ccm" => Some(Method::Aes128Gcm),
        "aes-192-ccm" | "aes-256-ccm" | "aes-256-gcm-siv" => Some(Method::Aes256Gcm),
        _ => None,
    }
}

/// The method with the name most similar to this lowercase one.
fn nearest(name: &str) -> Option<Method> {
    /// Below this share of unchanged characters a suggestion is a guess.
    const SIMILAR: f64 = 0.6;
    Method::ALL
        .into_iter()
        .map(|method| {
            (
                method,
                strsim::normalized_damerau_levenshtein(name, method.name()),
            )
        })
        .filter(|(_, similarity)| *similarity >= SIMILAR)
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(method, _)| method)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use shadowsocks::crypto::{CipherCategory, CipherKind};

    #[test]
    fn names_round_trip_in_any_case() {
        for method in Method::ALL {
            assert_eq!(method.name().parse(), Ok(method));
            assert_eq!(method.name().to_uppercase().parse(), Ok(method));
            assert_eq!(method.to_string(), method.name());
        }
        assert_eq!("plain".parse(), Ok(Method::None));
    }

    #[test]
    fn names_of_sip004_are_read() {
        for (name, method) in [
            ("AEAD_AES_128_GCM", Method::Aes128Gcm),
            ("AEAD_AES_192_GCM", Method::Aes192Gcm),
            ("AEAD_AES_256_GCM", Method::Aes256Gcm),
            ("AEAD_CHACHA20_POLY1305", Method::ChaCha20Poly1305),
            ("aead_xchacha20_poly1305", Method::XChaCha20Poly1305),
        ] {
            assert_eq!(name.parse(), Ok(method));
        }
        let error = "AEAD_AES_256_CCM".parse::<Method>().unwrap_err();
        assert!(matches!(error, MethodError::Unsupported { .. }), "{error}");
    }

    #[test]
    fn lengths_agree_with_an_independent_implementation() {
        // The other implementation has no aes-192-gcm.
        let known = |method: &Method| *method != Method::Aes192Gcm;
        for method in Method::ALL.into_iter().filter(known) {
            let kind: CipherKind = method.name().parse().unwrap();
            let category = match method.family() {
                Family::Plain => CipherCategory::None,
                Family::Aead2017 => CipherCategory::Aead,
                Family::Aead2022 => CipherCategory::Aead2022,
            };
            assert_eq!(kind.category(), category, "{method}");
            assert_eq!(kind.key_len(), method.key_len(), "{method}");
            if method != Method::None {
                assert_eq!(kind.tag_len(), method.tag_len(), "{method}");
                assert_eq!(kind.salt_len(), method.salt_len(), "{method}");
            }
            assert_eq!(
                shadowsocks::config::method_support_eih(kind),
                method.supports_identity(),
                "{method}"
            );
        }
    }

    #[test]
    fn refuses_stream_ciphers_with_a_reason() {
        let names = "table rc4 rc4-md5 RC4-MD5 salsa20 chacha20 chacha20-ietf bf-cfb";
        let mut names: Vec<String> = names.split(' ').map(str::to_owned).collect();
        for cipher in ["aes", "camellia"] {
            for bits in [128, 192, 256] {
                for mode in ["ctr", "cfb", "cfb1", "cfb8", "cfb128", "ofb"] {
                    names.push(format!("{cipher}-{bits}-{mode}"));
                }
            }
        }
        for name in names {
            let error = name.parse::<Method>().unwrap_err();
            assert!(
                matches!(error, MethodError::Insecure { .. }),
                "{name}: {error:?}"
            );
            assert!(
                error.to_string().contains(&name) && error.to_string().contains("2022-blake3"),
                "{error}"
            );
        }
    }

    #[test]
    fn refuses_unsupported_aeads_with_a_substitute() {
        let names =
            "aes-192-ccm aes-128-ccm aes-256-ccm aes-128-gcm-siv aes-256-gcm-siv sm4-gcm sm4-ccm";
        for name in names.split(' ') {
            let error = name.parse::<Method>().unwrap_err();
            assert!(
                matches!(error, MethodError::Unsupported { .. }),
                "{name}: {error:?}"
            );
        }
        let error = "aes-256-ccm".parse::<Method>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "method \"aes-256-ccm\" is not supported; use \"aes-256-gcm\" on both sides"
        );
    }

    #[test]
    fn suggests_the_nearest_name() {
        for (typed, meant) in [
            ("aes-256-gmc", Some(Method::Aes256Gcm)),
            ("chacha20-poly1305", Some(Method::ChaCha20Poly1305)),
            ("2022-blake3-aes-265-gcm", Some(Method::Blake3Aes256Gcm)),
            (
                "2022-blake3-chacha20-ietf-poly1305",
                Some(Method::Blake3ChaCha20Poly1305),
            ),
            ("", None),
            ("vmess", None),
            ("auto", None),
        ] {
            let expected = MethodError::Unknown {
                name: typed.to_owned(),
                nearest: meant,
            };
            assert_eq!(typed.parse::<Method>(), Err(expected));
        }
        let error = "aes-256-gmc".parse::<Method>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown method \"aes-256-gmc\"; did you mean \"aes-256-gcm\"?"
        );
        assert_eq!(
            "auto".parse::<Method>().unwrap_err().to_string(),
            "unknown method \"auto\""
        );
    }
}
