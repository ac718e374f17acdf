//! All users of a process.

use std::sync::{Arc, Mutex};

use super::user::User;
use crate::net::sync::lock;

/// The users that the config names, in its order. Several ports may have users of the same name: they are apart.
#[derive(Debug, Default)]
pub struct Users(Mutex<Vec<Arc<User>>>);

impl Users {
    /// Adds one.
    pub fn add(&self, user: Arc<User>) {
        lock(&self.0).push(user);
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<User>> {
        lock(&self.0).clone()
    }

    /// Reviews all of them: see [`User::review`].
    pub fn review(&self, now: u64) {
        self.all().iter().for_each(|user| user.review(now));
    }
}
