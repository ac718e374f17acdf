#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::net::pool::{Buffer, Size};
use crate::net::sync::lock;

const WINDOW: usize = 256 * 1024;
const CAPACITY: usize = 64 * 1024;

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Wakes {
    fn count(&self) -> usize {
        self.0.load(SeqCst)
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn read(stream: &Stream, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let count = stream.try_read(&mut [IoSliceMut::new(&mut bytes)])?;
    bytes.truncate(count);
    Ok(bytes)
}

fn write(stream: &Stream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    let cx = &mut Context::from_waker(Waker::noop());
    stream.poll_write(cx, &[IoSlice::new(bytes)])
}

fn give(stream: &Stream, buffer: &mut Option<Buffer>) -> bool {
    let cx = &mut Context::from_waker(Waker::noop());
    matches!(stream.poll_give(cx, buffer), Poll::Ready(Ok(())))
}

fn kind<T>(result: io::Result<T>) -> Option<io::ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn pushed_bytes_come_out_in_order_whatever_the_pieces() {
    let (stream, pipe) = pair(WINDOW, CAPACITY);
    let payload = pattern(WINDOW);
    let (mut at, mut size) = (0, 1);
    while at < payload.len() {
        let end = payload.len().min(at + size);
        pipe.push(&payload[at..end]).unwrap();
        (at, size) = (end, (size * 5) % 40_009 + 1);
    }
    let mut received = Vec::new();
    let (mut first, mut second) = ([0; 7], [0; 9001]);
    loop {
        let mut slots = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
        let Ok(count) = stream.try_read(&mut slots) else {
            break;
        };
        received.extend_from_slice(&first[..count.min(7)]);
        received.extend_from_slice(&second[..count.saturating_sub(7)]);
    }
    assert!(received == payload);
}

#[test]
fn empty_pipe_holds_no_buffer() {
    let (stream, pipe) = pair(WINDOW, CAPACITY);
    pipe.push(&pattern(100_000)).unwrap();
    assert!(lock(&pipe.0).to_reader.parts.len() > 1);
    assert_eq!(read(&stream, 100_000).unwrap().len(), 100_000);
    assert!(lock(&pipe.0).to_reader.parts.is_empty());
}

#[test]
fn window_is_given_back_only_with_the_credit() {
    let (stream, pipe) = pair(1000, 1000);
    pipe.push(&[1; 1000]).unwrap();
    assert_eq!(pipe.push(&[1]), Err(PushError::WindowExceeded));
    assert_eq!(read(&stream, 249).unwrap().len(), 249);
    assert_eq!(pipe.take_credit(), None);
    assert_eq!(read(&stream, 1).unwrap().len(), 1);
    assert_eq!(pipe.push(&[1]), Err(PushError::WindowExceeded));
    assert_eq!(pipe.take_credit(), Some(250));
    assert_eq!(pipe.take_credit(), None);
    pipe.push(&[1; 250]).unwrap();
    assert_eq!(
        (pipe.push(&[1]), pipe.unread()),
        (Err(PushError::WindowExceeded), 1000)
    );
    pipe.grow_window(1);
    pipe.push(&[1]).unwrap();
}

#[test]
fn owner_is_woken_once_and_not_for_every_piece() {
    let (stream, pipe) = pair(1000, 100);
    let (wakes, writes) = (Arc::new(Wakes::default()), Arc::new(Wakes::default()));
    let (owner, writer) = (Arc::clone(&wakes).into(), Arc::clone(&writes).into());
    let (mut cx, mut user) = (Context::from_waker(&owner), Context::from_waker(&writer));
    let mut buf = [0; 60];
    assert!(pipe.poll_take(&mut cx, &mut buf).is_pending());
    for expected in [40, 40, 20] {
        let written = stream.poll_write(&mut user, &[IoSlice::new(&[9; 40])]);
        assert!(matches!(written, Poll::Ready(Ok(count)) if count == expected));
        assert_eq!(wakes.count(), 1);
    }
    assert!(
        stream
            .poll_write(&mut user, &[IoSlice::new(&[9])])
            .is_pending()
    );
    // 40 of 100 are left: enough room to wake the writer.
    assert_eq!(
        pipe.poll_take(&mut cx, &mut buf),
        Poll::Ready(Taken::Bytes(60))
    );
    assert_eq!((writes.count(), pipe.waiting()), (1, 40));
    assert_eq!(
        pipe.poll_take(&mut cx, &mut buf),
        Poll::Ready(Taken::Bytes(40))
    );
    assert!(pipe.poll_take(&mut cx, &mut buf).is_pending());
    // Credit wakes once, at its threshold.
    pipe.push(&[1; 1000]).unwrap();
    for (len, expected) in [(249, 1), (1, 2), (100, 2)] {
        read(&stream, len).unwrap();
        assert_eq!(wakes.count(), expected);
    }
    pipe.watch(&cx);
    drop(stream);
    assert!(wakes.count() > 2 && pipe.is_abandoned());
}

#[test]
fn reader_is_woken_by_bytes_by_the_end_and_by_a_reset() {
    let acts: [fn(&Pipe); 3] = [|pipe| pipe.push(b"x").unwrap(), Pipe::finish, Pipe::reset];
    for act in acts {
        let (stream, pipe) = pair(WINDOW, CAPACITY);
        let wakes = Arc::new(Wakes::default());
        let waker = Arc::clone(&wakes).into();
        let mut cx = Context::from_waker(&waker);
        assert!(stream.poll_readable(&mut cx).is_pending());
        assert_eq!(kind(read(&stream, 1)), Some(io::ErrorKind::WouldBlock));
        act(&pipe);
        assert_eq!(wakes.count(), 1);
        assert!(stream.poll_readable(&mut cx).is_ready());
    }
}

#[test]
fn kinds_of_end_are_distinguished() {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    let mut cx = Context::from_waker(Waker::noop());
    let mut buf = [0; 8];
    // The pipe is finished, then dropped: the reader gets the bytes, then the end.
    let (stream, pipe) = pair(WINDOW, CAPACITY);
    pipe.push(b"last").unwrap();
    pipe.finish();
    assert_eq!(pipe.push(b"late"), Err(PushError::Closed));
    drop(pipe);
    assert_eq!(read(&stream, 8).unwrap(), b"last");
    assert_eq!(read(&stream, 8).unwrap(), b"");
    let written = write(&stream, b"x");
    assert!(matches!(written, Poll::Ready(Err(error)) if error.kind() == BrokenPipe));
    // The pipe is dropped without `finish`.
    let (stream, pipe) = pair(WINDOW, CAPACITY);
    pipe.push(b"cut").unwrap();
    drop(pipe);
    assert_eq!(kind(read(&stream, 8)), Some(ConnectionReset));
    let written = write(&stream, b"x");
    assert!(matches!(written, Poll::Ready(Err(error)) if error.kind() == ConnectionReset));
    // The user shuts down its direction: the answer still arrives.
    let (stream, pipe) = pair(WINDOW, CAPACITY);
    assert!(write(&stream, b"ask").is_ready());
    assert!(matches!(stream.poll_shutdown(&mut cx), Poll::Ready(Ok(()))));
    assert_eq!(
        pipe.poll_take(&mut cx, &mut buf),
        Poll::Ready(Taken::Bytes(3))
    );
    assert_eq!(pipe.poll_take(&mut cx, &mut buf), Poll::Ready(Taken::End));
    pipe.push(b"answer").unwrap();
    assert_eq!(read(&stream, 8).unwrap(), b"answer");
    drop(stream);
    assert_eq!(pipe.push(b"x"), Err(PushError::Closed));
    // The user closes the stream abruptly.
    let (stream, pipe) = pair(WINDOW, CAPACITY);
    assert!(write(&stream, b"ask").is_ready());
    stream.reset_on_close();
    drop(stream);
    assert_eq!(pipe.poll_take(&mut cx, &mut buf), Poll::Ready(Taken::Reset));
    assert_eq!(pipe.waiting(), 0);
}

#[test]
fn close_with_bytes_unread_is_a_reset_and_any_other_is_not() {
    let mut cx = Context::from_waker(Waker::noop());
    let mut buf = [0; 8];
    for (read_all, shut_down) in [(false, false), (false, true), (true, false), (true, true)] {
        let (stream, pipe) = pair(WINDOW, CAPACITY);
        pipe.push(b"answer").unwrap();
        assert!(write(&stream, b"ask").is_ready());
        if shut_down {
            assert!(stream.poll_shutdown(&mut cx).is_ready());
        }
        read(&stream, if read_all { 6 } else { 5 }).unwrap();
        drop(stream);
        let mut taken = || pipe.poll_take(&mut cx, &mut buf);
        if read_all {
            assert_eq!(taken(), Poll::Ready(Taken::Bytes(3)));
            assert_eq!(taken(), Poll::Ready(Taken::End));
        } else {
            assert_eq!(taken(), Poll::Ready(Taken::Reset));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_passes_between_threads_without_a_lost_wake() {
    let (stream, pipe) = pair(WINDOW, CAPACITY);
    let payload = pattern(8_000_000);
    let sent = payload.clone();
    // The pipe's task echoes what it takes, within the window.
    let echo = tokio::spawn(async move {
        let mut buf = vec![0; 10_000];
        let mut window = WINDOW;
        loop {
            let taken = poll_fn(|cx| {
                window += pipe.take_credit().unwrap_or(0);
                pipe.watch(cx);
                window += pipe.take_credit().unwrap_or(0);
                if window < buf.len() {
                    return Poll::Pending;
                }
                pipe.poll_take(cx, &mut buf)
            });
            match taken.await {
                Taken::Bytes(count) => {
                    pipe.push(&buf[..count]).unwrap();
                    window -= count;
                }
                Taken::End => return pipe.finish(),
                Taken::Reset => return,
            }
        }
    });
    let stream = Arc::new(stream);
    let writer = Arc::clone(&stream);
    let write = tokio::spawn(async move {
        for piece in sent.chunks(33_333) {
            writer.write_all(piece).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    });
    let receive = async {
        let (mut received, mut room) = (Vec::new(), vec![0; 50_000]);
        loop {
            match stream.read(&mut room).await.unwrap() {
                0 => return received,
                count => received.extend_from_slice(&room[..count]),
            }
        }
    };
    let received = timeout(Duration::from_secs(30), receive).await.unwrap();
    assert!(received == payload);
    write.await.unwrap();
    echo.await.unwrap();
}

#[test]
fn whole_buffers_go_over_without_a_copy() {
    let (stream, pipe) = pair(1 << 20, 1000);
    let cx = &mut Context::from_waker(Waker::noop());
    let filled = |byte: u8, len: usize| {
        let mut buffer = Buffer::take(Size::Small);
        buffer.parts().0[..len].fill(byte);
        buffer.ready.push(0..len);
        Some(buffer)
    };
    let mut first = filled(1, 900);
    assert!(give(&stream, &mut first));
    assert!(first.is_none());
    // A buffer that would be mostly empty is left to be copied.
    let mut second = filled(2, 50);
    assert!(give(&stream, &mut second));
    assert!(second.is_some());
    let mut third = filled(3, 9000);
    assert!(give(&stream, &mut third));
    assert!(third.is_none());
    // There is no more room.
    let mut fourth = filled(4, 9000);
    assert!(stream.poll_give(cx, &mut fourth).is_pending());
    let mut taken = vec![0; 20_000];
    assert_eq!(
        pipe.poll_take(cx, &mut taken),
        Poll::Ready(Taken::Bytes(9900))
    );
    assert_eq!((taken[899], taken[900], taken[9899]), (1, 3, 3));
    assert!(give(&stream, &mut fourth));

    assert!(stream.take_buffer().is_none());
    pipe.push(&[5; 300_000]).unwrap();
    let mut count = 0;
    while let Some(buffer) = stream.take_buffer() {
        count += buffer.ready[0].len();
        assert!(
            buffer.bytes()[buffer.ready[0].clone()]
                .iter()
                .all(|byte| *byte == 5)
        );
    }
    assert_eq!(count, 300_000);
    assert_eq!(pipe.take_credit(), Some(300_000));
}

#[test]
fn writer_exceeds_the_capacity_by_less_than_a_buffer() {
    let (stream, pipe) = pair(WINDOW, CAPACITY);
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(write(&stream, &[1; CAPACITY - 1]).is_ready());
    let largest = || {
        let mut buffer = Buffer::take(Size::Large);
        let len = buffer.bytes().len();
        buffer.ready.push(0..len);
        Some(buffer)
    };
    assert!(give(&stream, &mut largest()));
    assert!(stream.poll_give(cx, &mut largest()).is_pending());
    assert!(write(&stream, &[1]).is_pending());
    assert_eq!(pipe.waiting(), CAPACITY - 1 + Size::Large.bytes());
}

/// A room for four small buffers, and pipes in it whose peers take enough.
fn shared() -> (Arc<Room>, Vec<(Stream, Pipe)>) {
    let room = Room::new(4 * Size::Small.bytes(), 1, PIECE);
    let pipes = (0..6).map(|_| pair_within(&room, WINDOW, CAPACITY, CREDIT));
    let pipes = pipes.collect();
    (room, pipes)
}

const PIECE: usize = 10_000;
const CREDIT: u64 = 30_000;

/// Writes `len` bytes as a relay does, in a small buffer, if there is room for them now.
fn relay(stream: &Stream, waker: &Waker, len: usize) -> Option<usize> {
    let cx = &mut Context::from_waker(waker);
    let Poll::Ready(room) = stream.poll_room(cx) else {
        return None;
    };
    let mut buffer = Some(Buffer::take_exact(Size::Small));
    let len = len.min(room).min(Size::Small.bytes());
    buffer.as_mut().unwrap().ready.push(0..len);
    assert!(matches!(
        stream.poll_give(cx, &mut buffer),
        Poll::Ready(Ok(()))
    ));
    if let Some(buffer) = buffer {
        assert!(
            stream
                .poll_write(cx, &[IoSlice::new(&buffer.bytes()[..len])])
                .is_ready()
        );
    }
    Some(len)
}

#[test]
fn writers_share_a_room_and_wait_in_turn() {
    let (room, mut pipes) = shared();
    let wakes: Vec<Arc<Wakes>> = pipes.iter().map(|_| Arc::default()).collect();
    let wakers: Vec<Waker> = wakes.iter().cloned().map(Waker::from).collect();
    let take = |pipes: &[(Stream, Pipe)], index: usize| {
        let mut bytes = vec![0; PIECE];
        let cx = &mut Context::from_waker(Waker::noop());
        assert_eq!(
            pipes[index].1.poll_take(cx, &mut bytes),
            Poll::Ready(Taken::Bytes(PIECE))
        );
    };
    // The first two use half of it; one of them waits until its pipe is empty.
    assert_eq!(relay(&pipes[0].0, &wakers[0], PIECE), Some(PIECE));
    assert_eq!(relay(&pipes[0].0, &wakers[0], PIECE), Some(PIECE));
    assert_eq!(relay(&pipes[0].0, &wakers[0], PIECE), None);
    // The next ones have a piece each, and then it is full.
    assert_eq!(relay(&pipes[1].0, &wakers[1], 15_000), Some(PIECE));
    assert_eq!(relay(&pipes[2].0, &wakers[2], 15_000), Some(PIECE));
    for index in 3..6 {
        assert_eq!(relay(&pipes[index].0, &wakers[index], 1), None, "{index}");
    }
    assert_eq!(room.held(), 4 * Size::Small.bytes());
    // What is taken makes room for the first of those who wait, and not for one who comes later.
    take(&pipes, 1);
    let woken = |index: usize| wakes[index].count();
    assert_eq!([3, 4, 5].map(woken), [1, 0, 0]);
    assert_eq!(relay(&pipes[1].0, &wakers[1], 1), None);
    assert_eq!(relay(&pipes[3].0, &wakers[3], PIECE), Some(PIECE));
    // One who goes leaves its place to the next.
    take(&pipes, 2);
    assert!(woken(4) > 0);
    pipes.remove(4);
    assert!(woken(5) > 0);
    assert_eq!(relay(&pipes[4].0, &wakers[5], PIECE), Some(PIECE));
    pipes.clear();
    assert_eq!(room.held(), 0);
}

#[test]
fn what_the_peer_does_not_take_does_not_wait_in_a_room() {
    let (room, pipes) = shared();
    let (stream, pipe) = &pipes[0];
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let cx = &mut Context::from_waker(&waker);
    let mut written = 0;
    let mut bytes = vec![0; CREDIT as usize];
    while let Some(count) = relay(stream, &waker, PIECE - 1) {
        written += count;
        // It is sent at once, and the peer does not read it.
        assert!(
            pipe.poll_take(&mut Context::from_waker(Waker::noop()), &mut bytes)
                .is_ready()
        );
    }
    assert_eq!((written as u64, room.held()), (CREDIT, 0));
    assert!(stream.poll_room(cx).is_pending());
    pipe.set_credit(7);
    assert_eq!(wakes.count(), 1);
    assert_eq!(stream.poll_room(cx), Poll::Ready(7));
    // Nor does anybody wait for room behind it.
    assert_eq!(relay(&pipes[1].0, &waker, 1), Some(1));
}

#[test]
fn few_bytes_in_a_room_that_is_short_take_little_of_it() {
    let (room, pipes) = shared();
    for (stream, _) in &pipes[..2] {
        assert_eq!(relay(stream, Waker::noop(), PIECE), Some(PIECE));
    }
    let before = room.held();
    assert_eq!(relay(&pipes[2].0, Waker::noop(), 10), Some(10));
    assert_eq!(room.held() - before, Size::Tiny.bytes());
}
