//! Floor 5: what a running process tells the commands of its operator, over a unix socket, and the admin API, over HTTP.
//!
//! The socket is named after the process id and lies in the runtime directory of the user, with mode 0600: only this user
//! and root can ask. A command sends one line, `{"ask": "…"}`, and gets one JSON document.
//!
//! - [`place`]: where the sockets are.
//! - [`answer`]: the side of the process.
//! - [`facts`]: what the process knows of itself.
//! - [`ask`]: the side of the command.
//! - [`state`]: keeps what users have used, beyond the process.
//! - [`store`]: shares users and what they have used with other servers.
//! - [`call`]: the side of the command, for the admin API.
//! - [`status`]: what the process does, and what its users have used, as JSON and as text.
//! - [`manager`]: the protocol of ss-manager.
//! - [`orders`]: what a process is told to do: to read its config again.
//! - [`admin`]: the admin API.
//! - [`metrics`]: what it knows, for Prometheus.
//! - [`own`]: what the system says of this process.
//! - [`why`]: the streams and associations that failed, as JSON and as text.

#[cfg(feature = "admin")]
pub mod admin;
pub mod answer;
pub mod ask;
#[cfg(feature = "admin")]
pub mod call;
pub mod facts;
pub mod manager;
#[cfg(feature = "admin")]
pub mod metrics;
pub mod orders;
pub mod own;
pub mod place;
pub mod state;
pub mod status;
pub mod store;
pub mod why;
