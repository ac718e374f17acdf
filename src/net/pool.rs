//! Buffers that are held only while data moves.
//!
//! Each worker keeps a few free buffers of each size for its flows; a flow without data holds none. A buffer is filled
//! with zeros only when it is allocated. Where one worker fills buffers that another empties, the surplus of the second
//! returns to the first through a shared pool.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::sync::lock;

use crate::limits::DEFAULT_BUDGET;

/// Sizes of buffers. A flow starts with small ones and grows while its reads fill them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// The longest head of a stream and a little payload: what a flow gets when the budget is used up.
    Tiny,
    /// One chunk as ssr seals it, and the longest head before it.
    Small,
    /// The longest chunk that SIP022 allows.
    Medium,
    /// 32 chunks. With 64, buffers no longer fitted the processor's cache, and bulk flows were slower.
    Large,
}

/// Bytes of a chunk of 16 KiB with its length and tags.
const CHUNK_ROOM: usize = 16 * 1024 + 64;

impl Size {
    /// Bytes of a buffer of this size.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Tiny => 4 * 1024,
            Self::Small => CHUNK_ROOM + 1024,
            Self::Medium => 80 * 1024,
            Self::Large => 32 * CHUNK_ROOM,
        }
    }

    /// The next larger size.
    #[must_use]
    pub const fn up(self) -> Self {
        match self {
            Self::Tiny => Self::Small,
            Self::Small => Self::Medium,
            Self::Medium | Self::Large => Self::Large,
        }
    }

    /// The smallest size that holds `bytes`; `None` if no size does.
    #[must_use]
    pub fn holding(bytes: usize) -> Option<Self> {
        let sizes = [Self::Tiny, Self::Small, Self::Medium, Self::Large];
        sizes.into_iter().find(|size| bytes <= size.bytes())
    }

    /// Free buffers of this size that each worker keeps, and the shared pool as well.
    const fn spare(self) -> usize {
        match self {
            Self::Tiny => 8,
            Self::Small => 64,
            Self::Medium => 24,
            Self::Large => 4,
        }
    }
}

/// The allocations of a free buffer.
struct Spare {
    bytes: Box<[u8]>,
    ready: Vec<Range<usize>>,
}

/// Free buffers by size.
struct Pool([Vec<Spare>; 4]);

impl Pool {
    const fn new() -> Self {
        Self([const { Vec::new() }; 4])
    }

    fn take(&mut self, size: Size) -> Option<Spare> {
        self.0.get_mut(size as usize)?.pop()
    }

    /// Keeps `spare`, or returns it when there are enough of its size.
    fn put(&mut self, size: Size, spare: Spare) -> Option<Spare> {
        match self.0.get_mut(size as usize) {
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

/// The surplus of all workers.
static SHARED: Mutex<Pool> = Mutex::new(Pool::new());

fn shared() -> MutexGuard<'static, Pool> {
    lock(&SHARED)
}

/// Bytes of the buffers in use by all workers.
static IN_USE: AtomicUsize = AtomicUsize::new(0);

static BUDGET: AtomicUsize = AtomicUsize::new(DEFAULT_BUDGET);

/// Sets a bound on the bytes of buffers in use. From three quarters of it on, flows get small buffers only; when it is
/// reached, tiny ones.
pub fn set_budget(bytes: usize) {
    BUDGET.store(bytes, Ordering::Relaxed);
}

/// The bound on the bytes of buffers in use.
#[must_use]
pub fn budget() -> usize {
    BUDGET.load(Ordering::Relaxed)
}

/// Bytes of the buffers in use by all workers.
#[must_use]
pub fn in_use() -> usize {
    IN_USE.load(Ordering::Relaxed)
}

/// What the budget leaves for one owner of buffers, who holds `held` bytes of those in use.
#[must_use]
pub fn left_for(held: usize) -> usize {
    let others = IN_USE.load(Ordering::Relaxed).saturating_sub(held);
    budget().saturating_sub(others)
}

/// Whether one more buffer of `size` keeps what is in use within `budget`.
fn fits(size: Size, budget: usize) -> bool {
    IN_USE.load(Ordering::Relaxed) + size.bytes() <= budget
}

/// Bytes in transit, and where in the buffer they are. Its memory returns to the worker's pool when it is dropped.
pub struct Buffer {
    bytes: Box<[u8]>,
    /// The bytes that are ready to be written, in order.
    pub ready: Vec<Range<usize>>,
    /// The bytes that were read and not yet processed.
    pub raw: Range<usize>,
}

impl Buffer {
    /// Whether the budget allows one more buffer of `size`. It always allows a small one, and keeps a quarter for those.
    #[must_use]
    pub fn affords(size: Size) -> bool {
        size <= Size::Small || fits(size, budget() / 4 * 3)
    }

    /// As [`Buffer::affords`], for a flow that can do with a tiny buffer.
    fn is_free(size: Size) -> bool {
        Self::affords(size) && (size != Size::Small || fits(size, budget()))
    }

    /// Takes a buffer of `size`, or a small one when the budget is used up.
    #[must_use]
    pub fn take(size: Size) -> Self {
        Self::take_exact(if Self::affords(size) {
            size
        } else {
            Size::Small
        })
    }

    /// As [`Buffer::take`] for a flow that can do with any size: a tiny buffer when the budget has no small one left.
    #[must_use]
    pub fn take_any(size: Size) -> Self {
        let sizes = [size, Size::Small.min(size)];
        let found = sizes.into_iter().find(|size| Self::is_free(*size));
        Self::take_exact(found.unwrap_or(Size::Tiny))
    }

    /// Takes a buffer of exactly this size, for a chunk that needs it, whatever the budget.
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

    /// The size of the buffer.
    #[must_use]
    pub fn size(&self) -> Size {
        Size::holding(self.bytes.len()).unwrap_or(Size::Large)
    }

    /// All bytes of the buffer.
    #[must_use]
    pub const fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All bytes of the buffer, [`Buffer::ready`] and [`Buffer::raw`].
    pub fn parts(&mut self) -> (&mut [u8], &mut Vec<Range<usize>>, &mut Range<usize>) {
        (&mut self.bytes, &mut self.ready, &mut self.raw)
    }

    /// Moves the unprocessed bytes to the front.
    pub fn compact(&mut self) {
        let len = self.raw.len();
        if self.raw.start > 0 {
            self.bytes.copy_within(self.raw.clone(), 0);
            self.raw = 0..len;
        }
    }

    /// Makes room for `need` bytes from the beginning of the unprocessed ones, in a buffer of `size` if the budget
    /// allows it. `None`: no buffer is that large.
    #[must_use]
    pub fn with_room(mut self, size: Size, need: usize) -> Option<Self> {
        if self.raw.start + need > self.bytes.len() {
            self.compact();
        }
        if size > self.size() && Self::is_free(size) {
            self = self.resized(size);
        }
        if need > self.bytes.len() {
            self = self.resized(Size::holding(need)?);
        }
        Some(self)
    }

    /// Prepares a wait for the rest of a piece of `need` bytes: keeps its beginning in the smallest buffer that holds
    /// the piece. `None`: there are no unprocessed bytes, so no buffer is needed.
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

    /// Moves the unprocessed bytes to a buffer of another size, which must hold them.
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
        // A thread that is ending has no pool any more; the memory is freed.
        let left = FREE.try_with(|free| free.borrow_mut().put(size, spare));
        if let Ok(Some(spare)) = left {
            let freed = shared().put(size, spare);
            // Freed only after the lock is released: others may be waiting for it.
            drop(freed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_buffers_of_a_worker_are_bounded() {
        let bytes = |size: Size| size.spare() * size.bytes();
        let all = bytes(Size::Tiny) + bytes(Size::Small) + bytes(Size::Medium) + bytes(Size::Large);
        assert!(all <= 5 << 20, "{all}");
    }

    #[test]
    fn surplus_of_one_worker_is_used_by_another() {
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
        // Other tests share the pool and may take the buffer first.
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
