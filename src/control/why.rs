//! The streams and associations that failed, as JSON and as text.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::relay::failed::{Failed, FailedFlows, Whose};

/// All that failed and is known, the newest of each kind first.
#[must_use]
pub fn document(flows: &FailedFlows) -> Value {
    let now = SystemTime::now();
    let mut failed = Vec::new();
    let mut given_up = Map::new();
    for whose in Whose::ALL {
        let (kept, count) = flows.of(whose);
        failed.extend(kept.iter().map(|one| entry(one, now)));
        given_up.insert(whose.name().to_owned(), count.into());
    }
    json!({"failed": failed, "given_up": given_up})
}

fn entry(one: &Failed, now: SystemTime) -> Value {
    let ms = |time: Option<Duration>| {
        time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    };
    let since = |then: SystemTime| now.duration_since(then).unwrap_or_default().as_secs();
    let unix = |then: SystemTime| {
        then.duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs()
    };
    json!({
        "kind": one.whose.name(),
        "phase": one.phase.name(),
        "status": one.status,
        "error": one.error,
        "network": one.network.name(),
        "peer": one.peer.to_string(),
        "user": one.user,
        "target": one.target,
        "server": one.server,
        "rule": one.rule,
        "count": one.count,
        "last_unix_s": unix(one.last),
        "last_ago_s": since(one.last),
        "first_ago_s": since(one.first),
        "handshake_ms": ms(one.times.handshake),
        "connect_ms": ms(one.times.connect),
        "relay_ms": ms(one.times.relay),
        "up_bytes": one.up,
        "down_bytes": one.down,
    })
}

/// Writes them to the log.
pub fn log(flows: &FailedFlows) {
    for whose in Whose::ALL {
        let (kept, given_up) = flows.of(whose);
        for one in kept.iter().rev() {
            tracing::info!(
                kind = whose.name(),
                phase = one.phase.name(),
                network = one.network.name(),
                peer = %one.peer,
                user = one.user.as_deref(),
                target = one.target.as_deref(),
                server = one.server.as_deref(),
                rule = one.rule.as_deref(),
                count = one.count,
                ago_s = one.last.elapsed().unwrap_or_default().as_secs(),
                error = &*one.error,
                "failed"
            );
        }
        if given_up > 0 {
            tracing::info!(
                kind = whose.name(),
                given_up,
                "older failures were given up for newer ones"
            );
        }
    }
}

/// The answer of a process in words, with at most `most` of each kind.
#[must_use]
pub fn text(answer: &Value, most: usize) -> String {
    let mut text = heading(answer);
    let failed = answer.get("failed").and_then(Value::as_array);
    let failed = failed.map(Vec::as_slice).unwrap_or_default();
    for (whose, title) in [
        (Whose::Client, "Requests that failed"),
        (Whose::Broken, "Connections that worked and then broke"),
        (Whose::Visitor, "Visitors of reverse tunnels that failed"),
        (Whose::Stranger, "Handshakes that failed"),
    ] {
        let of_kind = failed
            .iter()
            .filter(|one| word(one, "kind") == whose.name());
        let of_kind: Vec<&Value> = of_kind.collect();
        if of_kind.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n{title}, the newest first:");
        for one in of_kind.iter().take(most) {
            describe(&mut text, one);
        }
        if let Some(more @ 1..) = of_kind.len().checked_sub(most) {
            let _ = writeln!(text, "\n  and {more} more: `--all` prints them");
        }
        let given_up = answer
            .get("given_up")
            .map_or(0, |all| number(all, whose.name()));
        if given_up > 0 {
            let _ = writeln!(text, "\n  {given_up} older ones are not kept any more");
        }
    }
    if failed.is_empty() {
        text.push_str("nothing has failed since it was started\n");
    }
    text
}

/// The process, in a line.
#[must_use]
pub fn heading(answer: &Value) -> String {
    let Some(process) = answer.get("process") else {
        return String::new();
    };
    let config = match word(process, "config") {
        "" => "no config file".to_owned(),
        path => path.to_owned(),
    };
    format!(
        "ssr {}, process {}, {}, running for {}\n",
        word(process, "role"),
        number(process, "pid"),
        printable(&config),
        time(number(process, "uptime_s")),
    )
}

fn describe(text: &mut String, one: &Value) {
    let target = match (word(one, "target"), word(one, "network")) {
        ("", "udp") => "datagrams",
        ("", _) => "no request",
        (target, _) => target,
    };
    let count = number(one, "count");
    let times = if count > 1 {
        format!(
            ", {count} times in {}",
            time(number(one, "first_ago_s").saturating_sub(number(one, "last_ago_s")))
        )
    } else {
        String::new()
    };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "\n  {} ago{times}: {} ({}) from {}",
        time(number(one, "last_ago_s")),
        printable(target),
        word(one, "network"),
        word(one, "peer"),
    );
    let phase = match word(one, "phase") {
        "handshake" => "the client's handshake",
        "rule" => "asking the rules",
        "resolve" => "resolving a name",
        "connect" => "connecting",
        "transport" => "TLS or WebSocket",
        "reply" => "waiting for an answer",
        _ => "relaying data",
    };
    let _ = writeln!(text, "    failed at: {phase}");
    for (title, key) in [
        ("error", "error"),
        ("server", "server"),
        ("rule", "rule"),
        ("user", "user"),
    ] {
        let value = word(one, key);
        if !value.is_empty() {
            let _ = writeln!(text, "    {:<10} {}", format!("{title}:"), printable(value));
        }
    }
    let mut parts = Vec::new();
    for (name, key) in [
        ("handshake", "handshake_ms"),
        ("connect", "connect_ms"),
        ("relay", "relay_ms"),
    ] {
        if let Some(ms) = one.get(key).and_then(Value::as_u64) {
            parts.push(format!("{name} {ms} ms"));
        }
    }
    let (up, down) = (number(one, "up_bytes"), number(one, "down_bytes"));
    if up + down > 0 {
        parts.push(format!("{up} bytes up, {down} down"));
    }
    if !parts.is_empty() {
        let _ = writeln!(text, "    {:<10} {}", "times:", parts.join(", "));
    }
}

fn word<'a>(of: &'a Value, key: &str) -> &'a str {
    of.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn number(of: &Value, key: &str) -> u64 {
    of.get(key).and_then(Value::as_u64).unwrap_or_default()
}

/// Without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

/// A time in the largest unit of which it has several.
fn time(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
