//! What the map costs: a get and a put, one by one and in passes of 32, at 64 Ki and 1 M keys of
//! 16 bytes with values of 64 bytes, spread over 64 partitions; a put while checkpoints are taken,
//! and a slice of one; loading; the memory per key between 1 M and 5 M keys; the longest pauses of
//! inserting.
//!
//! `cargo bench --bench map`; the memory and the pauses are printed by
//! `cargo bench --bench map -- memory` instead.
#![allow(missing_docs, clippy::print_stdout, clippy::disallowed_methods)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use p2pmap::base::cast::{u64_from, usize_from};
use p2pmap::base::payload::ResultBytes;
use p2pmap::base::{ids::Index, prng::Prng, time::Timestamp};
use p2pmap::map::arena::Arena;
use p2pmap::map::checkpoint::{MapLoader, Progress, SliceBudget};
use p2pmap::map::hasher::{KeyHash, KeyHasher};
use p2pmap::map::operation::{Command, Operation, QueryOperation, Ttl};
use p2pmap::map::partition::{Execution, PartitionMap, Undo};
use p2pmap::map::reads::AsOf;

const PARTITION_COUNT: usize = 64;
const MAP: &str = "orders";
const PASS_COUNT: usize = 32;
const GROUP_PASS_COUNT: u64 = 16;
const KEY_COUNTS: [u64; 2] = [64 << 10, 1_000_000];

type Key = [u8; 16];

fn key(number: u64) -> Key {
    let mut key = *b"key-............";
    key[4..].copy_from_slice(format!("{number:012}").as_bytes());
    key
}

fn partition_of(number: u64) -> usize {
    usize_from(number) % PARTITION_COUNT
}

/// One shard's map.
struct World {
    hasher: KeyHasher,
    arena: Arena,
    partitions: Vec<PartitionMap>,
    now_ms: u64,
}

impl World {
    fn new() -> Self {
        let mut arena = Arena::new();
        let hasher = KeyHasher::new(*b"a secret of many");
        let partitions =
            (0..PARTITION_COUNT).map(|_| PartitionMap::new(hasher, &mut arena)).collect();
        Self { hasher, arena, partitions, now_ms: 1_700_000_000_000 }
    }

    fn filled(key_count: u64) -> Self {
        let mut world = Self::new();
        world.fill(0, key_count);
        world
    }

    fn fill(&mut self, from: u64, to: u64) {
        let mut out = ResultBytes::new();
        for number in from..to {
            let key = key(number);
            let hash = self.hasher.hash(MAP, &key);
            out.clear();
            self.put(number, &key, hash, Undo::Discard, &mut out);
        }
    }

    fn put(&mut self, number: u64, key: &Key, hash: KeyHash, undo: Undo, out: &mut ResultBytes) {
        let partition = &mut self.partitions[partition_of(number)];
        let index = partition.applied().next();
        let run = Execution { index, time: Timestamp(self.now_ms * 1_000_000), undo };
        let operation = Operation::Put {
            key,
            value: &[7; 64],
            condition: None,
            ttl: Ttl::Unlimited,
            want_previous: false,
        };
        let (session, timeout_ms, no_forward) = (None, 0, false);
        let command = Command { map: MAP, session, timeout_ms, no_forward, operation };
        partition.execute(&mut self.arena, run, &command, hash, out);
        if undo == Undo::Keep && index.0.is_multiple_of(256) {
            partition.commit(&mut self.arena, index);
        }
    }

    fn get(&self, number: u64, key: &Key, hash: KeyHash, out: &mut Vec<u8>) {
        let partition = &self.partitions[partition_of(number)];
        let operation = QueryOperation::Get { key };
        let (index, time) = (Index(u64::MAX), Timestamp(self.now_ms * 1_000_000));
        let as_of = AsOf { index, time, asked: time };
        partition.query(&self.arena, as_of, (MAP, &operation), hash, out);
    }
}

/// Requests of one pass: what a decoder would hand over.
struct Pass {
    numbers: [u64; PASS_COUNT],
    keys: [Key; PASS_COUNT],
    hashes: [KeyHash; PASS_COUNT],
}

impl Pass {
    fn draw(prng: &mut Prng, key_count: u64) -> Self {
        let numbers = std::array::from_fn(|_| prng.below(key_count));
        Self { numbers, keys: numbers.map(key), hashes: [KeyHash::default(); PASS_COUNT] }
    }

    /// The stages before execution.
    fn prepare(&mut self, world: &World) {
        for (hash, key) in self.hashes.iter_mut().zip(&self.keys) {
            *hash = world.hasher.hash(MAP, key);
        }
        for (number, hash) in self.numbers.iter().zip(self.hashes) {
            world.partitions[partition_of(*number)].touch_lines(&world.arena, hash);
        }
        for (number, hash) in self.numbers.iter().zip(self.hashes) {
            world.partitions[partition_of(*number)].touch_record(&world.arena, hash);
        }
    }
}

/// Times `run` on passes whose keys are drawn beforehand, and returns the time of `count` passes.
/// They are timed in groups and the median group counts, so that what else the machine does in
/// some of them doesn't.
fn timed(count: u64, key_count: u64, mut run: impl FnMut(&mut Pass)) -> Duration {
    let mut prng = Prng::new(count, "bench");
    let group_count = count.div_ceil(GROUP_PASS_COUNT).max(9);
    let mut groups_ns: Vec<u64> = (0..group_count)
        .map(|_| {
            let draw = |_| Pass::draw(&mut prng, key_count);
            let mut passes: Vec<Pass> = (0..GROUP_PASS_COUNT).map(draw).collect();
            let start = Instant::now();
            passes.iter_mut().for_each(&mut run);
            u64::try_from(start.elapsed().as_nanos()).expect("a group takes less than centuries")
        })
        .collect();
    groups_ns.sort_unstable();
    let median_ns = groups_ns[groups_ns.len() / 2];
    Duration::from_nanos(median_ns * count / GROUP_PASS_COUNT)
}

fn gets(c: &mut Criterion) {
    let mut group = c.benchmark_group("get");
    group.throughput(Throughput::Elements(u64_from(PASS_COUNT)));
    for key_count in KEY_COUNTS {
        let world = World::filled(key_count);
        let mut out = Vec::with_capacity(64 << 10);
        group.bench_function(BenchmarkId::new("one by one", key_count), |b| {
            b.iter_custom(|count| {
                timed(count, key_count, |pass| {
                    out.clear();
                    for (number, key) in pass.numbers.iter().zip(&pass.keys) {
                        let hash = world.hasher.hash(MAP, key);
                        world.get(*number, key, hash, &mut out);
                    }
                    black_box(&out);
                })
            });
        });
        group.bench_function(BenchmarkId::new("pass of 32", key_count), |b| {
            b.iter_custom(|count| {
                timed(count, key_count, |pass| {
                    out.clear();
                    pass.prepare(&world);
                    for at in 0..PASS_COUNT {
                        world.get(pass.numbers[at], &pass.keys[at], pass.hashes[at], &mut out);
                    }
                    black_box(&out);
                })
            });
        });
    }
}

fn puts(c: &mut Criterion) {
    let mut group = c.benchmark_group("put");
    group.throughput(Throughput::Elements(u64_from(PASS_COUNT)));
    for key_count in KEY_COUNTS {
        for undo in [Undo::Discard, Undo::Keep] {
            let mut world = World::filled(key_count);
            let mut out = ResultBytes::new();
            group.bench_function(
                BenchmarkId::new(format!("one by one, {undo:?}"), key_count),
                |b| {
                    b.iter_custom(|count| {
                        timed(count, key_count, |pass| {
                            for (number, key) in pass.numbers.iter().zip(&pass.keys) {
                                let hash = world.hasher.hash(MAP, key);
                                out.clear();
                                world.put(*number, key, hash, undo, &mut out);
                            }
                        })
                    });
                },
            );
            group.bench_function(
                BenchmarkId::new(format!("pass of 32, {undo:?}"), key_count),
                |b| {
                    b.iter_custom(|count| {
                        timed(count, key_count, |pass| {
                            pass.prepare(&world);
                            for at in 0..PASS_COUNT {
                                let (number, hash) = (pass.numbers[at], pass.hashes[at]);
                                out.clear();
                                world.put(number, &pass.keys[at], hash, undo, &mut out);
                            }
                        })
                    });
                },
            );
        }
    }
}

/// Takes checkpoints of one partition after the other, without an end.
#[derive(Default)]
struct Checkpoints {
    partition: usize,
    under_way: bool,
    bytes: Vec<u8>,
}

impl Checkpoints {
    fn slice(&mut self, world: &mut World, record_count: usize) {
        let World { arena, partitions, .. } = world;
        let partition = &mut partitions[self.partition];
        if !self.under_way {
            partition.begin_checkpoint(arena);
            self.under_way = true;
        }
        self.bytes.clear();
        let budget = SliceBudget { record_count, size_bytes: usize::MAX };
        if partition.checkpoint_slice(arena, budget, &mut self.bytes) == Progress::Done {
            self.under_way = false;
            self.partition = (self.partition + 1) % PARTITION_COUNT;
        }
        black_box(&self.bytes);
    }

    /// Begins a checkpoint of each partition: all pages are ahead of a walk.
    fn begin_all(world: &mut World) {
        for partition in &mut world.partitions {
            partition.begin_checkpoint(&mut world.arena);
        }
    }

    fn abort_all(world: &mut World) {
        for partition in &mut world.partitions {
            partition.abort_checkpoint(&mut world.arena);
            while partition.sweep(&mut world.arena, 64) {}
        }
    }
}

fn checkpoints(c: &mut Criterion) {
    let mut group = c.benchmark_group("checkpoint");
    for key_count in KEY_COUNTS {
        let mut world = World::filled(key_count);
        let mut checkpoints = Checkpoints::default();
        group.throughput(Throughput::Elements(1_000));
        group.bench_function(BenchmarkId::new("slice of 1,000 records", key_count), |b| {
            b.iter(|| checkpoints.slice(&mut world, 1_000));
        });

        let mut world = World::filled(key_count);
        let mut out = ResultBytes::new();
        group.throughput(Throughput::Elements(u64_from(PASS_COUNT)));
        // The first write to each page copies it, and what is overwritten is kept; later ones find
        // that it was. Every 4,096 passes all begins anew, outside of what is timed.
        group.bench_function(
            BenchmarkId::new("put, pass of 32, all ahead of a walk", key_count),
            |b| {
                b.iter_custom(|count| {
                    let mut took = Duration::ZERO;
                    let mut left = count;
                    while left > 0 {
                        let now = left.min(4_096);
                        Checkpoints::begin_all(&mut world);
                        took += timed(now, key_count, |pass| {
                            pass.prepare(&world);
                            for at in 0..PASS_COUNT {
                                let (number, hash) = (pass.numbers[at], pass.hashes[at]);
                                out.clear();
                                let key = &pass.keys[at];
                                world.put(number, key, hash, Undo::Discard, &mut out);
                            }
                        });
                        Checkpoints::abort_all(&mut world);
                        left -= now;
                    }
                    took
                });
            },
        );
    }
    group.finish();
    load(c);
}

/// A partition of 100,000 keys from its checkpoint.
fn load(c: &mut Criterion) {
    const COUNT: u64 = 100_000;
    let mut world = World::filled(COUNT * u64_from(PARTITION_COUNT));
    let partition = &mut world.partitions[0];
    let mut bytes = Vec::new();
    partition.begin_checkpoint(&mut world.arena);
    let budget = SliceBudget { record_count: usize::MAX, size_bytes: usize::MAX };
    partition.checkpoint_slice(&mut world.arena, budget, &mut bytes);
    let (applied, digest) = (partition.applied(), partition.digest());
    let mut group = c.benchmark_group("load");
    group.throughput(Throughput::Elements(COUNT));
    group.bench_function("a partition of 100,000 keys", |b| {
        b.iter(|| {
            let mut arena = Arena::new();
            let mut loader = MapLoader::new(world.hasher, &mut arena);
            for piece in bytes.chunks(256 << 10) {
                loader.feed(&mut arena, piece).expect("it is a checkpoint");
            }
            black_box(loader.finish(applied, Timestamp(0), digest).expect("it is whole"))
        });
    });
    group.finish();
}

fn parts(c: &mut Criterion) {
    let hasher = KeyHasher::new([3; 16]);
    let key = key(42);
    c.bench_function("hash of a 16 B key", |b| b.iter(|| hasher.hash(MAP, black_box(&key))));
}

/// Resident bytes of the process, from the kernel.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0_u64) * 4_096
}

/// Bytes per key between 1 M and 5 M keys, and how long the slowest insertions took.
fn memory() {
    let mut world = World::new();
    let mut marks = Vec::new();
    let mut took_ns: Vec<u32> = vec![1; 5_000_000];
    took_ns.clear();
    let mut inserted = 0_u64;
    let mut out = ResultBytes::new();
    for million in [1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000_u64] {
        let start = Instant::now();
        while inserted < million {
            let key = key(inserted);
            let hash = world.hasher.hash(MAP, &key);
            out.clear();
            let one = Instant::now();
            world.put(inserted, &key, hash, Undo::Discard, &mut out);
            took_ns.push(one.elapsed().as_nanos().try_into().unwrap_or(u32::MAX));
            inserted += 1;
        }
        let own: u64 = world.partitions.iter().map(PartitionMap::own_size_bytes).sum();
        let usage = world.arena.usage();
        println!(
            "{million} keys: {usage:?}, partitions {own} bytes, resident {} bytes; \
             inserted at {} ns",
            resident_bytes(),
            start.elapsed().as_nanos() / 1_000_000,
        );
        let all = own + world.arena.bytes_reserved();
        println!("  {:.1} bytes per key reserved", ratio(all, million));
        marks.push((own, world.arena.bytes_reserved(), resident_bytes()));
    }
    let (first, last) = (marks[0], marks[marks.len() - 1]);
    println!(
        "from 1 M to 5 M keys: {:.1} bytes per key reserved, {:.1} resident",
        ratio(last.0 + last.1 - first.0 - first.1, 4_000_000),
        ratio(last.2 - first.2, 4_000_000),
    );
    took_ns.sort_unstable();
    for (name, per_million) in
        [("50", 500_000), ("99", 990_000), ("99.9", 999_000), ("99.99", 999_900)]
    {
        println!("p{name} of insertions: {} ns", took_ns[5 * per_million]);
    }
}

#[allow(clippy::cast_precision_loss)]
fn ratio(bytes: u64, count: u64) -> f64 {
    bytes as f64 / count as f64
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = parts, gets, puts, checkpoints
}

fn main() {
    if std::env::args().any(|argument| argument == "memory") {
        memory();
        return;
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
