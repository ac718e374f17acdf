//! `geosite.dat` and `geoip.dat` of v2ray: protobuf messages with lists by code.
//!
//! ```text
//! file    { repeated list = 1 }
//! list    { string code = 1; repeated entry = 2 }
//! domain  { enum type = 1 (0 keyword, 1 regex, 2 suffix, 3 exact); string value = 2 }     of geosite.dat
//! network { bytes ip = 1; uint32 prefix = 2 }                                             of geoip.dat
//! ```

use std::net::IpAddr;

use ipnet::IpNet;

use super::domains::Kind;
use super::entry::Entry;

/// Which of the two files is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Geodata {
    /// Names.
    Site,
    /// Networks.
    Ip,
}

/// A file that is cut short or not of this format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the file is damaged or of another format: it cannot be read as v2ray's geosite.dat or geoip.dat"
)]
pub struct FormatError;

/// Calls `found` with every entry of the list that is called `code`, without regard to case. Returns whether there is
/// such a list.
///
/// # Errors
/// When the file is damaged; entries before the damage have been found.
pub fn entries(
    kind: Geodata,
    file: &[u8],
    code: &str,
    mut found: impl FnMut(Entry),
) -> Result<bool, FormatError> {
    let mut is_there = false;
    for field in Fields(file) {
        let (1, Value::Bytes(list)) = field? else {
            continue;
        };
        let mut is_wanted = false;
        for field in Fields(list) {
            match field? {
                (1, Value::Bytes(name)) => {
                    is_wanted = name.eq_ignore_ascii_case(code.as_bytes());
                    if !is_wanted {
                        break;
                    }
                    is_there = true;
                }
                (2, Value::Bytes(entry)) if is_wanted => {
                    if let Some(entry) = read(kind, entry)? {
                        found(entry);
                    }
                }
                _ => {}
            }
        }
    }
    Ok(is_there)
}

fn read(kind: Geodata, entry: &[u8]) -> Result<Option<Entry>, FormatError> {
    let (mut number, mut bytes) = ([0; 2], [&[][..]; 2]);
    for field in Fields(entry) {
        match field? {
            (at @ (1 | 2), Value::Number(value)) => number[usize::from(at == 2)] = value,
            (at @ (1 | 2), Value::Bytes(value)) => bytes[usize::from(at == 2)] = value,
            _ => {}
        }
    }
    Ok(match kind {
        Geodata::Site => {
            let text = String::from_utf8(bytes[1].to_vec()).map_err(|_| FormatError)?;
            match number[0] {
                0 => Some(Entry::Keyword(text)),
                1 => Some(Entry::Regex(text)),
                2 => Some(Entry::Domain(Kind::Suffix, text)),
                3 => Some(Entry::Domain(Kind::Exact, text)),
                _ => None,
            }
        }
        Geodata::Ip => {
            let ip = match bytes[0].len() {
                4 => <[u8; 4]>::try_from(bytes[0]).map(IpAddr::from),
                _ => <[u8; 16]>::try_from(bytes[0]).map(IpAddr::from),
            };
            let prefix = u8::try_from(number[1]).map_err(|_| FormatError)?;
            let network = IpNet::new(ip.map_err(|_| FormatError)?, prefix);
            Some(Entry::Network(network.map_err(|_| FormatError)?))
        }
    })
}

/// A value of a protobuf field.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a protobuf message, by their numbers. After an error comes the end.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.number()?;
        let value = match key & 7 {
            0 => Value::Number(self.number()?),
            1 => Value::Bytes(self.bytes(8)?),
            2 => {
                let len = usize::try_from(self.number()?).ok()?;
                Value::Bytes(self.bytes(len)?)
            }
            5 => Value::Bytes(self.bytes(4)?),
            _ => return None,
        };
        Some((key >> 3, value))
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or(FormatError);
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let len = u8::try_from(bytes.len()).unwrap();
        [&[number << 3 | 2, len], bytes].concat()
    }

    fn list(code: &str, entries: &[Vec<u8>]) -> Vec<u8> {
        let entries: Vec<u8> = entries.iter().flat_map(|entry| field(2, entry)).collect();
        field(1, &[field(1, code.as_bytes()), entries].concat())
    }

    fn found(kind: Geodata, file: &[u8], code: &str) -> Result<Vec<Entry>, FormatError> {
        let mut all = Vec::new();
        entries(kind, file, code, |entry| all.push(entry))?;
        Ok(all)
    }

    #[test]
    fn reads_the_list_that_is_asked_for() {
        let domain = |kind: u8, name: &str| [&[8, kind][..], &field(2, name.as_bytes())].concat();
        let file = [
            list(
                "CN",
                &[
                    domain(2, "a.example"),
                    domain(3, "b.example"),
                    domain(0, "key"),
                    domain(1, "^x"),
                ],
            ),
            list("US", &[domain(2, "c.example")]),
        ]
        .concat();
        let all = found(Geodata::Site, &file, "cn").unwrap();
        assert_eq!(
            all,
            [
                Entry::Domain(Kind::Suffix, "a.example".to_owned()),
                Entry::Domain(Kind::Exact, "b.example".to_owned()),
                Entry::Keyword("key".to_owned()),
                Entry::Regex("^x".to_owned()),
            ]
        );
        assert_eq!(entries(Geodata::Site, &file, "de", |_| ()), Ok(false));
    }

    #[test]
    fn reads_networks() {
        let four = [field(1, &[192, 0, 2, 0]), vec![16, 24]].concat();
        let six = [field(1, &[0x20; 16]), vec![16, 32]].concat();
        let file = list("private", &[four, six]);
        let all = found(Geodata::Ip, &file, "PRIVATE").unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(
            all.first(),
            Some(&Entry::Network("192.0.2.0/24".parse().unwrap()))
        );
    }

    #[test]
    fn damaged_files_are_refused() {
        let file = list("CN", &[[&[8, 2][..], &field(2, b"a.example")].concat()]);
        for len in 1..file.len() {
            let cut = file.get(..len).unwrap();
            assert_eq!(
                found(Geodata::Site, cut, "cn"),
                Err(FormatError),
                "{len} bytes"
            );
        }
        for file in [
            &b"not a list"[..],
            &[0xff; 64],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        ] {
            assert_eq!(
                found(Geodata::Site, file, "cn"),
                Err(FormatError),
                "{file:?}"
            );
        }
    }
}
