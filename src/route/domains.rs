//! Names: exact ones and suffixes, found by one hash probe a label.
//!
//! All names stand in one arena, and the hash table holds their offsets only. A record of the arena:
//!
//! ```text
//! +------+-----+---------+------+
//! | kind | len | list    | name |
//! |  1   |  1  | u32 le  | len  |
//! +------+-----+---------+------+
//! ```

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::rule::RuleId;

/// Longest name, in bytes (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;
/// Bytes before the name in a record.
const HEAD: usize = 6;
/// Bytes of a piece of the arena; an offset is a piece's number above these bits, and a place in it.
const PIECE_BITS: u32 = 20;
const PIECE: usize = 1 << PIECE_BITS;

/// How a name of a rule is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The name itself only.
    Exact,
    /// The name and all names below it.
    Suffix,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Exact => 0,
            Self::Suffix => 1,
        }
    }
}

/// The rules of each name.
#[derive(Default)]
pub struct Domains {
    arena: Arena,
    /// Offsets into `arena`.
    table: HashTable<u32>,
    /// Ascending rules of a name; most names of a list share one.
    lists: Vec<Box<[RuleId]>>,
    hasher: RandomState,
}

/// Records one behind the other, in pieces: a buffer in one piece would be copied, and be there twice, when it grows.
#[derive(Default)]
struct Arena(Vec<Vec<u8>>);

impl Arena {
    /// Adds a record and returns its offset.
    fn push(&mut self, kind: Kind, list: u32, name: &[u8]) -> Result<u32, NameError> {
        let len = u8::try_from(name.len()).map_err(|_| NameError::Invalid)?;
        let fits = |piece: &&mut Vec<u8>| piece.len() + HEAD + name.len() <= PIECE;
        if self.0.last_mut().filter(fits).is_none() {
            let size = if self.0.is_empty() { 0 } else { PIECE };
            self.0.push(Vec::with_capacity(size));
        }
        let number = self.0.len() - 1;
        let piece = self.0.last_mut().ok_or(NameError::Full)?;
        let offset = (number << PIECE_BITS) | piece.len();
        let offset = u32::try_from(offset).map_err(|_| NameError::Full)?;
        piece.extend_from_slice(&[kind.code(), len]);
        piece.extend_from_slice(&list.to_le_bytes());
        piece.extend_from_slice(name);
        Ok(offset)
    }

    /// A record's head and name.
    fn at(&self, offset: u32) -> Option<(&[u8; HEAD], &[u8])> {
        let piece = self.0.get((offset >> PIECE_BITS) as usize)?;
        let record = piece.get(offset as usize & (PIECE - 1)..)?;
        let (head, rest) = record.split_first_chunk::<HEAD>()?;
        Some((head, rest.get(..usize::from(head[1]))?))
    }

    fn name(&self, offset: u32) -> &[u8] {
        self.at(offset).map_or(&[], |(_, name)| name)
    }

    fn list(&self, offset: u32) -> usize {
        let list = self
            .at(offset)
            .map(|([_, _, list @ ..], _)| u32::from_le_bytes(*list));
        list.map_or(usize::MAX, |list| list as usize)
    }

    fn set_list(&mut self, offset: u32, list: u32) {
        let at = (offset as usize & (PIECE - 1)) + 2;
        let piece = self.0.get_mut((offset >> PIECE_BITS) as usize);
        if let Some(place) = piece.and_then(|piece| piece.get_mut(at..at + 4)) {
            place.copy_from_slice(&list.to_le_bytes());
        }
    }

    fn is(&self, offset: u32, kind: Kind, name: &[u8]) -> bool {
        self.at(offset)
            .is_some_and(|(head, found)| head[0] == kind.code() && found == name)
    }

    fn hash(&self, offset: u32, hasher: &RandomState) -> u64 {
        self.at(offset)
            .map_or(0, |(head, name)| hasher.hash_one((head[0], name)))
    }
}

/// Why a name was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a name.
    #[error(
        "not a domain name: use 1 to 253 ASCII characters, names with other letters in their `xn--` form"
    )]
    Invalid,
    /// More names than offsets reach.
    #[error("too many names: at most 4 GiB of them fit")]
    Full,
}

impl Domains {
    /// Makes room for `names` more names.
    pub fn reserve(&mut self, names: usize) {
        let (arena, hasher) = (&self.arena, &self.hasher);
        self.table
            .reserve(names, |offset| arena.hash(*offset, hasher));
    }

    /// Adds a name for `rule`. Rules are added in ascending order.
    ///
    /// # Errors
    /// When it is not a name, or the arena is full.
    pub fn add(&mut self, kind: Kind, name: &str, rule: RuleId) -> Result<(), NameError> {
        let mut room = [0; MAX_NAME];
        let name = normalized(name, &mut room).ok_or(NameError::Invalid)?;
        let hash = hash(&self.hasher, kind, name);
        let found = self
            .table
            .find(hash, |offset| self.arena.is(*offset, kind, name));
        if let Some(&offset) = found {
            return self.extend(offset, rule);
        }
        let list = self.list_of_one(rule)?;
        let offset = self.arena.push(kind, list, name)?;
        let (arena, hasher) = (&self.arena, &self.hasher);
        self.table
            .insert_unique(hash, offset, |offset| arena.hash(*offset, hasher));
        Ok(())
    }

    /// The list that holds `rule` alone. Names come rule by rule, so it is the last one or a new one.
    fn list_of_one(&mut self, rule: RuleId) -> Result<u32, NameError> {
        let last = self.lists.len().checked_sub(1);
        let same = last.filter(|index| self.lists.get(*index).is_some_and(|list| **list == [rule]));
        let index = same.unwrap_or_else(|| {
            self.lists.push(Box::new([rule]));
            self.lists.len() - 1
        });
        u32::try_from(index).map_err(|_| NameError::Full)
    }

    /// Adds a rule to a name that has one.
    fn extend(&mut self, offset: u32, rule: RuleId) -> Result<(), NameError> {
        let index = self.arena.list(offset);
        let known = self.lists.get(index).map_or(&[][..], |list| list);
        if known.last() == Some(&rule) {
            return Ok(());
        }
        let longer: Box<[RuleId]> = known.iter().copied().chain([rule]).collect();
        // Names that belong to the same rules mostly come one after the other.
        let index = match self
            .lists
            .iter()
            .rev()
            .take(4)
            .position(|list| *list == longer)
        {
            Some(back) => self.lists.len() - 1 - back,
            None => {
                self.lists.push(longer);
                self.lists.len() - 1
            }
        };
        let index = u32::try_from(index).map_err(|_| NameError::Full)?;
        self.arena.set_list(offset, index);
        Ok(())
    }

    /// Calls `found` with the ascending rules of every name that covers `host`, and with that name's bytes.
    pub fn find<'a>(&'a self, host: &str, mut found: impl FnMut(&'a [RuleId], &'a [u8])) {
        if self.table.is_empty() {
            return;
        }
        let mut room = [0; MAX_NAME];
        let Some(name) = normalized(host, &mut room) else {
            return;
        };
        let mut probe = |kind, name: &[u8]| {
            let hash = hash(&self.hasher, kind, name);
            let at = self
                .table
                .find(hash, |offset| self.arena.is(*offset, kind, name));
            if let Some(&offset) = at
                && let Some(list) = self.lists.get(self.arena.list(offset))
            {
                found(list, self.arena.name(offset));
            }
        };
        probe(Kind::Exact, name);
        let mut rest = name;
        loop {
            probe(Kind::Suffix, rest);
            match rest.iter().position(|byte| *byte == b'.') {
                Some(dot) => rest = rest.get(dot + 1..).unwrap_or_default(),
                None => return,
            }
        }
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

/// The name in lower case and without its final dot, in `room`; `None` if it is not a name.
fn normalized<'a>(name: &str, room: &'a mut [u8; MAX_NAME]) -> Option<&'a [u8]> {
    let name = name.strip_suffix('.').unwrap_or(name).as_bytes();
    let room = room.get_mut(..name.len()).filter(|room| !room.is_empty())?;
    for (to, byte) in room.iter_mut().zip(name) {
        if !byte.is_ascii_graphic() {
            return None;
        }
        *to = byte.to_ascii_lowercase();
    }
    Some(room)
}

fn hash(hasher: &RandomState, kind: Kind, name: &[u8]) -> u64 {
    hasher.hash_one((kind.code(), name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn matches(domains: &Domains, host: &str) -> Vec<u32> {
        let mut all = Vec::new();
        domains.find(host, |rules, _| all.extend(rules.iter().map(|rule| rule.0)));
        all.sort_unstable();
        all.dedup();
        all
    }

    fn made(names: &[(Kind, &str, u32)]) -> Domains {
        let mut domains = Domains::default();
        for (kind, name, rule) in names {
            domains.add(*kind, name, RuleId(*rule)).unwrap();
        }
        domains
    }

    #[test]
    fn suffix_covers_the_name_and_what_is_below_it() {
        let domains = made(&[
            (Kind::Suffix, "example.com", 0),
            (Kind::Exact, "one.org", 1),
        ]);
        for (host, rules) in [
            ("example.com", &[0][..]),
            ("WWW.Example.COM.", &[0]),
            ("a.b.example.com", &[0]),
            ("notexample.com", &[]),
            ("com", &[]),
            ("one.org", &[1]),
            ("www.one.org", &[]),
            ("", &[]),
            (".", &[]),
        ] {
            assert_eq!(matches(&domains, host), rules, "{host}");
        }
    }

    #[test]
    fn name_keeps_all_its_rules() {
        let domains = made(&[
            (Kind::Suffix, "a.com", 0),
            (Kind::Suffix, "b.com", 0),
            (Kind::Suffix, "a.com", 1),
            (Kind::Suffix, "b.com", 1),
            (Kind::Suffix, "a.com", 1),
            (Kind::Exact, "a.com", 2),
        ]);
        assert_eq!(matches(&domains, "a.com"), [0, 1, 2]);
        assert_eq!(matches(&domains, "x.b.com"), [0, 1]);
        assert_eq!(domains.lists.len(), 3, "equal lists are stored once");
    }

    #[test]
    fn refuses_what_is_not_a_name() {
        let mut domains = Domains::default();
        for name in ["", ".", "a b", "bücher.example", &"a".repeat(254)] {
            let added = domains.add(Kind::Exact, name, RuleId(0));
            assert_eq!(added, Err(NameError::Invalid), "{name}");
        }
        assert!(
            domains
                .add(Kind::Exact, &"a".repeat(253), RuleId(0))
                .is_ok()
        );
    }

    #[test]
    fn million_names_take_less_than_40_mib() {
        let mut domains = Domains::default();
        domains.reserve(1_000_000);
        for number in 0..1_000_000 {
            let name = format!("host{number}.example");
            domains.add(Kind::Suffix, &name, RuleId(0)).unwrap();
        }
        let table = domains.table.allocation_size();
        let pieces = domains.arena.0.iter();
        let bytes = table + pieces.map(Vec::capacity).sum::<usize>();
        assert!(bytes < 40 << 20, "{bytes} bytes");
        assert_eq!(matches(&domains, "www.host999999.example"), [0]);
        assert!(matches(&domains, "www.host1000000.example").is_empty());
    }
}
