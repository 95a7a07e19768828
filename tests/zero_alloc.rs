//! In steady state no request costs an allocation: not a get, not a put of a value as long as the
//! one before, from the frame's bytes to the encoded reply, with the write of the log and its
//! completion. Drives the pure path as a core's loop does, and says at which step memory was
//! allocated if it was.
#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

use std::collections::VecDeque;
use std::fmt;

use allocation_counter::{AllocationInfo, measure};
use arrayvec::ArrayVec;
use bytes::BytesMut;
use p2pmap::base::cast::u64_from;
use p2pmap::base::cluster::Cluster;
use p2pmap::base::ids::{
    AskId, BootEpoch, NodeId, Origin, PartitionId, SegmentId, ShardId, TermId,
};
use p2pmap::base::limits::{PASS_COUNT_MAX, SEGMENT_SIZE_BYTES_MAX};
use p2pmap::base::time::{Monotonic, NS_PER_S, NS_PER_US, Now, Timestamp};
use p2pmap::bench::mix::Mix;
use p2pmap::bench::workload::Workload;
use p2pmap::nopaxos::Settings;
use p2pmap::shard::{Config, Effects, Input, Installing, Loading, RoutedRequest, Shard};
use p2pmap::storage::block::{Block, LogKey, SegmentWrite};
use p2pmap::storage::carry::SegmentRead;
use p2pmap::storage::checkpoint::{CheckpointId, CheckpointSource, CheckpointStep};
use p2pmap::storage::record::LiveSegment;
use p2pmap::storage::recovery::{LogFolder, SegmentSource, recover};
use p2pmap::storage::wal::{Durability, SegmentWanted, Wal, WalConfig};
use p2pmap::wire::frame;
use p2pmap::wire::peer::PeerError;
use p2pmap::wire::request::{Acceptance, decode_hot};
use p2pmap::wire::route::Router;

const PARTITION_COUNT: u32 = 8;
const KEY_COUNT: usize = 1_000;
/// Until every buffer has grown to what it needs.
const WARM_UP_PASS_COUNT: usize = 3_000;
const MEASURED_PASS_COUNT: usize = 500;

/// What the shard asked of its host, in buffers that were made beforehand.
struct Host {
    replies: BytesMut,
    reply_count: usize,
    writes: VecDeque<SegmentWrite>,
    segments: VecDeque<SegmentId>,
}

impl Effects for Host {
    fn reply_buffer(&mut self, _origin: Origin, last: bool) -> Option<&mut BytesMut> {
        self.reply_count += usize::from(last);
        Some(&mut self.replies)
    }

    fn peer_buffer(&mut self, _to: NodeId, _partition: PartitionId) -> Option<&mut BytesMut> {
        None
    }

    fn refuse_peer(&mut self, _node: NodeId, _error: &PeerError) {
        unreachable!("there are no other nodes");
    }

    fn write(&mut self, write: SegmentWrite) {
        self.writes.push_back(write);
    }

    fn prepare_segment(&mut self, wanted: SegmentWanted) {
        self.segments.push_back(wanted.segment);
    }

    fn ask(&mut self, _owner: ShardId, _ask: AskId, _request: &[u8]) {
        unreachable!("there are no other shards");
    }

    fn read_segment(&mut self, _read: SegmentRead) {
        unreachable!("nothing keeps an old segment");
    }

    fn scrub(&mut self, _segments: Vec<LiveSegment>) {}

    fn report_damage(&mut self, _segment: SegmentId, _offset: u64) {
        unreachable!("nothing is damaged");
    }

    fn checkpoint(&mut self, _step: CheckpointStep) {
        unreachable!("none is due");
    }
}

/// A folder without segments.
struct Nothing;

impl SegmentSource for Nothing {
    fn read(&mut self, _: usize, _: usize, _: &mut Vec<Block>) -> std::io::Result<()> {
        unreachable!("there are no files");
    }
}

/// No checkpoints either.
struct NoCheckpoints;

impl CheckpointSource for NoCheckpoints {
    fn read(&mut self, _: CheckpointId, _: u64, _: &mut [Block]) -> std::io::Result<usize> {
        unreachable!("there are no files");
    }
}

/// The steps of a pass, and what each of them allocated.
#[derive(Default)]
struct Allocated {
    decode: AllocationInfo,
    handle: AllocationInfo,
    complete: AllocationInfo,
}

impl Allocated {
    fn count(&self) -> u64 {
        self.decode.count_total + self.handle.count_total + self.complete.count_total
    }
}

impl fmt::Display for Allocated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (step, info) in [
            ("decode and route", self.decode),
            ("Shard::handle_batch with the replies", self.handle),
            ("completion of log writes", self.complete),
        ] {
            let (count, bytes) = (info.count_total, info.bytes_total);
            writeln!(f, "{step}: {count} allocations of {bytes} bytes together")?;
        }
        Ok(())
    }
}

struct World {
    shard: Shard,
    host: Host,
    router: Router,
    now: Now,
}

impl World {
    fn start(durability: Durability) -> Self {
        let key = LogKey { shard: ShardId(0), salt: 0 };
        let partitions: Vec<PartitionId> = (0..PARTITION_COUNT).map(PartitionId).collect();
        let folder = LogFolder {
            key,
            boot_epoch: BootEpoch(1),
            segment_size_bytes: SEGMENT_SIZE_BYTES_MAX,
            partitions: &partitions,
            files: &[],
            serves_peers: false,
        };
        let mut loading = Loading::new(Config {
            cluster: "bench".into(),
            nodes: Cluster::alone("a"),
            sequencer_offset: 0,
            settings: Settings::default(),
            seed: 0,
            shard: ShardId(0),
            partitions: 0..PARTITION_COUNT,
            partition_count: PARTITION_COUNT,
            durability,
            first_term: TermId(1),
            hash_key: [7; 16],
            memory_size_bytes_max: u64::MAX,
            shard_count: 1,
            checkpoint_salt: 0,
            checkpoint_interval_size_bytes: u64::MAX,
        });
        let mut none = NoCheckpoints;
        let mut installing = Installing::new(&mut loading, &mut none, 0);
        let recovered = recover(&folder, &mut Nothing, &mut installing).unwrap();
        installing.finish().unwrap();
        let config = WalConfig {
            key,
            boot_epoch: BootEpoch(1),
            segment_size_bytes: SEGMENT_SIZE_BYTES_MAX,
            log_size_bytes_max: 4 * u64_from(SEGMENT_SIZE_BYTES_MAX),
            writes_in_flight: 2,
            durability,
        };
        let log = Wal::open(config, recovered.start);
        let mut world = Self {
            shard: Shard::new(loading, recovered.partitions, log, Vec::new()),
            host: Host {
                replies: BytesMut::with_capacity(1 << 20),
                reply_count: 0,
                writes: VecDeque::with_capacity(16),
                segments: VecDeque::with_capacity(4),
            },
            router: Router::new(PARTITION_COUNT),
            now: Now { monotonic: Monotonic(NS_PER_S), wall: Timestamp(1_800_000_000 * NS_PER_S) },
        };
        world.shard.start(world.now, &mut world.host);
        while !world.shard.is_ready() {
            world.complete();
        }
        world
    }

    /// Answers everything that the shard has asked of its host, and lets time pass.
    fn complete(&mut self) {
        loop {
            self.now.monotonic = self.now.monotonic.after_ns(10 * NS_PER_US);
            self.now.wall.0 += 10 * NS_PER_US;
            let input = match (self.host.segments.pop_front(), self.host.writes.pop_front()) {
                (Some(segment), write) => {
                    self.host.writes.extend(write);
                    Input::SegmentPrepared(segment)
                }
                (None, Some(write)) => Input::Written(write),
                (None, None) => break,
            };
            self.shard.handle(self.now, input, &mut self.host);
        }
        if self.shard.next_deadline().is_some_and(|due| due <= self.now.monotonic) {
            self.shard.handle(self.now, Input::Deadline, &mut self.host);
        }
    }

    /// A pass of requests, and what it allocated.
    fn pass(&mut self, payloads: &[Vec<u8>], allocated: &mut Allocated) {
        let acceptance = Acceptance { cluster: "bench", value_size_bytes_max: 1 << 20 };
        let router = &self.router;
        let mut requests: ArrayVec<RoutedRequest<'_>, PASS_COUNT_MAX> = ArrayVec::new();
        allocated.decode += measure(|| {
            for payload in payloads {
                let request = decode_hot(payload, acceptance).expect("it is of the usual shape");
                let route = router.route(&request).expect("it has a route");
                requests.push(RoutedRequest { origin: Origin::default(), route, request });
            }
        });
        let (shard, host, now) = (&mut self.shard, &mut self.host, self.now);
        allocated.handle += measure(|| shard.handle_batch(now, &requests, host));
        allocated.complete += measure(|| self.complete());
        assert_eq!(std::mem::take(&mut self.host.reply_count), payloads.len());
        self.host.replies.clear();
    }
}

fn payloads(put_percent: u8) -> Vec<Vec<u8>> {
    let workload = Workload {
        key_count: u64_from(KEY_COUNT),
        mix: Mix::of_puts(put_percent),
        ..Workload::default()
    };
    let strip = |frame: bytes::Bytes| {
        let (_, range) = frame::next(&frame).expect("it is valid").expect("it is whole");
        frame[range].to_vec()
    };
    workload.frames().into_iter().map(strip).collect()
}

/// What passes of such a load allocate once everything has warmed up.
fn allocated_by(durability: Durability, put_percent: u8) -> Allocated {
    let mut world = World::start(durability);
    let puts = payloads(100);
    let load = payloads(put_percent);
    let warm_up = puts.chunks_exact(PASS_COUNT_MAX).cycle().take(WARM_UP_PASS_COUNT);
    let first = load.chunks_exact(PASS_COUNT_MAX).cycle().take(WARM_UP_PASS_COUNT);
    for pass in warm_up.chain(first) {
        world.pass(pass, &mut Allocated::default());
    }
    let mut allocated = Allocated::default();
    for pass in load.chunks_exact(PASS_COUNT_MAX).cycle().take(MEASURED_PASS_COUNT) {
        world.pass(pass, &mut allocated);
    }
    allocated
}

fn assert_nothing_allocated(durability: Durability, put_percent: u8) {
    let allocated = allocated_by(durability, put_percent);
    let request_count = MEASURED_PASS_COUNT * PASS_COUNT_MAX;
    assert_eq!(
        allocated.count(),
        0,
        "{durability:?}, {put_percent} % puts, {request_count} requests:\n{allocated}"
    );
}

#[test]
fn gets_allocate_nothing() {
    assert_nothing_allocated(Durability::None, 0);
    assert_nothing_allocated(Durability::Sync, 0);
}

#[test]
fn puts_without_a_log_allocate_nothing() {
    assert_nothing_allocated(Durability::None, 100);
}

#[test]
fn durable_puts_allocate_nothing() {
    assert_nothing_allocated(Durability::Sync, 100);
}

#[test]
fn puts_written_later_allocate_nothing() {
    assert_nothing_allocated(Durability::Async, 100);
}

#[test]
fn gets_among_durable_puts_allocate_nothing() {
    assert_nothing_allocated(Durability::Sync, 50);
}

/// The counter counts: a test of zero is worth nothing otherwise.
#[test]
fn allocation_is_counted() {
    let info = measure(|| drop(std::hint::black_box(Box::new([0_u8; 100]))));
    assert_eq!((info.count_total, info.bytes_total), (1, 100));
}
