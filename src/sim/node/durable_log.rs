//! Where the partitions of a shard stand on its disk at this moment: a reader that goes along with
//! the log's writes as they become durable. What leaves a node is held against it in every send
//! ([`Claims`](crate::sim::checker::claims::Claims)), which the real recovery would take too long
//! for; that one is asked now and then (`probe`), and at every start.
//!
//! It is made of the blocks alone, and knows neither the log that wrote them nor the code that
//! replays them; with that it shares the codec.

use std::collections::BTreeMap;

use crate::base::ids::{BatchId, Index, PartitionId};
use crate::sim::checker::claims::Standing;
use crate::storage::block::{Block, BlockState, LogKey, SegmentWrite};
use crate::storage::codec::decode;
use crate::storage::record::{PartitionSnapshot, Record};

/// What is durable of a shard's log.
#[derive(Debug)]
pub(super) struct DurableLog {
    key: LogKey,
    /// The batch that comes next; what is durable of later ones would be cut off.
    next: BatchId,
    waiting: BTreeMap<BatchId, Vec<Block>>,
    /// A record that isn't whole yet.
    stream: Vec<u8>,
    partitions: BTreeMap<PartitionId, Standing>,
}

impl DurableLog {
    /// A log in which a start has found this, and that goes on with a batch.
    pub(super) fn new<'a>(
        key: LogKey,
        next: BatchId,
        found: impl Iterator<Item = &'a PartitionSnapshot>,
    ) -> Self {
        let partitions = found.map(|state| (state.partition, Standing::of(state))).collect();
        Self { key, next, waiting: BTreeMap::new(), stream: Vec::new(), partitions }
    }

    /// Where a partition stands.
    pub(super) fn standing(&self, partition: PartitionId) -> Option<Standing> {
        self.partitions.get(&partition).copied()
    }

    /// A write is durable. It counts once all before it are.
    ///
    /// # Panics
    /// If it isn't what a log writes.
    pub(super) fn on_durable(&mut self, write: &SegmentWrite) {
        self.waiting.insert(write.batch, write.blocks.clone());
        while let Some(blocks) = self.waiting.remove(&self.next) {
            self.next = self.next.next();
            for block in &blocks {
                let BlockState::Valid(header) = BlockState::of(block, self.key.salt) else {
                    panic!("a log writes whole blocks");
                };
                self.stream.extend_from_slice(header.payload(block));
            }
        }
        let mut begin = 0;
        while let Some((record, size)) =
            decode(&self.stream[begin..]).expect("a log writes whole records")
        {
            begin += size;
            note(&mut self.partitions, &record);
        }
        self.stream.drain(..begin);
    }
}

/// Takes note of a record.
fn note(partitions: &mut BTreeMap<PartitionId, Standing>, record: &Record<'_>) {
    let Some(partition) = record.partition() else { return };
    let standing = partitions.entry(partition).or_default();
    let reached = |last: Index, index| last.max(index);
    match *record {
        Record::Entry(entry) => standing.last = reached(standing.last, entry.index),
        Record::NoOp { index, .. } => standing.last = reached(standing.last, index),
        Record::View { term, .. } => standing.view = standing.view.max(term),
        Record::Adopt { term, base, kept, .. } => {
            (standing.view, standing.last_normal) = (standing.view.max(term), term);
            standing.last = base.max(kept);
        }
        Record::Install { index, kept, adopted, .. } => {
            standing.last = adopted.map_or(kept, |adopted| adopted.base.max(index));
            if let Some(adopted) = adopted {
                standing.view = standing.view.max(adopted.term);
                standing.last_normal = adopted.term;
            }
        }
        Record::CrashVector { is_recovering, .. } => standing.is_recovering = is_recovering,
        // What is staged counts when it is adopted, and what is carried over was there before.
        Record::Stage { .. }
        | Record::Carry(_)
        | Record::SyncPoint { .. }
        | Record::CheckpointDone { .. }
        | Record::OpenBoot { .. }
        | Record::CloseBoot { .. }
        | Record::Snapshot(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{BootEpoch, MessageId, SegmentId, ShardId, TermId};
    use crate::base::limits::{WRITE_BATCH_SIZE_BYTES_MAX, WRITES_IN_FLIGHT_MAX};
    use crate::base::time::{Monotonic, Timestamp};
    use crate::storage::block::first_batch;
    use crate::storage::record::Entry;
    use crate::storage::wal::{Durability, Wal, WalConfig, WalStart};

    const PARTITION: PartitionId = PartitionId(3);
    const KEY: LogKey = LogKey { shard: ShardId(1), salt: 77 };
    const BOOT: BootEpoch = BootEpoch(1);

    fn wal() -> Wal {
        let config = WalConfig {
            key: KEY,
            boot_epoch: BOOT,
            segment_size_bytes: WRITES_IN_FLIGHT_MAX * WRITE_BATCH_SIZE_BYTES_MAX,
            log_size_bytes_max: 1 << 30,
            writes_in_flight: WRITES_IN_FLIGHT_MAX,
            durability: Durability::Sync,
        };
        let mut start = WalStart { next_segment: SegmentId(1), ..WalStart::default() };
        start.state.partitions.push(PartitionSnapshot::empty(PARTITION));
        let mut wal = Wal::open(config, start);
        let wanted = wal.wants_segment(Monotonic(0)).expect("the first segment");
        wal.on_segment_prepared(wanted.segment);
        wal
    }

    fn entry(index: u64, value: &[u8]) -> Record<'_> {
        Record::Entry(Entry {
            partition: PARTITION,
            index: Index(index),
            term: TermId(2),
            message_id: MessageId(index),
            timestamp: Timestamp(index),
            value,
        })
    }

    fn write(wal: &mut Wal) -> SegmentWrite {
        wal.poll_write(Monotonic(1)).expect("something is to be written")
    }

    #[test]
    fn what_is_durable_counts_in_the_order_in_which_it_was_written() {
        let empty = PartitionSnapshot::empty(PARTITION);
        let mut durable = DurableLog::new(KEY, first_batch(BOOT), [&empty].into_iter());
        let mut wal = wal();
        let opening = write(&mut wal);
        let (base, kept) = (Index(0), Index(0));
        let term = TermId(2);
        wal.append(&Record::View { partition: PARTITION, term });
        wal.append(&Record::Adopt { partition: PARTITION, term, base, kept, chain: [0; 16] });
        let long = vec![7; 10_000];
        wal.append(&entry(1, &long));
        let first = write(&mut wal);
        wal.append(&entry(2, b"short"));
        wal.append(&Record::View { partition: PARTITION, term: TermId(4) });
        let second = write(&mut wal);
        let standing = |durable: &DurableLog| {
            let Standing { view, last_normal, last, .. } = durable.standing(PARTITION).unwrap();
            (view.0, last_normal.0, last.0)
        };
        durable.on_durable(&opening);
        assert_eq!(standing(&durable), (0, 0, 0));
        durable.on_durable(&second);
        assert_eq!(standing(&durable), (0, 0, 0), "a crash would cut it off");
        durable.on_durable(&first);
        assert_eq!(standing(&durable), (4, 2, 2));
    }

    #[test]
    fn adopted_views_and_installed_checkpoints_say_how_far_the_log_reaches() {
        let mut partitions = BTreeMap::new();
        let (partition, term) = (PARTITION, TermId(5));
        let mut note = |record: &Record<'_>| {
            note(&mut partitions, record);
            let Standing { view, last_normal, last, .. } = partitions[&PARTITION];
            (view.0, last_normal.0, last.0)
        };
        assert_eq!(note(&entry(1, b"a")), (0, 0, 1));
        assert_eq!(note(&entry(2, b"b")), (0, 0, 2));
        let (base, kept) = (Index(1), Index(1));
        let adopt = Record::Adopt { partition, term, base, kept, chain: [0; 16] };
        assert_eq!(note(&adopt), (5, 5, 1), "a later view may be shorter");
        let (index, message_id) = (Index(2), MessageId(1));
        assert_eq!(note(&Record::NoOp { partition, index, term, message_id }), (5, 5, 2));
        let install = Record::Install {
            partition,
            index: Index(9),
            size_bytes: 1,
            digest: [0; 16],
            kept: Index(9),
            adopted: None,
        };
        assert_eq!(note(&install), (5, 5, 9));
    }
}
