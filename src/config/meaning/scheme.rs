//! The protocols of the URLs of forwards.

/// The protocol of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain TCP.
    Tcp,
    /// UDP.
    Udp,
    /// WebSocket (RFC 6455).
    Ws,
    /// WebSocket over TLS.
    Wss,
    /// A web site.
    Http,
    /// A web site over TLS.
    Https,
    /// Streams of QUIC.
    Quic,
}

impl Scheme {
    /// Its name in a URL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Http => "http",
            Self::Https => "https",
            Self::Quic => "quic",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        let all = [
            Self::Tcp,
            Self::Udp,
            Self::Ws,
            Self::Wss,
            Self::Http,
            Self::Https,
            Self::Quic,
        ];
        all.into_iter().find(|scheme| scheme.name() == name)
    }

    pub(super) fn is_ws(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    pub(super) fn is_site(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    pub(super) fn has_tls(self) -> bool {
        matches!(self, Self::Wss | Self::Https | Self::Quic)
    }

    pub(super) fn default_port(self) -> Option<u16> {
        match self {
            Self::Tcp | Self::Udp => None,
            Self::Ws | Self::Http => Some(80),
            Self::Wss | Self::Https | Self::Quic => Some(443),
        }
    }
}
