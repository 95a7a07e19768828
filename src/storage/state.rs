//! What each record does to where its partition stands. The log that writes and the recovery that
//! reads fold records by this same function: the snapshot at a segment's start is therefore by
//! construction what replaying everything before it gives, and recovery checks that it is.

use std::fmt;

use super::record::{Adopted, PartitionSnapshot, Record, ShardSnapshot};
use crate::base::cast::usize_from_u32;
use crate::base::ids::{Incarnation, Index, PartitionId, SegmentId, TermId};

/// Why a record can't follow what came before it. When writing, a broken invariant of the caller;
/// when reading, damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateError {
    /// The partition isn't one of the shard's.
    UnknownPartition,
    /// Slots are missing between the log's last and this one.
    Hole {
        /// The last slot that is there.
        last: Index,
        /// The slot of the record.
        found: Index,
    },
    /// The slot is stable: it can't be given another content.
    Stable {
        /// The slot of the record.
        index: Index,
        /// The sync point.
        sync_point: Index,
    },
    /// The record is of a lower view than the one promised, or of one adopted before.
    View {
        /// The view promised.
        promised: TermId,
        /// The record's.
        found: TermId,
    },
    /// The adopted log isn't what is kept and what was staged.
    Adopt {
        /// The last slot with which the adopted view starts.
        base: Index,
        /// Own slots above this one were to be replaced.
        kept: Index,
    },
    /// A slot of the adopted log was never staged.
    Unstaged {
        /// The slot.
        index: Index,
    },
    /// The digest of the log differs from the one recorded.
    Chain {
        /// The slot.
        index: Index,
    },
    /// A life of a member went backwards.
    Incarnation,
    /// A slot carried over isn't in the log.
    Carry {
        /// The slot.
        index: Index,
    },
    /// A snapshot differs from what the records before it say.
    Snapshot,
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPartition => f.write_str("it isn't one of this shard"),
            Self::Hole { last, found } => {
                write!(f, "slot {found} follows slot {last}: slots are missing")
            }
            Self::Stable { index, sync_point } => {
                write!(f, "slot {index} is written again below the sync point {sync_point}")
            }
            Self::View { promised, found } => {
                write!(f, "term {found} after term {promised} was promised")
            }
            Self::Adopt { base, kept } => {
                write!(f, "a view with base {base} that keeps {kept} doesn't fit the log")
            }
            Self::Unstaged { index } => write!(f, "slot {index} of an adopted view is missing"),
            Self::Chain { index } => write!(f, "the log's digest at slot {index} doesn't fit"),
            Self::Incarnation => f.write_str("a member's incarnation went backwards"),
            Self::Carry { index } => write!(f, "slot {index}, carried over, isn't in the log"),
            Self::Snapshot => f.write_str("a snapshot doesn't fit the records before it"),
        }
    }
}

impl std::error::Error for StateError {}

impl PartitionSnapshot {
    /// A partition of which nothing was ever logged.
    #[must_use]
    pub fn empty(partition: PartitionId) -> Self {
        Self { partition, first: Index(1), ..Self::default() }
    }

    /// Whether nothing was ever logged of the partition: not even that it knows of another member.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        *self == Self::empty(self.partition)
    }

    /// The partition after it was damaged: of what it held only a checkpoint is left, if one is;
    /// what lies in segments before `begins` is void. What it had promised is a lower bound.
    pub(super) fn anew(&self, checkpoint: Index, begins: SegmentId) -> Self {
        Self {
            base: self.base.min(checkpoint),
            sync_point: checkpoint,
            checkpoint,
            first: checkpoint.next(),
            last: checkpoint,
            chain: [0; 16],
            begins,
            is_recovering: true,
            ..self.clone()
        }
    }

    /// Whether `self` says what `other` says, but for `first`, which no record raises.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        *self == Self { first: self.first, ..other.clone() }
    }

    /// A slot is appended or, above the sync point, replaced.
    fn write(&mut self, index: Index) -> Result<(), StateError> {
        if index > self.last.next() || index.0 == 0 {
            return Err(StateError::Hole { last: self.last, found: index });
        }
        if index <= self.sync_point {
            return Err(StateError::Stable { index, sync_point: self.sync_point });
        }
        self.last = self.last.max(index);
        Ok(())
    }

    fn promise(&mut self, term: TermId) -> Result<(), StateError> {
        if term < self.view {
            return Err(StateError::View { promised: self.view, found: term });
        }
        self.view = term;
        Ok(())
    }

    fn adopt(
        &mut self,
        term: TermId,
        base: Index,
        kept: Index,
        chain: [u8; 16],
    ) -> Result<(), StateError> {
        self.check_entry(term)?;
        // What is stable may reach beyond the base: a checkpoint of the view itself was installed.
        let is_possible = kept <= base.max(self.sync_point) && kept <= self.last;
        if !is_possible || kept < self.sync_point {
            return Err(StateError::Adopt { base, kept });
        }
        self.enter(&Adopted { term, base, chain })?;
        self.last = base.max(kept);
        Ok(())
    }

    /// A view is adopted once; but for a member that has lost what it held of it.
    fn check_entry(&self, term: TermId) -> Result<(), StateError> {
        let is_again = term == self.last_normal && self.is_recovering;
        if term > self.last_normal || is_again {
            return Ok(());
        }
        Err(StateError::View { promised: self.last_normal, found: term })
    }

    fn enter(&mut self, adopted: &Adopted) -> Result<(), StateError> {
        let Adopted { term, base, chain } = *adopted;
        self.promise(term)?;
        self.last_normal = term;
        self.base = base;
        self.chain = chain;
        Ok(())
    }

    fn check_stage(&self, adopting: TermId, index: Index) -> Result<(), StateError> {
        if index <= self.sync_point {
            return Err(StateError::Stable { index, sync_point: self.sync_point });
        }
        if adopting < self.view {
            return Err(StateError::View { promised: self.view, found: adopting });
        }
        self.check_entry(adopting)
    }

    /// A checkpoint of a peer takes the place of all slots up to `index`.
    fn install(
        &mut self,
        index: Index,
        kept: Index,
        adopted: Option<&Adopted>,
    ) -> Result<(), StateError> {
        if index <= self.sync_point {
            return Err(StateError::Stable { index, sync_point: self.sync_point });
        }
        let base = adopted.map_or(self.base, |adopted| adopted.base);
        let last = adopted.map_or(kept, |adopted| adopted.base.max(index));
        if kept < index || kept > last.min(self.last.max(index)) || last < base {
            return Err(StateError::Adopt { base, kept });
        }
        if let Some(adopted) = adopted {
            self.check_entry(adopted.term)?;
            self.enter(adopted)?;
        }
        self.last = last;
        self.sync_point = index;
        self.checkpoint = index;
        self.first = index.next();
        Ok(())
    }

    fn sync(&mut self, index: Index) -> Result<(), StateError> {
        if index > self.last {
            return Err(StateError::Hole { last: self.last, found: index });
        }
        self.sync_point = self.sync_point.max(index);
        Ok(())
    }

    fn checkpoint(&mut self, index: Index) -> Result<(), StateError> {
        self.sync(index)?;
        self.checkpoint = self.checkpoint.max(index);
        Ok(())
    }

    fn live(
        &mut self,
        incarnation: Incarnation,
        crash_vector: &[Incarnation],
    ) -> Result<(), StateError> {
        let known = &self.crash_vector;
        let backwards = crash_vector.iter().zip(known).any(|(new, old)| new < old);
        if incarnation < self.incarnation || crash_vector.len() < known.len() || backwards {
            return Err(StateError::Incarnation);
        }
        self.incarnation = incarnation;
        self.crash_vector = crash_vector.to_vec();
        Ok(())
    }

    fn check_carry(&self, index: Index) -> Result<(), StateError> {
        if (self.first..=self.last).contains(&index) {
            Ok(())
        } else {
            Err(StateError::Carry { index })
        }
    }

    fn fold(&mut self, record: &Record<'_>) -> Result<(), StateError> {
        match record {
            Record::Entry(entry) => self.write(entry.index),
            Record::NoOp { index, .. } => self.write(*index),
            Record::View { term, .. } => self.promise(*term),
            Record::Stage { adopting, entry } => self.check_stage(*adopting, entry.index),
            Record::Adopt { term, base, kept, chain, .. } => {
                self.adopt(*term, *base, *kept, *chain)
            }
            Record::SyncPoint { index, .. } => self.sync(*index),
            Record::CheckpointDone { index, .. } => self.checkpoint(*index),
            Record::Install { index, kept, adopted, .. } => {
                self.install(*index, *kept, adopted.as_ref())
            }
            Record::CrashVector { incarnation, crash_vector, is_recovering, .. } => {
                self.live(*incarnation, crash_vector)?;
                self.is_recovering = *is_recovering;
                Ok(())
            }
            Record::Carry(entry) => self.check_carry(entry.index),
            Record::OpenBoot { .. } | Record::CloseBoot { .. } | Record::Snapshot(_) => Ok(()),
        }
    }
}

impl ShardSnapshot {
    /// The same, but that no member has promised more than the view that it is in.
    #[cold]
    pub(super) fn without_promises(&self) -> Self {
        let mut state = self.clone();
        for partition in &mut state.partitions {
            partition.view = partition.last_normal;
        }
        state
    }

    /// Where a partition stands.
    #[must_use]
    pub fn partition(&self, partition: PartitionId) -> Option<&PartitionSnapshot> {
        self.position(partition).map(|position| &self.partitions[position])
    }

    /// The place of a partition in [`ShardSnapshot::partitions`]: a shard's partitions are a range,
    /// so it is nearly always the distance to the first.
    pub(super) fn position(&self, partition: PartitionId) -> Option<usize> {
        let first = self.partitions.first()?.partition;
        let guess = usize_from_u32(partition.0.checked_sub(first.0)?);
        if self.partitions.get(guess).is_some_and(|found| found.partition == partition) {
            return Some(guess);
        }
        self.partitions.binary_search_by_key(&partition, |found| found.partition).ok()
    }

    fn partition_mut(
        &mut self,
        partition: PartitionId,
    ) -> Result<&mut PartitionSnapshot, StateError> {
        let position = self.position(partition).ok_or(StateError::UnknownPartition)?;
        Ok(&mut self.partitions[position])
    }

    /// Takes note of a record; of snapshots and boots the log itself does.
    #[inline]
    pub(super) fn fold(&mut self, record: &Record<'_>) -> Result<(), StateError> {
        let Some(partition) = record.partition() else { return Ok(()) };
        let state = self.partition_mut(partition)?;
        state.fold(record)?;
        state.record_count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::MessageId;
    use crate::storage::record::sample;

    const P: PartitionId = PartitionId(4);

    fn shard(last: u64, sync_point: u64) -> ShardSnapshot {
        let partition = PartitionSnapshot {
            last: Index(last),
            sync_point: Index(sync_point),
            ..PartitionSnapshot::empty(P)
        };
        ShardSnapshot { partitions: vec![partition], ..ShardSnapshot::default() }
    }

    fn no_op(index: u64) -> Record<'static> {
        Record::NoOp {
            partition: P,
            index: Index(index),
            term: TermId(1),
            message_id: MessageId(1),
        }
    }

    fn adopt(term: u64, base: u64, kept: u64) -> Record<'static> {
        sample::adopt(P, term, base, kept)
    }

    fn install(index: u64, kept: u64, adopted: Option<(u64, u64)>) -> Record<'static> {
        sample::install(P, index, kept, adopted)
    }

    #[test]
    fn slot_may_follow_the_last_or_replace_one_above_the_sync_point() {
        let mut shard = shard(5, 3);
        assert_eq!(shard.fold(&no_op(4)), Ok(()));
        assert_eq!(shard.partitions[0].last, Index(5));
        assert_eq!(shard.fold(&no_op(6)), Ok(()));
        assert_eq!(shard.partitions[0].last, Index(6));
        let stable = StateError::Stable { index: Index(3), sync_point: Index(3) };
        assert_eq!(shard.fold(&no_op(3)), Err(stable));
        let hole = StateError::Hole { last: Index(6), found: Index(8) };
        assert_eq!(shard.fold(&no_op(8)), Err(hole));
        assert!(matches!(shard.fold(&no_op(0)), Err(StateError::Hole { .. })));
    }

    #[test]
    fn adopting_sets_the_last_slot_and_raises_the_promise() {
        let mut shard = shard(5, 3);
        assert_eq!(shard.fold(&adopt(2, 4, 4)), Ok(()));
        let state = &shard.partitions[0];
        assert_eq!((state.last, state.base, state.view), (Index(4), Index(4), TermId(2)));
        for wrong in [adopt(2, 9, 4), adopt(3, 4, 5), adopt(3, 9, 2), adopt(3, 9, 6)] {
            assert!(shard.fold(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn promise_and_incarnation_never_go_back() {
        let mut shard = shard(0, 0);
        let view = |term| Record::View { partition: P, term: TermId(term) };
        assert_eq!(shard.fold(&view(7)), Ok(()));
        assert!(matches!(shard.fold(&view(6)), Err(StateError::View { .. })));
        let lives = |own, other| Record::CrashVector {
            partition: P,
            incarnation: Incarnation(own),
            crash_vector: vec![Incarnation(own), Incarnation(other)],
            is_recovering: false,
        };
        assert_eq!(shard.fold(&lives(2, 5)), Ok(()));
        assert_eq!(shard.fold(&lives(3, 4)), Err(StateError::Incarnation));
        assert_eq!(shard.fold(&lives(1, 5)), Err(StateError::Incarnation));
    }

    #[test]
    fn sync_point_and_own_checkpoint_stay_within_the_log_but_a_received_one_replaces_it() {
        let mut shard = shard(5, 3);
        let sync = |index| Record::SyncPoint { partition: P, index: Index(index) };
        assert!(matches!(shard.fold(&sync(6)), Err(StateError::Hole { .. })));
        let done = |index| Record::CheckpointDone {
            partition: P,
            index: Index(index),
            size_bytes: 1,
            digest: [0; 16],
        };
        assert!(matches!(shard.fold(&done(6)), Err(StateError::Hole { .. })));
        assert_eq!(shard.fold(&done(4)), Ok(()));
        assert_eq!(shard.fold(&install(9, 9, None)), Ok(()));
        let state = &shard.partitions[0];
        assert_eq!((state.first, state.last, state.sync_point), (Index(10), Index(9), Index(9)));
    }

    #[test]
    fn received_checkpoint_keeps_own_slots_only_where_there_are_some() {
        for (index, kept, last) in [(4, 4, 4), (4, 5, 5), (5, 5, 5), (9, 9, 9)] {
            let mut shard = shard(5, 3);
            assert_eq!(shard.fold(&install(index, kept, None)), Ok(()), "{index} {kept}");
            let state = &shard.partitions[0];
            assert_eq!((state.first, state.last), (Index(index + 1), Index(last)));
        }
        for (index, kept) in [(3, 3), (4, 3), (4, 6), (9, 10)] {
            assert!(shard(5, 3).fold(&install(index, kept, None)).is_err(), "{index} {kept}");
        }
    }

    #[test]
    fn view_adopted_on_a_checkpoint_ends_at_its_base_or_at_the_checkpoint() {
        for (index, kept, base, last) in [(4, 4, 8, 8), (4, 5, 8, 8), (9, 9, 7, 9), (4, 4, 4, 4)] {
            let mut shard = shard(5, 3);
            assert_eq!(shard.fold(&install(index, kept, Some((2, base)))), Ok(()));
            let state = &shard.partitions[0];
            assert_eq!((state.last, state.base), (Index(last), Index(base)));
            assert_eq!((state.view, state.last_normal), (TermId(2), TermId(2)));
            assert!(shard.fold(&install(20, 20, Some((2, 25)))).is_err(), "adopted once");
        }
        for (index, kept, base) in [(4, 5, 4), (4, 6, 9), (9, 10, 12)] {
            assert!(shard(5, 3).fold(&install(index, kept, Some((2, base)))).is_err());
        }
    }

    #[test]
    fn damaged_partition_recovers_until_it_says_that_it_has() {
        let mut shard = shard(5, 3);
        shard.partitions[0].view = TermId(7);
        shard.partitions[0] = shard.partitions[0].anew(Index(2), SegmentId(8));
        let state = &shard.partitions[0];
        assert_eq!((state.first, state.last, state.view), (Index(3), Index(2), TermId(7)));
        assert_eq!(shard.fold(&Record::View { partition: P, term: TermId(8) }), Ok(()));
        assert!(shard.partitions[0].is_recovering);
        assert_eq!(shard.fold(&install(6, 6, None)), Ok(()));
        assert!(shard.partitions[0].is_recovering);
        assert_eq!(shard.fold(&adopt(8, 6, 6)), Ok(()));
        assert!(shard.partitions[0].is_recovering);
        let lives = |is_recovering| Record::CrashVector {
            partition: P,
            incarnation: Incarnation(9),
            crash_vector: vec![Incarnation(9)],
            is_recovering,
        };
        assert_eq!(shard.fold(&lives(false)), Ok(()));
        assert!(!shard.partitions[0].is_recovering);
        assert_eq!(shard.fold(&lives(true)), Ok(()));
        assert!(shard.partitions[0].is_recovering);
    }

    #[test]
    fn slots_are_staged_only_for_a_view_that_can_still_be_adopted() {
        let mut shard = shard(5, 3);
        let stage = |term, index| Record::Stage {
            adopting: TermId(term),
            entry: crate::storage::record::Entry {
                partition: P,
                index: Index(index),
                term: TermId(1),
                message_id: MessageId(1),
                timestamp: crate::base::time::Timestamp(1),
                value: b"v",
            },
        };
        assert_eq!(shard.fold(&stage(2, 4)), Ok(()));
        assert!(shard.fold(&stage(2, 3)).is_err(), "stable");
        assert_eq!(shard.fold(&adopt(2, 4, 3)), Ok(()));
        assert!(shard.fold(&stage(2, 4)).is_err(), "adopted already");
        assert_eq!(shard.fold(&stage(3, 4)), Ok(()));
    }

    #[test]
    fn partition_of_another_shard_is_refused() {
        let mut shard = shard(5, 3);
        for partition in [PartitionId(3), PartitionId(5)] {
            let view = Record::View { partition, term: TermId(1) };
            assert_eq!(shard.fold(&view), Err(StateError::UnknownPartition));
        }
    }
}
