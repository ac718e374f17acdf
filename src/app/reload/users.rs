//! Users of servers that go on.

use crate::app::services::Kept;
use crate::config::{Config, Server, User};

/// Whether every server has the users that it had.
pub(super) fn are_same(old: &Config, new: &Config) -> bool {
    let mut pairs = old.servers.iter().zip(&new.servers);
    pairs.all(|(old, new)| old.users == new.users)
}

/// Has the servers of `new` serve its users. Returns what has changed, in words.
///
/// # Errors
/// When users cannot be together. Then nothing has changed.
pub(super) fn reload(kept: &Kept, old: &Config, new: &Config) -> Result<Vec<String>, String> {
    let mut changed = Vec::new();
    let mut done: Vec<&Server> = Vec::new();
    for server in &new.servers {
        let Some(table) = kept.table(server) else {
            continue;
        };
        match table.reload(stated(server)) {
            Ok(users) => {
                let counts = [&users.added, &users.changed, &users.removed].map(Vec::len);
                if counts != [0; 3] {
                    let [added, other, removed] = counts;
                    let server = &server.address;
                    changed.push(format!(
                        "users of server {server} ({added} added, {other} changed, {removed} removed)"
                    ));
                }
                done.push(server);
            }
            Err(error) => {
                take_back(kept, old, &done);
                return Err(format!("users of server {}: {error}", server.address));
            }
        }
    }
    Ok(changed)
}

/// Has servers serve the users again that they had.
fn take_back(kept: &Kept, old: &Config, done: &[&Server]) {
    for server in done {
        let before = old.servers.iter().find(|one| {
            let tables = (kept.table(one), kept.table(server));
            matches!(tables, (Some(one), Some(other)) if std::sync::Arc::ptr_eq(&one, &other))
        });
        if let (Some(table), Some(before)) = (kept.table(server), before) {
            // They were together before.
            let _ = table.reload(stated(before));
        }
    }
}

fn stated(server: &Server) -> Vec<crate::relay::users::NewUser> {
    server.users.iter().map(User::stated).collect()
}
