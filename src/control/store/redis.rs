//! The connection to Redis.

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ErrorKind, RedisError, Script, Value};

use super::entry::Node;
use super::replica::Text;
use crate::limits::{MAX_STORE_ENTRY, STORE_BATCH, STORE_TIMEOUT};
use crate::net::unix_now;
use crate::relay::replay::Question;

/// What all keys begin with; the number is that of the layout.
const PREFIX: &str = "ssr:1";
/// Longest text that Redis says of an error and that is shown.
const MAX_SAID: usize = 200;
/// Longest place in the feed.
const MAX_PLACE: usize = 32;
/// An entry with a greater number than that of the time in milliseconds this far ahead is not right.
const AHEAD: u64 = 86_400_000;

/// A connection that is made again when it breaks.
pub(super) struct Link {
    connection: ConnectionManager,
    exchange: Script,
    fold: Script,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("the URL in `store` cannot be used")]
    Url,
    #[error("Redis does not answer in time")]
    Timeout,
    #[error("no connection to Redis: {0}")]
    Connection(String),
    #[error("Redis refuses: {0}")]
    Refused(String),
    #[error("Redis answers with something else than was asked for")]
    Answer,
}

impl From<RedisError> for LinkError {
    fn from(error: RedisError) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        let text = shown(&error.to_string());
        match error.kind() {
            ErrorKind::Io => Self::Connection(text),
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Self::Answer,
            _ if error.is_connection_dropped() => Self::Connection(text),
            _ => Self::Refused(text),
        }
    }
}

/// Text of others, short and without control characters.
fn shown(text: &str) -> String {
    text.chars()
        .take(MAX_SAID)
        .flat_map(char::escape_debug)
        .collect()
}

/// What a server knows of the store: where it has read to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    epoch: String,
    feed: String,
}

impl Place {
    /// The beginning, of the same store.
    pub(super) fn rewind(&mut self) {
        self.feed.clear();
    }

    /// Whether the store is another one, or has lost everything.
    pub(super) fn is_elsewhere(&self, other: &Self) -> bool {
        self.epoch != other.epoch
    }
}

/// What is new.
pub(super) struct News {
    pub(super) place: Place,
    pub(super) entries: Vec<(String, String)>,
    /// Entries that are there and cannot be read.
    pub(super) left_out: usize,
    /// Whether there may be more.
    pub(super) more: bool,
}

impl Link {
    /// Connects at the first question. Call it in a runtime.
    pub(super) fn new(url: &str) -> Result<Self, LinkError> {
        let client = Client::open(url).map_err(|_| LinkError::Url)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(STORE_TIMEOUT))
            .set_response_timeout(Some(STORE_TIMEOUT))
            .set_number_of_retries(0);
        let connection = ConnectionManager::new_lazy_with_config(client, config);
        Ok(Self {
            connection: connection.map_err(|_| LinkError::Url)?,
            exchange: Script::new(include_str!("exchange.lua")),
            fold: Script::new(include_str!("fold.lua")),
        })
    }

    /// Tells and asks. The connection makes itself anew after an error, but does not send again: the caller does.
    pub(super) async fn exchange(
        &mut self,
        group: &str,
        place: &Place,
        entries: impl Iterator<Item = &Text>,
    ) -> Result<News, LinkError> {
        let mut call = self.exchange.prepare_invoke();
        for key in ["epoch", "seq", "data", "feed"] {
            call.key(format!("{PREFIX}:{{{group}}}:{key}"));
        }
        let feed = if place.feed.is_empty() {
            "0"
        } else {
            &place.feed
        };
        call.arg(format!("{:016x}", rand::random::<u64>()))
            .arg(&place.epoch)
            .arg(feed)
            .arg(STORE_BATCH)
            .arg(unix_now().saturating_mul(1000).saturating_add(AHEAD))
            .arg(MAX_STORE_ENTRY);
        for (name, value) in entries {
            call.arg(name).arg(&**value);
        }
        let answer: Value = call.invoke_async(&mut self.connection).await?;
        read(answer).ok_or(LinkError::Answer)
    }

    /// Adds what a process has counted to the sum of those that have ended, all in one step.
    pub(super) async fn fold(
        &mut self,
        group: &str,
        node: Node,
        names: &[Box<str>],
    ) -> Result<(), LinkError> {
        let mut call = self.fold.prepare_invoke();
        for key in ["seq", "data", "feed"] {
            call.key(format!("{PREFIX}:{{{group}}}:{key}"));
        }
        call.arg(node.text()).arg(MAX_STORE_ENTRY);
        for name in names {
            call.arg(&**name);
        }
        let _count: Value = call.invoke_async(&mut self.connection).await?;
        Ok(())
    }

    /// Whether there are answers.
    pub(super) async fn ping(&mut self) -> Result<(), LinkError> {
        let ping = redis::cmd("PING");
        let _pong: Value = ping.query_async(&mut self.connection).await?;
        Ok(())
    }

    /// Notes salts as used. Returns which of them are new.
    pub(super) async fn spend(&mut self, salts: &[Question]) -> Result<Vec<bool>, LinkError> {
        let mut pipeline = redis::pipe();
        for salt in salts {
            let mut key = format!("{PREFIX}:{{{}}}:salt:", salt.group).into_bytes();
            key.extend_from_slice(&salt.salt);
            let set = pipeline.cmd("SET").arg(key).arg(1).arg("NX");
            set.arg("EX").arg(salt.keep.as_secs());
        }
        let answers: Vec<Value> = pipeline.query_async(&mut self.connection).await?;
        match answers.len() == salts.len() {
            true => Ok(answers.iter().map(|one| *one != Value::Nil).collect()),
            false => Err(LinkError::Answer),
        }
    }
}

fn read(answer: Value) -> Option<News> {
    let Value::Array(values) = answer else {
        return None;
    };
    let mut values = values.into_iter();
    let epoch = text(values.next()?)?;
    let feed = text(values.next()?)?;
    let is_place = |byte: &u8| byte.is_ascii_digit() || b".e+".contains(byte);
    if feed.len() > MAX_PLACE || !feed.as_bytes().iter().all(is_place) {
        return None;
    }
    let Value::Int(left_out) = values.next()? else {
        return None;
    };
    let mut left_out = usize::try_from(left_out).ok()?;
    let count = left_out + values.len() / 2;
    let mut entries = Vec::new();
    while let (Some(name), Some(value)) = (values.next(), values.next()) {
        match (text(name), text(value)) {
            (Some(name), Some(value)) => entries.push((name, value)),
            _ => left_out += 1,
        }
    }
    Some(News {
        place: Place { epoch, feed },
        entries,
        left_out,
        more: count >= STORE_BATCH,
    })
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}
