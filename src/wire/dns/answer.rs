//! An answer that is kept and given to several clients.

use std::net::IpAddr;

use super::{
    AD, CD, CLASS_IN, HEADER, Header, NXDOMAIN, OPT, OPTION_ERROR, QR, Query, RA, RCODE, RD,
    SERVFAIL, TC, TYPE_A, TYPE_AAAA, TYPE_ANY, TYPE_SOA, keep, put_header, put_opt, question,
    records, u16_at, u32_at,
};

/// The longest that an answer is kept, and that a denial is (RFC 2308 §5), in seconds.
const LONGEST: u32 = 86_400;
const LONGEST_DENIAL: u32 = 10_800;

/// An answer without what belongs to one client: the id, the case of the name, the OPT record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    message: Box<[u8]>,
    /// Where the times to live stand.
    ttls: Box<[u16]>,
    /// The end of the question.
    question_end: usize,
    /// How long it may be kept, in seconds; `None`: not at all.
    lifetime: Option<u32>,
    /// The high bits of the response code.
    extended: u8,
    /// Extended errors.
    options: Box<[u8]>,
}

impl Answer {
    /// Reads an answer whose header and question have been checked by [`super::answers`]; `None`: it is malformed.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header = Header::parse(bytes)?;
        let (asked, question_end) = question(bytes)?;
        let (kind, class) = (asked.kind, asked.class);
        let mut message = bytes.to_vec();
        let mut ttls = Vec::new();
        let (mut extended, mut options) = (0, Vec::new());
        let (mut shortest, mut denial, mut found) = (LONGEST, None, false);
        let [_, _, _, additional] = header.counts;
        let mut left = additional;
        let mut end = question_end;
        for record in records(bytes, header.counts, question_end) {
            let record = record?;
            if record.kind == super::TYPE_OPT {
                let opt = record.opt(bytes)?;
                extended = opt.extended;
                options = keep(opt.options, |code| code == OPTION_ERROR);
                // What follows it could be compressed against it. It is additional, and so can be done without.
                break;
            }
            end = record.data.end;
            if record.section == 2 {
                left = left.saturating_sub(1);
            }
            // With the highest bit it counts as 0 (RFC 2181 §8).
            let mut ttl = record.ttl;
            if ttl > u32::MAX / 2 {
                ttl = 0;
            }
            if record.section == 0 {
                found |= record.class == class && (record.kind == kind || kind == TYPE_ANY);
            }
            if record.section == 1 && record.kind == TYPE_SOA {
                // RFC 2308 §5: the lesser of its own time and its last field.
                let minimum = u32_at(bytes, record.data.end.checked_sub(4)?)?;
                if !found {
                    ttl = ttl.min(minimum);
                    denial = Some(ttl.min(LONGEST_DENIAL));
                }
            }
            shortest = shortest.min(ttl);
            let place = message.get_mut(record.ttl_at..)?.first_chunk_mut()?;
            *place = ttl.to_be_bytes();
            ttls.push(u16::try_from(record.ttl_at).ok()?);
        }
        message.truncate(end);
        let place = message.get_mut(10..)?.first_chunk_mut()?;
        *place = (additional - left).to_be_bytes();
        let lifetime = match header.flags & RCODE {
            _ if header.flags & TC != 0 || extended != 0 => None,
            0 if found => Some(shortest),
            0 | NXDOMAIN => denial.map(|denial| denial.min(shortest)),
            _ => None,
        };
        Some(Self {
            message: message.into(),
            ttls: ttls.into(),
            question_end,
            lifetime: lifetime.filter(|seconds| *seconds > 0),
            extended,
            options: options.into(),
        })
    }

    /// An answer of our own.
    pub(super) fn from_parts(
        message: Vec<u8>,
        ttls: Vec<u16>,
        question_end: usize,
        lifetime: Option<u32>,
        options: &[u8],
    ) -> Self {
        Self {
            message: message.into(),
            ttls: ttls.into(),
            question_end,
            lifetime,
            extended: 0,
            options: options.into(),
        }
    }

    /// The addresses in it.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let header = Header::parse(&self.message);
        let counts = header.map_or([0; 4], |header| header.counts);
        let records = records(&self.message, counts, self.question_end);
        let answers = records.flatten().take_while(|record| record.section == 0);
        answers.filter_map(|record| {
            let data = self.message.get(record.data.clone())?;
            match (record.class, record.kind) {
                (CLASS_IN, TYPE_A) => Some(<[u8; 4]>::try_from(data).ok()?.into()),
                (CLASS_IN, TYPE_AAAA) => Some(<[u8; 16]>::try_from(data).ok()?.into()),
                _ => None,
            }
        })
    }

    /// How long it may be kept, in seconds; `None`: not at all.
    #[must_use]
    pub const fn lifetime(&self) -> Option<u32> {
        self.lifetime
    }

    /// Its memory, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.message.len() + 2 * self.ttls.len() + self.options.len()
    }

    /// Whether the name server refuses EDNS: it may answer without.
    #[must_use]
    pub fn refuses_edns(&self) -> bool {
        let code = u16_at(&self.message, 2).unwrap_or_default() & RCODE;
        matches!(code, super::FORMERR | super::NOTIMP) && self.extended == 0
    }

    /// Appends the answer to `query`, which asked the same, at most `limit` bytes long, `age` seconds after the answer
    /// came; `size` is what our OPT record says of the datagrams that we take.
    ///
    /// What does not fit is left out whole, and the answer says so (TC).
    pub fn encode(&self, query: &Query<'_>, age: u32, limit: usize, size: u16, out: &mut Vec<u8>) {
        let start = out.len();
        let opt = query.edns.map_or(0, |_| OPT + self.options.len());
        let mut flags = u16_at(&self.message, 2).unwrap_or_default() & (RCODE | AD);
        if self.extended > 0 && query.edns.is_none() {
            flags = SERVFAIL;
        }
        if !query.dnssec_ok() && query.flags & AD == 0 {
            flags &= !AD;
        }
        flags |= QR | RA | query.flags & (RD | CD);
        let fits = self.message.len() + opt <= limit;
        let end = if fits {
            self.message.len()
        } else {
            flags |= TC;
            self.question_end
        };
        let mut counts = [1, 0, 0, 0];
        if let (true, Some(header)) = (fits, Header::parse(&self.message)) {
            counts = header.counts;
        }
        if let ([.., additional], Some(_)) = (&mut counts, query.edns) {
            *additional += 1;
        }
        put_header(out, query.id, flags, counts);
        out.extend(query.question.name);
        let rest = HEADER + query.question.name.len();
        out.extend(self.message.get(rest..end).unwrap_or_default());
        if fits && age > 0 {
            self.grow_old(age, out.get_mut(start..).unwrap_or_default());
        }
        if let Some(edns) = query.edns {
            let options = if fits { &*self.options } else { &[] };
            put_opt(out, size, self.extended, edns.dnssec_ok, options);
        }
    }

    fn grow_old(&self, age: u32, message: &mut [u8]) {
        for &at in &self.ttls {
            let place = message.get_mut(usize::from(at)..);
            if let Some(place) = place.and_then(<[u8]>::first_chunk_mut) {
                *place = u32::from_be_bytes(*place).saturating_sub(age).to_be_bytes();
            }
        }
    }
}
