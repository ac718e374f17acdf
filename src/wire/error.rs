//! What a peer can get wrong on the wire.

use super::peer_protocol::PeerProtocol;
use super::{mux, websocket};

/// A message that breaks its protocol. The variant says what is wrong, [`Error::status`] is its short name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// An address of a type other than IPv4, domain name and IPv6. SOCKS answers it with a reply of its own.
    #[error("address type {0:#04x} is none of IPv4, domain name, IPv6")]
    AddressType(u8),
    /// A domain name that is empty, not UTF-8, or has spaces or control characters in it.
    #[error("the domain name is empty, not UTF-8, or has spaces or control characters")]
    AddressDomain,
    /// A datagram that ends before its header does.
    #[error("the datagram ends within its header")]
    Truncated,
    /// The first byte where SOCKS5 has its version. [`PeerProtocol::of`] tells what the peer speaks instead.
    #[error("not SOCKS5: {protocol} (first byte {0:#04x})", protocol = PeerProtocol::of(*.0))]
    SocksVersion(u8),
    /// The version of a password subnegotiation (RFC 1929) that is not 1.
    #[error("SOCKS5 password negotiation of version {0:#04x} instead of 0x01")]
    SocksAuthVersion(u8),
    /// An AEAD tag that does not fit: another key or method, or bytes changed on the way.
    #[error("authentication failed: another key or method, or bytes changed on the way")]
    Unauthenticated,
    /// An identity header (SIP023) that belongs to no user of this server.
    #[error("the identity header belongs to no user of this server")]
    UnknownIdentity,
    /// A salt or packet that has been here before.
    #[error("replayed: this salt or packet has been here before")]
    Replayed,
    /// A timestamp outside the window (SIP022 §3.1.5); positive when the peer's clock is ahead.
    #[error(
        "the peer's clock differs by {seconds} s from ours, at most 30 s are allowed: set both clocks"
    )]
    TimestampSkew {
        /// How far the peer's clock is ahead of ours, in seconds.
        seconds: i64,
    },
    /// A header of the other direction: a stream or packet sent back to where it came from.
    #[error("header type {0:#04x} is that of the other direction")]
    HeaderType(u8),
    /// Padding that is missing, too long, or longer than its header.
    #[error("padding is missing, too long, or longer than its header")]
    Padding,
    /// A chunk longer than its protocol allows.
    #[error("chunk longer than its protocol allows")]
    ChunkLength,
    /// A response to another request.
    #[error("the response belongs to another request")]
    SaltMismatch,
    /// A packet that answers another client session.
    #[error("the packet answers another session")]
    SessionMismatch,
    /// A SOCKS datagram that is a part of a longer one (RFC 1928 §7: an implementation may drop those).
    #[error("fragmented SOCKS datagrams are dropped")]
    Fragmented,
    /// A target that the config forbids.
    #[error("the config forbids this target")]
    Denied,
    /// Not the peer's fault: a table of ours is full or the system gives no more.
    #[error("out of sockets or room")]
    NoResources,
    /// A session that has used up its packet ids.
    #[error("the session has used up its packet ids")]
    PacketId,
    /// A tunnel of another version.
    #[error("tunnel frames of version {0}, we speak version 1")]
    TunnelVersion(u8),
    /// A frame of a tunnel longer than its protocol allows.
    #[error("tunnel frame longer than its protocol allows")]
    FrameLength,
    /// A frame of a tunnel that does not hold what it should.
    #[error("tunnel frame that does not hold what it should")]
    FrameContent,
    /// A frame of a tunnel that has no business there or then.
    #[error("tunnel frame out of turn")]
    FrameUnexpected,
    /// The frames of the first port-proxy, which authenticate nobody.
    #[error("the peer speaks port-proxy's first protocol, which is off: it authenticates nobody")]
    TunnelV0,
    /// A WebSocket frame that RFC 6455 forbids.
    #[error("WebSocket: {0}")]
    WebSocket(#[from] websocket::Violation),
    /// A mux.cool frame that makes no sense.
    #[error("mux.cool: {0}")]
    Mux(#[from] mux::Violation),
}

impl Error {
    /// A short name, fit for a metric label and a log field.
    #[must_use]
    pub const fn status(self) -> &'static str {
        match self {
            Self::AddressType(_) => "address_type",
            Self::AddressDomain => "address_domain",
            Self::Truncated => "truncated",
            Self::SocksVersion(_) => "socks_version",
            Self::SocksAuthVersion(_) => "socks_auth_version",
            Self::Unauthenticated => "unauthenticated",
            Self::UnknownIdentity => "unknown_identity",
            Self::Replayed => "replayed",
            Self::TimestampSkew { .. } => "timestamp_skew",
            Self::HeaderType(_) => "header_type",
            Self::Padding => "padding",
            Self::ChunkLength => "chunk_length",
            Self::SaltMismatch => "salt_mismatch",
            Self::SessionMismatch => "session_mismatch",
            Self::Fragmented => "fragmented",
            Self::Denied => "denied",
            Self::NoResources => "no_resources",
            Self::PacketId => "packet_id",
            Self::TunnelVersion(_) => "tunnel_version",
            Self::FrameLength => "frame_length",
            Self::FrameContent => "frame_content",
            Self::FrameUnexpected => "frame_unexpected",
            Self::TunnelV0 => "tunnel_v0",
            Self::WebSocket(_) => "websocket",
            Self::Mux(_) => "mux",
        }
    }
}
