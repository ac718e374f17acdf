//! A row of the report.

use std::collections::BTreeMap;

use crate::proxy::Proxy;

/// One figure of one workload.
pub(crate) struct Row {
    pub(crate) workload: String,
    pub(crate) figure: &'static str,
    /// By round.
    pub(crate) samples: BTreeMap<Proxy, Vec<f64>>,
}

impl Row {
    pub(crate) fn median(&self, proxy: Proxy) -> Option<f64> {
        let mut sorted = self.samples.get(&proxy)?.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        if sorted.len() % 2 == 1 {
            return Some(upper);
        }
        Some((sorted.get(middle.checked_sub(1)?)? + upper) / 2.0)
    }

    pub(crate) fn ratio(&self, to: Proxy) -> Option<f64> {
        let theirs = self.median(to)?;
        (theirs > 0.0).then_some(self.median(Proxy::Ssr)? / theirs)
    }
}
