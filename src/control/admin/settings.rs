//! What callers say of a user.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime};

use crate::relay::users::{Limits, Period};

/// The body of `PUT /api/v1/users/NAME`. What is left out stays as it is; null is no limit.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewSettings {
    /// The password: a key in base64 under AEAD-2022 methods. A new user without one gets one.
    pub password: Option<String>,
    /// Bytes of a period, in both directions together.
    #[serde(deserialize_with = "stated")]
    #[schemars(with = "Option<u64>")]
    pub quota_bytes: Option<Option<u64>>,
    /// `monthly` (the default), `daily` or `once`.
    pub quota_period: Option<String>,
    /// The day on which a monthly period begins, 1 to 31.
    pub quota_day: Option<u8>,
    /// Bytes a second, in each direction.
    #[serde(deserialize_with = "stated")]
    #[schemars(with = "Option<u64>")]
    pub rate_limit: Option<Option<u64>>,
    /// TCP streams and UDP associations at once.
    #[serde(deserialize_with = "stated")]
    #[schemars(with = "Option<u32>")]
    pub max_connections: Option<Option<u32>>,
    /// Addresses at once.
    #[serde(deserialize_with = "stated")]
    #[schemars(with = "Option<u32>")]
    pub max_ips: Option<Option<u32>>,
    /// When its time is over: a date, a time of RFC 3339, or seconds since 1970.
    #[serde(deserialize_with = "stated")]
    #[schemars(with = "Option<Moment>")]
    pub expires: Option<Option<Moment>>,
}

/// A time.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Moment {
    /// Seconds since 1970.
    Seconds(u64),
    /// A date or a time.
    Text(String),
}

/// A key that is there, even if it is null.
fn stated<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(value).map(Some)
}

impl NewSettings {
    /// The limits of a user that had these before.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn limits(&self, before: Limits) -> Result<Limits, String> {
        let zero = |key: &str| format!("{key}: must be at least 1; null is no limit");
        if self.quota_bytes == Some(Some(0)) {
            return Err(zero("quota_bytes"));
        }
        if self.rate_limit == Some(Some(0)) {
            return Err(zero("rate_limit"));
        }
        for (key, count) in [
            ("max_connections", self.max_connections),
            ("max_ips", self.max_ips),
        ] {
            if count == Some(Some(0)) {
                return Err(zero(key));
            }
        }
        let expires = match &self.expires {
            None => before.expires,
            Some(None) => None,
            Some(Some(moment)) => Some(seconds(moment)?),
        };
        Ok(Limits {
            rate: self.rate_limit.unwrap_or(before.rate),
            quota: self.quota(before)?,
            max_connections: self.max_connections.unwrap_or(before.max_connections),
            max_ips: self.max_ips.unwrap_or(before.max_ips),
            expires,
        })
    }

    fn quota(&self, before: Limits) -> Result<Option<(u64, Period)>, String> {
        let (bytes, period) = before.quota.unzip();
        let Some(bytes) = self.quota_bytes.unwrap_or(bytes) else {
            return Ok(None);
        };
        let period = match (self.quota_period.as_deref(), self.quota_day) {
            (None, None) => period.unwrap_or(Period::Monthly(1)),
            (None | Some("monthly"), day) => match day.unwrap_or(1) {
                day @ 1..=31 => Period::Monthly(day),
                _ => return Err("quota_day: must be from 1 to 31".to_owned()),
            },
            (Some("daily"), None) => Period::Daily,
            (Some("once"), None) => Period::Once,
            (Some("daily" | "once"), Some(_)) => {
                return Err("quota_day: only a monthly quota has a day".to_owned());
            }
            (Some(_), _) => {
                return Err("quota_period: use `monthly`, `daily` or `once`".to_owned());
            }
        };
        Ok(Some((bytes, period)))
    }
}

fn seconds(moment: &Moment) -> Result<u64, String> {
    let text = match moment {
        Moment::Seconds(seconds) => return Ok(*seconds),
        Moment::Text(text) => text,
    };
    let date = time::macros::format_description!("[year]-[month]-[day]");
    let midnight = |date: Date| date.midnight().assume_utc();
    let moment = Date::parse(text, date)
        .map(midnight)
        .or_else(|_| OffsetDateTime::parse(text, &Rfc3339))
        .map_err(|_| {
            "expires: write a date (\"2027-01-31\"), a time (\"2027-01-31T18:00:00Z\") or seconds since 1970"
        })?;
    Ok(u64::try_from(moment.unix_timestamp()).unwrap_or(0))
}
