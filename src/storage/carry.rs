//! Slots out of an old segment, so that they can be appended again: the partition that keeps it has
//! so little above its checkpoint, or can't take one.
//!
//! What is carried over must be what its slot holds *now*. Most partitions have written each slot
//! above their checkpoint once: any record of it, the first or one carried over before, is its
//! content. But a slot above its sync point can be written again by a later record: by a no-op, or
//! when a view is adopted that dropped or staged it (the ledger knows that it happened). Then the
//! index of slots says which record holds ([`super::slot_index`]), and as there, the last one of a
//! run is meant: what is found of a run waits until all of it was read. Where there is no index, in
//! a group of one, such a partition isn't carried over: its next checkpoint makes an end of it.
//!
//! What is appended later wins in a replay as ever, and when a carried slot is appended its content
//! is the one that holds. A crash between two of them leaves the segment they came from, and a slot
//! that was appended again says the same at both places. What was staged and adopted may then be
//! gone while its `Adopt` is still there: a replay leaves the slot open until it comes as a carried
//! one ([`super::replay`]). What is staged and not adopted isn't carried over: it keeps its segment
//! until the view is adopted or a higher one promised.

use std::collections::BTreeMap;

use super::block::{Block, LogKey};
use super::error::Damage;
use super::record::{Entry, Record};
use super::record_stream::RecordStream;
use super::replay::LoggedEntry;
use super::wal::{CarriedPartition, CarryPlan, Wal};
use crate::base::ids::{AppendId, Index, PartitionId, SegmentId, TermId};
use crate::base::time::Timestamp;

/// Blocks of a segment that the host should read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRead {
    /// The segment.
    pub segment: SegmentId,
    /// The first of them.
    pub first_block: usize,
    /// How many.
    pub block_count: usize,
}

/// What came of blocks that were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// How many slots were appended again, one after the other.
    pub count: u64,
    /// The last of these records.
    pub last: AppendId,
}

/// Takes the slots of a plan out of its segment's blocks, and appends them again.
#[derive(Debug)]
pub struct Carrier {
    plan: CarryPlan,
    records: RecordStream,
    /// Slots that were written more than once: what was found of them so far.
    found: BTreeMap<(PartitionId, Index), Found>,
}

/// The last record that was found of a slot.
#[derive(Debug)]
struct Found {
    entry: LoggedEntry,
    /// The view for which it was staged; 0: it went to the log itself.
    adopting: TermId,
    /// No other one follows this block.
    last_block: usize,
}

impl Carrier {
    /// Begins with a plan for a log.
    #[must_use]
    pub fn new(key: LogKey, plan: CarryPlan) -> Self {
        let records = RecordStream::new(key, plan.segment, plan.blocks.clone());
        Self { plan, records, found: BTreeMap::new() }
    }

    /// The segment, and whose slots are carried over.
    #[must_use]
    pub const fn plan(&self) -> &CarryPlan {
        &self.plan
    }

    /// What is to be read next; `None`: all was read.
    #[must_use]
    pub fn wants(&self) -> Option<SegmentRead> {
        self.records.wants()
    }

    /// The partition's slots are no longer wanted.
    pub fn give_up(&mut self, unwanted: impl Fn(&CarriedPartition) -> bool) {
        self.plan.partitions.retain(|partition| !unwanted(partition));
    }

    /// The blocks that were asked for: the slots of the plan that are known with them are appended
    /// to the log, if it still needs them.
    ///
    /// # Errors
    /// If they aren't what was written there, with the number of the block.
    ///
    /// # Panics
    /// If they aren't as many as were asked for.
    pub fn on_read(&mut self, log: &mut Wal, blocks: &[Block]) -> Result<Carried, (usize, Damage)> {
        let Self { plan, records, found } = self;
        let mut carried = Carried::default();
        records.on_read(blocks, |record| {
            let slot = slot(record).filter(|(entry, _)| plan.wants(entry));
            let Some((entry, adopting)) = slot else { return };
            if log.is_written_once(entry.partition) {
                // What is staged of it is of a view that came to nothing.
                if adopting == TermId(0) {
                    carried.append(log, entry);
                }
            } else if let Some(run) = log.find_slot(entry.partition, entry.index)
                && (run.segment, run.adopting) == (plan.segment, adopting)
            {
                let last_block = *run.blocks().end();
                let found_now = Found { entry: LoggedEntry::of(&entry), adopting, last_block };
                found.insert((entry.partition, entry.index), found_now);
            }
        })?;
        let next_block = records.wants().map_or(usize::MAX, |read| read.first_block);
        for ((partition, index), found) in
            found.extract_if(.., |_, found| found.last_block < next_block)
        {
            // Another record may hold the slot by now.
            let is_held = log
                .find_slot(partition, index)
                .is_some_and(|run| (run.segment, run.adopting) == (plan.segment, found.adopting));
            if is_held && plan.names(partition) {
                carried.append(log, found.entry.as_entry(partition));
            }
        }
        Ok(carried)
    }
}

impl Carried {
    fn append(&mut self, log: &mut Wal, entry: Entry<'_>) {
        if log.needs(entry.partition, entry.index) {
            self.last = log.append(&Record::Carry(entry));
            self.count += 1;
        }
    }
}

impl CarryPlan {
    fn names(&self, partition: PartitionId) -> bool {
        self.partitions.iter().any(|wanted| wanted.partition == partition)
    }

    fn wants(&self, entry: &Entry<'_>) -> bool {
        let wanted = self.partitions.iter().find(|wanted| wanted.partition == entry.partition);
        wanted.is_some_and(|wanted| entry.index > wanted.checkpoint)
    }
}

/// The slot that a record holds, as it is carried over, and the view for which it was staged; 0: it
/// went to the log itself.
fn slot<'a>(record: &Record<'a>) -> Option<(Entry<'a>, TermId)> {
    match record {
        Record::Entry(entry) | Record::Carry(entry) => Some((*entry, TermId(0))),
        Record::Stage { adopting, entry } => Some((*entry, *adopting)),
        Record::NoOp { partition, index, term, message_id } => {
            let entry = Entry {
                partition: *partition,
                index: *index,
                term: *term,
                message_id: *message_id,
                timestamp: Timestamp(0),
                value: &[],
            };
            Some((entry, TermId(0)))
        }
        _ => None,
    }
}
