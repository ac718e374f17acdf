//! mux.cool with one stream in it.

use super::{Decoder, Event, Frame, Head, MAX_DATA, Violation};

/// The id of a client's stream; v2ray-plugin counts from 1 as well.
const ID: u16 = 1;

/// The only stream of a mux.cool connection, read and written in place.
pub struct SingleStream {
    decoder: Decoder,
    /// `None` on a server before the client's New.
    id: Option<u16>,
    begun: bool,
    ended: Option<bool>,
}

impl SingleStream {
    /// The client's side, before its New.
    #[must_use]
    pub const fn client() -> Self {
        Self {
            decoder: Decoder::new(),
            id: Some(ID),
            begun: false,
            ended: None,
        }
    }

    /// The server's side, before the client's New.
    #[must_use]
    pub const fn server() -> Self {
        Self {
            decoder: Decoder::new(),
            id: None,
            begun: true,
            ended: None,
        }
    }

    /// Moves the data of the stream to the front of `bytes` and returns its length.
    ///
    /// # Errors
    /// [`Violation`]; nothing can be read after it.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<usize, Violation> {
        let (mut from, mut to) = (0, 0);
        while from < bytes.len() && self.ended.is_none() {
            let (used, event) = self.decoder.next(bytes.get(from..).unwrap_or_default())?;
            match event {
                Event::Data(id) if self.id == Some(id) => {
                    if from != to {
                        bytes.copy_within(from..from + used, to);
                    }
                    to += used;
                }
                Event::End(id, error) if self.id == Some(id) => self.ended = Some(error),
                Event::New(id) if self.id.is_none() => self.id = Some(id),
                Event::New(_) => return Err(Violation::Stream),
                _ => {}
            }
            from += used;
        }
        Ok(to)
    }

    /// Bytes of data that come next, without a head before them.
    #[must_use]
    pub const fn data_left(&self) -> usize {
        self.decoder.data_left() as usize
    }

    /// Whether a connection that ends here was not cut within a frame.
    #[must_use]
    pub const fn at_boundary(&self) -> bool {
        self.decoder.at_boundary()
    }

    /// `None` until the peer ends the stream; then whether it says that the stream broke.
    #[must_use]
    pub const fn ended(&self) -> Option<bool> {
        self.ended
    }

    /// The head of the next frame, and how many of `len` bytes go in that frame.
    pub fn next_head(&mut self, len: usize) -> (Head, usize) {
        let data = u16::try_from(len.min(MAX_DATA)).unwrap_or(u16::MAX);
        let id = self.id.unwrap_or(ID);
        let frame = if self.begun {
            Frame::Keep { id, data }
        } else {
            Frame::New { id, data }
        };
        self.begun = true;
        (frame.head(), usize::from(data))
    }
}
