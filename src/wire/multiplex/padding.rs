//! The padding of a session: in each direction, the first [`FRAMES`] frames.
//!
//! ```text
//! data length u16be · padding length u16be · data · padding
//! ```
//!
//! After them the bytes stand as they are.

/// The number of padded frames in a direction.
pub const FRAMES: u8 = 16;
/// Length of the head of a frame, in bytes.
pub const HEAD: usize = 4;
/// Bytes of data in one frame, at most.
pub const MAX_DATA: usize = 65_535;
/// The shortest padding that is sent.
pub const MIN_PADDING: u16 = 256;
/// The longest padding that is sent.
pub const MAX_PADDING: u16 = 767;

/// The head of a frame of this much data and padding.
#[must_use]
pub fn head(data: u16, padding: u16) -> [u8; HEAD] {
    let ([a, b], [c, d]) = (data.to_be_bytes(), padding.to_be_bytes());
    [a, b, c, d]
}

/// Takes the padding out of what is received.
#[derive(Debug)]
pub struct Unpadder {
    /// Frames that have begun.
    frames: u8,
    head: [u8; HEAD],
    head_len: usize,
    data: usize,
    padding: usize,
}

impl Default for Unpadder {
    fn default() -> Self {
        Self::new()
    }
}

impl Unpadder {
    /// For the beginning of a direction.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            frames: 0,
            head: [0; HEAD],
            head_len: 0,
            data: 0,
            padding: 0,
        }
    }

    /// Looks at the front of `bytes`. Returns how many bytes to skip, and how many bytes of data follow them; neither
    /// exceeds `bytes`. To be called again with what comes after both.
    pub fn next(&mut self, bytes: &[u8]) -> (usize, usize) {
        let mut skip = 0;
        loop {
            let rest = bytes.get(skip..).unwrap_or_default();
            if self.data > 0 {
                let count = self.data.min(rest.len());
                self.data -= count;
                return (skip, count);
            }
            if self.padding > 0 {
                let count = self.padding.min(rest.len());
                self.padding -= count;
                skip += count;
                if self.padding > 0 {
                    return (skip, 0);
                }
                continue;
            }
            if self.frames == FRAMES {
                return (skip, rest.len());
            }
            for byte in rest.iter().take(HEAD - self.head_len) {
                if let Some(place) = self.head.get_mut(self.head_len) {
                    *place = *byte;
                }
                self.head_len += 1;
                skip += 1;
            }
            if self.head_len < HEAD {
                return (skip, 0);
            }
            let [a, b, c, d] = self.head;
            self.data = usize::from(u16::from_be_bytes([a, b]));
            self.padding = usize::from(u16::from_be_bytes([c, d]));
            self.head_len = 0;
            self.frames += 1;
        }
    }

    /// Whether the direction may end here.
    #[must_use]
    pub const fn at_boundary(&self) -> bool {
        self.head_len == 0 && self.data == 0 && self.padding == 0
    }
}
