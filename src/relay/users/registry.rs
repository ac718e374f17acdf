//! All users of a process.

use std::sync::{Arc, Mutex, OnceLock};

use super::fair::Fair;
use super::keeper::{Keeper, NotKept};
use super::live::LiveSession;
use super::table::Table;
use super::user::User;
use crate::net::sync::lock;

/// The users of all servers, in the order of the config. Several servers may have users of the same name: they are apart.
#[derive(Debug, Default)]
pub struct Users {
    tables: Mutex<Vec<Arc<Table>>>,
    keeper: OnceLock<Keeper>,
    /// What users share, if they share fairly.
    fair: OnceLock<Arc<Fair>>,
    /// Who flows without a user are counted for.
    everybody: OnceLock<Arc<User>>,
}

impl Users {
    /// Adds those of a server.
    pub fn add(&self, table: Arc<Table>) {
        if let Some(fair) = self.fair.get() {
            table.share_fairly(fair);
        }
        lock(&self.tables).push(table);
    }

    /// Forgets those of a server that is not served any more, and ends their sessions.
    pub fn remove(&self, table: &Arc<Table>) {
        lock(&self.tables).retain(|known| !Arc::ptr_eq(known, table));
        table.users().iter().for_each(|user| user.remove());
    }

    /// Has the users of all servers that are added from now on share fairly. What is returned has to be run.
    pub fn share_fairly(&self) -> Arc<Fair> {
        Arc::clone(self.fair.get_or_init(Arc::default))
    }

    /// Counts flows without a user too, from now on: those of `ssr local`, for an operator to see.
    pub fn count_everybody(&self) {
        let _ = self.everybody.set(Arc::new(User::nameless()));
    }

    /// The user that flows without one are counted for, if they are.
    #[must_use]
    pub fn everybody(&self) -> Option<&Arc<User>> {
        self.everybody.get()
    }

    /// Those of each server.
    #[must_use]
    pub fn tables(&self) -> Vec<Arc<Table>> {
        lock(&self.tables).clone()
    }

    /// The server of a user; `None`: it is that of no server here.
    #[must_use]
    pub fn server_of(&self, user: &Arc<User>) -> Option<Arc<str>> {
        let is_it = |table: &&Arc<Table>| {
            let found = match user.name() {
                Some(name) => table.find(name).map(|member| Arc::clone(&member.user)),
                None => table.nameless(),
            };
            found.is_some_and(|found| Arc::ptr_eq(&found, user))
        };
        let tables = self.tables();
        tables
            .iter()
            .find(is_it)
            .map(|table| Arc::clone(&table.server))
    }

    /// The user of this name on a server of this name; without a name, the only one of a server with one key.
    #[must_use]
    pub fn find(&self, server: &str, name: Option<&str>) -> Option<Arc<User>> {
        let tables = self.tables();
        let mut those = tables.iter().filter(|table| &*table.server == server);
        those.find_map(|table| match name {
            Some(name) => table.find(name).map(|member| Arc::clone(&member.user)),
            None => table.nameless(),
        })
    }

    /// Sets who keeps them beyond this process. The first one stays.
    pub fn set_keeper(&self, keeper: Keeper) {
        let _first = self.keeper.set(keeper);
    }

    /// Ready when every change up to now is kept beyond this process, if changes are kept. To be called after a change, before
    /// whoever made it is told that it is done.
    ///
    /// # Errors
    /// See [`NotKept`].
    pub async fn keep(&self) -> Result<(), NotKept> {
        match self.keeper.get() {
            Some(keeper) => keeper.keep().await,
            None => Ok(()),
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<User>> {
        let tables = self.tables();
        tables.iter().flat_map(|table| table.users()).collect()
    }

    /// Reviews all of them: see [`User::review`].
    pub fn review(&self, now: u64) {
        self.all().iter().for_each(|user| user.review(now));
    }

    /// Sessions that run now, `most` at most, and how many there are.
    #[must_use]
    pub fn sessions(&self, most: usize) -> (Vec<LiveSession>, usize) {
        let (mut list, mut count) = (Vec::new(), 0);
        for table in self.tables() {
            for user in table.users() {
                let first = list.len();
                count += user.describe_sessions(&mut list, most);
                for session in list.iter_mut().skip(first) {
                    session.user = user.name().map(Into::into);
                    session.server = Arc::clone(&table.server);
                }
            }
        }
        if let Some(everybody) = self.everybody() {
            count += everybody.describe_sessions(&mut list, most);
        }
        (list, count)
    }

    /// Ends the session with this id; `false`: there is none.
    pub fn close(&self, id: u64) -> bool {
        let mut users = self.all().into_iter().chain(self.everybody.get().cloned());
        users.any(|user| user.close(id))
    }
}
