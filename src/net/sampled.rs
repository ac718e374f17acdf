//! Log lines that packets and strangers cause: a few of each kind are logged, the rest are counted.
//!
//! `warn!`, `info!` and `debug!` of this module are those of `tracing` with the text first. Each place in the code that has one
//! logs its first line at once. For [`SAMPLE_TIME`] it then counts further ones, and says how many there were. With
//! `by target, "text", …` it does so for each target, or whatever stands there, and for at most [`SAMPLED_LINES`] of them:
//! strangers have any number of addresses.

use std::fmt::{self, Display, Formatter, Write};
use std::hash::{DefaultHasher, Hasher};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::time::Instant;

use super::sync::lock;
use crate::limits::{SAMPLE_TIME, SAMPLED_LINES};

/// The places with lines that were not logged, or may be soon.
static OPEN: Mutex<Vec<&'static Lines>> = Mutex::new(Vec::new());

/// Where a stranger is: an IPv4 address, or the IPv6 network of 64 bits that one stranger may have as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Source(pub IpAddr);

impl Source {
    /// The address, or the first of the network.
    #[must_use]
    pub fn network(self) -> IpAddr {
        match self.0.to_canonical() {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        }
    }
}

impl Display for Source {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.network() {
            IpAddr::V4(ip) => ip.fmt(f),
            IpAddr::V6(ip) => write!(f, "{ip}/64"),
        }
    }
}

/// The lines of one place in the code. The macros of this module make it.
pub struct Lines {
    window: Mutex<Option<Window>>,
    /// Logs how many lines with a key were not.
    rest: fn(Rest),
}

/// Lines that were not logged.
#[derive(Debug, PartialEq, Eq)]
pub struct Rest {
    /// What they have in common; `None`: all of them.
    pub by: Option<String>,
    /// How many there were.
    pub unlogged: u64,
}

/// The time since the first line.
struct Window {
    begun: Instant,
    logged: Vec<Logged>,
    /// Lines with other keys.
    others: u64,
}

/// A key of which a line was logged, and how many were not.
struct Logged {
    hash: u64,
    key: String,
    unlogged: u64,
}

impl Lines {
    /// `rest` logs how many lines were not.
    #[must_use]
    pub const fn new(rest: fn(Rest)) -> Self {
        Self {
            window: Mutex::new(None),
            rest,
        }
    }

    /// Counts a line, and returns whether it is to be logged.
    pub fn admit(&'static self, key: impl Display) -> bool {
        self.admit_at(Instant::now(), key)
    }

    fn admit_at(&'static self, now: Instant, key: impl Display) -> bool {
        let hash = hash(&key);
        let mut window = lock(&self.window);
        let ended = window.take_if(|window| window.has_ended(now));
        let is_new = window.is_none() && ended.is_none();
        let current = window.get_or_insert_with(|| Window::new(now));
        let admitted = current.admit(hash, key);
        drop(window);
        if is_new {
            lock(&OPEN).push(self);
        }
        self.report(ended);
        admitted
    }

    fn report(&self, window: Option<Window>) {
        let windows = window.into_iter();
        windows.flat_map(Window::rest).for_each(self.rest);
    }

    /// Reports the window if it has ended by `now`; `None`: at once. Returns whether one is left.
    fn settle(&self, now: Option<Instant>) -> bool {
        let mut window = lock(&self.window);
        let ended = window.take_if(|window| now.is_none_or(|now| window.has_ended(now)));
        let remains = window.is_some();
        drop(window);
        self.report(ended);
        remains
    }
}

impl Window {
    const fn new(begun: Instant) -> Self {
        Self {
            begun,
            logged: Vec::new(),
            others: 0,
        }
    }

    fn has_ended(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.begun) >= SAMPLE_TIME
    }

    fn admit(&mut self, hash: u64, key: impl Display) -> bool {
        let mut logged = self.logged.iter_mut();
        if let Some(logged) = logged.find(|logged| logged.hash == hash) {
            logged.unlogged += 1;
            return false;
        }
        let admitted = self.logged.len() < SAMPLED_LINES;
        if admitted {
            self.logged.push(Logged {
                hash,
                key: key.to_string(),
                unlogged: 0,
            });
        } else {
            self.others += 1;
        }
        admitted
    }

    fn rest(self) -> impl Iterator<Item = Rest> {
        let logged = self.logged.into_iter().map(|logged| Rest {
            by: Some(logged.key).filter(|key| !key.is_empty()),
            unlogged: logged.unlogged,
        });
        let others = Rest {
            by: Some("others".to_owned()),
            unlogged: self.others,
        };
        logged.chain([others]).filter(|rest| rest.unlogged > 0)
    }
}

/// The hash of a text that is not kept.
fn hash(text: &impl Display) -> u64 {
    struct Hashed(DefaultHasher);
    impl Write for Hashed {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }
    let mut hashed = Hashed(DefaultHasher::new());
    // It cannot fail: `write_str` does not.
    let _ = write!(hashed, "{text}");
    hashed.0.finish()
}

/// Says how many lines were not logged, for as long as it runs.
pub async fn report_rest() {
    let mut tick = tokio::time::interval(SAMPLE_TIME / 8);
    loop {
        tick.tick().await;
        settle(Some(Instant::now()));
    }
}

/// Says now how many lines were not logged: before the end.
pub fn report_all() {
    settle(None);
}

fn settle(now: Option<Instant>) {
    // Not under the lock of the list: a writer of the log could have something to say itself.
    let open = std::mem::take(&mut *lock(&OPEN));
    let remaining = open.into_iter().filter(|lines| lines.settle(now));
    let remaining: Vec<_> = remaining.collect();
    lock(&OPEN).extend(remaining);
}

/// As the macros of `tracing`, with the text first.
macro_rules! sampled {
    (@$macro:ident $level:ident, by $key:expr, $text:literal $(, $($fields:tt)*)?) => {
        if tracing::Level::$level <= tracing::level_filters::LevelFilter::current() {
            static LINES: $crate::net::sampled::Lines = $crate::net::sampled::Lines::new(|rest| {
                let (unlogged, by) = (rest.unlogged, rest.by);
                tracing::$macro!(unlogged, by, concat!($text, ": more lines like this"));
            });
            if LINES.admit($key) {
                tracing::$macro!($($($fields)*,)? $text);
            }
        }
    };
    (@$macro:ident $level:ident, $($all:tt)*) => {
        $crate::net::sampled::sampled!(@$macro $level, by "", $($all)*)
    };
}

macro_rules! warn_ {
    ($($all:tt)*) => { $crate::net::sampled::sampled!(@warn WARN, $($all)*) };
}

macro_rules! info_ {
    ($($all:tt)*) => { $crate::net::sampled::sampled!(@info INFO, $($all)*) };
}

macro_rules! debug_ {
    ($($all:tt)*) => { $crate::net::sampled::sampled!(@debug DEBUG, $($all)*) };
}

pub(crate) use {debug_ as debug, info_ as info, sampled, warn_ as warn};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use std::time::Duration;

    use super::*;

    static REPORTED: Mutex<Vec<Rest>> = Mutex::new(Vec::new());

    fn source(ip: &str) -> Source {
        Source(ip.parse().unwrap())
    }

    #[test]
    fn of_each_key_one_line_is_logged_in_a_window_and_the_rest_is_counted() {
        static LINES: Lines = Lines::new(|rest| lock(&REPORTED).push(rest));
        let now = Instant::now();
        for (wanted, key) in [
            (true, "one"),
            (false, "one"),
            (true, "other"),
            (false, "one"),
        ] {
            assert_eq!(LINES.admit_at(now, key), wanted);
        }
        assert!(lock(&REPORTED).is_empty());
        let later = now + SAMPLE_TIME;
        assert!(LINES.admit_at(later, "one"), "the next window");
        let rest = |by: &str, unlogged| Rest {
            by: Some(by.to_owned()),
            unlogged,
        };
        assert_eq!(std::mem::take(&mut *lock(&REPORTED)), [rest("one", 2)]);
        assert!(!LINES.admit_at(later, "one"));
        let before_its_end = later + Duration::from_secs(1);
        assert!(LINES.settle(Some(before_its_end)));
        assert!(lock(&REPORTED).is_empty());
        assert!(!LINES.settle(None));
        assert_eq!(std::mem::take(&mut *lock(&REPORTED)), [rest("one", 1)]);
    }

    #[test]
    fn any_number_of_sources_causes_a_few_lines() {
        let mut window = Window::new(Instant::now());
        let logged = (0..100_000_u32).filter(|ip| {
            let source = Source(IpAddr::from(ip.to_be_bytes()));
            window.admit(hash(&source), source)
        });
        assert_eq!(logged.count(), SAMPLED_LINES);
        let rest: Vec<_> = window.rest().collect();
        let unlogged = u64::try_from(100_000 - SAMPLED_LINES).unwrap();
        let by = Some("others".to_owned());
        assert_eq!(rest, [Rest { by, unlogged }]);
    }

    #[test]
    fn one_network_of_ipv6_is_one_source() {
        assert_eq!(source("2001:db8::1").to_string(), "2001:db8::/64");
        assert_eq!(source("2001:db8:0:1::1").to_string(), "2001:db8:0:1::/64");
        assert_eq!(source("::ffff:192.0.2.1").to_string(), "192.0.2.1");
    }
}
