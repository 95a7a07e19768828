//! What it costs to put a record into the log: framing, copying, and its share of the block's
//! checksum. A budget of 25 ns for 64 bytes of value is what the design allows.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use p2pmap::base::ids::{BootEpoch, Index, MessageId, PartitionId, SegmentId, ShardId, TermId};
use p2pmap::base::time::{Monotonic, Timestamp};
use p2pmap::storage::block::LogKey;
use p2pmap::storage::codec::{decode, encode};
use p2pmap::storage::record::{Entry, PartitionSnapshot, Record, ShardSnapshot};
use p2pmap::storage::wal::{Durability, SegmentWanted, Wal, WalConfig, WalStart};

/// Records of a turn: what gathers while a write is in flight.
const GROUP: u64 = 64;

fn entry(index: u64, value: &[u8]) -> Record<'_> {
    Record::Entry(Entry {
        partition: PartitionId(3),
        index: Index(index),
        term: TermId(5),
        message_id: MessageId(index),
        timestamp: Timestamp(1_700_000_000_000_000_000),
        value,
    })
}

fn wal() -> Wal {
    let config = WalConfig {
        key: LogKey { shard: ShardId(0), salt: 1 },
        boot_epoch: BootEpoch(1),
        segment_size_bytes: 256 << 20,
        log_size_bytes_max: 1 << 50,
        writes_in_flight: 2,
        durability: Durability::Sync,
    };
    let partitions = (0..16).map(|p| PartitionSnapshot::empty(PartitionId(p))).collect();
    let start = WalStart {
        state: ShardSnapshot { partitions, ..ShardSnapshot::default() },
        next_segment: SegmentId(1),
        ..WalStart::default()
    };
    Wal::open(config, start)
}

fn record(criterion: &mut Criterion) {
    for size in [16, 64, 1_024] {
        let value = vec![7; size];
        let mut group = criterion.benchmark_group(format!("record/{size}"));
        group.throughput(Throughput::Elements(1));
        group.bench_function("encode", |bencher| {
            let record = entry(100_000, &value);
            let mut into = Vec::with_capacity(4_096);
            bencher.iter(|| {
                into.clear();
                encode(black_box(&record), &mut into);
            });
        });
        group.bench_function("decode", |bencher| {
            let mut bytes = Vec::new();
            encode(&entry(100_000, &value), &mut bytes);
            bencher.iter(|| decode(black_box(&bytes)).is_ok());
        });
        group.throughput(Throughput::Elements(GROUP));
        group.bench_function("append and seal 64", |bencher| {
            let mut wal = wal();
            let mut index = 0;
            bencher.iter_batched(
                || (),
                |()| {
                    for _ in 0..GROUP {
                        index += 1;
                        wal.append(black_box(&entry(index, &value)));
                    }
                    while let Some(SegmentWanted { segment, .. }) = wal.wants_segment(Monotonic(0))
                    {
                        wal.on_segment_prepared(segment);
                    }
                    while let Some(write) = wal.poll_write(Monotonic(0)) {
                        wal.on_written(write);
                    }
                },
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1))
        .sample_size(30);
    targets = record
}
criterion_main!(benches);
