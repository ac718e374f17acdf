//! Names as they are written to a file.
//!
//! ```text
//! ssr fake names 1
//! EXPIRES ADDRESS NAME
//! …
//! end COUNT
//! ```

use std::net::IpAddr;
use std::sync::Arc;

use crate::limits::MAX_FAKE_NAMES;

const FIRST: &str = "ssr fake names 1";
const LAST: &str = "end";

/// A name and its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The address.
    pub address: IpAddr,
    /// The name that it stands for.
    pub name: Arc<str>,
    /// Until when, in Unix seconds.
    pub expires: u64,
}

/// Whether `name`, in lower case and without a final dot, is one that a fake address can stand for.
#[must_use]
pub fn can_have_address(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
    };
    name.len() <= 253 && name.split('.').all(is_label) && name.parse::<IpAddr>().is_err()
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It begins with something else.
    #[error("it is not a file of fake names")]
    Foreign,
    /// A line cannot be read.
    #[error("line {0} is damaged")]
    Line(usize),
    /// It ends too early.
    #[error("its end is missing")]
    Cut,
}

/// Writes names.
#[must_use]
pub fn encode(names: &[Saved]) -> String {
    let mut out = format!("{FIRST}\n");
    for Saved {
        address,
        name,
        expires,
    } in names
    {
        out.push_str(&format!("{expires} {address} {name}\n"));
    }
    out.push_str(&format!("{LAST} {}\n", names.len()));
    out
}

/// Reads names: at most those that can be in use.
///
/// # Errors
/// [`Damage`]. Nothing of a damaged file is used.
pub fn decode(text: &str) -> Result<Vec<Saved>, Damage> {
    let mut lines = text.lines().enumerate();
    if lines.next().is_none_or(|(_, line)| line != FIRST) {
        return Err(Damage::Foreign);
    }
    let mut names = Vec::new();
    for (index, line) in lines {
        let damaged = Damage::Line(index + 1);
        if let Some(count) = line.strip_prefix(LAST) {
            let is_whole = count.trim().parse() == Ok(names.len());
            return if is_whole {
                Ok(names)
            } else {
                Err(Damage::Cut)
            };
        }
        if names.len() >= 2 * MAX_FAKE_NAMES {
            return Err(damaged);
        }
        names.push(saved(line).ok_or(damaged)?);
    }
    Err(Damage::Cut)
}

fn saved(line: &str) -> Option<Saved> {
    let mut parts = line.split(' ');
    let (expires, address) = (parts.next()?, parts.next()?);
    let name = parts.next().filter(|name| can_have_address(name))?;
    let saved = Saved {
        address: address.parse().ok()?,
        name: name.into(),
        expires: expires.parse().ok()?,
    };
    parts.next().is_none().then_some(saved)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let one = |address: &str, name: &str| Saved {
            address: address.parse().unwrap(),
            name: name.into(),
            expires: 1_700_000_000,
        };
        let names = [
            one("198.18.0.1", "a.example"),
            one("fc00::1", "_b.example-2"),
        ];
        let text = encode(&names);
        assert_eq!(decode(&text).unwrap(), names);
        assert_eq!(decode(&encode(&[])).unwrap(), []);
        // Wherever it is cut, something is missing.
        for end in 0..text.len() - 1 {
            let cut = text.get(..end).unwrap();
            assert!(decode(cut).is_err(), "{cut}");
        }
    }

    #[test]
    fn damage_is_found() {
        let with = |line: &str| decode(&format!("{FIRST}\n{line}\nend 1\n"));
        assert!(with("5 198.18.0.1 a.example").is_ok());
        for line in [
            "",
            "x 198.18.0.1 a",
            "5 198.18.0 a",
            "5 198.18.0.1",
            "5 198.18.0.1 a b",
            "5 198.18.0.1 a/b",
            "5 198.18.0.1 ",
            "-5 198.18.0.1 a",
        ] {
            assert_eq!(with(line), Err(Damage::Line(2)), "{line}");
        }
        assert_eq!(decode("\0\0\0"), Err(Damage::Foreign));
        assert_eq!(decode(""), Err(Damage::Foreign));
        let many = format!(
            "{FIRST}\n{}end 0",
            "5 198.18.0.1 a\n".repeat(3 * MAX_FAKE_NAMES)
        );
        assert!(matches!(decode(&many), Err(Damage::Line(_))));
    }
}
