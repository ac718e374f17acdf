//! Floor 3: moves bytes between two sides.
//!
//! - [`tcp`]: serves one stream: handshake, dial, both directions until both have ended.
//! - [`udp`]: serves one packet socket: associations, their sessions and the way back.
//! - [`link`]: many streams over one: reverse tunnels.
//! - [`counters`]: counts what happens.
//! - [`failed`]: the last streams and associations that failed.
//! - [`users`]: what each user has used and may use.
//! - [`plain`]: an encrypted stream as a stream of its payload.
//! - [`replay`]: refuses what was seen before.
//! - [`group`]: which servers of several processes are one.
//!
//! They share the other files: the ends of a relay (`leg.rs`), reading and sealing encrypted streams
//! (`sealed.rs`), buffer sizes (`sizing.rs`), the idle timer (`idle.rs`), what is said of strangers (`strangers.rs`) and errors.
//!
//! Protocols are the business of the floor above, which passes in an inbound and an outbound.

pub mod counters;
mod error;
pub mod failed;
pub mod group;
mod idle;
mod leg;
pub mod link;
pub mod plain;
pub mod replay;
mod sealed;
mod sizing;
mod strangers;
pub mod tcp;
pub mod udp;
pub mod users;

pub use counters::Counters;
pub use error::{Error, Side};
pub use users::User;
