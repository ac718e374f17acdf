//! TLS: what is written for a server entry or for an endpoint of a forward -> [`Tls`].

use std::path::PathBuf;

use crate::crypto::base64;
use crate::net::tls::{self, Pem, Trust};

use super::context::{Context, EndpointRole, filled};
use super::model::Tls;
use crate::config::written::file;

/// How to make a certificate that clients can pin.
const MAKE_CERTIFICATE: &str = "for a self-signed pair, trusted by clients with `ca` or `pin_sha256`: `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -days 3650 -subj /CN=NAME -addext subjectAltName=DNS:NAME`";

/// Translates one set of TLS keys. `at` is where they stand, `path_of` gives the path to blame for each.
pub(super) fn tls(
    written: &file::Tls,
    role: EndpointRole,
    at: &str,
    path_of: &dyn Fn(&str) -> String,
    cx: &mut Context<'_>,
) -> Tls {
    let pem = |text: &Option<String>| filled(text.as_deref()).map(PathBuf::from).map(Pem::File);
    let insecure = written.insecure == Some(true);
    if insecure && role == EndpointRole::Target {
        cx.report.warn_hint(
            &path_of("insecure"),
            "the certificate is not verified: anybody on the path can pose as the server",
            "trust only your own server with `pin_sha256` or `ca`",
        );
    }
    let trust = Trust {
        ca: pem(&written.ca),
        pins: pins(written, &path_of("pin_sha256"), cx),
        insecure,
    };
    Tls {
        at: at.to_owned(),
        server_name: filled(written.server_name.as_deref()),
        trust,
        identity: identity(pem(&written.cert), pem(&written.key), role, path_of, cx),
    }
}

/// Certificate and key; a listener needs both.
pub(super) fn identity(
    cert: Option<Pem>,
    key: Option<Pem>,
    role: EndpointRole,
    path_of: &dyn Fn(&str) -> String,
    cx: &mut Context<'_>,
) -> Option<(Pem, Pem)> {
    for (missing, name, content) in [
        (cert.is_none(), "cert", "its certificate chain"),
        (key.is_none(), "key", "the private key of its certificate"),
    ] {
        if missing && role == EndpointRole::Listen {
            let message =
                format!("missing: a TLS server needs `{name}`, the PEM file with {content}");
            cx.report
                .error_hint(&path_of(name), message, MAKE_CERTIFICATE);
        }
    }
    cert.zip(key)
}

/// Reads the files that `tls` names, as the services will. A client verifies the certificate for `server_name`.
pub(super) fn try_files(
    tls: &Tls,
    role: EndpointRole,
    server_name: &str,
    path_of: &dyn Fn(&str) -> String,
    cx: &mut Context<'_>,
) {
    if !cx.files {
        return;
    }
    let tried = match (role, &tls.identity) {
        (EndpointRole::Listen, Some((cert, key))) => {
            tls::Server::new(cert.clone(), key.clone()).map(drop)
        }
        (EndpointRole::Listen, None) => Ok(()),
        (EndpointRole::Target, _) => tls::Client::new(server_name, &tls.trust).map(drop),
    };
    if tried.is_ok() {
        warn_of_dates(tls, role, path_of, cx);
    }
    if let Err(error) = tried {
        let key = error.key();
        let path = path_of(key);
        let message = match path.ends_with(key) {
            true => error.to_string(),
            false => format!("`{key}`: {error}"),
        };
        cx.report.error(&path, message);
    }
}

/// Warns of a certificate that is out of its dates: a server's own, or the only one that a client trusts.
fn warn_of_dates(
    tls: &Tls,
    role: EndpointRole,
    path_of: &dyn Fn(&str) -> String,
    cx: &mut Context<'_>,
) {
    let own = tls.identity.as_ref().map(|(cert, _)| cert);
    let (key, pem) = match role {
        EndpointRole::Listen => ("cert", own),
        EndpointRole::Target => ("ca", tls.trust.ca.as_ref()),
    };
    let now = std::time::UNIX_EPOCH.elapsed();
    let (Some(pem), Ok(now)) = (pem, now) else {
        return;
    };
    let what = match tls::validity(pem, now.as_secs()) {
        Ok(tls::Validity::Expired) => "has expired",
        Ok(tls::Validity::NotYet) => "is not valid yet",
        _ => return,
    };
    let message = format!("the certificate in {} {what}", pem.place());
    let hint =
        "get a new one, or set the clock (`openssl x509 -noout -dates -in FILE` prints its dates)";
    cx.report.warn_hint(&path_of(key), message, hint);
}

/// `pin_sha256`: one or more, in an array or separated by commas.
fn pins(written: &file::Tls, path: &str, cx: &mut Context<'_>) -> Vec<[u8; 32]> {
    let Some(list) = &written.pin_sha256 else {
        return Vec::new();
    };
    let mut pins = Vec::new();
    for (index, text) in list.items.iter().enumerate() {
        for text in text.split(',') {
            match pin(text) {
                Some(pin) => pins.push(pin),
                None => cx.report.error_hint(
                    &list.path_of(path, index),
                    "`pin_sha256` is not the SHA-256 of a public key: 32 bytes in base64 or hex",
                    "`openssl x509 -in cert.pem -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64` prints it",
                ),
            }
        }
    }
    pins
}

/// 32 bytes in hex, or in base64 as curl takes them (`sha256//…`).
fn pin(text: &str) -> Option<[u8; 32]> {
    let text = text.trim();
    let text = text.strip_prefix("sha256//").unwrap_or(text);
    let hex = text.replace(':', "");
    if hex.len() == 64 {
        let mut pin = [0; 32];
        for (index, byte) in pin.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        return Some(pin);
    }
    base64::decode(text)?.as_slice().try_into().ok()
}
