//! Carrying over: slots that keep an old segment, and are too few to be worth a checkpoint, are
//! read from it in the background and appended again. Why that is safe: `storage::carry`.
//!
//! One chunk is under way at a time, and the next is asked for when what came of the last one is
//! durable: clients' commands have the log in between.

use super::{Core, Effects};
use crate::base::ids::{AppendId, PartitionId, SegmentId};
use crate::storage::block::{Block, offset_of};
use crate::storage::carry::{Carrier, SegmentRead};

/// Blocks of a segment as they were read.
#[derive(Debug)]
pub struct SegmentBlocks {
    /// What was asked for.
    pub read: SegmentRead,
    /// What is there; `None`: it can't be read.
    pub blocks: Option<Vec<Block>>,
}

/// Whether slots are being carried over.
#[derive(Debug, Default)]
pub(super) struct Carrying {
    under_way: Option<UnderWay>,
    /// The state of the log's books for which there was nothing to carry over.
    idle_at: Option<u64>,
}

#[derive(Debug)]
struct UnderWay {
    carrier: Carrier,
    /// A chunk was asked for.
    reading: bool,
    /// The last record that came of the last chunk.
    appended: AppendId,
}

impl Core {
    /// Goes on with carrying over, if there is anything to be carried.
    pub(super) fn carry(&mut self, effects: &mut impl Effects) {
        if self.closing {
            return;
        }
        if self.carrying.under_way.is_none() {
            let changes = self.log.changes_count();
            if self.carrying.idle_at == Some(changes) {
                return;
            }
            self.log.set_state_size_bytes(self.arena.bytes_used());
            let Some(plan) = self.log.carry_plan() else {
                self.carrying.idle_at = Some(changes);
                return;
            };
            let carrier = Carrier::new(self.log.key(), plan);
            let under_way = UnderWay { carrier, reading: false, appended: AppendId(0) };
            self.carrying.under_way = Some(under_way);
        }
        let Some(under_way) = &mut self.carrying.under_way else { return };
        if under_way.reading || under_way.appended > self.log.durable() {
            return;
        }
        match under_way.carrier.wants() {
            Some(read) => {
                under_way.reading = true;
                effects.read_segment(read);
            }
            None => self.carried(),
        }
    }

    /// Blocks of a segment were read, to be carried over or for a peer. (If both have asked for the
    /// same, each gets them once.)
    pub(super) fn on_segment_read(&mut self, read: &SegmentBlocks, effects: &mut impl Effects) {
        if !self.old_slots.awaits(&read.read) {
            self.on_carry_read(read, effects);
        } else if let Some((segment, offset)) = self.old_slots.on_read(&self.log, read) {
            effects.report_damage(segment, offset);
            self.on_damage(segment);
        }
    }

    /// A chunk was read.
    fn on_carry_read(&mut self, read: &SegmentBlocks, effects: &mut impl Effects) {
        let Some(mut under_way) = self.carrying.under_way.take() else { return };
        assert_eq!(under_way.carrier.wants(), Some(read.read), "one chunk is under way");
        if self.closing {
            return;
        }
        under_way.reading = false;
        let log = &mut self.log;
        if !log.is_live(read.read.segment) {
            // Checkpoints overtook the carrying: the file may be another segment by now.
            return;
        }
        // What a partition has become since the plan was made.
        under_way.carrier.give_up(|carried| !log.may_carry(carried.partition));
        let result = match &read.blocks {
            None => Err(None),
            Some(blocks) => under_way.carrier.on_read(log, blocks).map_err(Some),
        };
        match result {
            Ok(carried) => {
                self.counters.carried += carried.count;
                under_way.appended = under_way.appended.max(carried.last);
                self.carrying.under_way = Some(under_way);
            }
            Err(damage) => {
                let plan = under_way.carrier.plan();
                for carried in &plan.partitions {
                    self.log.refuse_carry(carried.partition);
                }
                let block = damage.map_or(read.read.first_block, |(block, _)| block);
                effects.report_damage(plan.segment, offset_of(block));
                self.on_damage(plan.segment);
            }
        }
    }

    /// All of a plan was read, and what came of it is durable.
    fn carried(&mut self) {
        let Some(UnderWay { carrier, .. }) = self.carrying.under_way.take() else { return };
        let plan = carrier.plan();
        for carried in &plan.partitions {
            if self.log.may_carry(carried.partition) {
                self.log.on_carried(plan.segment, carried.partition);
            }
        }
    }

    /// A segment can't be read, or isn't what was written: the partitions that need it are to take
    /// checkpoints.
    pub(super) fn on_damage(&mut self, segment: SegmentId) {
        self.counters.damaged += 1;
        self.log.on_damaged(segment);
        for partition in self.log.partitions_up_to(segment) {
            self.want_checkpoint(partition);
        }
    }

    /// A checkpoint can't be relied on: the partition is to take another one.
    pub(super) fn on_checkpoint_damage(&mut self, partition: PartitionId) {
        self.counters.damaged += 1;
        self.log.on_checkpoint_damaged();
        self.checkpoints.on_damage(partition);
        self.want_checkpoint(partition);
    }

    /// The partition is to take a checkpoint, whatever it has logged.
    pub(super) fn want_checkpoint(&mut self, partition: PartitionId) {
        if !self.checkpoints_wanted.contains(&partition) {
            self.checkpoints_wanted.push_back(partition);
        }
    }
}
