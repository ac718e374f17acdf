//! Who may use a listener.

use super::model::{Credential, Local};

impl Local {
    /// The users that may log in by SOCKS5. Where only `http_auth` is set, they are those: a login that another protocol on
    /// the same port does without would keep nobody out.
    pub fn socks_logins(&self) -> &[Credential] {
        if self.auth.is_empty() {
            &self.http_auth
        } else {
            &self.auth
        }
    }

    /// The users that may log in by HTTP, as [`Local::socks_logins`].
    pub fn http_logins(&self) -> &[Credential] {
        if self.http_auth.is_empty() {
            &self.auth
        } else {
            &self.http_auth
        }
    }
}
