//! What the tests of streams share.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::Stream;

const LIMIT: Duration = Duration::from_secs(20);

pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.unwrap()
}

/// Both sides of a connection.
pub(super) async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap());
    let (near, far) = tokio::join!(near, listener.accept());
    (near.unwrap(), far.unwrap().0)
}

pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..251).cycle().take(len).collect()
}

/// Reads to the end, at most `piece` bytes at once.
pub(super) async fn read_all(stream: &Stream, piece: usize) -> io::Result<Vec<u8>> {
    let (mut all, mut room) = (Vec::new(), vec![0; piece]);
    loop {
        match stream.read(&mut room).await? {
            0 => return Ok(all),
            count => all.extend_from_slice(&room[..count]),
        }
    }
}
