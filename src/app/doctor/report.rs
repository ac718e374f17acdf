//! What the steps find, as data.

use serde::Serialize;

/// A thing that is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The limit of open files.
    Files,
    /// The ports to listen on.
    Ports,
    /// What goes past the servers.
    Leaks,
    /// Whether the name servers tell the truth.
    NameServers,
    /// The name of the server.
    Name,
    /// The routes to its addresses.
    Route,
    /// Connections to its addresses.
    Tcp,
    /// TLS and WebSocket, or the plugin.
    Transport,
    /// The method and the key.
    Key,
    /// The clocks.
    Clock,
    /// Datagrams through the server.
    Udp,
    /// The longest packet that arrives.
    Mtu,
    /// Lost packets.
    Loss,
    /// The speed, up and down.
    Speed,
    /// Names, resolved through the server.
    Dns,
    /// The certificate of `ssr server`.
    Certificate,
    /// What `ssr server` reaches.
    Targets,
}

impl Step {
    /// Its name in the output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Ports => "ports",
            Self::Leaks => "leaks",
            Self::NameServers => "name servers",
            Self::Name => "name",
            Self::Route => "route",
            Self::Tcp => "tcp",
            Self::Transport => "transport",
            Self::Key => "key",
            Self::Clock => "clock",
            Self::Udp => "udp",
            Self::Mtu => "mtu",
            Self::Loss => "loss",
            Self::Speed => "speed",
            Self::Dns => "dns",
            Self::Certificate => "certificate",
            Self::Targets => "targets",
        }
    }
}

/// The kinds of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The limit of open files is too low, or nearly reached.
    QuotaOfFiles,
    /// Another program listens on a port of the config.
    PortTaken,
    /// The system does not let us listen on a port of the config.
    PortRefused,
    /// Anybody can use a listener.
    OpenProxy,
    /// Datagrams of programs go past the servers.
    UdpNotProxied,
    /// The name of the server has no address.
    NameUnresolved,
    /// A name server gives wrong answers.
    LyingDns,
    /// There is no route to the server.
    NoRoute,
    /// The server's machine does not answer at all.
    ServerDown,
    /// The server's machine refuses connections to the port.
    PortClosed,
    /// The server's machine answers, but not on the port.
    BlackHole,
    /// The IPv6 address of the server does not answer, the IPv4 address does.
    Ipv6Broken,
    /// A proxy on the way makes no connection.
    Proxy,
    /// The plugin does not run.
    Plugin,
    /// The certificate is for another name.
    TlsName,
    /// The certificate has expired, or soon will.
    CertificateExpired,
    /// The certificate is not valid yet.
    CertificateNotYetValid,
    /// The certificate is not of a trusted authority.
    CertificateUntrusted,
    /// The certificate or its key cannot be used.
    CertificateUnusable,
    /// The public key is not the one that was pinned.
    WrongPin,
    /// The WebSocket has another path or host.
    WrongPath,
    /// The server speaks another transport.
    TransportMismatch,
    /// The transport failed in another way.
    Transport,
    /// The key is another.
    WrongKey,
    /// The method is another.
    WrongMethod,
    /// The clocks differ.
    Clock,
    /// The server does not reach the target.
    TargetUnreachable,
    /// Datagrams do not reach the server, or their answers do not come back.
    UdpBlocked,
    /// Long packets vanish.
    MtuBlackHole,
    /// Packets are lost.
    Loss,
    /// The way through the server is slow.
    SlowLink,
    /// Names cannot be resolved through the server.
    DnsThroughServer,
    /// A step took too long.
    TooSlow,
    /// The config cannot be used.
    Config,
}

/// A problem: what happened, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its kind.
    pub code: Code,
    /// What happened.
    pub what: String,
    /// Where.
    pub place: String,
    /// What to do.
    pub cure: String,
}

impl Problem {
    pub(super) fn new(
        code: Code,
        what: impl Into<String>,
        place: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self {
            code,
            what: what.into(),
            place: place.into(),
            cure: cure.into(),
        }
    }
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be; with what was measured.
    Ok(String),
    /// Not tried, or nothing was found out; and why.
    Skipped(String),
    /// It works, but not as well as it should.
    Warning(Problem),
    /// It does not work.
    Fault(Problem),
}

/// The result of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The step.
    pub step: Step,
    /// The server of the config that it is about; `None`: this machine.
    pub server: Option<String>,
    /// The result.
    pub verdict: Verdict,
}

impl Finding {
    /// Whether something does not work.
    #[must_use]
    pub const fn is_fault(&self) -> bool {
        matches!(self.verdict, Verdict::Fault(_))
    }
}

/// For whoever shows how far it is.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A step begins, about a server or about this machine.
    Begins(Step, Option<&'a str>),
    /// A step has ended.
    Found(&'a Finding),
}
