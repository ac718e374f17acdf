#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::task::ready;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::*;
use crate::net::tests::sockets;

/// Flips every bit on the way, in place where it may, and takes bytes of the peer's that are 0 for words of its own.
struct Flip {
    inner: Stream,
    /// Bytes of a write that are flipped already, where they stand.
    coded: usize,
}

impl Layer for Flip {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_readable(cx)
    }

    fn try_read(&mut self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let slot = slots.first_mut().unwrap();
        loop {
            let count = self.inner.try_read(&mut [IoSliceMut::new(slot)])?;
            if slot[..count] != [0] {
                slot[..count].iter_mut().for_each(|byte| *byte = !*byte);
                return Ok(count);
            }
        }
    }

    fn poll_write(&mut self, _: &mut Context<'_>, _: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    fn poll_write_mut(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(fresh) = bytes.get_mut(self.coded..) {
            fresh.iter_mut().for_each(|byte| *byte = !*byte);
        }
        self.coded = bytes.len();
        let count = ready!(self.inner.poll_write(cx, &[IoSlice::new(bytes)]))?;
        self.coded -= count;
        Poll::Ready(Ok(count))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_shutdown(cx)
    }

    fn inner(&mut self) -> &mut Stream {
        &mut self.inner
    }
}

async fn connection() -> (Stream, TcpStream) {
    let (near, far) = sockets().await;
    (Stream::new(near), far)
}

#[test]
fn layers_and_pipes_do_not_make_tcp_larger() {
    assert_eq!(size_of::<Stream>(), size_of::<TcpStream>());
}

#[tokio::test]
async fn write_in_place_resubmits_exactly_what_is_left() {
    let (inner, mut far) = connection().await;
    let stream = Stream::layered(Flip { inner, coded: 0 });
    let mut bytes = vec![1; 8_000_000];
    let write = async {
        let mut rest = bytes.as_mut_slice();
        while !rest.is_empty() {
            let count = poll_fn(|cx| stream.poll_write_mut(cx, rest)).await.unwrap();
            rest = &mut rest[count..];
        }
        stream.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let work = async { tokio::join!(write, far.read_to_end(&mut received)) };
    timeout(Duration::from_secs(20), work)
        .await
        .unwrap()
        .1
        .unwrap();
    assert!(received == vec![!1; 8_000_000]);
}

#[tokio::test]
async fn parked_stream_is_untouched_by_what_its_layers_say() {
    let (inner, mut far) = connection().await;
    let parked = Stream::layered(Flip { inner, coded: 0 }).park().unwrap();
    assert!(parked.is_untouched());
    far.write_all(&[0]).await.unwrap();
    assert!(parked.is_untouched());
    // It serves on after its rest, on whatever reactor.
    let thread = std::thread::spawn(move || {
        let reactor = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        reactor.block_on(async {
            let stream = parked.resume().unwrap();
            let mut byte = [0];
            let read = timeout(Duration::from_secs(20), stream.read(&mut byte));
            (read.await.unwrap().unwrap(), byte)
        })
    });
    far.write_all(&[!7]).await.unwrap();
    assert_eq!(thread.join().unwrap(), (1, [7]));
}

#[tokio::test]
async fn parked_stream_notices_bytes_and_the_end() {
    let (stream, mut far) = connection().await;
    far.write_all(b"unasked").await.unwrap();
    stream.readable().await.unwrap();
    assert!(!stream.park().unwrap().is_untouched());
    let (stream, far) = connection().await;
    drop(far);
    stream.readable().await.unwrap();
    assert!(!stream.park().unwrap().is_untouched());
    let (piped, _pipe) = super::super::pipe::pair(1, 1);
    assert!(piped.park().is_err());
}
