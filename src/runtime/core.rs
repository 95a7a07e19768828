//! What a core shares with the other threads of its node.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;
use zerocopy::IntoBytes;

use super::clock::Clock;
use super::doorbell::Doorbell;
use super::peers::PeerNetwork;
use super::peers::link::Carrier;
use super::published::{PublishedCore, PublishedPartition};
use super::uring;
use crate::base::cast::{u16_from, u64_from, usize_from, usize_from_u32};
use crate::base::ids::{PartitionId, ShardId};
use crate::base::limits::{ARRIVAL_COUNT_MAX, PEER_ARRIVAL_COUNT_MAX, SEND_QUEUES_SIZE_BYTES_MAX};
use crate::base::time::Timestamp;
use crate::metrics::CoreMetrics;
use crate::metrics::table::Kind;

/// What all cores of a node share.
#[derive(Debug)]
pub struct Node {
    /// The cores, by shard.
    pub cores: Vec<Core>,
    /// Connections that each of them may have.
    pub connection_count_max: usize,
    /// Bytes that the clients of each of them may leave unread before it serves them less.
    pub unread_size_max: usize,
    /// Log writes in flight in the whole process. While there are any, every loop yields to the
    /// scheduler now and then: on devices without FUA a kernel thread on *some* core finishes each.
    pub writes_in_flight: CachePadded<AtomicUsize>,
    /// The node is to stop.
    pub shutdown: AtomicBool,
    /// How far the cores have come together.
    pub progress: Progress,
    /// The other nodes of the cluster, if there are any.
    pub network: Option<Arc<PeerNetwork>>,
    /// All cores serve requests.
    pub ready: AtomicBool,
    /// What the node is, for whoever asks.
    pub facts: NodeFacts,
    /// What is known of each partition of the cluster; none for a service without partitions.
    pub partitions: Box<[PublishedPartition]>,
    /// Counts from the node's start.
    pub clock: Clock,
    /// When that was.
    pub started: Timestamp,
}

/// Where the cores of a node wait for each other: how many have come there. Each core counts itself
/// once at each.
#[derive(Debug, Default)]
pub struct Progress {
    /// They take turns, having read their logs.
    pub started_count: AtomicUsize,
    /// They serve requests: until all do, none accepts connections.
    pub ready_count: AtomicUsize,
    /// Others lead what they have led, or their time for that is up: until then nothing is refused.
    pub retired_count: AtomicUsize,
    /// They forward no more writes: once none does, logs may be closed.
    pub closing_count: AtomicUsize,
    /// They have no connections left and will ask for nothing any more: once all are quiet they may
    /// end.
    pub quiet_count: AtomicUsize,
}

/// What a node as a whole is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Some of its cores don't serve requests yet.
    Starting,
    /// It serves requests.
    Ready,
    /// It was told to stop, and finishes what is under way.
    Stopping,
}

impl Condition {
    /// In one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
        }
    }
}

/// What a node is, as its configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The cluster's name.
    pub cluster: String,
    /// This node's name as a member.
    pub member: String,
    /// When a write is answered.
    pub durability: String,
    /// What an idle loop does.
    pub idle: String,
    /// Where everything durable is kept.
    pub data_dir: String,
    /// The partitions of the cluster.
    pub partition_count: u32,
}

/// A member's connection on its way to the core that it wants.
#[derive(Debug)]
pub struct MemberArrival {
    /// Its socket.
    pub socket: OwnedFd,
    /// The greeting that came on it.
    pub hello: Bytes,
    /// What its frames travel in.
    pub carrier: Carrier,
}

/// What one core shares.
#[derive(Debug)]
pub struct Core {
    /// Turns of the loop, so that a watchdog sees it going round.
    pub turns: CachePadded<AtomicU64>,
    /// Raised every few milliseconds by a task of the executor: proves that timers and wake-ups
    /// work even while the loop sleeps.
    pub heartbeats: CachePadded<AtomicU64>,
    /// Whether the loop sleeps: then whoever has something for it writes to `eventfd`.
    doorbell: CachePadded<Doorbell>,
    /// What it sleeps on.
    pub eventfd: OwnedFd,
    /// Connections that it has, and that are on their way to it.
    pub connection_count: CachePadded<AtomicUsize>,
    /// Connections that other cores have accepted for it. What is left in it is closed with it.
    arrivals: ArrayQueue<OwnedFd>,
    /// Connections of members that other cores have accepted and that want this one, with the
    /// greeting that says so.
    peer_arrivals: ArrayQueue<MemberArrival>,
    /// Bytes that its clients haven't read.
    pub unread_size: CachePadded<AtomicUsize>,
    /// The processor that it runs on.
    pub processor: usize,
    /// What it counted and measured until a moment ago.
    pub published: PublishedCore,
    /// Times that the watchdog found the loop standing.
    pub stands_count: AtomicU64,
    /// What the hypervisor took of the processor, in nanoseconds since the machine's start; the
    /// watchdog reads it now and then.
    pub steal_ns: AtomicU64,
}

impl Node {
    /// A node with so many cores, which may have `connection_count_max` connections each.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn new(core_count: usize, connection_count_max: usize) -> std::io::Result<Self> {
        let clock = Clock::start();
        let cores = (0..core_count).map(Core::new).collect::<std::io::Result<_>>()?;
        Ok(Self {
            cores,
            connection_count_max,
            unread_size_max: SEND_QUEUES_SIZE_BYTES_MAX,
            writes_in_flight: CachePadded::default(),
            shutdown: AtomicBool::new(false),
            progress: Progress::default(),
            network: None,
            ready: AtomicBool::new(false),
            facts: NodeFacts::default(),
            partitions: Box::default(),
            clock,
            started: clock.now().wall,
        })
    }

    /// How many shards it has.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        u16_from(self.cores.len())
    }

    /// The shard that owns a partition, as the data directory spreads them.
    #[must_use]
    pub fn shard_of(&self, partition: PartitionId) -> usize {
        let (cores, partitions) = (u64_from(self.cores.len()), u64_from(self.partitions.len()));
        usize_from(u64::from(partition.0) * cores / partitions.max(1))
    }

    /// The same node, knowing what it is and on which processors its cores run.
    #[must_use]
    pub fn with_facts(mut self, facts: NodeFacts, processors: &[usize]) -> Self {
        let partition_count = usize_from_u32(facts.partition_count);
        self.partitions = (0..partition_count).map(|_| PublishedPartition::default()).collect();
        self.facts = facts;
        for (core, processor) in self.cores.iter_mut().zip(processors) {
            core.processor = *processor;
        }
        self
    }

    /// The same node, one of a cluster.
    #[must_use]
    pub fn with_network(self, network: Option<Arc<PeerNetwork>>) -> Self {
        Self { network, ..self }
    }

    /// Whether the clients of a shard leave so much unread that nothing more is done for them.
    #[must_use]
    pub fn is_full_of_unread(&self, shard: usize) -> bool {
        self.cores[shard].unread_size.load(Ordering::Relaxed) >= 2 * self.unread_size_max
    }

    /// Whether requests are served: all cores are ready and none was told to stop.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.condition() == Condition::Ready
    }

    /// What the node as a whole is doing.
    #[must_use]
    pub fn condition(&self) -> Condition {
        if self.shutdown.load(Ordering::Acquire) {
            Condition::Stopping
        } else if self.ready.load(Ordering::Acquire) {
            Condition::Ready
        } else {
            Condition::Starting
        }
    }

    /// Counts a core at a place where all wait for each other, and wakes those that wait.
    pub fn arrive(&self, place: impl Fn(&Progress) -> &AtomicUsize) {
        place(&self.progress).fetch_add(1, Ordering::AcqRel);
        self.ring_all();
    }

    /// Whether all cores have come to that place.
    #[must_use]
    pub fn all_arrived(&self, place: impl Fn(&Progress) -> &AtomicUsize) -> bool {
        place(&self.progress).load(Ordering::Acquire) == self.cores.len()
    }

    fn ring_all(&self) {
        for core in &self.cores {
            core.ring_doorbell();
        }
    }

    /// Gives an accepted connection to the core with the fewest, or back if that is `me`. Says
    /// which core was given it.
    ///
    /// # Errors
    /// The connection, counted as one of `me`.
    pub fn hand_over(&self, me: ShardId, socket: OwnedFd) -> Result<usize, OwnedFd> {
        let mine = &self.cores[usize::from(me.0)].connection_count;
        let count = |core: &Core| core.connection_count.load(Ordering::Relaxed);
        let fewest = self.cores.iter().enumerate().min_by_key(|(_, core)| count(core));
        if let Some((place, core)) = fewest
            && count(core) < mine.load(Ordering::Relaxed)
        {
            core.connection_count.fetch_add(1, Ordering::Relaxed);
            let Err(refused) = core.arrivals.push(socket) else { return Ok(place) };
            core.connection_count.fetch_sub(1, Ordering::Relaxed);
            mine.fetch_add(1, Ordering::Relaxed);
            return Err(refused);
        }
        mine.fetch_add(1, Ordering::Relaxed);
        Err(socket)
    }

    /// Tells all cores to finish what is in flight and stop.
    pub fn begin_shutdown(&self) {
        self.shutdown.store(true, Ordering::Release);
        self.ring_all();
    }
}

impl Core {
    fn new(processor: usize) -> std::io::Result<Self> {
        Ok(Self {
            turns: CachePadded::default(),
            heartbeats: CachePadded::default(),
            doorbell: CachePadded::default(),
            eventfd: uring::eventfd()?,
            connection_count: CachePadded::default(),
            arrivals: ArrayQueue::new(ARRIVAL_COUNT_MAX),
            peer_arrivals: ArrayQueue::new(PEER_ARRIVAL_COUNT_MAX),
            unread_size: CachePadded::default(),
            processor,
            published: PublishedCore::default(),
            stands_count: AtomicU64::default(),
            steal_ns: AtomicU64::default(),
        })
    }

    /// Wakes the loop if it sleeps. To be called after that for which it is woken was published.
    pub fn ring_doorbell(&self) {
        if self.doorbell.must_ring() {
            // It can fail only if 2⁶⁴ − 2 rings weren't answered, and then it is awake.
            let _ = rustix::io::write(&self.eventfd, 1_u64.as_bytes());
        }
    }

    /// The loop will sleep unless it finds something when it looks once more.
    pub fn announce_sleep(&self) {
        self.doorbell.announce_sleep();
    }

    /// The loop is awake.
    pub fn announce_awake(&self) {
        self.doorbell.announce_awake();
    }

    /// A connection that another core has accepted for this one.
    #[must_use]
    pub fn next_arrival(&self) -> Option<OwnedFd> {
        self.arrivals.pop()
    }

    /// Gives it a member's connection that another core has accepted. False: it has too many that
    /// it hasn't looked at.
    #[must_use]
    pub fn give_peer(&self, arrival: MemberArrival) -> bool {
        let is_taken = self.peer_arrivals.push(arrival).is_ok();
        if is_taken {
            self.connection_count.fetch_add(1, Ordering::Relaxed);
        }
        is_taken
    }

    /// A member's connection that another core has accepted for this one, with its greeting.
    #[must_use]
    pub fn next_peer_arrival(&self) -> Option<MemberArrival> {
        self.peer_arrivals.pop()
    }

    /// Whether there is one, of a member or of anybody else.
    #[must_use]
    pub fn has_arrivals(&self) -> bool {
        !self.arrivals.is_empty() || !self.peer_arrivals.is_empty()
    }

    /// The counters as they were published last, by name. Each is right, but they may be of
    /// different moments.
    #[must_use]
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let rows = CoreMetrics::rows().into_iter();
        let counted =
            rows.zip(self.published.values()).filter(|(row, _)| row.kind == Kind::Counter);
        counted.map(|(row, value)| (row.name, value)).collect()
    }

    /// One of them; 0 if there is none of that name.
    #[must_use]
    pub fn counter(&self, name: &str) -> u64 {
        self.counters().into_iter().find(|(other, _)| *other == name).map_or(0, |(_, value)| value)
    }

    /// Whether the loop sleeps.
    #[must_use]
    pub fn is_sleeping(&self) -> bool {
        self.doorbell.is_sleeping()
    }
}
