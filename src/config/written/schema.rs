//! Which keys exist in which objects, and what is done with each.
//!
//! The supported keys are the fields of the structs in [`super::file`], so no list of them can go stale. The table here
//! holds the rest: aliases, keys of features that are not supported yet, and keys without effect.

use serde::de::value::Error as AnyError;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

use super::file;

/// The kind of an object, or of an array of such objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Top,
    Server,
    User,
    Local,
    Forward,
    Rule,
    Rules,
    Endpoint,
    Security,
    ReplayAttack,
    Log,
    Format,
    Writer,
    Console,
    LogFile,
    Syslog,
    Runtime,
    Timeouts,
    Limits,
    Balancer,
    Online,
    Reverse,
    Service,
    Allow,
    Services,
    Allows,
    Transport,
    Fallback,
    UdpOverTcp,
    Multiplex,
    Tls,
    Admin,
    Servers,
    Users,
    Locals,
    Forwards,
    Writers,
    /// An object whose keys are not checked: options of a resolver, passwords by port.
    Free,
}

impl Kind {
    /// Whether the value is one object, and not an array or anything else.
    pub(crate) fn is_object(self) -> bool {
        !matches!(
            self,
            Self::Servers
                | Self::Users
                | Self::Locals
                | Self::Forwards
                | Self::Rules
                | Self::Writers
                | Self::Services
                | Self::Allows
                | Self::Free
        )
    }

    /// The kind of the elements of an array.
    pub(crate) fn element(self) -> Self {
        match self {
            Self::Servers => Self::Server,
            Self::Users => Self::User,
            Self::Locals => Self::Local,
            Self::Forwards => Self::Forward,
            Self::Rules => Self::Rule,
            Self::Writers => Self::Writer,
            Self::Services => Self::Service,
            Self::Allows => Self::Allow,
            other => other,
        }
    }
}

/// What is done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is supported.
    Known,
    /// It is another spelling of this key.
    Alias(&'static str),
    /// It is ignored without a warning: it matters only together with a key that is refused, or not at all.
    Silent,
    /// It has no effect, for this reason: a warning.
    NoEffect(&'static str),
    /// Its feature no longer exists, for this reason: an error.
    Withdrawn(&'static str),
    /// It is unknown.
    Unknown,
}

const LAUNCHD: &str = "launchd exists on macOS only: for sockets of systemd, use `systemd_tcp_socket_name` and `systemd_udp_socket_name`";

/// Keys that are not fields of [`super::file`].
const OTHERS: &[(Kind, Fate, &[&str])] = &[
    (Kind::Top, Fate::Alias("servers"), &["shadowsocks"]),
    (Kind::Top, Fate::Alias("remarks"), &["name"]),
    (Kind::Server, Fate::Alias("remarks"), &["name"]),
    (Kind::Server, Fate::Alias("server"), &["address"]),
    (Kind::Server, Fate::Alias("server_port"), &["port"]),
    (
        Kind::Top,
        Fate::Withdrawn(LAUNCHD),
        &["launchd_tcp_socket_name", "launchd_udp_socket_name"],
    ),
    (
        Kind::Local,
        Fate::Withdrawn(LAUNCHD),
        &["launchd_tcp_socket_name", "launchd_udp_socket_name"],
    ),
    (
        Kind::Top,
        Fate::Silent,
        &[
            // For editors: where the JSON Schema of the config is.
            "$schema",
            // Keys of SIP008 documents.
            "bytes_remaining",
            "bytes_used",
            "version",
        ],
    ),
    (
        Kind::Top,
        Fate::NoEffect("ssr logs to standard error or to `log.writers`"),
        &["use_syslog"],
    ),
    (
        Kind::Top,
        Fate::NoEffect("only ss-manager used it"),
        &["workdir"],
    ),
    (
        Kind::Top,
        Fate::NoEffect("ssr does not set the traffic class of packets"),
        &["dscp"],
    ),
    (
        Kind::Top,
        Fate::NoEffect("it exists on FreeBSD only"),
        &["outbound_user_cookie"],
    ),
    (
        Kind::Server,
        Fate::NoEffect("it exists on FreeBSD only"),
        &["outbound_user_cookie"],
    ),
    (
        Kind::Log,
        Fate::NoEffect("log4rs files are not read: use `log.writers`"),
        &["config_path"],
    ),
    (
        Kind::Top,
        Fate::Withdrawn(
            "one-time authentication was withdrawn in 2017: remove the key, since AEAD methods authenticate every chunk",
        ),
        &["auth"],
    ),
];

/// Every kind that is checked: its name in the documentation, and where its keys belong.
pub(super) const KINDS: &[(Kind, &str, &str)] = &[
    (Kind::Top, "top", "at the top level"),
    (Kind::Server, "server", "in an entry of `servers`"),
    (Kind::User, "user", "in an entry of `users`"),
    (Kind::Local, "local", "in an entry of `locals`"),
    (Kind::Forward, "forward", "in an entry of `forwards`"),
    (Kind::Rule, "rule", "in an entry of `rules`"),
    (
        Kind::Endpoint,
        "forward endpoint",
        "in `listen` or `target` of a forward",
    ),
    (Kind::Security, "security", "in `security`"),
    (
        Kind::ReplayAttack,
        "replay_attack",
        "in `security.replay_attack`",
    ),
    (Kind::Log, "log", "in `log`"),
    (Kind::Format, "log format", "in `log.format`"),
    (Kind::Writer, "log writer", "in an entry of `log.writers`"),
    (Kind::Console, "log console", "in `log.writers[].console`"),
    (Kind::LogFile, "log file", "in `log.writers[].file`"),
    (Kind::Syslog, "log syslog", "in `log.writers[].syslog`"),
    (Kind::Runtime, "runtime", "in `runtime`"),
    (Kind::Timeouts, "timeouts", "in `timeouts`"),
    (Kind::Limits, "limits", "in `limits`"),
    (Kind::Balancer, "balancer", "in `balancer`"),
    (Kind::Online, "online_config", "in `online_config`"),
    (Kind::Reverse, "reverse", "in `reverse`"),
    (
        Kind::Service,
        "reverse service",
        "in an entry of `reverse.services`",
    ),
    (
        Kind::Allow,
        "reverse allow",
        "in an entry of `reverse.allow`",
    ),
    (Kind::Transport, "transport", "in `transport`"),
    (Kind::Fallback, "fallback", "in `transport.fallback`"),
    (Kind::UdpOverTcp, "udp_over_tcp", "in `udp_over_tcp`"),
    (Kind::Multiplex, "multiplex", "in `multiplex`"),
    (
        Kind::Tls,
        "tls",
        "in `tls` of a transport or of an endpoint",
    ),
    (Kind::Admin, "admin", "in `admin`"),
];

/// Every key that a config may have, as (section, key): each spelling, and those that are refused or have no effect.
pub fn documented_keys() -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<_> = KINDS
        .iter()
        .flat_map(|(kind, section, _)| keys(*kind).map(move |key| (*section, key)))
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What is done with `key` in an object of `kind`.
pub(crate) fn fate(kind: Kind, key: &str) -> Fate {
    if !kind.is_object() || fields(kind).contains(&key) {
        return Fate::Known;
    }
    OTHERS
        .iter()
        .find(|(of, _, keys)| *of == kind && keys.contains(&key))
        .map_or(Fate::Unknown, |(_, fate, _)| *fate)
}

/// The kind of the value under `key`.
pub(crate) fn child(kind: Kind, key: &str) -> Kind {
    match (kind, key) {
        (Kind::Top, "servers") => Kind::Servers,
        (Kind::Top, "locals") => Kind::Locals,
        (Kind::Top, "forwards") => Kind::Forwards,
        (Kind::Top, "rules") => Kind::Rules,
        (Kind::Forward, "listen" | "target") => Kind::Endpoint,
        (Kind::Transport | Kind::Endpoint | Kind::Admin, "tls") => Kind::Tls,
        (Kind::Top, "admin") => Kind::Admin,
        (Kind::Top | Kind::Server, "users") => Kind::Users,
        (Kind::Top, "security") => Kind::Security,
        (Kind::Security, "replay_attack") => Kind::ReplayAttack,
        (Kind::Top, "log") => Kind::Log,
        (Kind::Log | Kind::Console | Kind::LogFile | Kind::Syslog, "format") => Kind::Format,
        (Kind::Log, "writers") => Kind::Writers,
        (Kind::Writer, "console") => Kind::Console,
        (Kind::Writer, "file") => Kind::LogFile,
        (Kind::Writer, "syslog") => Kind::Syslog,
        (Kind::Top, "runtime") => Kind::Runtime,
        (Kind::Top, "timeouts") => Kind::Timeouts,
        (Kind::Top, "limits") => Kind::Limits,
        (Kind::Top, "balancer") => Kind::Balancer,
        (Kind::Top, "online_config") => Kind::Online,
        (Kind::Top, "reverse") => Kind::Reverse,
        (Kind::Reverse, "services") => Kind::Services,
        (Kind::Reverse, "allow") => Kind::Allows,
        (Kind::Top | Kind::Server, "transport") => Kind::Transport,
        (Kind::Transport, "fallback") => Kind::Fallback,
        (Kind::Top | Kind::Server, "udp_over_tcp") => Kind::UdpOverTcp,
        (Kind::Top | Kind::Server, "multiplex") => Kind::Multiplex,
        _ => Kind::Free,
    }
}

/// The key that an array is read as where an object of `kind` is expected: `reverse: […]` is short for
/// `reverse: {"services": […]}`.
pub(crate) fn shorthand(kind: Kind) -> Option<(&'static str, Kind)> {
    (kind == Kind::Reverse).then_some(("services", Kind::Services))
}

/// Whether the value at `path` must never be quoted.
pub(crate) fn is_secret(path: &str) -> bool {
    let last = path.rsplit('.').next().unwrap_or(path);
    last.starts_with("password")
        || last.starts_with("key")
        || last.starts_with("token")
        || last.starts_with("outbound_proxy")
        || path.starts_with("port_password")
}

/// Whether a value is blank: `null`, `""`, `[]`, `{}`, `false`, `0`.
pub(crate) fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// The key of `kind` that `key` is probably a misspelling of.
pub(crate) fn similar(kind: Kind, key: &str) -> Option<&'static str> {
    let typed = bare(key);
    keys(kind)
        .map(|known| (strsim::damerau_levenshtein(&typed, &bare(known)), known))
        .filter(|(distance, known)| *distance <= tolerance(known.len()))
        .min()
        .map(|(_, known)| known)
}

/// How many typing errors are recognised in a key of `length` characters; short keys are too similar to each other.
fn tolerance(length: usize) -> usize {
    match length {
        0..=3 => 0,
        4..=7 => 1,
        _ => 2,
    }
}

/// Where `key` would be supported, in words.
pub(crate) fn elsewhere(kind: Kind, key: &str) -> Option<&'static str> {
    KINDS
        .iter()
        .find(|(other, ..)| *other != kind && keys(*other).any(|known| known == key))
        .map(|(.., place)| *place)
}

/// Every key of `kind`, aliases included.
pub(super) fn keys(kind: Kind) -> impl Iterator<Item = &'static str> {
    let others = OTHERS.iter().filter(move |(of, ..)| *of == kind);
    fields(kind)
        .iter()
        .copied()
        .chain(others.flat_map(|(.., keys)| keys.iter().copied()))
}

/// The letters of a key, for comparison: `localPort` and `local-port` are misspellings of `local_port`.
fn bare(key: &str) -> String {
    key.chars()
        .filter(|c| !matches!(c, '_' | '-' | ' '))
        .flat_map(char::to_lowercase)
        .take(64)
        .collect()
}

/// Calls a function of the struct that objects of a kind are read into; other kinds are read into `$other`.
macro_rules! of_struct {
    ($kind:expr, $function:ident($($argument:expr),*), $other:expr) => {
        match $kind {
            Kind::Top => $function::<file::Top>($($argument),*),
            Kind::Server => $function::<file::Server>($($argument),*),
            Kind::User => $function::<file::User>($($argument),*),
            Kind::Local => $function::<file::Local>($($argument),*),
            Kind::Forward => $function::<file::Forward>($($argument),*),
            Kind::Rule => $function::<file::Rule>($($argument),*),
            Kind::Endpoint => $function::<file::Endpoint>($($argument),*),
            Kind::Security => $function::<file::Security>($($argument),*),
            Kind::ReplayAttack => $function::<file::ReplayAttack>($($argument),*),
            Kind::Log => $function::<file::Log>($($argument),*),
            Kind::Format => $function::<file::Format>($($argument),*),
            Kind::Writer => $function::<file::Writer>($($argument),*),
            Kind::Console => $function::<file::Console>($($argument),*),
            Kind::LogFile => $function::<file::LogFile>($($argument),*),
            Kind::Syslog => $function::<file::Syslog>($($argument),*),
            Kind::Runtime => $function::<file::Runtime>($($argument),*),
            Kind::Timeouts => $function::<file::Timeouts>($($argument),*),
            Kind::Limits => $function::<file::Limits>($($argument),*),
            Kind::Balancer => $function::<file::Balancer>($($argument),*),
            Kind::Online => $function::<file::Online>($($argument),*),
            Kind::Reverse => $function::<file::Reverse>($($argument),*),
            Kind::Service => $function::<file::Service>($($argument),*),
            Kind::Allow => $function::<file::Allow>($($argument),*),
            Kind::Transport => $function::<file::Transport>($($argument),*),
            Kind::Fallback => $function::<file::Fallback>($($argument),*),
            Kind::UdpOverTcp => $function::<file::UdpOverTcp>($($argument),*),
            Kind::Multiplex => $function::<file::Multiplex>($($argument),*),
            Kind::Tls => $function::<file::Tls>($($argument),*),
            Kind::Admin => $function::<file::Admin>($($argument),*),
            Kind::Servers
            | Kind::Users
            | Kind::Locals
            | Kind::Forwards
            | Kind::Rules
            | Kind::Writers
            | Kind::Services
            | Kind::Allows
            | Kind::Free => $other,
        }
    };
}

/// The fields of the struct that objects of `kind` are read into.
fn fields(kind: Kind) -> &'static [&'static str] {
    of_struct!(kind, fields_of(), &[])
}

/// Whether `value` is one that `key` may have in an object of `kind`, as far as its type goes.
pub(super) fn accepts(kind: Kind, key: &str, value: &Value) -> bool {
    of_struct!(kind, is_read(key, value), true)
}

fn is_read<T: DeserializeOwned>(key: &str, value: &Value) -> bool {
    let object = [(key.to_owned(), value.clone())].into_iter().collect();
    serde_json::from_value::<T>(Value::Object(object)).is_ok()
}

/// The field names of a derived `Deserialize`, which passes them to the deserializer before it reads.
fn fields_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    struct FieldNames<'a>(&'a mut &'static [&'static str]);
    impl<'de> Deserializer<'de> for FieldNames<'_> {
        type Error = AnyError;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, AnyError> {
            Err(AnyError::custom("not a struct"))
        }
        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, AnyError> {
            *self.0 = fields;
            Err(AnyError::custom("names only"))
        }
        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut fields: &'static [&'static str] = &[];
    // The deserializer always fails; the names remain.
    drop(T::deserialize(FieldNames(&mut fields)));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_listed_twice() {
        for (kind, ..) in KINDS {
            let mut all: Vec<_> = keys(*kind).collect();
            assert!(!all.is_empty(), "{kind:?} has no keys");
            all.sort_unstable();
            let count = all.len();
            all.dedup();
            assert_eq!(count, all.len(), "{kind:?}: {all:?}");
        }
    }

    #[test]
    fn aliases_lead_to_known_keys() {
        for (kind, fate_of, _) in OTHERS {
            if let Fate::Alias(canonical) = fate_of {
                assert_eq!(fate(*kind, canonical), Fate::Known, "{canonical}");
            }
        }
    }

    #[test]
    fn no_known_key_looks_like_a_misspelling_of_another() {
        for (kind, ..) in KINDS {
            for key in keys(*kind) {
                assert_eq!(similar(*kind, key).map(bare), Some(bare(key)), "{kind:?}");
            }
        }
    }

    #[test]
    fn misspellings_are_recognised() {
        for (typed, meant) in [
            ("sever_port", "server_port"),
            ("passwrod", "password"),
            ("localPort", "local_port"),
            ("fast-open", "fast_open"),
            ("methd", "method"),
        ] {
            assert_eq!(similar(Kind::Top, typed), Some(meant));
        }
        for foreign in [
            "strategy", "global", "enabled", "group", "tag", "uid", "configs", "obfs",
        ] {
            assert_eq!(similar(Kind::Top, foreign), None, "{foreign}");
        }
    }
}
