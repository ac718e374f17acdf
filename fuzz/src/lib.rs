//! What the targets share: peers with matching keys, a manual sealer, edits of valid bytes.

use arbitrary::Arbitrary;
use ssr::crypto::{Aead, Family, Key, Method, NonceCounter};
use ssr::wire::AddressRef;
use ssr::wire::ss::{Account, Accounts, Credentials, Salt};

/// The time of day of all targets, in Unix seconds.
pub const NOW: u64 = 1_700_000_000;
/// The index of the client among the server's users.
pub const USER: usize = 1;

/// A key for `method`, derived from `seed`.
#[must_use]
pub fn key(method: Method, seed: u8) -> Key {
    Key::from_slice(&vec![seed; method.key_len()])
        .unwrap_or_else(|| Key::from_password(method, &[seed]))
}

/// A salt for `method`, derived from `seed`.
#[must_use]
pub fn salt(method: Method, seed: u8) -> Salt {
    Salt::new(method, [seed; 32])
}

/// A method, and whether the server has users.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Setting {
    method: u8,
    shared: bool,
}

/// Both ends of a connection.
pub struct Ends {
    pub method: Method,
    pub credentials: Credentials,
    pub accounts: Accounts,
    /// The index of the client among the users, if there are any.
    pub user: Option<usize>,
}

impl Setting {
    /// Peers with matching keys.
    #[must_use]
    pub fn ends(self) -> Ends {
        self.keyed(1, 11)
    }

    /// Peers with keys that nothing is sealed under, so that sealed bytes that the fuzzer has seen and reproduces are garbage
    /// to them.
    #[must_use]
    pub fn strangers(self) -> Ends {
        self.keyed(101, 111)
    }

    fn keyed(self, own: u8, user: u8) -> Ends {
        let method = Method::ALL[usize::from(self.method) % Method::ALL.len()];
        let own = key(method, own);
        if self.shared && method.supports_identity() {
            let account = |seed, relayed| Account {
                relayed,
                ..Account::new(key(method, seed))
            };
            let users = vec![account(user - 1, true), account(user, false)];
            return Ends {
                method,
                credentials: Credentials::new(method, vec![own.clone()], key(method, user)),
                accounts: Accounts::new(method, own, users),
                user: Some(USER),
            };
        }
        Ends {
            method,
            credentials: Credentials::new(method, Vec::new(), own.clone()),
            accounts: Accounts::new(method, own, Vec::new()),
            user: None,
        }
    }
}

/// Whether everything on the wire is authenticated.
#[must_use]
pub fn is_sealed(method: Method) -> bool {
    method.family() != Family::Plain
}

/// An edit of valid bytes.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Edit {
    Change { at: u16, with: u8 },
    Remove { at: u16, len: u8 },
    Repeat { at: u16, len: u8 },
    Insert { at: u16, byte: u8 },
    Cut { at: u16 },
}

/// Applies `edits`; returns whether anything has changed.
pub fn edit(bytes: &mut Vec<u8>, edits: &[Edit]) -> bool {
    let before = bytes.clone();
    for edit in edits.iter().take(8) {
        let place = |at: u16| usize::from(at) % (bytes.len() + 1);
        match *edit {
            Edit::Change { at, with } => {
                let at = place(at);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= with;
                }
            }
            Edit::Remove { at, len } => {
                let (from, len) = (place(at), usize::from(len));
                bytes.drain(from..bytes.len().min(from + len));
            }
            Edit::Repeat { at, len } => {
                let (from, len) = (place(at), usize::from(len));
                let part = bytes[from..bytes.len().min(from + len)].to_vec();
                bytes.splice(from..from, part);
            }
            Edit::Insert { at, byte } => {
                let at = place(at);
                bytes.insert(at, byte);
            }
            Edit::Cut { at } => {
                let at = place(at);
                bytes.truncate(at);
            }
        }
    }
    *bytes != before
}

/// Seals one direction of a stream manually, so that a key holder can send anything.
pub struct Hand {
    aead: Aead,
    nonce: NonceCounter,
    pub bytes: Vec<u8>,
}

impl Hand {
    /// Starts with the salt; `None` for the method `none`.
    #[must_use]
    pub fn new(method: Method, key: &Key, salt: Salt) -> Option<Self> {
        let aead = Aead::stream(method, &key.session_subkey(method, salt.as_slice()))?;
        let nonce = NonceCounter::new(aead.nonce_len());
        Some(Self {
            aead,
            nonce,
            bytes: salt.as_slice().to_vec(),
        })
    }

    /// Seals bytes under the next nonce and appends them.
    pub fn seal(&mut self, plain: &[u8]) {
        let mut data = plain.to_vec();
        let tag = self
            .aead
            .seal(self.nonce.next().as_slice(), &mut data)
            .expect("the nonce fits");
        self.bytes.extend_from_slice(&data);
        self.bytes.extend_from_slice(&tag);
    }
}

/// An encoded address.
#[must_use]
pub fn encoded(address: AddressRef<'_>) -> Vec<u8> {
    let mut bytes = vec![0; address.encoded_len()];
    address.encode(&mut bytes).expect("the address fits");
    bytes
}

/// The target of all requests.
#[must_use]
pub const fn target() -> AddressRef<'static> {
    AddressRef::Domain("example.com", 443)
}

/// Cuts `bytes` at `cuts` and passes the pieces to `take` until it fails.
///
/// # Errors
/// Those of `take`.
pub fn pieces<E>(
    bytes: &[u8],
    cuts: &[u16],
    take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut cuts: Vec<_> = cuts
        .iter()
        .take(16)
        .map(|cut| usize::from(*cut) % (bytes.len() + 1))
        .collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|cut| &bytes[cut[0]..cut[1]])
        .try_for_each(take)
}
