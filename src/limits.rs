//! Floor 0: the fixed limits of the process, in one table.
//!
//! Limits that the config sets are in `config::Limits`; those of a link of a reverse tunnel in `relay::link::limits`.
//! `docs/config.md` lists all three.

use std::time::Duration;

// Connections.

/// Files of one connection: the client's socket and the target's.
pub const CONNECTION_FILES: u64 = 2;
/// Files that are kept for the process itself: listeners, reactors, the log, sockets to name servers.
pub const OWN_FILES: u64 = 32;
/// Connections of one listening socket that wait in the kernel until they are accepted.
pub const BACKLOG: i32 = 1024;
/// How long flows may continue after SIGTERM or SIGINT.
pub const DRAIN_TIME: Duration = Duration::from_secs(10);

// Handshakes and strangers.

/// Bytes of a handshake message that wait for its rest. Each protocol has a lower limit of its own.
pub const MAX_UNREAD: usize = 64 * 1024;
/// Bytes that are read from a peer after its handshake was rejected, so that it receives the answer and not a reset.
pub const MAX_REJECTED_BYTES: usize = 256 * 1024;
/// Bytes that are read from a stranger and discarded; further bytes stay in the socket.
pub const MAX_STRANGER_BYTES: usize = 1 << 20;
/// How long the salt of an AEAD-2022 stream is remembered. Its timestamp may be 30 s ahead and is accepted until it is
/// 30 s old, and timestamps are whole seconds.
pub const SALT_LIFETIME: Duration = Duration::from_secs(61);
/// Salts of streams that a server remembers: about 10 MiB when full.
pub const STREAM_SALTS: usize = 1 << 18;
/// Salts of packets that a server remembers: about 2.5 MiB when full.
pub const PACKET_SALTS: usize = 1 << 16;

// Datagrams.

/// Datagrams of one listening address that wait until a name is resolved.
pub const MAX_RESOLVING: usize = 256;
/// Datagrams that wait in a socket inside the process; more are dropped.
pub const MAX_QUEUED: usize = 1024;
/// Bytes of those datagrams.
pub const MAX_QUEUED_BYTES: usize = 256 * 1024;
/// Streams that carry packets at once, on each side.
pub const MAX_UDP_STREAMS: usize = 4096;

// Names.

/// Names that are resolved at once. Each costs a task, two sockets and their buffers.
pub const MAX_PENDING: usize = 1024;
/// Name servers of one configuration.
pub const MAX_NAME_SERVERS: usize = 16;
/// Addresses that are kept of one name and record type.
pub const MAX_ADDRESSES: usize = 32;
/// Addresses of a name that are tried.
pub const MAX_ATTEMPTS: usize = 8;

// Buffers and streams.

/// Bytes of buffers in use above which flows get small buffers only, where the config does not set `memory_mib`.
pub const DEFAULT_BUDGET: usize = 256 << 20;
/// Streams of mux.cool in one WebSocket at once; clients of v2ray-plugin open no more.
pub const MAX_MUX_STREAMS: usize = 128;
/// Bytes that wait in one of these streams.
pub const MUX_WINDOW: usize = 256 * 1024;
/// Spare connections to one server.
pub const MAX_WARM: usize = 64;

// Config.

/// Bytes of a config file.
pub const MAX_CONFIG_SIZE: u64 = 16 << 20;
/// Diagnostics of one severity that are reported for one config.
pub const MAX_FINDINGS: usize = 100;

// Plugins and proxies on the way.

/// Bytes of a line that a plugin writes; a longer one becomes several lines of the log.
pub const MAX_PLUGIN_LINE: u64 = 1024;
/// Proxies in a row between `ssr` and a server or target.
pub const MAX_PROXIES: usize = 8;
/// Bytes of the head of a response to HTTP CONNECT.
pub const MAX_CONNECT_RESPONSE: usize = 16 * 1024;
