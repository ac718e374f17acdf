//! What takes the place of a method.

/// In place of a method: a public port at the server leads to a target behind the client.
pub(crate) const REVERSE: &str = "reverse";
/// In place of a method: ports are carried to other ports as they are.
pub(crate) const FORWARD: &str = "forward";

/// In place of a method: aes-256-gcm over WebSocket.
pub(crate) const WEB_SOCKET: &str = "web-socket";
