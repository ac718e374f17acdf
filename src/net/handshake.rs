//! Reads the handshake at the beginning of a stream, and ends a stream whose handshake was rejected.

use std::io::{self, IoSliceMut};

use tokio::time::timeout;

use super::pool::{Buffer, Size};
use super::{FAREWELL, Stream};
use crate::limits::{MAX_REJECTED_BYTES, MAX_UNREAD};

/// Reads the messages of a handshake. Bytes after the last one are kept: see [`Reader::into_unread`].
pub struct Reader<'a> {
    stream: &'a Stream,
    unread: Vec<u8>,
}

/// Why a message could not be read.
#[derive(Debug)]
pub enum HandshakeError<E> {
    /// The stream broke, or a message is longer than any protocol allows.
    Io(io::Error),
    /// The peer ended the stream before its message was complete.
    End,
    /// The message is not valid.
    Invalid(E),
}

impl<'a> Reader<'a> {
    /// Reads from `stream`, of which nothing has been read yet.
    #[must_use]
    pub const fn new(stream: &'a Stream) -> Self {
        Self::resume(stream, Vec::new())
    }

    /// Reads from `stream`, of which `unread` has been read already.
    #[must_use]
    pub const fn resume(stream: &'a Stream, unread: Vec<u8>) -> Self {
        Self { stream, unread }
    }

    /// Reads until `parse` returns a value and the number of bytes that it is made of. `parse` gets all bytes that have
    /// come since the previous message, and returns `None` while they are too few. It does not matter how the peer cuts
    /// its messages.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub async fn next<T, E>(
        &mut self,
        mut parse: impl FnMut(&[u8]) -> Result<Option<(T, usize)>, E>,
    ) -> Result<T, HandshakeError<E>> {
        loop {
            if !self.unread.is_empty()
                && let Some((value, used)) = parse(&self.unread).map_err(HandshakeError::Invalid)?
            {
                self.unread.drain(..used);
                return Ok(value);
            }
            if self.unread.len() > MAX_UNREAD {
                let error = io::Error::new(io::ErrorKind::InvalidData, "the handshake is too long");
                return Err(HandshakeError::Io(error));
            }
            let unread = &mut self.unread;
            let count = read_once(self.stream, |bytes| unread.extend_from_slice(bytes)).await;
            if count.map_err(HandshakeError::Io)? == 0 {
                return Err(HandshakeError::End);
            }
        }
    }

    /// The bytes after the last message.
    #[must_use]
    pub fn into_unread(self) -> Vec<u8> {
        self.unread
    }
}

/// Sends `answer` as the last bytes of a stream and waits until the peer ends it, for [`FAREWELL`] at most. A peer that
/// does not take the answer is gone anyway, so there is no error.
pub async fn reject(stream: &Stream, answer: &[u8]) {
    let told = async {
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        drain(stream, MAX_REJECTED_BYTES).await
    };
    let _ = timeout(FAREWELL, told).await;
}

/// Reads and discards up to `max` bytes. Returns whether the peer has ended the stream.
///
/// # Errors
/// What the system says.
pub async fn drain(stream: &Stream, max: usize) -> io::Result<bool> {
    let mut left = max;
    while left > 0 {
        match read_once(stream, |_| ()).await? {
            0 => return Ok(true),
            count => left = left.saturating_sub(count),
        }
    }
    Ok(false)
}

/// Reads once and passes the bytes to `take`; 0 is the end of the stream. No buffer is held while nothing comes.
async fn read_once(stream: &Stream, take: impl FnOnce(&[u8])) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        let mut buffer = Buffer::take(Size::Small);
        let (bytes, ..) = buffer.parts();
        match stream.try_read(&mut [IoSliceMut::new(bytes)]) {
            Ok(count) => {
                take(bytes.get(..count).unwrap_or_default());
                return Ok(count);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use crate::net::pipe::{self, Pipe};

    /// A message is its length and as many bytes.
    fn message(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
        match bytes.split_first() {
            Some((0, _)) => Err("empty"),
            Some((len, rest)) => {
                let len = usize::from(*len);
                Ok(rest.get(..len).map(|value| (value.to_vec(), 1 + len)))
            }
            None => panic!("nothing to parse"),
        }
    }

    fn stream(len: usize) -> (Stream, Pipe) {
        pipe::pair(len, 1024)
    }

    #[tokio::test]
    async fn messages_are_read_however_they_are_cut() {
        let (stream, peer) = stream(1024);
        let mut reader = Reader::new(&stream);
        peer.push(b"\x02ab\x01").unwrap();
        assert_eq!(reader.next(message).await.unwrap(), b"ab");
        let second = async {
            tokio::task::yield_now().await;
            peer.push(b"cahead").unwrap();
        };
        let (read, ()) = tokio::join!(reader.next(message), second);
        assert_eq!(read.unwrap(), b"c");
        assert_eq!(reader.into_unread(), b"ahead");
    }

    #[tokio::test]
    async fn end_and_invalid_messages_are_told_apart() {
        let (stream, peer) = stream(1024);
        let mut reader = Reader::new(&stream);
        peer.push(b"\x02a").unwrap();
        peer.finish();
        let cut = reader.next(message).await;
        assert!(matches!(cut, Err(HandshakeError::End)), "{cut:?}");
        reader.unread = vec![0];
        let invalid = reader.next(message).await;
        assert!(matches!(invalid, Err(HandshakeError::Invalid("empty"))));
    }

    #[tokio::test]
    async fn message_without_end_is_given_up() {
        let (stream, peer) = stream(2 * MAX_UNREAD);
        peer.push(&vec![1; 2 * MAX_UNREAD]).unwrap();
        let mut reader = Reader::new(&stream);
        let error = reader.next(|_| Ok::<Option<((), usize)>, ()>(None)).await;
        assert!(matches!(error, Err(HandshakeError::Io(_))), "{error:?}");
    }
}
