//! The implementations that are compared.

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Ssr,
    Rust,
    Libev,
    Haproxy,
    /// No proxy at all.
    Direct,
    /// `ssr` with the method `none`: the floor without AEAD.
    Plain,
    /// rathole without encryption; reverse tunnels only.
    Rathole,
    /// rathole with Noise; reverse tunnels only.
    Noise,
    /// Forwards only.
    Socat,
    /// haproxy with `option splice-auto`; forwards only.
    Splicing,
    /// shadowsocks-rust with v2ray-plugin, `mux=0`; over WebSocket only.
    Plugin,
    /// `ssr` over TCP, beside itself over WebSocket.
    Tcp,
}

impl Kind {
    pub(crate) const ALL: [Self; 12] = [
        Self::Ssr,
        Self::Rust,
        Self::Libev,
        Self::Haproxy,
        Self::Direct,
        Self::Plain,
        Self::Rathole,
        Self::Noise,
        Self::Socat,
        Self::Splicing,
        Self::Plugin,
        Self::Tcp,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ssr => "ssr",
            Self::Rust => "rust",
            Self::Libev => "libev",
            Self::Haproxy => "haproxy",
            Self::Direct => "direct",
            Self::Plain => "none",
            Self::Rathole => "rathole",
            Self::Noise => "noise",
            Self::Socat => "socat",
            Self::Splicing => "splicing",
            Self::Plugin => "plugin",
            Self::Tcp => "tcp",
        }
    }
}
