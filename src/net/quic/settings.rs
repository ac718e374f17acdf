//! How connections send and receive, and their errors.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{ControllerFactory, CubicConfig};
use quinn::{ConnectionError, TransportConfig, VarInt};
use socket2::SockRef;

use super::bbr;
use crate::limits::{
    MAX_QUIC_STREAMS, QUIC_CONNECTION_WINDOW, QUIC_DATAGRAM_BUFFER, QUIC_STREAM_WINDOW,
    QUIC_TIMEOUT,
};
use crate::net::SocketOptions;

/// How often a connection with flows shows routers on the way that it is in use.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The round trip that is assumed until one was measured. The RFC's third of a second would make a lost first packet cost a
/// second.
const FIRST_ROUND_TRIP: Duration = Duration::from_millis(150);
/// The application's code for an ordinary end: `H3_NO_ERROR` of HTTP/3 (RFC 9114 §8.1), as of any web server.
pub(super) const NO_ERROR: VarInt = VarInt::from_u32(0x100);
/// The code for a stream that breaks off: `H3_REQUEST_CANCELLED`.
pub(super) const CANCELLED: VarInt = VarInt::from_u32(0x10c);

/// What a server says in a stream of its own when another serves in its place: the begin of a control stream of HTTP/3, with its settings
/// and GOAWAY (RFC 9114 §5.2, §6.2.1).
pub(super) const FAREWELL: &[u8; 6] = &[0x00, 0x04, 0x00, 0x07, 0x01, 0x00];

/// What decides how much is sent at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// By the measured rate and round trip; losses count little.
    #[default]
    Bbr,
    /// By losses (RFC 9438).
    Cubic,
}

/// What both sides of a connection agree on, and how they send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The protocol that the TLS handshake names (ALPN).
    pub alpn: String,
    /// What decides how much is sent at once.
    pub congestion: Congestion,
}

/// How connections send and receive, with a bound on what is received and not yet read.
pub(super) fn transport(settings: &Settings, window: u32) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let controller: Arc<dyn ControllerFactory + Send + Sync> = match settings.congestion {
        Congestion::Bbr => Arc::new(bbr::Factory),
        Congestion::Cubic => Arc::new(CubicConfig::default()),
    };
    transport
        .max_idle_timeout(QUIC_TIMEOUT.try_into().ok())
        .initial_rtt(FIRST_ROUND_TRIP)
        .stream_receive_window(VarInt::from_u32(window.min(QUIC_STREAM_WINDOW)))
        .receive_window(VarInt::from_u32(window))
        .send_window(QUIC_CONNECTION_WINDOW.into())
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_QUIC_STREAMS))
        // Packets of UDP go in both, where they are offered.
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(QUIC_DATAGRAM_BUFFER)
        .congestion_controller_factory(controller);
    transport
}

/// A socket for one connection, with buffers for a fast one.
pub(super) fn socket(options: &SocketOptions) -> io::Result<UdpSocket> {
    let socket = options.outgoing_udp()?;
    options.apply_datagram_buffers(&SockRef::from(&socket))?;
    Ok(socket.into())
}

/// Has a connection take packets of UDP associations; those too long for a datagram in so many streams at once.
pub(super) fn take_packets(transport: &mut TransportConfig, streams: u32) {
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(streams))
        .datagram_receive_buffer_size(Some(QUIC_DATAGRAM_BUFFER));
}

/// An error of a connection as one of a stream.
pub(super) fn broken(error: &ConnectionError) -> io::Error {
    let kind = match error {
        ConnectionError::TimedOut => io::ErrorKind::TimedOut,
        ConnectionError::LocallyClosed => io::ErrorKind::NotConnected,
        ConnectionError::ApplicationClosed(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::Reset => io::ErrorKind::ConnectionReset,
        _ => io::ErrorKind::InvalidData,
    };
    let text = match error {
        ConnectionError::TimedOut => "the QUIC connection has timed out".to_owned(),
        ConnectionError::Reset => {
            "the server does not know the QUIC connection: it was restarted".to_owned()
        }
        ConnectionError::LocallyClosed => "the QUIC connection was closed".to_owned(),
        ConnectionError::ApplicationClosed(_) => "the peer closed the QUIC connection".to_owned(),
        other => format!("the QUIC connection broke: {other}"),
    };
    io::Error::new(kind, text)
}
