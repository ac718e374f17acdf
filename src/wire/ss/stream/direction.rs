//! A direction of a stream that goes on in another process.

use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

use super::{Crypt, Opener, Sealer, State, max_chunk};
use crate::crypto::{Family, Key, Method};

/// A direction after its header, between two pieces.
#[derive(Serialize, Deserialize)]
pub struct Direction {
    /// The name of the method.
    method: String,
    /// The session subkey; empty for the method `none`.
    subkey: Vec<u8>,
    /// Nonces that have been used.
    nonces: u64,
    /// The length of the payload that comes next, if its length has been opened.
    payload: Option<usize>,
}

impl Drop for Direction {
    fn drop(&mut self) {
        self.subkey.zeroize();
    }
}

/// Without the key.
impl std::fmt::Debug for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Direction").field(&self.method).finish()
    }
}

impl Direction {
    fn of(crypt: Option<&Crypt>, payload: Option<usize>) -> Self {
        let method = crypt.map_or(Method::None, |crypt| crypt.method);
        Self {
            method: method.name().to_owned(),
            subkey: crypt.map_or_else(Vec::new, |crypt| crypt.subkey.as_bytes().to_vec()),
            nonces: crypt.map_or(0, |crypt| crypt.nonce.count()),
            payload,
        }
    }

    /// The method, and the AEAD unless that is `none`. `None`: this is no direction.
    fn crypt(&self) -> Option<(Method, Option<Crypt>)> {
        let method: Method = self.method.parse().ok()?;
        if method.family() == Family::Plain {
            return Some((method, None));
        }
        let subkey =
            Key::from_slice(&self.subkey).filter(|key| key.as_bytes().len() == method.key_len())?;
        let mut crypt = Crypt::of_subkey(method, &subkey)?;
        crypt.nonce = crypt.nonce.after(self.nonces);
        Some((method, Some(crypt)))
    }
}

impl Sealer {
    /// What another process needs to go on; `None`: the header has not been sealed yet.
    #[must_use]
    pub fn direction(&self) -> Option<Direction> {
        (!self.at_head()).then(|| Direction::of(self.crypt.as_ref(), None))
    }

    /// Goes on where another process was. `None`: this is no direction.
    #[must_use]
    pub fn resume(direction: &Direction) -> Option<Self> {
        let (method, crypt) = direction.crypt()?;
        Some(Self {
            crypt,
            head: None,
            family: method.family(),
        })
    }
}

impl Opener {
    /// Whether [`Opener::direction`] finds it between two pieces.
    #[must_use]
    pub const fn is_between(&self) -> bool {
        !matches!(self.state, State::Response(_) | State::Broken(_))
    }

    /// What another process needs to go on; `None`: the header has not been opened yet, or the stream has failed.
    #[must_use]
    pub fn direction(&self) -> Option<Direction> {
        let payload = match self.state {
            State::Length | State::Plain => None,
            State::Payload(len) => Some(len),
            State::Response(_) | State::Broken(_) => return None,
        };
        Some(Direction::of(self.crypt.as_ref(), payload))
    }

    /// Goes on where another process was. `None`: this is no direction.
    #[must_use]
    pub fn resume(direction: &Direction) -> Option<Self> {
        let (method, crypt) = direction.crypt()?;
        let mut opener = Self::chunks(method, crypt);
        match direction.payload {
            Some(len) if len > max_chunk(method) || opener.crypt.is_none() => return None,
            Some(len) => opener.state = State::Payload(len),
            None => {}
        }
        Some(opener)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::wire::address::Address;
    use crate::wire::ss::keys::{Credentials, Salt};
    use crate::wire::ss::stream::Fresh;

    /// What another process reads.
    fn sent(direction: &Direction) -> Direction {
        let text = serde_json::to_vec(direction).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn stream_goes_on_in_another_process_between_any_two_bytes() {
        for method in [
            Method::None,
            Method::Aes256Gcm,
            Method::Blake3Aes128Gcm,
            Method::Blake3ChaCha8Poly1305,
        ] {
            let key = Key::from_slice(&vec![7; method.key_len().max(16)]).unwrap();
            let credentials = Credentials::new(method, Vec::new(), key.clone());
            let salt = |byte| Salt::new(method, [byte; 32]);
            let target = Address::Ip(([127, 0, 0, 1], 80).into());
            let request = Sealer::request(&credentials, salt(1), target.as_ref());
            assert!(
                request.direction().is_none(),
                "its head has not been sealed"
            );
            let mut sealer = Sealer::response(method, &key, salt(2), salt(1));
            let mut opener = Opener::response(&credentials, salt(1));
            let (mut waiting, mut opened) = (Vec::new(), Vec::new());
            for round in 0..6_u8 {
                let mut buf = vec![0; 4096];
                let lead = sealer.lead();
                buf[lead..lead + 100].fill(round);
                let fresh = Fresh {
                    now: 1000,
                    padding: &[1],
                };
                let len = sealer.seal(&mut buf, 100, fresh).unwrap();
                sealer = Sealer::resume(&sent(&sealer.direction().unwrap())).unwrap();
                for byte in &buf[..len] {
                    waiting.push(*byte);
                    let got = opener.open(&mut waiting, || 1000).unwrap();
                    opened.extend_from_slice(&waiting[got.payload.clone()]);
                    waiting.drain(..got.used);
                    assert_eq!(opener.is_between(), opener.direction().is_some());
                    if let Some(direction) = opener.direction() {
                        opener = Opener::resume(&sent(&direction)).unwrap();
                    }
                }
            }
            let expected: Vec<u8> = (0..6).flat_map(|round| [round; 100]).collect();
            assert_eq!(opened, expected, "{method}");
        }
    }

    #[test]
    fn what_is_no_direction_is_refused_and_the_key_is_not_shown() {
        let good = || Direction {
            method: "aes-128-gcm".to_owned(),
            subkey: vec![0xAB; 16],
            nonces: 7,
            payload: Some(100),
        };
        assert!(Opener::resume(&good()).is_some());
        let changes: [fn(&mut Direction); 4] = [
            |one| one.method = "rot13".to_owned(),
            |one| one.subkey = vec![1; 15],
            |one| one.subkey = vec![1; 32],
            |one| one.payload = Some(usize::MAX),
        ];
        for change in changes {
            let mut wrong = good();
            change(&mut wrong);
            assert!(Opener::resume(&wrong).is_none(), "{wrong:?}");
        }
        let shown = format!("{:?}", good());
        assert!(
            !shown.contains("171") && !shown.to_lowercase().contains("ab"),
            "{shown}"
        );
    }
}
