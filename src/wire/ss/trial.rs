//! Whose an AEAD-2017 request is: found by trying the keys of all users.
//!
//! A request does not say who sent it. The salt's subkey of each user is derived, eight at a time, and the first sealed bytes are
//! opened with it until that works. Who is likely comes first. If nobody fits, everybody has been tried.

use std::cmp::Reverse;
use std::sync::atomic::Ordering::Relaxed;

use super::keys::Accounts;
use crate::crypto::{Aead, Key, LANES, Method};

/// Bytes of the longest nonce.
const NONCE_LEN: usize = 24;

/// Who has sealed something.
pub(super) struct Sender {
    /// The user's id.
    pub(super) user: usize,
    /// The subkey of the salt.
    pub(super) subkey: Key,
}

impl Accounts {
    /// Notes that a user was active at `time`, which is any number that grows.
    pub fn note_active(&self, user: usize, time: u64) {
        if let Some(user) = self.user(user) {
            user.active.store(time, Relaxed);
        }
    }

    /// Who has sealed the first message behind `salt`, if it is the user `id`. What was sealed is opened in `room`, which is as
    /// long.
    pub(super) fn try_sender(
        &self,
        id: usize,
        salt: &[u8],
        sealed: &[u8],
        room: &mut [u8],
    ) -> Option<Sender> {
        let subkey = self.user(id)?.key.session_subkey(self.method(), salt);
        let sender = Sender { user: id, subkey };
        opens(self.method(), &sender.subkey, sealed, room).then_some(sender)
    }

    /// The same for any user but `but`, who was tried before.
    pub(super) fn find_sender(
        &self,
        but: Option<usize>,
        salt: &[u8],
        sealed: &[u8],
        room: &mut [u8],
    ) -> Option<Sender> {
        let method = self.method();
        let others = self.all().filter(|(id, _)| Some(*id) != but);
        let mut others: Vec<_> = others
            .map(|(id, user)| (Reverse(user.active.load(Relaxed)), id, &user.key))
            .collect();
        others.sort_unstable_by_key(|(active, id, _)| (*active, *id));
        others.chunks(LANES).find_map(|group| {
            let (_, _, any) = group.first()?;
            // Lanes without a user repeat the first one.
            let keys = std::array::from_fn(|lane| group.get(lane).map_or(*any, |(_, _, key)| *key));
            let subkeys = Key::subkeys_of(method, &keys, salt);
            let mut each = group.iter().zip(subkeys);
            each.find_map(|((_, user, _), subkey)| {
                let fits = opens(method, &subkey, sealed, room);
                fits.then_some(Sender {
                    user: *user,
                    subkey,
                })
            })
        })
    }
}

/// Opens `sealed`, the first message under `subkey`, in `room`.
pub(super) fn opens(method: Method, subkey: &Key, sealed: &[u8], room: &mut [u8]) -> bool {
    let Some(aead) = Aead::stream(method, subkey) else {
        return false;
    };
    let nonce = [0; NONCE_LEN];
    let nonce = nonce.get(..aead.nonce_len()).unwrap_or_default();
    if room.len() != sealed.len() {
        return false;
    }
    room.copy_from_slice(sealed);
    aead.open(nonce, room).is_ok()
}
