//! What keeps a log's segments: which partitions have slots above their checkpoint in which of
//! them, where in the segment, and how much each partition logged since its checkpoint. The log
//! that writes and the recovery that reads keep the same books.
//!
//! Only slots keep a segment. Views, sync points, checkpoints and lives are in the snapshot with
//! which every later segment begins.

use std::collections::VecDeque;
use std::ops::Range;

use super::record::{PartitionSnapshot, Record};
use crate::base::cast::{u32_from, u64_from, usize_from_u32};
use crate::base::ids::{Index, SegmentId, TermId};

/// Places at which it is remembered how much a partition had logged.
const MARK_COUNT_MAX: usize = 64;
/// How far apart they are at first, in bytes.
const MARK_STRIDE_MIN: u64 = 1 << 10;

/// The books of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The segments before the one being filled, oldest first.
    closed: VecDeque<Account>,
    /// What lies in the segment being filled, by partition.
    filling: Vec<Pin>,
    partitions: Vec<Logged>,
    /// Counts what may change who keeps which segment, but for new slots.
    changes_count: u64,
}

/// What a segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    segment: SegmentId,
    pins: Vec<Pin>,
}

/// The slots of one partition in one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pin {
    pub(super) position: u32,
    /// Their blocks.
    first_block: u32,
    end_block: u32,
    /// The highest of them; 0: there is none.
    pub(super) highest: Index,
    /// What the partition had logged with the last of them.
    logged: u64,
}

impl Pin {
    /// The blocks in which the slots lie.
    pub(super) fn blocks(&self) -> Range<usize> {
        usize_from_u32(self.first_block)..usize_from_u32(self.end_block)
    }

    /// The place of the partition among the shard's.
    pub(super) const fn place(&self) -> usize {
        usize_from_u32(self.position)
    }

    /// Whether it holds a slot that the log still needs.
    pub(super) fn holds(&self, state: &PartitionSnapshot) -> bool {
        // Slots above the last were dropped by an adoption.
        self.highest.min(state.last) > state.checkpoint
    }
}

/// What a partition has logged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Logged {
    /// Bytes of its slots, each counted once, however often it is carried over.
    total: u64,
    /// Of these, what the checkpoint covers.
    covered: u64,
    /// The highest slot.
    highest: Index,
    /// Slots up to `.0` lie in the first `.1` bytes.
    marks: VecDeque<(Index, u64)>,
    stride: u64,
    /// The highest slot that was given another content.
    rewritten: Index,
    /// How long its newest checkpoint is.
    checkpoint_size_bytes: u64,
    /// Slots up to here aren't carried over: they can't be read.
    refused: Index,
    /// It can't take a checkpoint.
    carried_whole: bool,
    /// The view for which slots are staged, and the oldest segment in which they lie.
    staged: Option<(TermId, SegmentId)>,
}

/// Where a record was put.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    /// In which segment: the one being filled.
    pub(super) segment: SegmentId,
    /// In which of its blocks.
    pub(super) blocks: Range<usize>,
    /// How long it is.
    pub(super) size: usize,
}

impl Ledger {
    /// The books of a log without records.
    pub(super) fn new(partition_count: usize) -> Self {
        Self {
            closed: VecDeque::new(),
            filling: vec![Pin::default(); partition_count],
            partitions: vec![Logged::default(); partition_count],
            changes_count: 0,
        }
    }

    /// Takes note of a record of the partition at `position`, which had `last` before it.
    pub(super) fn on_record(
        &mut self,
        position: usize,
        last: Index,
        record: &Record<'_>,
        placed: &Placed,
    ) {
        let logged = &mut self.partitions[position];
        let index = match record {
            Record::Entry(entry) => entry.index,
            Record::NoOp { index, .. } => *index,
            Record::Stage { adopting, entry } => {
                logged.stage(*adopting, placed.segment);
                entry.index
            }
            Record::Carry(entry) => {
                if entry.index > logged.highest {
                    logged.add(entry.index, placed.size);
                }
                self.pin(position, entry.index, placed);
                return;
            }
            Record::Adopt { kept, base, .. } => {
                if *kept < last || logged.staged.is_some() {
                    logged.rewritten = logged.rewritten.max(last).max(*base);
                }
                logged.staged = None;
                self.changes_count += 1;
                return;
            }
            Record::View { term, .. } => {
                // What is staged for a lower one will never be adopted.
                logged.staged = logged.staged.filter(|(adopting, _)| adopting >= term);
                self.changes_count += 1;
                return;
            }
            Record::CheckpointDone { index, size_bytes, .. } => {
                logged.cover(*index);
                logged.carried_whole = false;
                logged.checkpoint_size_bytes = *size_bytes;
                self.changes_count += 1;
                return;
            }
            Record::Install { index, size_bytes, kept, adopted, .. } => {
                if *kept < last || adopted.is_some() && logged.staged.is_some() {
                    let base = adopted.map_or(*index, |adopted| adopted.base);
                    logged.rewritten = logged.rewritten.max(last).max(base);
                }
                if adopted.is_some() {
                    logged.staged = None;
                }
                logged.cover(*index);
                logged.carried_whole = false;
                logged.checkpoint_size_bytes = *size_bytes;
                self.changes_count += 1;
                return;
            }
            Record::SyncPoint { .. }
            | Record::CrashVector { .. }
            | Record::OpenBoot { .. }
            | Record::CloseBoot { .. }
            | Record::Snapshot(_) => return,
        };
        if index <= last && !matches!(record, Record::Stage { .. }) {
            logged.rewritten = logged.rewritten.max(index);
        }
        logged.add(index, placed.size);
        self.pin(position, index, placed);
    }

    fn pin(&mut self, position: usize, index: Index, placed: &Placed) {
        let pin = &mut self.filling[position];
        let (first, end) = (u32_from(placed.blocks.start), u32_from(placed.blocks.end));
        if pin.highest == Index(0) {
            *pin = Pin { position: u32_from(position), first_block: first, ..Pin::default() };
        }
        pin.end_block = end;
        pin.highest = pin.highest.max(index);
        pin.logged = self.partitions[position].total;
    }

    /// A boot ended: what it had staged is never adopted.
    pub(super) fn on_boot(&mut self) {
        for logged in &mut self.partitions {
            logged.staged = None;
        }
    }

    /// The segment being filled is left for the next.
    pub(super) fn close(&mut self, segment: SegmentId) {
        let pins = self.filling.iter().copied().filter(|pin| pin.highest > Index(0)).collect();
        self.filling.fill(Pin::default());
        self.closed.push_back(Account { segment, pins });
        self.changes_count += 1;
    }

    /// Drops what is written of segments that don't count.
    pub(super) fn retain(&mut self, counts: impl Fn(SegmentId) -> bool) {
        self.closed.retain(|account| counts(account.segment));
    }

    /// The segments before the one being filled, oldest first.
    pub(super) fn segments(&self) -> impl Iterator<Item = SegmentId> {
        self.closed.iter().map(|account| account.segment)
    }

    /// How many of the oldest segments before the one being filled hold nothing that is needed.
    pub(super) fn releasable_count(&self, states: &[PartitionSnapshot]) -> usize {
        let staged = self.partitions.iter().filter_map(|logged| Some(logged.staged?.1)).min();
        self.closed
            .iter()
            .take_while(|account| {
                staged.is_none_or(|oldest| account.segment < oldest)
                    && !account.pins.iter().any(|pin| pin.holds(&states[pin.place()]))
            })
            .count()
    }

    /// How many of the oldest segments before the one being filled no partition wants to keep for
    /// its peers: it has logged `size_bytes` and more between them and its checkpoint.
    pub(super) fn unwanted_count(&self, size_bytes: u64) -> usize {
        let is_wanted = |pin: &Pin| {
            let covered = self.partitions[pin.place()].covered;
            covered.saturating_sub(pin.logged) < size_bytes
        };
        self.closed.iter().take_while(|account| !account.pins.iter().any(is_wanted)).count()
    }

    /// What lies in old segments of a partition is void.
    pub(super) fn forget(&mut self, position: usize) {
        for account in &mut self.closed {
            account.pins.retain(|pin| pin.place() != position);
        }
        self.partitions[position] = Logged::default();
        self.changes_count += 1;
    }

    /// The segment is let go; it is the oldest, and was releasable. What lay in it.
    pub(super) fn release(&mut self, segment: SegmentId) -> Vec<Pin> {
        let oldest = self.closed.pop_front_if(|account| account.segment == segment);
        oldest.expect("only the oldest segment is released").pins
    }

    /// The oldest segment that is needed, and what lies in it.
    pub(super) fn oldest_held(&self, states: &[PartitionSnapshot]) -> Option<(SegmentId, &[Pin])> {
        let account = self.closed.get(self.releasable_count(states))?;
        Some((account.segment, &account.pins))
    }

    /// What lies in a segment; `None`: in the one being filled.
    pub(super) fn pins(&self, segment: Option<SegmentId>) -> &[Pin] {
        match segment {
            None => &self.filling,
            Some(segment) => self
                .closed
                .iter()
                .find(|account| account.segment == segment)
                .map_or(&[], |account| &account.pins),
        }
    }

    /// All slots that a partition has in a segment were carried over.
    pub(super) fn carried(&mut self, segment: SegmentId, position: usize) {
        if let Some(account) = self.closed.iter_mut().find(|account| account.segment == segment) {
            account.pins.retain(|pin| pin.place() != position);
        }
        self.changes_count += 1;
    }

    /// Whether each slot above the checkpoint was written once, so that any record of it is its
    /// content.
    pub(super) fn is_written_once(&self, position: usize, checkpoint: Index) -> bool {
        self.partitions[position].rewritten <= checkpoint
    }

    /// Whether nothing is staged, and the slots above the checkpoint were not given up.
    pub(super) fn is_settled(&self, position: usize, checkpoint: Index) -> bool {
        let logged = &self.partitions[position];
        logged.refused <= checkpoint && logged.staged.is_none()
    }

    /// The partition's slots may not be carried over before its next checkpoint.
    pub(super) fn refuse_carry(&mut self, position: usize) {
        let logged = &mut self.partitions[position];
        logged.refused = logged.refused.max(logged.highest);
        self.changes_count += 1;
    }

    /// All of the partition's slots are carried over, however many they are.
    pub(super) fn set_carried_whole(&mut self, position: usize, carry: bool) {
        let carried_whole = &mut self.partitions[position].carried_whole;
        self.changes_count += u64::from(*carried_whole != carry);
        *carried_whole = carry;
    }

    pub(super) fn is_carried_whole(&self, position: usize) -> bool {
        self.partitions[position].carried_whole
    }

    /// Counts what may change who keeps which segment, but for new slots.
    pub(super) const fn changes_count(&self) -> u64 {
        self.changes_count
    }

    /// The partition's newest checkpoint is of this size, unless a record says otherwise.
    pub(super) fn know_checkpoint_size(&mut self, position: usize, size_bytes: u64) {
        let known = &mut self.partitions[position].checkpoint_size_bytes;
        if *known == 0 {
            *known = size_bytes;
        }
    }

    /// The size of the partition's newest checkpoint; 0: there is none.
    pub(super) fn checkpoint_size_bytes(&self, position: usize) -> u64 {
        self.partitions[position].checkpoint_size_bytes
    }

    /// The size of the largest checkpoint that was taken.
    pub(super) fn checkpoint_size_bytes_max(&self) -> u64 {
        self.partitions.iter().map(|logged| logged.checkpoint_size_bytes).max().unwrap_or(0)
    }

    /// Bytes of a partition's slots since its checkpoint: a little too many rather than too few.
    pub(super) fn size_bytes_since_checkpoint(&self, position: usize) -> u64 {
        let logged = &self.partitions[position];
        logged.total - logged.covered
    }

    /// The same of all partitions together.
    pub(super) fn size_bytes_since_checkpoints(&self) -> u64 {
        (0..self.partitions.len()).map(|place| self.size_bytes_since_checkpoint(place)).sum()
    }
}

impl Logged {
    fn add(&mut self, index: Index, size: usize) {
        self.total += u64_from(size);
        self.highest = self.highest.max(index);
        if self.marks.is_empty() {
            self.stride = MARK_STRIDE_MIN;
        }
        let marked = self.marks.back().map_or(self.covered, |mark| mark.1);
        if self.total - marked < self.stride {
            return;
        }
        if self.marks.len() == MARK_COUNT_MAX {
            let mut keep = false;
            self.marks.retain(|_| {
                keep = !keep;
                !keep
            });
            self.stride *= 2;
        }
        self.marks.push_back((self.highest, self.total));
    }

    fn cover(&mut self, checkpoint: Index) {
        if checkpoint >= self.highest {
            self.covered = self.total;
            self.marks.clear();
            return;
        }
        while let Some((_, size)) = self.marks.pop_front_if(|mark| mark.0 <= checkpoint) {
            self.covered = size;
        }
    }

    fn stage(&mut self, adopting: TermId, segment: SegmentId) {
        match &self.staged {
            Some((term, _)) if *term == adopting => {}
            _ => self.staged = Some((adopting, segment)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{MessageId, PartitionId};

    const SEGMENT: SegmentId = SegmentId(3);

    fn no_op(index: u64) -> Record<'static> {
        let (term, message_id) = (TermId(1), MessageId(index));
        Record::NoOp { partition: PartitionId(0), index: Index(index), term, message_id }
    }

    fn states(last: u64, checkpoint: u64) -> Vec<PartitionSnapshot> {
        let (last, checkpoint) = (Index(last), Index(checkpoint));
        vec![PartitionSnapshot { last, checkpoint, ..PartitionSnapshot::default() }]
    }

    fn placed(size: usize) -> Placed {
        Placed { segment: SEGMENT, blocks: 4..5, size }
    }

    fn written(count: u64, size: usize) -> Ledger {
        let mut ledger = Ledger::new(1);
        for index in 1..=count {
            ledger.on_record(0, Index(index - 1), &no_op(index), &placed(size));
        }
        ledger
    }

    const fn checkpoint(index: u64) -> Record<'static> {
        let (partition, index) = (PartitionId(0), Index(index));
        Record::CheckpointDone { partition, index, size_bytes: 0, digest: [0; 16] }
    }

    #[test]
    fn segment_is_held_until_the_checkpoint_covers_its_last_slot() {
        let mut ledger = written(5, 10);
        ledger.close(SEGMENT);
        assert_eq!(ledger.releasable_count(&states(9, 4)), 0);
        let (segment, pins) = ledger.oldest_held(&states(9, 4)).unwrap();
        assert_eq!((segment, pins[0].highest), (SEGMENT, Index(5)));
        assert_eq!(ledger.releasable_count(&states(9, 5)), 1);
        // Or until an adoption has dropped what lies above it.
        assert_eq!(ledger.releasable_count(&states(4, 4)), 1);
        ledger.carried(SEGMENT, 0);
        assert_eq!(ledger.releasable_count(&states(9, 0)), 1);
    }

    #[test]
    fn only_the_oldest_segments_are_released() {
        let mut ledger = written(5, 10);
        ledger.close(SegmentId(3));
        ledger.close(SegmentId(4));
        assert_eq!(ledger.releasable_count(&states(5, 0)), 0, "the second holds nothing");
        assert_eq!(ledger.releasable_count(&states(5, 5)), 2);
    }

    #[test]
    fn staged_slots_hold_their_segments_while_their_view_can_be_adopted() {
        let stage = |term| Record::Stage {
            adopting: TermId(term),
            entry: super::super::record::Entry {
                partition: PartitionId(0),
                index: Index(9),
                term: TermId(term),
                message_id: MessageId(1),
                timestamp: crate::base::time::Timestamp(1),
                value: b"v",
            },
        };
        let view = |term| Record::View { partition: PartitionId(0), term: TermId(term) };
        let mut ledger = Ledger::new(1);
        ledger.on_record(0, Index(5), &stage(4), &placed(10));
        ledger.close(SEGMENT);
        // The partition's log ends below the staged slot: its highest slot doesn't count.
        assert_eq!(ledger.releasable_count(&states(5, 5)), 0);
        ledger.on_record(0, Index(5), &view(4), &placed(10));
        assert_eq!(ledger.releasable_count(&states(5, 5)), 0);
        let mut next_boot = ledger.clone();
        next_boot.on_boot();
        assert_eq!(next_boot.releasable_count(&states(5, 5)), 1);
        ledger.on_record(0, Index(5), &view(5), &placed(10));
        assert_eq!(ledger.releasable_count(&states(5, 5)), 1);
    }

    #[test]
    fn bytes_since_the_checkpoint_are_never_too_few_and_nearly_right() {
        for (count, size) in [(10, 10), (1_000, 100), (100_000, 33)] {
            for covered in [0, 1, count / 3, count - 1, count] {
                let mut ledger = written(count, size);
                ledger.on_record(0, Index(count), &checkpoint(covered), &placed(0));
                let found = ledger.size_bytes_since_checkpoint(0);
                let exact = (count - covered) * u64_from(size);
                assert!(found >= exact, "{found} of {exact}");
                let total = count * u64_from(size);
                assert!(found <= exact + 2 * MARK_STRIDE_MIN + total / 16, "{found} of {exact}");
            }
        }
    }

    #[test]
    fn slots_written_twice_are_known_until_a_checkpoint_covers_them() {
        let mut ledger = written(5, 10);
        assert!(ledger.is_written_once(0, Index(0)));
        ledger.on_record(0, Index(5), &no_op(4), &placed(10));
        assert!(!ledger.is_written_once(0, Index(3)));
        assert!(ledger.is_written_once(0, Index(4)));
        let adopt = |base, kept| Record::Adopt {
            partition: PartitionId(0),
            term: TermId(2),
            base: Index(base),
            kept: Index(kept),
            chain: [0; 16],
        };
        let mut ledger = written(5, 10);
        ledger.on_record(0, Index(5), &adopt(5, 5), &placed(10));
        assert!(ledger.is_written_once(0, Index(0)), "all was kept");
        ledger.on_record(0, Index(5), &adopt(3, 3), &placed(10));
        assert!(!ledger.is_written_once(0, Index(4)));
    }
}
