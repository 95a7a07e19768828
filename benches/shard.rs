//! What a shard takes for a request of a pass, from the decoded request to the encoded reply,
//! without a log: stamp, append, execute, collect, encode.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use p2pmap::base::cast::u64_from;
use p2pmap::base::cluster::Cluster;
use p2pmap::base::ids::{
    AskId, BootEpoch, NodeId, Origin, PartitionId, SegmentId, ShardId, TermId,
};
use p2pmap::base::limits::{PASS_COUNT_MAX, SEGMENT_SIZE_BYTES_MIN};
use p2pmap::base::prng::Prng;
use p2pmap::base::time::{Monotonic, NS_PER_S, Now, Timestamp};
use p2pmap::bench::mix::Mix;
use p2pmap::bench::workload::Workload;
use p2pmap::nopaxos::Settings;
use p2pmap::shard::{Config, Effects, Installing, Loading, RoutedRequest, Shard};
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

const PARTITION_COUNT: u32 = 64;
const KEY_COUNT: usize = 65_536;

/// Takes replies and forgets them.
#[derive(Default)]
struct Sink {
    replies: BytesMut,
}

impl Effects for Sink {
    fn reply_buffer(&mut self, _origin: Origin, _last: bool) -> Option<&mut BytesMut> {
        Some(&mut self.replies)
    }

    fn ask(&mut self, _to: ShardId, _ask: AskId, _request: &[u8]) {
        unreachable!("there are no other shards");
    }

    fn peer_buffer(&mut self, _to: NodeId, _partition: PartitionId) -> Option<&mut BytesMut> {
        None
    }

    fn refuse_peer(&mut self, _node: NodeId, _error: &PeerError) {
        unreachable!("there are no other nodes");
    }

    fn write(&mut self, _write: SegmentWrite) {
        unreachable!("there is no log");
    }

    fn read_segment(&mut self, _read: SegmentRead) {}

    fn scrub(&mut self, _segments: Vec<LiveSegment>) {}

    fn report_damage(&mut self, _segment: SegmentId, _offset: u64) {}

    fn prepare_segment(&mut self, _wanted: SegmentWanted) {
        unreachable!("there is no log");
    }

    fn checkpoint(&mut self, _step: CheckpointStep) {
        unreachable!("there is no log");
    }
}

/// A folder without segments.
struct Nothing;

impl SegmentSource for Nothing {
    fn read(
        &mut self,
        _file: usize,
        _first_block: usize,
        _blocks: &mut Vec<Block>,
    ) -> std::io::Result<()> {
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

fn now() -> Now {
    Now { monotonic: Monotonic(NS_PER_S), wall: Timestamp(1_800_000_000 * NS_PER_S) }
}

fn shard(sink: &mut Sink) -> Shard {
    let key = LogKey { shard: ShardId(0), salt: 0 };
    let partitions: Vec<_> = (0..PARTITION_COUNT).map(PartitionId).collect();
    let folder = LogFolder {
        key,
        boot_epoch: BootEpoch(1),
        segment_size_bytes: SEGMENT_SIZE_BYTES_MIN,
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
        shard_count: 1,
        durability: Durability::None,
        first_term: TermId(1),
        hash_key: [7; 16],
        checkpoint_salt: 0,
        checkpoint_interval_size_bytes: u64::MAX,
        memory_size_bytes_max: u64::MAX,
    });
    let mut none = NoCheckpoints;
    let mut installing = Installing::new(&mut loading, &mut none, 0);
    let recovered =
        recover(&folder, &mut Nothing, &mut installing).expect("nothing is not damaged");
    installing.finish().expect("nothing is needed");
    let config = WalConfig {
        key,
        boot_epoch: BootEpoch(1),
        segment_size_bytes: SEGMENT_SIZE_BYTES_MIN,
        log_size_bytes_max: 4 * u64_from(SEGMENT_SIZE_BYTES_MIN),
        writes_in_flight: 1,
        durability: Durability::None,
    };
    let mut shard =
        Shard::new(loading, recovered.partitions, Wal::open(config, recovered.start), Vec::new());
    shard.start(now(), sink);
    assert!(shard.is_ready(), "without a log nothing has to be waited for");
    shard
}

/// Frames of a load, as payloads.
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

fn passes(criterion: &mut Criterion, name: &str, put_percent: u8) {
    let mut sink = Sink::default();
    let mut shard = shard(&mut sink);
    let router = Router::new(PARTITION_COUNT);
    let acceptance = Acceptance { cluster: "bench", value_size_bytes_max: 1 << 20 };
    let run = |shard: &mut Shard, sink: &mut Sink, payloads: &[Vec<u8>]| {
        let requests: arrayvec::ArrayVec<RoutedRequest<'_>, PASS_COUNT_MAX> = payloads
            .iter()
            .map(|payload| {
                let request = decode_hot(payload, acceptance).expect("it is of the usual shape");
                let route = router.route(&request).expect("it has a route");
                RoutedRequest { origin: Origin::default(), route, request }
            })
            .collect();
        shard.handle_batch(now(), &requests, sink);
        black_box(&sink.replies);
        sink.replies.clear();
    };
    for pass in payloads(100).chunks(PASS_COUNT_MAX) {
        run(&mut shard, &mut sink, pass);
    }
    let load = payloads(put_percent);
    let passes: Vec<_> = load.chunks_exact(PASS_COUNT_MAX).collect();
    let mut prng = Prng::new(1, "passes");
    let mut group = criterion.benchmark_group("shard");
    group.throughput(Throughput::Elements(u64_from(PASS_COUNT_MAX)));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let pass = prng.below(u64_from(passes.len()));
            run(&mut shard, &mut sink, passes[p2pmap::base::cast::usize_from(pass)]);
        });
    });
    group.finish();
}

fn shard_passes(criterion: &mut Criterion) {
    passes(criterion, "get, pass of 64, 64 Ki keys, decode to reply", 0);
    passes(criterion, "put, pass of 64, 64 Ki keys, decode to reply", 100);
}

criterion_group!(benches, shard_passes);
criterion_main!(benches);
