//! What a user has used, for a program of the operator that clears it.

use std::sync::atomic::Ordering::Relaxed;

use super::tally::Stats;
use super::user::User;

impl User {
    /// What it has used in this process since [`User::clear_stats`].
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.tally().told(self.payload(), false)
    }

    /// The same, and begins anew. Quotas and totals stay.
    pub fn clear_stats(&self) -> Stats {
        self.tally().told(self.payload(), true)
    }

    fn payload(&self) -> (u64, u64) {
        (self.up.load(Relaxed), self.down.load(Relaxed))
    }

    /// Counts a datagram.
    pub(in crate::relay) fn count_packet(&self, is_up: bool) {
        self.tally().packet(is_up);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::users::{Protocol, Totals};

    #[test]
    fn what_was_cleared_or_used_elsewhere_is_not_told_and_totals_stay() {
        let user = User::new("ann");
        let elsewhere = Totals {
            up: 1000,
            down: 2000,
            ..Totals::default()
        };
        user.absorb(&elsewhere);
        assert_eq!(user.stats(), Stats::default());
        let _wait = user.moved(5, 7);
        user.count_packet(true);
        user.count_packet(false);
        user.tally().begin(Protocol::Udp);
        let expected = Stats {
            up: 5,
            down: 7,
            packets_up: 1,
            packets_down: 1,
            tcp: 0,
            udp: 1,
        };
        assert_eq!(user.stats(), expected);
        assert_eq!(user.clear_stats(), expected);
        assert_eq!(user.clear_stats(), Stats::default());
        let usage = user.usage();
        assert_eq!((usage.up, usage.down), (1005, 2007));
        let _wait = user.moved(1, 0);
        assert_eq!(user.stats().and(&expected).up, 6);
    }
}
