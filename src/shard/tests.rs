mod checkpoints;
mod peers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::*;
use crate::base::cast::{u64_from, usize_from};
use crate::base::ids::{AskId, BootEpoch, Index, NodeId, Origin, SegmentId};
use crate::base::limits::{
    FRAME_PREFIX_SIZE_BYTES, MEMORY_SIZE_BYTES_MIN, SEGMENT_SIZE_BYTES_MIN, UNSYNCED_SIZE_BYTES_MAX,
};
use crate::base::prng::Prng;
use crate::base::time::{NS_PER_S, Timestamp};
use crate::proto::atomix::map::{CommandRequest, Indexed, Message, QueryRequest, message};
use crate::proto::atomix::primitive::Name;
use crate::proto::p2pmap::v1::error::Code;
use crate::proto::p2pmap::v1::result::Outcome;
use crate::proto::p2pmap::v1::{self, command, query};
use crate::storage::block::{Block, LogKey, SegmentWrite};
use crate::storage::carry::SegmentRead;
use crate::storage::checkpoint::{
    CHUNK_BLOCK_COUNT, CheckpointBlocks, CheckpointChunk, CheckpointId, CheckpointProgress,
    CheckpointSource, CheckpointStep,
};
use crate::storage::error::StorageError;
use crate::storage::record::LiveSegment;
use crate::storage::recovery::{
    LogFolder, Recovered, Salvage, SegmentFile, SegmentSource, Suspect, Suspicion, recover_member,
    recover_partly,
};
use crate::storage::wal::{SegmentWanted, WalConfig};
use crate::wire::peer::PeerError;
use crate::wire::request::{Acceptance, decode_cold};

mod cluster;
mod forwarding;
mod halt;
mod leadership;
mod replacement;
mod several;
mod truncation;

mod measure;
mod ticks;

const PARTITION_COUNT: u32 = 8;
const SEGMENT_SIZE: usize = SEGMENT_SIZE_BYTES_MIN;
const LOG_SEGMENT_COUNT: u64 = 64;
const SALT: u32 = 7;

/// What a shard asked of its host.
#[derive(Debug, Default)]
struct Asked {
    replies: BytesMut,
    finished_count: usize,
    /// The client takes no more answers.
    gone: bool,
    writes: VecDeque<SegmentWrite>,
    segments: VecDeque<SegmentWanted>,
    reads: VecDeque<SegmentRead>,
    damaged: Vec<(SegmentId, u64)>,
    steps: VecDeque<CheckpointStep>,
    scrubbed: Option<Vec<LiveSegment>>,
    /// The shard.
    me: ShardId,
    asks: VecDeque<(ShardId, AskId, BytesMut)>,
    /// Frames for other nodes.
    sent: BTreeMap<NodeId, BytesMut>,
    /// Nodes that sent what no member can, if somebody counts them.
    refused: Option<Vec<NodeId>>,
    /// Answers to other shards' requests, by place, and whether they have ended.
    guests: BTreeMap<u32, (BytesMut, bool)>,
}

impl Effects for Asked {
    fn reply_buffer(&mut self, origin: Origin, last: bool) -> Option<&mut BytesMut> {
        if origin.home != self.me {
            let (buffer, ended) = self.guests.entry(origin.connection).or_default();
            assert!(!*ended, "an answer ends once");
            *ended = last;
            return Some(buffer);
        }
        self.finished_count += usize::from(last);
        (!self.gone).then_some(&mut self.replies)
    }

    fn ask(&mut self, to: ShardId, ask: AskId, request: &[u8]) {
        assert_ne!(to, self.me, "a shard knows its own share");
        self.asks.push_back((to, ask, request.into()));
    }

    fn peer_buffer(&mut self, to: NodeId, _: PartitionId) -> Option<&mut BytesMut> {
        Some(self.sent.entry(to).or_default())
    }

    fn refuse_peer(&mut self, node: NodeId, error: &PeerError) {
        match &mut self.refused {
            Some(refused) => refused.push(node),
            None => panic!("node {node} sends what no member can: {error}"),
        }
    }

    fn write(&mut self, write: SegmentWrite) {
        self.writes.push_back(write);
    }

    fn prepare_segment(&mut self, wanted: SegmentWanted) {
        self.segments.push_back(wanted);
    }

    fn read_segment(&mut self, read: SegmentRead) {
        self.reads.push_back(read);
    }

    fn scrub(&mut self, segments: Vec<LiveSegment>) {
        self.scrubbed = Some(segments);
    }

    fn report_damage(&mut self, segment: SegmentId, offset: u64) {
        self.damaged.push((segment, offset));
    }

    fn checkpoint(&mut self, step: CheckpointStep) {
        self.steps.push_back(step);
    }
}

/// Segments and checkpoints in memory.
#[derive(Clone, Debug, Default)]
struct Disk {
    segments: BTreeMap<SegmentId, Vec<Block>>,
    checkpoints: BTreeMap<CheckpointId, Vec<Block>>,
    /// The checkpoint that has no name yet.
    unfinished: Option<(CheckpointId, Vec<Block>)>,
}

impl Disk {
    fn write(&mut self, write: &SegmentWrite) {
        let segment =
            self.segments.get_mut(&write.segment).expect("only prepared segments are written");
        let first = usize_from(write.offset) / size_of::<Block>();
        segment[first..first + write.blocks.len()].clone_from_slice(&write.blocks);
    }
}

impl Disk {
    /// Does a step of a checkpoint.
    fn checkpoint(&mut self, step: CheckpointStep) -> Option<CheckpointProgress> {
        match step {
            CheckpointStep::Begin(id) => {
                self.unfinished = Some((id, Vec::new()));
                None
            }
            CheckpointStep::Write(CheckpointChunk { offset, blocks }) => {
                let (_, file) = self.unfinished.as_mut().expect("it was begun");
                assert_eq!(usize_from(offset), file.len() * size_of::<Block>());
                file.extend_from_slice(&blocks);
                Some(CheckpointProgress::Written(blocks))
            }
            CheckpointStep::Finish => {
                let (id, file) = self.unfinished.take().expect("it was begun");
                self.checkpoints.insert(id, file);
                Some(CheckpointProgress::Finished(id))
            }
            CheckpointStep::Remove(id) => {
                self.checkpoints.remove(&id).expect("it is there, and removed once");
                None
            }
            CheckpointStep::Read(read) => {
                let blocks = self.checkpoints.get(&read.id).map(|file| {
                    let begin = usize_from(read.offset()) / size_of::<Block>();
                    file[begin..file.len().min(begin + CHUNK_BLOCK_COUNT)].to_vec()
                });
                Some(CheckpointProgress::Read(CheckpointBlocks { read, blocks }))
            }
        }
    }
}

struct Checkpoints(BTreeMap<CheckpointId, Vec<Block>>);

impl CheckpointSource for Checkpoints {
    fn read(
        &mut self,
        id: CheckpointId,
        offset: u64,
        blocks: &mut [Block],
    ) -> std::io::Result<usize> {
        let file = self.0.get(&id).ok_or(std::io::ErrorKind::NotFound)?;
        let rest = &file[(usize_from(offset) / size_of::<Block>()).min(file.len())..];
        let count = rest.len().min(blocks.len());
        blocks[..count].clone_from_slice(&rest[..count]);
        Ok(count)
    }
}

struct Source<'a>(Vec<&'a Vec<Block>>);

impl SegmentSource for Source<'_> {
    fn read(&mut self, file: usize, first: usize, blocks: &mut Vec<Block>) -> std::io::Result<()> {
        let end = first + blocks.len();
        blocks.clone_from_slice(&self.0[file][first..end]);
        Ok(())
    }
}

/// Where a shard runs.
struct Place {
    nodes: Cluster,
    sequencer_offset: u8,
    log_segment_count: u64,
}

/// A shard with its disk and its clock.
struct Host {
    shard: Shard,
    asked: Asked,
    disk: Disk,
    now: Now,
    next_correlation: u64,
}

impl Host {
    fn start(durability: Durability) -> Self {
        Self::boot(Disk::default(), durability, 1)
    }

    fn boot(disk: Disk, durability: Durability, boot: u64) -> Self {
        Self::boot_with_memory(disk, durability, boot, u64::MAX)
    }

    fn boot_with_memory(
        disk: Disk,
        durability: Durability,
        boot: u64,
        memory_size_bytes_max: u64,
    ) -> Self {
        Self::boot_one((ShardId(0), 1), disk, durability, boot, memory_size_bytes_max)
    }

    /// One of several shards.
    fn boot_one(
        shard: (ShardId, u16),
        disk: Disk,
        durability: Durability,
        boot: u64,
        memory_size_bytes_max: u64,
    ) -> Self {
        let alone = Cluster::alone("a");
        let mut host =
            Self::boot_member(alone, shard, disk, (durability, boot), memory_size_bytes_max);
        while !host.shard.is_ready() {
            while host.log_step(0) {}
            host.wait();
        }
        while host.log_step(0) {}
        host
    }

    /// A shard of a node of a cluster. It isn't ready yet.
    fn boot_member(
        nodes: Cluster,
        shard: (ShardId, u16),
        disk: Disk,
        (durability, boot): (Durability, u64),
        memory_size_bytes_max: u64,
    ) -> Self {
        let place = Place { nodes, sequencer_offset: 0, log_segment_count: LOG_SEGMENT_COUNT };
        let booted = Self::boot_from(place, shard, disk, (durability, boot), memory_size_bytes_max);
        let (host, suspects) = booted.expect("the log is this shard's");
        let is_new = |suspect: &Suspect| suspect.suspicion == Suspicion::Blank;
        assert!(suspects.iter().all(is_new), "{suspects:?}");
        host
    }

    /// The same with what may be wrong: the partitions that can't go on from what the disk holds.
    fn boot_from(
        Place { nodes, sequencer_offset, log_segment_count }: Place,
        (me, shard_count): (ShardId, u16),
        disk: Disk,
        (durability, boot): (Durability, u64),
        memory_size_bytes_max: u64,
    ) -> Result<(Self, Vec<Suspect>), StorageError> {
        let key = LogKey { shard: me, salt: SALT };
        let own = ShardMap::new(PARTITION_COUNT, shard_count).partitions_of(me);
        let config = Config {
            cluster: "test".into(),
            seed: boot * 100 + u64::from(nodes.me().0),
            nodes,
            sequencer_offset,
            settings: Settings::default(),
            shard: me,
            partitions: own.clone(),
            partition_count: PARTITION_COUNT,
            shard_count,
            durability,
            first_term: TermId(1),
            hash_key: [3; 16],
            checkpoint_salt: SALT,
            checkpoint_interval_size_bytes: 64 << 10,
            memory_size_bytes_max,
        };
        let partitions: Vec<PartitionId> = own.map(PartitionId).collect();
        let file = |(name, blocks): (&SegmentId, &Vec<Block>)| SegmentFile {
            name: *name,
            size_bytes: u64_from(size_of_val(&blocks[..])),
        };
        let files: Vec<SegmentFile> = disk.segments.iter().map(file).collect();
        let folder = LogFolder {
            key,
            boot_epoch: BootEpoch(boot),
            segment_size_bytes: SEGMENT_SIZE,
            partitions: &partitions,
            files: &files,
            serves_peers: true,
        };
        let is_alone = config.nodes.replication_factor() == 1;
        let mut loading = Loading::new(config);
        let mut source = Source(disk.segments.values().collect());
        let mut checkpoints = Checkpoints(disk.checkpoints.clone());
        let mut installing = Installing::new(&mut loading, &mut checkpoints, SALT);
        let recovered = recover_host(is_alone, &folder, &mut source, &mut installing)?;
        installing.finish().expect("every checkpoint that is needed is there");
        let log = WalConfig {
            key,
            boot_epoch: BootEpoch(boot),
            segment_size_bytes: SEGMENT_SIZE,
            log_size_bytes_max: log_segment_count * u64_from(SEGMENT_SIZE),
            writes_in_flight: 2,
            durability,
        };
        let start = recovered.start;
        let needed = |id: &CheckpointId| {
            let partition = start.state.partition(id.partition).expect("it is the shard's");
            partition.checkpoint == id.index || start.superseded.contains(&(id.partition, id.index))
        };
        let stale = disk.checkpoints.keys().copied().filter(|id| !needed(id)).collect();
        let wal = Wal::open(log, start);
        let shard = Shard::new(loading, recovered.partitions, wal, stale);
        let now = Now { monotonic: Monotonic(NS_PER_S), wall: Timestamp(boot * 1_000 * NS_PER_S) };
        let mut host =
            Self { shard, asked: Asked { me, ..Asked::default() }, disk, now, next_correlation: 0 };
        host.shard.start(host.now, &mut host.asked);
        Ok((host, recovered.suspects))
    }

    /// Prepares segments and completes writes until nothing more is asked.
    fn run(&mut self) {
        while self.step(0) {}
    }

    /// Does one of the things that were asked; `choice` says which.
    fn step(&mut self, choice: u64) -> bool {
        let log_is_idle = self.asked.writes.is_empty() && self.asked.segments.is_empty();
        if !self.asked.steps.is_empty() && (log_is_idle || choice % 3 == 2) {
            self.checkpoint_step();
            return true;
        }
        self.log_step(choice)
    }

    /// Does one of the things that the log asked for; `choice` says which of the writes.
    fn log_step(&mut self, choice: u64) -> bool {
        self.advance(1_000);
        if let Some(SegmentWanted { segment, from }) = self.asked.segments.pop_front() {
            let former = from.and_then(|free| self.disk.segments.remove(&free.segment));
            let former = former.filter(|_| from.is_some_and(|free| !free.wipe));
            let mut blocks = former.unwrap_or_default();
            // Somebody may have cut the file that is used again.
            blocks.resize(SEGMENT_SIZE / size_of::<Block>(), block());
            self.disk.segments.insert(segment, blocks);
            self.handle(Input::SegmentPrepared(segment));
            return true;
        }
        if let Some(read) = self.asked.reads.pop_front() {
            let blocks = self.disk.segments.get(&read.segment).map(|blocks| {
                blocks[read.first_block..read.first_block + read.block_count].to_vec()
            });
            self.handle(Input::SegmentRead(SegmentBlocks { read, blocks }));
            return true;
        }
        let count = u64_from(self.asked.writes.len());
        if count == 0 {
            return false;
        }
        let write = self.asked.writes.remove(usize_from(choice % count)).expect("it is there");
        self.disk.write(&write);
        self.handle(Input::Written(write));
        true
    }

    /// Does the next step of a checkpoint that was asked for.
    fn checkpoint_step(&mut self) {
        let Some(step) = self.asked.steps.pop_front() else { return };
        if let Some(progress) = self.disk.checkpoint(step) {
            self.handle(Input::Checkpoint(progress));
        }
    }

    /// Does some steps of a checkpoint of which the shard never hears.
    fn run_ahead(&mut self, prng: &mut Prng) {
        for _ in 0..prng.below(4) {
            if let Some(step) = self.asked.steps.pop_front() {
                self.disk.checkpoint(step);
            }
        }
    }

    /// Lets time pass until something is due, if anything is.
    fn wait(&mut self) {
        if let Some(due) = self.shard.next_deadline() {
            self.now.monotonic = self.now.monotonic.max(due);
            self.handle(Input::Deadline);
        }
    }

    fn advance(&mut self, ns: u64) {
        self.now.monotonic = self.now.monotonic.after_ns(ns);
        self.now.wall.0 += ns;
    }

    fn handle(&mut self, input: Input<'_>) {
        self.shard.handle(self.now, input, &mut self.asked);
        // A host comes to that in the same turn.
        while self.shard.keeps_somebody_waiting() {
            self.shard.handle(self.now, Input::Deadline, &mut self.asked);
        }
    }

    fn command(&mut self, operation: command::Operation) -> u64 {
        let command =
            v1::Command { map: "m".into(), operation: Some(operation), ..v1::Command::default() };
        self.send_command(None, &command)
    }

    /// A command of which all is said; `partition`: to which it goes by its target.
    fn send_command(&mut self, partition: Option<PartitionId>, command: &v1::Command) -> u64 {
        let target =
            partition.map(|partition| Name { name: format!("#{partition}"), ..Name::default() });
        let request = CommandRequest {
            message_id: self.next_correlation + 1,
            value: command.encode_to_vec().into(),
            ..CommandRequest::default()
        };
        self.request_to(target, message::Message::Command(request))
    }

    fn query(&mut self, operation: query::Operation) -> u64 {
        let query =
            v1::Query { map: "m".into(), operation: Some(operation), ..v1::Query::default() };
        self.send_query(&query)
    }

    fn send_query(&mut self, query: &v1::Query) -> u64 {
        self.request(message::Message::Query(QueryRequest {
            message_id: self.next_correlation + 1,
            value: query.encode_to_vec().into(),
            ..QueryRequest::default()
        }))
    }

    fn request(&mut self, message: message::Message) -> u64 {
        self.request_to(None, message)
    }

    fn request_to(&mut self, target: Option<Name>, message: message::Message) -> u64 {
        self.next_correlation += 1;
        let payload = Message { target, message: Some(message) }.encode_to_vec();
        let cold = decode_cold(&payload).expect("it is well-formed");
        let acceptance = Acceptance { cluster: "test", value_size_bytes_max: 1 << 20 };
        let request = cold.request(acceptance).expect("it is valid");
        let route = Router::new(PARTITION_COUNT).route(&request).expect("it has a route");
        self.handle(Input::Request(RoutedRequest { origin: Origin::default(), route, request }));
        self.next_correlation
    }

    fn put(&mut self, key: &str, value: &str) -> u64 {
        self.command(put(key, value))
    }

    fn get(&mut self, key: &str) -> Option<String> {
        let correlation = self.query(get(key));
        match self.answers().remove(&correlation).map(|mut answers| answers.remove(0).1) {
            Some(Outcome::Found(found)) => {
                found.entry.map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
            }
            other => panic!("no answer to a get: {other:?}"),
        }
    }

    /// What was answered since the last time: index and outcome, by correlation id.
    fn answers(&mut self) -> BTreeMap<u64, Vec<(u64, Outcome)>> {
        let mut bytes = self.asked.replies.split().freeze();
        let mut answers: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        while !bytes.is_empty() {
            let prefix = bytes.split_to(FRAME_PREFIX_SIZE_BYTES);
            let size = u32::from_be_bytes(prefix[1..].try_into().unwrap());
            let message = Message::decode(bytes.split_to(usize_from_u32(size))).unwrap();
            let (correlation, index, value) = match message.message {
                Some(message::Message::CommandResponse(r)) => (r.message_id, r.index, r.value),
                Some(message::Message::QueryResponse(r)) => {
                    let indexed = Indexed::decode(r.value).unwrap();
                    (r.message_id, indexed.index, indexed.value)
                }
                other => panic!("no response: {other:?}"),
            };
            let outcome = v1::Result::decode(value).unwrap().outcome.expect("it is always set");
            answers.entry(correlation).or_default().push((index, outcome));
        }
        answers
    }

    /// Loses power: of the writes in flight any blocks may be on the disk. Then starts again.
    fn crash(mut self, prng: &mut Prng, boot: u64) -> Self {
        self.disk.unfinished = None;
        self.tear(prng);
        Self::boot(self.disk, Durability::Sync, boot)
    }

    /// Of the writes in flight any blocks come to be on the disk.
    fn tear(&mut self, prng: &mut Prng) {
        for write in std::mem::take(&mut self.asked.writes) {
            for (place, block) in write.blocks.iter().enumerate() {
                if prng.one_in(2) {
                    let offset = write.offset + u64_from(place * size_of::<Block>());
                    let (batch, segment) = (write.batch, write.segment);
                    let blocks = vec![block.clone()];
                    self.disk.write(&SegmentWrite { batch, segment, offset, blocks });
                }
            }
        }
    }

    fn digests(&self) -> Vec<StateDigest> {
        (0..PARTITION_COUNT).map(|partition| self.shard.digest(PartitionId(partition))).collect()
    }
}

/// What a shard goes on with. A lone one is asked for old slots here, too, but has nobody to
/// recover from.
fn recover_host(
    is_alone: bool,
    folder: &LogFolder<'_>,
    source: &mut impl SegmentSource,
    apply: &mut impl Salvage,
) -> Result<Recovered, StorageError> {
    match is_alone {
        true => recover_partly(folder, source, apply),
        false => recover_member(folder, source, apply),
    }
}

fn block() -> Block {
    Block([0; size_of::<Block>()])
}

fn put(key: &str, value: &str) -> command::Operation {
    command::Operation::Put(v1::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..v1::Put::default()
    })
}

fn get(key: &str) -> query::Operation {
    query::Operation::Get(v1::Get { key: Bytes::copy_from_slice(key.as_bytes()) })
}

fn error_code(answers: &[(u64, Outcome)]) -> Option<Code> {
    match answers {
        [(_, Outcome::Error(error))] => Some(error.code()),
        _ => None,
    }
}

#[test]
fn put_without_a_log_is_answered_and_read_at_once() {
    let mut host = Host::start(Durability::None);
    let correlation = host.put("k", "v");
    let answers = host.answers();
    let [(index, Outcome::Written(written))] = &answers[&correlation][..] else {
        panic!("{answers:?}")
    };
    assert_eq!(*index, written.version);
    assert_eq!(host.get("k").as_deref(), Some("v"));
    assert_eq!(host.get("other"), None);
    assert!(host.asked.writes.is_empty(), "there is no log");
}

#[test]
fn put_is_answered_only_when_its_record_is_durable_and_not_read_before() {
    let mut host = Host::start(Durability::Sync);
    let first = host.put("k", "old");
    host.run();
    assert!(host.answers().contains_key(&first));

    let second = host.put("k", "new");
    assert!(host.answers().is_empty(), "the write is in flight");
    assert_eq!(host.get("k").as_deref(), Some("old"), "what a crash could lose is not shown");
    host.run();
    assert!(host.answers().contains_key(&second));
    assert_eq!(host.get("k").as_deref(), Some("new"));
}

#[test]
fn put_with_async_durability_is_answered_at_once_and_written_soon() {
    let mut host = Host::start(Durability::Async);
    let correlation = host.put("k", "v");
    assert!(host.answers().contains_key(&correlation));
    assert!(host.asked.writes.is_empty(), "it gathers");
    host.wait();
    assert_eq!(host.asked.writes.len(), 1);
}

#[test]
fn puts_with_async_durability_are_refused_while_too_much_is_unwritten() {
    let mut host = Host::start(Durability::Async);
    let value = "x".repeat(1 << 20);
    // The disk is slow: nothing that is handed to it completes.
    let most = UNSYNCED_SIZE_BYTES_MAX / value.len();
    let refused = (0..=most).find_map(|_| {
        let correlation = host.put("k", &value);
        error_code(&host.answers()[&correlation])
    });
    assert_eq!(refused, Some(Code::ResourceExhausted));
    assert_eq!(host.shard.counters().refused_unsynced, 1);

    host.run();
    let correlation = host.put("k", &value);
    assert_eq!(error_code(&host.answers()[&correlation]), None, "the disk has caught up");
}

#[test]
fn answer_is_given_up_when_the_log_is_too_slow_and_given_once() {
    let mut host = Host::start(Durability::Sync);
    let correlation = host.put("k", "v");
    host.advance(2 * NS_PER_S);
    host.handle(Input::Deadline);
    assert_eq!(error_code(&host.answers()[&correlation]), Some(Code::OutcomeUnknown));
    host.run();
    assert!(host.answers().is_empty(), "it was answered already");
    assert_eq!(host.get("k").as_deref(), Some("v"), "but the write went on");
}

#[test]
fn read_waits_for_the_index_that_it_asks_for() {
    let mut host = Host::start(Durability::Sync);
    host.put("k", "v");
    let query = v1::Query {
        map: "m".into(),
        min_index: 1,
        operation: Some(get("k")),
        ..v1::Query::default()
    };
    let waiting = host.send_query(&query);
    assert!(host.answers().is_empty());
    host.run();
    let answers = host.answers();
    assert!(matches!(&answers[&waiting][..], [(1, Outcome::Found(_))]), "{answers:?}");

    let hopeless = host.send_query(&v1::Query { min_index: 99, ..query });
    host.advance(2 * NS_PER_S);
    host.handle(Input::Deadline);
    assert_eq!(error_code(&host.answers()[&hopeless]), Some(Code::Unavailable));
}

#[test]
fn reads_and_streams_that_wait_are_served_once_in_a_turn_however_many_inputs_it_has() {
    let mut host = Host::start(Durability::Sync);
    let query = v1::Query {
        map: "m".into(),
        min_index: 1,
        operation: Some(get("k")),
        ..v1::Query::default()
    };
    for _ in 0..3 * PASS_COUNT_MAX {
        host.send_query(&query);
    }
    host.put("k", "v");
    host.advance(1_000);
    let write = host.asked.writes.pop_front().expect("the put is written");
    host.disk.write(&write);
    host.shard.handle(host.now, Input::Written(write), &mut host.asked);
    host.shard.handle(host.now, Input::DiskSpace(1 << 40), &mut host.asked);
    assert_eq!(host.answers().len(), 1, "the put's: reads aren't looked at with each input");
    for _ in 0..3 {
        assert_eq!(host.shard.next_deadline(), Some(host.now.monotonic), "at once");
        host.shard.handle(host.now, Input::Deadline, &mut host.asked);
        assert_eq!(host.answers().len(), PASS_COUNT_MAX);
    }
    assert_ne!(host.shard.next_deadline(), Some(host.now.monotonic));
    assert!(host.shard.core.waiting_reads.is_empty());
}

#[test]
fn whole_map_is_counted_listed_and_cleared_across_partitions() {
    let mut host = Host::start(Durability::Sync);
    let keys: BTreeSet<String> = (0..100).map(|number| format!("key {number}")).collect();
    for key in &keys {
        host.put(key, "v");
    }
    host.run();
    host.answers();

    let size = host.query(query::Operation::Size(v1::Size {}));
    let listed = host.query(query::Operation::Entries(v1::Entries::default()));
    let mut answers = host.answers();
    let Some((0, Outcome::Size(size))) = answers.remove(&size).unwrap().pop() else { panic!() };
    assert_eq!(size.entries, 100);
    let mut pages = answers.remove(&listed).unwrap();
    assert!(
        matches!(pages.pop(), Some((_, Outcome::QueryClose(close))) if close.message_id == listed)
    );
    let mut found = BTreeSet::new();
    for (index, page) in pages {
        let Outcome::Page(page) = page else { panic!("{page:?}") };
        assert!(index > 0, "each page says what it reflects");
        for item in page.items {
            assert!(found.insert(String::from_utf8(item.key.to_vec()).unwrap()), "no key twice");
        }
    }
    assert_eq!(found, keys);

    let cleared = host.command(command::Operation::Clear(v1::Clear {}));
    assert!(host.answers().is_empty(), "it waits for the log as any write");
    host.run();
    let answers = host.answers();
    assert!(
        matches!(&answers[&cleared][..], [(0, Outcome::Cleared(cleared))] if cleared.entries == 100)
    );
    assert_eq!(host.get("key 1"), None);
}

#[test]
fn whole_map_has_no_index_to_wait_for() {
    let mut host = Host::start(Durability::None);
    let query = v1::Query {
        map: "m".into(),
        min_index: 1,
        operation: Some(query::Operation::Size(v1::Size {})),
        ..v1::Query::default()
    };
    let correlation = host.send_query(&query);
    assert_eq!(error_code(&host.answers()[&correlation]), Some(Code::InvalidArgument));
}

#[test]
fn clear_that_was_not_done_everywhere_does_not_claim_that_nothing_was_changed() {
    let mut host = Host::start(Durability::Sync);
    // Fill what one partition may leave unstable, to the last byte that a clear could have.
    for size in [1 << 20, 1 << 10, 1, 0] {
        let value = "x".repeat(size);
        let refused = loop {
            let correlation = host.put("k", &value);
            if let Some(answers) = host.answers().remove(&correlation) {
                break answers;
            }
        };
        assert_eq!(error_code(&refused), Some(Code::ResourceExhausted));
    }
    let cleared = host.command(command::Operation::Clear(v1::Clear {}));
    host.run();
    let answers = host.answers();
    assert_eq!(error_code(&answers[&cleared]), Some(Code::OutcomeUnknown), "and the others aren't");
}

#[test]
fn limited_listing_goes_on_where_it_ended() {
    let mut host = Host::start(Durability::None);
    for number in 0..50 {
        host.put(&format!("key {number}"), "v");
    }
    host.answers();
    let mut found = BTreeSet::new();
    let mut start_after = Bytes::new();
    loop {
        let entries = v1::Entries { start_after, limit: 7, ..v1::Entries::default() };
        let listed = host.query(query::Operation::Entries(entries));
        let mut pages = host.answers().remove(&listed).unwrap();
        pages.pop();
        let mut next = Bytes::new();
        let mut count = 0;
        for (_, page) in pages {
            let Outcome::Page(page) = page else { panic!("{page:?}") };
            count += page.items.len();
            found.extend(page.items.into_iter().map(|item| item.key));
            next = page.next;
        }
        assert!(count <= 7);
        if next.is_empty() {
            break;
        }
        start_after = next;
    }
    assert_eq!(found.len(), 50);
}

#[test]
fn listing_whose_client_is_gone_is_finished_and_once() {
    let mut host = Host::start(Durability::None);
    host.put("k", "v");
    host.asked.gone = true;
    let before = host.asked.finished_count;
    host.query(query::Operation::Entries(v1::Entries::default()));
    host.wait();
    assert_eq!(host.asked.finished_count, before + 1);
    assert_eq!(host.shard.next_deadline(), None, "nothing goes on");
}

#[test]
fn closing_shard_refuses_commands_and_ends_its_log_cleanly() {
    let mut host = Host::start(Durability::Sync);
    let before = host.put("k", "v");
    host.handle(Input::Close);
    let after = host.put("k", "w");
    let answers = host.answers();
    assert_eq!(error_code(&answers[&after]), Some(Code::Unavailable));
    assert!(!answers.contains_key(&before));
    while !host.shard.is_drained() {
        host.run();
        host.wait();
    }
    assert!(host.answers().contains_key(&before));
    let digests = host.digests();
    let mut host = Host::boot(host.disk, Durability::Sync, 2);
    assert_eq!(host.get("k").as_deref(), Some("v"));
    assert_eq!(host.digests(), digests);
}

#[test]
fn closing_shard_keeps_no_read_waiting_for_what_will_not_come() {
    let mut host = Host::start(Durability::Sync);
    host.put("k", "v");
    let query = |min_index| v1::Query {
        map: "m".into(),
        min_index,
        timeout_ms: 60_000,
        operation: Some(get("k")),
        ..v1::Query::default()
    };
    let (reached, hopeless) = (host.send_query(&query(1)), host.send_query(&query(2)));
    host.handle(Input::Close);
    assert!(host.answers().is_empty(), "the put is under way");
    while !host.shard.is_drained() {
        host.run();
        host.wait();
    }
    let answers = host.answers();
    assert!(matches!(&answers[&reached][..], [(1, Outcome::Found(_))]), "{answers:?}");
    assert_eq!(error_code(&answers[&hopeless]), Some(Code::Unavailable));
    let late = host.send_query(&query(2));
    assert_eq!(error_code(&host.answers()[&late]), Some(Code::Unavailable));
}

/// Random load, completions in random order, and power cuts that leave any blocks of the writes in
/// flight behind: whatever was answered is there, and what was not is there whole or not at all.
#[test]
fn nothing_answered_is_lost_by_a_power_cut() {
    let first_seed = std::env::var("P2PMAP_SEED").map_or(1, |seed| seed.parse().unwrap());
    for seed in first_seed..first_seed + 12 {
        let mut prng = Prng::new(seed, "shard");
        let mut host = Host::start(Durability::Sync);
        let mut known: BTreeMap<String, Option<String>> = BTreeMap::new();
        for boot in 2..6 {
            let mut pending: BTreeMap<u64, (String, String)> = BTreeMap::new();
            for number in 0..prng.below(400) {
                if prng.one_in(3) {
                    host.step(prng.next_u64());
                }
                let key = format!("key {}", prng.below(40));
                if pending.values().all(|(other, _)| *other != key) {
                    let fill = "x".repeat(usize_from(prng.below(3_000)));
                    let value = format!("{boot}-{number}-{fill}");
                    pending.insert(host.put(&key, &value), (key, value));
                }
                for (correlation, _) in host.answers() {
                    let (key, value) = pending.remove(&correlation).expect("answered once");
                    known.insert(key, Some(value));
                }
            }
            host = host.crash(&mut prng, boot);
            for number in 0..40 {
                let key = format!("key {number}");
                let found = host.get(&key);
                let answered = known.get(&key).cloned().flatten();
                let unanswered = pending
                    .values()
                    .any(|(other, value)| *other == key && Some(value) == found.as_ref());
                assert!(
                    found == answered || unanswered,
                    "seed {seed}, boot {boot}: {key} was lost; P2PMAP_SEED={seed} repeats it"
                );
                known.insert(key, found);
            }
        }
    }
}

#[test]
fn versions_grow_across_restarts() {
    let mut prng = Prng::new(1, "restarts");
    let mut host = Host::start(Durability::Sync);
    let mut last = Index(0);
    for boot in 2..5 {
        let correlation = host.put("k", "v");
        host.run();
        let answers = host.answers();
        let [(index, _)] = answers[&correlation][..] else { panic!("{answers:?}") };
        assert!(Index(index) > last);
        last = Index(index);
        host = host.crash(&mut prng, boot);
    }
}

/// Puts keys with values of `size_bytes` until one is refused; how many were not.
fn fill_memory(host: &mut Host, name: &str, size_bytes: usize) -> usize {
    let value = "x".repeat(size_bytes);
    for count in 0.. {
        let correlation = host.put(&format!("{name} {count:05}"), &value);
        host.run();
        let answers = &host.answers()[&correlation];
        if let [(_, Outcome::Error(error))] = &answers[..] {
            assert_eq!(error.code(), Code::ResourceExhausted);
            assert!(error.message.contains("--memory-max"), "{}", error.message);
            return count;
        }
    }
    unreachable!("the loop ends")
}

fn is_refused(host: &mut Host, operation: command::Operation) -> bool {
    let correlation = host.command(operation);
    host.run();
    error_code(&host.answers()[&correlation]) == Some(Code::ResourceExhausted)
}

fn remove(key: &str) -> command::Operation {
    let key = Bytes::copy_from_slice(key.as_bytes());
    command::Operation::Remove(v1::Remove { key, ..v1::Remove::default() })
}

#[test]
fn puts_are_refused_at_the_bound_of_memory_and_go_on_once_space_is_freed() {
    const MEMORY: u64 = MEMORY_SIZE_BYTES_MIN;
    for durability in [Durability::None, Durability::Sync] {
        let mut host = Host::boot_with_memory(Disk::default(), durability, 1, MEMORY);
        let count = fill_memory(&mut host, "small", 1_900);
        assert!(count > 5_000, "{count} of 1,900 bytes each");
        assert!(host.shard.memory_size_bytes() <= MEMORY);
        assert_eq!(host.shard.counters().refused_map_full, 1);

        let new = || put("small 99999", &"x".repeat(1_900));
        assert!(is_refused(&mut host, new()));
        let read = host.get("small 00007");
        assert_eq!(read.map(|value| value.len()), Some(1_900), "reads go on");
        assert_eq!(host.get("small 99999"), None);
        assert!(!is_refused(&mut host, remove("small 00007")), "removals go on");
        assert!(!is_refused(&mut host, new()), "there is room for one again");
        assert!(is_refused(&mut host, put("small 00007", &"x".repeat(1_900))));

        assert!(!is_refused(&mut host, command::Operation::Clear(v1::Clear {})));
        // A checkpoint under way keeps what it hasn't come to.
        let is_busy = |host: &Host| {
            let core = &host.shard.core;
            !core.sweeping.is_empty() || core.checkpoints.id_under_way().is_some()
        };
        while is_busy(&host) {
            host.wait();
            host.run();
        }
        assert!(!is_refused(&mut host, put("other", &"y".repeat(1_500))), "of any size");
        assert!(host.shard.core.arena.bytes_used() < MEMORY / 100);
        assert!(host.shard.memory_size_bytes() <= MEMORY);
    }
}

#[test]
fn large_values_count_while_they_are_there() {
    const MEMORY: u64 = MEMORY_SIZE_BYTES_MIN;
    let mut host = Host::boot_with_memory(Disk::default(), Durability::Sync, 1, MEMORY);
    assert!(!is_refused(&mut host, put("small", "x")));
    let count = fill_memory(&mut host, "large", 1 << 20);
    assert!((8..16).contains(&count), "{count} of a MiB each");
    assert!(!is_refused(&mut host, put("another small", "x")), "their page has room");
    let again = put("large 00000", &"z".repeat(1 << 20));
    assert!(is_refused(&mut host, again.clone()), "both values are there until it is stable");
    assert!(!is_refused(&mut host, remove("large 00001")));
    assert!(!is_refused(&mut host, again));
    assert!(host.shard.memory_size_bytes() <= MEMORY);
}

/// What lies beside the arena is counted as it is, whatever comes and goes.
#[test]
fn memory_of_partitions_is_counted_without_a_drift() {
    let mut host = Host::start(Durability::Sync);
    for round in 0..3_000 {
        host.put(&format!("key {round}"), "value");
        if round % 50 == 0 {
            host.command(command::Operation::Clear(v1::Clear {}));
        }
        if round % 100 == 99 {
            host.run();
        }
    }
    host.run();
    let maps = host.shard.partitions.iter().map(|partition| &partition.view.map);
    let own: u64 = maps.map(crate::map::partition::PartitionMap::own_size_bytes).sum();
    assert_eq!(host.shard.core.maps_own_size_bytes, own);
    assert_eq!(host.shard.memory_size_bytes(), own + host.shard.core.arena.bytes_reserved());
}

/// Puts until the log has gone on by so many segments; checkpoints are said to be durable at once.
fn go_round(host: &mut Host, segment_count: u64) {
    let value = "v".repeat(1 << 20);
    let begin = host.shard.core.log.live_segments().last().map_or(SegmentId(0), |l| l.segment);
    loop {
        let correlation = host.put("busy", &value);
        host.run();
        let answers = host.answers();
        assert_eq!(error_code(&answers[&correlation]), None, "there is room");
        if host.shard.next_deadline().is_some_and(|due| due <= host.now.monotonic) {
            host.wait();
        }
        let last = host.shard.core.log.live_segments().last();
        if last.is_some_and(|live| live.segment >= begin.plus(segment_count)) {
            return;
        }
    }
}

#[test]
fn partition_written_once_does_not_keep_the_log_from_going_round() {
    let mut host = Host::start(Durability::Sync);
    for number in 0..PARTITION_COUNT * 4 {
        host.put(&format!("idle {number}"), "once");
    }
    host.run();
    host.answers();
    go_round(&mut host, 3 * LOG_SEGMENT_COUNT);
    let space = host.shard.core.log.space();
    assert!(space.used_size_bytes <= LOG_SEGMENT_COUNT * u64_from(SEGMENT_SIZE));
    assert!(u64_from(host.disk.segments.len()) <= LOG_SEGMENT_COUNT);
    assert!(host.shard.counters().carried >= u64::from(PARTITION_COUNT) - 1);
    assert!(host.asked.damaged.is_empty());
}

#[test]
fn damaged_segment_makes_those_who_need_it_take_checkpoints() {
    let mut host = Host::start(Durability::Sync);
    host.put("k", "v");
    host.run();
    let partition = host.shard.core.awaiting.front().map(|awaiting| awaiting.partition);
    assert_eq!(partition, None, "all is durable");
    host.handle(Input::ScrubDue);
    assert_eq!(host.asked.scrubbed, Some(Vec::new()), "the only segment is being written");
    host.handle(Input::SegmentDamaged(SegmentId(7)));
    assert!(host.asked.steps.is_empty(), "nobody needs that one");
    host.handle(Input::SegmentDamaged(SegmentId(1)));
    host.handle(Input::SegmentDamaged(SegmentId(1)));
    host.run();
    assert_eq!(host.disk.checkpoints.len(), 1, "one partition was written to");
    assert_eq!(host.shard.core.checkpoint_metrics.checkpoints_count, 1, "and once is enough");
    assert_eq!(host.shard.counters().damaged, 3);
    host.handle(Input::SegmentDamaged(SegmentId(1)));
    host.run();
    assert_eq!(host.shard.core.checkpoint_metrics.checkpoints_count, 1, "nobody needs it now");
}

#[test]
fn writes_are_refused_before_the_disk_is_full_and_resume_when_space_returns() {
    let mut host = Host::start(Durability::Sync);
    let little = 2 * u64_from(SEGMENT_SIZE);
    host.handle(Input::DiskSpace(little / 2));
    let refused = host.put("k", "v");
    assert_eq!(error_code(&host.answers()[&refused]), Some(Code::ResourceExhausted));
    assert_eq!(host.get("k"), None, "reads go on");
    host.handle(Input::DiskSpace(8 * little));
    let taken = host.put("k", "v");
    host.run();
    assert_eq!(error_code(&host.answers()[&taken]), None);
    assert_eq!(host.get("k").as_deref(), Some("v"));
}
