//! The size of the next buffer.

use crate::net::pool::Size;

/// Transfers in a row that need only part of a buffer, after which a flow goes back to a small one.
const SMALL_TRANSFERS: u8 = 4;

/// Chooses buffer sizes for one direction: larger after a buffer was filled, small again when transfers stay small.
pub(super) struct Sizing {
    size: Size,
    largest: Size,
    small_transfers: u8,
}

impl Sizing {
    /// Starts with a small buffer and never chooses one above `largest`.
    pub(super) const fn up_to(largest: Size) -> Self {
        Self {
            size: Size::Small,
            largest,
            small_transfers: 0,
        }
    }

    pub(super) const fn size(&self) -> Size {
        self.size
    }

    /// Call it after a transfer of `count` bytes into a buffer with room for `room`.
    pub(super) fn transferred(&mut self, count: usize, room: usize) {
        if count >= room {
            self.size = self.size.up().min(self.largest);
            self.small_transfers = 0;
        } else {
            self.note(count < room / 4);
        }
    }

    /// Call it after a transfer that used no buffer of this size. `small`: a small buffer would have been enough.
    pub(super) fn note(&mut self, small: bool) {
        if !small || self.size == Size::Small {
            self.small_transfers = 0;
            return;
        }
        self.small_transfers += 1;
        if self.small_transfers == SMALL_TRANSFERS {
            (self.size, self.small_transfers) = (Size::Small, 0);
        }
    }

    #[cfg(test)]
    pub(super) const fn set(&mut self, size: Size) {
        self.size = size;
    }
}
