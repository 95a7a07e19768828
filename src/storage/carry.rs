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

use super::block::{Block, BlockState, LogKey};
use super::codec::decode;
use super::error::Damage;
use super::record::{Entry, Record};
use super::scan::expected_block;
use super::wal::{CarriedPartition, CarryPlan};
use crate::base::ids::SegmentId;
use crate::base::limits::WRITE_BATCH_SIZE_BYTES_MAX;
use crate::base::time::Timestamp;

/// Blocks that are read at once.
const READ_BLOCK_COUNT: usize = WRITE_BATCH_SIZE_BYTES_MAX / size_of::<Block>();

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
    key: LogKey,
    plan: CarryPlan,
    next_block: usize,
    /// Records that aren't whole yet; empty until the first record begins.
    stream: Vec<u8>,
    began: bool,
}

impl Carrier {
    /// Begins with a plan for a log.
    #[must_use]
    pub fn new(key: LogKey, plan: CarryPlan) -> Self {
        let next_block = plan.blocks.start;
        Self { key, plan, next_block, stream: Vec::new(), began: false }
    }

    /// The segment, and whose slots are carried over.
    #[must_use]
    pub const fn plan(&self) -> &CarryPlan {
        &self.plan
    }

    /// What is to be read next; `None`: all was read.
    #[must_use]
    pub fn wants(&self) -> Option<SegmentRead> {
        let left = self.plan.blocks.end - self.next_block;
        let read = SegmentRead {
            segment: self.plan.segment,
            first_block: self.next_block,
            block_count: left.min(READ_BLOCK_COUNT),
        };
        (left > 0).then_some(read)
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
        let wanted = self.wants().map(|read| read.block_count);
        assert_eq!(Some(blocks.len()), wanted, "what was asked for is read");
        for block in blocks {
            let number = self.next_block;
            self.gather(number, block).map_err(|damage| (number, damage))?;
            self.next_block += 1;
        }
        let mut begin = 0;
        let last = self.next_block - 1;
        while let Some((record, size)) =
            decode(&self.stream[begin..]).map_err(|error| (last, Damage::Record(error)))?
        {
            begin += size;
            if let Some(entry) = slot(&record).filter(|entry| self.plan.wants(entry)) {
                carry(entry);
            }
        }
        self.stream.drain(..begin);
        Ok(())
    }

    /// Adds a block's payload to the stream, which begins where a record does.
    fn gather(&mut self, number: usize, block: &Block) -> Result<(), Damage> {
        let state = BlockState::of(block, self.key.salt);
        let header = expected_block(self.key, self.plan.segment, number, state)?;
        if self.began {
            self.stream.extend_from_slice(header.payload(block));
        } else if let Some(payload) = header.payload_from_record(block) {
            self.stream.extend_from_slice(payload);
            self.began = true;
        }
        Ok(())
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
