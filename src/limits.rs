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
/// Bytes of memory that are kept for the process itself where its control group limits its memory: code, stacks, tables.
pub const OWN_MEMORY: u64 = 12 << 20;
/// Bytes of memory that a socket of an idle connection takes in the process and in the kernel.
pub const SOCKET_MEMORY: u64 = 4608;
/// Public ports that the links of all clients have open.
pub const MAX_PUBLIC_PORTS: usize = 4096;
/// Connections of one listening socket that wait in the kernel until they are accepted; it has a limit of its own.
pub const BACKLOG: i32 = 4096;
/// Bytes of a bulk flow that a TCP socket takes while it may not send them yet.
pub const MAX_UNSENT: u32 = 64 * 1024;
/// Bytes of the receive buffer with which the system begins, at most. That of a bulk flow stays as it is until the sink has proved to
/// be fast, or the source slower.
pub const FIRST_RECEIVE_BUFFER: usize = 256 * 1024;
/// How long nothing may have moved to or from a visitor that has sent something before it can lose its place to another.
pub const VISITOR_SILENCE: Duration = Duration::from_secs(10);
/// How long a peer may have acknowledged nothing and sent nothing, while data for it was sent again and again, until the flow
/// ends. A path that is back within half this time is used again: the system waits twice as long before each repetition.
pub const UNACKNOWLEDGED: Duration = Duration::from_secs(60);
/// How long flows may continue after SIGTERM or SIGINT.
pub const DRAIN_TIME: Duration = Duration::from_secs(10);

// The manager.

/// Bytes of a command of a manager.
pub const MAX_MANAGER_COMMAND: usize = 64 * 1024;
/// Bytes after which an answer to a manager is continued in another datagram.
pub const MANAGER_ANSWER: usize = 32 * 1024;
/// How long an answer may wait for a manager that does not read.
pub const MANAGER_SEND_TIME: Duration = Duration::from_secs(1);
/// Ports that a manager has added.
pub const MAX_MANAGER_PORTS: usize = 4096;

// Handshakes and strangers.

/// Bytes of the head of an HTTP request or response.
pub const MAX_HEAD: usize = 16 * 1024;
/// Bytes that are read at once from a visitor of an HTTP service, after its first request. Rewritten they are at most eight
/// times as many, and no more is read until the service has taken them.
pub const HTTP_READ: usize = 16 * 1024;
/// Bytes of a handshake message that wait for its rest. Each protocol has a lower limit of its own.
pub const MAX_UNREAD: usize = 64 * 1024;
/// Bytes that are read from a peer after its handshake was rejected, so that it receives the answer and not a reset.
pub const MAX_REJECTED_BYTES: usize = 256 * 1024;
/// Bytes that are read from a stranger and discarded; further bytes stay in the socket.
pub const MAX_STRANGER_BYTES: usize = 1 << 20;
/// How long the salt of an AEAD-2022 stream is remembered. Its timestamp may be 30 s ahead and is accepted until it is
/// 30 s old, and timestamps are whole seconds.
pub const SALT_LIFETIME: Duration = Duration::from_secs(61);
/// What of these 30 s may have been on its way while a server started: an older timestamp than this is not accepted then.
pub const IN_FLIGHT: Duration = Duration::from_secs(5);
/// Salts of AEAD-2022 streams that a server remembers: only 30,000 connections a second fill it, with 36 MiB. A half of it is
/// the most that fits into as much memory.
pub const DATED_SALTS: usize = 2 * (7 << 18);
/// Salts of AEAD-2017 streams that a server remembers, received and sent each: about 5.3 MiB when full.
pub const STREAM_SALTS: usize = 1 << 18;
/// Salts of AEAD-2017 packets that a server remembers, received and sent each: about 1.3 MiB when full.
pub const PACKET_SALTS: usize = 1 << 16;
/// Salts of AEAD-2017 methods that a client remembers, of streams and packets, received and sent each: 0.7 MiB when full.
pub const CLIENT_SALTS: usize = 1 << 15;
/// Packet sessions of AEAD-2022 that have ended and are remembered for as long as salts are: about 2.6 MiB when full.
pub const ENDED_SESSIONS: usize = 2 * (7 << 12);

/// Bytes of a redirected connection in which the name of the host is looked for.
pub const MAX_SNIFFED: usize = 4096;
/// How long these bytes are waited for: so long a target that speaks first is delayed.
pub const SNIFF_TIME: Duration = Duration::from_millis(200);

// The site in front of a listener (`fallback`).

/// Connections of visitors of one site; beyond it, the oldest one of the network with the most is closed.
pub const MAX_SITE_VISITORS: usize = 1024;
/// Bytes of a message that wait in the process, in each direction of one connection of a visitor or to a web server.
pub const SITE_BUFFER: usize = 64 * 1024;
/// How long a connection of a visitor, or to a web server, may be without a request.
pub const SITE_KEEP_ALIVE: Duration = Duration::from_secs(60);
/// How long nothing may move while a visitor's request is read or answered.
pub const SITE_STALL: Duration = Duration::from_secs(75);
/// Files of a site that are opened at once.
pub const MAX_SITE_FILES: usize = 16;
/// Bytes of the longest file that is compressed on its way.
pub const MAX_COMPRESSED: u64 = 1 << 20;
/// Web servers behind a site.
pub const MAX_UPSTREAMS: usize = 64;
/// Idle connections that are kept to each of them.
pub const MAX_UPSTREAM_IDLE: usize = 32;
/// Web servers that one request is tried on.
pub const MAX_UPSTREAM_TRIES: usize = 3;
/// How long a web server may take until it begins to answer.
pub const UPSTREAM_ANSWER: Duration = Duration::from_secs(60);
/// How long a web server that gave no answer is asked after the others.
pub const UPSTREAM_DOWN: Duration = Duration::from_secs(10);
/// How often each is asked for the path of `check`, and how long it may take to answer.
pub const UPSTREAM_CHECK: Duration = Duration::from_secs(5);

// Datagrams.

/// Datagrams of one listening address that wait until a name is resolved; beyond it, the oldest one of the client with the
/// most makes room.
pub const MAX_RESOLVING: usize = 256;
/// Datagrams that wait in a socket inside the process; more are dropped.
pub const MAX_QUEUED: usize = 1024;
/// Bytes of those datagrams.
pub const MAX_QUEUED_BYTES: usize = 256 * 1024;
/// Streams that carry UDP packets at once: of one `ssr local`, and of one server.
pub const MAX_UDP_STREAMS: usize = 4096;
/// Bytes of packets on their way into such a stream; more are dropped, as on a network.
pub const UDP_STREAM_WINDOW: usize = 512 * 1024;
/// Bytes of packets on their way out of such a stream.
pub const UDP_STREAM_BUFFER: usize = 128 * 1024;
/// Sockets from which one worker of a `redir` listener answers, one for each address that answers came from.
pub const MAX_REPLY_SOCKETS: usize = 256;
/// Connections that programs have open through one tun device; the one that was silent for the longest time makes room.
pub const MAX_TUN_CONNECTIONS: usize = 32_768;
/// Connections through one tun device that are being opened, or have ended; the oldest makes room.
pub const MAX_TUN_OPENING: usize = 4096;
/// Datagrams that come through one tun device in fragments, and are not complete; the oldest makes room.
pub const MAX_TUN_FRAGMENTED: usize = 64;
/// Clients whose name server is remembered, where a tun device sends queries to another one.
pub const MAX_TUN_QUERIES: usize = 4096;

// Names.

/// Names that are resolved at once; beyond it, the oldest one of the client with the most fails. Each costs a task, two
/// sockets and their buffers.
pub const MAX_PENDING: usize = 1024;
/// Name servers of one configuration.
pub const MAX_NAME_SERVERS: usize = 16;
/// Addresses that are kept of one name and record type.
pub const MAX_ADDRESSES: usize = 32;
/// Addresses of a name that are tried.
pub const MAX_ATTEMPTS: usize = 8;

// DNS locals.

/// Queries of one `dns` local that wait for a name server; beyond it, the oldest fails.
pub const MAX_QUERIES: usize = 1024;
/// Clients that wait for these queries; beyond it, the oldest query fails.
pub const MAX_ASKERS: usize = 4096;
/// Bytes of a client's query.
pub const MAX_QUERY: usize = 1232;
/// Bytes of an answer in a datagram, to clients and from name servers: what every path carries in one piece.
pub const MAX_UDP_ANSWER: u16 = 1232;
/// Bytes of the answers that one `dns` local keeps.
pub const MAX_ANSWER_CACHE: usize = 8 << 20;
/// Queries of one TCP connection of a client that wait; it is not read further.
pub const MAX_CLIENT_QUERIES: usize = 32;
/// Queries that wait on one stream to a name server; more fail.
pub const MAX_PIPELINED: usize = 256;
/// Datagrams that are not the answer to a query, after which it is asked by a stream.
pub const MAX_FORGERIES: usize = 16;
/// How long a query may take until the client hears that there is no answer.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

// Fake addresses.

/// Names of one `fake-dns` local that have an address of each family; beyond it, the least recently used is forgotten.
pub const MAX_FAKE_NAMES: usize = 65_536;

// Buffers and streams.

/// Bytes of buffers in use, where the config does not set `memory_mib`. From three quarters of it on, flows get small buffers
/// only; when it is used up, tiny ones.
pub const DEFAULT_BUDGET: usize = 256 << 20;
/// Bytes of one kernel pipe; the system may grant less.
pub const KERNEL_PIPE: usize = 256 * 1024;
/// Kernel pipes in use by all workers: as many as Linux grants a user without privileges (`pipe-user-pages-soft` of pipe(7)).
pub const MAX_KERNEL_PIPES: usize = 16384 * 4096 / KERNEL_PIPE;
/// Streams of mux.cool in one WebSocket at once; clients of v2ray-plugin open no more.
pub const MAX_MUX_STREAMS: usize = 128;
/// Those of them that may have sent something while their client is not authenticated. The first counts with its WebSocket;
/// of all others together, there are at most as many as handshakes.
pub const MAX_STRANGER_STREAMS: usize = 4;
/// Bytes that wait in one of these streams.
pub const MUX_WINDOW: usize = 256 * 1024;
/// Streams of one session of sing-box's `multiplex`; a further one is reset.
pub const MAX_MULTIPLEX_STREAMS: usize = 256;
/// Bytes that a stream of yamux or h2mux may send before its reader takes them; yamux prescribes as many.
pub const MULTIPLEX_WINDOW: u32 = 256 * 1024;
/// Unread bytes of all streams of a session of smux, which has no windows. At this limit the session is not read.
pub const SMUX_WINDOW: usize = 4 << 20;
/// How long a session of smux waits at this limit for the stream with the most unread bytes, before it resets it.
pub const SMUX_STALL: Duration = Duration::from_secs(30);
/// Bytes of a multiplexed stream that wait for the session.
pub const MULTIPLEX_BUFFER: usize = 64 * 1024;
/// Streams of a session that wait to be opened at once.
pub const MAX_MULTIPLEX_OPENING: usize = 64;
/// Sessions of `multiplex` with one server.
pub const MAX_MULTIPLEX_SESSIONS: usize = 64;
/// How long the client's side of a session lives without streams.
pub const MULTIPLEX_IDLE: Duration = Duration::from_secs(25);
/// Bytes of a plain HTTP request or response that wait in the process, in each direction of one connection.
pub const HTTP_WINDOW: usize = 128 * 1024;
/// Streams of one QUIC connection at once; a further one waits at the client.
pub const MAX_QUIC_STREAMS: u32 = 1024;
/// Those of a connection whose client is not authenticated yet.
pub const MAX_QUIC_STRANGER_STREAMS: u32 = 4;
/// UDP associations of one QUIC connection; beyond it, the least recently used of them makes room.
pub const MAX_QUIC_ASSOCIATIONS: usize = 1024;
/// Packets of UDP on their way in one QUIC connection, each way, that are too long for a datagram: each has a stream of its own.
pub const MAX_QUIC_LONG_PACKETS: u32 = 512;
/// How long such a packet may be on its way.
pub const QUIC_LONG_PACKET_TIME: Duration = Duration::from_secs(5);
/// Bytes of datagrams of one QUIC connection that wait to be sent, and of those that were received and not yet read.
pub const QUIC_DATAGRAM_BUFFER: usize = 512 * 1024;
/// Bytes of all streams of a QUIC connection that were sent and not yet acknowledged, or received by a server and not yet read.
pub const QUIC_CONNECTION_WINDOW: u32 = 16 << 20;
/// Bytes of all streams of a QUIC connection that its client has received and not yet read: those of many readers that do not read, so
/// that they do not stop the others.
pub const QUIC_DOWN_WINDOW: u32 = 128 << 20;
/// Bytes of one stream that were received and not yet read.
pub const QUIC_STREAM_WINDOW: u32 = 8 << 20;
/// The same at a server, and of a visitor of a reverse tunnel at both ends.
pub const QUIC_UP_WINDOW: u32 = 1 << 20;
/// Bytes that a server takes on a QUIC connection whose client is not authenticated yet, or while buffers are used up.
pub const QUIC_LEAST_WINDOW: u32 = 128 * 1024;
/// How long the peer of a QUIC connection may be silent. Flows outlive a network that is away for less.
pub const QUIC_TIMEOUT: Duration = Duration::from_secs(180);
/// How long a client keeps a QUIC connection without flows.
pub const QUIC_UNUSED: Duration = Duration::from_secs(60);
/// Bytes that a stream of QUIC sends before the server has agreed to early data.
pub const MAX_EARLY_DATA: usize = 64 * 1024;
/// Tickets that a QUIC port remembers, by which clients send data with their first packet; the oldest are forgotten.
pub const MAX_QUIC_TICKETS: usize = 2048;
/// QUIC connections that wait to be accepted.
pub const MAX_QUIC_WAITING: usize = 256;
/// Earlier listeners of a QUIC port whose connections are not over, each replaced by a reload or an upgrade; beyond it, those of the
/// oldest end.
pub const MAX_QUIC_EARLIER: usize = 16;
/// Bytes of datagrams that wait for one of them; the system may allow less. What finds no room is dropped.
pub const QUIC_PASSED: usize = 1 << 20;
/// Spare connections to one server.
pub const MAX_WARM: usize = 64;

// Servers that fail.

/// Bytes of a request that are kept to be sent to another server.
pub const MAX_KEPT_REQUEST: usize = 16 * 1024;
/// Servers that one request is tried on.
pub const MAX_TRIED_SERVERS: usize = 4;
/// Probes whose results are kept of one server; shadowsocks-rust keeps as many.
pub const PROBES_KEPT: usize = 67;
/// Probes that run at once.
pub const MAX_PROBES: usize = 16;

// Downloads.

/// How long a download may take.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Redirects that a download follows.
pub const MAX_REDIRECTS: u32 = 5;
/// Bytes of a list of servers that is downloaded.
pub const MAX_SUBSCRIPTION: u64 = 4 << 20;
/// Servers of such a list.
pub const MAX_SUBSCRIBED_SERVERS: usize = 1024;
/// Plugins that run for such a list at once, those of servers that were in it before included.
pub const MAX_SUBSCRIBED_PLUGINS: usize = 16;
/// Parts of the config that accept nothing any more since a reload, and still have something open.
pub const MAX_RETIRED: usize = 1024;
/// Bytes of what a record of `ssr upgrade` says.
pub const MAX_HANDOVER_HEAD: usize = 64 << 10;
/// Bytes beside it: what a server has seen of salts is the most.
pub const MAX_HANDOVER_BLOB: usize = 256 << 20;
/// How long the new process of `ssr upgrade` may take until it is ready.
pub const UPGRADE_TIME: Duration = Duration::from_secs(30);

// What failed, and who asks.

/// Streams and associations that failed and are kept for `ssr why`, of each kind: clients' that got no answer, clients' that
/// broke later, visitors', strangers'.
pub const FAILED_KEPT: usize = 64;
/// Characters that are kept of a target, a server, a rule or an error there.
pub const MAX_FAILED_TEXT: usize = 400;
/// Commands such as `ssr why` that one process answers at once.
pub const MAX_ASKING: usize = 8;
/// Bytes of what such a command asks.
pub const MAX_QUESTION: usize = 1024;
/// Bytes of the answer that it reads.
pub const MAX_ANSWER: u64 = 4 << 20;
/// How long such a command waits for the process.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the process waits for such a command.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

// The admin API.

/// Connections to the admin API; beyond it, the oldest one whose caller has not shown the token makes room.
pub const MAX_ADMIN_CONNECTIONS: usize = 64;
/// Bytes of the body of a request to it.
pub const MAX_ADMIN_BODY: usize = 64 * 1024;
/// How long a caller may take to send a request, or to take the answer.
pub const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one connection may be used for further requests.
pub const ADMIN_CONNECTION_TIME: Duration = Duration::from_secs(60);
/// Sessions that it lists at once.
pub const MAX_LISTED_SESSIONS: usize = 10_000;
/// Wrong tokens of one source in a minute; then it is refused until the minute is over.
pub const MAX_WRONG_TOKENS: u32 = 10;
/// Sources whose wrong tokens are counted; beyond it, the one that was quiet for the longest time is forgotten.
pub const MAX_WRONG_SOURCES: usize = 4096;

// The log.

/// How long lines of one kind that packets or strangers cause are counted after the first was logged.
pub const SAMPLE_TIME: Duration = Duration::from_secs(60);
/// Lines of one kind that are logged in this time: the first of as many sources or causes.
pub const SAMPLED_LINES: usize = 8;
/// Bytes of lines that wait for one writer of the log; further lines are dropped, and counted.
pub const MAX_LOG_WAITING: usize = 1 << 20;
/// How long the end of the process waits until they are written.
pub const LOG_FLUSH_TIME: Duration = Duration::from_secs(2);

// Users.

/// Users of one server. A config may state more; then none is added while it runs.
pub const MAX_USERS: usize = 10_000;
/// Bytes of the name of a user that is added while a server runs.
pub const MAX_USER_NAME: usize = 128;
/// Addresses whose last user is remembered, of one server with users of an AEAD-2017 method; beyond it, the one that was quiet
/// for the longest time is forgotten, and all users are tried for its next request.
pub const MAX_SENDERS: usize = 16_384;
/// Bytes a second that a server with users of an AEAD-2017 method opens in vain, at most, to find whose datagrams from unknown
/// addresses are: a fifth of one core. Further ones are dropped; users at known addresses go on.
pub const MAX_TRIED_BYTES: u64 = 256 << 20;
/// Bytes that wait unsent in the socket of a client, where users share fairly (`fair`).
pub const UNSENT: u32 = 16 * 1024;
/// How often what users have used is saved in `admin.state`.
pub const SAVE_TIME: Duration = Duration::from_secs(5);
/// Changes of users that wait until they are saved; a further one is told that it is not saved yet.
pub const MAX_KEEPING: usize = 64;

// The store of several servers.

/// The time between two exchanges with the store: a server writes what its users have used, and reads what they have used elsewhere.
pub const STORE_TIME: Duration = Duration::from_millis(250);
/// How long the store may take to accept a connection, and to answer.
pub const STORE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a request waits for the store to say whether its salt is new.
pub const SHARED_SALT_TIME: Duration = Duration::from_millis(100);
/// Salts that wait for the store's answer; a further one is judged by what the server knows itself.
pub const MAX_SHARED_SALTS: usize = 1024;
/// How long the store remembers the salt of an AEAD-2017 stream, which has no timestamp.
pub const SHARED_SALT_LIFETIME: Duration = Duration::from_secs(3600);
/// Entries that are sent to the store, or read from it, at once.
pub const STORE_BATCH: usize = 500;
/// Entries of one list of users that a server takes from the store: a user has one, and one for each process that has
/// served it.
pub const MAX_STORE_ENTRIES: usize = 1 << 18;
/// How long nobody was at a process until what it has counted is added to the sum of those that have ended.
pub const STORE_SILENCE: Duration = Duration::from_secs(86_400);
/// Bytes of an entry; longer ones are left in the store.
pub const MAX_STORE_ENTRY: usize = 2048;

// Rules.

/// Rules of one config; a rule may have any number of destinations.
pub const MAX_RULES: usize = 100_000;

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
