//! One core's share of a node, as one pure machine: the partitions that the core owns, each with
//! its sequencer, replica, collector and slice of the maps, and the log that they share.
//!
//! ```text
//! request -> admission -> sequencer -> replica -> log record
//!                                        |  \-> map (ahead of commitment)
//!            reply <- collector <- replica <- durable
//! ```
//!
//! Inputs go in by [`Shard::handle`], requests in passes by [`Shard::handle_batch`]; what the shard
//! wants comes out at once through [`Effects`]. It reads no clock and draws no randomness, so a
//! host that repeats its inputs repeats its run.

mod admission;
mod carry;
mod checkpoints;
mod commands;
mod digests;
mod effects;
mod entries;
mod exchange;
mod execute;
mod fanout;
mod forwarding;
mod halt;
mod input;
mod leadership;
mod measure;
mod old_slots;
mod partition;
mod peers;
mod reads;
mod recovery;
mod share;
mod ticks;
mod transfer;

use std::collections::VecDeque;

use slab::Slab;

use self::carry::Carrying;
pub use self::carry::SegmentBlocks;
use self::checkpoints::Checkpoints;
pub use self::digests::{IndexedDigest, StableDigests};
pub use self::effects::Effects;
use self::entries::{AskedStream, EntryStream, Streams};
use self::exchange::Exchange;
use self::fanout::Gather;
use self::forwarding::Forwards;
pub use self::input::{Input, RoutedRequest};
use self::leadership::Retiring;
pub use self::measure::PartitionState;
use self::old_slots::OldSlots;
use self::partition::{Partition, Waiter};
use self::peers::{Peer, Timers};
use self::reads::WaitingRead;
pub use self::recovery::{InstallError, InstallReason, Installing, Loading, survival};
use self::transfer::CheckpointServer;
use crate::base::cast::usize_from_u32;
use crate::base::cluster::Cluster;
use crate::base::ids::{AppendId, PartitionId, ShardId, TermId};
use crate::base::limits::{PASS_COUNT_MAX, SWEEP_COUNT_MAX};
use crate::base::shards::ShardMap;
use crate::base::time::{Monotonic, NS_PER_MS, Now};
use crate::map::arena::Arena;
use crate::map::digest::StateDigest;
use crate::map::hasher::KeyHasher;
use crate::metrics::histogram::Histogram;
use crate::metrics::{CheckpointMetrics, ShardCounters};
use crate::nopaxos::{Member, Persisted, Settings, Status};
use crate::storage::wal::{Durability, Wal};
use crate::storage::witness::RolledBack;
use crate::wire::peer::PeerDrop;
use crate::wire::request::Body;
use crate::wire::response::ResponsePrefix;
use crate::wire::route::{Route, Router};

/// What a shard is told about itself and its cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's name.
    pub cluster: String,
    /// The nodes of the cluster, this one among them.
    pub nodes: Cluster,
    /// How many places after its leader a partition's sequencer stands.
    pub sequencer_offset: u8,
    /// How the members of a partition behave.
    pub settings: Settings,
    /// Of timeouts and nonces: another one for each process.
    pub seed: u64,
    /// Which shard of the node this is.
    pub shard: ShardId,
    /// The partitions that it owns: a contiguous range.
    pub partitions: std::ops::Range<u32>,
    /// The partitions of the cluster.
    pub partition_count: u32,
    /// The shards of the node.
    pub shard_count: u16,
    /// When a write is answered: that of the log.
    pub durability: Durability,
    /// The first term of a group that has none. Without a log it must be above any earlier one.
    pub first_term: TermId,
    /// The cluster's secret key of the map's hash.
    pub hash_key: [u8; 16],
    /// Begins the checksums of checkpoints; that of the log.
    pub checkpoint_salt: u32,
    /// Bytes that a partition logs at least between two checkpoints of it.
    pub checkpoint_interval_size_bytes: u64,
    /// What the shard's maps may take; commands that would take more are refused.
    pub memory_size_bytes_max: u64,
}

impl Config {
    /// This node's name as a member.
    #[must_use]
    pub fn member(&self) -> &str {
        self.nodes.name(self.nodes.me())
    }

    /// Whether partitions have more members than this one.
    #[must_use]
    pub fn is_replicated(&self) -> bool {
        self.nodes.replication_factor() > 1
    }

    /// Who owns which partition.
    #[must_use]
    pub fn shards(&self) -> ShardMap {
        ShardMap::new(self.partition_count, self.shard_count)
    }
}

/// One core's share of a node.
#[derive(Debug)]
pub struct Shard {
    partitions: Vec<Partition>,
    core: Core,
}

/// What the partitions of a shard share.
#[derive(Debug)]
struct Core {
    config: Config,
    router: Router,
    /// What answers for all partitions begin with.
    prefix: ResponsePrefix,
    now: Now,
    hasher: KeyHasher,
    arena: Arena,
    log: Wal,
    /// The other nodes, by their ids.
    peers: Vec<Peer>,
    /// How it shows that the disk of the one that connected last went back in time.
    rolled_back: Option<RolledBack>,
    /// Frames of other nodes that were not taken, by reason.
    peer_drops: [u64; PeerDrop::ALL.len()],
    /// What clients are told to find the nodes at, as far as it is known.
    addresses: Vec<Box<str>>,
    timers: Timers,
    exchange: Exchange,
    /// Requests that other nodes were given.
    forwards: Forwards,
    /// What was handed to the log and isn't known durable yet, in the order of appends.
    awaiting: VecDeque<Awaiting>,
    carrying: Carrying,
    /// Old slots that peers have asked for.
    old_slots: OldSlots,
    /// Checkpoints that peers take.
    serving: CheckpointServer,
    /// Partitions that should take a checkpoint whatever they have logged: a segment that they need
    /// is damaged.
    checkpoints_wanted: VecDeque<PartitionId>,
    payloads: admission::Payloads,
    /// Bytes of slots that aren't stable yet.
    unsynced_size_bytes: usize,
    /// Bytes of results that may not be given out yet.
    results_size_bytes: usize,
    gathers: Slab<Gather>,
    waiting_reads: VecDeque<WaitingRead>,
    /// Reads that wait for a round of their partition's members.
    round_reads_count: usize,
    /// Something has happened that may end a wait of theirs.
    reads_due: bool,
    streams: Streams,
    /// Streams that go on when a partition has answered.
    waiting_streams: Slab<EntryStream>,
    checkpoints: Checkpoints,
    checkpoint_metrics: CheckpointMetrics,
    /// Streams with which another shard goes on.
    asked_streams: Slab<AskedStream>,
    /// What other shards were asked for and haven't given, be it that nobody waits for it any more.
    shares_pending: usize,
    /// How often other shards were asked for something; it wraps around.
    asks_count: u32,
    /// Partitions in which cleared maps have left entries that are to be freed.
    sweeping: VecDeque<PartitionId>,
    /// Bytes of all partitions' maps that do not lie in the arena.
    maps_own_size_bytes: u64,
    /// When to look for operations whose time is up.
    sweep_due: Option<Monotonic>,
    /// When to look for partitions in which something has expired.
    tick_due: Option<Monotonic>,
    counters: ShardCounters,
    /// From stamping a command to its answer, with durability `sync`.
    commit_waits: Histogram,
    /// Partitions that have changed since they were shown.
    changed: VecDeque<PartitionId>,
    /// This node is to lead nothing any more.
    retiring: Option<Retiring>,
    /// Nothing more is taken in.
    closing: bool,
    /// The log has ended.
    closed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Awaiting {
    append: AppendId,
    partition: PartitionId,
    persisted: Persisted,
    /// When it was handed to the log.
    since: Monotonic,
}

/// How often operations whose time is up are looked for.
const SWEEP_INTERVAL_NS: u64 = 10 * NS_PER_MS;

impl Shard {
    /// Says where clients find the nodes, in their order: what a hint says. Empty: it isn't known.
    ///
    /// # Panics
    /// If there are more or fewer than nodes.
    pub fn know_addresses(&mut self, addresses: Vec<Box<str>>) {
        assert_eq!(addresses.len(), self.core.config.nodes.count(), "each node has one");
        self.core.addresses = addresses;
    }

    /// Handles one input.
    pub fn handle(&mut self, now: Now, input: Input<'_>, effects: &mut impl Effects) {
        self.core.now = now;
        let is_deadline = matches!(input, Input::Deadline);
        match input {
            Input::Request(request) => {
                self.handle_batch(now, std::slice::from_ref(&request), effects);
                return;
            }
            Input::Written(write) => self.core.log.on_written(write),
            Input::SegmentPrepared(segment) => self.core.log.on_segment_prepared(segment),
            Input::SegmentRefused(segment) => {
                self.core.log.on_segment_failed(segment, now.monotonic)
            }
            Input::SegmentRead(read) => self.core.on_segment_read(&read, effects),
            Input::ScrubDue => effects.scrub(self.core.log.live_segments().to_vec()),
            Input::SegmentDamaged(segment) => self.core.on_damage(segment),
            Input::CheckpointDamaged(partition) => self.core.on_checkpoint_damage(partition),
            Input::DiskSpace(left_size_bytes) => self.core.log.on_disk_space(left_size_bytes),
            Input::Checkpoint(progress) => self.on_checkpoint(progress),
            Input::ShareAsked { origin, request } => self.on_share_asked(origin, request, effects),
            Input::ShareAnswered { ask, answer } => self.on_share_answered(ask, answer, effects),
            Input::Peer { from, payload } => self.on_peer_frame(from, &payload, effects),
            Input::PeerConnected { node, life, clock, partitions } => {
                self.on_peer_connected((node, life), clock, partitions, effects);
            }
            Input::PeerDisconnected { node, partitions, refused } => {
                self.on_peer_disconnected(node, partitions, refused, effects);
            }
            Input::TransferLeadership { partition, to } => {
                self.transfer_leadership(partition, to, effects);
            }
            Input::Retire => self.retire(effects),
            Input::Deadline => {}
            Input::Close => self.core.closing = true,
        }
        self.settle(effects);
        self.on_time(effects);
        self.close_when_settled(effects);
        if is_deadline {
            self.serve_those_who_wait(effects);
        }
        self.finish(effects);
    }

    /// Handles up to [`PASS_COUNT_MAX`] requests in passes: memory that many of them will touch is
    /// asked for before the first of them needs it. The result is that of handling them one by one.
    ///
    /// # Panics
    /// If there are more requests than a pass takes.
    pub fn handle_batch(
        &mut self,
        now: Now,
        requests: &[RoutedRequest<'_>],
        effects: &mut impl Effects,
    ) {
        assert!(requests.len() <= PASS_COUNT_MAX, "a pass is bounded");
        self.core.now = now;
        let hashes = self.prefetch(requests);
        for (request, hash) in requests.iter().zip(hashes) {
            match (request.route, &request.request.body) {
                (Route::Partition(partition), Body::Command { bytes, command }) => {
                    self.on_command(partition, request, bytes, command, hash, effects);
                }
                (Route::Partition(partition), Body::Query(query)) => {
                    self.on_query(partition, request, query, hash, effects);
                }
                (Route::Partition(partition), &Body::Transfer(to)) => {
                    self.on_transfer(partition, request, to, effects);
                }
                (Route::All | Route::Node, _) | (_, Body::Status(_)) => {
                    self.fan_out(request, effects);
                }
            }
        }
        self.settle(effects);
        self.finish(effects);
    }

    /// When [`Input::Deadline`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Monotonic> {
        let core = &self.core;
        let exchanges = core.exchange.is_due() && !core.closing;
        let goes_on = self.keeps_somebody_waiting() || !core.sweeping.is_empty() || exchanges;
        let at_once = goes_on.then_some(core.now.monotonic);
        // What is due waits until the writer has the one that comes in from another member.
        let may_write = !core.closing && !core.exchange.is_receiving();
        let checkpoint = core.checkpoints.next_deadline().filter(|_| may_write);
        let tick = core.tick_due.filter(|_| !core.closing);
        let log = core.log.next_deadline();
        let timer = core.timers.next().filter(|_| !core.closing);
        let handover = core.handover_due();
        [at_once, core.sweep_due, timer, tick, handover, checkpoint, log]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether every partition is part of a view and can be written to.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.partitions
            .iter()
            .all(|partition| partition.member.replica().status() == Status::Normal)
    }

    /// Whether everything has come to its end after [`Input::Close`]: no request without an
    /// answer, nothing that isn't durable.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.core.closed && self.core.log.is_closed()
    }

    /// What the shard has counted.
    #[must_use]
    pub fn counters(&self) -> &ShardCounters {
        &self.core.counters
    }

    /// Bytes that the shard's maps have taken from the system: for entries and tables, the memory
    /// of those that were freed included, and for what partitions keep beside them.
    #[must_use]
    pub fn memory_size_bytes(&self) -> u64 {
        self.core.memory_size_bytes()
    }

    /// The order-independent digest of the state of a partition.
    ///
    /// # Panics
    /// If the shard doesn't own the partition.
    #[must_use]
    pub fn digest(&self, partition: PartitionId) -> StateDigest {
        self.partitions[self.place(partition)].view.map.digest()
    }

    fn place(&self, partition: PartitionId) -> usize {
        assert!(
            self.core.config.partitions.contains(&partition.0),
            "requests are routed to owners"
        );
        usize_from_u32(partition.0 - self.core.config.partitions.start)
    }

    /// A partition's member, and the rest of the world as it sees it.
    fn partition<'a, E: Effects>(
        &'a mut self,
        partition: PartitionId,
        effects: &'a mut E,
    ) -> (&'a mut Member<Waiter>, execute::World<'a, E>) {
        let place = self.place(partition);
        let Partition { member, view } = &mut self.partitions[place];
        (member, execute::World::new(view, &mut self.core, effects))
    }

    /// Tells the replicas what has become durable, until nothing more follows from it.
    fn settle(&mut self, effects: &mut impl Effects) {
        let mut answered = Waits::default();
        while let Some(&Awaiting { append, partition, persisted, since }) =
            self.core.awaiting.front()
        {
            if append > self.core.log.durable() {
                break;
            }
            self.core.awaiting.pop_front();
            if append > AppendId(0) && matches!(persisted, Persisted::Slots(_)) {
                self.core.count_wait(&mut answered, since);
            }
            self.core.reads_due = true;
            let now = self.core.now;
            let (member, mut world) = self.partition(partition, effects);
            member.on_persisted(now, persisted, &mut world);
            let place = self.place(partition);
            self.core.after_step(&mut self.partitions[place]);
            self.consider_checkpoint(partition);
        }
        self.core.count_waits(answered);
    }

    /// Whether a stream can go on, or a read may have waited long enough.
    fn keeps_somebody_waiting(&self) -> bool {
        let core = &self.core;
        !core.streams.is_empty() || core.reads_due && !core.waiting_reads.is_empty()
    }

    /// Goes on with streams and waiting reads for a bounded piece of work. A host that has a turn
    /// of many passes does so once in it.
    fn serve_those_who_wait(&mut self, effects: &mut impl Effects) {
        if std::mem::take(&mut self.core.reads_due) {
            self.answer_waiting_reads(effects);
        }
        if !self.core.streams.is_empty() {
            self.stream(effects);
        }
    }

    /// What follows from the inputs once all of them were taken: a bounded piece of work.
    fn finish(&mut self, effects: &mut impl Effects) {
        self.run_timers(effects);
        self.sweep();
        self.exchange(effects);
        self.checkpoint(effects);
        self.pump_log(effects);
    }

    /// Frees a few entries of cleared maps.
    fn sweep(&mut self) {
        let Some(partition) = self.core.sweeping.pop_front() else { return };
        let place = self.place(partition);
        let view = &mut self.partitions[place].view;
        view.sweeping = view.map.sweep(&mut self.core.arena, SWEEP_COUNT_MAX);
        if view.sweeping {
            self.core.sweeping.push_back(partition);
        }
    }

    /// Hands out what the log wants written, and the segments that it will need.
    fn pump_log(&mut self, effects: &mut impl Effects) {
        let now = self.core.now.monotonic;
        self.core.carry(effects);
        self.core.old_slots.go_on(&self.core.log, effects);
        while let Some(write) = self.core.log.poll_write(now) {
            effects.write(write);
        }
        if let Some(wanted) = self.core.log.wants_segment(now) {
            effects.prepare_segment(wanted);
        }
    }

    fn on_time(&mut self, effects: &mut impl Effects) {
        let now = self.core.now.monotonic;
        if self.core.sweep_due.is_some_and(|due| due <= now) {
            self.core.sweep_due = None;
            self.core.reads_due = true;
            self.give_up_expired(effects);
        }
        if self.core.tick_due.is_some_and(|due| due <= now) {
            self.tick(effects);
        }
        if self.core.handover_due().is_some() {
            self.hand_all_over(effects);
        }
    }

    /// Once nothing waits for the log any more it ends with what a restart wants to know.
    fn close_when_settled(&mut self, effects: &mut impl Effects) {
        if !self.core.closing || self.core.closed || !self.core.awaiting.is_empty() {
            return;
        }
        self.core.closed = true;
        self.core.reads_due = true;
        let now = self.core.now;
        for Partition { member, view } in &mut self.partitions {
            let mut world = execute::World::new(view, &mut self.core, effects);
            member.write_sync_point(now, &mut world);
        }
        self.core.log.close();
    }
}

/// Commands of one pass that became durable together.
#[derive(Clone, Copy, Debug, Default)]
struct Waits {
    since: Monotonic,
    count: u64,
}

impl Core {
    /// Counts the wait of a command that is durable now, with those that have waited as long.
    fn count_wait(&mut self, waits: &mut Waits, since: Monotonic) {
        if waits.since != since {
            self.count_waits(*waits);
            *waits = Waits { since, count: 0 };
        }
        waits.count += 1;
    }

    fn count_waits(&mut self, Waits { since, count }: Waits) {
        if count > 0 {
            self.commit_waits.record_many(self.now.monotonic.since_ns(since), count);
        }
    }

    /// Counts what a partition has in memory after a step.
    fn account(&mut self, partition: &mut Partition) {
        let Partition { member, view } = partition;
        let unsynced = member.unsynced_size_bytes();
        let before = std::mem::replace(&mut view.unsynced_size_bytes, unsynced);
        self.unsynced_size_bytes = self.unsynced_size_bytes + unsynced - before;
        let results = member.replica().results_size_bytes();
        let before = std::mem::replace(&mut view.results_size_bytes, results);
        self.results_size_bytes = self.results_size_bytes + results - before;
    }

    /// Makes sure that operations whose time is up are looked for.
    fn sweep_later(&mut self) {
        let due = self.now.monotonic.after_ns(SWEEP_INTERVAL_NS);
        self.sweep_due.get_or_insert(due);
    }

    fn sweep_at_once(&mut self) {
        self.sweep_due = Some(self.now.monotonic);
    }
}

#[cfg(test)]
mod tests;
