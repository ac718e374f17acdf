//! An encrypted stream as a stream of its payload, for what reads and writes streams and knows no encryption.

use std::io::{self, IoSlice, IoSliceMut};

use super::leg::{First, Leg};
use super::sealed::{self, StreamError, seal};
use super::sizing::Sizing;
use crate::net::Stream;
use crate::net::framed::{Framed, Framing};
use crate::net::pool::{Buffer, Size};
use crate::net::slots::{gather, scatter};
use crate::wire::ss::stream::{Opener, Sealer};

/// The payload of `leg`.
#[must_use]
pub fn plain(leg: Leg) -> Stream {
    let Some((opener, sealer)) = leg.codec else {
        return leg.stream;
    };
    let incoming = match leg.first {
        First::Opened(buffer) => Some(buffer),
        First::Nothing | First::Ahead(_) => None,
    };
    let sealed = Sealed {
        opener,
        sealer,
        sizing: Sizing::up_to(Size::Medium),
    };
    Framed::stream(leg.stream, sealed, incoming)
}

/// The chunks of a stream.
struct Sealed {
    opener: Opener,
    sealer: Sealer,
    sizing: Sizing,
}

impl Framing for Sealed {
    /// Opens the next chunk, unless there is payload already.
    fn find(&mut self, incoming: &mut Option<Buffer>) -> io::Result<bool> {
        let Some(buffer) = incoming else {
            return Ok(false);
        };
        while buffer.ready.is_empty() {
            if buffer.raw.is_empty() {
                *incoming = None;
                return Ok(false);
            }
            let opened = sealed::open(buffer, Some(&mut self.opener)).map_err(invalid)?;
            let Some(payload) = opened else {
                return Ok(false);
            };
            if !payload.is_empty() {
                buffer.ready.push(payload);
            }
        }
        Ok(true)
    }

    fn fill(&mut self, stream: &Stream, incoming: &mut Option<Buffer>) -> io::Result<bool> {
        let size = self.sizing.size();
        let opener = Some(&self.opener);
        match sealed::read(stream, incoming, opener, size, &mut self.sizing) {
            Ok(()) => Ok(true),
            Err(StreamError::End) => {
                *incoming = None;
                Ok(false)
            }
            Err(StreamError::Io(error)) => {
                if error.kind() == io::ErrorKind::WouldBlock {
                    sealed::shrink(incoming, opener);
                }
                Err(error)
            }
            Err(StreamError::Cut) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(StreamError::Wire(error)) => Err(invalid(error)),
        }
    }

    /// Seals as many bytes of `parts` as a buffer holds.
    fn frame(&mut self, parts: &[IoSlice<'_>]) -> io::Result<Option<(Buffer, usize)>> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let mut plain = Buffer::take(Size::holding(total).unwrap_or(Size::Large));
        let (from, ..) = plain.parts();
        let count = gather(parts, from);
        let mut rest = from.get(..count).unwrap_or_default();
        // Chunks are a little longer than what they hold.
        let size = Size::holding(count + count / 8 + 1024).unwrap_or(Size::Large);
        let mut buffer = Buffer::take(size);
        let (bytes, _, raw) = buffer.parts();
        let mut taken = 0;
        while !rest.is_empty() {
            let room = bytes.get_mut(raw.end..).unwrap_or_default();
            let mut slots = [IoSliceMut::new(&mut [])];
            if self.sealer.slots(room, &mut slots) == 0 {
                break;
            }
            let len = scatter(rest, &mut slots, 0);
            if len == 0 {
                break;
            }
            raw.end += seal(&mut self.sealer, room, len).map_err(invalid)?;
            rest = rest.get(len..).unwrap_or_default();
            taken += len;
        }
        if taken == 0 {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(Some((buffer, taken)))
    }
}

fn invalid(error: crate::wire::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::task::Poll;

    use super::*;
    use crate::crypto::{Key, Method};
    use crate::net::pipe;
    use crate::wire::AddressRef;
    use crate::wire::ss::{Credentials, Salt};

    /// Both ends of an encrypted stream in memory. The server's end begins where its request has been opened.
    async fn pair() -> (Stream, Stream) {
        let (near, near_pipe) = pipe::pair(1 << 20, 1 << 16);
        let (far, far_pipe) = pipe::pair(1 << 20, 1 << 16);
        tokio::spawn(carry(near_pipe, far_pipe));
        let method = Method::Aes128Gcm;
        let key = Key::from_password(method, b"password");
        let credentials = Credentials::new(method, Vec::new(), key);
        let salts = [(); 2].map(|()| Salt::new(method, rand::random()));
        let leg = |stream, salt, target| Leg {
            codec: Some((
                Opener::response(&credentials, salt),
                Sealer::request(&credentials, salt, target),
            )),
            ..Leg::plain(stream)
        };
        let target = AddressRef::Ip(([127, 0, 0, 1], 1).into());
        let (near, far) = (
            plain(leg(near, salts[0], target)),
            plain(leg(far, salts[1], target)),
        );
        // Under this method both directions look the same: each head is an address of seven bytes.
        (near, far)
    }

    async fn carry(a: pipe::Pipe, b: pipe::Pipe) {
        let mut buffer = vec![0; 700];
        std::future::poll_fn(|cx| {
            for (from, to) in [(&a, &b), (&b, &a)] {
                let _ = to.take_credit();
                while let Poll::Ready(taken) = from.poll_take(cx, &mut buffer) {
                    match taken {
                        pipe::Taken::Bytes(count) => {
                            let _ = to.push(buffer.get(..count).unwrap());
                        }
                        _ => {
                            to.finish();
                            break;
                        }
                    }
                }
            }
            Poll::<()>::Pending
        })
        .await;
    }

    #[tokio::test]
    async fn payload_comes_out_as_it_went_in_and_so_does_the_end() {
        let (near, far) = pair().await;
        let sent: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let write = async {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap();
        };
        let read = async {
            let (mut all, mut buffer) = (Vec::new(), vec![0; 5000]);
            loop {
                match far.read(&mut buffer).await.unwrap() {
                    0 => return all,
                    count => all.extend_from_slice(buffer.get(..count).unwrap()),
                }
            }
        };
        let (received, ()) = tokio::join!(read, write);
        // The head that the other end takes for payload.
        assert_eq!(received.get(7..), Some(&sent[..]));
    }
}
