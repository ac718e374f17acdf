//! Reads a client's first bytes, for the name in them.

use std::io::{self, IoSliceMut};

use tokio::time::{Instant, timeout_at};

use crate::limits::{MAX_SNIFFED, SNIFF_TIME};
use crate::net::Stream;
use crate::wire::sniff::{Sniffed, host};

/// When the first bytes of connections are read for a name, and what for.
pub struct Sniff {
    /// Whether somebody wants the name at this moment.
    pub is_wanted: Box<dyn Fn() -> bool + Send + Sync>,
    /// Whether the name becomes the target. Otherwise rules look at it, and the connection goes to its address.
    pub overrides: bool,
}

/// The name that the client's first bytes are for, and these bytes, which must be sent on. Without a name it returns after
/// [`SNIFF_TIME`], or as soon as it is clear that none will come.
///
/// # Errors
/// When the connection breaks.
pub async fn name(stream: &Stream) -> io::Result<(Option<Box<str>>, Vec<u8>)> {
    let deadline = Instant::now() + SNIFF_TIME;
    let mut bytes = Vec::new();
    while let Ok(readable) = timeout_at(deadline, stream.readable()).await {
        readable?;
        let start = bytes.len();
        bytes.resize(MAX_SNIFFED, 0);
        let room = bytes.get_mut(start..).unwrap_or_default();
        let count = match stream.try_read(&mut [IoSliceMut::new(room)]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                bytes.truncate(start);
                // A client that waits for the server to speak costs no buffer.
                bytes.shrink_to_fit();
                continue;
            }
            read => read?,
        };
        bytes.truncate(start + count);
        match host(&bytes) {
            Sniffed::NeedMore if count > 0 => {}
            Sniffed::NeedMore | Sniffed::Unknown => break,
            Sniffed::Host(name) => return Ok((Some(name.into()), bytes)),
        }
    }
    Ok((None, bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await;
        (
            client.unwrap(),
            Stream::new(listener.accept().await.unwrap().0),
        )
    }

    #[tokio::test]
    async fn name_is_found_in_pieces_and_nothing_is_lost() {
        let (mut client, stream) = pair().await;
        let request = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
        let sending = async {
            for piece in request.chunks(7) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (found, ()) = tokio::join!(name(&stream), sending);
        let (name, mut bytes) = found.unwrap();
        assert_eq!(name.as_deref(), Some("a.example"));
        let mut rest = vec![0; request.len()];
        while bytes.len() < request.len() {
            let count = stream.read(&mut rest).await.unwrap();
            bytes.extend_from_slice(rest.get(..count).unwrap());
        }
        assert_eq!(bytes, request);
    }

    #[tokio::test(start_paused = true)]
    async fn other_protocols_are_not_waited_for() {
        for (sent, ends) in [
            (&b"SSH-2.0-x\r\n"[..], false),
            (b"GET / HT", true),
            (b"", true),
        ] {
            let (mut client, stream) = pair().await;
            client.write_all(sent).await.unwrap();
            if ends {
                client.shutdown().await.unwrap();
            }
            let begun = Instant::now();
            let (name, bytes) = name(&stream).await.unwrap();
            assert_eq!((name, &*bytes), (None, sent));
            assert!(begun.elapsed() < SNIFF_TIME, "{}", sent.escape_ascii());
        }
    }

    #[tokio::test]
    async fn flood_without_a_name_is_read_up_to_the_bound() {
        let (mut client, stream) = pair().await;
        let mut sent = b"GET / HTTP/1.1\r\nX: ".to_vec();
        sent.resize(4 * MAX_SNIFFED, b'x');
        client.write_all(&sent).await.unwrap();
        let (name, bytes) = name(&stream).await.unwrap();
        assert_eq!(name, None);
        assert!(bytes.len() <= MAX_SNIFFED && sent.starts_with(&bytes));
    }

    #[tokio::test(start_paused = true)]
    async fn silent_client_is_waited_for_no_longer_than_the_bound() {
        let (_client, stream) = pair().await;
        let begun = Instant::now();
        let (name, bytes) = name(&stream).await.unwrap();
        assert_eq!((name, bytes.capacity()), (None, 0));
        let took = begun.elapsed();
        assert!(took >= SNIFF_TIME && took < SNIFF_TIME + Duration::from_millis(100));
    }
}
