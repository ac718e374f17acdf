//! What the users of a table are otherwise than the config states them: it can be kept, and taken over by a later process.

use std::sync::Arc;

use super::super::stated::{NewUser, Own, OwnUser};
use super::super::user::User;
use super::{Member, Table, TableError, id};
use crate::net::sync::lock;

impl Table {
    /// The [`NewUser::digest`] of what the config states of a user; `None`: nothing.
    #[must_use]
    pub fn configured(&self, name: &str) -> Option<[u8; 32]> {
        lock(&self.configured).get(name).map(NewUser::digest)
    }

    /// What the users are otherwise than the config states them.
    #[must_use]
    pub fn own(&self) -> Own {
        let configured = lock(&self.configured);
        let members = &self.load().members;
        let base = |name: &str| configured.get(name).map(NewUser::digest);
        let own = members.by_id.values().filter(|member| member.is_own);
        let changed = own.map(|member| OwnUser {
            base: base(&member.stated.name),
            stated: NewUser {
                limits: member.user.limits(),
                ..member.stated.clone()
            },
        });
        let is_gone = |name: &&String| members.find(name).is_none();
        let removed = configured.keys().filter(is_gone);
        Own {
            changed: changed.collect(),
            removed: removed
                .filter_map(|name| Some((name.clone(), base(name)?)))
                .collect(),
        }
    }

    /// Takes over what [`Table::own`] has said in an earlier process, except where the config states something else than then.
    /// To be called before the server is served. Returns those that were not taken over, with the error if there was one.
    pub fn restore(&self, own: Own) -> Vec<(String, Option<TableError>)> {
        let configured = lock(&self.configured);
        let base = |name: &str| configured.get(name).map(NewUser::digest);
        let now = self.load();
        if now.nameless.is_some() {
            let names = own.changed.into_iter().map(|user| user.stated.name);
            return names.map(|name| (name, Some(TableError::OneKey))).collect();
        }
        let mut left = Vec::new();
        let mut members = now.members.clone();
        for (name, stated) in own.removed {
            if base(&name) == Some(stated) {
                members.remove(&name);
            }
        }
        let mut taken = Vec::new();
        for OwnUser { base: then, stated } in own.changed {
            match base(&stated.name) == then {
                // First of all, so that users may have exchanged their passwords.
                true => taken.push((members.remove(&stated.name), stated)),
                false => left.push((stated.name, None)),
            }
        }
        for (known, stated) in taken {
            let (name, limits) = (stated.name.clone(), stated.limits);
            let new = || Arc::new(User::with(&name, limits));
            let user = known
                .as_ref()
                .map_or_else(new, |known| Arc::clone(&known.user));
            let hop = configured.get(&name).and_then(|user| user.next_hop.clone());
            let stated = NewUser {
                next_hop: hop,
                ..stated
            };
            match self.put(&mut members, stated, Arc::clone(&user), true) {
                Ok(()) => user.limit(limits),
                Err(error) => {
                    left.push((name, Some(error)));
                    put_back(&mut members, known);
                }
            }
        }
        self.store(members, None);
        left
    }
}

/// The user stays as the config states it.
fn put_back(members: &mut super::Members, known: Option<Arc<Member>>) {
    let Some(known) = known else { return };
    let id = id(&known.account.key);
    if !members.by_id.contains_key(&id) {
        let name = known.stated.name.as_str().into();
        members.by_name.insert(name, id);
        members.by_id.insert(id, known);
    }
}
