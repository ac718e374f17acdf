//! What lies between client and target.

use ssr::crypto::Method;

/// What the proxies speak to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// Shadowsocks over TCP and UDP with this method.
    Shadowsocks(Method),
    /// Shadowsocks with [`DEFAULT`] over WebSocket.
    WebSocket,
    /// QUIC: `ssr` with [`DEFAULT`] in it, others with their own protocols.
    Quic,
    /// Reverse tunnels: a public port of the server leads to a target behind the client.
    Reverse,
    /// Port forwarding: one process, neither SOCKS nor encryption.
    Forward,
    /// Shadowsocks with [`DEFAULT`], and a client that does not use SOCKS5.
    WayIn(WayIn),
    /// Shadowsocks with [`DEFAULT`] and an ACL of this many names.
    Rules(usize),
}

/// How a client reaches `ssr local`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WayIn {
    /// An HTTP proxy.
    Http,
    /// Connections that nftables redirects.
    Redir,
    /// A network device.
    Tun,
    /// A name server.
    Dns,
}

/// The method of every row whose name shows none.
pub(crate) const DEFAULT: Method = Method::Aes256Gcm;

impl Scenario {
    /// Shadowsocks with [`DEFAULT`].
    pub(crate) const SHADOWSOCKS: Self = Self::Shadowsocks(DEFAULT);

    /// The method that Shadowsocks implementations are configured with.
    pub(crate) fn method(self) -> Method {
        match self {
            Self::Shadowsocks(method) => method,
            Self::WebSocket
            | Self::Quic
            | Self::Reverse
            | Self::Forward
            | Self::WayIn(_)
            | Self::Rules(_) => DEFAULT,
        }
    }
}
