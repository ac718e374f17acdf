//! Buffers that are held only while data moves.
//!
//! Each worker keeps a few free buffers of each size and shares them among its flows; a flow without data has none.
//! A buffer is filled with zeros once, when the system gives it, and never again. Where one worker fills what another
//! empties, a shared pool takes what the second has too much of back to the first.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::sync::lock;

/// Sizes of buffers; a flow begins small and grows while its reads fill what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// One chunk of ours and whatever stands before it.
    Small,
    /// The longest chunk that SIP022 allows.
    Medium,
    /// 32 chunks; with twice as many, buffers fell out of the processor's cache and it got slower.
    Large,
}

/// Bytes for a chunk of 16 KiB with its tags, and the longest head.
const CHUNK_ROOM: usize = 16 * 1024 + 64;

impl Size {
    /// Bytes of a buffer of this size.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Small => CHUNK_ROOM + 1024,
            Self::Medium => 80 * 1024,
            Self::Large => 32 * CHUNK_ROOM,
        }
    }

    /// The next larger size.
    #[must_use]
    pub const fn up(self) -> Self {
        match self {
            Self::Small => Self::Medium,
            Self::Medium | Self::Large => Self::Large,
        }
    }

    /// The smallest size that holds `bytes`, if any does.
    #[must_use]
    pub const fn holding(bytes: usize) -> Option<Self> {
        if bytes <= Self::Small.bytes() {
            Some(Self::Small)
        } else if bytes <= Self::Medium.bytes() {
            Some(Self::Medium)
        } else if bytes <= Self::Large.bytes() {
            Some(Self::Large)
        } else {
            None
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Small => 0,
            Self::Medium => 1,
            Self::Large => 2,
        }
    }

    /// Free buffers of this size that a worker keeps, and all of them together once more: about 5 MiB each.
    const fn spare(self) -> usize {
        match self {
            Self::Small => 64,
            Self::Medium => 24,
            Self::Large => 4,
        }
    }
}

/// What stays of a buffer between two uses.
struct Spare {
    bytes: Box<[u8]>,
    ready: Vec<Range<usize>>,
}

/// Free buffers by size.
struct Pool([Vec<Spare>; 3]);

impl Pool {
    const fn new() -> Self {
        Self([Vec::new(), Vec::new(), Vec::new()])
    }

    fn take(&mut self, size: Size) -> Option<Spare> {
        self.0.get_mut(size.index())?.pop()
    }

    /// Keeps it, or gives it back when there are enough.
    fn put(&mut self, size: Size, spare: Spare) -> Option<Spare> {
        match self.0.get_mut(size.index()) {
            Some(list) if list.len() < size.spare() => {
                list.push(spare);
                None
            }
            _ => Some(spare),
        }
    }
}

thread_local! {
    static FREE: RefCell<Pool> = const { RefCell::new(Pool::new()) };
}

/// What workers have too much of.
static SHARED: Mutex<Pool> = Mutex::new(Pool::new());

fn shared() -> MutexGuard<'static, Pool> {
    lock(&SHARED)
}

/// Bytes of all buffers in use, of all workers.
static IN_USE: AtomicUsize = AtomicUsize::new(0);
/// Bytes of buffers in use above which only small ones are given.
static BUDGET: AtomicUsize = AtomicUsize::new(DEFAULT_BUDGET);

/// The budget in bytes until [`set_budget`] is called.
pub const DEFAULT_BUDGET: usize = 256 << 20;

/// Sets the number of bytes of buffers above which flows get small ones only.
pub fn set_budget(bytes: usize) {
    BUDGET.store(bytes, Ordering::Relaxed);
}

/// Memory for one piece of work, and what in it is to be done. It goes back to the worker's pool when dropped.
pub struct Buffer {
    bytes: Box<[u8]>,
    /// Where bytes stand that are ready to be written, in order.
    pub ready: Vec<Range<usize>>,
    /// Where bytes stand that have been read and not been worked on.
    pub raw: Range<usize>,
}

impl Buffer {
    /// Whether there is memory for one more buffer of `size`. For one of the least size there always is.
    #[must_use]
    pub fn affords(size: Size) -> bool {
        size == Size::Small
            || IN_USE.load(Ordering::Relaxed) + size.bytes() <= BUDGET.load(Ordering::Relaxed)
    }

    /// A buffer of `size`, or a small one when memory is short.
    #[must_use]
    pub fn take(size: Size) -> Self {
        Self::take_exact(if Self::affords(size) {
            size
        } else {
            Size::Small
        })
    }

    /// A buffer of just this size, for a chunk that needs it.
    #[must_use]
    pub fn take_exact(size: Size) -> Self {
        let spare = FREE
            .try_with(|free| free.borrow_mut().take(size))
            .ok()
            .flatten()
            .or_else(|| shared().take(size));
        IN_USE.fetch_add(size.bytes(), Ordering::Relaxed);
        let (bytes, ready) = match spare {
            Some(spare) => (spare.bytes, spare.ready),
            None => (vec![0; size.bytes()].into_boxed_slice(), Vec::new()),
        };
        Self {
            bytes,
            ready,
            raw: 0..0,
        }
    }

    /// The size that it was made with.
    #[must_use]
    pub const fn size(&self) -> Size {
        match Size::holding(self.bytes.len()) {
            Some(size) => size,
            None => Size::Large,
        }
    }

    /// All bytes of the buffer.
    #[must_use]
    pub const fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All bytes of the buffer, and the rest of it.
    pub fn parts(&mut self) -> (&mut [u8], &mut Vec<Range<usize>>, &mut Range<usize>) {
        (&mut self.bytes, &mut self.ready, &mut self.raw)
    }

    /// Moves what has not been worked on to the front.
    pub fn compact(&mut self) {
        let len = self.raw.len();
        if self.raw.start > 0 {
            self.bytes.copy_within(self.raw.clone(), 0);
            self.raw = 0..len;
        }
    }

    /// The same unfinished bytes where at least `need` fit from their beginning, in a buffer of `size` where there is
    /// memory for one; `None` when there is no buffer so large.
    #[must_use]
    pub fn with_room(mut self, size: Size, need: usize) -> Option<Self> {
        if self.raw.start + need > self.bytes.len() {
            self.compact();
        }
        if size > self.size() && Self::affords(size) {
            self = self.resized(size);
        }
        if need > self.bytes.len() {
            self = self.resized(Size::holding(need)?);
        }
        Some(self)
    }

    /// Before a wait for the rest of a piece of `need` bytes: its beginning in as little as holds it, and nothing where
    /// there is none.
    #[must_use]
    pub fn kept(self, need: usize) -> Option<Self> {
        if self.raw.is_empty() {
            return None;
        }
        let size = Size::holding(need.max(self.raw.len())).unwrap_or(Size::Large);
        Some(if size < self.size() {
            self.resized(size)
        } else {
            self
        })
    }

    /// The same unfinished bytes in a buffer of another size, which must hold them.
    #[must_use]
    pub fn resized(self, size: Size) -> Self {
        let mut other = Self::take_exact(size);
        let raw = self.bytes.get(self.raw.clone()).unwrap_or_default();
        if let Some(front) = other.bytes.get_mut(..raw.len()) {
            front.copy_from_slice(raw);
            other.raw = 0..raw.len();
        }
        other
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let size = self.size();
        IN_USE.fetch_sub(size.bytes(), Ordering::Relaxed);
        self.ready.clear();
        let spare = Spare {
            bytes: std::mem::take(&mut self.bytes),
            ready: std::mem::take(&mut self.ready),
        };
        // While the thread ends it has no pool any more, and the memory is simply freed.
        let left = FREE.try_with(|free| free.borrow_mut().put(size, spare));
        if let Ok(Some(spare)) = left {
            let freed = shared().put(size, spare);
            // Not while the others wait.
            drop(freed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_worker_has_too_much_of_is_used_by_another() {
        const MARK: u8 = 0xab;
        let empties = || {
            let size = Size::Medium;
            let mut taken: Vec<Buffer> = (0..=size.spare())
                .map(|_| Buffer::take_exact(size))
                .collect();
            for buffer in &mut taken {
                buffer.parts().0.fill(MARK);
            }
        };
        // Other tests share the pool, and may be quicker.
        let found = (0..100).any(|_| {
            std::thread::scope(|scope| {
                scope.spawn(empties);
            });
            std::thread::scope(|scope| {
                let first =
                    scope.spawn(|| Buffer::take_exact(Size::Medium).bytes().first().copied());
                first.join().is_ok_and(|byte| byte == Some(MARK))
            })
        });
        assert!(found);
    }
}
