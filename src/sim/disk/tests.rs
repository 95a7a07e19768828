use super::*;
use crate::base::cluster::Cluster;
use crate::base::ids::{BatchId, Index, PartitionId, SegmentId};
use crate::sim::fault::Fault;
use crate::storage::block::{Block, SegmentWrite};
use crate::storage::checkpoint::{CheckpointChunk, CheckpointId};
use crate::storage::identity::Members;
use crate::storage::wal::{FreeSegment, SegmentWanted};

const SEGMENT: SegmentId = SegmentId(1);
const BLOCK_COUNT: usize = 16;

fn disk(seed: u64) -> Disk {
    let weather = DiskWeather { latency_ns: 100, jitter_ns: 50, hiccup_one_in: 1_000 };
    let mut disk = Disk::new(seed, "disk", weather, None);
    let identity = Identity {
        cluster: "c".into(),
        member: "m".into(),
        members: Members::of(&Cluster::alone("m")),
        uuid: [7; 16],
        partition_count: 4,
        hash_key: [1; 16],
    };
    let current = Current { generation: 1, shard_count: 1, segment_size_bytes: 1 << 20 };
    disk.initialise(&identity, current);
    disk.folder(1, ShardId(0)).prepare(wanted(1, None), BLOCK_COUNT);
    disk
}

fn wanted(segment: u64, from: Option<FreeSegment>) -> SegmentWanted {
    SegmentWanted { segment: SegmentId(segment), from }
}

fn write(batch: u64, first: u64, fill: &[u8]) -> SegmentWrite {
    let blocks = fill.iter().map(|fill| Block([*fill; BLOCK_SIZE_BYTES])).collect();
    let offset = first * u64_from(BLOCK_SIZE_BYTES);
    SegmentWrite { batch: BatchId(batch), segment: SEGMENT, offset, blocks }
}

/// The first byte of each block.
fn fills(disk: &mut Disk, segment: SegmentId) -> Vec<u8> {
    let blocks = disk.folder(1, ShardId(0)).blocks(segment, 0, BLOCK_COUNT).unwrap();
    blocks.iter().map(|block| block.0[0]).collect()
}

#[test]
fn completed_write_survives_everything_and_one_under_way_any_part_of_it() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        for crash in [Crash::Process, Crash::Power] {
            let mut disk = disk(seed);
            let Disk { directory, prng, .. } = &mut disk;
            let folder = directory.folders.get_mut(&(1, ShardId(0))).unwrap();
            folder.write(&write(1, 0, &[1, 2]), false);
            folder.tear(&write(2, 2, &[3, 4]), crash, prng);
            disk.on_crash(crash);
            let fills = fills(&mut disk, SEGMENT);
            assert_eq!(fills[..2], [1, 2], "it was complete");
            seen.insert((fills[2] == 3, fills[3] == 4));
        }
    }
    assert_eq!(seen.len(), 4, "every part of it: {seen:?}");
}

#[test]
fn what_a_killed_process_left_in_the_cache_goes_with_the_power_unless_it_was_synced() {
    let survives = |synced: bool| {
        (0..100).filter(move |seed| {
            let mut disk = disk(*seed);
            let Disk { directory, prng, .. } = &mut disk;
            let folder = directory.folders.get_mut(&(1, ShardId(0))).unwrap();
            folder.tear(&write(2, 2, &[3]), Crash::Process, prng);
            disk.on_crash(Crash::Process);
            let there = fills(&mut disk, SEGMENT)[2] == 3;
            if synced {
                disk.folder(1, ShardId(0)).sync();
            }
            disk.on_crash(Crash::Power);
            there && fills(&mut disk, SEGMENT)[2] == 0
        })
    };
    assert!(survives(false).count() > 10, "it is lost at times");
    assert_eq!(survives(true).count(), 0);
}

#[test]
fn segment_is_made_of_a_free_one_with_what_is_in_it_unless_it_is_wiped() {
    for wipe in [false, true] {
        let mut disk = disk(1);
        let folder = disk.folder(1, ShardId(0));
        folder.write(&write(1, 0, &[9]), false);
        folder.prepare(wanted(4, Some(FreeSegment { segment: SEGMENT, wipe })), BLOCK_COUNT);
        assert_eq!(folder.segment_names().collect::<Vec<_>>(), [SegmentId(4)]);
        assert_eq!(fills(&mut disk, SegmentId(4))[0], if wipe { 0 } else { 9 });
    }
}

#[test]
fn checkpoint_counts_when_it_is_finished_and_its_removal_when_that_is_durable() {
    let id = CheckpointId { partition: PartitionId(1), index: Index(8) };
    let chunk = || CheckpointChunk { offset: 0, blocks: vec![Block([5; BLOCK_SIZE_BYTES])] };
    let mut came_back = 0;
    for seed in 0..50 {
        let mut disk = disk(seed);
        let folder = disk.folder(1, ShardId(0));
        folder.begin_checkpoint(id);
        folder.write_checkpoint(&chunk()).unwrap();
        assert_eq!(folder.checkpoint_ids().count(), 0);
        folder.finish_checkpoint().unwrap();
        assert!(folder.write_checkpoint(&chunk()).is_none(), "none is begun");
        disk.on_crash(Crash::Power);
        let folder = disk.folder(1, ShardId(0));
        assert_eq!(folder.checkpoint_ids().collect::<Vec<_>>(), [id]);
        folder.remove_checkpoint(id);
        disk.on_crash(Crash::Power);
        let folder = disk.folder(1, ShardId(0));
        came_back += folder.checkpoint_ids().count();
        assert!(folder.checkpoint_ids().all(|id| folder.is_remains(id)));
    }
    assert!((1..50).contains(&came_back), "{came_back} of 50");
}

#[test]
fn only_what_something_later_vouches_for_is_damaged() {
    for fault in [Fault::BitFlip, Fault::LostWrite, Fault::Misdirected] {
        let mut disk = disk(3);
        let folder = disk.folder(1, ShardId(0));
        folder.write(&write(1, 0, &[1]), false);
        folder.write(&write(2, 1, &[2]), false);
        assert_eq!(disk.damage(fault), None, "nothing vouches for it");
        disk.folder(1, ShardId(0)).prove(BatchId(1));
        let damaged = (0..100).find_map(|_| disk.damage(fault));
        assert!(damaged.is_some() && disk.is_damaged(), "{fault}");
        assert_eq!(fills(&mut disk, SEGMENT)[1], 2, "nothing vouches for that one");
        let first = &disk.folder(1, ShardId(0)).blocks(SEGMENT, 0, 1).unwrap()[0];
        assert!(first.0.iter().any(|byte| *byte != 1), "{fault}");
    }
}

#[test]
fn boot_epoch_is_raised_once_for_each_start_whenever_the_power_goes() {
    for seed in 0..50 {
        let mut disk = disk(seed);
        for boot in 1..6 {
            let opened = disk.open().expect("its files are whole");
            assert!(opened.boot_epoch >= BootEpoch(boot));
            disk.tear_boot();
            let again = disk.open().expect("one copy is whole");
            assert!(again.boot_epoch > opened.boot_epoch);
        }
    }
}

#[test]
fn rolled_back_disk_is_what_it_was() {
    let mut disk = disk(1);
    disk.folder(1, ShardId(0)).write(&write(1, 0, &[1]), false);
    let image = disk.image();
    disk.folder(1, ShardId(0)).write(&write(2, 1, &[2]), false);
    disk.roll_back(image);
    assert_eq!(fills(&mut disk, SEGMENT)[..2], [1, 0]);
    disk.lose();
    assert!(disk.directory.folders.is_empty());
}

#[test]
fn planted_disk_acknowledges_what_the_loss_of_power_takes_away() {
    let weather = DiskWeather { latency_ns: 1, jitter_ns: 0, hiccup_one_in: 1_000 };
    let disk = Disk::new(1, "disk", weather, Some(Plant::AcknowledgesBeforeDurable));
    assert!(disk.lies());
    let mut disk = Disk::new(1, "disk", weather, Some(Plant::IgnoresWriteErrors));
    disk.fail_write();
    assert_eq!(disk.write_fate(), WriteFate::FailsSilently);
    assert_eq!(disk.write_fate(), WriteFate::Done);
}
