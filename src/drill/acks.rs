//! When puts were acknowledged, partition by partition, and what lies between.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::cast::{u64_from, usize_from, usize_from_u32};
use crate::base::time::Monotonic;

/// A put that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ack {
    /// When it should have been sent.
    pub(super) due: Monotonic,
    /// When it was acknowledged.
    pub(super) at: Monotonic,
}

/// The acknowledged puts of all partitions, in the order of time.
#[derive(Debug)]
pub(super) struct Acks(Vec<Mutex<Vec<Ack>>>);

impl Acks {
    pub(super) fn of(partition_count: u32) -> Self {
        Self((0..partition_count).map(|_| Mutex::default()).collect())
    }

    /// A partition has acknowledged another put.
    pub(super) fn add(&self, partition: u32, ack: Ack) {
        self.of_partition(partition).push(ack);
    }

    /// Whether each partition has acknowledged something.
    pub(super) fn are_of_all(&self) -> bool {
        self.partitions().all(|partition| !self.of_partition(partition).is_empty())
    }

    /// When a partition has acknowledged something for the last time.
    pub(super) fn last(&self, partition: u32) -> Option<Monotonic> {
        self.of_partition(partition).last().map(|ack| ack.at)
    }

    /// The longest time without an acknowledged put that has a part in `from..to`, in ns.
    pub(super) fn longest_gap(&self, partition: u32, from: Monotonic, to: Monotonic) -> u64 {
        longest_gap(&self.of_partition(partition), from, to)
    }

    /// How long all puts took that were due in `from..to`, in ns, ascending: from when they should
    /// have been sent.
    pub(super) fn latencies(&self, from: Monotonic, to: Monotonic) -> Vec<u64> {
        let mut found = Vec::new();
        for partition in self.partitions() {
            let acks = self.of_partition(partition);
            let due = acks.iter().filter(|ack| (from..to).contains(&ack.due));
            found.extend(due.map(|ack| ack.at.since_ns(ack.due)));
        }
        found.sort_unstable();
        found
    }

    /// Forgets what isn't needed for gaps from `from` on.
    pub(super) fn forget_before(&self, from: Monotonic) {
        for partition in self.partitions() {
            let mut acks = self.of_partition(partition);
            // The last one before it is where the first gap begins.
            let first = acks.partition_point(|ack| ack.at < from).saturating_sub(1);
            acks.drain(..first);
        }
    }

    pub(super) fn partitions(&self) -> impl Iterator<Item = u32> + use<> {
        0..u32::try_from(self.0.len()).expect("they were counted by one")
    }

    fn of_partition(&self, partition: u32) -> MutexGuard<'_, Vec<Ack>> {
        self.0[usize_from_u32(partition)].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn longest_gap(acks: &[Ack], from: Monotonic, to: Monotonic) -> u64 {
    // What was before the first one isn't known, and what is after the last one hasn't ended.
    let begins = std::iter::once(from).chain(acks.iter().map(|ack| ack.at));
    let ends = acks.iter().map(|ack| ack.at).chain([to]);
    let gaps = begins.zip(ends).filter(|(begin, end)| *end > from && *begin < to);
    gaps.map(|(begin, end)| end.since_ns(begin)).max().unwrap_or_default()
}

/// The value below which so many parts of a million lie, of ascending values.
pub(super) fn quantile(ascending: &[u64], parts_per_million: u64) -> u64 {
    let count = u64_from(ascending.len());
    let rank = (count * parts_per_million).div_ceil(1_000_000).max(1);
    ascending.get(usize_from(rank - 1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acks(times: &[u64]) -> Vec<Ack> {
        times.iter().map(|at| Ack { due: Monotonic(at - 1), at: Monotonic(*at) }).collect()
    }

    #[test]
    fn gap_counts_whole_if_a_part_of_it_is_in_the_time_looked_at() {
        let acks = acks(&[10, 20, 90, 100, 130]);
        let longest = |from, to| longest_gap(&acks, Monotonic(from), Monotonic(to));
        assert_eq!(longest(50, 60), 70);
        assert_eq!(longest(90, 130), 30);
        assert_eq!(longest(89, 90), 70);
        assert_eq!(longest(91, 99), 10);
    }

    #[test]
    fn gap_that_has_not_ended_counts_as_far_as_it_is_known() {
        let acks = acks(&[10, 20]);
        assert_eq!(longest_gap(&acks, Monotonic(15), Monotonic(500)), 480);
        assert_eq!(longest_gap(&[], Monotonic(15), Monotonic(500)), 485);
    }

    #[test]
    fn what_is_forgotten_changes_no_later_gap() {
        let all = Acks::of(1);
        acks(&[10, 20, 90, 100]).into_iter().for_each(|ack| all.add(0, ack));
        let before = all.longest_gap(0, Monotonic(50), Monotonic(100));
        all.forget_before(Monotonic(50));
        assert_eq!(all.of_partition(0).len(), 3);
        assert_eq!(all.longest_gap(0, Monotonic(50), Monotonic(100)), before);
    }

    #[test]
    fn latency_is_reckoned_from_when_a_put_was_due() {
        let all = Acks::of(2);
        all.add(0, Ack { due: Monotonic(10), at: Monotonic(60) });
        all.add(1, Ack { due: Monotonic(20), at: Monotonic(25) });
        all.add(1, Ack { due: Monotonic(30), at: Monotonic(31) });
        assert_eq!(all.latencies(Monotonic(10), Monotonic(30)), [5, 50]);
    }

    #[test]
    fn quantiles_are_values_that_were_found() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!(quantile(&values, 500_000), 50);
        assert_eq!(quantile(&values, 990_000), 99);
        assert_eq!(quantile(&values, 1_000_000), 100);
        assert_eq!(quantile(&[7], 1), 7);
        assert_eq!(quantile(&[], 500_000), 0);
    }
}
