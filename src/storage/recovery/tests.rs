mod member;
mod salvage;

use std::collections::BTreeMap;

use super::super::block::{BlockHeader, BlockState, PAYLOAD_SIZE_BYTES, SegmentWrite, seal};
use super::super::codec::encode;
use super::super::record::{Entry, sample};
use super::super::state::StateError;
use super::super::wal::{Durability, SegmentWanted, Wal, WalConfig};
use super::*;
use crate::base::cast::{u16_from, usize_from};
use crate::base::chain::Chain;
use crate::base::ids::{Incarnation, Index, MessageId, ShardId, TermId};
use crate::base::limits::{
    BLOCK_SIZE_BYTES, COMMAND_SIZE_BYTES_MAX, PARTITION_COUNT_MAX, PROOF_DELAY_NS,
    SEGMENT_SIZE_BYTES_MIN,
};
use crate::base::time::{Monotonic, Timestamp};

const P: PartitionId = PartitionId(7);
const Q: PartitionId = PartitionId(8);
const KEY: LogKey = LogKey { shard: ShardId(1), salt: 5 };

/// Segments as they lie on a disk; blocks that aren't there are zeros.
#[derive(Clone, Default)]
struct Image {
    files: Vec<SegmentId>,
    blocks: BTreeMap<(u64, usize), Block>,
    broken: Option<(u64, usize)>,
}

impl SegmentSource for &Image {
    fn read(&mut self, file: usize, first_block: usize, blocks: &mut Vec<Block>) -> io::Result<()> {
        let segment = self.files[file].0;
        for (distance, block) in blocks.iter_mut().enumerate() {
            let place = (segment, first_block + distance);
            if self.broken == Some(place) {
                return Err(io::Error::other("the medium failed"));
            }
            block.clone_from(self.blocks.get(&place).unwrap_or(&Block::ZERO));
        }
        Ok(())
    }
}

impl Image {
    fn write(&mut self, write: &SegmentWrite) {
        let first = usize_from(write.offset) / BLOCK_SIZE_BYTES;
        for (distance, block) in write.blocks.iter().enumerate() {
            self.blocks.insert((write.segment.0, first + distance), block.clone());
        }
    }

    fn prepare(&mut self, wanted: SegmentWanted) {
        let SegmentWanted { segment, from } = wanted;
        if let Some(free) = from {
            self.files.retain(|file| *file != free.segment);
            let former =
                self.blocks.extract_if((free.segment.0, 0)..(free.segment.0 + 1, 0), |_, _| true);
            let renamed = former.map(|((_, number), block)| ((segment.0, number), block));
            let renamed: Vec<_> = renamed.filter(|_| !free.wipe).collect();
            self.blocks.extend(renamed);
        }
        self.files.push(segment);
    }

    fn files(&self) -> Vec<SegmentFile> {
        let size_bytes = u64_from(SEGMENT_SIZE_BYTES_MIN);
        self.files.iter().map(|&name| SegmentFile { name, size_bytes }).collect()
    }

    fn recover(&self, boot: u64) -> Result<(Recovered, Applied), StorageError> {
        let mut applied = Applied::default();
        let recovered = recover(&folder(boot, &self.files()), &mut &*self, &mut applied)?;
        Ok((recovered, applied))
    }

    fn damage(&self, boot: u64) -> (SegmentId, usize, Damage) {
        match self.recover(boot) {
            Err(StorageError::Damaged { place, damage }) => {
                (place.segment, usize_from(place.offset) / BLOCK_SIZE_BYTES, damage)
            }
            other => panic!("{other:?}"),
        }
    }

    fn flip(&mut self, segment: u64, block: usize) {
        self.blocks.get_mut(&(segment, block)).unwrap().0[100] ^= 1;
    }
}

fn folder(boot: u64, files: &[SegmentFile]) -> LogFolder<'_> {
    LogFolder {
        key: KEY,
        boot_epoch: BootEpoch(boot),
        segment_size_bytes: SEGMENT_SIZE_BYTES_MIN,
        partitions: &[P, Q],
        files,
        serves_peers: true,
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Applied(Vec<(PartitionId, u64, Option<Vec<u8>>)>);

impl Apply for Applied {
    fn install(&mut self, partition: PartitionId, index: Index) {
        self.0.push((partition, index.0, Some(b"checkpoint".to_vec())));
    }

    fn apply(
        &mut self,
        partition: PartitionId,
        index: Index,
        _: TermId,
        _: MessageId,
        _: Timestamp,
        value: Option<&[u8]>,
    ) {
        self.0.push((partition, index.0, value.map(<[u8]>::to_vec)));
    }
}

/// A boot on an image: what is appended is written and complete unless the test holds it back.
struct Boot {
    wal: Wal,
    image: Image,
    now: Monotonic,
}

impl Boot {
    fn open(image: Image, boot: u64) -> Self {
        let (recovered, _) = image.recover(boot).unwrap();
        let wal = open_wal(boot, recovered.start);
        let mut boot = Self { wal, image, now: Monotonic(1 << 40) };
        boot.write();
        boot
    }

    fn append(&mut self, record: &Record<'_>) {
        self.wal.append(record);
        self.write();
    }

    fn prepare(&mut self) {
        while let Some(wanted) = self.wal.wants_segment(self.now) {
            self.image.prepare(wanted);
            self.wal.on_segment_prepared(wanted.segment);
        }
    }

    fn write(&mut self) {
        self.prepare();
        while let Some(write) = self.wal.poll_write(self.now) {
            self.image.write(&write);
            self.wal.on_written(write);
        }
    }

    /// A write in flight: neither on the image nor complete.
    fn hold(&mut self, record: &Record<'_>) -> SegmentWrite {
        self.wal.append(record);
        self.prepare();
        self.wal.poll_write(self.now).unwrap()
    }

    fn prove(&mut self) {
        self.now = self.now.after_ns(PROOF_DELAY_NS);
        self.write();
    }

    fn close(mut self) -> Image {
        self.wal.close();
        self.write();
        assert!(self.wal.is_closed());
        self.image
    }
}

fn open_wal(boot: u64, start: WalStart) -> Wal {
    open_wal_with(Durability::Sync, boot, start)
}

fn open_wal_with(durability: Durability, boot: u64, start: WalStart) -> Wal {
    let config = WalConfig {
        key: KEY,
        boot_epoch: BootEpoch(boot),
        segment_size_bytes: SEGMENT_SIZE_BYTES_MIN,
        log_size_bytes_max: 1 << 40,
        writes_in_flight: 4,
        durability,
    };
    Wal::open(config, start)
}

/// The first write of a boot, on the image.
fn begin_boot(mut image: Image, boot: u64, start: WalStart) -> Image {
    image.write(&open_wal(boot, start).poll_write(Monotonic(0)).unwrap());
    image
}

fn entry(index: u64, value: &[u8]) -> Record<'_> {
    Record::Entry(slot(P, index, value))
}

fn slot(partition: PartitionId, index: u64, value: &[u8]) -> Entry<'_> {
    Entry {
        partition,
        index: Index(index),
        term: TermId(1),
        message_id: MessageId(index),
        timestamp: Timestamp(index * 10),
        value,
    }
}

const fn sync_point(index: u64) -> Record<'static> {
    Record::SyncPoint { partition: P, index: Index(index) }
}

fn no_op(index: u64) -> Record<'static> {
    let message_id = MessageId(index);
    Record::NoOp { partition: P, index: Index(index), term: TermId(1), message_id }
}

fn adopt(term: u64, base: u64, kept: u64) -> Record<'static> {
    sample::adopt(P, term, base, kept)
}

fn install(index: u64, kept: u64, adopted: Option<(u64, u64)>) -> Record<'static> {
    sample::install(P, index, kept, adopted)
}

/// What the log of P holds beyond its sync point.
fn unstable(recovered: &Recovered) -> Vec<(u64, Option<Vec<u8>>)> {
    let log = &recovered.partitions[0].log;
    log.iter().map(|entry| (entry.index.0, entry.value.as_deref().map(<[u8]>::to_vec))).collect()
}

fn some(value: &[u8]) -> Option<Vec<u8>> {
    Some(value.to_vec())
}

#[test]
fn empty_folder_is_an_empty_log() {
    let (recovered, applied) = Image::default().recover(1).unwrap();
    assert_eq!(applied, Applied::default());
    assert_eq!(recovered.start.next_segment, SegmentId(1));
    assert!(recovered.start.clean && recovered.torn.is_none());
    assert_eq!(recovered.partitions[1].state, PartitionSnapshot::empty(Q));
}

#[test]
fn stable_slots_are_handed_on_in_order_and_the_others_kept() {
    let mut boot = Boot::open(Image::default(), 1);
    for (index, value) in [(1, b"a"), (2, b"b"), (3, b"c"), (4, b"d")] {
        boot.append(&entry(index, value));
    }
    boot.append(&no_op(2));
    boot.append(&sync_point(3));
    boot.append(&Record::Entry(slot(Q, 1, b"q")));
    let (recovered, applied) = boot.close().recover(2).unwrap();
    assert_eq!(applied.0, [(P, 1, some(b"a")), (P, 2, None), (P, 3, some(b"c"))]);
    assert_eq!(unstable(&recovered), [(4, some(b"d"))]);
    assert_eq!(recovered.partitions[1].log.len(), 1);
    assert!(recovered.start.clean);
    let chain = [(1, Some(&b"a"[..])), (2, None), (3, Some(b"c")), (4, Some(b"d"))]
        .into_iter()
        .fold(Chain::NONE, |chain, (index, value)| {
            chain.extended(Index(index), MessageId(index), Timestamp(index * 10), value)
        });
    assert_eq!(recovered.partitions[0].chain, Some(chain));
}

#[test]
fn restart_goes_on_in_a_segment_of_its_own_with_batches_never_used() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    let image = boot.close();
    let (recovered, _) = image.recover(2).unwrap();
    assert_eq!(recovered.start.next_segment, SegmentId(2));
    assert_eq!(recovered.start.prepared, [SegmentId(2)], "it was prepared and not used");
    let mut boot = Boot::open(image, 2);
    boot.append(&entry(2, b"b"));
    let (recovered, _) = boot.image.recover(3).unwrap();
    assert_eq!(unstable(&recovered), [(1, some(b"a")), (2, some(b"b"))]);
    assert!(!recovered.start.clean);
    let live: Vec<_> =
        recovered.start.state.segments.iter().map(|l| boot_of(l.last_batch)).collect();
    assert_eq!(live, [BootEpoch(1), BootEpoch(2)]);
}

#[test]
fn whole_batch_after_a_torn_one_is_void_for_ever() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    let torn = boot.hold(&entry(2, b"b"));
    let later = boot.hold(&entry(3, b"c"));
    let mut image = boot.image;
    image.write(&later);
    let (recovered, _) = image.recover(2).unwrap();
    assert_eq!(unstable(&recovered), [(1, some(b"a"))]);
    let tail = recovered.torn.unwrap();
    assert_eq!((tail.place.batch, tail.block_count), (torn.batch, 1));

    // The next boot says so durably; that the torn write arrives late changes nothing.
    let mut boot = Boot::open(image, 2);
    boot.append(&entry(2, b"other"));
    let mut image = boot.image;
    image.write(&torn);
    let (recovered, _) = image.recover(3).unwrap();
    assert_eq!(unstable(&recovered), [(1, some(b"a")), (2, some(b"other"))]);
}

#[test]
fn bad_block_of_a_proven_batch_is_damage() {
    let mut boot = Boot::open(Image::default(), 1);
    for index in 1..=3 {
        boot.append(&entry(index, b"v"));
    }
    let proven = boot.image.clone();
    boot.prove();
    for (image, last_detected) in [(proven, 2), (boot.image, 3)] {
        for block in 0..=3 {
            let mut flipped = image.clone();
            flipped.flip(1, block);
            if block <= last_detected {
                assert_eq!(flipped.damage(2), (SegmentId(1), block, Damage::BadBlock));
            } else {
                let (recovered, _) = flipped.recover(2).unwrap();
                assert_eq!(unstable(&recovered).len(), 2, "not proven: a torn tail");
            }
        }
    }
}

#[test]
fn lost_write_of_a_proven_batch_is_damage() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    boot.append(&entry(2, b"b"));
    boot.image.blocks.remove(&(1, 1));
    assert_eq!(boot.image.damage(2), (SegmentId(1), 1, Damage::LostWrite));
}

#[test]
fn bad_block_of_an_earlier_boot_is_damage_even_at_its_end() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    let boot = Boot::open(boot.image, 2);
    let mut image = boot.image;
    image.flip(1, 1);
    assert_eq!(image.damage(3), (SegmentId(1), 1, Damage::BadBlock));
}

#[test]
fn misdirected_write_is_damage_even_where_nothing_is_proven() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    let write = boot.hold(&entry(2, b"b"));
    for (segment, number) in [(1, 3), (1, 2_000), (2, 2)] {
        let mut image = boot.image.clone();
        image.blocks.insert((segment, number), write.blocks[0].clone());
        let (found, block, damage) = image.damage(2);
        assert_eq!((found.0, block), (segment, number));
        assert!(matches!(damage, Damage::Misdirected { number: 2, .. }), "{damage:?}");
    }
}

#[test]
fn block_of_another_shard_is_damage() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    let other = sealed(LogKey { shard: ShardId(2), ..KEY }, 1, 2, first_batch(BootEpoch(1)), b"");
    boot.image.blocks.insert((1, 2), other);
    let (_, block, damage) = boot.image.damage(2);
    assert_eq!(block, 2);
    assert!(matches!(damage, Damage::Misdirected { shard: ShardId(2), .. }));
}

#[test]
fn former_blocks_of_a_recycled_segment_are_no_more_than_zeros() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    let image = boot.close();
    let mut boot = Boot::open(image, 2);
    // Segment 2 was prepared in a file that had been segment 0.
    for number in 3..40 {
        let former = sealed(KEY, 0, number, BatchId(900), b"whatever it was");
        boot.image.blocks.insert((2, usize::from(number)), former);
    }
    boot.append(&entry(2, b"b"));
    let (recovered, _) = boot.image.recover(3).unwrap();
    assert_eq!(unstable(&recovered).len(), 2);
    assert_eq!(recovered.torn, None);

    // But a block of a segment that has its own file was misdirected.
    let live = boot.image.blocks[&(1, 1)].clone();
    boot.image.blocks.insert((2, 1), live);
    assert!(matches!(boot.image.damage(3).2, Damage::Misdirected { segment: SegmentId(1), .. }));
}

#[test]
fn recycled_file_not_yet_written_is_ready_to_be() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    let mut image = boot.close();
    assert_eq!(image.files, [SegmentId(1), SegmentId(2)]);
    // A former life as a segment that nothing lists: only its name is new.
    image.blocks.insert((2, 0), sealed(KEY, 0, 0, BatchId(900), b"former"));
    let (recovered, _) = image.recover(2).unwrap();
    assert_eq!(recovered.start.prepared, [SegmentId(2)]);
}

#[test]
fn something_beyond_the_reach_of_writes_in_flight_is_damage() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    let mut garbage = Block::ZERO;
    garbage.0[77] = 7;
    let mut near = boot.image.clone();
    near.blocks.insert((1, 2), garbage.clone());
    assert!(near.recover(2).unwrap().0.torn.is_some());
    for place in [(1, 1_000), (2, 1_000)] {
        let mut far = boot.image.clone();
        far.blocks.insert(place, garbage.clone());
        assert_eq!(far.damage(2), (SegmentId(place.0), place.1, Damage::Stray));
    }
}

#[test]
fn torn_snapshot_of_a_new_boot_leaves_the_log_as_it_was() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    let image = boot.close();
    let mut torn = Boot::open(image, 2).image;
    torn.flip(2, 0);
    let (recovered, _) = torn.recover(3).unwrap();
    assert_eq!(unstable(&recovered), [(1, some(b"a"))]);
    assert_eq!(recovered.start.next_segment, SegmentId(3), "segment 2 was written to");
    assert!(recovered.torn.is_some());

    let mut boot = Boot::open(torn, 3);
    boot.append(&entry(2, b"b"));
    let (recovered, _) = boot.image.recover(4).unwrap();
    assert_eq!(unstable(&recovered).len(), 2);
    assert_eq!(recovered.garbage, [SegmentId(2)]);
}

#[test]
fn snapshot_of_several_batches_may_be_torn_after_the_first() {
    let partitions: Vec<_> = (0..12_000).map(PartitionId).collect();
    let recover = |image: &Image, boot| {
        let files = image.files();
        let folder = LogFolder { partitions: &partitions, ..folder(boot, &files) };
        recover(&folder, &mut &*image, &mut Applied::default())
    };
    // The first boot's snapshot, and that of a segment later in a boot.
    for first in [true, false] {
        let start = recover(&Image::default(), 1).unwrap().start;
        let mut boot =
            Boot { wal: open_wal(1, start), image: Image::default(), now: Monotonic(1 << 40) };
        if !first {
            boot.write();
            let value = vec![3; COMMAND_SIZE_BYTES_MAX];
            for index in 1..=4 {
                boot.wal.append(&entry(index, &value));
            }
            boot.prepare();
            while boot.wal.durable().0 < 3 {
                let write = boot.wal.poll_write(boot.now).unwrap();
                boot.image.write(&write);
                boot.wal.on_written(write);
            }
        }
        boot.prepare();
        let begin = boot.wal.poll_write(boot.now).unwrap();
        assert_eq!(begin.offset, 0);
        assert_eq!(begin.blocks.len(), BATCH_BLOCK_COUNT_MAX);
        boot.image.write(&begin);
        boot.wal.on_written(begin);
        boot.wal.append(&entry(if first { 1 } else { 5 }, b"v"));
        let rest = boot.wal.poll_write(boot.now).unwrap();
        boot.wal.append(&entry(if first { 2 } else { 6 }, b"v"));
        let later = boot.wal.poll_write(boot.now).unwrap();

        // The rest of the snapshot is torn: the segment never began.
        boot.image.write(&later);
        let recovered = recover(&boot.image, 2).unwrap();
        assert!(recovered.torn.is_some());
        let last = if first { Index(0) } else { Index(3) };
        assert_eq!(recovered.partitions[7].state.last, last);

        // It was whole and went bad later.
        boot.image.write(&rest);
        boot.wal.on_written(rest);
        boot.wal.on_written(later);
        boot.write();
        boot.prove();
        recover(&boot.image, 2).unwrap();
        let segment = if first { 1 } else { 2 };
        boot.image.flip(segment, 70);
        let error = recover(&boot.image, 2).unwrap_err();
        let StorageError::Damaged { place, damage } = error else { panic!("{error}") };
        let block = usize_from(place.offset) / BLOCK_SIZE_BYTES;
        assert_eq!((place.segment.0, block, damage), (segment, 70, Damage::BadBlock));
    }
}

#[test]
fn bad_snapshot_of_a_boot_that_went_on_is_damage() {
    let image = Boot::open(Image::default(), 1).close();
    let mut boot = Boot::open(image, 2);
    boot.append(&entry(1, b"a"));
    boot.image.flip(2, 0);
    assert_eq!(boot.image.damage(3), (SegmentId(2), 0, Damage::BadBlock));

    // The first boot's, too: there is no older snapshot then.
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    boot.image.flip(1, 0);
    assert_eq!(boot.image.damage(2), (SegmentId(1), 0, Damage::BadBlock));
}

#[test]
fn batch_torn_at_the_end_of_a_segment_takes_the_next_segment_with_it() {
    let mut boot = Boot::open(Image::default(), 1);
    let value = vec![3; COMMAND_SIZE_BYTES_MAX];
    for index in 1..=3 {
        boot.append(&entry(index, &value));
    }
    let torn = boot.hold(&entry(4, b"last of segment 1"));
    boot.wal.append(&entry(5, &value));
    boot.prepare();
    let next = boot.wal.poll_write(boot.now).unwrap();
    assert_eq!((torn.segment, next.segment, next.offset), (SegmentId(1), SegmentId(2), 0));
    let mut image = boot.image.clone();
    image.write(&next);
    let (recovered, _) = image.recover(2).unwrap();
    assert_eq!(unstable(&recovered).len(), 3);
    let live = &recovered.start.state.segments;
    assert_eq!(live.len(), 1);
    assert_eq!(live[0].last_batch.next(), torn.batch);
    assert_eq!(recovered.start.next_segment, SegmentId(3));
    assert!(recovered.garbage.is_empty());

    // Had it been complete, the log would end in the next segment.
    image.write(&torn);
    let (recovered, _) = image.recover(2).unwrap();
    assert_eq!(unstable(&recovered).len(), 4);
    assert_eq!(recovered.start.state.segments.len(), 2);
}

#[test]
fn record_torn_between_its_batches_is_not_there_at_all() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    let value = vec![3; COMMAND_SIZE_BYTES_MAX];
    let first = boot.hold(&entry(2, &value));
    boot.image.write(&first);
    let (recovered, _) = boot.image.recover(2).unwrap();
    assert_eq!(unstable(&recovered), [(1, some(b"a"))]);
    // Its first batch counts, its rest never comes: the next boot isn't confused by it.
    let mut boot = Boot::open(boot.image, 2);
    boot.append(&entry(2, b"b"));
    let (recovered, _) = boot.image.recover(3).unwrap();
    assert_eq!(unstable(&recovered), [(1, some(b"a")), (2, some(b"b"))]);
}

#[test]
fn torn_tail_behind_a_long_snapshot_reaches_as_far_as_behind_any_other_batch() {
    let partitions: Vec<PartitionId> = (0..PARTITION_COUNT_MAX).map(PartitionId).collect();
    let states = partitions.iter().map(|&partition| PartitionSnapshot::empty(partition)).collect();
    let start = WalStart {
        state: ShardSnapshot { partitions: states, ..ShardSnapshot::default() },
        next_segment: SegmentId(1),
        ..WalStart::default()
    };
    let mut wal = open_wal(1, start);
    let mut image = Image::default();
    image.files.extend(wal.wants_segment(Monotonic(0)).map(|wanted| wanted.segment));
    wal.on_segment_prepared(SegmentId(1));
    wal.append(&Record::Entry(slot(PartitionId(0), 1, &vec![3; COMMAND_SIZE_BYTES_MAX])));

    let complete = wal.poll_write(Monotonic(0)).unwrap();
    image.write(&complete);
    wal.on_written(complete);
    let in_flight: Vec<_> = std::iter::from_fn(|| wal.poll_write(Monotonic(0))).collect();
    // The snapshot's end is lost; what was in flight with it isn't.
    in_flight[1..].iter().for_each(|write| image.write(write));
    let end = in_flight.last().map(|write| usize_from(write.offset) / BLOCK_SIZE_BYTES).unwrap();
    assert!(end >= 4 * BATCH_BLOCK_COUNT_MAX, "four writes behind a complete one");

    let files = image.files();
    let folder = LogFolder { partitions: &partitions, ..folder(2, &files) };
    let recovered = recover(&folder, &mut &image, &mut Applied::default()).unwrap();
    assert!(recovered.torn.is_some());
    assert_eq!(recovered.start.next_segment, SegmentId(2));
}

#[test]
fn boot_that_is_closed_with_the_last_block_of_a_segment_begins_no_other() {
    let mut boot = Boot::open(Image::default(), 1);
    for index in 1..u64_from(SEGMENT_SIZE_BYTES_MIN / BLOCK_SIZE_BYTES) - 1 {
        boot.append(&entry(index, b"a"));
    }
    let image = boot.close();
    assert_eq!(image.blocks.len(), SEGMENT_SIZE_BYTES_MIN / BLOCK_SIZE_BYTES);
    let (recovered, _) = image.recover(2).unwrap();
    assert!(recovered.start.clean);
    assert_eq!(recovered.start.state.segments.len(), 1);
}

#[test]
fn missing_cut_and_doubled_files_are_refused_by_name() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    let mut image = Boot::open(boot.close(), 2).close();
    assert_eq!(image.files, [1, 2, 3].map(SegmentId));
    for gone in [1, 2] {
        let mut without = image.clone();
        without.files.retain(|file| file.0 != gone);
        let error = without.recover(3).unwrap_err();
        assert!(
            matches!(error, StorageError::Missing { segment, .. } if segment.0 == gone),
            "{error}"
        );
    }
    let mut files = image.files();
    files[1].size_bytes = 4_096;
    let error = recover(&folder(3, &files), &mut &image, &mut Applied::default()).unwrap_err();
    assert!(matches!(error, StorageError::Cut { segment: SegmentId(2), .. }), "{error}");

    image.blocks.insert((3, 0), image.blocks[&(2, 0)].clone());
    let error = image.recover(3).unwrap_err();
    assert!(matches!(error, StorageError::Duplicate { segment: SegmentId(2), .. }), "{error}");
}

#[test]
fn log_written_by_a_later_boot_is_refused() {
    let image = Boot::open(Image::default(), 1).close();
    let image = Boot::open(image, 2).close();
    let error = image.recover(2).unwrap_err();
    assert!(matches!(error, StorageError::FromTheFuture { found: BootEpoch(2), .. }), "{error}");
}

#[test]
fn log_of_other_partitions_is_refused() {
    let image = Boot::open(Image::default(), 1).close();
    let files = image.files();
    let folder = LogFolder { partitions: &[P], ..folder(2, &files) };
    let error = recover(&folder, &mut &image, &mut Applied::default()).unwrap_err();
    let is_partitions = matches!(error, StorageError::Damaged { damage: Damage::Partitions, .. });
    assert!(is_partitions, "{error}");
}

#[test]
fn device_that_cannot_read_is_named_with_the_place() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    boot.image.broken = Some((1, 0));
    let error = boot.image.recover(2).unwrap_err();
    assert!(
        matches!(error, StorageError::Read { segment: SegmentId(1), offset: 0, .. }),
        "{error}"
    );
}

#[test]
fn staged_slots_count_only_with_their_adoption() {
    let mut boot = Boot::open(Image::default(), 1);
    for (index, value) in [(1, b"a"), (2, b"b"), (3, b"c")] {
        boot.append(&entry(index, value));
    }
    boot.append(&Record::Stage { adopting: TermId(4), entry: slot(P, 2, b"B") });
    boot.append(&Record::Stage { adopting: TermId(4), entry: slot(P, 3, b"") });
    let (recovered, _) = boot.image.recover(2).unwrap();
    assert_eq!(unstable(&recovered), [(1, some(b"a")), (2, some(b"b")), (3, some(b"c"))]);

    boot.append(&adopt(4, 3, 1));
    let (recovered, _) = boot.image.recover(2).unwrap();
    assert_eq!(unstable(&recovered), [(1, some(b"a")), (2, some(b"B")), (3, None)]);
    let state = &recovered.partitions[0].state;
    assert_eq!((state.view, state.last_normal, state.base), (TermId(4), TermId(4), Index(3)));
}

#[cfg(feature = "mutants")]
#[test]
#[allow(clippy::print_stdout, reason = "what finds a planted bug is the result")]
fn planted_bugs_are_found() {
    use crate::base::mutant::{Mutant, switch};
    let mutant = Mutant::StagedWithoutAdoption;
    switch(Some(mutant));
    let found = std::panic::catch_unwind(staged_slots_count_only_with_their_adoption);
    switch(None);
    assert!(found.is_err(), "{mutant} survives");
    println!("scenario {mutant} storage::recovery");
}

#[test]
fn adoption_drops_own_slots_beyond_its_base_and_replaces_single_ones() {
    let mut boot = Boot::open(Image::default(), 1);
    for index in 1..=5 {
        boot.append(&entry(index, b"own"));
    }
    boot.append(&Record::Stage { adopting: TermId(2), entry: slot(P, 2, b"") });
    boot.append(&adopt(2, 4, 4));
    let (recovered, _) = boot.image.recover(2).unwrap();
    let own = || some(b"own");
    assert_eq!(unstable(&recovered), [(1, own()), (2, None), (3, own()), (4, own())]);
}

#[test]
fn slots_staged_by_a_boot_that_is_gone_are_never_adopted() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&Record::Stage { adopting: TermId(2), entry: slot(P, 1, b"staged") });
    let mut boot = Boot::open(boot.image, 2);
    boot.append(&adopt(2, 1, 0));
    let (_, _, damage) = boot.image.damage(3);
    assert_eq!(damage, Damage::State(Some(P), StateError::Unstaged { index: Index(1) }));
}

#[test]
fn adoption_whose_digest_does_not_fit_the_log_is_damage() {
    let value = b"a";
    let chain = Chain::NONE.extended(Index(1), MessageId(1), Timestamp(10), Some(value));
    for (digest, fits) in [(chain.0, true), ([9; 16], false)] {
        let mut boot = Boot::open(Image::default(), 1);
        boot.append(&entry(1, value));
        boot.append(&Record::Adopt {
            partition: P,
            term: TermId(2),
            base: Index(1),
            kept: Index(1),
            chain: digest,
        });
        match boot.image.recover(2) {
            Ok((recovered, _)) => {
                assert!(fits);
                assert_eq!(recovered.partitions[0].state.chain, chain.0);
            }
            Err(error) => assert!(!fits && error.to_string().contains("partition 7"), "{error}"),
        }
    }
}

#[test]
fn promises_and_lives_survive() {
    let mut boot = Boot::open(Image::default(), 1);
    let crash_vector = vec![Incarnation(2), Incarnation(5), Incarnation(1)];
    boot.append(&Record::View { partition: Q, term: TermId(6) });
    boot.append(&Record::CrashVector {
        partition: Q,
        incarnation: Incarnation(5),
        crash_vector: crash_vector.clone(),
        is_recovering: false,
    });
    let image = Boot::open(boot.image, 2).image;
    let (recovered, _) = image.recover(3).unwrap();
    let state = &recovered.partitions[1].state;
    assert_eq!((state.view, state.last_normal), (TermId(6), TermId(0)));
    assert_eq!((state.incarnation, &state.crash_vector), (Incarnation(5), &crash_vector));
}

#[test]
fn slots_covered_by_a_checkpoint_are_not_handed_on_once_a_snapshot_knows_it() {
    let mut boot = Boot::open(Image::default(), 1);
    for index in 1..=4 {
        boot.append(&entry(index, b"v"));
    }
    boot.append(&sync_point(3));
    boot.append(&Record::CheckpointDone {
        partition: P,
        index: Index(2),
        size_bytes: 9,
        digest: [1; 16],
    });
    let image = Boot::open(boot.image, 2).image;
    let (recovered, applied) = image.recover(3).unwrap();
    assert_eq!(applied.0, [(P, 2, some(b"checkpoint")), (P, 3, some(b"v"))]);
    assert_eq!(unstable(&recovered), [(4, some(b"v"))]);
    assert_eq!(recovered.partitions[0].chain, None);
}

#[test]
fn received_checkpoint_replaces_a_log_that_ends_below_it() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"v"));
    boot.append(&install(9, 9, None));
    boot.append(&entry(10, b"w"));
    let (recovered, applied) = boot.image.recover(2).unwrap();
    assert_eq!(applied.0, [(P, 9, some(b"checkpoint"))]);
    assert_eq!(unstable(&recovered), [(10, some(b"w"))]);
}

#[test]
fn slots_of_a_segment_that_is_gone_come_back_as_carried() {
    let mut boot = Boot::open(Image::default(), 1);
    for (index, value) in [(1, b"a"), (2, b"b")] {
        boot.append(&entry(index, value));
    }
    boot.append(&sync_point(1));
    let mut boot = Boot::open(boot.close(), 2);
    boot.append(&Record::Carry(slot(P, 1, b"a")));
    boot.append(&Record::Carry(slot(P, 2, b"b")));
    boot.append(&entry(3, b"c"));
    let image = boot.close();
    // As recycling will leave it: the next boot's snapshot counts segment 2 only.
    let (recovered, applied) = without_first_segment(image).recover(4).unwrap();
    assert_eq!(applied.0, [(P, 1, some(b"a"))]);
    assert_eq!(unstable(&recovered), [(2, some(b"b")), (3, some(b"c"))]);
    assert_eq!(recovered.garbage, [SegmentId(1)]);

    // Had they not been carried over, they would be missing, and the partition is named.
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    let image = Boot::open(boot.close(), 2).close();
    let (_, _, damage) = without_first_segment(image).damage(4);
    let hole = StateError::Hole { last: Index(0), found: Index(1) };
    assert_eq!(damage, Damage::State(Some(P), hole));
}

/// Boot 3 begins and doesn't count the first segment any more.
fn without_first_segment(image: Image) -> Image {
    let (recovered, _) = image.recover(3).unwrap();
    let mut start = recovered.start;
    start.state.segments.remove(0);
    begin_boot(image, 3, start)
}

// ---- logs that no one of this release writes ----

/// A block that is a batch of its own.
fn sealed(key: LogKey, segment: u64, number: u16, batch: BatchId, payload: &[u8]) -> Block {
    let mut block = Block::ZERO;
    block.0[32..32 + payload.len()].copy_from_slice(payload);
    let header = BlockHeader {
        shard: key.shard,
        number,
        segment: SegmentId(segment),
        batch,
        proven: batch.previous(),
        first_record: 0,
        used: u16_from(payload.len()),
        last: true,
    };
    seal(&mut block, key.salt, &header);
    assert!(matches!(BlockState::of(&block, key.salt), BlockState::Valid(_)));
    block
}

fn forged(records: &[Record<'_>]) -> Image {
    let mut stream = Vec::new();
    for record in records {
        encode(record, &mut stream);
    }
    assert!(stream.len() <= PAYLOAD_SIZE_BYTES);
    let block = sealed(KEY, 1, 0, first_batch(BootEpoch(1)), &stream);
    Image { files: vec![SegmentId(1)], blocks: [((1, 0), block)].into(), broken: None }
}

fn snapshot() -> ShardSnapshot {
    ShardSnapshot {
        boot_epoch: BootEpoch(1),
        acts_early: false,
        segments: Vec::new(),
        partitions: vec![PartitionSnapshot::empty(P), PartitionSnapshot::empty(Q)],
    }
}

#[test]
fn whole_blocks_with_impossible_records_are_damage() {
    let head = || Record::Snapshot(snapshot());
    let other_boot = ShardSnapshot { boot_epoch: BootEpoch(9), ..snapshot() };
    let hole = StateError::Hole { last: Index(0), found: Index(2) };
    for (records, damage) in [
        (vec![entry(1, b"v")], Damage::Snapshot),
        (vec![Record::Snapshot(other_boot)], Damage::Snapshot),
        (vec![head(), head()], Damage::Snapshot),
        (vec![head(), Record::CloseBoot { boot_epoch: BootEpoch(2) }], Damage::Snapshot),
        (vec![head(), entry(2, b"v")], Damage::State(Some(P), hole)),
        (
            vec![head(), Record::View { partition: PartitionId(1), term: TermId(1) }],
            Damage::State(Some(PartitionId(1)), StateError::UnknownPartition),
        ),
    ] {
        assert_eq!(forged(&records).damage(2), (SegmentId(1), 0, damage));
    }
}

#[test]
fn snapshot_that_contradicts_the_records_before_it_is_damage() {
    let mut boot = Boot::open(Image::default(), 1);
    boot.append(&entry(1, b"a"));
    let image = boot.close();
    let (recovered, _) = image.recover(2).unwrap();
    let mut start = recovered.start;
    start.state.partitions[0].view = TermId(3);
    let image = begin_boot(image, 2, start);
    let (segment, block, damage) = image.damage(3);
    assert_eq!((segment, block), (SegmentId(2), 0));
    assert_eq!(damage, Damage::State(Some(P), StateError::Snapshot));
}
