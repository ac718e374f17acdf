//! The parts of HTTP/1.1 in which parsers differ, read strictly (RFC 9112): what others could read differently is malformed.

use httparse::{EMPTY_HEADER, Status};

/// Maximum number of lines after the last chunk.
const MAX_TRAILERS: usize = 100;
/// Maximum number of digits of a chunk's size: what fits in 60 bits.
const MAX_DIGITS: usize = 15;

/// A part of a message that is not valid, or that others could read differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// A value without the blanks around it. Only space and tab are blank (RFC 9110 §5.6.3).
pub(super) fn trim(value: &str) -> &str {
    value.trim_matches([' ', '\t'])
}

/// The words of a list (RFC 9110 §5.6.1).
pub(super) fn words(list: &str) -> impl DoubleEndedIterator<Item = &str> {
    list.split(',').map(trim).filter(|word| !word.is_empty())
}

/// Whether a text is a token, such as the name of a field (RFC 9110 §5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    let is_token_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// Reads the value of `Content-Length`.
pub(super) fn content_length(value: &str) -> Result<u64, Malformed> {
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let length = value.parse().ok().filter(|_| is_number);
    // Many keep it in a signed number.
    length
        .filter(|length| i64::try_from(*length).is_ok())
        .ok_or(Malformed)
}

/// Reads the line with a chunk's size: its length and the size (RFC 9112 §7.1). `None`: it has not ended.
pub(super) fn chunk_size(line: &[u8]) -> Result<Option<(usize, u64)>, Malformed> {
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    if digits > MAX_DIGITS || (digits == 0 && !line.is_empty()) {
        return Err(Malformed);
    }
    let (digits, rest) = line.split_at_checked(digits).ok_or(Malformed)?;
    let begins = rest.iter().find(|byte| !matches!(byte, b' ' | b'\t'));
    if begins.is_some_and(|byte| !matches!(byte, b';' | b'\r')) {
        return Err(Malformed);
    }
    let end = rest
        .iter()
        .position(|byte| byte.is_ascii_control() && *byte != b'\t');
    let Some((extensions, end)) = end.and_then(|end| rest.split_at_checked(end)) else {
        return Ok(None);
    };
    match end {
        [b'\r'] => return Ok(None),
        [b'\r', b'\n', ..] => {}
        _ => return Err(Malformed),
    }
    let size = std::str::from_utf8(digits).map_err(|_| Malformed)?;
    let size = u64::from_str_radix(size, 16).map_err(|_| Malformed)?;
    Ok(Some((digits.len() + extensions.len() + 2, size)))
}

/// Reads the lines after the last chunk, with the empty one that ends them: their length. `None`: they have not ended.
pub(super) fn trailers(lines: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut headers = [EMPTY_HEADER; MAX_TRAILERS];
    let parsed = httparse::parse_headers(lines, &mut headers).map_err(|_| Malformed)?;
    let len = match parsed {
        Status::Complete((len, _)) => Some(len),
        Status::Partial => None,
    };
    let read = lines.get(..len.unwrap_or(lines.len())).unwrap_or_default();
    // Some end a line at a bare LF, and some do not.
    let mut before = b' ';
    for byte in read {
        if *byte == b'\n' && before != b'\r' {
            return Err(Malformed);
        }
        before = *byte;
    }
    Ok(len)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_space_and_tab_are_blank() {
        assert_eq!(trim(" \tchunked\t "), "chunked");
        for other in [
            "\u{a0}chunked",
            "chunked\u{2003}",
            "\u{b}chunked",
            "\u{85}chunked",
        ] {
            assert_eq!(trim(other), other);
        }
        let listed: Vec<_> = words(" close ,, keep-alive,").collect();
        assert_eq!(listed, ["close", "keep-alive"]);
    }

    #[test]
    fn length_is_digits_that_everybody_can_hold() {
        assert_eq!(
            content_length("9223372036854775807"),
            Ok(9_223_372_036_854_775_807)
        );
        for wrong in [
            "",
            "+1",
            "-1",
            "1,1",
            "0x1",
            "\u{a0}1",
            "9223372036854775808",
        ] {
            assert_eq!(content_length(wrong), Err(Malformed), "{wrong}");
        }
    }

    #[test]
    fn size_line_has_digits_and_ends_with_crlf() {
        for (line, len, size) in [
            ("5\r\nhello", 3, 5),
            ("0aF\r\n", 5, 0xaf),
            ("5;a=\"b\"\r\n", 9, 5),
            ("5 \t;a\r\n", 7, 5),
            ("5 \r\n", 4, 5),
        ] {
            assert_eq!(
                chunk_size(line.as_bytes()),
                Ok(Some((len, size))),
                "{line:?}"
            );
            for end in 0..len {
                assert_eq!(
                    chunk_size(line.as_bytes().get(..end).unwrap()),
                    Ok(None),
                    "{line:?} to {end}"
                );
            }
        }
        for wrong in [
            "\r\n",
            ";a\r\n",
            " 5\r\n",
            "5\n",
            "5;a\n\r\n",
            "5;a\rb\r\n",
            "5;a\0\r\n",
            "5 5\r\n",
            "5\u{a0}\r\n",
            "0x5\r\n",
            "0000000000000005\r\n",
        ] {
            assert_eq!(chunk_size(wrong.as_bytes()), Err(Malformed), "{wrong:?}");
        }
    }

    #[test]
    fn trailers_end_with_crlf() {
        assert_eq!(trailers(b"\r\nGET / HTTP/1.1\n"), Ok(Some(2)));
        assert_eq!(trailers(b"A: b\r\n\r\n"), Ok(Some(8)));
        assert_eq!(trailers(b"A: b\r\n"), Ok(None));
        for wrong in [
            &b"\n"[..],
            b"A: b\n\r\n",
            b"A: b\r\n\n",
            b"A: b\n",
            b"A: b\r\n c\r\n\r\n",
        ] {
            assert_eq!(trailers(wrong), Err(Malformed), "{wrong:?}");
        }
    }
}
