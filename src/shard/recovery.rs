//! From what the log holds to a running shard.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;

use slab::Slab;

use super::admission::Payloads;
use super::carry::Carrying;
use super::checkpoints::Checkpoints;
use super::digests::Digests;
use super::exchange::Exchange;
use super::execute::prefix;
use super::forwarding::Forwards;
use super::partition::{Partition, PartitionView, PeerLink};
use super::peers::{Peer, Timers};
use super::{CheckpointServer, Config, Core, Effects, OldSlots, Shard};
use crate::base::cast::u64_from;
use crate::base::chain::Chain;
use crate::base::ids::{Incarnation, Index, MessageId, PartitionId, TermId};
use crate::base::limits::{BLOCK_SIZE_BYTES, CHECKPOINT_CHUNK_SIZE_BYTES, CHECKPOINT_SLICE_COUNT};
use crate::base::payload::ResultBytes;
use crate::base::time::{Now, Timestamp};
use crate::map::arena::Arena;
use crate::map::checkpoint::{LoadError, MapLoader, Progress, SliceBudget};
use crate::map::digest::StateDigest;
use crate::map::footprint::Footprint;
use crate::map::hasher::KeyHasher;
use crate::map::operation::with_command;
use crate::map::partition::{Execution, PartitionMap, Undo};
use crate::metrics::histogram::Histogram;
use crate::metrics::{CheckpointMetrics, ShardCounters};
use crate::nopaxos::replica::log::Slot;
use crate::nopaxos::{Group, Member, Restored, Round, Settings, Survival};
use crate::storage::block::Block;
use crate::storage::checkpoint::{
    CHUNK_BLOCK_COUNT, CheckpointChunk, CheckpointDecoder, CheckpointEncoder, CheckpointError,
    CheckpointHead, CheckpointId, CheckpointSource,
};
use crate::storage::record::PartitionSnapshot;
use crate::storage::recovery::Salvage;
use crate::storage::replay::{Apply, LoggedEntry, RecoveredPartition};
use crate::storage::wal::{Durability, Wal};
use crate::storage::witness::Witness;
use crate::wire::peer::{PeerDrop, PeerEncoder};
use crate::wire::response::ResponsePrefix;
use crate::wire::route::Router;

/// The state of a shard while its log is read: stable slots are executed as they come.
#[derive(Debug)]
pub struct Loading {
    config: Config,
    hasher: KeyHasher,
    arena: Arena,
    partitions: BTreeMap<PartitionId, LoadedPartition>,
}

#[derive(Debug)]
struct LoadedPartition {
    map: PartitionMap,
    applied: Index,
    chain: Chain,
    timestamp: Timestamp,
    /// The length of the checkpoint that was installed; 0: none was.
    checkpoint_size_bytes: u64,
    /// The slot after the checkpoint, and the no-ops from there on.
    first: Index,
    no_ops: BTreeSet<Index>,
}

impl LoadedPartition {
    fn empty(hasher: KeyHasher, arena: &mut Arena) -> Self {
        Self {
            map: PartitionMap::new(hasher, arena),
            applied: Index(0),
            chain: Chain::default(),
            timestamp: Timestamp(0),
            checkpoint_size_bytes: 0,
            first: Index(1),
            no_ops: BTreeSet::new(),
        }
    }
}

impl Loading {
    /// The empty state of a shard's partitions.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let hasher = KeyHasher::new(config.hash_key);
        let mut arena = Arena::new();
        let partitions = config
            .partitions
            .clone()
            .map(|partition| (PartitionId(partition), LoadedPartition::empty(hasher, &mut arena)));
        let partitions = partitions.collect();
        Self { config, hasher, arena, partitions }
    }

    /// The last slot of a partition that was executed.
    ///
    /// # Panics
    /// If it isn't one of the shard's.
    #[must_use]
    pub fn applied(&self, partition: PartitionId) -> Index {
        self.partitions[&partition].applied
    }

    /// The digest of what was executed of a partition.
    ///
    /// # Panics
    /// If it isn't one of the shard's.
    #[must_use]
    pub fn digest(&self, partition: PartitionId) -> StateDigest {
        self.partitions[&partition].map.digest()
    }

    /// What a partition's entries take of an arena.
    ///
    /// # Panics
    /// If it isn't one of the shard's.
    #[must_use]
    pub fn footprint(&self, partition: PartitionId) -> Footprint {
        self.partitions[&partition].map.footprint(&self.arena)
    }

    /// Writes the checkpoint of what was executed of a partition, chunk by chunk.
    ///
    /// # Errors
    /// Whatever `write` says.
    ///
    /// # Panics
    /// If it isn't one of the shard's.
    pub fn checkpoint<E>(
        &mut self,
        partition: PartitionId,
        salt: u32,
        write: &mut impl FnMut(&CheckpointChunk) -> Result<(), E>,
    ) -> Result<(), E> {
        let loaded = self.partitions.get_mut(&partition).expect("it is one of the shard's");
        let head = CheckpointHead {
            id: CheckpointId { partition, index: loaded.applied },
            timestamp: loaded.timestamp,
            chain: loaded.chain,
            digest: loaded.map.digest().0.to_le_bytes(),
        };
        let mut encoder = CheckpointEncoder::new(salt, &head);
        let budget = || SliceBudget {
            record_count: CHECKPOINT_SLICE_COUNT,
            size_bytes: CHECKPOINT_CHUNK_SIZE_BYTES,
        };
        let mut blocks = Vec::new();
        loaded.map.begin_checkpoint(&mut self.arena);
        while !encoder.is_complete() {
            if let Progress::Done =
                loaded.map.checkpoint_slice(&mut self.arena, budget(), encoder.body())
            {
                encoder.end();
            }
            while let Some(chunk) = encoder.next_chunk(std::mem::take(&mut blocks)) {
                write(&chunk)?;
                blocks = chunk.blocks;
            }
        }
        Ok(())
    }
}

/// A [`Loading`] with the checkpoints that it may need: what recovery hands slots to.
#[derive(Debug)]
pub struct Installing<'a, S> {
    loading: &'a mut Loading,
    source: &'a mut S,
    salt: u32,
    /// Partitions whose checkpoints can't be installed: nothing can follow there.
    failed: Vec<InstallError>,
}

/// Why a checkpoint can't be installed.
#[derive(Debug)]
pub struct InstallError {
    /// Which.
    pub id: CheckpointId,
    /// Why.
    pub reason: InstallReason,
}

/// What is wrong with a checkpoint.
#[derive(Debug)]
pub enum InstallReason {
    /// Its file can't be read.
    Read(io::Error),
    /// Its file isn't what was written.
    Damaged(CheckpointError),
    /// Its file is whole, but its state makes no sense.
    State(LoadError),
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CheckpointId { partition, index } = self.id;
        write!(f, "the checkpoint of partition {partition} at slot {index}: ")?;
        match &self.reason {
            InstallReason::Read(error) => write!(f, "can't be read: {error}"),
            InstallReason::Damaged(error) => {
                write!(f, "{error} (at offset {})", error.offset())
            }
            InstallReason::State(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for InstallError {}

impl<'a, S: CheckpointSource> Installing<'a, S> {
    /// `salt`: that of the logs.
    pub fn new(loading: &'a mut Loading, source: &'a mut S, salt: u32) -> Self {
        Self { loading, source, salt, failed: Vec::new() }
    }

    /// To be asked when the log was read: only if all is well may the shard be made.
    ///
    /// # Errors
    /// The first checkpoint that was needed and could not be installed.
    pub fn finish(self) -> Result<(), InstallError> {
        self.failed.into_iter().next().map_or(Ok(()), Err)
    }

    fn has_failed(&self, partition: PartitionId) -> bool {
        self.failed.iter().any(|failed| failed.id.partition == partition)
    }

    fn load(&mut self, id: CheckpointId) -> Result<LoadedPartition, InstallReason> {
        let mut decoder = CheckpointDecoder::new(self.salt, id);
        let Loading { hasher, arena, .. } = &mut *self.loading;
        let mut loader = MapLoader::new(*hasher, arena);
        let mut blocks = vec![Block::ZERO; CHUNK_BLOCK_COUNT];
        let mut size_bytes = 0;
        let mut feed = |loader: &mut MapLoader| {
            while !decoder.is_complete() {
                let count =
                    self.source.read(id, size_bytes, &mut blocks).map_err(InstallReason::Read)?;
                let state = decoder.chunk(&blocks[..count]).map_err(InstallReason::Damaged)?;
                loader.feed(arena, state).map_err(InstallReason::State)?;
                size_bytes += u64_from(count * BLOCK_SIZE_BYTES);
            }
            Ok(())
        };
        if let Err(reason) = feed(&mut loader) {
            loader.discard(arena);
            return Err(reason);
        }
        let head = *decoder.head().expect("a complete checkpoint has a head");
        let digest = StateDigest(u128::from_le_bytes(head.digest));
        let map = loader.finish(id.index, head.timestamp, digest).map_err(InstallReason::State)?;
        Ok(LoadedPartition {
            map,
            applied: id.index,
            chain: head.chain,
            timestamp: head.timestamp,
            checkpoint_size_bytes: size_bytes,
            first: id.index.next(),
            no_ops: BTreeSet::new(),
        })
    }
}

impl<S: CheckpointSource> Apply for Installing<'_, S> {
    fn install(&mut self, partition: PartitionId, index: Index) {
        if self.has_failed(partition) {
            return;
        }
        let id = CheckpointId { partition, index };
        match self.load(id) {
            Ok(loaded) => {
                let replaced = self.loading.partitions.insert(partition, loaded);
                let replaced = replaced.expect("recovery checks the owner");
                assert!(replaced.applied < index, "what is installed replaces what was before it");
                replaced.map.discard(&mut self.loading.arena);
            }
            Err(reason) => self.failed.push(InstallError { id, reason }),
        }
    }

    fn apply(
        &mut self,
        partition: PartitionId,
        index: Index,
        term: TermId,
        message_id: MessageId,
        timestamp: Timestamp,
        value: Option<&[u8]>,
    ) {
        // Without its checkpoint a partition has nothing that its slots could follow.
        if !self.has_failed(partition) {
            self.loading.apply(partition, index, term, message_id, timestamp, value);
        }
    }
}

impl<S: CheckpointSource> Salvage for Installing<'_, S> {
    fn is_whole(&self, partition: PartitionId) -> bool {
        !self.has_failed(partition)
    }

    fn reset(&mut self, partition: PartitionId, checkpoint: Index) -> bool {
        self.failed.retain(|failed| failed.id.partition != partition);
        self.loading.clear(partition);
        if checkpoint == Index(0) {
            return true;
        }
        match self.load(CheckpointId { partition, index: checkpoint }) {
            Ok(loaded) => {
                self.loading.partitions.insert(partition, loaded);
                true
            }
            Err(_) => false,
        }
    }
}

impl Loading {
    /// Forgets what was executed of a partition.
    fn clear(&mut self, partition: PartitionId) {
        let empty = LoadedPartition::empty(self.hasher, &mut self.arena);
        if let Some(loaded) = self.partitions.insert(partition, empty) {
            loaded.map.discard(&mut self.arena);
        }
    }

    fn apply(
        &mut self,
        partition: PartitionId,
        index: Index,
        _term: TermId,
        message_id: MessageId,
        timestamp: Timestamp,
        value: Option<&[u8]>,
    ) {
        let loaded = self.partitions.get_mut(&partition).expect("recovery checks the owner");
        assert_eq!(index, loaded.applied.next(), "slots are applied in order");
        // A no-op has no time of its own.
        let timestamp = timestamp.max(loaded.timestamp);
        loaded.applied = index;
        loaded.chain = loaded.chain.extended(index, message_id, timestamp, value);
        loaded.timestamp = timestamp;
        let Some(value) = value else {
            loaded.no_ops.insert(index);
            return;
        };
        with_command(value, usize::MAX, |command| {
            let command = command.expect("commands are checked before they are logged");
            let key = command.operation.key().unwrap_or_default();
            let hash = self.hasher.hash(command.map, key);
            let run = Execution { index, time: timestamp, undo: Undo::Discard };
            let mut result = ResultBytes::new();
            loaded.map.execute(&mut self.arena, run, &command, hash, &mut result);
        });
    }
}

impl Shard {
    /// A shard with what its log held: `recovered` has the slots above the stable ones that
    /// `loading` has executed. `stale_checkpoints`: files that no recovery needs once the log that
    /// this boot begins is durable.
    ///
    /// # Panics
    /// If `recovered` and `loading` contradict each other.
    #[must_use]
    pub fn new(
        loading: Loading,
        recovered: Vec<RecoveredPartition>,
        mut log: Wal,
        stale_checkpoints: Vec<CheckpointId>,
    ) -> Self {
        let Loading { config, hasher, arena, mut partitions } = loading;
        let own = config.shards().partitions_of(config.shard);
        assert_eq!(config.partitions, own, "a shard owns what the others think it owns");
        let router = Router::new(config.partition_count);
        let whole = ResponsePrefix::new(&config.cluster, None, config.member(), None);
        for (partition, loaded) in &mut partitions {
            log.know_checkpoint_size(*partition, loaded.checkpoint_size_bytes);
            // The log may name a newer one than that which it begins with.
            loaded.checkpoint_size_bytes = log.checkpoint_size_bytes(*partition);
        }
        let partitions = restore_all(&config, &router, partitions, recovered);
        let changed = partitions.iter().map(|partition| partition.view.group.partition()).collect();
        let unsynced = partitions.iter().map(|partition| partition.view.unsynced_size_bytes).sum();
        let own_size_bytes = partitions.iter().map(|partition| partition.view.own_size_bytes).sum();
        let node_count = config.nodes.count();
        let serving = CheckpointServer::new(config.checkpoint_salt);
        let core = Core {
            config,
            router,
            prefix: whole,
            now: Now::default(),
            hasher,
            arena,
            log,
            peers: vec![Peer::default(); node_count],
            rolled_back: None,
            peer_drops: [0; PeerDrop::ALL.len()],
            addresses: vec![Box::default(); node_count],
            timers: Timers::default(),
            exchange: Exchange::default(),
            forwards: Forwards::new(node_count),
            awaiting: VecDeque::new(),
            carrying: Carrying::default(),
            old_slots: OldSlots::default(),
            serving,
            checkpoints_wanted: VecDeque::new(),
            payloads: Payloads::default(),
            unsynced_size_bytes: unsynced,
            results_size_bytes: 0,
            gathers: Slab::new(),
            waiting_reads: VecDeque::new(),
            round_reads_count: 0,
            reads_due: false,
            streams: VecDeque::new(),
            waiting_streams: Slab::new(),
            checkpoints: Checkpoints::new(stale_checkpoints),
            checkpoint_metrics: CheckpointMetrics::default(),
            asked_streams: Slab::new(),
            shares_pending: 0,
            asks_count: 0,
            sweeping: VecDeque::new(),
            maps_own_size_bytes: own_size_bytes,
            sweep_due: None,
            tick_due: None,
            counters: ShardCounters::default(),
            commit_waits: Histogram::default(),
            changed,
            retiring: None,
            closing: false,
            closed: false,
        };
        Self { partitions, core }
    }

    /// Begins the life of the process: every partition asks for a new view, which is a write to
    /// the log. The shard is ready when all of them have one.
    pub fn start(&mut self, now: Now, effects: &mut impl Effects) {
        self.core.now = now;
        for partition in self.core.config.partitions.clone() {
            let first_term = self.core.config.first_term;
            let (member, mut world) = self.partition(PartitionId(partition), effects);
            member.start(now, first_term, &mut world);
            let place = self.place(PartitionId(partition));
            self.core.after_step(&mut self.partitions[place]);
            self.core.expect_expiry(&self.partitions[place].view.map);
        }
        self.settle(effects);
        self.pump_log(effects);
    }
}

fn restore_all(
    config: &Config,
    router: &Router,
    loaded: BTreeMap<PartitionId, LoadedPartition>,
    mut recovered: Vec<RecoveredPartition>,
) -> Vec<Partition> {
    let restored = loaded.into_iter().map(|(partition, loaded)| {
        let place = recovered.iter().position(|found| found.state.partition == partition);
        let found = place.map(|place| recovered.swap_remove(place));
        restore(config, (partition, router.tag_of(partition)), loaded, found)
    });
    restored.collect()
}

/// What of a member's promises a restart keeps, by when its log is written.
#[must_use]
pub const fn survival(durability: Durability) -> Survival {
    match durability {
        Durability::Sync => Survival::Always,
        Durability::Async => Survival::Clean,
        Durability::None => Survival::Never,
    }
}

fn restore(
    config: &Config,
    (partition, cursor_tag): (PartitionId, Box<[u8]>),
    loaded: LoadedPartition,
    found: Option<RecoveredPartition>,
) -> Partition {
    let nodes = config.nodes.members(partition);
    let names: Vec<String> = nodes.iter().map(|node| config.nodes.name(*node).to_owned()).collect();
    let group = Group::new(partition, names, config.member())
        .with_sequencer_offset(config.sequencer_offset);
    let restored = found.map_or_else(Restored::default, |found| restored(&loaded, found));
    assert_eq!(loaded.applied, restored.sync_point, "what is stable was executed");
    let retained_size_bytes =
        if group.is_alone() { 0 } else { config.settings.retained_size_bytes };
    let settings = Settings { retained_size_bytes, ..config.settings };
    let seed = config.seed ^ u64::from(partition.0);
    let mut member = Member::new(group.clone(), settings, restored, seed);
    if config.durability == Durability::None && !group.is_alone() {
        member.keep_after(Index(0));
    }
    let view = PartitionView {
        own_size_bytes: loaded.map.own_size_bytes(),
        map: loaded.map,
        digests: Digests::default(),
        cursor_tag,
        sweeping: false,
        ticked: Index(0),
        term: TermId(0),
        prefix: prefix(config, &group, TermId(0)),
        unsynced_size_bytes: member.unsynced_size_bytes(),
        results_size_bytes: 0,
        checkpoint_due: false,
        checkpoint_size_bytes: loaded.checkpoint_size_bytes,
        changed: true,
        encoder: PeerEncoder::new(&config.cluster, &group),
        lives: vec![Incarnation(0); group.count()],
        witnesses: vec![Witness::default(); group.count()],
        links: vec![PeerLink::default(); group.count()],
        nodes,
        timer: None,
        installed: None,
        covered: None,
        round_done: (Round(0), Index(0)),
        round_reads: VecDeque::new(),
        group,
    };
    Partition { member, view }
}

fn restored(loaded: &LoadedPartition, found: RecoveredPartition) -> Restored {
    let PartitionSnapshot { view, last_normal, base, sync_point, .. } = found.state;
    let PartitionSnapshot { incarnation, crash_vector, .. } = found.state;
    let first = loaded.first;
    let no_ops = loaded.no_ops.clone();
    let mut timestamp = loaded.timestamp;
    let slots = found.log.into_iter().map(|entry| {
        // A no-op has no time of its own.
        timestamp = timestamp.max(entry.timestamp);
        let LoggedEntry { term, message_id, value, .. } = entry;
        Slot { term, message_id, timestamp, value }
    });
    Restored {
        view,
        last_normal,
        base,
        first,
        sync_point,
        chain: loaded.chain,
        timestamp: loaded.timestamp,
        slots: slots.collect(),
        no_ops,
        incarnation,
        crash_vector,
        is_lost: found.state.is_recovering,
    }
}
