//! What the log does for a partition's other members: it keeps more than the partition needs
//! itself, knows where old slots lie, and says how far it is.

use super::Wal;
use crate::base::cast::{u64_from, usize_from};
use crate::base::ids::{BootEpoch, Index, PartitionId, SegmentId, TermId};
use crate::base::limits::{RETAINED_PARTITION_SIZE_BYTES_MAX, RETAINED_SIZE_BYTES_MAX};
use crate::storage::slot_index::Run;

/// How far a member is, as its log says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The highest view promised.
    pub view: TermId,
    /// The highest view adopted.
    pub last_normal: TermId,
    /// The last slot, of the log of that view.
    pub last: Index,
}

impl Wal {
    /// This boot.
    #[must_use]
    pub const fn boot_epoch(&self) -> BootEpoch {
        self.config.boot_epoch
    }

    /// How far a partition is. At a process's start all of it is durable; later its last slots may
    /// not be yet, and who must know asks the replica.
    #[must_use]
    pub fn standing(&self, partition: PartitionId) -> Option<Standing> {
        let state = self.state.partition(partition)?;
        let (view, last_normal, last) = (state.view, state.last_normal, state.last);
        Some(Standing { view, last_normal, last })
    }

    /// The segments that count and aren't what was written to them: the partitions that need them
    /// are to take checkpoints.
    #[must_use]
    pub fn damaged_segments(&self) -> &[SegmentId] {
        &self.damaged
    }

    /// The first slot of a partition that can be read back; those below it are only in the
    /// checkpoint. `None`: the log doesn't serve peers.
    #[must_use]
    pub fn first_slot(&self, partition: PartitionId) -> Option<Index> {
        let position = self.state.position(partition)?;
        let floor = self.slots.as_ref()?.floor(position);
        Some(self.state.partitions[position].first.max(floor.next()))
    }

    /// Where a slot lies, and those that follow it there; `None`: it isn't here any more, or not
    /// yet.
    #[must_use]
    pub fn find_slot(&self, partition: PartitionId, index: Index) -> Option<Run> {
        let position = self.state.position(partition)?;
        if index < self.state.partitions[position].first {
            return None;
        }
        let run = self.slots.as_ref()?.find(position, index)?;
        self.counts(run.segment).then_some(run)
    }

    /// Whether all blocks of a run are durable, and so can be read.
    #[must_use]
    pub fn can_read(&self, run: &Run) -> bool {
        (run.segment, run.blocks().end() + 1) <= self.durable_end
    }

    /// Whether a segment's records count: its file isn't another one's by now.
    #[must_use]
    pub fn counts(&self, segment: SegmentId) -> bool {
        segment == self.filling || self.is_live(segment)
    }

    /// Segments that nobody needs, but perhaps a peer.
    pub(super) fn unneeded_count(&self) -> u64 {
        u64_from(self.ledger.releasable_count(&self.state.partitions))
    }

    /// How many of `count` segments that nobody needs stay for peers that lag behind: as long as a
    /// partition has slots in one that aren't far below its checkpoint, but never so many that the
    /// log would be pressed.
    pub(super) fn retained_count(&self, count: usize) -> usize {
        let is_damaged =
            |position: usize| self.damaged.contains(&self.state.segments[position].segment);
        if self.slots.is_none() || self.gives_way || self.supply.is_short_of_disk() {
            return 0;
        }
        let segment_size_bytes = u64_from(self.config.segment_size_bytes);
        // The log is pressed when it is at half of its target, the next segment among what it has.
        let unpressed = (self.target_size_bytes() - 1) / 2 / segment_size_bytes;
        let needed = self.live_count() - u64_from(count);
        let room = unpressed.saturating_sub(needed + 1);
        let allowed = room.min(RETAINED_SIZE_BYTES_MAX / segment_size_bytes);
        let unwanted = self.ledger.unwanted_count(RETAINED_PARTITION_SIZE_BYTES_MAX);
        // Segments go in their order: one that is damaged takes those before it with it.
        let damaged = (0..count).rev().find(|&position| is_damaged(position));
        let gone = unwanted.max(damaged.map_or(0, |position| position + 1));
        let wanted = count.saturating_sub(gone);
        wanted.min(usize_from(allowed))
    }
}
