//! DNS messages (RFC 1035), as a forwarder needs them: header, question, EDNS (RFC 6891) and times to live.
//!
//! Records are walked, not read: they pass unchanged, those of unknown types too. Only the OPT record belongs to one hop
//! and is made anew for each.
//!
//! - [`Query`] is what a client asks. [`Query::encode`] makes the query for a name server.
//! - [`answers`] tells whether a message is the answer to a query.
//! - [`Answer`] (`answer.rs`) is an answer that can be kept, and given to each client that asks the same; `made.rs`: those
//!   that no name server has given.

mod answer;
mod made;

#[cfg(test)]
mod tests;

pub use answer::Answer;
pub use made::Denial;

/// Bytes of the header.
const HEADER: usize = 12;
/// Bytes of the longest name in wire format.
pub const MAX_NAME: usize = 255;
/// Bytes of an OPT record without options.
const OPT: usize = 11;
/// The largest answer that a client without EDNS takes in a datagram.
pub const PLAIN_SIZE: u16 = 512;

/// The header is an answer's.
const QR: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
/// The answer did not fit.
const TC: u16 = 0x0200;
/// The client wants recursion.
const RD: u16 = 0x0100;
const RA: u16 = 0x0080;
/// The answer was validated; in a query: the client wants to know (RFC 6840 §5.7).
const AD: u16 = 0x0020;
/// The client validates itself.
const CD: u16 = 0x0010;
const RCODE: u16 = 0x000f;

const FORMERR: u16 = 1;
const SERVFAIL: u16 = 2;
const NXDOMAIN: u16 = 3;
const NOTIMP: u16 = 4;
const REFUSED: u16 = 5;
/// The extended part of BADVERS, which is 16.
const BADVERS_EXTENDED: u8 = 1;

/// The type of records with an IPv4 address.
pub const TYPE_A: u16 = 1;
/// The type of records with an IPv6 address.
pub const TYPE_AAAA: u16 = 28;
/// The class of the internet.
pub const CLASS_IN: u16 = 1;
const TYPE_SOA: u16 = 6;
const TYPE_OPT: u16 = 41;
/// Transfers of zones, which are many messages.
const TYPE_IXFR: u16 = 251;
const TYPE_AXFR: u16 = 252;
const TYPE_ANY: u16 = 255;

/// Options that concern one hop alone: cookie (RFC 7873), keepalive (RFC 7828), padding (RFC 7830).
const HOP_OPTIONS: [u16; 3] = [10, 11, 12];
/// Extended errors (RFC 8914) pass to clients.
const OPTION_ERROR: u16 = 15;

/// What is asked: a name in wire format, a type and a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question<'a> {
    /// The name, uncompressed, with the empty label at its end.
    pub name: &'a [u8],
    /// The type of the records.
    pub kind: u16,
    /// Their class.
    pub class: u16,
}

/// The OPT record of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns<'a> {
    /// Bytes of the largest datagram that the sender takes.
    pub size: u16,
    /// Whether the sender wants DNSSEC records (DO).
    pub dnssec_ok: bool,
    /// The options.
    pub options: &'a [u8],
    extended: u8,
}

/// A client's query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// Its id.
    pub id: u16,
    /// What it asks.
    pub question: Question<'a>,
    /// Its OPT record.
    pub edns: Option<Edns<'a>>,
    flags: u16,
}

/// Why a message is not a query that can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is too short for a header, or an answer: to answer it could begin a loop.
    Ignore,
    /// It is malformed.
    Malformed,
    /// It wants something else than the records of a name.
    NotImplemented,
    /// It has a version of EDNS other than 0.
    Version,
}

impl Refusal {
    /// The answer to `message`, never longer than it; `None`: no answer.
    #[must_use]
    pub fn encode(self, message: &[u8]) -> Option<Vec<u8>> {
        let (id, flags) = (u16_at(message, 0)?, u16_at(message, 2)?);
        let (code, opt) = match self {
            Self::Ignore => return None,
            Self::Malformed => (FORMERR, None),
            Self::NotImplemented => (NOTIMP, None),
            Self::Version => (0, Some(BADVERS_EXTENDED)),
        };
        let mut out = Vec::with_capacity(HEADER + OPT);
        let flags = QR | flags & (OPCODE | RD) | code;
        put_header(&mut out, id, flags, [0, 0, 0, u16::from(opt.is_some())]);
        if let Some(extended) = opt {
            put_opt(&mut out, PLAIN_SIZE, extended, false, &[]);
        }
        Some(out)
    }
}

impl<'a> Query<'a> {
    /// Reads a query.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let header = Header::parse(bytes).ok_or(Refusal::Ignore)?;
        if header.flags & QR != 0 {
            return Err(Refusal::Ignore);
        }
        if header.flags & OPCODE != 0 {
            return Err(Refusal::NotImplemented);
        }
        let [1, 0, 0, _] = header.counts else {
            return Err(Refusal::Malformed);
        };
        let (question, end) = question(bytes).ok_or(Refusal::Malformed)?;
        let mut edns = None;
        for record in records(bytes, header.counts, end) {
            let record = record.ok_or(Refusal::Malformed)?;
            if record.kind == TYPE_OPT {
                let opt = record.opt(bytes).ok_or(Refusal::Malformed)?;
                if edns.replace(opt).is_some() {
                    return Err(Refusal::Malformed);
                }
                if record.ttl >> 16 & 0xff != 0 {
                    return Err(Refusal::Version);
                }
            }
        }
        if header.flags & RD == 0 || matches!(question.kind, TYPE_AXFR | TYPE_IXFR | TYPE_OPT) {
            return Err(Refusal::NotImplemented);
        }
        Ok(Self {
            id: header.id,
            question,
            edns,
            flags: header.flags & (RD | AD | CD),
        })
    }

    /// Whether it wants DNSSEC records.
    #[must_use]
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Whether it has options that a name server must see, so that its answer is for this client alone: those of the
    /// client's network (RFC 7871), for example.
    #[must_use]
    pub fn is_private(&self) -> bool {
        let options = self.edns.map_or(&[][..], |edns| edns.options);
        split(options).any(|(code, _)| !HOP_OPTIONS.contains(&code))
    }

    /// What makes the answers to two queries the same: name without regard to case, type, class, DO and CD.
    pub fn key(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend(self.question.name.iter().map(u8::to_ascii_lowercase));
        out.extend(self.question.kind.to_be_bytes());
        out.extend(self.question.class.to_be_bytes());
        out.push(u8::from(self.dnssec_ok()) | u8::from(self.flags & CD != 0) << 1);
    }

    /// The query for a name server, with `id` and the case of each letter of the name by a bit of `case` (0x20 of
    /// draft-vixie-dnsext-dns0x20). With `size`, it has EDNS and the options that are not of one hop alone.
    #[must_use]
    pub fn encode(&self, id: u16, case: [u8; 32], size: Option<u16>) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.question.name.len() + 4 + OPT);
        let flags = self.flags | AD;
        put_header(&mut out, id, flags, [1, 0, 0, u16::from(size.is_some())]);
        let bits = case
            .iter()
            .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1));
        let name = self.question.name.iter().zip(bits);
        // The lengths of labels are below all letters.
        out.extend(name.map(|(byte, bit)| match byte.is_ascii_alphabetic() {
            true => byte ^ bit << 5,
            false => *byte,
        }));
        out.extend(self.question.kind.to_be_bytes());
        out.extend(self.question.class.to_be_bytes());
        if let Some(size) = size {
            let options = self.edns.map_or(&[][..], |edns| edns.options);
            let kept = keep(options, |code| !HOP_OPTIONS.contains(&code));
            put_opt(&mut out, size, 0, self.dnssec_ok(), &kept);
        }
        out
    }

    /// The query again, without its options: what an answer depends on.
    #[must_use]
    pub fn bare(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.question.name.len() + 4 + OPT);
        let additional = u16::from(self.edns.is_some());
        put_header(&mut out, self.id, self.flags, [1, 0, 0, additional]);
        out.extend(self.question.name);
        out.extend(self.question.kind.to_be_bytes());
        out.extend(self.question.class.to_be_bytes());
        if let Some(edns) = self.edns {
            put_opt(&mut out, edns.size, 0, edns.dnssec_ok, &[]);
        }
        out
    }
}

impl Question<'_> {
    /// The name in lower case, without a final dot; bytes that are no part of host names as `\DDD` (RFC 1035 §5.1).
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(self.name.len());
        let mut rest = self.name;
        while let Some((&len, after)) = rest.split_first()
            && let Some((label, after)) = after.split_at_checked(usize::from(len))
            && len > 0
        {
            if !text.is_empty() {
                text.push('.');
            }
            for byte in label {
                match byte {
                    b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'*' | b'/' => {
                        text.push(char::from(*byte));
                    }
                    b'A'..=b'Z' => text.push(char::from(byte.to_ascii_lowercase())),
                    _ => text.push_str(&format!("\\{byte:03}")),
                }
            }
            rest = after;
        }
        text
    }

    fn same(&self, other: &Self, exact: bool) -> bool {
        let same = if exact {
            self.name == other.name
        } else {
            self.name.eq_ignore_ascii_case(other.name)
        };
        same && (self.kind, self.class) == (other.kind, other.class)
    }
}

/// How a message relates to a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// It is its answer.
    Yes,
    /// It would be, but for the case of letters: a server that does not keep it, or a forgery.
    Case,
    /// It is not.
    No,
}

/// Whether `message` is the answer to `query`, which [`Query::encode`] made.
#[must_use]
pub fn answers(message: &[u8], query: &[u8]) -> Match {
    let (Some(header), Some(asked)) = (Header::parse(message), Header::parse(query)) else {
        return Match::No;
    };
    if header.flags & QR == 0 || header.flags & OPCODE != 0 || header.id != asked.id {
        return Match::No;
    }
    let (Some((is, _)), Some((wanted, _))) = (question(message), question(query)) else {
        return Match::No;
    };
    match (is.same(&wanted, true), is.same(&wanted, false)) {
        _ if header.counts.first() != Some(&1) => Match::No,
        (true, _) => Match::Yes,
        (_, true) => Match::Case,
        _ => Match::No,
    }
}

/// Whether the server has left something out, since it did not fit.
#[must_use]
pub fn is_truncated(message: &[u8]) -> bool {
    u16_at(message, 2).is_some_and(|flags| flags & TC != 0)
}

/// The id of a message.
#[must_use]
pub fn id(message: &[u8]) -> Option<u16> {
    u16_at(message, 0)
}

#[derive(Clone, Copy)]
struct Header {
    id: u16,
    flags: u16,
    /// Questions, answers, authorities, additional records.
    counts: [u16; 4],
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut counts = [0; 4];
        for (count, at) in counts.iter_mut().zip([4, 6, 8, 10]) {
            *count = u16_at(bytes, at)?;
        }
        Some(Self {
            id: u16_at(bytes, 0)?,
            flags: u16_at(bytes, 2)?,
            counts,
        })
    }
}

/// The first question, and where it ends. Its name cannot be compressed: there is nothing before it.
fn question(bytes: &[u8]) -> Option<(Question<'_>, usize)> {
    let mut end = HEADER;
    loop {
        let len = *bytes.get(end)?;
        end += 1 + usize::from(len);
        match len {
            0 => break,
            1..=63 => {}
            _ => return None,
        }
    }
    let name = bytes
        .get(HEADER..end)
        .filter(|name| name.len() <= MAX_NAME)?;
    let question = Question {
        name,
        kind: u16_at(bytes, end)?,
        class: u16_at(bytes, end + 2)?,
    };
    Some((question, end + 4))
}

/// A record, by its place in the message.
struct Record {
    /// 0: answers, 1: authorities, 2: additional records.
    section: usize,
    start: usize,
    /// Where its time to live stands.
    ttl_at: usize,
    kind: u16,
    class: u16,
    ttl: u32,
    data: std::ops::Range<usize>,
}

impl Record {
    fn opt<'a>(&self, bytes: &'a [u8]) -> Option<Edns<'a>> {
        let options = bytes.get(self.data.clone())?;
        let [extended, _, high, _] = self.ttl.to_be_bytes();
        let is_root = self.ttl_at == self.start + 5;
        (is_root && self.section == 2 && are_options(options)).then_some(Edns {
            size: self.class,
            dnssec_ok: high & 0x80 != 0,
            options,
            extended,
        })
    }
}

/// The records from `at` on; `None` for one that is malformed, which is the last.
fn records(
    bytes: &[u8],
    [_, answers, authorities, additional]: [u16; 4],
    mut at: usize,
) -> impl Iterator<Item = Option<Record>> {
    let sections = [answers, authorities, additional];
    let mut sections = sections
        .into_iter()
        .enumerate()
        .flat_map(|(section, count)| (0..count).map(move |_| section));
    let mut broken = false;
    std::iter::from_fn(move || {
        let section = sections.next().filter(|_| !broken)?;
        let record = record(bytes, section, at);
        match &record {
            Some(record) => at = record.data.end,
            None => broken = true,
        }
        Some(record)
    })
}

fn record(bytes: &[u8], section: usize, start: usize) -> Option<Record> {
    let at = name_end(bytes, start)?;
    let data = at + 10..at + 10 + usize::from(u16_at(bytes, at + 8)?);
    bytes.get(data.clone())?;
    Some(Record {
        section,
        start,
        ttl_at: at + 4,
        kind: u16_at(bytes, at)?,
        class: u16_at(bytes, at + 2)?,
        ttl: u32_at(bytes, at + 4)?,
        data,
    })
}

/// Where the name at `at` ends, which may be compressed. A pointer must lead back (RFC 1035 §4.1.4).
fn name_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut length = 0;
    loop {
        let len = *bytes.get(at)?;
        match len {
            0 => return Some(at + 1),
            1..=63 => {
                at += 1 + usize::from(len);
                length += 1 + usize::from(len);
                if length > MAX_NAME {
                    return None;
                }
            }
            0xc0.. => {
                let target = usize::from(u16_at(bytes, at)? & 0x3fff);
                return (HEADER..at).contains(&target).then_some(at + 2);
            }
            _ => return None,
        }
    }
}

/// The options of an OPT record: code and value.
fn split(mut options: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let code = u16_at(options, 0)?;
        let end = 4 + usize::from(u16_at(options, 2)?);
        let whole = options.get(..end)?;
        options = options.get(end..)?;
        Some((code, whole))
    })
}

fn are_options(options: &[u8]) -> bool {
    let read: usize = split(options).map(|(_, whole)| whole.len()).sum();
    read == options.len()
}

fn keep(options: &[u8], kept: impl Fn(u16) -> bool) -> Vec<u8> {
    let kept = split(options).filter(|(code, _)| kept(*code));
    kept.flat_map(|(_, whole)| whole).copied().collect()
}

fn put_header(out: &mut Vec<u8>, id: u16, flags: u16, counts: [u16; 4]) {
    out.extend(id.to_be_bytes());
    out.extend(flags.to_be_bytes());
    out.extend(counts.into_iter().flat_map(u16::to_be_bytes));
}

fn put_opt(out: &mut Vec<u8>, size: u16, extended: u8, dnssec_ok: bool, options: &[u8]) {
    let len = u16::try_from(options.len()).unwrap_or_default();
    out.push(0);
    out.extend(TYPE_OPT.to_be_bytes());
    out.extend(size.to_be_bytes());
    out.extend([extended, 0, u8::from(dnssec_ok) << 7, 0]);
    out.extend(len.to_be_bytes());
    out.extend(options.get(..usize::from(len)).unwrap_or_default());
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let found = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*found))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let found = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*found))
}
