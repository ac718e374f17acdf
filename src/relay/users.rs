//! The users of this process: what they have used, and what they may use.
//!
//! A [`User`] is shared by all requests that are made with its credentials. Flows add to its counters once a turn and ask
//! once a turn whether it may go on; nothing is done for each chunk. A user that may not go on wakes its flows, and they
//! end.

mod limits;
mod pace;
mod period;
mod registry;
mod session;
mod sessions;
mod user;

pub use limits::{Limits, Refusal};
pub use period::Period;
pub use registry::Users;
pub(super) use session::{Session, Watch};
pub use user::{Usage, User};
