//! What flows of bulk leave to the others of their worker.
//!
//! A turn with a large buffer costs half a millisecond, and on the way of one small message there and back are four
//! turns of two processes. With medium buffers bulk costs more, so it takes them only while somebody near it moves
//! little at a time.

use std::cell::Cell;

use crate::net::pool::Size;

/// A turn that moves at most so many bytes is one of a flow that waits for answers.
const LITTLE: u64 = 4 * 1024;
/// A turn that moves at least so many is one of bulk.
const MUCH: u64 = 32 * 1024;
/// Turns of bulk for which a small one is remembered: a few milliseconds.
const TURNS: u8 = 64;
/// Bytes after which a turn ends, alone and beside flows that wait.
const LONG_TURN: u64 = 128 * 1024;
const SHORT_TURN: u64 = 64 * 1024;

thread_local! {
    /// Turns of bulk for which courtesy is still due, on this worker.
    static DUE: Cell<u8> = const { Cell::new(0) };
}

fn is_due() -> bool {
    DUE.get() > 0
}

/// Takes note of a turn that has moved so many bytes.
pub(super) fn note(moved: u64) {
    match moved {
        0 => {}
        1..=LITTLE => DUE.set(TURNS),
        MUCH.. => DUE.set(DUE.get().saturating_sub(1)),
        _ => {}
    }
}

/// The largest buffer for the next read.
pub(super) fn largest() -> Size {
    if is_due() { Size::Medium } else { Size::Large }
}

/// Bytes after which a turn is over.
pub(super) fn turn() -> u64 {
    if is_due() { SHORT_TURN } else { LONG_TURN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_takes_less_for_a_while_after_a_small_turn() {
        assert_eq!((largest(), turn()), (Size::Large, LONG_TURN));
        note(0);
        note(500_000);
        assert_eq!(largest(), Size::Large);
        note(64);
        for _ in 0..TURNS {
            assert_eq!((largest(), turn()), (Size::Medium, SHORT_TURN));
            note(10_000);
            note(80_000);
        }
        assert_eq!((largest(), turn()), (Size::Large, LONG_TURN));
    }
}
