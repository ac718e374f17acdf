//! Who may call the admin API.
//!
//! A page of another site that a browser shows can send requests to this machine. Such a request is refused by what the
//! browser says of it (`Origin`, `Sec-Fetch-Site`), and by its `Host` where there is no token: a name of the other site that
//! leads to this machine (DNS rebinding) is none of ours. There are no CORS headers.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::http::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use lru::LruCache;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::limits::{MAX_WRONG_SOURCES, MAX_WRONG_TOKENS};
use crate::net::sampled::{self, Source};
use crate::net::sync::lock;

/// The time in which wrong tokens are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Its `Host` is a name that is not ours.
    Host,
    /// A page of another site has sent it.
    CrossSite,
    /// It has no token.
    NoToken,
    /// Its token is wrong.
    WrongToken,
    /// Its source has sent too many wrong tokens.
    TooMany,
}

/// Decides who may call.
pub struct Access {
    /// The SHA-256 of the token.
    token: Option<[u8; 32]>,
    /// Wrong tokens by source, since the first of a minute.
    wrong: Mutex<LruCache<IpAddr, (Instant, u32)>>,
}

impl Access {
    /// With the token that callers must send; `None`: only this machine can call.
    #[must_use]
    pub fn new(token: Option<&str>) -> Self {
        let most = NonZeroUsize::new(MAX_WRONG_SOURCES).unwrap_or(NonZeroUsize::MIN);
        Self {
            token: token.map(|token| Sha256::digest(token.as_bytes()).into()),
            wrong: Mutex::new(LruCache::new(most)),
        }
    }

    /// Whether a request of `peer` is admitted. `open`: everybody may ask it, as the page that asks for the token.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, peer: IpAddr, headers: &HeaderMap, open: bool) -> Result<(), Denied> {
        let field = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let host = field(HOST.as_str()).unwrap_or_default();
        if self.token.is_none() && !is_own(host) {
            return Err(Denied::Host);
        }
        if open {
            return Ok(());
        }
        let is_same = |origin: &str| {
            let (_, rest) = origin.split_once("://").unwrap_or_default();
            rest.eq_ignore_ascii_case(host)
        };
        if headers.contains_key(ORIGIN) && !field(ORIGIN.as_str()).is_some_and(is_same) {
            return Err(Denied::CrossSite);
        }
        if matches!(field("sec-fetch-site"), Some("cross-site" | "same-site")) {
            return Err(Denied::CrossSite);
        }
        let Some(token) = &self.token else {
            return Ok(());
        };
        let sent = field(AUTHORIZATION.as_str()).and_then(bearer);
        let sent = sent.ok_or(Denied::NoToken)?;
        self.check_token(Source(peer), token, sent, Instant::now())
    }

    fn check_token(
        &self,
        source: Source,
        token: &[u8; 32],
        sent: &str,
        now: Instant,
    ) -> Result<(), Denied> {
        let mut wrong = lock(&self.wrong);
        let key = source.network();
        match wrong.get(&key) {
            Some((begun, _)) if now.duration_since(*begun) >= WINDOW => drop(wrong.pop(&key)),
            Some((_, count)) if *count >= MAX_WRONG_TOKENS => return Err(Denied::TooMany),
            _ => {}
        }
        let sent: [u8; 32] = Sha256::digest(sent.as_bytes()).into();
        if bool::from(sent.ct_eq(token)) {
            return Ok(());
        }
        wrong.get_or_insert_mut(key, || (now, 0)).1 += 1;
        drop(wrong);
        sampled::warn!(by source, "admin: a wrong token was refused", %source);
        Err(Denied::WrongToken)
    }
}

/// The token of `Authorization: Bearer TOKEN`.
fn bearer(field: &str) -> Option<&str> {
    let (scheme, token) = field.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether a `Host` is an IP address, or a name of this machine that no other site can have.
fn is_own(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    bare.unwrap_or(name).parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let fields = fields.iter();
        fields
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn without_a_token_only_addresses_and_localhost_are_hosts() {
        let access = Access::new(None);
        for (host, is_admitted) in [
            ("127.0.0.1:9080", true),
            ("127.0.0.1", true),
            ("[::1]:9080", true),
            ("localhost:9080", true),
            ("rebound.example:9080", false),
            ("localhost.example", false),
            ("127.0.0.1.example", false),
            ("", false),
        ] {
            let checked = access.check(PEER, &headers(&[("host", host)]), false);
            assert_eq!(checked.is_ok(), is_admitted, "{host}");
        }
        assert_eq!(
            access.check(PEER, &HeaderMap::new(), true),
            Err(Denied::Host)
        );
    }

    #[test]
    fn requests_of_other_sites_are_refused() {
        let access = Access::new(None);
        let host = ("host", "127.0.0.1:9080");
        for (field, is_admitted) in [
            (("origin", "http://127.0.0.1:9080"), true),
            (("origin", "http://evil.example"), false),
            (("origin", "http://127.0.0.1:8000"), false),
            (("origin", "null"), false),
            (("sec-fetch-site", "same-origin"), true),
            (("sec-fetch-site", "none"), true),
            (("sec-fetch-site", "cross-site"), false),
            (("sec-fetch-site", "same-site"), false),
        ] {
            let checked = access.check(PEER, &headers(&[host, field]), false);
            assert_eq!(checked.is_ok(), is_admitted, "{field:?}");
        }
    }

    #[test]
    fn a_source_with_too_many_wrong_tokens_is_refused_for_a_minute_and_others_are_not() {
        let access = Access::new(Some("right"));
        let token = access.token.unwrap();
        let (source, begun) = (Source(PEER), Instant::now());
        let try_at = |source, sent, now| access.check_token(source, &token, sent, now);
        for _ in 0..MAX_WRONG_TOKENS {
            assert_eq!(try_at(source, "wrong", begun), Err(Denied::WrongToken));
        }
        assert_eq!(try_at(source, "right", begun), Err(Denied::TooMany));
        let other = Source("192.0.2.1".parse().unwrap());
        assert_eq!(try_at(other, "right", begun), Ok(()));
        assert_eq!(try_at(source, "right", begun + WINDOW), Ok(()));
    }

    #[test]
    fn sources_that_are_remembered_are_bounded() {
        let access = Access::new(Some("right"));
        let token = access.token.unwrap();
        for number in 0..3 * MAX_WRONG_SOURCES {
            let ip = IpAddr::V4(std::net::Ipv4Addr::from_bits(
                u32::try_from(number).unwrap(),
            ));
            let _ = access.check_token(Source(ip), &token, "wrong", Instant::now());
        }
        assert_eq!(lock(&access.wrong).len(), MAX_WRONG_SOURCES);
    }
}
