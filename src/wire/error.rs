//! What can be wrong with a message of a peer.

use super::peer_protocol::PeerProtocol;
use super::{mux, websocket};

/// A message that violates its protocol, or that this program refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// The address type is not IPv4, domain name or IPv6. SOCKS has a reply code for it.
    #[error("unknown address type {0:#04x}: expected IPv4, a domain name or IPv6")]
    AddressType(u8),
    /// The domain name is empty, not UTF-8, or contains spaces or control characters.
    #[error("the domain name is empty, not UTF-8, or contains spaces or control characters")]
    AddressDomain,
    /// The message ends within its header.
    #[error("the message ends within its header")]
    Truncated,
    /// The first byte is not the version of SOCKS5. [`PeerProtocol::of`] tells what the peer speaks.
    #[error("not SOCKS5: {protocol} (first byte {0:#04x})", protocol = PeerProtocol::of(*.0))]
    SocksVersion(u8),
    /// The version of the password subnegotiation (RFC 1929) is not 1.
    #[error("SOCKS5 password negotiation has version {0:#04x} instead of 0x01")]
    SocksAuthVersion(u8),
    /// The AEAD tag does not match.
    #[error("authentication failed: wrong key or method, or the data was changed in transit")]
    Unauthenticated,
    /// No user of this server has this identity header (SIP023).
    #[error("no user of this server has this identity header")]
    UnknownIdentity,
    /// The salt or packet has been received before.
    #[error("replay: this salt or packet was received before")]
    Replayed,
    /// The timestamp is from a time whose salts and packets are not remembered: before this process, or before the clock was
    /// set back.
    #[error(
        "this is from before the server started or its clock was set back: a replay, or the peer's clock is behind"
    )]
    Stale,
    /// The timestamp is too far from the current time (SIP022 §3.1.5).
    #[error("the peer's clock is {}; at most 30 s are allowed: set both clocks", direction(*seconds))]
    TimestampSkew {
        /// How far the peer's clock is ahead of ours, in seconds; negative if it is behind.
        seconds: i64,
    },
    /// What came is not Shadowsocks: the other side speaks through a transport that this side does not expect.
    #[error("not Shadowsocks: {0}; `transport` may differ between the two sides")]
    OtherProtocol(PeerProtocol),
    /// The header type belongs to the other direction: the stream or packet was sent back to its sender.
    #[error("header type {0:#04x} belongs to the other direction")]
    HeaderType(u8),
    /// The padding is missing, too long, or longer than its header.
    #[error("the padding is missing, too long, or longer than its header")]
    Padding,
    /// The chunk is longer than its protocol allows.
    #[error("the chunk is longer than its protocol allows")]
    ChunkLength,
    /// The response belongs to another request.
    #[error("the response belongs to another request")]
    SaltMismatch,
    /// The packet belongs to another session of a client.
    #[error("the packet belongs to another session")]
    SessionMismatch,
    /// The sender of the SOCKS datagram has no open UDP ASSOCIATE (RFC 1928 §7).
    #[error("the sender has no open UDP ASSOCIATE")]
    NotAssociated,
    /// The SOCKS datagram is a fragment (RFC 1928 §7 allows dropping those).
    #[error("fragmented SOCKS datagrams are not supported")]
    Fragmented,
    /// The config forbids the target.
    #[error("the config forbids this target")]
    Denied,
    /// The name of the target has no address.
    #[error("the name of the target cannot be resolved")]
    Unresolvable,
    /// A rule of the config refuses the target or the client.
    #[error("a rule of the config refuses this target or client")]
    Blocked,
    /// The user of a datagram may not use more.
    #[error("a limit of the user is reached")]
    OverLimit,
    /// The target is a fake address that stands for no name.
    #[error("the target is a `fake-dns` address without a name; resolve the name again")]
    NoName,
    /// Not the peer's fault: a table of ours is full, or the system has no more sockets.
    #[error("out of resources: a table is full, or there are no more sockets")]
    NoResources,
    /// The session has used up its packet ids.
    #[error("the session has used up its packet ids")]
    PacketId,
    /// The peer speaks another version of reverse tunnels.
    #[error("reverse tunnel version {0} is not supported; this program speaks version 1")]
    TunnelVersion(u8),
    /// The frame is longer than its protocol allows.
    #[error("the reverse tunnel frame is longer than its protocol allows")]
    FrameLength,
    /// The content of the frame is invalid.
    #[error("the content of the reverse tunnel frame is invalid")]
    FrameContent,
    /// The frame is not allowed in this state or direction.
    #[error("unexpected reverse tunnel frame")]
    FrameUnexpected,
    /// The peer speaks the first protocol of port-proxy.
    #[error("port-proxy's first protocol is not supported: it has no authentication")]
    TunnelV0,
    /// The headers of the IP packet, or a checksum in them, are invalid.
    #[error("the headers of the IP packet, or a checksum in them, are invalid")]
    IpHeader,
    /// The IP packet is a fragment of a longer one.
    #[error("the IP packet is a fragment of a longer one")]
    IpFragment,
    /// The WebSocket frame violates RFC 6455.
    #[error("WebSocket: {0}")]
    WebSocket(#[from] websocket::FrameError),
    /// The mux.cool frame is invalid.
    #[error("mux.cool: {0}")]
    Mux(#[from] mux::FrameError),
    /// The head, a frame or a response of a multiplexed session is invalid.
    #[error("multiplex: {0}")]
    Multiplex(&'static str),
}

impl Error {
    /// A short name for metric labels and log fields.
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
            Self::Stale => "stale",
            Self::TimestampSkew { .. } => "timestamp_skew",
            Self::OtherProtocol(_) => "other_protocol",
            Self::HeaderType(_) => "header_type",
            Self::Padding => "padding",
            Self::ChunkLength => "chunk_length",
            Self::SaltMismatch => "salt_mismatch",
            Self::SessionMismatch => "session_mismatch",
            Self::NotAssociated => "not_associated",
            Self::Fragmented => "fragmented",
            Self::Denied => "denied",
            Self::Unresolvable => "resolve",
            Self::Blocked => "blocked",
            Self::OverLimit => "user_limit",
            Self::NoName => "no_name",
            Self::NoResources => "no_resources",
            Self::PacketId => "packet_id",
            Self::TunnelVersion(_) => "tunnel_version",
            Self::FrameLength => "frame_length",
            Self::FrameContent => "frame_content",
            Self::FrameUnexpected => "frame_unexpected",
            Self::TunnelV0 => "tunnel_v0",
            Self::IpHeader => "ip_header",
            Self::IpFragment => "ip_fragment",
            Self::WebSocket(_) => "websocket",
            Self::Mux(_) => "mux",
            Self::Multiplex(_) => "multiplex",
        }
    }
}

/// How far a peer's clock is off, in words.
fn direction(seconds: i64) -> String {
    let by = seconds.unsigned_abs();
    if seconds < 0 {
        format!("{by} s behind ours")
    } else {
        format!("{by} s ahead of ours")
    }
}
