//! One stream or association of a user.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::Context;

use super::limits::Refusal;
use super::user::User;
use crate::net::sync::lock;

/// A stream or an association of a user, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Session {
    user: Arc<User>,
    ip: IpAddr,
    is_udp: bool,
}

impl Session {
    /// Begins a stream or an association of the client at `ip`.
    ///
    /// # Errors
    /// When a limit of the user is reached.
    pub(crate) fn begin(user: &Arc<User>, ip: IpAddr, is_udp: bool) -> Result<Self, Refusal> {
        let ip = user.admit(ip, is_udp)?;
        let user = Arc::clone(user);
        Ok(Self { user, ip, is_udp })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        lock(self.user.sessions()).end(self.ip, self.is_udp);
    }
}

/// Wakes the task of a flow when its user may not go on.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    place: Option<usize>,
}

impl Watch {
    /// Why the user may not go on. If it may, the task of `cx` is woken when this changes; it must be the same task each
    /// time.
    pub(crate) fn poll(&mut self, user: &User, cx: &Context<'_>) -> Option<Refusal> {
        if self.place.is_none() {
            self.place = Some(lock(user.sessions()).watch(cx.waker()));
        }
        user.refusal()
    }

    /// To be called at the end of the flow.
    pub(crate) fn end(&mut self, user: &User) {
        if let Some(place) = self.place.take() {
            lock(user.sessions()).unwatch(place);
        }
    }
}
