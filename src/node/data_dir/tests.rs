mod rehome;

use std::os::unix::fs::FileExt;

use zerocopy::IntoBytes;

use super::*;
use crate::base::ids::{Index, MessageId, TermId};
use crate::base::limits::SEGMENT_SIZE_BYTES_MIN;
use crate::base::time::{Monotonic, Timestamp};
use crate::storage::error::StorageError;
use crate::storage::record::{Entry, Record};
use crate::storage::replay::Apply;
use crate::storage::wal::{SegmentWanted, Wal};

fn options(path: &Path) -> DataDirOptions {
    DataDirOptions {
        path: path.to_owned(),
        cluster: "cluster".into(),
        nodes: Cluster::alone("member"),
        partition_count: Some(8),
        partition_count_default: 64,
        shard_count: 2,
        segment_size_bytes: SEGMENT_SIZE_BYTES_MIN,
        must_exist: false,
        durability: Durability::Sync,
        allow_copy_on_write: true,
    }
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/data");
    (folder, path)
}

struct Applied(Vec<u64>);

impl Apply for Applied {
    fn install(&mut self, _: PartitionId, _: Index) {
        panic!("no checkpoint was taken");
    }

    fn apply(
        &mut self,
        _: PartitionId,
        index: Index,
        _: TermId,
        _: MessageId,
        _: Timestamp,
        _: Option<&[u8]>,
    ) {
        self.0.push(index.0);
    }
}

/// Nothing but slots, of which none is salvaged.
impl Salvage for Applied {
    fn is_whole(&self, _: PartitionId) -> bool {
        true
    }

    fn reset(&mut self, _: PartitionId, checkpoint: Index) -> bool {
        assert_eq!(checkpoint, Index(0), "no checkpoint was taken");
        self.0.clear();
        true
    }
}

fn three(names: [&str; 3], me: &str, replication_factor: usize) -> Cluster {
    Cluster::new(names.map(str::to_owned).to_vec(), me, replication_factor)
}

/// Opens shard 0's log where recovery says, appends values and closes it, with plain writes.
fn write_log(data_dir: &DataDir, values: &[&[u8]]) {
    let log = data_dir.recover_shard(ShardId(0), &mut Applied(vec![])).unwrap();
    let partition = log.recovered.partitions[0].state.clone();
    let config = data_dir.wal_config(ShardId(0), 1 << 40, 2, Durability::Sync);
    let mut wal = Wal::open(config, log.recovered.start);
    for (value, index) in values.iter().zip(partition.last.0 + 1..) {
        wal.append(&Record::Entry(Entry {
            partition: partition.partition,
            index: Index(index),
            term: TermId(1),
            message_id: MessageId(index),
            timestamp: Timestamp(1),
            value,
        }));
        wal.append(&Record::SyncPoint { partition: partition.partition, index: Index(index) });
    }
    wal.close();
    while !wal.is_closed() {
        while let Some(SegmentWanted { segment, .. }) = wal.wants_segment(Monotonic(0)) {
            let preparing = data_dir.preparing_path(ShardId(0), segment);
            fs::write(&preparing, vec![0; SEGMENT_SIZE_BYTES_MIN]).unwrap();
            fs::rename(&preparing, data_dir.segment_path(ShardId(0), segment)).unwrap();
            wal.on_segment_prepared(segment);
        }
        let Some(write) = wal.poll_write(Monotonic(0)) else { continue };
        let path = data_dir.segment_path(ShardId(0), write.segment);
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(write.blocks.as_bytes(), write.offset).unwrap();
        wal.on_written(write);
    }
}

fn applied(data_dir: &DataDir) -> Result<Vec<u64>, DataDirError> {
    let mut applied = Applied(vec![]);
    data_dir.recover_shard(ShardId(0), &mut applied).map(|_| applied.0)
}

#[test]
fn absent_directory_is_made_and_said_so_and_found_again() {
    let (_folder, path) = folder();
    let first = DataDir::open(&options(&path)).unwrap();
    assert_eq!(first.boot_epoch(), BootEpoch(1));
    assert!(first.notices().contains(&Notice::Initialised { path: path.clone() }));
    let identity = first.identity().clone();
    assert_ne!(identity.uuid, identity.hash_key);
    drop(first);
    let second = DataDir::open(&options(&path)).unwrap();
    assert_eq!(second.boot_epoch(), BootEpoch(2));
    assert_eq!(*second.identity(), identity);
    assert!(!second.notices().iter().any(|n| matches!(n, Notice::Initialised { .. })));
}

#[test]
fn absent_directory_that_must_exist_is_an_error_and_nothing_is_made() {
    let (_folder, path) = folder();
    let options = DataDirOptions { must_exist: true, ..options(&path) };
    let error = DataDir::open(&options).unwrap_err();
    assert!(matches!(error, DataDirError::Absent { .. }), "{error}");
    assert!(!path.exists());
    drop(DataDir::open(&DataDirOptions { must_exist: false, ..options.clone() }).unwrap());
    DataDir::open(&options).unwrap();
}

#[test]
fn directory_in_use_is_refused_to_writers_and_readers() {
    let (_folder, path) = folder();
    let held = DataDir::open(&options(&path)).unwrap();
    for error in
        [DataDir::open(&options(&path)).unwrap_err(), DataDir::open_to_inspect(&path).unwrap_err()]
    {
        assert!(matches!(error, DataDirError::InUse { .. }), "{error}");
    }
    drop(held);
    let reader = DataDir::open_to_inspect(&path).unwrap();
    assert_eq!(reader.boot_epoch(), BootEpoch(2), "looking doesn't raise it");
    assert!(DataDir::open(&options(&path)).is_err());
    DataDir::open_to_inspect(&path).unwrap();
}

#[test]
fn directory_of_another_kind_is_refused_with_one_line() {
    let (_folder, path) = folder();
    drop(DataDir::open(&options(&path)).unwrap());
    for (other, what) in [
        (DataDirOptions { cluster: "other".into(), ..options(&path) }, "cluster"),
        (DataDirOptions { nodes: Cluster::alone("other"), ..options(&path) }, "member"),
        (DataDirOptions { partition_count: Some(9), ..options(&path) }, "number of partitions"),
    ] {
        let error = DataDir::open(&other).unwrap_err().to_string();
        assert!(error.contains(what) && !error.contains('\n'), "{error}");
    }
    assert_eq!(DataDir::open(&options(&path)).unwrap().boot_epoch(), BootEpoch(2));
}

#[test]
fn directory_of_other_members_is_refused_with_one_line() {
    let (_folder, path) = folder();
    let open = |nodes| DataDir::open(&DataDirOptions { nodes, ..options(&path) });
    let names = ["a", "b", "c"];
    let data_dir = open(three(names, "b", 3)).unwrap();
    assert!(data_dir.has_peers());
    drop(data_dir);
    for (nodes, what) in [
        // Two nodes with one directory, or with one name.
        (three(names, "c", 3), "has member b, but c was asked for"),
        (three(["a", "b", "d"], "b", 3), "3 members, with other names"),
        (Cluster::alone("b"), "3 members, and 1 were named"),
        (three(names, "b", 1), "has replication factor 3, but 1 was asked for"),
    ] {
        let error = open(nodes).unwrap_err().to_string();
        assert!(error.contains(what) && !error.contains('\n'), "{error}");
    }
    open(three(names, "b", 3)).unwrap();
}

#[test]
fn damage_is_refused_by_a_node_alone_and_named_by_a_member() {
    for nodes in [Cluster::alone("a"), three(["a", "b", "c"], "a", 3)] {
        let (_folder, path) = folder();
        let options = DataDirOptions { nodes, ..options(&path) };
        let data_dir = DataDir::open(&options).unwrap();
        write_log(&data_dir, &[b"first", b"second"]);
        let segment = data_dir.segment_path(ShardId(0), SegmentId(1));
        let file = OpenOptions::new().write(true).open(segment).unwrap();
        file.write_all_at(b"rot", 100).unwrap();
        drop(data_dir);
        let data_dir = DataDir::open(&options).unwrap();
        let found = data_dir.recover_shard(ShardId(0), &mut Applied(vec![]));
        if !data_dir.has_peers() {
            assert!(matches!(found, Err(DataDirError::Storage(StorageError::Damaged { .. }))));
            continue;
        }
        let ShardLog { recovered, notices } = found.unwrap();
        assert!(recovered.partitions.iter().all(|found| found.state.is_recovering));
        let [notice] = &notices[..] else { panic!("{notices:?}") };
        let line = notice.to_string();
        assert!(notice.is_recovery());
        assert!(line.starts_with("shard 0: partitions 0-3 recover"), "{line}");
        assert!(line.contains("shard-0/000000000001.log"), "{line}");
    }
}

#[test]
fn processes_have_nonces_of_their_own() {
    let (_folder, path) = folder();
    let first = DataDir::open(&options(&path)).unwrap().nonce();
    assert_ne!(first, DataDir::open(&options(&path)).unwrap().nonce());
}

#[test]
fn logs_without_an_identity_are_refused_and_a_broken_off_creation_is_not() {
    let (_folder, path) = folder();
    drop(DataDir::open(&options(&path)).unwrap());
    fs::remove_file(path.join(IDENTITY)).unwrap();
    let data_dir = DataDir::open(&options(&path)).unwrap();
    write_log(&data_dir, &[b"v"]);
    drop(data_dir);
    fs::remove_file(path.join(IDENTITY)).unwrap();
    let error = DataDir::open(&options(&path)).unwrap_err();
    assert!(matches!(error, DataDirError::NoIdentity { .. }), "{error}");
}

#[test]
fn removed_folder_and_damaged_files_are_refused_by_name() {
    let (_folder, path) = folder();
    drop(DataDir::open(&options(&path)).unwrap());
    for file in [IDENTITY, CURRENT, BOOT] {
        let whole = fs::read(path.join(file)).unwrap();
        let mut damaged = whole.clone();
        damaged[20] ^= 1;
        fs::write(path.join(file), &damaged).unwrap();
        drop(DataDir::open(&options(&path)).unwrap());
        let mut damaged = whole.clone();
        damaged[20] ^= 1;
        damaged[BLOCK_SIZE_BYTES + 20] ^= 1;
        fs::write(path.join(file), &damaged).unwrap();
        let error = DataDir::open(&options(&path)).unwrap_err().to_string();
        assert!(error.contains(file), "{error}");
        fs::write(path.join(file), &whole).unwrap();
    }
    fs::remove_dir(path.join("gen-1/shard-1")).unwrap();
    let error = DataDir::open(&options(&path)).unwrap_err().to_string();
    assert!(error.contains("shard-1"), "{error}");
}

#[test]
fn log_is_read_back_through_files_over_several_boots() {
    let (_folder, path) = folder();
    let data_dir = DataDir::open(&options(&path)).unwrap();
    write_log(&data_dir, &[b"a", b"b"]);
    drop(data_dir);
    let data_dir = DataDir::open(&options(&path)).unwrap();
    assert_eq!(applied(&data_dir).unwrap(), [1, 2]);
    write_log(&data_dir, &[&[7; 300 << 10]]);
    // Prepared by halves when the process ended: it had no name yet.
    let preparing = data_dir.preparing_path(ShardId(0), SegmentId(9));
    fs::write(&preparing, b"00").unwrap();
    drop(data_dir);
    let data_dir = DataDir::open(&options(&path)).unwrap();
    assert_eq!(applied(&data_dir).unwrap(), [1, 2, 3]);
    assert!(!preparing.exists());
}

#[test]
fn damaged_and_cut_segments_are_refused_by_name() {
    let (_folder, path) = folder();
    let data_dir = DataDir::open(&options(&path)).unwrap();
    write_log(&data_dir, &[b"a"]);
    drop(data_dir);
    let data_dir = DataDir::open(&options(&path)).unwrap();
    let segment = data_dir.segment_path(ShardId(0), SegmentId(1));
    let whole = fs::read(&segment).unwrap();
    let mut damaged = whole.clone();
    damaged[90] ^= 1;
    fs::write(&segment, &damaged).unwrap();
    let error = applied(&data_dir).unwrap_err().to_string();
    assert!(error.contains("shard-0/000000000001.log: damaged at byte 0"), "{error}");
    fs::write(&segment, &whole[..5_000]).unwrap();
    let error = applied(&data_dir).unwrap_err().to_string();
    assert!(error.contains("shard-0/000000000001.log: cut to 5000"), "{error}");
    fs::remove_file(&segment).unwrap();
    let error = applied(&data_dir).unwrap_err();
    let is_missing = matches!(error, DataDirError::Storage(StorageError::Missing { .. }));
    assert!(is_missing, "{error}");
}

#[test]
fn log_of_another_data_directory_is_not_taken_for_ones_own() {
    let (_folder, path) = folder();
    let (_other_folder, other_path) = folder();
    let data_dir = DataDir::open(&options(&path)).unwrap();
    write_log(&data_dir, &[b"a"]);
    let other = DataDir::open(&options(&other_path)).unwrap();
    for segment in [1, 2].map(SegmentId) {
        let from = data_dir.segment_path(ShardId(0), segment);
        fs::copy(from, other.segment_path(ShardId(0), segment)).unwrap();
    }
    let mut served = Applied(vec![]);
    let log = other.recover_shard(ShardId(0), &mut served).unwrap();
    assert!(served.0.is_empty(), "none of it is served");
    assert!(matches!(log.notices[..], [Notice::Torn { .. }]), "and that is said");
}

#[test]
fn memory_filesystem_is_named_as_not_durable() {
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
    let data_dir = DataDir::open(&options(folder.path())).unwrap();
    let notices = data_dir.notices();
    assert!(notices.iter().any(|notice| notice.to_string().contains("tmpfs: not durable")));
}

#[test]
fn partitions_spread_over_shards_in_ranges() {
    let (_folder, path) = folder();
    let data_dir = DataDir::open(&DataDirOptions {
        partition_count: Some(7),
        shard_count: 3,
        ..options(&path)
    })
    .unwrap();
    let ranges: Vec<Vec<u32>> =
        (0..3).map(|shard| data_dir.partitions_of(ShardId(shard)).map(|p| p.0).collect()).collect();
    assert_eq!(ranges, [vec![0, 1, 2], vec![3, 4], vec![5, 6]]);
}

#[test]
fn log_without_room_for_the_segment_that_a_start_begins_is_refused() {
    let (_folder, path) = folder();
    for value in [b"a", b"b", b"c", b"d"] {
        write_log(&DataDir::open(&options(&path)).unwrap(), &[value]);
    }
    let data_dir = DataDir::open(&options(&path)).unwrap();
    let log = data_dir.recover_shard(ShardId(0), &mut Applied(vec![])).unwrap();
    let size = u64_from(SEGMENT_SIZE_BYTES_MIN);
    let check = |count| data_dir.check_log_size(ShardId(0), &log.recovered.start, count * size);
    check(5).unwrap();
    let error = check(4).unwrap_err();
    let text = error.to_string();
    // Of both shards.
    assert!(text.contains("holds 4 segments") && text.contains("--log-max to 83886080"), "{text}");
}

#[test]
fn log_too_small_for_the_segments_of_its_directory_is_refused() {
    let (_folder, path) = folder();
    drop(DataDir::open(&options(&path)).unwrap());
    // The configuration's segments would fit, but the directory keeps its own.
    let data_dir = DataDir::open(&DataDirOptions { segment_size_bytes: 1, ..options(&path) });
    let data_dir = data_dir.unwrap();
    let start = data_dir.recover_shard(ShardId(0), &mut Applied(vec![])).unwrap().recovered.start;
    let size = u64_from(SEGMENT_SIZE_BYTES_MIN);
    data_dir.check_log_size(ShardId(0), &start, LOG_SEGMENT_COUNT_MIN * size).unwrap();
    let error = data_dir.check_log_size(ShardId(0), &start, 2 * size).unwrap_err();
    assert!(matches!(error, DataDirError::LogTooSmall { segment_count: 0, .. }), "{error}");
}
