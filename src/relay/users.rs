//! The users of this process: what they have used, and what they may use.
//!
//! A [`User`] is shared by all requests that are made with its credentials. Flows add to its counters once a turn and ask
//! once a turn whether it may go on; nothing is done for each chunk. A user that may not go on wakes its flows, and they
//! end.
//!
//! A [`Table`] has the users of one server, which may be added, changed and removed while it runs. [`Users`] has all tables, and
//! knows the sessions that run.

mod fair;
mod keeper;
mod limits;
mod live;
mod pace;
mod period;
mod registry;
mod senders;
mod session;
mod sessions;
mod stated;
mod stats;
mod table;
mod tally;
mod totals;
mod user;

pub use fair::Fair;
pub(in crate::relay) use fair::Place;
pub use keeper::{Keeper, Kept, NotKept};
pub use limits::{Limits, Refusal};
pub use live::{LiveSession, Protocol};
pub use period::Period;
pub use registry::Users;
pub(crate) use session::Session;
pub use stated::{NewUser, Own, OwnUser};
pub use table::{Change, Member, Reloaded, Snapshot, Table, TableError};
pub use tally::Stats;
pub use totals::Totals;
pub use user::{Usage, User};
