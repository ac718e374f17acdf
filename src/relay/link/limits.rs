//! Every limit of a link, its streams and its visitors.
//!
//! What one visitor can make a side hold:
//! - TCP: at most its receive window ([`INITIAL_WINDOW`], which grows to [`MAX_STREAM_WINDOW`] while it is fast) of
//!   bytes that nobody has read, and [`SEND_BUFFER`] plus one buffer of the pool of bytes that wait for the link, as far
//!   as its peer takes them.
//! - UDP, on the client: at most [`FLOW_QUEUE`] datagrams that wait for its socket. On the server:
//!   [`MAX_QUEUED`](crate::limits::MAX_QUEUED) replies of [`MAX_QUEUED_BYTES`](crate::limits::MAX_QUEUED_BYTES) together.
//! - HTTP, on the server: beside what TCP holds, [`HTTP_READ`](crate::limits::HTTP_READ) bytes and what they are rewritten to.
//!
//! Over QUIC, a visitor with a stream of its own makes each side hold at most [`QUIC_UP_WINDOW`](crate::limits::QUIC_UP_WINDOW) in each direction. There are at most
//! [`OWN_STREAMS`] of them, and together they take at most half of the config's `memory_mib`.
//!
//! What all visitors of one link can make it hold: [`MAX_LINK_WINDOW`] of unread bytes, [`MAX_LINK_SEND`] of bytes that wait
//! for the link (of both no more than the config's `memory_mib`), [`MAX_DATAGRAM_BYTES`] of
//! datagrams twice (in the queue of the [`Handle`](super::Handle) and in the link), [`MAX_CONTROL_BYTES`] of other
//! frames and [`MAX_COMMANDS`] commands.
//!
//! Limits of the protocol itself (ids, payloads, messages) are in [`wire::reverse`](crate::wire::reverse); the number
//! of visitors at public ports is `limits.visitors` of the config.

use std::time::Duration;

use crate::net::pool::Size;

/// Bytes that a peer may send on a new stream. Enough for 100 Mbit/s over 20 ms before the window has grown.
pub const INITIAL_WINDOW: u32 = 256 * 1024;
/// The largest receive window of a stream, in bytes. Enough for 1 Gbit/s over 130 ms.
pub const MAX_STREAM_WINDOW: u64 = 16 << 20;
/// The most unread bytes that a link holds, and the most by which all its windows together may grow, in bytes. Beyond
/// it the stream with the most unread bytes is reset.
pub const MAX_LINK_WINDOW: u64 = 64 << 20;
/// The memory of an unread stream beside its bytes, as [`MAX_LINK_WINDOW`] counts it.
pub const UNREAD_OVERHEAD: u64 = Size::Tiny.bytes() as u64;
/// Bytes of buffers, of all streams of a link, that wait for it. From half of it on, each stream may have one frame waiting;
/// beyond it, streams wait in turn and their bytes stay in the sockets.
pub const MAX_LINK_SEND: usize = 32 << 20;
/// Of these bytes, those that a link may hold whatever the other buffers of the process take.
pub const MIN_LINK_SEND: usize = 1 << 20;
/// Bytes that a stream's user may write before it waits for the link.
pub const SEND_BUFFER: usize = 256 * 1024;
/// Streams and flows that may exist at once on a link. Beyond it visitors are refused.
pub const MAX_STREAMS: usize = 1 << 16;

/// Commands of other tasks that may wait for the link's task. Visitors are refused from half of it on; the other half
/// is for answers and resets, which must not be lost: beyond it the link is closed.
pub const MAX_COMMANDS: usize = 1 << 16;
/// Memory of frames that wait for the carrier, without data and datagrams, in bytes. Visitors are refused from half of
/// it on; beyond it the link is closed, since its peer does not read.
pub const MAX_CONTROL_BYTES: usize = 8 << 20;
/// Datagrams that may wait in one queue; the oldest is dropped.
pub const MAX_DATAGRAMS: usize = 1024;
/// Bytes of the datagrams that may wait in one queue; the oldest is dropped.
pub const MAX_DATAGRAM_BYTES: usize = 2 << 20;

/// Heartbeat intervals without a frame after which a peer is dead.
pub const MISSED_HEARTBEATS: u32 = 3;
/// How long a peer has to answer when another client wants its service; less if the heartbeat is shorter.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// The round-trip time of an active link is measured anew after this interval.
pub const ROUND_TRIP_INTERVAL: Duration = Duration::from_secs(1);
/// Rounds of reading and writing after which a busy link yields to other tasks of its worker.
pub const MAX_ROUNDS: usize = 2;

/// Services that one client may publish over one link.
pub const MAX_SERVICES: usize = 256;
/// New HTTP ports that may wait for their listener to start.
pub const MAX_NEW_HTTP_PORTS: usize = 1024;
/// Visitors that may be on their way from the link that has accepted them to another one with fewer visitors.
pub const MAX_PASSED: usize = 64;
/// Visitors of one link over QUIC that may have a stream of their own; further ones go through the link.
pub const OWN_STREAMS: u32 = 30;
/// UDP flows of one service on the server, and of one link on the client; the least recently used is closed for a new one.
pub const MAX_FLOWS: usize = 4096;
/// Datagrams of one UDP flow that may wait for its socket on the client; more are dropped. Those of all flows of a link have at
/// most [`MAX_DATAGRAM_BYTES`].
pub const FLOW_QUEUE: usize = 256;
