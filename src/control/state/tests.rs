#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::crypto::{Key as Secret, Method};
use crate::relay::users::{Change, Limits, NewUser, Period};

const METHOD: Method = Method::Blake3Aes128Gcm;

fn stated(name: &str, seed: u8) -> NewUser {
    NewUser {
        name: name.to_owned(),
        password: Secret::from_slice(&[seed; 16]).unwrap().to_base64(),
        limits: Limits::default(),
        next_hop: None,
    }
}

fn limited(name: &str, seed: u8, quota: u64, period: Period) -> NewUser {
    NewUser {
        limits: Limits {
            quota: Some((quota, period)),
            ..Limits::default()
        },
        ..stated(name, seed)
    }
}

/// A process with a server of these users.
struct Process {
    table: Arc<Table>,
    counters: Arc<Counters>,
    state: State,
}

impl Process {
    fn start(directory: &Path, users: Vec<NewUser>) -> Self {
        let key = Secret::from_slice(&[1; 16]).unwrap();
        let table = Arc::new(Table::new("here", METHOD, key, users).unwrap());
        let counters = Arc::new(Counters::default());
        counters.users.add(Arc::clone(&table));
        let state = State::open(directory, Arc::clone(&counters), None).unwrap();
        Self {
            table,
            counters,
            state,
        }
    }

    fn user(&self, name: &str) -> Arc<User> {
        let users = self.table.users();
        let mut found = users
            .iter()
            .filter(|user| user.name().unwrap_or_default() == name);
        Arc::clone(found.next().unwrap())
    }

    /// Lets a user use so much, half of it up.
    fn uses(&self, name: &str, bytes: u64) {
        let user = self.user(name);
        let now = user.totals();
        user.absorb(&Totals {
            up: bytes / 2,
            down: bytes - bytes / 2,
            period: bytes,
            failures: 1,
            last_seen: 1000,
            ..now
        });
    }

    fn used(&self, name: &str) -> (u64, u64) {
        let totals = self.user(name).totals();
        (totals.up + totals.down, totals.period)
    }

    async fn keep(&self) {
        self.counters.users.keep().await.unwrap();
    }

    /// Ends without a last word, as far as the state knows.
    fn crash(self) {
        std::mem::forget(self.state);
    }
}

#[tokio::test]
async fn totals_are_there_again_after_the_end_and_after_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let users = || vec![limited("ann", 2, 1000, Period::Once), stated("bob", 3)];
    let first = Process::start(directory.path(), users());
    first.uses("ann", 100);
    first.uses("bob", 10);
    first.keep().await;
    first.uses("ann", 100);
    first.state.finish();
    let second = Process::start(directory.path(), users());
    assert_eq!(
        (second.used("ann"), second.used("bob")),
        ((200, 200), (10, 0))
    );
    let seen = second.user("ann").usage();
    assert_eq!((seen.failures, seen.last_seen), (2, 1000));
    second.uses("ann", 50);
    second.keep().await;
    second.crash();
    let third = Process::start(directory.path(), users());
    assert_eq!(third.used("ann"), (250, 250));
    third.uses("ann", 750);
    third.state.finish();
    let fourth = Process::start(directory.path(), users());
    fourth.user("ann").review(crate::net::unix_now());
    assert!(fourth.user("ann").refusal().is_some());
    fourth.state.finish();
}

#[tokio::test]
async fn server_with_one_key_keeps_its_only_user() {
    let directory = tempfile::tempdir().unwrap();
    let first = Process::start(directory.path(), Vec::new());
    first.uses("", 100);
    first.state.finish();
    let second = Process::start(directory.path(), Vec::new());
    assert_eq!(second.used("").0, 100);
    second.state.finish();
}

#[tokio::test]
async fn processes_that_take_turns_count_nothing_twice_and_learn_from_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let users = || vec![limited("ann", 2, 1_000_000, Period::Monthly(1))];
    let old = Process::start(directory.path(), users());
    old.uses("ann", 100);
    old.keep().await;
    let new = Process::start(directory.path(), users());
    assert_eq!(new.used("ann"), (100, 100));
    old.uses("ann", 10);
    new.uses("ann", 1000);
    old.keep().await;
    new.keep().await;
    assert_eq!(new.used("ann"), (1110, 1110));
    old.uses("ann", 1);
    old.keep().await;
    assert_eq!(old.used("ann"), (1111, 1111));
    old.state.finish();
    new.state.finish();
    let last = Process::start(directory.path(), users());
    assert_eq!(last.used("ann"), (1111, 1111));
    last.state.finish();
}

#[tokio::test]
async fn bytes_of_another_period_do_not_count_for_this_one() {
    let directory = tempfile::tempdir().unwrap();
    let first = Process::start(
        directory.path(),
        vec![limited("ann", 2, 1000, Period::Once)],
    );
    first.uses("ann", 500);
    first.state.finish();
    let monthly = || vec![limited("ann", 2, 1000, Period::Monthly(1))];
    let second = Process::start(directory.path(), monthly());
    assert_eq!(second.used("ann"), (500, 0));
    second.uses("ann", 30);
    second.state.finish();
    let third = Process::start(directory.path(), monthly());
    assert_eq!(third.used("ann"), (530, 30));
    // The month before is over.
    let db = rusqlite::Connection::open(directory.path().join("users.db")).unwrap();
    third.state.finish();
    db.execute("UPDATE usage SET period_start = period_start - 3000000", [])
        .unwrap();
    let fourth = Process::start(directory.path(), monthly());
    assert_eq!(fourth.used("ann"), (530, 0));
    fourth.state.finish();
}

#[tokio::test]
async fn changes_of_users_are_there_again_unless_the_config_says_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    let config = || vec![stated("ann", 2), stated("bob", 3), stated("cat", 4)];
    let first = Process::start(directory.path(), config());
    let limits = Limits {
        rate: Some(1000),
        quota: Some((5000, Period::Monthly(15))),
        max_connections: Some(7),
        max_ips: Some(3),
        expires: Some(4_000_000_000),
    };
    let dan = NewUser {
        limits,
        ..stated("dan", 5)
    };
    first.table.add(dan).unwrap();
    let change = Change {
        password: Some(stated("ann", 9).password),
        limits: Some(limits),
    };
    first.table.change("ann", change).unwrap();
    first.table.change("cat", Change::default()).unwrap();
    first.table.remove("bob").unwrap();
    first.uses("dan", 10);
    first.keep().await;
    first.crash();
    let second = Process::start(directory.path(), config());
    let names = |process: &Process| {
        let users = process.table.list();
        users
            .iter()
            .map(|user| user.stated.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&second), ["ann", "cat", "dan"]);
    let ann = second.table.find("ann").unwrap();
    assert_eq!(
        (ann.user.limits(), &*ann.stated.password),
        (limits, &*stated("ann", 9).password)
    );
    assert_eq!(
        (second.user("dan").limits(), second.used("dan").0),
        (limits, 10)
    );
    second.state.finish();
    // The operator changes the file: what it states anew holds.
    let edited = vec![
        limited("ann", 2, 7, Period::Daily),
        limited("bob", 3, 8, Period::Daily),
        stated("cat", 4),
    ];
    let third = Process::start(directory.path(), edited);
    assert_eq!(names(&third), ["ann", "bob", "cat", "dan"]);
    let quota = |name| third.user(name).limits().quota.map(|(bytes, _)| bytes);
    assert_eq!(
        [quota("ann"), quota("bob"), quota("dan")],
        [Some(7), Some(8), Some(5000)]
    );
    third.table.remove("dan").unwrap();
    third.state.finish();
    let fourth = Process::start(directory.path(), config());
    assert_eq!(names(&fourth), ["ann", "bob", "cat"]);
    let db = rusqlite::Connection::open(directory.path().join("users.db")).unwrap();
    let rows: i64 = db
        .query_row("SELECT count(*) FROM usage", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 3, "who is removed is forgotten");
    fourth.state.finish();
}

#[test]
fn file_of_a_later_version_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    Process::start(directory.path(), Vec::new()).state.finish();
    let db = rusqlite::Connection::open(directory.path().join("users.db")).unwrap();
    db.execute_batch("PRAGMA user_version = 2").unwrap();
    let refused = State::open(directory.path(), Arc::default(), None);
    let error = refused.err().unwrap().to_string();
    assert!(error.contains("another version of ssr"), "{error}");
}

#[tokio::test]
async fn five_hundred_users_are_saved_and_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let users = || {
        let users = (0..500_u16).map(|number| {
            let mut key = [9; 16];
            key[..2].copy_from_slice(&number.to_le_bytes());
            NewUser {
                password: Secret::from_slice(&key).unwrap().to_base64(),
                ..stated(&format!("user {number}"), 2)
            }
        });
        users.collect()
    };
    let first = Process::start(directory.path(), users());
    for number in 0..500 {
        first.uses(&format!("user {number}"), 10 + number);
    }
    first.keep().await;
    first.crash();
    let second = Process::start(directory.path(), users());
    for number in 0..500 {
        let used = second.used(&format!("user {number}"));
        assert_eq!(used.0, 10 + number, "user {number}");
    }
    second.state.finish();
}
