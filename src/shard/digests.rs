//! Digests of a partition's state at indexes at which all members have them: so that replicas can
//! be compared while they are written to, though none of them ever stands still.
//!
//! Every [`DIGEST_INTERVAL_COUNT`]-th slot's digest is remembered, the last few of them. A digest
//! counts once its index is stable; what is undone is forgotten. A slot that became a no-op leaves
//! none, on any member.

use arrayvec::ArrayVec;

use super::Shard;
use crate::base::cast::usize_from;
use crate::base::ids::{Index, PartitionId};
use crate::base::limits::{DIGEST_COUNT_MAX, DIGEST_INTERVAL_COUNT};
use crate::map::digest::StateDigest;

/// The digest of a partition's state after the slot at an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexedDigest {
    /// The index; 0: before the first slot.
    pub index: Index,
    /// The digest.
    pub digest: StateDigest,
}

/// The last digests of a partition: those at multiples, and the present one.
pub type StableDigests = ArrayVec<IndexedDigest, { DIGEST_COUNT_MAX + 1 }>;

/// The digests at the last multiples of [`DIGEST_INTERVAL_COUNT`], each in its place. Index 0:
/// there is none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Digests([IndexedDigest; DIGEST_COUNT_MAX]);

impl Digests {
    /// A command was executed at `index`.
    #[inline]
    pub(super) fn executed(&mut self, index: Index, digest: impl FnOnce() -> StateDigest) {
        if index.0.is_multiple_of(DIGEST_INTERVAL_COUNT) {
            let place = usize_from(index.0 / DIGEST_INTERVAL_COUNT) % DIGEST_COUNT_MAX;
            self.0[place] = IndexedDigest { index, digest: digest() };
        }
    }

    /// What was executed after `index` was undone.
    pub(super) fn undone_to(&mut self, index: Index) {
        for found in &mut self.0 {
            if found.index > index {
                *found = IndexedDigest::default();
            }
        }
    }
}

impl Shard {
    /// Digests of a partition's state at indexes that are stable.
    ///
    /// # Panics
    /// If the shard doesn't own the partition.
    #[must_use]
    pub fn stable_digests(&self, partition: PartitionId) -> StableDigests {
        let found = &self.partitions[self.place(partition)];
        let replica = found.member.replica();
        let is_stable = |index: Index| index <= replica.sync_point();
        let known = found.view.digests.0.into_iter();
        let mut digests: StableDigests =
            known.filter(|known| known.index > Index(0) && is_stable(known.index)).collect();
        let index = replica.applied();
        if is_stable(index) {
            digests.push(IndexedDigest { index, digest: found.view.map.digest() });
        }
        digests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(digests: &Digests) -> Vec<u64> {
        let mut known: Vec<u64> = digests.0.iter().map(|found| found.index.0).collect();
        known.retain(|index| *index > 0);
        known.sort_unstable();
        known
    }

    #[test]
    fn last_multiples_are_remembered_and_what_is_undone_is_forgotten() {
        let mut digests = Digests::default();
        for index in 1..=20 * DIGEST_INTERVAL_COUNT {
            digests.executed(Index(index), || StateDigest(index.into()));
        }
        let multiples = |range: std::ops::RangeInclusive<u64>| -> Vec<u64> {
            range.map(|number| number * DIGEST_INTERVAL_COUNT).collect()
        };
        assert_eq!(known(&digests), multiples(13..=20));
        assert!(digests.0.iter().all(|found| found.digest.0 == found.index.0.into()));
        digests.undone_to(Index(17 * DIGEST_INTERVAL_COUNT));
        assert_eq!(known(&digests), multiples(13..=17));
        digests.undone_to(Index(17 * DIGEST_INTERVAL_COUNT - 1));
        assert_eq!(known(&digests), multiples(13..=16));
        digests.undone_to(Index(0));
        assert!(known(&digests).is_empty());
    }
}
