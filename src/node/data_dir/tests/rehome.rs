//! Partitions move to another number of shards, and a crash at any step loses nothing.

use std::collections::BTreeMap;

use prost::Message as _;

use super::super::rehome::LogWriter;
use super::*;
use crate::base::ids::Incarnation;
use crate::map::arena::PAGE_SIZE_BYTES;
use crate::map::digest::StateDigest;
use crate::proto::p2pmap::v1::{Command, Put, command};
use crate::shard::{Config, Installing, Loading};
use crate::storage::record::PartitionSnapshot;
use crate::storage::recovery::{Recovered, Suspicion};
use crate::storage::replay::LoggedEntry;

/// What a partition is, wherever it lies.
#[derive(Debug, PartialEq)]
struct Held {
    state: PartitionSnapshot,
    applied: Index,
    digest: StateDigest,
    log: Vec<LoggedEntry>,
}

fn with_shards(path: &Path, shard_count: u16) -> DataDirOptions {
    DataDirOptions { shard_count, ..options(path) }
}

fn load(data_dir: &DataDir, shard: ShardId) -> Loading {
    Loading::new(Config {
        cluster: "cluster".into(),
        nodes: Cluster::alone("member"),
        sequencer_offset: 0,
        settings: crate::nopaxos::Settings::default(),
        seed: 0,
        shard,
        partitions: data_dir.partition_range(shard),
        partition_count: data_dir.identity().partition_count,
        shard_count: data_dir.shards().shard_count(),
        durability: Durability::Sync,
        first_term: TermId(1),
        hash_key: data_dir.identity().hash_key,
        checkpoint_salt: 0,
        checkpoint_interval_size_bytes: u64::MAX,
        memory_size_bytes_max: u64::MAX,
    })
}

/// Everything that a directory holds.
fn held(data_dir: &DataDir) -> BTreeMap<PartitionId, Held> {
    let mut held = BTreeMap::new();
    for shard in (0..data_dir.current().shard_count).map(ShardId) {
        let mut loading = load(data_dir, shard);
        let mut reader = data_dir.checkpoint_reader(shard);
        let salt = data_dir.log_key(shard).salt;
        let mut installing = Installing::new(&mut loading, &mut reader, salt);
        let log = data_dir.recover_shard(shard, &mut installing).unwrap();
        installing.finish().unwrap();
        for found in log.recovered.partitions {
            let partition = found.state.partition;
            // What moving changes: where the log begins, and how many records say what it says.
            let (first, checkpoint) = (Index(0), Index(0));
            let state = PartitionSnapshot { first, checkpoint, record_count: 0, ..found.state };
            let (applied, digest) = (loading.applied(partition), loading.digest(partition));
            held.insert(partition, Held { state, applied, digest, log: found.log });
        }
    }
    held
}

fn put(number: u64) -> Vec<u8> {
    put_of(number, usize_from(number * 37 % 3_000))
}

fn put_of(number: u64, size: usize) -> Vec<u8> {
    let key = format!("key {}", number % 50).into_bytes().into();
    let value = vec![b'v'; size].into();
    let put = Put { key, value, ..Put::default() };
    let operation = Some(command::Operation::Put(put));
    Command { map: "m".into(), operation, ..Command::default() }.encode_to_vec()
}

/// A directory of two shards, in which each partition but the last has a history: most of it
/// stable, the end not.
fn fill(path: &Path) {
    fill_with(path, |partition, number| put(number + u64::from(partition.0)));
}

fn fill_with(path: &Path, value: impl Fn(PartitionId, u64) -> Vec<u8>) {
    let data_dir = DataDir::open(&with_shards(path, 2)).unwrap();
    for shard in [0, 1].map(ShardId) {
        let found = data_dir.recover_shard(shard, &mut Applied(vec![])).unwrap();
        let config = data_dir.wal_config(shard, 1 << 40, 2, Durability::Sync);
        let folder = data_dir.shard_folder(shard);
        let mut writer = LogWriter::open(&folder, config, found.recovered.start);
        for partition in data_dir.partitions_of(shard).filter(|partition| partition.0 < 7) {
            writer.append(&Record::View { partition, term: TermId(5) });
            let chain = [0; 16];
            let (base, kept, term) = (Index(0), Index(0), TermId(5));
            writer.append(&Record::Adopt { partition, term, base, kept, chain });
            for number in 1..60 {
                let (index, message_id) = (Index(number), MessageId(number));
                let value = value(partition, number);
                let timestamp = Timestamp(number);
                let entry = Entry { partition, index, term, message_id, timestamp, value: &value };
                writer.append(&Record::Entry(entry));
            }
            writer.append(&Record::SyncPoint { partition, index: Index(50) });
            writer.append(&Record::NoOp {
                partition,
                index: Index(55),
                term,
                message_id: MessageId(55),
            });
        }
        writer.close(&mut |_| Ok(())).unwrap();
    }
}

#[test]
fn partitions_keep_all_that_they_hold_on_any_number_of_shards() {
    let (_folder, path) = folder();
    fill(&path);
    let before = held(&DataDir::open(&with_shards(&path, 2)).unwrap());
    assert_eq!(before.len(), 8);
    assert_eq!(before[&PartitionId(0)].applied, Index(50));
    assert_eq!(before[&PartitionId(0)].log.len(), 9);
    for shard_count in [1, 8, 3, 2] {
        let mut data_dir = DataDir::open(&with_shards(&path, shard_count)).unwrap();
        let boot_epoch = data_dir.boot_epoch();
        data_dir.rehome(Destination::of(shard_count), load, &mut |_| Ok(())).unwrap();
        assert!(data_dir.boot_epoch() > boot_epoch, "the boot that moved has written a log");
        assert_eq!(data_dir.current().shard_count, shard_count);
        assert!(held(&data_dir) == before, "{shard_count} shards, at once");
        drop(data_dir);
        let data_dir = DataDir::open(&with_shards(&path, shard_count)).unwrap();
        assert!(held(&data_dir) == before, "{shard_count} shards, after a restart");
        assert_eq!(folders(&path, GENERATION_PREFIX).unwrap().len(), 1);
    }
}

#[test]
fn directory_that_was_never_written_to_has_no_log_afterwards_either() {
    let (_folder, path) = folder();
    drop(DataDir::open(&with_shards(&path, 2)).unwrap());
    let mut data_dir = DataDir::open(&with_shards(&path, 3)).unwrap();
    data_dir.rehome(Destination::of(3), load, &mut |_| Ok(())).unwrap();
    assert!(!data_dir.has_logs().unwrap(), "durability none would take it for a log");
    drop(data_dir);
    let data_dir = DataDir::open(&with_shards(&path, 3)).unwrap();
    assert_eq!(held(&data_dir).len(), 8);
}

#[test]
fn what_a_member_has_lost_moves_with_it_and_what_is_blank_stays_blank() {
    let (_folder, path) = folder();
    let open = |shard_count| {
        let nodes = three(["a", "b", "c"], "a", 3);
        DataDir::open(&DataDirOptions { nodes, ..with_shards(&path, shard_count) }).unwrap()
    };
    let suspects = |data_dir: &DataDir| {
        let mut found = Vec::new();
        for shard in (0..data_dir.current().shard_count).map(ShardId) {
            found.extend(recover(data_dir, shard).suspects);
        }
        found.iter().map(|found| (found.partition.0, found.suspicion)).collect::<Vec<_>>()
    };
    let data_dir = open(1);
    let shard = ShardId(0);
    let config = data_dir.wal_config(shard, 1 << 40, 2, Durability::Sync);
    let folder = data_dir.shard_folder(shard);
    let mut writer = LogWriter::open(&folder, config, recover(&data_dir, shard).start);
    for partition in data_dir.partitions_of(shard).filter(|partition| partition.0 < 7) {
        writer.append(&Record::CrashVector {
            partition,
            incarnation: Incarnation(1),
            crash_vector: vec![Incarnation(1); 3],
            is_recovering: partition.0 == 2,
        });
    }
    writer.close(&mut |_| Ok(())).unwrap();
    drop(data_dir);
    let expected = [(7, Suspicion::Blank), (2, Suspicion::Unrecovered)];
    let by_name = |mut found: Vec<(u32, Suspicion)>| {
        found.sort_unstable_by_key(|(partition, _)| std::cmp::Reverse(*partition));
        found
    };
    assert_eq!(by_name(suspects(&open(1))), expected);
    let mut data_dir = open(3);
    data_dir.rehome(Destination::of(3), load, &mut |_| Ok(())).unwrap();
    let said = data_dir.notices().iter().filter(|notice| notice.is_recovery());
    assert_eq!(said.count(), 2);
    drop(data_dir);
    assert_eq!(by_name(suspects(&open(3))), expected);
}

fn recover(data_dir: &DataDir, shard: ShardId) -> Recovered {
    data_dir.recover_shard(shard, &mut Applied(vec![])).unwrap().recovered
}

#[test]
fn moving_that_fails_leaves_nothing_behind_and_everything_where_it_was() {
    let (_folder, path) = folder();
    fill(&path);
    let before = held(&DataDir::open(&with_shards(&path, 2)).unwrap());
    let mut data_dir = DataDir::open(&with_shards(&path, 3)).unwrap();
    let fails = &mut |step| match step {
        RehomeStep::CheckpointWritten => Err(DataDirError::Absent { path: PathBuf::new() }),
        _ => Ok(()),
    };
    data_dir.rehome(Destination::of(3), load, fails).unwrap_err();
    assert_eq!(folders(&path, GENERATION_PREFIX).unwrap().len(), 1, "the disk may be full");
    drop(data_dir);
    assert!(held(&DataDir::open(&with_shards(&path, 2)).unwrap()) == before);
}

#[test]
fn more_shards_than_partitions_are_refused_by_name() {
    let (_folder, path) = folder();
    fill(&path);
    let error = DataDir::open(&with_shards(&path, 9)).unwrap_err();
    assert!(error.to_string().contains("8 partitions, too few for 9 cores"), "{error}");
}

#[test]
fn moving_to_so_few_shards_that_one_could_not_hold_its_part_is_refused_and_says_how_many_do() {
    let (_folder, path) = folder();
    // Each of the 50 stable entries of a partition has a size of its own, and so a span: 64 of them
    // are a page.
    fill_with(&path, |partition, number| {
        put_of(number, 4 * usize_from(50 * u64::from(partition.0) + number))
    });
    let before = held(&DataDir::open(&with_shards(&path, 2)).unwrap());
    let moves = |shard_count, page_count| {
        let mut data_dir = DataDir::open(&with_shards(&path, shard_count)).unwrap();
        let pages_size_bytes_max = page_count * u64_from(PAGE_SIZE_BYTES);
        let to = Destination { shard_count, pages_size_bytes_max };
        let mut is_made = false;
        let moved = data_dir.rehome(to, load, &mut |step| {
            is_made |= step != RehomeStep::Loaded;
            Ok(())
        });
        assert_eq!(is_made, moved.is_ok(), "nothing is made if it is refused");
        moved
    };
    for (page_count, needed) in [(5, 2), (4, 2), (3, 3), (2, 4), (1, 8)] {
        let text = moves(1, page_count).unwrap_err().to_string();
        assert!(text.contains("too much for 1 cores"), "{text}");
        assert!(text.contains(&format!("give it {needed} ")), "{page_count} pages: {text}");
    }
    // Not even with a shard for each partition: then it stays where it is.
    let error = moves(1, 0).unwrap_err();
    assert!(matches!(error, DataDirError::TooFewShards { needed: None, from: 2, .. }), "{error}");
    assert!(error.to_string().contains("give it 2 "), "{error}");
    assert!(held(&DataDir::open(&with_shards(&path, 2)).unwrap()) == before);
    moves(3, 3).unwrap();
    moves(1, 6).unwrap();
}

#[test]
fn crash_at_any_step_of_moving_loses_nothing() {
    let (_folder, path) = folder();
    fill(&path);
    let before = held(&DataDir::open(&with_shards(&path, 2)).unwrap());
    let mut died_after: BTreeMap<RehomeStep, u32> = BTreeMap::new();
    for crash_at in 0.. {
        let mut data_dir = DataDir::open(&with_shards(&path, 3)).unwrap();
        let mut steps_left = crash_at;
        let result = data_dir.rehome(Destination::of(3), load, &mut |step| {
            if steps_left == 0 {
                *died_after.entry(step).or_default() += 1;
                return Err(DataDirError::Absent { path: PathBuf::new() });
            }
            steps_left -= 1;
            Ok(())
        });
        drop(data_dir);
        let mut data_dir = DataDir::open(&with_shards(&path, 2)).unwrap();
        assert!(held(&data_dir) == before, "died at step {crash_at}");
        assert_eq!(folders(&path, GENERATION_PREFIX).unwrap().len(), 1);
        if result.is_ok() {
            break;
        }
        if data_dir.current().shard_count == 3 {
            data_dir.rehome(Destination::of(2), load, &mut |_| Ok(())).unwrap();
        }
    }
    let steps = [
        RehomeStep::Loaded,
        RehomeStep::FolderMade,
        RehomeStep::CheckpointWritten,
        RehomeStep::SegmentMade,
        RehomeStep::RecordsWritten,
        RehomeStep::Durable,
        RehomeStep::Switched,
        RehomeStep::Removed,
    ];
    assert_eq!(died_after.keys().copied().collect::<Vec<_>>(), steps, "{died_after:?}");
}
