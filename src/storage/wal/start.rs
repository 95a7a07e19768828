//! What a log is opened with, and where it goes on.

use crate::base::ids::{BootEpoch, Index, PartitionId, SegmentId};
use crate::storage::block::LogKey;
use crate::storage::ledger::Ledger;
use crate::storage::record::ShardSnapshot;
use crate::storage::slot_index::SlotIndex;

/// When a replica may act on a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When its write is durable.
    #[default]
    Sync,
    /// At once; it is written within [`ASYNC_INTERVAL_NS`](crate::base::limits::ASYNC_INTERVAL_NS).
    Async,
    /// At once; it is never written.
    None,
}

/// What a log is opened with.
#[derive(Clone, Debug)]
pub struct WalConfig {
    /// Whose log it is.
    pub key: LogKey,
    /// This boot: higher than any that wrote to this log before.
    pub boot_epoch: BootEpoch,
    /// The size of every segment; a multiple of the block size.
    pub segment_size_bytes: usize,
    /// How large the log may become, all segments together. It gets a segment beyond that where it
    /// couldn't let any go otherwise.
    pub log_size_bytes_max: u64,
    /// How many writes may be in flight.
    pub writes_in_flight: usize,
    /// When writes are issued.
    pub durability: Durability,
}

/// Where a log goes on, as recovery found it; the default is that of an empty data directory but
/// for its partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalStart {
    /// Where the shard stands; its segments are those whose records count.
    pub state: ShardSnapshot,
    /// Segments that are prepared already: the next one and those that follow it.
    pub prepared: Vec<SegmentId>,
    /// The next segment to be written. Never one that was written before.
    pub next_segment: SegmentId,
    /// Whether the boot before was closed.
    pub clean: bool,
    /// Which partition needs which segment.
    pub ledger: Ledger,
    /// Checkpoints that only snapshots before the next one name.
    pub superseded: Vec<(PartitionId, Index)>,
    /// Where the slots lie, if they are kept for peers: in a group of one that would be of no use.
    pub slots: Option<SlotIndex>,
    /// Partitions that have lost something of which the log doesn't say so yet: it will, before it
    /// says anything else of this boot.
    pub lost: Vec<PartitionId>,
    /// Of the segments that count, those that aren't what was written to them.
    pub damaged: Vec<SegmentId>,
    /// Files whose segments don't count, as damage has made them void: they can be used again when
    /// this boot's first snapshot is durable, and not before.
    pub void: Vec<SegmentId>,
}
