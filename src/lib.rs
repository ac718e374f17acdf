//! `ssr`: an encrypted SOCKS5 proxy that speaks the Shadowsocks protocols.
//!
//! ```text
//! browser ── SOCKS5 ──> ssr local ══ AEAD stream / packets ══> ssr server ── DNS, TCP, UDP ──> the internet
//! ```
//!
//! # Floors
//!
//! A module uses only the floors below it, and modules on one floor do not use each other. The files of a module do not
//! import each other in circles. `tests/layers.rs` checks all of this.
//!
//! | floor | module | contents |
//! |---|---|---|
//! | 6 | [`app`] | builds the services from the config, runs them, shuts them down |
//! | 5 | [`config`] | reads the config and checks it; `ss://` URLs |
//! | 5 | [`control`] | what a running process tells the commands of its operator |
//! | 4 | [`inbound`] | ways in: SOCKS5, Shadowsocks, ports with one target, reverse tunnels |
//! | 4 | [`outbound`] | ways out: direct, through a Shadowsocks server, over WebSocket, through a reverse tunnel |
//! | 4 | [`route`] | rules: which requests go direct, through a server, or nowhere |
//! | 3 | [`relay`] | moves bytes between an inbound and an outbound: TCP streams, UDP packets, links of reverse tunnels |
//! | 3 | [`dns`] | resolves names, with one cache |
//! | 2 | [`net`] | sockets, dialing, streams (TCP, TLS, WebSocket, mux, in-memory pipes), batches of datagrams, buffers |
//! | 1 | [`wire`] | codecs without IO, clock or randomness |
//! | 0 | [`crypto`] | methods, keys, AEAD in place, salt pool, sliding window |
//! | 0 | [`limits`] | the fixed limits of the process |
//!
//! # Where to find what
//!
//! | question | file |
//! |---|---|
//! | Where is a byte sealed (encrypted) or opened (decrypted)? | streams: `relay/tcp/half.rs` moves it, `relay/sealed.rs` fills the buffer, `wire/ss/stream.rs` seals it; datagrams: `relay/udp/framing.rs`, `wire/ss/packet/sealer.rs`; both with `crypto/aead.rs` |
//! | Where is a client told it is connected before the dial succeeds? | `connect` in `relay/tcp/service.rs` |
//! | What does a new way in touch? | its file in `inbound/`; `Protocol` in `config/meaning/model.rs`, its parser in `config/meaning/locals.rs`; one line of the `match` in `app/services/local.rs`; `docs/config.md` |
//! | What does a new way out touch? | its file in `outbound/`, and the role in `app/services/` that uses it |
//! | Where does an address get its name back? | names in TLS and HTTP: `inbound/sniff.rs`; fake addresses: `dns/fake.rs` |
//! | Where is a UDP association (of an address, or of a session id of AEAD-2022) evicted? | `relay/udp/table.rs` |
//! | Where is a replay refused? | `relay/replay.rs`; packets of AEAD-2022 in `wire/ss/packet/session.rs`, by `crypto/window.rs` |
//! | Who makes room when all places are taken? | strangers: `app/handshakes.rs`; visitors: `app/visitors.rs`; streams before their client is authenticated: `net/ws/mux/admission.rs` |
//! | Who says that a client was refused, or that a server does not answer? | `relay/strangers.rs`; `outbound/balancer/silence.rs`, told by `relay/tcp/record.rs` and `relay/udp/replies.rs` |
//! | What limits the memory of a visitor, a client, the process? | `limits.rs`, `relay/link/limits.rs` |
//! | Where is a TTL clamped? | `Cache::clamp_ttl` in `dns/cache.rs` |
//! | Where does a counter by user go? | a field of `User` in `relay/users/user.rs`, added to in `User::moved`, which streams call in `relay/tcp/account.rs` and associations in `relay/udp/association.rs` |
//! | Where does a limit of a user hold? | when something begins: `Session::begin`; while it lasts: `User::review`, and `relay/users/pace.rs` for the rate |
//! | Which addresses are private? | `outbound/dialer.rs` |
//!
//! # Two roles, one data path
//!
//! [`relay::tcp::Service`] serves every stream of both roles: `ssr local` and `ssr server` differ only in the inbound and
//! the outbound that `app/services/` passes to it. [`relay::udp::Relay`] does the same for datagrams.
//!
//! *Seal* means plain to encrypted, *open* means encrypted to plain. `ssr local` seals the request and opens the response;
//! `ssr server` opens the request and seals the response. *Up* is from the client to the target, *down* is back.
//!
//! # The path of a byte
//!
//! 1. A worker is a thread with its own reactor and listeners (`app/worker.rs`). It accepts a connection.
//! 2. An [`inbound`] reads the handshake and returns a [`relay::tcp::Request`].
//! 3. An [`outbound`] connects. The client's first bytes are sent together with the header of the request.
//! 4. [`relay::tcp::half`] moves the bytes of one direction. It waits until the socket is readable, takes a buffer from the
//!    worker's pool ([`net::pool`]), reads into the gaps that the codec ([`wire::ss::stream`]) leaves for payload, seals or
//!    opens the chunks in place, writes them, and returns the buffer. Payload of a relayed stream is not copied, nothing is
//!    allocated for a chunk, and an idle flow holds no buffer. TLS, WebSocket and links of reverse tunnels do copy.
//! 5. A bulk flow yields after each turn. While other flows of the worker wait for small answers, bulk flows run one at a
//!    time (`relay/tcp/fairness.rs`).
//!
//! TLS and WebSocket are layers of the stream ([`net::stream`], [`net::transport`]); the relay does not know of them. If
//! both ends are plain sockets and nothing is encrypted, the kernel moves the bytes (`relay/tcp/splice.rs`).
//!
//! # Reverse tunnels
//!
//! `ssr local` opens an ordinary stream to a reserved target. From then on it is a link, and both ends speak the frames of
//! [`wire::reverse`] on it. [`relay::link`] carries the streams and datagrams of visitors over it: its core knows neither
//! sockets nor clock, its driver reads and writes the stream. At both ends, an in-memory pipe ([`net::pipe`]) connects the
//! stream of a visitor to a [`relay::tcp::Service`].
//!
//! # Hostile peers
//!
//! A client without the key gets no byte, and every wrong request looks the same to it (`inbound/shadowsocks.rs`). Only an
//! authenticated peer can change what a session remembers. Every table, queue and length that a peer can influence has a
//! limit.

pub mod app;
pub mod config;
pub mod control;
pub mod crypto;
pub mod dns;
pub mod inbound;
pub mod limits;
pub mod net;
pub mod outbound;
pub mod relay;
pub mod route;
pub mod wire;
