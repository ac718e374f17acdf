//! Floor 2: sockets. Listeners, dialing, streams and batches of datagrams. Nothing here knows a proxy protocol.
//!
//! - [`options`]: options of sockets.
//! - [`alive`]: limits of what is alive.
//! - [`congestion`]: congestion control of TCP.
//! - [`changes`]: notices that the network has changed, or that the machine has slept.
//! - [`listener`]: one listening socket for each worker; a second process on the same address is refused.
//! - [`unix`]: listening at a path.
//! - [`passed`]: listening sockets that the service manager passes.
//! - [`dial`]: connects to one of several addresses, with the families raced (RFC 8305).
//! - [`stream`]: a byte stream, read and written in vectors: TCP, a layer over it, or the end of a pipe.
//! - [`pipe`]: a stream in memory; its other end is held by a link, a multiplexer or an exchange of packets.
//! - [`splice`]: moves bytes from socket to socket inside the kernel.
//! - [`redirect`]: what the firewall has redirected to this process.
//! - [`ws`]: WebSocket over a stream, beginning with the upgrade, and mux.cool inside it.
//! - [`multiplex`]: many streams in one, as sing-box has them.
//! - [`handshake`]: what is read before a stream can be relayed.
//! - [`handover`]: passes records and open files to another process.
//! - [`manager`]: the socket of a manager.
//! - [`notify`]: tells the service manager what this process does.
//! - [`plugin`]: programs between TCP and Shadowsocks (SIP003).
//! - [`pool`]: buffers that are held only while data moves.
//! - [`framed`]: a layer that cuts a stream into data, and makes frames of data.
//! - [`site`]: the web site that strangers get.
//! - [`slots`]: copies between contiguous bytes and the slots of vectored calls.
//! - [`quic`]: QUIC as a transport.
//! - [`tls`]: TLS over a stream.
//! - [`transport`]: TLS, WebSocket, or WebSocket inside TLS, as the config says.
//! - [`tun`]: network interfaces whose packets we are given.
//! - [`udp`]: datagrams in batches.
//! - [`sampled`]: log lines that packets and strangers cause.
//! - [`shares`]: places that users share; the greediest gives way.
//! - [`tasks`], [`sync`]: background tasks that end with their owner; locks.
//! - [`fetch`]: downloads a document.
//! - [`file_version`]: notices that a file has changed.
//! - [`own`]: whether an address is one of this machine's.
//! - [`netlink`], [`lost`]: the addresses of this machine; connections from those that it has lost.

pub mod alive;
pub mod changes;
mod clock;
pub mod congestion;
pub mod dial;
mod error;
pub mod fetch;
pub mod file_version;
pub mod framed;
pub mod handover;
pub mod handshake;
mod linux;
pub mod listener;
pub mod lost;
pub mod manager;
pub mod multiplex;
pub mod netlink;
pub mod notify;
pub mod options;
pub mod own;
pub mod passed;
pub mod pipe;
pub mod plugin;
pub mod pool;
pub mod quic;
pub mod redirect;
pub mod sampled;
pub mod shares;
pub mod site;
pub mod slots;
pub mod splice;
pub mod stream;
pub mod sync;
pub mod tasks;
pub mod tls;
pub mod transport;
pub mod tun;
pub mod udp;
pub mod unix;
pub mod ws;

pub use clock::{FAREWELL, ticks, unix_now};
pub use error::Error;
pub use linux::TcpInfo;
pub use options::{SocketOptions, TransparentUdp, UdpOptions};
pub use stream::{Parked, Stream};

#[cfg(test)]
mod tests;
