//! Certificates of servers.

use super::peers;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PublicKeyData as _,
};
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

/// The name in them.
pub const NAME: &str = "proxy.example";

/// The files of a server, and of those who trust it.
pub struct Identity {
    /// Where `ca.pem`, `cert.pem` and `key.pem` are.
    pub directory: TempDir,
    /// The SHA-256 of its public key, in Base64.
    pub pin: String,
}

impl Identity {
    /// A certificate for [`NAME`].
    pub fn new() -> Self {
        Self::issue(|_| {})
    }

    /// The same with changes.
    pub fn issue(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        change(&mut params);
        let cert = params.signed_by(&key, &issuer).unwrap();
        let spki = key.subject_public_key_info();
        let pin = sha256(&spki);
        let directory = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("ca.pem", issuer.pem()),
            ("cert.pem", cert.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            fs::write(directory.path().join(file), text).unwrap();
        }
        Self { directory, pin }
    }

    /// One of its files.
    pub fn file(&self, name: &str) -> Value {
        json!(self.directory.path().join(name))
    }

    /// What the server needs.
    pub fn own(&self) -> Value {
        json!({"cert": self.file("cert.pem"), "key": self.file("key.pem")})
    }

    /// What a client trusts.
    pub fn trusted(&self) -> Value {
        json!({"server_name": NAME, "ca": self.file("ca.pem")})
    }

    /// Puts its certificate and key in the place of another's.
    pub fn replace(&self, other: &Self) {
        for file in ["cert.pem", "key.pem"] {
            let target = other.directory.path().join(file);
            let fresh = other.directory.path().join("fresh");
            fs::copy(self.directory.path().join(file), &fresh).unwrap();
            fs::rename(fresh, target).unwrap();
        }
    }
}

/// The hash of `bytes` in Base64.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    peers::base64(digest.as_ref())
}
