//! What the log of a shard says about its partitions. How it is written in bytes: `codec`; what it
//! does to where a partition stands: `state`.

use crate::base::ids::{
    BatchId, BootEpoch, Incarnation, Index, MessageId, PartitionId, SegmentId, TermId,
};
use crate::base::time::Timestamp;

/// One record. Values are the clients' bytes as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A slot holds a value.
    Entry(Entry<'a>),
    /// A slot is a no-op, whatever an earlier record said.
    NoOp {
        /// The partition.
        partition: PartitionId,
        /// The slot.
        index: Index,
        /// The term that made it.
        term: TermId,
        /// Its message id in that term.
        message_id: MessageId,
    },
    /// A view was promised: nothing of a lower one is done from here on (W1).
    View {
        /// The partition.
        partition: PartitionId,
        /// The promised view.
        term: TermId,
    },
    /// A fetched slot of a view being adopted; counts only if its `Adopt` follows (W2).
    Stage {
        /// The term being adopted.
        adopting: TermId,
        /// The slot; an empty value is a no-op.
        entry: Entry<'a>,
    },
    /// A view was adopted (W2): own slots up to `base` are kept but for staged ones; those above
    /// are dropped.
    Adopt {
        /// The partition.
        partition: PartitionId,
        /// The adopted view: from here on also `last_normal`.
        term: TermId,
        /// The last slot of the log with which the view starts.
        base: Index,
        /// Own slots above this one were replaced by staged ones.
        kept: Index,
        /// The chain digest at `base`; zeros: not kept, so not checked.
        chain: [u8; 16],
    },
    /// Slots up to here are stable.
    SyncPoint {
        /// The partition.
        partition: PartitionId,
        /// The last stable slot.
        index: Index,
    },
    /// A checkpoint is durable.
    CheckpointDone {
        /// The partition.
        partition: PartitionId,
        /// The last slot that it covers.
        index: Index,
        /// Its length in bytes.
        size_bytes: u64,
        /// Its digest.
        digest: [u8; 16],
    },
    /// A checkpoint that came from a peer is durable and takes the place of the log below it (W6).
    /// With `adopted` a view is adopted on top of it, in the same instant (W2).
    Install {
        /// The partition.
        partition: PartitionId,
        /// The last slot that the checkpoint covers.
        index: Index,
        /// Its length in bytes.
        size_bytes: u64,
        /// Its digest.
        digest: [u8; 16],
        /// Own slots above this one are dropped; not below `index`.
        kept: Index,
        /// The view that is adopted.
        adopted: Option<Adopted>,
    },
    /// Lives of members grew: from here on, what an older life of one said is void (W7).
    CrashVector {
        /// The partition.
        partition: PartitionId,
        /// The member's own incarnation.
        incarnation: Incarnation,
        /// The highest incarnation known of each member, in the order of members.
        crash_vector: Vec<Incarnation>,
        /// What the log holds isn't all that the member has promised: it recovers from the others,
        /// until a later record says that it has.
        is_recovering: bool,
    },
    /// An entry of an old segment, appended again so that the segment can be recycled.
    Carry(Entry<'a>),
    /// A process opened the log; the first record after a boot's first snapshot.
    OpenBoot {
        /// Its boot epoch.
        boot_epoch: BootEpoch,
        /// Whether the one before it was shut down cleanly.
        clean: bool,
    },
    /// A clean shutdown: nothing follows.
    CloseBoot {
        /// The boot epoch that ends.
        boot_epoch: BootEpoch,
    },
    /// The first record of a segment: where everything stands.
    Snapshot(ShardSnapshot),
}

impl Record<'_> {
    /// The partition that it is about; `None`: about all of the shard.
    #[must_use]
    pub const fn partition(&self) -> Option<PartitionId> {
        match self {
            Self::Entry(entry) | Self::Stage { entry, .. } | Self::Carry(entry) => {
                Some(entry.partition)
            }
            Self::NoOp { partition, .. }
            | Self::View { partition, .. }
            | Self::Adopt { partition, .. }
            | Self::SyncPoint { partition, .. }
            | Self::CheckpointDone { partition, .. }
            | Self::Install { partition, .. }
            | Self::CrashVector { partition, .. } => Some(*partition),
            Self::OpenBoot { .. } | Self::CloseBoot { .. } | Self::Snapshot(_) => None,
        }
    }
}

/// A view that is adopted on top of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// The view.
    pub term: TermId,
    /// The last slot of the log with which the view starts; it may be below the checkpoint.
    pub base: Index,
    /// The chain digest at `base`; zeros: not kept, so not checked.
    pub chain: [u8; 16],
}

/// A slot with its value; in [`Record::Stage`] and [`Record::Carry`] an empty value is a no-op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The partition.
    pub partition: PartitionId,
    /// The slot.
    pub index: Index,
    /// The term whose sequencer stamped it.
    pub term: TermId,
    /// Its message id in that term.
    pub message_id: MessageId,
    /// The sequencer's time.
    pub timestamp: Timestamp,
    /// The client's bytes.
    pub value: &'a [u8],
}

/// Where the partitions of a shard stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardSnapshot {
    /// The boot epoch that writes this segment.
    pub boot_epoch: BootEpoch,
    /// That boot acts on records before they are durable (`async`): unless it is closed, it has
    /// promised more than its log says.
    pub acts_early: bool,
    /// The segments whose records count, this one not among them, oldest first, each with the last
    /// batch in it that counts. Whatever else lies in the folder is void.
    pub segments: Vec<LiveSegment>,
    /// Every partition of the shard.
    pub partitions: Vec<PartitionSnapshot>,
}

/// A segment whose records count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveSegment {
    /// The segment.
    pub segment: SegmentId,
    /// The last batch in it that counts.
    pub last_batch: BatchId,
}

/// Where a partition stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionSnapshot {
    /// The partition.
    pub partition: PartitionId,
    /// The highest view promised.
    pub view: TermId,
    /// The highest view adopted.
    pub last_normal: TermId,
    /// The base of `last_normal`.
    pub base: Index,
    /// The last stable slot known.
    pub sync_point: Index,
    /// The index of the newest durable checkpoint; 0: none.
    pub checkpoint: Index,
    /// The first slot still in the log.
    pub first: Index,
    /// The last slot appended.
    pub last: Index,
    /// The chain digest at `base`, as the `Adopt` that set it said.
    pub chain: [u8; 16],
    /// The member's own incarnation.
    pub incarnation: Incarnation,
    /// The highest incarnation known of each member, in the order of members.
    pub crash_vector: Vec<Incarnation>,
    /// How many records of it were ever appended: one that is missing is missed.
    pub record_count: u64,
    /// The first segment whose records count for it: what lies in older ones is void, because some
    /// of it was damaged. 0: all count.
    pub begins: SegmentId,
    /// It has lost what it had promised, and has adopted no view since: it must not take part.
    pub is_recovering: bool,
}

/// Records for tests, about nothing but slots and terms.
#[cfg(test)]
pub(super) mod sample {
    use super::*;

    pub(in crate::storage) fn adopt(
        partition: PartitionId,
        term: u64,
        base: u64,
        kept: u64,
    ) -> Record<'static> {
        let (term, base, kept) = (TermId(term), Index(base), Index(kept));
        Record::Adopt { partition, term, base, kept, chain: [0; 16] }
    }

    /// `adopted`: a term and its base.
    pub(in crate::storage) fn install(
        partition: PartitionId,
        index: u64,
        kept: u64,
        adopted: Option<(u64, u64)>,
    ) -> Record<'static> {
        let adopted = adopted.map(|(term, base)| Adopted {
            term: TermId(term),
            base: Index(base),
            chain: [0; 16],
        });
        let (index, kept) = (Index(index), Index(kept));
        Record::Install { partition, index, size_bytes: 9, digest: [1; 16], kept, adopted }
    }
}
