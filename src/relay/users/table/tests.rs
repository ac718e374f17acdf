#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::relay::users::{Protocol, Session, Users};

const METHOD: Method = Method::Blake3Aes128Gcm;
const SERVER: u8 = 1;

fn key(seed: u8) -> Key {
    Key::from_slice(&[seed; 16]).unwrap()
}

fn stated(name: &str, seed: u8) -> NewUser {
    NewUser {
        name: name.to_owned(),
        password: key(seed).to_base64(),
        limits: Limits::default(),
        next_hop: None,
    }
}

fn limited(name: &str, seed: u8, limits: Limits) -> NewUser {
    NewUser {
        limits,
        ..stated(name, seed)
    }
}

fn table(users: Vec<NewUser>) -> Table {
    Table::new("here", METHOD, key(SERVER), users).unwrap()
}

fn one_key() -> Table {
    table(Vec::new())
}

fn two() -> Table {
    table(vec![stated("ann", 2), stated("bob", 3)])
}

fn names(table: &Table) -> Vec<String> {
    let users = table.list();
    users.iter().map(|user| user.stated.name.clone()).collect()
}

/// A session of a user that does nothing, from this host.
async fn idle(user: &Arc<User>, host: u8) -> Refusal {
    let peer = SocketAddr::from(([10, 0, 0, host], 1000));
    match Session::begin(user, peer, "target:1".into(), Protocol::Tcp) {
        Err(refusal) => refusal,
        Ok(session) => session.hold(pending::<()>()).await.unwrap_err(),
    }
}

async fn soon<T>(task: tokio::task::JoinHandle<T>) -> T {
    let second = Duration::from_secs(1);
    timeout(second, task).await.unwrap().unwrap()
}

async fn run(user: &Arc<User>, host: u8) -> tokio::task::JoinHandle<Refusal> {
    let user = Arc::clone(user);
    let before = sessions_of(&user);
    let task = tokio::spawn({
        let user = Arc::clone(&user);
        async move { idle(&user, host).await }
    });
    while sessions_of(&user) == before {
        tokio::task::yield_now().await;
    }
    task
}

fn sessions_of(user: &User) -> usize {
    user.describe_sessions(&mut Vec::new(), 0)
}

#[tokio::test]
async fn users_come_change_and_go_and_their_sessions_end() {
    let table = two();
    let cat = table.add(stated("cat", 4)).unwrap();
    let bob = table.find("bob").unwrap();
    assert_eq!(names(&table), ["ann", "bob", "cat"]);
    let (of_cat, of_bob) = (run(&cat, 1).await, run(&bob.user, 1).await);
    table.remove("cat").unwrap();
    assert_eq!(soon(of_cat).await, Refusal::Removed);
    assert_eq!(idle(&cat, 1).await, Refusal::Removed);
    cat.review(0);
    assert_eq!(cat.refusal(), Some(Refusal::Removed));
    assert_eq!(names(&table), ["ann", "bob"]);
    let password = Some(key(5).to_base64());
    let before = bob.user.usage();
    let change = Change {
        password,
        ..Change::default()
    };
    table.change("bob", change).unwrap();
    assert_eq!(soon(of_bob).await, Refusal::Password);
    let after = table.find("bob").unwrap();
    assert!(Arc::ptr_eq(&after.user, &bob.user) && before.failures == 0);
    let again = run(&bob.user, 1).await;
    assert!(!again.is_finished());
    again.abort();
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let table = two();
    let refused = |new| table.add(new).unwrap_err();
    assert_eq!(refused(stated("ann", 9)), TableError::NameTaken);
    assert_eq!(refused(stated("eve", 2)), TableError::PasswordTaken);
    assert_eq!(refused(stated("eve", SERVER)), TableError::PasswordTaken);
    assert_eq!(refused(stated("", 9)), TableError::Name);
    assert_eq!(refused(stated("a\nb", 9)), TableError::Name);
    let long = "x".repeat(MAX_USER_NAME + 1);
    assert_eq!(refused(stated(&long, 9)), TableError::Name);
    let short = NewUser {
        password: "AAAA".to_owned().into(),
        ..stated("eve", 9)
    };
    assert!(matches!(refused(short), TableError::Password(_)));
    assert_eq!(table.remove("eve").unwrap_err(), TableError::Unknown);
    let change = Change {
        password: Some(key(3).to_base64()),
        ..Change::default()
    };
    let taken = table.change("ann", change);
    assert_eq!(taken.unwrap_err(), TableError::PasswordTaken);
    assert_eq!(names(&table), ["ann", "bob"]);
}

#[test]
fn number_of_users_is_bounded() {
    let password = |number: usize| {
        let mut bytes = [7; 16];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        Key::from_slice(&bytes).unwrap().to_base64()
    };
    let user = |number: usize| NewUser {
        password: password(number),
        ..stated(&format!("user {number}"), 2)
    };
    let table = table((0..MAX_USERS - 1).map(user).collect());
    table.add(user(MAX_USERS)).unwrap();
    let refused = table.add(user(MAX_USERS + 1));
    assert_eq!(refused.unwrap_err(), TableError::TooMany);
    assert_eq!(table.list().len(), MAX_USERS);
}

#[test]
fn removing_the_last_user_does_not_let_in_whoever_has_the_key_of_the_server() {
    let table = table(vec![stated("ann", 2)]);
    table.remove("ann").unwrap();
    assert!(table.load().accounts.has_users() && table.users().is_empty());
    // The same config again does not bring her back.
    let again = table.reload(vec![stated("ann", 2)]).unwrap();
    assert_eq!((again, table.list().len()), (Reloaded::default(), 0));
    // One that states no users does mean one key.
    table.reload(Vec::new()).unwrap();
    assert!(!table.load().accounts.has_users() && table.nameless().is_some());
}

#[tokio::test]
async fn server_with_one_key_has_a_user_without_a_name() {
    let table = table(Vec::new());
    let nameless = table.nameless().unwrap();
    assert_eq!((nameless.name(), table.users().len()), (None, 1));
    assert!(!table.load().accounts.has_users());
    let refused = table.add(stated("ann", 2)).unwrap_err();
    assert_eq!(refused, TableError::OneKey);
    let session = run(&nameless, 1).await;
    table.reload(vec![stated("ann", 2)]).unwrap();
    assert_eq!(soon(session).await, Refusal::Removed);
    assert!(table.load().accounts.has_users() && table.nameless().is_none());
}

#[tokio::test]
async fn changed_config_changes_only_what_it_states_otherwise() {
    let table = two();
    let (ann, bob) = (table.find("ann").unwrap(), table.find("bob").unwrap());
    table.add(stated("cat", 4)).unwrap();
    let paced = Limits {
        rate: Some(1000),
        ..Limits::default()
    };
    let change = Change {
        limits: Some(paced),
        ..Change::default()
    };
    table.change("ann", change).unwrap();
    let (of_ann, of_bob) = (run(&ann.user, 1).await, run(&bob.user, 1).await);
    let done = table.reload(vec![stated("ann", 2), stated("dan", 6)]);
    let done = done.unwrap();
    assert_eq!(
        (done.added, done.removed),
        (vec!["dan".into()], vec!["bob".into()])
    );
    assert!(done.changed.is_empty());
    assert_eq!(soon(of_bob).await, Refusal::Removed);
    assert_eq!(names(&table), ["ann", "cat", "dan"]);
    assert_eq!(ann.user.limits(), paced, "the config says what it said");
    let done = table.reload(vec![limited("ann", 2, Limits::default()), stated("dan", 2)]);
    assert_eq!(done.unwrap_err(), TableError::PasswordTaken);
    let strict = Limits {
        max_ips: Some(3),
        ..Limits::default()
    };
    // Two users exchange their passwords.
    let users = vec![limited("ann", 6, strict), stated("dan", 2)];
    let done = table.reload(users).unwrap();
    assert_eq!(done.changed.len(), 2);
    assert_eq!(soon(of_ann).await, Refusal::Password);
    assert_eq!(ann.user.limits(), strict);
}

#[tokio::test]
async fn lowered_limits_end_the_sessions_that_began_last() {
    let table = two();
    let ann = table.find("ann").unwrap().user.clone();
    let mut first = Vec::new();
    for host in [1, 2, 2, 3] {
        first.push(run(&ann, host).await);
    }
    let lower = |limits| {
        let change = Change {
            limits: Some(limits),
            ..Change::default()
        };
        table.change("ann", change).unwrap();
    };
    lower(Limits {
        max_ips: Some(2),
        ..Limits::default()
    });
    assert_eq!(soon(first.pop().unwrap()).await, Refusal::Addresses);
    lower(Limits {
        max_connections: Some(1),
        ..Limits::default()
    });
    assert_eq!(soon(first.pop().unwrap()).await, Refusal::Connections);
    assert_eq!(soon(first.pop().unwrap()).await, Refusal::Connections);
    assert_eq!(sessions_of(&ann), 1);
    assert!(!first.pop().unwrap().is_finished());
}

#[tokio::test]
async fn sessions_are_listed_up_to_a_bound_and_closed_one_by_one() {
    let users = Users::default();
    let (table, other) = (Arc::new(two()), Arc::new(one_key()));
    users.add(Arc::clone(&table));
    users.add(Arc::clone(&other));
    let ann = table.find("ann").unwrap().user.clone();
    let nameless = other.nameless().unwrap();
    let mut running = vec![run(&ann, 1).await, run(&ann, 2).await];
    running.push(run(&nameless, 3).await);
    assert_eq!(users.sessions(2).0.len(), 2);
    let (all, count) = users.sessions(10);
    assert_eq!((all.len(), count), (3, 3));
    let last = all.iter().find(|session| session.user.is_none()).unwrap();
    assert_eq!(
        (last.peer.port(), &*last.target, &*last.server),
        (1000, "target:1", "here")
    );
    assert!(users.close(last.id));
    assert_eq!(soon(running.pop().unwrap()).await, Refusal::Closed);
    assert!(!users.close(last.id));
    assert!(running.iter().all(|session| !session.is_finished()));
    assert_eq!(users.sessions(10).1, 2);
    users.remove(&table);
    for session in running {
        assert_eq!(soon(session).await, Refusal::Removed);
    }
}

#[test]
fn thousand_users_come_and_go() {
    let table = two();
    let user = |number: u16| {
        let mut bytes = [7; 16];
        bytes[..2].copy_from_slice(&number.to_le_bytes());
        NewUser {
            password: Key::from_slice(&bytes).unwrap().to_base64(),
            ..stated(&format!("user {number}"), 2)
        }
    };
    for number in 0..1000 {
        table.add(user(number)).unwrap();
    }
    assert_eq!(names(&table).len(), 1002);
    for number in 0..1000 {
        table.remove(&format!("user {number}")).unwrap();
    }
    assert_eq!(names(&table), ["ann", "bob"]);
}

/// Users of a method whose requests do not say whose they are.
fn tried(names: &[&str]) -> Vec<NewUser> {
    let user = |name: &&str| NewUser {
        password: format!("{name}'s password").into(),
        ..stated(name, 0)
    };
    names.iter().map(user).collect()
}

#[test]
fn users_of_older_methods_have_any_passwords_but_none_twice() {
    let method = Method::Aes256Gcm;
    let own = Key::from_password(method, b"");
    let table = Table::new("here", method, own.clone(), tried(&["ann", "bob"])).unwrap();
    assert!(table.load().accounts.tries_users());
    table.add(tried(&["carl"]).remove(0)).unwrap();
    let mut new = tried(&["dora"]).remove(0);
    new.password = "ann's password".to_owned().into();
    assert_eq!(
        table.add(new.clone()).unwrap_err(),
        TableError::PasswordTaken
    );
    new.password = String::new().into();
    let refused = table.add(new).unwrap_err();
    assert_eq!(refused, TableError::Password(KeyError::Empty));
    let done = table.reload(tried(&["bob", "emil"])).unwrap();
    assert_eq!(
        (done.added, done.removed),
        (vec!["emil".to_owned()], vec!["ann".to_owned()])
    );
    assert_eq!(names(&table), ["bob", "carl", "emil"]);
    // Without any, nobody is let in, not even with the key of the server.
    for name in ["bob", "carl", "emil"] {
        table.remove(name).unwrap();
    }
    assert!(table.load().accounts.tries_users());
}

#[test]
fn user_of_an_address_is_likely_until_another_comes_from_there() {
    let method = Method::Aes256Gcm;
    let own = Key::from_password(method, b"");
    let table = Table::new("here", method, own, tried(&["ann", "bob"])).unwrap();
    let id = |name: &str| table.load().members.by_name.get(name).copied();
    let (one, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    assert_eq!(table.likely(one), None);
    table.note_sender(one, id("ann"));
    table.note_sender(other, id("bob"));
    assert_eq!(
        (table.likely(one), table.likely(other)),
        (id("ann"), id("bob"))
    );
    table.note_sender(one, id("bob"));
    assert_eq!(table.likely(one), id("bob"));
    // Requests of other methods say it themselves.
    let table = two();
    let ann = table.load().members.by_name.get("ann").copied();
    table.note_sender(one, ann);
    assert_eq!(table.likely(one), None);
}

#[test]
fn trials_for_datagrams_have_a_rate() {
    let table = two();
    let most = usize::try_from(MAX_TRIED_BYTES).unwrap();
    let mut tried = 0;
    while tried < most && table.may_try(1 << 20) {
        tried += 1 << 20;
    }
    // A burst of a quarter of a second, and what is paid meanwhile.
    assert!((most / 5..most).contains(&tried), "{tried}");
}
