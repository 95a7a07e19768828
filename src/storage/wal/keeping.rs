//! What of a log is kept and what is let go: segments, checkpoints, and who must move when the log
//! is half as large as it may be.

use std::ops::Range;

use super::super::ledger::Pin;
use super::{Durability, FreeSegment, LiveSegment, Space, UNNAMED, Wal};
use crate::base::cast::u64_from;
use crate::base::ids::{Index, PartitionId, SegmentId};
use crate::base::limits::{
    CARRY_SIZE_BYTES_MAX, COMMAND_SIZE_BYTES_MAX, LOG_TARGET_SIZE_BYTES_MIN,
};
use crate::base::time::Monotonic;
use crate::storage::block::{boot_of, offset_of};
use crate::storage::slot_index::SlotIndex;

/// A partition that keeps the oldest segment and must take a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The oldest segment that is needed.
    pub segment: SegmentId,
    /// Who needs it.
    pub partition: PartitionId,
    /// What that partition has logged since its checkpoint.
    pub size_bytes: u64,
}

/// Slots that are to be carried over from the oldest segment that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarryPlan {
    /// The segment.
    pub segment: SegmentId,
    /// Where they lie in it.
    pub blocks: Range<usize>,
    /// Of each partition: its checkpoint, and its highest slot there.
    pub partitions: Vec<CarriedPartition>,
}

/// A partition whose slots are carried over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarriedPartition {
    /// Which.
    pub partition: PartitionId,
    /// Slots up to here aren't needed.
    pub checkpoint: Index,
    /// Its highest slot in the segment.
    pub highest: Index,
}

impl Wal {
    /// How full the log is.
    #[must_use]
    pub fn space(&self) -> Space {
        let rest = offset_of(self.segment_block_count - self.filled_block_count);
        let live_count = self.live_count();
        Space {
            used_size_bytes: self.supply.used_size_bytes(),
            live_size_bytes: live_count * u64_from(self.config.segment_size_bytes),
            size_bytes_max: self.config.log_size_bytes_max,
            client_size_bytes: self.supply.client_size_bytes(live_count, self.filling, rest),
            gathering_size_bytes: offset_of(self.gathering_block_count),
        }
    }

    /// Whether clients' commands may fill so many bytes more. If not, segments that nobody needs,
    /// but perhaps a peer, make way, as they do for a single command.
    pub fn ask_for_room(&mut self, size_bytes: u64) -> bool {
        let has_room = self.space().client_size_bytes >= size_bytes;
        if !has_room {
            self.wanted_size_bytes = self.wanted_size_bytes.max(size_bytes);
        }
        has_room
    }

    /// A segment is prepared and durably named.
    ///
    /// # Panics
    /// If it wasn't asked for.
    pub fn on_segment_prepared(&mut self, segment: SegmentId) {
        self.supply.on_prepared(segment);
    }

    /// A segment couldn't be prepared (no space, say). It will be asked for again after a while;
    /// until then only what is prepared or free counts as room.
    ///
    /// # Panics
    /// If it wasn't asked for.
    pub fn on_segment_failed(&mut self, segment: SegmentId, now: Monotonic) {
        self.supply.on_failed(segment, now);
    }

    /// What the filesystem has left. To be told now and then: clients are refused before there is
    /// nothing left, neither for segments nor for a checkpoint as large as the largest.
    pub fn on_disk_space(&mut self, left_size_bytes: u64) {
        self.supply.on_disk(left_size_bytes, self.ledger.checkpoint_size_bytes_max());
    }

    /// A partition's checkpoint was loaded at the start and is of this size. (The record that said
    /// so may lie in a segment that was let go.)
    pub fn know_checkpoint_size(&mut self, partition: PartitionId, size_bytes: u64) {
        if let Some(position) = self.state.position(partition) {
            self.ledger.know_checkpoint_size(position, size_bytes);
        }
    }

    /// The size of the file of a partition's newest checkpoint, as far as it is known; 0: there is
    /// none.
    #[must_use]
    pub fn checkpoint_size_bytes(&self, partition: PartitionId) -> u64 {
        let position = self.state.position(partition);
        position.map_or(0, |position| self.ledger.checkpoint_size_bytes(position))
    }

    /// Changes when [`Wal::pinned`] or [`Wal::carry_plan`] may have another answer than before.
    #[must_use]
    pub const fn changes_count(&self) -> u64 {
        self.ledger.changes_count() + self.supply.changes_count() + self.completed_count
    }

    /// The size of the state of which this is the log: a log that is larger than its state should
    /// not be kept long, but needn't be smaller.
    pub const fn set_state_size_bytes(&mut self, size_bytes: u64) {
        self.state_size_bytes = size_bytes;
    }

    /// Who keeps the oldest segment and must take a checkpoint, while the log is at half of what it
    /// should not exceed. Who has so little that it is carried over isn't named, unless there is no
    /// room to carry it.
    #[must_use]
    pub fn pinned(&self) -> Option<Pinned> {
        if !self.is_pressed() {
            return None;
        }
        let (segment, pins) = self.ledger.oldest_held(&self.state.partitions)?;
        let held = || pins.iter().filter(|pin| self.holds(pin));
        let size_bytes = |pin: &Pin| self.ledger.size_bytes_since_checkpoint(pin.place());
        let largest =
            held().filter(|pin| !self.is_carried(pin.place())).max_by_key(|pin| size_bytes(pin));
        let pin = match largest {
            None if !self.has_room_to_carry(pins) => held().max_by_key(|pin| size_bytes(pin))?,
            pin => pin?,
        };
        let partition = self.state.partitions[pin.place()].partition;
        Some(Pinned { segment, partition, size_bytes: size_bytes(pin) })
    }

    /// The slots that are to be carried over next, while the log is at half of what it should not
    /// exceed.
    #[must_use]
    pub fn carry_plan(&self) -> Option<CarryPlan> {
        if !self.is_pressed() {
            return None;
        }
        let (segment, pins) = self.ledger.oldest_held(&self.state.partitions)?;
        if !self.live_segments().iter().any(|live| live.segment == segment) {
            // The last of it is still being written.
            return None;
        }
        let blocks = self.carried_blocks(pins).filter(|_| self.has_room_to_carry(pins))?;
        let partitions = self.carried(pins).map(|pin| {
            let state = &self.state.partitions[pin.place()];
            let (partition, checkpoint) = (state.partition, state.checkpoint);
            CarriedPartition { partition, checkpoint, highest: pin.highest }
        });
        Some(CarryPlan { segment, blocks, partitions: partitions.collect() })
    }

    /// Those of a segment's pins whose slots are carried over.
    fn carried<'a>(&self, pins: &'a [Pin]) -> impl Iterator<Item = &'a Pin> {
        pins.iter().filter(|pin| self.holds(pin) && self.is_carried(pin.place()))
    }

    /// Where those slots lie.
    fn carried_blocks(&self, pins: &[Pin]) -> Option<Range<usize>> {
        let begin = self.carried(pins).map(|pin| pin.blocks().start).min()?;
        let end = self.carried(pins).map(|pin| pin.blocks().end).max()?;
        Some(begin..end)
    }

    /// Whether all that is carried over of a segment fits what is left, whatever else the log takes
    /// meanwhile.
    fn has_room_to_carry(&self, pins: &[Pin]) -> bool {
        let size_bytes: u64 = self
            .carried(pins)
            .map(|pin| self.ledger.size_bytes_since_checkpoint(pin.place()))
            .sum();
        let blocks = self.carried_blocks(pins).unwrap_or_default();
        let left = offset_of(self.segment_block_count - self.filled_block_count)
            + self.supply.further_size_bytes(self.live_count(), self.filling);
        2 * size_bytes.min(offset_of(blocks.len())) <= left
    }

    /// Whether a partition's slots may be carried over: it is known which record of each holds.
    #[must_use]
    pub fn may_carry(&self, partition: PartitionId) -> bool {
        self.state.position(partition).is_some_and(|position| self.is_carriable(position))
    }

    fn is_carriable(&self, position: usize) -> bool {
        let checkpoint = self.state.partitions[position].checkpoint;
        let is_found = |slots: &SlotIndex| slots.floor(position) <= checkpoint;
        self.ledger.is_settled(position, checkpoint)
            && (self.ledger.is_written_once(position, checkpoint)
                || self.slots.as_ref().is_some_and(is_found))
    }

    /// Whether each slot of a partition above its checkpoint was written once.
    pub(in crate::storage) fn is_written_once(&self, partition: PartitionId) -> bool {
        self.state.position(partition).is_some_and(|position| {
            self.ledger.is_written_once(position, self.state.partitions[position].checkpoint)
        })
    }

    /// Whether a slot is above its partition's checkpoint.
    #[must_use]
    pub fn needs(&self, partition: PartitionId, index: Index) -> bool {
        let state = self.state.partition(partition);
        state.is_some_and(|state| index > state.checkpoint && index <= state.last)
    }

    /// Whether a segment counts that was left for a later one.
    #[must_use]
    pub fn is_live(&self, segment: SegmentId) -> bool {
        self.state.segments.iter().any(|live| live.segment == segment)
    }

    /// All slots of a plan's partition were appended again: the old ones aren't needed.
    pub fn on_carried(&mut self, segment: SegmentId, partition: PartitionId) {
        if let Some(position) = self.state.position(partition) {
            self.ledger.carried(segment, position);
            let state = &mut self.state.partitions[position];
            state.first = state.first.max(state.checkpoint.next());
        }
    }

    /// The partition can't take a checkpoint now: while that is so, its slots are carried over,
    /// however many they are, if the log becomes half as large by that.
    pub fn carry_whole(&mut self, partition: PartitionId, carry: bool) {
        if let Some(position) = self.state.position(partition) {
            self.ledger.set_carried_whole(position, carry);
        }
    }

    /// The partition's slots can't be carried over (the segment can't be read, say): until its next
    /// checkpoint that isn't tried again.
    pub fn refuse_carry(&mut self, partition: PartitionId) {
        if let Some(position) = self.state.position(partition) {
            self.ledger.refuse_carry(position);
        }
    }

    /// What a partition has logged since its checkpoint: a little too much rather than too little.
    #[must_use]
    pub fn size_bytes_since_checkpoint(&self, partition: PartitionId) -> u64 {
        let position = self.state.position(partition);
        position.map_or(0, |position| self.ledger.size_bytes_since_checkpoint(position))
    }

    /// The next checkpoint that no durable snapshot needs any more, each once: its file may be
    /// deleted.
    pub fn superseded_checkpoint(&mut self) -> Option<(PartitionId, Index)> {
        let durable = self.durable_batch;
        self.superseded.pop_front_if(|(end, _)| *end <= durable).map(|(_, checkpoint)| checkpoint)
    }

    /// Whether a checkpoint was recorded that no snapshot names yet.
    #[must_use]
    pub fn has_unnamed_checkpoint(&self) -> bool {
        self.superseded.back().is_some_and(|(end, _)| *end == UNNAMED)
    }

    /// Whether segments were let go and wait for the snapshot that says so.
    #[must_use]
    pub fn is_releasing(&self) -> bool {
        self.supply.is_releasing()
    }

    /// A segment can't be read, or isn't what was written: it is filled anew before it is used
    /// again.
    pub fn on_damaged(&mut self, segment: SegmentId) {
        let counts = self.is_live(segment) || segment == self.filling;
        if counts && !self.damaged.contains(&segment) {
            self.damaged.push(segment);
        }
    }

    /// The checkpoint of some partition isn't what was written: the next one is to be named by a
    /// snapshot soon.
    pub const fn on_checkpoint_damaged(&mut self) {
        self.checkpoint_is_damaged = true;
    }

    /// The partitions that keep a segment or one before it: if it is damaged, a checkpoint of each
    /// lets it go. None, if it doesn't count.
    pub fn partitions_up_to(&self, segment: SegmentId) -> Vec<PartitionId> {
        if !self.is_live(segment) && segment != self.filling {
            return Vec::new();
        }
        let before = self.state.segments.iter().map(|live| live.segment);
        let kept = before.chain([self.filling]).filter(|&other| other <= segment);
        let mut partitions: Vec<PartitionId> =
            kept.flat_map(|other| self.partitions_in(other)).collect();
        partitions.sort_unstable();
        partitions.dedup();
        partitions
    }

    /// The partitions that have slots above their checkpoints in a segment: if it is damaged, a
    /// checkpoint of each makes good for it.
    pub fn partitions_in(&self, segment: SegmentId) -> impl Iterator<Item = PartitionId> {
        let pins = self.ledger.pins((segment != self.filling).then_some(segment));
        let held = pins.iter().filter(|pin| self.holds(pin));
        held.map(|pin| self.state.partitions[pin.place()].partition)
    }

    /// The segments that were written to their end and count, each with its last batch.
    #[must_use]
    pub fn live_segments(&self) -> &[LiveSegment] {
        let complete = |live: &LiveSegment| live.last_batch <= self.durable_batch;
        let count = self.state.segments.iter().take_while(|live| complete(live)).count();
        &self.state.segments[..count]
    }

    fn holds(&self, pin: &Pin) -> bool {
        pin.holds(&self.state.partitions[pin.place()])
    }

    fn is_carried(&self, position: usize) -> bool {
        let small =
            self.ledger.size_bytes_since_checkpoint(position) <= self.carry_size_bytes_max();
        let carried_whole = || self.ledger.is_carried_whole(position) && self.would_halve();
        self.is_carriable(position) && (small || carried_whole())
    }

    /// Whether the log would be no more than half as large if all that it needs were carried over.
    /// Otherwise the same slots would be written again and again.
    fn would_halve(&self) -> bool {
        let live_size_bytes = self.live_count() * u64_from(self.config.segment_size_bytes);
        2 * self.ledger.size_bytes_since_checkpoints() <= live_size_bytes
    }

    /// Segments that count, the one being filled among them.
    pub(super) const fn live_count(&self) -> u64 {
        u64_from(self.state.segments.len()) + 1
    }

    /// Whether the log is at half of what it should not exceed, or the disk is nearly full.
    fn is_pressed(&self) -> bool {
        let is_full = |count| {
            2 * count * u64_from(self.config.segment_size_bytes) >= self.target_size_bytes()
        };
        // What is kept for peers only is let go first.
        self.supply.is_short_of_disk()
            || is_full(self.live_count())
                && (self.slots.is_none() || is_full(self.live_count() - self.unneeded_count()))
    }

    /// What the log should not exceed: its bound, or the size of its state if that is less.
    pub(super) fn target_size_bytes(&self) -> u64 {
        let target = self.state_size_bytes.max(LOG_TARGET_SIZE_BYTES_MIN);
        target.min(self.config.log_size_bytes_max)
    }

    /// How much of a partition is carried over rather than written as a checkpoint: all partitions
    /// together never take more than an eighth of the log, or carrying over would fill it.
    fn carry_size_bytes_max(&self) -> u64 {
        let share = self.target_size_bytes() / 8 / u64_from(self.state.partitions.len().max(1));
        share.min(CARRY_SIZE_BYTES_MAX)
    }

    /// The oldest segments that aren't needed: the snapshot that comes next doesn't count them.
    pub(super) fn release_segments(&mut self) -> Vec<FreeSegment> {
        let count = self.ledger.releasable_count(&self.state.partitions);
        // The ledger knows no segment that the snapshot doesn't; it may know fewer.
        let count = count.min(self.state.segments.len());
        let count = count - self.retained_count(count);
        let mut released = Vec::new();
        for position in 0..count {
            let LiveSegment { segment, last_batch } = self.state.segments[position];
            let next = self.state.segments.get(position + 1).map(|live| boot_of(live.last_batch));
            // Torn blocks of a boot's end, and damaged ones, would be taken for damage later.
            let wipe = boot_of(last_batch) != next.unwrap_or(self.config.boot_epoch)
                || self.damaged.contains(&segment);
            for pin in self.ledger.release(segment) {
                let state = &mut self.state.partitions[pin.place()];
                state.first = state.first.max(pin.highest.min(state.last).next());
            }
            if let Some(slots) = &mut self.slots {
                slots.release(segment);
            }
            released.push(FreeSegment { segment, wipe });
        }
        self.state.segments.drain(..count);
        self.damaged
            .retain(|&segment| self.state.segments.iter().any(|live| live.segment == segment));
        released
    }

    /// Takes note that a checkpoint replaced another one.
    pub(super) fn supersede(&mut self, position: usize, before: Index) {
        let state = &self.state.partitions[position];
        if before > Index(0) && before < state.checkpoint {
            self.superseded.push_back((UNNAMED, (state.partition, before)));
        }
    }

    /// A segment is let go when the next begins. When clients are refused for want of room and that
    /// would give them some, the next begins early.
    pub(super) fn make_room_for_clients(&mut self) {
        if self.config.durability == Durability::None
            || self.closing
            || self.supply.is_releasing()
            // Never two segments whose snapshots are in flight.
            || self.durable_batch < self.snapshot_end
            || self.writing.is_none_or(|(segment, _)| segment != self.filling)
        {
            return;
        }
        let wanted_size_bytes = self.wanted_size_bytes.max(u64_from(COMMAND_SIZE_BYTES_MAX));
        let is_full = self.space().client_size_bytes < wanted_size_bytes;
        let is_damaged = !self.damaged.is_empty() || self.checkpoint_is_damaged;
        if !is_full && !is_damaged {
            return;
        }
        let released = self.ledger.releasable_count(&self.state.partitions);
        let helps = self.supply.would_help(self.live_count(), self.filling, u64_from(released));
        let mends =
            self.next_snapshot_mends(released) && self.supply.has_prepared(self.filling.next());
        if is_full && helps || mends {
            self.checkpoint_is_damaged = false;
            self.gives_way = is_full;
            // Who needs it still asks again.
            self.wanted_size_bytes = 0;
            self.leave_segment();
            self.gives_way = false;
        }
    }

    /// Whether a snapshot that lets `released` segments go would leave out what is damaged: until
    /// one does, the next start would need it.
    fn next_snapshot_mends(&self, released: usize) -> bool {
        let is_left_out = |segment: &SegmentId| {
            // The one being filled can be let go once it isn't.
            *segment == self.filling
                || self.state.segments.iter().take(released).any(|live| live.segment == *segment)
        };
        self.damaged.iter().any(is_left_out)
            || self.checkpoint_is_damaged && self.has_unnamed_checkpoint()
    }
}

#[cfg(test)]
mod tests;
