//! Becomes another user once the ports are bound (`user`, `-a`).

use std::ffi::CString;

use nix::unistd::{Uid, User, geteuid, initgroups, setgid, setuid};

use super::error::Error;

/// Finds a user by name or by number.
///
/// # Errors
/// When there is no such user.
pub(super) fn find(name: &str) -> Result<User, Error> {
    let by_name = User::from_name(name).ok().flatten();
    let by_number = || {
        let id = name.parse().ok()?;
        User::from_uid(Uid::from_raw(id)).ok().flatten()
    };
    by_name.or_else(by_number).ok_or_else(|| Error::NoUser {
        name: name.to_owned(),
    })
}

/// Becomes `user` in every thread, with the user's groups. Nothing is done if the process is that user already.
///
/// # Errors
/// When the process may not: only root may.
pub(super) fn assume(user: &User) -> Result<(), Error> {
    if geteuid() == user.uid {
        return Ok(());
    }
    let name = CString::new(user.name.as_str()).unwrap_or_default();
    initgroups(&name, user.gid)
        .and_then(|()| setgid(user.gid))
        .and_then(|()| setuid(user.uid))
        .map_err(|errno| Error::User {
            name: user.name.clone(),
            source: errno.into(),
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn finds_users_by_name_and_by_number() {
        for name in ["root", "0"] {
            assert!(find(name).unwrap().uid.is_root());
        }
        let error = find("nobody-of-this-name").unwrap_err();
        assert!(error.to_string().contains("nobody-of-this-name"), "{error}");
    }
}
