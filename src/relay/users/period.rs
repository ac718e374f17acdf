//! The period of a quota.

use time::{Date, Month, OffsetDateTime};

/// When a quota begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// Never.
    Once,
    /// Every day, at midnight UTC.
    Daily,
    /// Every month at midnight UTC, from this day of the month on (1 to 31); where a month has no such day, on its last.
    Monthly(u8),
}

impl Period {
    /// When the period that contains `now` began, both in seconds since 1970.
    #[must_use]
    pub fn start(self, now: u64) -> u64 {
        let moment = i64::try_from(now).ok();
        let moment = moment.and_then(|now| OffsetDateTime::from_unix_timestamp(now).ok());
        let Some(date) = moment.map(OffsetDateTime::date) else {
            return 0;
        };
        let start = match self {
            Self::Once => return 0,
            Self::Daily => date,
            Self::Monthly(day) => {
                let this = on_day(date.year(), date.month(), day);
                match this {
                    Some(this) if this <= date => this,
                    _ => {
                        let year = date.year() - i32::from(date.month() == Month::January);
                        on_day(year, date.month().previous(), day).unwrap_or(date)
                    }
                }
            }
        };
        u64::try_from(start.midnight().assume_utc().unix_timestamp()).unwrap_or(0)
    }
}

/// This day of a month, or the month's last.
fn on_day(year: i32, month: Month, day: u8) -> Option<Date> {
    Date::from_calendar_date(year, month, day.min(month.length(year)).max(1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    fn start(period: Period, now: OffsetDateTime) -> OffsetDateTime {
        let now = u64::try_from(now.unix_timestamp()).unwrap_or(0);
        let start = i64::try_from(period.start(now)).unwrap_or(0);
        OffsetDateTime::from_unix_timestamp(start).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    #[test]
    fn months_begin_on_their_day_or_their_last() {
        for (day, now, begun) in [
            (
                1,
                datetime!(2026-11-27 22:30 UTC),
                datetime!(2026-11-01 0:00 UTC),
            ),
            (
                27,
                datetime!(2026-11-27 0:00 UTC),
                datetime!(2026-11-27 0:00 UTC),
            ),
            (
                28,
                datetime!(2026-11-27 23:59:59 UTC),
                datetime!(2026-10-28 0:00 UTC),
            ),
            (
                15,
                datetime!(2027-01-10 12:00 UTC),
                datetime!(2026-12-15 0:00 UTC),
            ),
            (
                31,
                datetime!(2027-03-01 0:00 UTC),
                datetime!(2027-02-28 0:00 UTC),
            ),
            (
                31,
                datetime!(2028-02-29 5:00 UTC),
                datetime!(2028-02-29 0:00 UTC),
            ),
        ] {
            assert_eq!(start(Period::Monthly(day), now), begun, "{day} {now}");
        }
    }

    #[test]
    fn days_begin_at_midnight_and_once_is_for_ever() {
        let now = datetime!(2026-11-27 22:30 UTC);
        assert_eq!(start(Period::Daily, now), datetime!(2026-11-27 0:00 UTC));
        assert_eq!(Period::Once.start(u64::MAX), 0);
    }
}
