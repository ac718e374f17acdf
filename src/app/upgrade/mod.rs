//! A new process takes over from this one, or this one from an earlier one, without a connection being refused.
//!
//! ```text
//! old                                       new
//!  │ starts it; its standard input is one end of a pair of sockets
//!  │ sockets, "begin" ───────────────────────> │ reads its config, builds its services on these sockets
//!  │ <──────────────────────── "ready" or why not │ (then the old one goes on as if nothing had been)
//!  │ closes its sockets; connections wait in the kernel
//!  │ what it has seen of salts, "go" ────────> │ serves
//!  │ what it has seen since, now and then ───> │
//!  │ ends with its last connection             │
//! ```
//!
//! - `message.rs`: what they say to each other.
//! - `old.rs`, `new.rs`: the two sides.

mod message;
mod new;
mod old;

pub(super) use message::Seen;
pub(super) use new::Inherited;
pub(super) use old::{Legacy, Successor};
