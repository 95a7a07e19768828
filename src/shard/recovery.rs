//! From what the log holds to a running shard.

use std::collections::{BTreeMap, VecDeque};

use slab::Slab;

use super::admission::Payloads;
use super::execute::prefix;
use super::partition::{Partition, PartitionView};
use super::{Config, Core, Effects, Shard};
use crate::base::chain::Chain;
use crate::base::ids::{Index, MessageId, PartitionId, TermId};
use crate::base::payload::ResultBytes;
use crate::base::time::{Now, Timestamp};
use crate::map::arena::Arena;
use crate::map::hasher::KeyHasher;
use crate::map::operation::with_command;
use crate::map::partition::{Execution, PartitionMap, Undo};
use crate::metrics::ShardCounters;
use crate::metrics::histogram::Histogram;
use crate::nopaxos::replica::log::Slot;
use crate::nopaxos::{Collector, Group, Replica, Restored, Sequencer};
use crate::storage::record::PartitionSnapshot;
use crate::storage::replay::{Apply, LoggedEntry, RecoveredPartition};
use crate::storage::wal::Wal;
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
}

impl Loading {
    /// The empty state of a shard's partitions.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let hasher = KeyHasher::new(config.hash_key);
        let mut arena = Arena::new();
        let partitions = config.partitions.clone().map(|partition| {
            let loaded = LoadedPartition {
                map: PartitionMap::new(hasher, &mut arena),
                applied: Index(0),
                chain: Chain::default(),
                timestamp: Timestamp(0),
            };
            (PartitionId(partition), loaded)
        });
        let partitions = partitions.collect();
        Self { config, hasher, arena, partitions }
    }
}

impl Apply for Loading {
    fn install(&mut self, partition: PartitionId, index: Index) {
        panic!("partition {partition} has a checkpoint at {index}; this release writes none");
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
        let Some(value) = value else { return };
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
    /// `loading` has executed.
    ///
    /// # Panics
    /// If `recovered` and `loading` contradict each other.
    #[must_use]
    pub fn new(loading: Loading, mut recovered: Vec<RecoveredPartition>, log: Wal) -> Self {
        let Loading { config, hasher, arena, partitions } = loading;
        let router = Router::new(config.partition_count);
        let whole = ResponsePrefix::new(&config.cluster, None, &config.member, None);
        let partitions: Vec<Partition> = partitions
            .into_iter()
            .map(|(partition, loaded)| {
                let cursor_tag = router.tag_of(partition);
                let place = recovered.iter().position(|found| found.state.partition == partition);
                let found = place.map(|place| recovered.swap_remove(place));
                restore(&config, (partition, cursor_tag), loaded, found)
            })
            .collect();
        let changed = partitions.iter().map(|partition| partition.view.group.partition()).collect();
        let unsynced = partitions.iter().map(|partition| partition.view.unsynced_size_bytes).sum();
        let core = Core {
            config,
            router,
            prefix: whole,
            now: Now::default(),
            hasher,
            arena,
            log,
            awaiting: VecDeque::new(),
            payloads: Payloads::default(),
            unsynced_size_bytes: unsynced,
            results_size_bytes: 0,
            gathers: Slab::new(),
            waiting_reads: Vec::new(),
            reads_due: false,
            streams: VecDeque::new(),
            sweeping: VecDeque::new(),
            sweep_due: None,
            counters: ShardCounters::default(),
            commit_waits: Histogram::default(),
            changed,
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
            let (replica, mut world) = self.partition(PartitionId(partition), effects);
            replica.start(first_term, &mut world);
        }
        self.settle(effects);
        self.pump_log(effects);
    }
}

fn restore(
    config: &Config,
    (partition, cursor_tag): (PartitionId, Box<[u8]>),
    loaded: LoadedPartition,
    found: Option<RecoveredPartition>,
) -> Partition {
    let group = Group::new(partition, vec![config.member.clone()], &config.member);
    let restored = found.map_or_else(Restored::default, |found| restored(&loaded, found));
    assert_eq!(loaded.applied, restored.sync_point, "what is stable was executed");
    let replica = Replica::new(group.clone(), restored);
    let view = PartitionView {
        sequencer: Sequencer::default(),
        collector: Collector::new(&group),
        map: loaded.map,
        cursor_tag,
        sweeping: false,
        term: TermId(0),
        prefix: prefix(config, &group, TermId(0)),
        unsynced_size_bytes: replica.log().size_bytes(),
        changed: true,
        group,
    };
    Partition { replica, view }
}

fn restored(loaded: &LoadedPartition, found: RecoveredPartition) -> Restored {
    let PartitionSnapshot { view, last_normal, base, first, sync_point, .. } = found.state;
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
    }
}
