//! Notices that nobody serves a UDP port, by what ICMP says of the first packets. quinn waits for its time limit.

use std::future::pending;
use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::net::linux;

/// Hears what ICMP says of what a socket sends, until it is dropped.
pub(super) struct IcmpErrors(AsyncFd<OwnedFd>);

impl IcmpErrors {
    /// For `socket`, on the reactor of this thread.
    pub(super) fn of(socket: &UdpSocket) -> io::Result<Self> {
        linux::icmp_errors(socket).map(Self)
    }

    /// Waits for the first. Cancel safe.
    pub(super) async fn next(&self) -> io::Error {
        while let Ok(mut ready) = self.0.ready(Interest::ERROR).await {
            loop {
                match linux::take_icmp_error(self.0.get_ref()) {
                    Ok(Some(error)) => return error,
                    Ok(None) => {}
                    Err(_) => break,
                }
            }
            ready.clear_ready();
        }
        pending().await
    }
}

impl Drop for IcmpErrors {
    fn drop(&mut self) {
        // It was possible to set it.
        let _ = linux::set_keep_icmp_errors(&SockRef::from(self.0.get_ref()), false);
    }
}
