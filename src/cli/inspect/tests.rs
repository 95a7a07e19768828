use std::os::unix::fs::FileExt;
use std::path::Path;

use zerocopy::IntoBytes;

use super::*;
use crate::base::cluster::Cluster;
use crate::base::ids::BootEpoch;
use crate::base::limits::SEGMENT_SIZE_BYTES_MIN;
use crate::base::time::Monotonic;
use crate::node::data_dir::DataDirOptions;
use crate::storage::halt::{HaltDump, HaltedPartition, HaltedSlot, HaltedStatus};
use crate::storage::record::{Entry, Record};
use crate::storage::recovery::Salvage;
use crate::storage::wal::{Durability, SegmentWanted, Wal};

impl Salvage for Counts {
    fn is_whole(&self, _: PartitionId) -> bool {
        true
    }

    fn reset(&mut self, _: PartitionId, _: Index) -> bool {
        unreachable!("nothing is salvaged in a group of one")
    }
}

/// A data directory with three values in partition 0, of which two are stable.
fn data_dir(path: &Path) -> DataDir {
    let options = DataDirOptions {
        path: path.to_owned(),
        cluster: "cluster".into(),
        nodes: Cluster::alone("member"),
        partition_count: Some(2),
        partition_count_default: 64,
        shard_count: 1,
        segment_size_bytes: SEGMENT_SIZE_BYTES_MIN,
        must_exist: false,
        durability: Durability::Sync,
        allow_copy_on_write: true,
    };
    let data_dir = DataDir::open(&options).unwrap();
    let shard = ShardId(0);
    let log = data_dir.recover_shard(shard, &mut Counts::default()).unwrap();
    let config = data_dir.wal_config(shard, 1 << 40, 2, Durability::Sync);
    let mut wal = Wal::open(config, log.recovered.start);
    let partition = PartitionId(0);
    for index in 1..=3 {
        let (index, message_id) = (Index(index), MessageId(index));
        let timestamp = Timestamp(7);
        let value = b"value";
        let entry = Entry { partition, index, term: TermId(1), message_id, timestamp, value };
        wal.append(&Record::Entry(entry));
        // A batch each.
        write(&data_dir, &mut wal);
    }
    wal.append(&Record::SyncPoint { partition, index: Index(2) });
    wal.close();
    write(&data_dir, &mut wal);
    assert!(wal.is_closed());
    data_dir
}

fn write(data_dir: &DataDir, wal: &mut Wal) {
    while let Some(SegmentWanted { segment, .. }) = wal.wants_segment(Monotonic(0)) {
        let path = data_dir.segment_path(ShardId(0), segment);
        std::fs::write(path, vec![0; SEGMENT_SIZE_BYTES_MIN]).unwrap();
        wal.on_segment_prepared(segment);
    }
    while let Some(write) = wal.poll_write(Monotonic(0)) {
        let path = data_dir.segment_path(ShardId(0), write.segment);
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(write.blocks.as_bytes(), write.offset).unwrap();
        wal.on_written(write);
    }
}

fn inspect(path: &Path, records: bool, json: bool) -> (String, Result<(), InspectError>) {
    let options = InspectOptions { data_dir: path.to_owned(), shard: None, records, json };
    let mut out = Vec::new();
    let result = run(&options, &mut out);
    (String::from_utf8(out).unwrap(), result)
}

fn flip(path: &Path, block: u64) {
    let segment = path.join("gen-1/shard-0/000000000001.log");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(segment).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, block * 4_096 + 40).unwrap();
    file.write_all_at(&[byte[0] ^ 1], block * 4_096 + 40).unwrap();
}

#[test]
fn directory_of_a_running_node_is_not_inspected() {
    let folder = tempfile::tempdir().unwrap();
    let _running = data_dir(folder.path());
    let (text, result) = inspect(folder.path(), false, false);
    assert!(text.is_empty());
    assert!(result.unwrap_err().to_string().contains("a node is running"));
}

#[test]
fn whole_log_is_shown_as_text() {
    let folder = tempfile::tempdir().unwrap();
    drop(data_dir(folder.path()));
    let (text, result) = inspect(folder.path(), true, false);
    result.unwrap();
    for part in [
        "member member of cluster cluster",
        "1+4096 batch 1.1: entry partition 0 index 2",
        "value of 5 bytes",
        "shard-0/000000000001.log: 5 blocks, 2043 zero; batches 1.0 to 1.4, proven to 1.3, counted \
         to 1.4",
        "3 entry",
        "partition 0: view 0, last normal 0 from 0, slots 1 to 3, stable to 2 (2 values of 10 ",
        "shard 0: whole: 6 records, closed",
    ] {
        assert!(text.contains(part), "{part}\nin\n{text}");
    }
}

#[test]
fn json_has_an_object_a_line_with_the_values() {
    let folder = tempfile::tempdir().unwrap();
    drop(data_dir(folder.path()));
    let (text, result) = inspect(folder.path(), true, true);
    result.unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| lines.iter().filter(|line| line["line"] == kind).collect::<Vec<_>>();
    assert_eq!(of("data_dir")[0]["cluster"], "cluster");
    let entries: Vec<_> = of("record").into_iter().filter(|r| r["kind"] == "entry").collect();
    assert_eq!(entries.len(), 3);
    assert_eq!(entries[2]["index"], 3);
    assert_eq!(entries[2]["value"], "76616c7565");
    assert_eq!(of("partition")[0]["stable"]["value_count"], 2);
    assert_eq!(of("partition")[0]["unstable_count"], 1);
    assert_eq!(of("shard")[0]["verdict"], "whole");
}

#[test]
fn damaged_log_is_shown_beyond_the_damage_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    drop(data_dir(folder.path()));
    flip(folder.path(), 1);
    let (text, result) = inspect(folder.path(), true, false);
    assert!(matches!(result, Err(InspectError::Damaged { shard_count: 1 })));
    assert!(text.contains("1 bad"), "{text}");
    assert!(text.contains("index 1") && text.contains("index 3"), "{text}");
    assert!(
        text.contains(
            "shard 0: damaged: shard-0/000000000001.log: damaged at byte 4096, batch 1.1"
        )
    );
}

#[test]
fn cut_file_is_shown_as_far_as_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    drop(data_dir(folder.path()));
    let segment = folder.path().join("gen-1/shard-0/000000000001.log");
    for length in [0, 3 * 4_096 + 5] {
        std::fs::OpenOptions::new().write(true).open(&segment).unwrap().set_len(length).unwrap();
        let (text, result) = inspect(folder.path(), true, false);
        assert!(result.is_err());
        assert!(text.contains(&format!("cut to {length}")), "{text}");
        std::fs::write(&segment, vec![0; SEGMENT_SIZE_BYTES_MIN]).unwrap();
    }
}

#[test]
fn looking_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    drop(data_dir(folder.path()));
    let preparing = folder.path().join("gen-1/shard-0/000000000009.log.new");
    std::fs::write(&preparing, b"half").unwrap();
    let boot = std::fs::read(folder.path().join("BOOT")).unwrap();
    inspect(folder.path(), true, true).1.unwrap();
    assert!(preparing.exists());
    assert_eq!(std::fs::read(folder.path().join("BOOT")).unwrap(), boot);
}

#[test]
fn folder_that_is_no_data_directory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_, result) = inspect(folder.path(), false, false);
    assert!(matches!(result, Err(InspectError::DataDir(_))));
}

/// What a halted shard has left.
fn halt_dump() -> HaltDump {
    let slot = |index: u64, value: &'static [u8]| HaltedSlot {
        index: Index(index),
        term: TermId(3),
        message_id: MessageId(index),
        timestamp: Timestamp(7),
        size_bytes: u32::try_from(value.len()).unwrap(),
        begin: value.into(),
    };
    HaltDump {
        shard: ShardId(1),
        boot_epoch: BootEpoch(4),
        time: Timestamp(9_000),
        reason: "partition 5: invariant I2 is broken: a prepared value becomes a no-op".into(),
        partitions: vec![HaltedPartition {
            partition: PartitionId(5),
            status: HaltedStatus::Normal,
            is_leading: true,
            positions: std::array::from_fn(u64_from),
            chain: [1; 16],
            digest: [2; 16],
            crash_vector: vec![0, 1, 0],
            slots: vec![slot(8, b""), slot(9, b"value")],
        }],
    }
}

#[test]
fn dump_of_a_halted_shard_is_shown_as_text_and_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shard-1.halt");
    std::fs::write(&path, halt_dump().encode()).unwrap();
    let (text, result) = inspect(&path, false, false);
    result.unwrap();
    assert!(text.starts_with("shard 1 halted in boot 4"), "{text}");
    assert!(text.contains("invariant I2 is broken: a prepared value becomes a no-op\n"), "{text}");
    assert!(text.contains("  partition 5: normal, leading, view 0, last normal 1,"), "{text}");
    assert!(text.contains("sync point 8, applied 9, commit 10\n"), "{text}");
    assert!(!text.contains("slot"), "only if records are asked for: {text}");
    let (text, result) = inspect(&path, true, false);
    result.unwrap();
    assert!(text.contains("    slot 8: term 3 message 8 time 7 no-op\n"), "{text}");
    assert!(text.contains("    slot 9: term 3 message 9 time 7 value of 5 bytes\n"), "{text}");
    let (text, result) = inspect(&path, true, true);
    result.unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    assert_eq!((&lines[0]["line"], &lines[0]["shard"]), (&"halt".into(), &1.into()));
    assert_eq!((&lines[1]["sync_point"], &lines[1]["crash_vector"][1]), (&8.into(), &1.into()));
    assert_eq!((&lines[3]["index"], &lines[3]["value"]), (&9.into(), &"76616c7565".into()));
}

#[test]
fn file_that_is_no_whole_dump_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.halt");
    let mut file = halt_dump().encode();
    let middle = file.len() / 2;
    file[middle] ^= 1;
    for (bytes, why) in [(&file[..], "isn't what was written"), (b"x", "not the dump")] {
        std::fs::write(&path, bytes).unwrap();
        let (text, result) = inspect(&path, true, true);
        let message = result.unwrap_err().to_string();
        assert!(
            text.is_empty() && message.contains("a.halt") && message.contains(why),
            "{message}"
        );
    }
}
