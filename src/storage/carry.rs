//! Slots out of an old segment, so that they can be appended again: the partition that keeps it has
//! so little above its checkpoint, or can't take one.
//!
//! What is carried over must be what its slot holds *now*. A slot above its sync point can be
//! written again by a later record: by a no-op, or when a view is adopted that dropped or staged
//! it. So a partition of which that happened above its checkpoint isn't carried over (the ledger
//! knows, and it is asked again with each slot): its next checkpoint makes an end of it. Of all
//! others each slot was written once, so any record of it, the first or one carried over before, is
//! its content. What is appended later wins in a replay as ever, and a carried slot never comes
//! after a record that gave it another content: that record would have stopped the carrying. Staged
//! slots aren't carried over; they keep their segment until it is known whether they are adopted.

use super::block::{Block, LogKey};
use super::error::Damage;
use super::record::{Entry, Record};
use super::record_stream::RecordStream;
use super::wal::{CarriedPartition, CarryPlan};
use crate::base::ids::SegmentId;
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

/// Decodes the slots of a plan out of its segment's blocks.
#[derive(Debug)]
pub struct Carrier {
    plan: CarryPlan,
    records: RecordStream,
}

impl Carrier {
    /// Begins with a plan for a log.
    #[must_use]
    pub fn new(key: LogKey, plan: CarryPlan) -> Self {
        let records = RecordStream::new(key, plan.segment, plan.blocks.clone());
        Self { plan, records }
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

    /// The blocks that were asked for: `carry` gets each slot of the plan that ends in them.
    ///
    /// # Errors
    /// If they aren't what was written there, with the number of the block.
    ///
    /// # Panics
    /// If they aren't as many as were asked for.
    pub fn on_read(
        &mut self,
        blocks: &[Block],
        mut carry: impl FnMut(Entry<'_>),
    ) -> Result<(), (usize, Damage)> {
        self.records.on_read(blocks, |record| {
            if let Some(entry) = slot(record).filter(|entry| self.plan.wants(entry)) {
                carry(entry);
            }
        })
    }
}

impl CarryPlan {
    fn wants(&self, entry: &Entry<'_>) -> bool {
        let wanted = self.partitions.iter().find(|wanted| wanted.partition == entry.partition);
        wanted.is_some_and(|wanted| entry.index > wanted.checkpoint)
    }
}

/// The slot that a record holds, as it is carried over.
fn slot<'a>(record: &Record<'a>) -> Option<Entry<'a>> {
    match record {
        Record::Entry(entry) | Record::Carry(entry) => Some(*entry),
        Record::NoOp { partition, index, term, message_id } => Some(Entry {
            partition: *partition,
            index: *index,
            term: *term,
            message_id: *message_id,
            timestamp: Timestamp(0),
            value: &[],
        }),
        _ => None,
    }
}
