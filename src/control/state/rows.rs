//! Rows of the file.

use rusqlite::{Connection, Row, params};

use crate::relay::users::{Limits, NewUser, Own, OwnUser, Period, Totals};

/// A number as SQLite has it.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn read_totals(row: &Row<'_>) -> Result<Totals, rusqlite::Error> {
    let number = |index: usize| row.get(index).map(unsigned);
    Ok(Totals {
        up: number(0)?,
        down: number(1)?,
        failures: number(2)?,
        last_seen: number(3)?,
        period: number(4)?,
        period_start: number(5)?,
        period_kind: row.get(6)?,
    })
}

/// Reads the users of a server that are otherwise than the config states them. One without a password was removed.
pub(super) fn read_own(db: &Connection, server: &str) -> Result<Own, rusqlite::Error> {
    let mut all = db.prepare(
        "SELECT name, base, password, rate, quota, period, day, connections, ips, expires FROM own WHERE server = ?1",
    )?;
    let mut rows = all.query(params![server])?;
    let mut own = Own::default();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let base: Option<[u8; 32]> = row.get(1)?;
        match (row.get::<_, Option<String>>(2)?, base) {
            (None, Some(base)) => own.removed.push((name, base)),
            (None, None) => {}
            (Some(password), base) => own.changed.push(OwnUser {
                base,
                stated: NewUser {
                    name,
                    password: password.into(),
                    limits: read_limits(row)?,
                    next_hop: None,
                },
            }),
        }
    }
    Ok(own)
}

fn read_limits(row: &Row<'_>) -> Result<Limits, rusqlite::Error> {
    let number = |index: usize| {
        row.get::<_, Option<i64>>(index)
            .map(|one| one.map(unsigned))
    };
    let period: Option<String> = row.get(5)?;
    let day: Option<u8> = row.get(6)?;
    let period = match period.as_deref() {
        Some("once") => Period::Once,
        Some("daily") => Period::Daily,
        _ => Period::Monthly(day.unwrap_or(1)),
    };
    Ok(Limits {
        rate: number(3)?,
        quota: number(4)?.map(|quota| (quota, period)),
        max_connections: row.get(7)?,
        max_ips: row.get(8)?,
        expires: number(9)?,
    })
}

/// Replaces them.
pub(super) fn write_own(db: &Connection, server: &str, own: &Own) -> Result<(), rusqlite::Error> {
    db.execute("DELETE FROM own WHERE server = ?1", params![server])?;
    let mut add = db.prepare(
        "INSERT INTO own (server, name, base, password, rate, quota, period, day, connections, ips, expires) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    for OwnUser { base, stated } in &own.changed {
        let limits = &stated.limits;
        let (period, day) = match limits.quota.map(|(_, period)| period) {
            None => (None, None),
            Some(Period::Once) => (Some("once"), None),
            Some(Period::Daily) => (Some("daily"), None),
            Some(Period::Monthly(day)) => (Some("monthly"), Some(day)),
        };
        add.execute(params![
            server,
            stated.name,
            base,
            &**stated.password,
            limits.rate.map(signed),
            limits.quota.map(|(quota, _)| signed(quota)),
            period,
            day,
            limits.max_connections,
            limits.max_ips,
            limits.expires.map(signed),
        ])?;
    }
    let mut remove = db.prepare("INSERT INTO own (server, name, base) VALUES (?1, ?2, ?3)")?;
    for (name, base) in &own.removed {
        remove.execute(params![server, name, base])?;
    }
    Ok(())
}
