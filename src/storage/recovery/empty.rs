//! A log in which nothing was ever completed.

use super::{
    LogFolder, PartitionSnapshot, READ_BLOCK_COUNT, Reader, Recovered, RecoveredPartition, Segment,
    SegmentSource, ShardSnapshot, StorageError, Tail, WalStart, check_names, next_segments,
};
use crate::base::chain::Chain;
use crate::base::ids::SegmentId;
use crate::storage::slot_index::SlotIndex;

/// No boot ever got as far as to complete its first batch.
pub(super) fn begin_empty(
    folder: &LogFolder<'_>,
    reader: &mut Reader<'_, impl SegmentSource>,
    newer: &[Segment],
) -> Result<Recovered, StorageError> {
    check_names(folder, SegmentId(0), newer)?;
    let mut tail = Tail::new(folder.boot_epoch, None, &[]);
    reader.set_chunk(READ_BLOCK_COUNT);
    for segment in newer {
        tail.scan_begun(reader, segment)?;
    }
    let (next_segment, prepared) =
        next_segments(SegmentId(0), newer, |segment| !tail.is_used(segment));
    let partitions: Vec<_> =
        folder.partitions.iter().map(|&p| PartitionSnapshot::empty(p)).collect();
    let recovered = partitions.iter().map(|state| RecoveredPartition {
        state: state.clone(),
        chain: Some(Chain::NONE),
        log: Vec::new(),
    });
    Ok(Recovered {
        partitions: recovered.collect(),
        start: WalStart {
            state: ShardSnapshot { partitions, ..ShardSnapshot::default() },
            prepared,
            next_segment,
            clean: !tail.is_torn(),
            slots: folder.slot_index(),
            ..WalStart::default()
        },
        record_count: 0,
        torn: tail.torn(),
        suspects: Vec::new(),
        garbage: Vec::new(),
        checkpoints: Vec::new(),
    })
}

impl LogFolder<'_> {
    /// Where slots lie in a log without records, if that is to be known.
    pub(super) fn slot_index(&self) -> Option<SlotIndex> {
        self.serves_peers.then(|| SlotIndex::new(self.partitions.len()))
    }
}
