//! The implementations that are compared.

/// An implementation that is measured: a column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Proxy {
    Ssr,
    Rust,
    Libev,
    Haproxy,
    /// No proxy at all.
    Direct,
    /// `ssr` with the method `none`: what the relay costs without AEAD.
    Unencrypted,
    /// rathole without encryption; reverse tunnels only.
    Rathole,
    /// rathole with Noise; reverse tunnels only.
    Noise,
    /// socat; port forwarding only.
    Socat,
    /// haproxy with `option splice-auto`; port forwarding only.
    Splicing,
    /// shadowsocks-rust with v2ray-plugin, `mux=0`; WebSocket only.
    Plugin,
    /// `ssr` with SOCKS5 over TCP and no rules: what to compare a transport, a way in, or rules with.
    Plain,
    /// sing-box; ways in only.
    SingBox,
    /// sing-box with hysteria2; QUIC only.
    Hysteria2,
    /// sing-box with TUIC; QUIC only.
    Tuic,
    /// dnsmasq; cached names only.
    Dnsmasq,
}

impl Proxy {
    pub(crate) const ALL: [Self; 16] = [
        Self::Ssr,
        Self::Rust,
        Self::Libev,
        Self::Haproxy,
        Self::Direct,
        Self::Unencrypted,
        Self::Rathole,
        Self::Noise,
        Self::Socat,
        Self::Splicing,
        Self::Plugin,
        Self::Plain,
        Self::SingBox,
        Self::Hysteria2,
        Self::Tuic,
        Self::Dnsmasq,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ssr => "ssr",
            Self::Rust => "rust",
            Self::Libev => "libev",
            Self::Haproxy => "haproxy",
            Self::Direct => "direct",
            Self::Unencrypted => "none",
            Self::Rathole => "rathole",
            Self::Noise => "noise",
            Self::Socat => "socat",
            Self::Splicing => "splicing",
            Self::Plugin => "plugin",
            Self::Plain => "plain",
            Self::SingBox => "sing-box",
            Self::Hysteria2 => "hysteria2",
            Self::Tuic => "tuic",
            Self::Dnsmasq => "dnsmasq",
        }
    }
}
