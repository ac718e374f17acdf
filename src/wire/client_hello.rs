//! TLS's ClientHello, as far as it must be known whether it may be sent twice (RFC 8446 §4.1.2).
//!
//! ```text
//! record     type 22 ‖ version 3.x ‖ length u16be ‖ part of the message
//! message    type 1 ‖ length u24be ‖ version ‖ random 32 ‖ session id <u8> ‖ cipher suites <u16> ‖ compression <u8>
//!            ‖ extensions <u16>: { type u16be ‖ data <u16> }…
//! ```

/// The type of a record with handshake messages.
const HANDSHAKE: u8 = 22;
/// The high byte of every version of SSL 3 and TLS.
const MAJOR: u8 = 3;
/// The longest record of plain text, in bytes.
const MAX_RECORD: usize = 1 << 14;
/// The type of the message.
const CLIENT_HELLO: u8 = 1;
/// The extension that announces early data.
const EARLY_DATA: u16 = 42;

/// What a client has sent so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello {
    /// The beginning of a ClientHello, or nothing. A server cannot have done anything yet.
    Unfinished,
    /// A ClientHello without early data, and nothing behind it. A server answers it, and does nothing else.
    Whole,
    /// Anything else.
    Other,
}

/// Says what `bytes`, everything that a client has sent, is.
#[must_use]
pub fn look(bytes: &[u8]) -> Hello {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        let Some((header, body)) = rest.split_first_chunk::<5>() else {
            return beginning(rest);
        };
        let [kind, major, _, high, low] = *header;
        let len = usize::from(u16::from_be_bytes([high, low]));
        if (kind, major) != (HANDSHAKE, MAJOR) || !(1..=MAX_RECORD).contains(&len) {
            return Hello::Other;
        }
        let (part, behind) = body.split_at(len.min(body.len()));
        message.extend_from_slice(part);
        match missing(&message) {
            None => return Hello::Other,
            Some(0) if behind.is_empty() && part.len() == len => {
                return without_early_data(&message).unwrap_or(Hello::Other);
            }
            Some(0) => return Hello::Other,
            Some(_) if part.len() < len => return Hello::Unfinished,
            Some(_) => rest = behind,
        }
    }
}

/// The beginning of a record's header.
fn beginning(bytes: &[u8]) -> Hello {
    let fits = [HANDSHAKE, MAJOR].starts_with(bytes.get(..2).unwrap_or(bytes));
    if fits {
        Hello::Unfinished
    } else {
        Hello::Other
    }
}

/// Bytes that `message` lacks; `None`: it is no ClientHello, or more than one.
fn missing(message: &[u8]) -> Option<usize> {
    match message {
        [] => Some(4),
        [CLIENT_HELLO, a, b, c, body @ ..] => {
            let len = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).ok()?;
            len.checked_sub(body.len())
        }
        [CLIENT_HELLO, short @ ..] => Some(3 - short.len().min(2)),
        _ => None,
    }
}

/// Walks through a whole message. `None`: it is malformed.
fn without_early_data(message: &[u8]) -> Option<Hello> {
    let mut rest = message.get(4 + 2 + 32..)?;
    short_vector(&mut rest)?;
    long_vector(&mut rest)?;
    short_vector(&mut rest)?;
    if rest.is_empty() {
        return Some(Hello::Whole);
    }
    let mut extensions = long_vector(&mut rest)?;
    while !extensions.is_empty() {
        let (kind, behind) = extensions.split_first_chunk::<2>()?;
        extensions = behind;
        if u16::from_be_bytes(*kind) == EARLY_DATA {
            return Some(Hello::Other);
        }
        long_vector(&mut extensions)?;
    }
    rest.is_empty().then_some(Hello::Whole)
}

/// Takes a vector with a length of one byte off the front.
fn short_vector<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, rest) = bytes.split_first()?;
    let (vector, rest) = rest.split_at_checked(usize::from(*len))?;
    *bytes = rest;
    Some(vector)
}

/// Takes a vector with a length of two bytes off the front.
fn long_vector<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    let (vector, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    *bytes = rest;
    Some(vector)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    /// A ClientHello with these extensions, without its record.
    fn message(extensions: &[u16]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        let list: Vec<u8> = extensions
            .iter()
            .flat_map(|kind| [kind.to_be_bytes(), [0, 1]].concat().into_iter().chain([9]))
            .collect();
        body.extend(u16::try_from(list.len()).unwrap().to_be_bytes());
        body.extend(list);
        let len = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[CLIENT_HELLO, len[1], len[2], len[3]], &body[..]].concat()
    }

    fn record(part: &[u8]) -> Vec<u8> {
        let len = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[HANDSHAKE, 3, 1, len[0], len[1]], part].concat()
    }

    #[test]
    fn every_beginning_is_unfinished_and_the_whole_is_whole() {
        let message = message(&[0, 43, 51]);
        let (front, back) = message.split_at(30);
        for hello in [
            record(&message),
            [record(front), record(back)].concat(),
            [record(&message[..1]), record(&message[1..])].concat(),
        ] {
            for len in 0..hello.len() {
                assert_eq!(look(&hello[..len]), Hello::Unfinished, "{len}");
            }
            assert_eq!(look(&hello), Hello::Whole);
            assert_eq!(look(&[&hello[..], &[20]].concat()), Hello::Other);
        }
    }

    #[test]
    fn anything_else_is_other() {
        for bytes in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            vec![22, 4],
            vec![22, 3, 1, 0, 0],
            vec![22, 3, 1, 0xff, 0xff],
            record(&[2, 0, 0, 4]),
            record(&message(&[0, EARLY_DATA])),
            record(&[message(&[]), vec![1]].concat()),
            record(&[1, 0, 0, 1, 3]),
        ] {
            assert_eq!(look(&bytes), Hello::Other, "{bytes:?}");
        }
    }
}
