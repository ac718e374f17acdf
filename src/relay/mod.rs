//! Floor 3: moving bytes between two sides, whoever they are.
//!
//! - [`tcp`]: serves one stream: handshake, dial, both directions until both have ended.
//! - [`udp`]: serves one packet socket: associations, their sessions and the way back.
//! - [`link`]: many streams over one: reverse tunnels.
//! - [`counters`]: what has happened, in numbers.
//!
//! Which protocol a side speaks is the business of the floor above, which hands in its inbound and its outbound.

pub mod counters;
mod error;
mod idle;
mod leg;
pub mod link;
mod sealed;
mod sizing;
pub mod tcp;
pub mod udp;
mod user;

pub use counters::Counters;
pub use error::{Error, Side};
pub use user::User;
