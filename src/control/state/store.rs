//! The file in which totals are kept: SQLite with a write-ahead log.

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};
use zeroize::Zeroizing;

use super::error::StateError;
use super::rows::{read_own, read_totals, signed, write_own};
use crate::relay::users::{Own, Totals};

/// The file in the directory.
const FILE: &str = "users.db";
/// What is in it; another number is another program's, or a later one's.
const VERSION: i64 = 1;
/// How long it waits for another process.
const PATIENCE: Duration = Duration::from_secs(5);
/// Rows of users of servers that are not served any more are forgotten after this time, in seconds.
const FORGET: u64 = 400 * 86_400;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS usage (
        server TEXT NOT NULL, name TEXT NOT NULL,
        up INTEGER NOT NULL, down INTEGER NOT NULL, failures INTEGER NOT NULL, seen INTEGER NOT NULL,
        period INTEGER NOT NULL, period_start INTEGER NOT NULL, period_kind INTEGER NOT NULL,
        saved INTEGER NOT NULL,
        PRIMARY KEY (server, name)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS own (
        server TEXT NOT NULL, name TEXT NOT NULL, base BLOB, password TEXT,
        rate INTEGER, quota INTEGER, period TEXT, day INTEGER, connections INTEGER, ips INTEGER, expires INTEGER,
        PRIMARY KEY (server, name)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS shared (
        servers TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,
        PRIMARY KEY (servers, name)) WITHOUT ROWID;
";

/// Saves a row. Each argument says how the number that is there and the new one become one.
macro_rules! save {
    ($up:literal, $down:literal, $failures:literal, $period:literal) => {
        concat!(
            "
    INSERT INTO usage (server, name, up, down, failures, seen, period, period_start, period_kind, saved)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, unixepoch())
    ON CONFLICT DO UPDATE SET
        up = ",
            $up,
            ", down = ",
            $down,
            ", failures = ",
            $failures,
            ",
        seen = max(seen, excluded.seen),
        period = CASE
            WHEN period_kind <> excluded.period_kind OR period_start < excluded.period_start THEN excluded.period
            WHEN period_start = excluded.period_start THEN ",
            $period,
            "
            ELSE period END,
        period_start = CASE
            WHEN period_kind <> excluded.period_kind THEN excluded.period_start
            ELSE max(period_start, excluded.period_start) END,
        period_kind = excluded.period_kind,
        saved = excluded.saved
    RETURNING up, down, failures, seen, period, period_start, period_kind"
        )
    };
}

/// Where several servers share what users have used, each knows the whole.
const RAISE: &str = save!(
    "max(up, excluded.up)",
    "max(down, excluded.down)",
    "max(failures, excluded.failures)",
    "max(period, excluded.period)"
);

/// Where one server counts alone, each process adds its part.
const ADD: &str = save!(
    "up + excluded.up",
    "down + excluded.down",
    "failures + excluded.failures",
    "period + excluded.period"
);

/// The file.
pub(super) struct Store(Connection);

/// Which row is meant.
pub(super) struct Row<'a> {
    pub(super) server: &'a str,
    /// Empty for the user without a name.
    pub(super) name: &'a str,
}

impl Store {
    /// Opens the file, and makes it and the directory if there are none. Only the user of this process may read them.
    pub(super) fn open(directory: &Path) -> Result<Self, StateError> {
        let unusable = |source| StateError::Directory {
            path: directory.to_owned(),
            source,
        };
        if !directory.is_dir() {
            let mut builder = DirBuilder::new();
            builder.mode(0o700).create(directory).map_err(unusable)?;
        }
        let path = directory.join(FILE);
        let mut options = OpenOptions::new();
        // SQLite gives its other files the mode of this one.
        let made = options.create(true).append(true).mode(0o600).open(&path);
        made.map_err(unusable)?;
        let opened = Self::connect(&path);
        opened.map_err(|error| StateError::File {
            path: path.clone(),
            reason: error.to_string(),
        })?
        .ok_or_else(|| StateError::File {
            path,
            reason: "it is of another version of ssr: move it away, or give `state` another directory".to_owned(),
        })
    }

    fn connect(path: &Path) -> Result<Option<Self>, rusqlite::Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags)?;
        db.busy_timeout(PATIENCE)?;
        let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version != 0 && version != VERSION {
            return Ok(None);
        }
        db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        db.execute_batch("PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 1048576;")?;
        let old = signed(crate::net::unix_now().saturating_sub(FORGET));
        db.execute_batch(&format!(
            "BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"
        ))?;
        db.execute("DELETE FROM usage WHERE saved < ?1", params![old])?;
        Ok(Some(Self(db)))
    }

    /// What was changed of the users of a server.
    pub(super) fn own(&self, server: &str) -> Result<Own, rusqlite::Error> {
        read_own(&self.0, server)
    }

    /// What was known of the store that servers share.
    pub(super) fn shared(
        &self,
        mut take: impl FnMut(&str, &str, &str),
    ) -> Result<(), rusqlite::Error> {
        let mut all = self.0.prepare("SELECT servers, name, value FROM shared")?;
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            let text = |index: usize| row.get::<_, String>(index);
            take(&text(0)?, &text(1)?, &Zeroizing::new(text(2)?));
        }
        Ok(())
    }

    /// Begins to write.
    pub(super) fn begin(&mut self) -> Result<Batch<'_>, rusqlite::Error> {
        let behavior = TransactionBehavior::Immediate;
        Ok(Batch(self.0.transaction_with_behavior(behavior)?))
    }
}

/// What is written at once. Without [`Batch::commit`], nothing is.
pub(super) struct Batch<'a>(Transaction<'a>);

impl Batch<'_> {
    /// Adds to the totals of a user. Returns all that is known of it.
    pub(super) fn add(&self, row: Row<'_>, new: &Totals) -> Result<Totals, rusqlite::Error> {
        self.put(ADD, row, new)
    }

    /// Writes all that is known of a user, if it is more than before. Returns what is more.
    pub(super) fn raise(&self, row: Row<'_>, all: &Totals) -> Result<Totals, rusqlite::Error> {
        self.put(RAISE, row, all)
    }

    /// Writes an entry of the store that servers share.
    pub(super) fn share(
        &self,
        servers: &str,
        name: &str,
        value: &str,
    ) -> Result<(), rusqlite::Error> {
        let mut put = self
            .0
            .prepare("INSERT OR REPLACE INTO shared (servers, name, value) VALUES (?1, ?2, ?3)")?;
        put.execute(params![servers, name, value])?;
        // The entries of a process that is in the sum.
        if let Some(node) = name.strip_prefix('r') {
            let gone = "DELETE FROM shared WHERE servers = ?1 AND substr(name, 1, 17) = ?2";
            self.0.execute(gone, params![servers, format!("c{node}")])?;
        }
        Ok(())
    }

    fn put(&self, how: &str, row: Row<'_>, new: &Totals) -> Result<Totals, rusqlite::Error> {
        let mut put = self.0.prepare(how)?;
        put.query_row(
            params![
                row.server,
                row.name,
                signed(new.up),
                signed(new.down),
                signed(new.failures),
                signed(new.last_seen),
                signed(new.period),
                signed(new.period_start),
                new.period_kind,
            ],
            read_totals,
        )
    }

    /// Replaces what was changed of the users of a server.
    pub(super) fn set_own(&self, server: &str, own: &Own) -> Result<(), rusqlite::Error> {
        write_own(&self.0, server, own)
    }

    /// Forgets the users of a server that it does not have any more.
    pub(super) fn retain(&self, server: &str, names: &[&str]) -> Result<(), rusqlite::Error> {
        let names: std::collections::HashSet<_> = names.iter().copied().collect();
        let mut all = self.0.prepare("SELECT name FROM usage WHERE server = ?1")?;
        let kept = all.query_map(params![server], |row| row.get::<_, String>(0))?;
        for name in kept {
            let name = name?;
            if !names.contains(&*name) {
                let gone = "DELETE FROM usage WHERE server = ?1 AND name = ?2";
                self.0.execute(gone, params![server, name])?;
            }
        }
        Ok(())
    }

    pub(super) fn commit(self) -> Result<(), rusqlite::Error> {
        self.0.commit()
    }
}
