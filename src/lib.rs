//! `ssr`: an encrypted SOCKS5 proxy that speaks the Shadowsocks protocols.
//!
//! ```text
//! browser ── SOCKS5 ──> ssr local ══ AEAD stream / packets ══> ssr server ── DNS, TCP, UDP ──> the internet
//! ```
//!
//! # Floors
//!
//! A module uses only floors below it, and siblings on one floor do not see each other; `tests/layers.rs` holds the
//! tree to that.
//!
//! | floor | module | what lives there |
//! |---|---|---|
//! | 6 | [`app`] | builds the services from the config, runs them, lets them end |
//! | 5 | [`config`] | the config as written, and as meant; `ss://` URLs |
//! | 4 | [`inbound`] | who asks for what: SOCKS5 programs, Shadowsocks clients, ports with one target, visitors of reverse tunnels |
//! | 4 | [`outbound`] | how to reach it: directly, through a server, through a reverse tunnel |
//! | 3 | [`relay`] | serves one stream, one packet socket, one link of a reverse tunnel |
//! | 3 | [`dns`] | from names to addresses, under one cache |
//! | 2 | [`net`] | listeners, dialling, streams in vectors (TCP, TLS, WebSocket, mux, pipes), datagrams in batches, buffers |
//! | 1 | [`wire`] | codecs: no IO, no clock, no randomness |
//! | 0 | [`crypto`] | methods, keys, AEAD in place, salt pool, sliding window |
//!
//! # Two roles, one function
//!
//! [`relay::tcp::serve`] serves a stream, whoever sits at its ends; `local` and `server` differ only in the inbound and
//! outbound that `app/services.rs` hands to it. The same holds below: to *seal* is plain to encrypted, to *open* is
//! encrypted to plain. `local` seals the request and opens the response, `server` opens the request and seals the
//! response. [`relay::udp::Relay`] does the same for datagrams; which UDP session is evicted when the table is full,
//! `relay/udp/table.rs` decides.
//!
//! # The way of a byte
//!
//! 1. A worker is a thread with a reactor and listeners of its own (`app/worker.rs`).
//! 2. [`inbound`] reads the handshake and says what is wanted ([`relay::tcp::Request`]).
//! 3. [`outbound`] connects; the client's first bytes ride with the request's head.
//! 4. [`relay::tcp::half`] moves the bytes: it waits for readiness, only then takes a buffer from the worker's pool
//!    ([`net::pool`]), reads straight into the places that the codec leaves for payload
//!    ([`wire::ss::stream`]), seals or opens them where they stand, writes, and gives the buffer back. No payload byte
//!    is copied, nothing is allocated, and an idle flow holds no buffer.
//! 5. A flow that moves much gives way after a turn, and while others of its worker wait for answers, flows of bulk go
//!    one by one (`relay/tcp/fairness.rs`).
//!
//! What stands between TCP and Shadowsocks is a layer of the stream ([`net::stream`], [`net::transport`]): the relay does
//! not know of it. Where both ends are bare sockets and nothing is sealed, the kernel moves the bytes
//! (`relay/tcp/splice.rs`).
//!
//! # Reverse tunnels
//!
//! `local` opens an ordinary stream to a reserved target; from then on both ends speak the frames of [`wire::reverse`] on
//! it. [`relay::link`] carries streams and datagrams over it: its core knows neither sockets nor clock, its driver owns
//! the carrier. A visitor's stream reaches [`relay::tcp::serve`] at both ends by way of a pipe ([`net::pipe`]).
//!
//! # Strangers
//!
//! Whoever does not know the key gets no byte and sees one behaviour (`inbound/shadowsocks.rs`). What a session
//! remembers moves only after authentication, and `inbound/shadowsocks/replay.rs` refuses replays. Every table, queue and length that a peer can influence is bounded.

pub mod app;
pub mod config;
pub mod crypto;
pub mod dns;
pub mod inbound;
pub mod net;
pub mod outbound;
pub mod relay;
pub mod wire;
