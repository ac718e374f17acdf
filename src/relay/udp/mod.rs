//! Serves one packet socket: associations, their sessions and the replies.
//!
//! ```text
//! client ─> receive a batch ─> identify ─> association ─> open ─> encode ─> upstream socket
//! client <─ reply socket    <─ encode   <─ decode       <─ receive a batch <─┘  (one task per association)
//! ```
//!
//! An association is one client, known by its address or, with AEAD-2022, by its session id. It has one upstream socket
//! that takes replies from anybody (full cone). What it remembers of its client changes only after a packet has been
//! authenticated. Where rules send its datagrams by different ways, it has an association for each. All workers share the table, because a client that roams may reach another worker's socket.
//!
//! - `sides.rs`: what a protocol has to implement: [`PacketInbound`] and [`PacketOutbound`].
//! - `relay.rs`: [`Relay`], the way from the clients to the upstreams.
//! - `replies.rs`: the way back, one task per association.
//! - `table.rs`: all associations of a listening address, and which of them is evicted when the table is full.
//! - `waiting.rs`: datagrams that wait for an address, and those that are dropped.
//! - [`framing`]: what surrounds an address and its data on each side.
//! - [`over_stream`]: packets or datagrams inside a stream.

mod association;
pub mod framing;
pub mod over_stream;
mod relay;
mod replies;
mod sides;
mod table;
mod waiting;

pub use relay::Relay;
pub use sides::{
    Answers, ClientKey, Destination, Opened, PacketInbound, PacketOutbound, Route, ServerCheck,
    StreamClient, Upstream,
};
pub use table::{capacity_for, with_ending};
