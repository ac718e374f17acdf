//! The order in which servers are tried.

use std::hash::{DefaultHasher, Hash, Hasher};

/// How the next server is chosen among those that work. Each strategy makes an order, so that there is always a next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The heaviest, and among equals the first of the config: what is done without `balancer`.
    Weight,
    /// The one with the best score, by the probes.
    Latency,
    /// The first of the config.
    Fallback,
    /// Each in turn.
    RoundRobin,
    /// The one with the fewest streams.
    LeastConnections,
    /// Always the same one for the same source or target.
    Hash(HashBy),
}

/// What [`Strategy::Hash`] looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashBy {
    /// The address of the client, without its port.
    Source,
    /// The name or address of the target, without its port.
    Target,
}

impl Strategy {
    /// Its name in a config.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Latency => "latency",
            Self::Fallback => "fallback",
            Self::RoundRobin => "round_robin",
            Self::LeastConnections => "least_connections",
            Self::Hash(_) => "hash",
        }
    }
}

/// What the strategies look at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its place in the config.
    pub place: usize,
    /// Its weight, above 0, or 0 if no server has more.
    pub weight: f64,
    /// Its streams.
    pub streams: usize,
    /// Its score by the probes, from 0, the best, to 1.
    pub score: f64,
}

/// What is known of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// A number that grows by one from request to request.
    pub turn: usize,
    /// The hash of what [`Strategy::Hash`] looks at.
    pub hash: u64,
}

/// Puts `candidates`, which come heaviest first, into the order in which they are to be tried.
pub fn arrange(strategy: Strategy, candidates: &mut [Candidate], key: Key) {
    let by_place = |candidates: &mut [Candidate]| candidates.sort_by_key(|one| one.place);
    match strategy {
        Strategy::Weight => {}
        Strategy::Latency => candidates.sort_by(|a, b| weighed(a).total_cmp(&weighed(b))),
        Strategy::Fallback => by_place(candidates),
        Strategy::RoundRobin => {
            by_place(candidates);
            let len = candidates.len().max(1);
            candidates.rotate_left(key.turn % len);
        }
        Strategy::LeastConnections => {
            by_place(candidates);
            // Among equals in turn, so that short streams are spread too.
            let len = candidates.len().max(1);
            candidates.rotate_left(key.turn % len);
            candidates.sort_by_key(|one| one.streams);
        }
        // Rendezvous hashing: when a server fails, only what went through it goes elsewhere.
        Strategy::Hash(_) => {
            candidates.sort_by_key(|one| std::cmp::Reverse(hash(&(key.hash, one.place))));
        }
    }
}

/// The score divided by the weight, as in shadowsocks-rust.
fn weighed(candidate: &Candidate) -> f64 {
    candidate.score / candidate.weight.max(f64::from(f32::EPSILON))
}

/// A hash that is the same in every run.
#[must_use]
pub fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Indexes of the servers that have a weight, the heaviest first. Servers of weight 0 are left out unless there are no
/// others, even if the others fail: a 0 means this in shadowsocks-rust.
#[must_use]
pub fn ranking(weights: impl Iterator<Item = Option<f64>>) -> Vec<usize> {
    let mut ranked: Vec<(usize, f64)> = weights
        .enumerate()
        .filter_map(|(place, weight)| Some((place, weight?)))
        .collect();
    if ranked.iter().any(|(_, weight)| *weight > 0.0) {
        ranked.retain(|(_, weight)| *weight > 0.0);
    }
    ranked.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    ranked.into_iter().map(|(place, _)| place).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn candidates() -> Vec<Candidate> {
        let one = |place, weight, streams, score| Candidate {
            place,
            weight,
            streams,
            score,
        };
        vec![
            one(2, 1.0, 5, 0.4),
            one(0, 0.5, 1, 0.1),
            one(1, 0.5, 3, 0.3),
        ]
    }

    fn order(strategy: Strategy, turn: usize, hash: u64) -> Vec<usize> {
        let mut candidates = candidates();
        arrange(strategy, &mut candidates, Key { turn, hash });
        candidates.iter().map(|one| one.place).collect()
    }

    #[test]
    fn each_strategy_makes_its_order() {
        assert_eq!(order(Strategy::Weight, 7, 7), [2, 0, 1]);
        assert_eq!(order(Strategy::Fallback, 7, 7), [0, 1, 2]);
        // 0.1 / 0.5, 0.4 / 1, 0.3 / 0.5
        assert_eq!(order(Strategy::Latency, 7, 7), [0, 2, 1]);
        assert_eq!(order(Strategy::LeastConnections, 7, 7), [0, 1, 2]);
        assert_eq!(order(Strategy::RoundRobin, 3, 7), [0, 1, 2]);
        assert_eq!(order(Strategy::RoundRobin, 4, 7), [1, 2, 0]);
        arrange(Strategy::RoundRobin, &mut [], Key { turn: 3, hash: 0 });
    }

    #[test]
    fn a_hash_is_even_and_keeps_what_did_not_fail() {
        let strategy = Strategy::Hash(HashBy::Target);
        let mut counts = [0; 3];
        for key in 0..3000_u64 {
            let all = order(strategy, 0, hash(&key));
            counts[all[0]] += 1;
            let mut left = candidates();
            left.retain(|one| one.place != all[1]);
            let key = Key {
                turn: 9,
                hash: hash(&key),
            };
            arrange(strategy, &mut left, key);
            assert_eq!(left[0].place, all[0]);
        }
        assert!(
            counts.iter().all(|count| (900..1100).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn server_of_weight_zero_replaces_no_other() {
        let cases: [(&[Option<f64>], &[usize]); 3] = [
            (
                &[Some(0.0), Some(0.2), None, Some(1.0), Some(0.2)],
                &[3, 1, 4],
            ),
            (&[Some(0.0), None, Some(0.0)], &[0, 2]),
            (&[None], &[]),
        ];
        for (weights, ranked) in cases {
            assert_eq!(ranking(weights.iter().copied()), ranked, "{weights:?}");
        }
    }
}
