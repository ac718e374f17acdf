//! What a process does, and what its users have used, as JSON and as text.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::facts::Facts;
use super::why::heading;
use crate::net::unix_now;
use crate::relay::users::Limits;
use crate::relay::{Counters, User};

/// The process, its counters, and its users.
#[must_use]
pub fn document(facts: &Facts) -> Value {
    let users = facts.counters.users.all();
    let users: Vec<Value> = users.iter().map(|user| entry(user)).collect();
    json!({
        "process": facts.process(),
        "counters": counters(&facts.counters),
        "users": users,
    })
}

fn counters(counters: &Counters) -> Value {
    let numbers = counters.numbers().into_iter();
    let mut all: Map<String, Value> = numbers
        .map(|(name, number)| (name.to_owned(), number.into()))
        .collect();
    let failures = counters.failures().into_iter();
    let failures: Map<String, Value> = failures
        .map(|(status, count)| (status.to_owned(), count.into()))
        .collect();
    all.insert("failed".to_owned(), failures.into());
    all.into()
}

fn entry(user: &User) -> Value {
    let (usage, limits) = (user.usage(), user.limits());
    let seen = (usage.last_seen > 0).then_some(usage.last_seen);
    json!({
        "name": user.name(),
        "up_bytes": usage.up,
        "down_bytes": usage.down,
        "period_bytes": limits.quota.map(|_| usage.period),
        "tcp_now": usage.tcp_now,
        "udp_now": usage.udp_now,
        "ips_now": usage.ips_now,
        "failures": usage.failures,
        "last_seen_unix_s": seen,
        "refused": user.refusal().map(|refusal| refusal.status()),
        "limits": allowed(&limits),
    })
}

fn allowed(limits: &Limits) -> Value {
    json!({
        "rate_limit": limits.rate,
        "quota_bytes": limits.quota.map(|(bytes, _)| bytes),
        "max_connections": limits.max_connections,
        "max_ips": limits.max_ips,
        "expires_unix_s": limits.expires,
    })
}

/// The answer as a table.
#[must_use]
pub fn text(answer: &Value) -> String {
    let mut text = heading(answer);
    let counters = answer.get("counters");
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "TCP now {}, UDP now {}, up {}, down {}",
        number(counters, "streams_now"),
        number(counters, "associations_now"),
        bytes(number(counters, "bytes_up")),
        bytes(number(counters, "bytes_down")),
    );
    let users = answer.get("users").and_then(Value::as_array);
    let users = users.map(Vec::as_slice).unwrap_or_default();
    if !users.is_empty() {
        text.push('\n');
        table(&mut text, users);
    }
    text
}

/// Users as the admin API has them, as a table.
#[must_use]
pub fn users_text(users: &Value) -> String {
    let users = users.as_array().map(Vec::as_slice).unwrap_or_default();
    let renamed = |user: &Value| {
        let key = |name: &str| user.get(name).cloned().unwrap_or_default();
        let mut limits = key("limits");
        if let Some(limits) = limits.as_object_mut()
            && let Some(expires) = limits.remove("expires")
        {
            limits.insert("expires_unix_s".to_owned(), expires);
        }
        let ips = user
            .get("ips")
            .and_then(Value::as_array)
            .map_or(0, Vec::len);
        json!({
            "name": key("name"),
            "up_bytes": key("bytes_up"),
            "down_bytes": key("bytes_down"),
            "period_bytes": key("used_bytes"),
            "tcp_now": key("connections"),
            "udp_now": key("udp_sessions"),
            "ips_now": ips,
            "failures": key("failures"),
            "last_seen_unix_s": key("last_seen"),
            "refused": key("refused"),
            "limits": limits,
        })
    };
    let users: Vec<Value> = users.iter().map(renamed).collect();
    let mut text = String::new();
    table(&mut text, &users);
    text
}

fn number(of: Option<&Value>, key: &str) -> u64 {
    let value = of.and_then(|of| of.get(key));
    value.and_then(Value::as_u64).unwrap_or(0)
}

fn table(text: &mut String, users: &[Value]) {
    let _ = writeln!(
        text,
        "{:20} {:>10} {:>10} {:>5} {:>5} {:>5} {:>8}  {:16} limits",
        "user", "up", "down", "TCP", "UDP", "IPs", "failures", "last active"
    );
    for user in users {
        let name = user.get("name").and_then(Value::as_str).unwrap_or("-");
        let seen = user.get("last_seen_unix_s").and_then(Value::as_u64);
        let _ = writeln!(
            text,
            "{name:20} {:>10} {:>10} {:>5} {:>5} {:>5} {:>8}  {:16} {}",
            bytes(number(Some(user), "up_bytes")),
            bytes(number(Some(user), "down_bytes")),
            number(Some(user), "tcp_now"),
            number(Some(user), "udp_now"),
            number(Some(user), "ips_now"),
            number(Some(user), "failures"),
            seen.map_or_else(|| "never".to_owned(), ago),
            limits(user),
        );
    }
}

/// The limits in few words, that which holds now first.
fn limits(user: &Value) -> String {
    let limit = |key: &str| user.get("limits")?.get(key)?.as_u64();
    let mut parts = Vec::new();
    if let Some(refused) = user.get("refused").and_then(Value::as_str) {
        parts.push(format!("refused ({refused})"));
    }
    if let Some(quota) = limit("quota_bytes") {
        let used = user.get("period_bytes").and_then(Value::as_u64);
        parts.push(format!("{} of {}", bytes(used.unwrap_or(0)), bytes(quota)));
    }
    if let Some(rate) = limit("rate_limit") {
        parts.push(format!("{}/s", bytes(rate)));
    }
    if let Some(most) = limit("max_connections") {
        parts.push(format!("{most} connections"));
    }
    if let Some(most) = limit("max_ips") {
        parts.push(format!("{most} addresses"));
    }
    if let Some(end) = limit("expires_unix_s") {
        let left = end.saturating_sub(unix_now());
        parts.push(format!("{} days left", left / 86_400));
    }
    parts.join(", ")
}

fn ago(then: u64) -> String {
    let seconds = unix_now().saturating_sub(then);
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// Bytes with a unit, in three digits or four.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let (mut whole, mut tenths, mut unit) = (count, 0, "B");
    for next in UNITS {
        if whole < 1024 {
            break;
        }
        (tenths, whole, unit) = (whole % 1024 * 10 / 1024, whole / 1024, next);
    }
    match whole {
        ..100 => format!("{whole}.{tenths} {unit}"),
        _ => format!("{whole} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_readable() {
        for (count, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (150 << 20, "150 MiB"),
            ((3 << 30) + (3 << 29), "4.5 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), shown);
        }
    }
}
