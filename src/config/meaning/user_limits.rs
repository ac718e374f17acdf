//! What a user may use.

use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime};

use super::context::{Context, key_at};
use crate::config::written::file;
use crate::config::written::scalar::Number;
use crate::relay::users::{Limits, Period};

/// The limits of an entry of `users`.
pub(super) fn limits(written: &file::User, at: &str, cx: &mut Context<'_>) -> Limits {
    let count = |key: &str, number: Option<Number<u32>>, cx: &mut Context<'_>| {
        let number = number.map(|Number(number)| Number(u64::from(number)));
        let count = cx.count(&key_at(at, key), number);
        count.and_then(|count| u32::try_from(count).ok())
    };
    let bytes = |key: &str, number: Option<Number<u64>>, cx: &mut Context<'_>| {
        let Number(bytes) = number?;
        if bytes == 0 {
            let hint = "remove the key for no limit, or the user to refuse it";
            cx.report
                .error_hint(&key_at(at, key), "must be at least 1 byte", hint);
        }
        Some(bytes)
    };
    let rate = bytes("rate_limit", written.rate_limit, cx);
    let quota = bytes("quota_bytes", written.quota_bytes, cx);
    let period = period(written, at, cx);
    Limits {
        rate,
        quota: quota.map(|quota| (quota, period)),
        max_connections: count("max_connections", written.max_connections, cx),
        max_ips: count("max_ips", written.max_ips, cx),
        expires: expires(written, at, cx),
    }
}

fn period(written: &file::User, at: &str, cx: &mut Context<'_>) -> Period {
    let day = match written.quota_day {
        None => 1,
        Some(Number(day @ 1..=31)) => day,
        Some(_) => {
            let path = key_at(at, "quota_day");
            cx.report
                .error(&path, "must be a day of the month, from 1 to 31");
            1
        }
    };
    let key = key_at(at, "quota_period");
    if written.quota_bytes.is_none()
        && (written.quota_period.is_some() || written.quota_day.is_some())
    {
        let hint = "add `quota_bytes`, or remove it";
        let path = if written.quota_period.is_some() {
            key.clone()
        } else {
            key_at(at, "quota_day")
        };
        cx.report
            .warn_hint(&path, "without `quota_bytes` it does nothing", hint);
    }
    let period = match written.quota_period.as_deref() {
        None | Some("monthly") => return Period::Monthly(u8::try_from(day).unwrap_or(1)),
        Some("daily") => Period::Daily,
        Some("once") => Period::Once,
        Some(other) => {
            let hint = "use `monthly`, `daily` or `once`";
            cx.report.unknown(&key, "period", other, hint);
            Period::Once
        }
    };
    if written.quota_day.is_some() {
        let hint = "remove it, or set `quota_period` to \"monthly\"";
        cx.report.warn_hint(
            &key_at(at, "quota_day"),
            "only a monthly quota has a day",
            hint,
        );
    }
    period
}

/// A date, whose day is the first without service, or a time of RFC 3339.
fn expires(written: &file::User, at: &str, cx: &mut Context<'_>) -> Option<u64> {
    let text = written.expires.as_deref()?;
    let date = time::macros::format_description!("[year]-[month]-[day]");
    let midnight = |date: Date| date.midnight().assume_utc();
    let moment = Date::parse(text, date)
        .map(midnight)
        .or_else(|_| OffsetDateTime::parse(text, &Rfc3339));
    let Ok(moment) = moment else {
        let hint = "write a date (\"2027-01-31\", from midnight UTC on) or a time (\"2027-01-31T18:00:00Z\")";
        cx.report
            .error_hint(&key_at(at, "expires"), "is neither a date nor a time", hint);
        return None;
    };
    Some(u64::try_from(moment.unix_timestamp()).unwrap_or(0))
}
