//! The users of a local port, and their passwords.

use std::sync::Arc;

use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};

use crate::relay::User;

/// The user name and password of a user.
#[derive(Clone)]
pub struct Login {
    /// The user, whose name is the user name.
    pub user: Arc<User>,
    /// The password.
    pub password: Vec<u8>,
}

/// The user with the given name and password. Every login is compared, so the time it takes reveals nothing about them.
pub(super) fn find(logins: &[Login], name: &[u8], password: &[u8]) -> Option<Arc<User>> {
    let mut found = u64::MAX;
    for (index, login) in (0..).zip(logins) {
        let same = login.user.name().unwrap_or_default().as_bytes().ct_eq(name)
            & login.password.as_slice().ct_eq(password);
        found.conditional_assign(&index, same);
    }
    let login = logins.get(usize::try_from(found).ok()?)?;
    Some(Arc::clone(&login.user))
}
