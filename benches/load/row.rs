//! A row of the report.

use std::collections::BTreeMap;

use crate::kind::Kind;

/// One figure of one work.
pub(crate) struct Row {
    pub(crate) work: String,
    pub(crate) figure: &'static str,
    /// By round.
    pub(crate) samples: BTreeMap<Kind, Vec<f64>>,
}

impl Row {
    pub(crate) fn median(&self, kind: Kind) -> Option<f64> {
        let mut sorted = self.samples.get(&kind)?.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        if sorted.len() % 2 == 1 {
            return Some(upper);
        }
        Some((sorted.get(middle.checked_sub(1)?)? + upper) / 2.0)
    }

    pub(crate) fn ratio(&self, to: Kind) -> Option<f64> {
        let theirs = self.median(to)?;
        (theirs > 0.0).then_some(self.median(Kind::Ssr)? / theirs)
    }
}
