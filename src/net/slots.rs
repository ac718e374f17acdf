//! Copies between contiguous bytes and the slots of a vectored read or write.

use std::io::{IoSlice, IoSliceMut};

/// Copies `from` into `slots`, after the `skip` bytes that they hold already; returns how many bytes fitted.
pub fn scatter(from: &[u8], slots: &mut [IoSliceMut<'_>], mut skip: usize) -> usize {
    let mut done = 0;
    for slot in slots {
        let start = skip.min(slot.len());
        skip -= start;
        let rest = from.get(done..).unwrap_or_default();
        let len = rest.len().min(slot.len() - start);
        if let (Some(to), Some(from)) = (slot.get_mut(start..start + len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        done += len;
    }
    done
}

/// Copies `parts` into `to`, one after the other; returns how many bytes fitted.
pub fn gather(parts: &[IoSlice<'_>], to: &mut [u8]) -> usize {
    let mut done = 0;
    for part in parts {
        let len = part.len().min(to.len() - done);
        if let (Some(to), Some(from)) = (to.get_mut(done..done + len), part.get(..len)) {
            to.copy_from_slice(from);
        }
        done += len;
    }
    done
}
