mod peers;

use std::collections::BTreeMap;
use std::io;

use super::super::super::block::{Block, LogKey, SegmentWrite};
use super::super::super::carry::Carrier;
use super::super::super::record::{Entry, PartitionSnapshot, Record, ShardSnapshot};
use super::super::super::recovery::{LogFolder, Recovered, SegmentFile, SegmentSource, recover};
use super::super::super::replay::Apply;
use super::super::super::slot_index::SlotIndex;
use super::super::{SegmentWanted, WalConfig, WalStart};
use super::*;
use crate::base::cast::{usize_from, usize_from_u32};
use crate::base::ids::{BootEpoch, MessageId, ShardId, TermId};
use crate::base::limits::{BLOCK_SIZE_BYTES, SEGMENT_SIZE_BYTES_MIN};
use crate::base::time::{Monotonic, Timestamp};

const KEY: LogKey = LogKey { shard: ShardId(0), salt: 1 };
const PARTITION_COUNT: u32 = 64;
const SEGMENT_COUNT_MAX: u64 = 8;
const IDLE: PartitionId = PartitionId(17);

/// A log on files in memory. Every write is complete at once.
struct Log {
    wal: Wal,
    files: BTreeMap<SegmentId, Vec<Block>>,
    /// The last slot of each partition.
    last: Vec<u64>,
    read_count: usize,
    boot: u64,
    serves_peers: bool,
}

struct Files<'a>(Vec<&'a Vec<Block>>);

impl SegmentSource for Files<'_> {
    fn read(&mut self, file: usize, first: usize, blocks: &mut Vec<Block>) -> io::Result<()> {
        let end = first + blocks.len();
        blocks.clone_from_slice(&self.0[file][first..end]);
        Ok(())
    }
}

#[derive(Default)]
struct Applied(BTreeMap<PartitionId, Vec<u64>>);

impl Apply for Applied {
    fn install(&mut self, partition: PartitionId, index: Index) {
        self.0.insert(partition, (1..=index.0).collect());
    }

    fn apply(
        &mut self,
        partition: PartitionId,
        index: Index,
        _: TermId,
        _: MessageId,
        _: Timestamp,
        _: Option<&[u8]>,
    ) {
        self.0.entry(partition).or_default().push(index.0);
    }
}

fn partitions() -> Vec<PartitionId> {
    (0..PARTITION_COUNT).map(PartitionId).collect()
}

fn config(boot: u64, segment_count_max: u64) -> WalConfig {
    WalConfig {
        key: KEY,
        boot_epoch: BootEpoch(boot),
        segment_size_bytes: SEGMENT_SIZE_BYTES_MIN,
        log_size_bytes_max: segment_count_max * u64_from(SEGMENT_SIZE_BYTES_MIN),
        writes_in_flight: 2,
        durability: Durability::Sync,
    }
}

impl Log {
    fn new(segment_count_max: u64) -> Self {
        Self::open(segment_count_max, false)
    }

    fn open(segment_count_max: u64, serves_peers: bool) -> Self {
        let empty = partitions().into_iter().map(PartitionSnapshot::empty).collect();
        let start = WalStart {
            state: ShardSnapshot { partitions: empty, ..ShardSnapshot::default() },
            next_segment: SegmentId(1),
            slots: serves_peers.then(|| SlotIndex::new(usize_from_u32(PARTITION_COUNT))),
            ..WalStart::default()
        };
        let wal = Wal::open(config(1, segment_count_max), start);
        let last = vec![0; usize_from_u32(PARTITION_COUNT)];
        let mut log =
            Self { wal, files: BTreeMap::new(), last, read_count: 0, boot: 1, serves_peers };
        log.serve();
        log
    }

    fn recover(&self) -> (Recovered, Applied) {
        let size_bytes = u64_from(SEGMENT_SIZE_BYTES_MIN);
        let files: Vec<_> =
            self.files.keys().map(|&name| SegmentFile { name, size_bytes }).collect();
        let folder = LogFolder {
            key: KEY,
            boot_epoch: BootEpoch(self.boot + 1),
            segment_size_bytes: SEGMENT_SIZE_BYTES_MIN,
            partitions: &partitions(),
            files: &files,
            serves_peers: self.serves_peers,
        };
        let mut applied = Applied::default();
        let mut source = Files(self.files.values().collect());
        let recovered = recover(&folder, &mut source, &mut applied).expect("nothing is damaged");
        (recovered, applied)
    }

    /// The process is killed and starts again.
    fn restart(&mut self) {
        let (recovered, _) = self.recover();
        for segment in &recovered.garbage {
            self.files.remove(segment);
        }
        self.boot += 1;
        let segment_count_max = self.wal.config.log_size_bytes_max / segment_size();
        let start = WalStart { prepared: Vec::new(), ..recovered.start };
        self.wal = Wal::open(config(self.boot, segment_count_max), start);
        self.serve();
    }

    fn serve(&mut self) {
        loop {
            while let Some(SegmentWanted { segment, from }) = self.wal.wants_segment(Monotonic(0)) {
                let former = from.and_then(|free| self.files.remove(&free.segment));
                let block_count = SEGMENT_SIZE_BYTES_MIN / BLOCK_SIZE_BYTES;
                let blocks = former.filter(|_| from.is_some_and(|free| !free.wipe));
                let blocks = blocks.unwrap_or_else(|| vec![Block::ZERO; block_count]);
                self.files.insert(segment, blocks);
                self.wal.on_segment_prepared(segment);
            }
            let Some(write) = self.wal.poll_write(Monotonic(0)) else { return };
            self.write(&write);
            self.wal.on_written(write);
        }
    }

    fn write(&mut self, write: &SegmentWrite) {
        let first = usize_from(write.offset) / BLOCK_SIZE_BYTES;
        let file = self.files.get_mut(&write.segment).expect("it was prepared");
        file[first..first + write.blocks.len()].clone_from_slice(&write.blocks);
    }

    fn entry(&mut self, partition: PartitionId, size: usize) {
        let last = &mut self.last[usize_from_u32(partition.0)];
        *last += 1;
        self.wal.append(&Record::Entry(Entry {
            partition,
            index: Index(*last),
            term: TermId(1),
            message_id: MessageId(*last),
            timestamp: Timestamp(*last),
            value: &vec![7; size],
        }));
        self.wal.append(&Record::SyncPoint { partition, index: Index(*last) });
        self.serve();
    }

    fn checkpoint(&mut self, partition: PartitionId) {
        let index = Index(self.last[usize_from_u32(partition.0)]);
        let record = Record::CheckpointDone { partition, index, size_bytes: 100, digest: [0; 16] };
        self.wal.append(&record);
        self.serve();
    }

    /// Carries over what is to be carried over; how many slots that were.
    fn carry(&mut self) -> usize {
        let mut count = 0;
        while let Some(plan) = self.wal.carry_plan() {
            let mut carrier = Carrier::new(KEY, plan);
            while let Some(read) = carrier.wants() {
                self.read_count += read.block_count;
                let file = &self.files[&read.segment];
                let blocks = file[read.first_block..read.first_block + read.block_count].to_vec();
                let carried = carrier.on_read(&mut self.wal, &blocks).expect("it is whole");
                count += usize_from(carried.count);
                self.serve();
            }
            let plan = carrier.plan().clone();
            for carried in plan.partitions {
                self.wal.on_carried(plan.segment, carried.partition);
            }
        }
        count
    }

    /// Fills so many segments; who must take a checkpoint does.
    fn go_round(&mut self, segment_count: u64) {
        let begin = self.wal.filling;
        let mut number = 0;
        while self.wal.filling < begin.plus(segment_count) {
            number = (number + 1) % PARTITION_COUNT;
            if PartitionId(number) != IDLE {
                self.entry(PartitionId(number), 100_000);
            }
            while let Some(pinned) = self.wal.pinned() {
                assert_ne!(pinned.partition, IDLE, "it has little and is carried over");
                self.checkpoint(pinned.partition);
            }
            self.carry();
            let space = self.wal.space();
            assert!(space.client_size_bytes > 0, "nobody is refused");
            assert!(space.used_size_bytes <= space.size_bytes_max);
            assert_eq!(u64_from(self.files.len()) * segment_size(), space.used_size_bytes);
        }
    }
}

fn segment_size() -> u64 {
    u64_from(SEGMENT_SIZE_BYTES_MIN)
}

#[test]
fn partition_that_was_written_once_does_not_pin_the_log_and_survives_it() {
    let mut log = Log::new(SEGMENT_COUNT_MAX);
    log.entry(IDLE, 100);
    for _ in 0..3 {
        log.go_round(4 * SEGMENT_COUNT_MAX);
        let (recovered, applied) = log.recover();
        assert_eq!(applied.0[&IDLE], [1]);
        for (partition, last) in (0..).map(PartitionId).zip(&log.last) {
            assert_eq!(applied.0[&partition], (1..=*last).collect::<Vec<_>>());
        }
        let live = recovered.start.state.segments.len();
        assert!(u64_from(live) <= SEGMENT_COUNT_MAX / 2 + 1, "{live} segments count");
        log.restart();
    }
    // A segment's worth was read for each time round, not the whole log.
    let block_count = SEGMENT_SIZE_BYTES_MIN / BLOCK_SIZE_BYTES;
    assert!(log.read_count < 12 * block_count, "{} blocks were read", log.read_count);
}

#[test]
fn slots_are_carried_over_only_once_all_of_their_segment_is_written() {
    let mut log = Log::new(SEGMENT_COUNT_MAX);
    // A disk that is nearly full makes even a short log move.
    log.wal.on_disk_space(0);
    let (first, value) = (log.wal.filling, vec![7; 1 << 20]);
    let entry = |partition, index, value| {
        let (term, message_id) = (TermId(1), MessageId(index));
        let timestamp = Timestamp(index);
        Record::Entry(Entry { partition, index: Index(index), term, message_id, timestamp, value })
    };
    log.wal.append(&entry(IDLE, 1, &value[..100]));
    let mut index = 0;
    while log.wal.filling == first {
        index += 1;
        log.wal.append(&entry(PartitionId(1), index, &value));
    }
    assert_eq!(log.wal.carry_plan(), None, "its last writes aren't complete");
    let changes = log.wal.changes_count();
    log.serve();
    assert_ne!(log.wal.changes_count(), changes, "who had nothing to carry over asks again");
    assert_eq!(log.wal.carry_plan().map(|plan| plan.segment), Some(first));
}

#[test]
fn books_are_the_same_after_recovery_as_before() {
    let mut log = Log::new(SEGMENT_COUNT_MAX);
    log.entry(IDLE, 100);
    log.go_round(20);
    let before = &log.wal;
    let (recovered, _) = log.recover();
    let after = Wal::open(config(9, SEGMENT_COUNT_MAX), recovered.start.clone());
    for live in before.live_segments() {
        let before: Vec<_> = before.partitions_in(live.segment).collect();
        let after: Vec<_> = after.partitions_in(live.segment).collect();
        assert_eq!(before, after, "segment {}", live.segment);
    }
    for partition in partitions() {
        let (before, after) = (
            before.size_bytes_since_checkpoint(partition),
            after.size_bytes_since_checkpoint(partition),
        );
        // What was let go is forgotten: never more is known than before.
        assert!(after <= before, "{after} of {before} bytes of partition {partition}");
        assert!(after + 100_100 >= before.min(CARRY_SIZE_BYTES_MAX));
    }
}

#[test]
fn partition_that_cannot_take_a_checkpoint_is_carried_over_whole() {
    let mut log = Log::new(SEGMENT_COUNT_MAX);
    for _ in 0..12 {
        log.entry(IDLE, 500_000);
    }
    let fill = |log: &mut Log| {
        while log.wal.pinned().is_none() {
            log.entry(PartitionId(1), 1 << 20);
        }
    };
    fill(&mut log);
    while let Some(pinned) = log.wal.pinned().filter(|pinned| pinned.partition != IDLE) {
        log.checkpoint(pinned.partition);
    }
    assert_eq!(log.wal.pinned().map(|pinned| pinned.partition), Some(IDLE));
    log.wal.carry_whole(IDLE, true);
    assert_eq!(log.wal.pinned(), None);
    assert_eq!(log.carry(), 12);
    let (_, applied) = log.recover();
    assert_eq!(applied.0[&IDLE].len(), 12);
}

/// Otherwise it would be written again and again, and nothing be gained.
#[test]
fn partition_that_fills_the_log_is_not_carried_over_whole() {
    let mut log = Log::new(SEGMENT_COUNT_MAX);
    log.wal.carry_whole(IDLE, true);
    while log.wal.pinned().is_none() {
        log.entry(IDLE, 1 << 20);
    }
    assert_eq!(log.wal.carry_plan(), None);
    let size_bytes = log.wal.size_bytes_since_checkpoint(IDLE);
    while 2 * size_bytes > log.wal.live_count() * segment_size() {
        assert_eq!(log.wal.pinned().map(|pinned| pinned.partition), Some(IDLE));
        log.entry(PartitionId(1), 1 << 20);
        log.checkpoint(PartitionId(1));
    }
    assert_eq!(log.wal.pinned(), None);
    assert!(log.carry() > 0);
}

#[test]
fn partition_with_a_slot_written_twice_is_not_carried_over() {
    let mut log = Log::new(SEGMENT_COUNT_MAX);
    log.entry(PartitionId(1), 10);
    let no_op = |index| Record::NoOp {
        partition: IDLE,
        index: Index(index),
        term: TermId(1),
        message_id: MessageId(1),
    };
    for index in [1, 2, 2] {
        log.wal.append(&no_op(index));
    }
    log.last[usize_from_u32(IDLE.0)] = 2;
    while log.wal.pinned().is_none() {
        log.entry(PartitionId(2), 1 << 20);
    }
    while let Some(pinned) = log.wal.pinned().filter(|pinned| pinned.partition != IDLE) {
        log.checkpoint(pinned.partition);
    }
    assert_eq!(log.wal.pinned().map(|pinned| pinned.partition), Some(IDLE), "not carried over");
    assert_eq!(log.carry(), 1, "partition 1 is");
    log.checkpoint(IDLE);
    assert_eq!(log.wal.pinned(), None);
}

#[test]
fn full_log_begins_a_segment_early_once_that_gives_clients_room() {
    let mut log = Log::new(SEGMENT_COUNT_MAX);
    let mut number = 0;
    while log.wal.space().client_size_bytes > 1 << 20 {
        number = (number + 1) % PARTITION_COUNT;
        log.entry(PartitionId(number), 1 << 20);
    }
    let full = log.wal.filling;
    log.serve();
    assert_eq!(log.wal.filling, full, "nothing can be let go");
    for partition in partitions() {
        log.checkpoint(partition);
    }
    assert!(log.wal.filling > full, "a segment was begun though the last isn't full");
    assert!(log.wal.filling.since(full) <= 2, "and not one after the other");
    assert!(log.wal.space().client_size_bytes >= u64_from(COMMAND_SIZE_BYTES_MAX));
    let filling = log.wal.filling;
    for _ in 0..10 {
        log.serve();
    }
    assert_eq!(log.wal.filling, filling);
}

impl Log {
    /// Writes until clients are refused.
    fn fill(&mut self, partition: PartitionId) {
        while self.wal.space().client_size_bytes > 1 << 20 {
            self.entry(partition, 1 << 20);
        }
    }

    /// Crashes, before anything was let go, until each segment that there may be counts.
    fn crash_until_full(&mut self) {
        while self.wal.live_count() < SEGMENT_COUNT_MAX {
            self.restart();
        }
        let space = self.wal.space();
        assert_eq!((space.used_size_bytes, space.client_size_bytes), (space.size_bytes_max, 0));
    }
}

#[test]
fn log_that_crashes_have_filled_makes_way_with_one_segment_more() {
    let mut log = Log::new(SEGMENT_COUNT_MAX);
    log.entry(PartitionId(1), 10);
    log.fill(PartitionId(2));
    log.crash_until_full();
    let full = log.wal.space().size_bytes_max;
    assert_eq!(log.wal.wants_segment(Monotonic(0)), None, "nothing could be let go");
    log.checkpoint(PartitionId(1));
    assert_eq!(log.wal.space().used_size_bytes, full);
    log.checkpoint(PartitionId(2));
    assert!(log.wal.space().client_size_bytes > 0);
    assert_eq!(log.wal.space().used_size_bytes, full + segment_size());
    // That is all that it ever gets.
    for _ in 0..3 {
        log.fill(PartitionId(2));
        log.checkpoint(PartitionId(2));
        assert!(log.wal.space().used_size_bytes <= full + segment_size());
    }
    let (_, applied) = log.recover();
    assert_eq!(applied.0[&PartitionId(1)], [1]);
}

#[test]
fn who_would_be_carried_over_takes_a_checkpoint_where_there_is_no_room_to_carry() {
    let mut log = Log::new(SEGMENT_COUNT_MAX);
    for partition in partitions() {
        log.entry(partition, 100_000);
    }
    log.fill(PartitionId(2));
    log.crash_until_full();
    assert_eq!(log.wal.carry_plan(), None, "all together are too many for what is left");
    for _ in 0..PARTITION_COUNT {
        let Some(pinned) = log.wal.pinned() else { break };
        log.checkpoint(pinned.partition);
        log.carry();
        log.serve();
    }
    assert!(log.wal.space().client_size_bytes > 0);
    let (_, applied) = log.recover();
    for (partition, last) in (0..).map(PartitionId).zip(&log.last) {
        assert_eq!(applied.0[&partition], (1..=*last).collect::<Vec<_>>());
    }
}

#[test]
fn checkpoint_is_superseded_only_when_a_durable_snapshot_names_a_later_one() {
    let mut log = Log::new(SEGMENT_COUNT_MAX);
    log.entry(IDLE, 10);
    log.checkpoint(IDLE);
    log.entry(IDLE, 10);
    log.checkpoint(IDLE);
    assert_eq!(log.wal.superseded_checkpoint(), None, "no snapshot names the second");
    // Nor does the first snapshot of the next boot, before it is durable.
    let (recovered, _) = log.recover();
    assert_eq!(recovered.checkpoints, [], "the only snapshot is older than both");
    while log.wal.filling == SegmentId(1) {
        log.entry(PartitionId(1), 1 << 20);
    }
    assert_eq!(log.wal.superseded_checkpoint(), Some((IDLE, Index(1))));
    assert_eq!(log.wal.superseded_checkpoint(), None);
    log.entry(IDLE, 10);
    log.checkpoint(IDLE);
    let (recovered, _) = log.recover();
    assert_eq!(recovered.checkpoints, [(IDLE, Index(2))]);
    assert_eq!(recovered.start.superseded, [(IDLE, Index(2))]);
    log.restart();
    assert_eq!(log.wal.superseded_checkpoint(), Some((IDLE, Index(2))));
}

#[test]
fn room_for_segments_and_a_checkpoint_is_kept_on_the_filesystem() {
    let mut log = Log::new(64);
    assert!(log.wal.space().client_size_bytes > 0, "nobody has looked yet");
    log.wal.on_disk_space(2 * segment_size());
    // One more is prepared.
    assert!(log.wal.space().client_size_bytes > 0);
    log.wal.on_disk_space(2 * segment_size() - 1);
    assert_eq!(log.wal.space().client_size_bytes, 0);
    let (partition, index) = (PartitionId(3), Index(1));
    log.entry(partition, 10);
    let size_bytes = 5 * segment_size();
    log.wal.append(&Record::CheckpointDone { partition, index, size_bytes, digest: [0; 16] });
    log.wal.on_disk_space(6 * segment_size());
    assert_eq!(log.wal.space().client_size_bytes, 0, "the next checkpoint may be as large");
    log.wal.on_disk_space(7 * segment_size());
    assert!(log.wal.space().client_size_bytes > 0);
    // Who loads it says how large it is, once its record is gone; which counts more where it isn't.
    let mut log = Log::new(64);
    log.wal.know_checkpoint_size(partition, size_bytes);
    log.wal.on_disk_space(6 * segment_size());
    assert_eq!(log.wal.space().client_size_bytes, 0);
    log.entry(partition, 10);
    log.wal.append(&Record::CheckpointDone { partition, index, size_bytes: 1, digest: [0; 16] });
    log.wal.know_checkpoint_size(partition, size_bytes);
    log.wal.on_disk_space(6 * segment_size());
    assert!(log.wal.space().client_size_bytes > 0);
}
