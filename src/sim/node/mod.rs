//! A node: a machine with a disk and clocks, and on it, most of the time, a process with its
//! shards. Processes start, stop, stand still and are killed; what the disk holds stays.

mod disk_queue;
mod durable_log;
mod load;
mod peers;
mod probe;
mod rehome;
mod rollback;
mod start;

use std::collections::BTreeMap;

pub(super) use self::disk_queue::DiskJob;
use self::disk_queue::DiskQueue;
pub(super) use self::start::StartFailure;
use super::checker::replicas::Inside;
use super::checker::{Checker, Violation, resources};
use super::clock::NodeClock;
use super::cluster::{Event, World};
use super::disk::{Crash, Disk, Plant};
use super::fault::Fault;
use super::host::{Incoming, MeshMessage, ShardHost};
use super::links::Links;
use super::network::{Endpoint, Side};
use super::{ConnectionId, NodeId};
use crate::base::cast::u64_from;
use crate::base::ids::{Incarnation, PartitionId, ShardId};
use crate::base::limits::{BLOCK_SIZE_BYTES, SHUTDOWN_NS_MAX};
use crate::base::prng::Prng;
use crate::base::time::{Monotonic, NS_PER_MS, NS_PER_US};
use crate::metrics::ServiceMetrics;
use crate::shard::PartitionState;
use crate::storage::wal::Durability;

/// Between something coming and the turn that takes it, at most.
const TURN_DELAY_NS_MAX: u64 = 20 * NS_PER_US;
/// What a message takes from one shard of a node to another at most.
const MESH_DELAY_NS_MAX: u64 = 10 * NS_PER_US;
/// From the end of a process to the beginning of the next, at most.
const RESTART_DELAY_NS_MAX: u64 = 500 * NS_PER_MS;
/// What a start takes before it reads the logs, at most.
const START_DELAY_NS_MAX: u64 = 50 * NS_PER_MS;
/// How long a node runs at a time, at most, where others use its machine, too.
const RUN_NS_MAX: u64 = 20 * NS_PER_MS;
/// Every so many turns of a shard its bounds are looked at.
const TURNS_PER_CHECK: u64 = 16;

/// What a node is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// There is no process; one will be started.
    Down,
    /// A process starts: it hasn't read its logs yet.
    Starting,
    /// It serves, or will as soon as its shards are ready.
    Running,
    /// It was told to stop.
    Stopping,
    /// Its data directory was refused, and somebody would have to look at it.
    Refused(String),
}

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) disk: Disk,
    pub(super) clock: NodeClock,
    pub(super) activity: Activity,
    /// How many shards the next start has.
    pub(super) shard_count: u16,
    /// Which process this is: what was scheduled for another one is void.
    pub(super) life: u64,
    member: String,
    seed: u64,
    prng: Prng,
    hosts: Vec<ShardHost>,
    queues: Vec<DiskQueue>,
    generation: u64,
    /// Where clients' connections lead.
    links: BTreeMap<ConnectionId, (ShardId, u32)>,
    next_slot: u32,
    /// Connections to other nodes.
    peers: Links,
    /// When others are dialled, as it is scheduled.
    next_dial: Option<Monotonic>,
    /// Of timeouts and nonces of this process.
    process_seed: u64,
    /// Messages between shards that are on their way.
    mesh_count: usize,
    /// When the last message arrives, by sender and receiver: they don't overtake each other.
    mesh_arrivals: BTreeMap<(ShardId, ShardId), Monotonic>,
    paused_until: Monotonic,
    /// When it stands still again, on a machine that others use, too.
    runs_until: Monotonic,
    overload: Prng,
    /// Until when a process that was told to stop waits for what is under way.
    stops_by: Monotonic,
    segment_count_max: u64,
    turns_count: u64,
    /// It has lost what it had promised, or never had anything, and isn't part of all views again.
    is_lost: bool,
    /// Its disk went back in time: the lives that it had, of which it has to begin later ones.
    rolled_back: BTreeMap<PartitionId, Incarnation>,
}

impl Node {
    /// A node with an empty disk.
    pub(super) fn new(id: NodeId, seed: u64, world: &World, plant: Option<Plant>) -> Self {
        let mut prng = Prng::new(seed, &format!("node {id}"));
        let swarm = &world.swarm;
        let skew = i64::try_from(prng.below(2 * swarm.clock_skew_ns_max + 1)).unwrap_or(0);
        let skew = skew - i64::try_from(swarm.clock_skew_ns_max).unwrap_or(0);
        let drift = i32::try_from(prng.below(201)).unwrap_or(0) - 100;
        Self {
            id,
            disk: Disk::new(seed, &format!("disk {id}"), swarm.disk, plant),
            clock: NodeClock::new(skew, drift),
            activity: Activity::Down,
            shard_count: swarm.shard_counts[usize::from(id.0)],
            life: 0,
            member: member_name(id),
            seed,
            prng,
            hosts: Vec::new(),
            queues: Vec::new(),
            generation: 0,
            links: BTreeMap::new(),
            next_slot: 0,
            peers: Links::new(id),
            next_dial: None,
            process_seed: 0,
            mesh_count: 0,
            mesh_arrivals: BTreeMap::new(),
            paused_until: Monotonic(0),
            runs_until: Monotonic(0),
            overload: Prng::new(seed, &format!("overload {id}")),
            stops_by: Monotonic(0),
            segment_count_max: swarm.segment_count_max,
            turns_count: 0,
            is_lost: swarm.node_count() > 1,
            rolled_back: BTreeMap::new(),
        }
    }

    /// Whether clients can connect. A lone node lets them wait for its views.
    fn takes_clients(&self, world: &World) -> bool {
        match world.swarm.node_count() {
            1 => self.is_serving(),
            _ => self.activity == Activity::Running,
        }
    }

    /// Whether all partitions are in a view.
    pub(super) fn is_serving(&self) -> bool {
        self.activity == Activity::Running && self.hosts.iter().all(|host| host.shard.is_ready())
    }

    /// Its next start will find less than it has promised: others have to make good for it.
    pub(super) fn will_lose(&mut self, world: &mut World) {
        world.unsound.insert(self.id);
        self.is_lost |= world.swarm.node_count() > 1;
    }

    /// Whether it keeps all that it has promised: what other members need not make good for.
    pub(super) fn is_whole(&self) -> bool {
        !self.is_lost && !self.disk.is_damaged()
    }

    /// A process begins to start.
    pub(super) fn begin_start(&mut self, world: &mut World) {
        assert_eq!(self.activity, Activity::Down, "one process at a time");
        self.activity = Activity::Starting;
        self.life += 1;
        self.process_seed = self.prng.next_u64();
        let delay_ns = self.prng.below(START_DELAY_NS_MAX) + self.disk.latency_ns(world.now(), 0);
        world.schedule.after(delay_ns, Event::Started { node: self.id, life: self.life });
    }

    /// Somebody starts a process again, after a while.
    fn restart_later(&mut self, world: &mut World) {
        let delay_ns = self.prng.below(RESTART_DELAY_NS_MAX);
        world.schedule.after(delay_ns, Event::Restart { node: self.id, life: self.life });
    }

    // ---- ends ----

    /// The process ends without a word, if there is one.
    pub(super) fn crash(&mut self, world: &mut World, crash: Crash) {
        match self.activity {
            Activity::Down | Activity::Refused(_) => return,
            Activity::Starting => {
                if self.prng.one_in(3) {
                    self.disk.tear_boot();
                }
            }
            Activity::Running | Activity::Stopping => self.tear_what_is_under_way(world, crash),
        }
        self.disk.on_crash(crash);
        if !world.promises_durability() {
            self.is_lost = true;
            world.claims.forget_member(self.id);
        }
        self.end_process(world);
        world.network.end_gone(
            world.schedule.now(),
            Endpoint::Node(self.id),
            crash == Crash::Power,
        );
        self.restart_later(world);
    }

    fn tear_what_is_under_way(&mut self, world: &World, crash: Crash) {
        let block_count = world.swarm.segment_size_bytes / BLOCK_SIZE_BYTES;
        for (host, queue) in self.hosts.iter().zip(&self.queues) {
            let Disk { directory, prng, .. } = &mut self.disk;
            let folder = directory.folders.get_mut(&(self.generation, host.me));
            queue.tear(folder.expect("a running shard has a folder"), block_count, crash, prng);
        }
    }

    fn end_process(&mut self, world: &mut World) {
        self.activity = Activity::Down;
        self.life += 1;
        self.hosts.clear();
        self.queues.clear();
        self.links.clear();
        self.peers = Links::new(self.id);
        self.next_dial = None;
        world.network.forget_sent(Endpoint::Node(self.id));
        self.mesh_arrivals.clear();
        self.mesh_count = 0;
        self.paused_until = Monotonic(0);
        world.replicas.forget_life(self.id);
        if world.swarm.durability == Durability::None {
            world.claims.forget_member(self.id);
        }
    }

    /// The process is told to stop.
    pub(super) fn stop(&mut self, world: &mut World) {
        if self.activity != Activity::Running {
            return;
        }
        self.activity = Activity::Stopping;
        self.is_lost |= world.swarm.durability == Durability::None;
        for host in &mut self.hosts {
            host.is_closing = true;
        }
        self.stops_by = world.now().after_ns(SHUTDOWN_NS_MAX);
        world.schedule.at(self.stops_by, Event::StopIsDue { node: self.id, life: self.life });
        self.go_on_stopping(world);
    }

    /// Once nothing more is asked of its shards they close; once they have, and have answered or
    /// their time for that is up, the process ends. What a quorum isn't there for has no answer.
    pub(super) fn go_on_stopping(&mut self, world: &mut World) {
        if self.activity != Activity::Stopping {
            return;
        }
        let is_taken = self.mesh_count == 0 && self.has_taken_all();
        let was_told = self.queues.iter().all(|queue| queue.was_closed);
        if !was_told && is_taken {
            for place in 0..self.hosts.len() {
                self.queues[place].was_closed = true;
                self.put(place, Incoming::Close, world);
            }
            return;
        }
        let is_drained = |(host, queue): (&ShardHost, &DiskQueue)| {
            host.shard.is_drained() && queue.has_no_writes()
        };
        let is_due = world.now() >= self.stops_by || self.hosts.iter().all(ShardHost::is_quiet);
        if was_told && is_taken && is_due && self.hosts.iter().zip(&self.queues).all(is_drained) {
            self.tear_what_is_under_way(world, Crash::Process);
            self.disk.on_crash(Crash::Process);
            let connections: Vec<ConnectionId> = self.links.keys().copied().collect();
            for connection in connections {
                world.network.close(world.schedule.now(), connection, Side::Acceptor);
            }
            for (connection, side) in self.peers.open() {
                world.network.close(world.schedule.now(), connection, side);
            }
            self.end_process(world);
            self.restart_later(world);
        }
    }

    /// The process stands still until then.
    pub(super) fn pause(&mut self, until: Monotonic) {
        self.paused_until = self.paused_until.max(until);
    }

    // ---- connections ----

    /// A client has dialled.
    pub(super) fn on_client(&mut self, connection: ConnectionId, world: &mut World) {
        let now = world.now();
        if !self.takes_clients(world) {
            world.network.refuse(now, connection);
            return;
        }
        if world.network.accept(now, connection) {
            let place = self.prng.below(u64_from(self.hosts.len()));
            let place = crate::base::cast::usize_from(place);
            let slot = self.next_slot;
            self.next_slot += 1;
            self.hosts[place].connect(slot, connection);
            self.links.insert(connection, (self.hosts[place].me, slot));
        }
    }

    /// Bytes of a client, or of another node.
    pub(super) fn on_bytes(
        &mut self,
        connection: ConnectionId,
        bytes: Vec<u8>,
        world: &mut World,
    ) -> Result<(), Violation> {
        if let Some(&(shard, slot)) = self.links.get(&connection) {
            self.put(usize::from(shard.0), Incoming::Bytes(slot, bytes.into()), world);
            return Ok(());
        }
        self.on_peer_bytes(connection, &bytes, world)
    }

    /// A connection is gone, or was never made; `refused`: the host at the other end has said so.
    pub(super) fn on_closed(&mut self, connection: ConnectionId, refused: bool, world: &mut World) {
        match self.links.remove(&connection) {
            Some((shard, slot)) => self.hosts[usize::from(shard.0)].disconnect(slot),
            None => self.on_peer_closed(connection, refused, world),
        }
    }

    // ---- turns ----

    /// Something comes to a shard.
    fn put(&mut self, place: usize, incoming: Incoming, world: &mut World) {
        self.hosts[place].put(incoming);
        let due = world.now().after_ns(self.prng.below(TURN_DELAY_NS_MAX));
        self.wake(place, due, world);
    }

    /// A shard has a turn at `due`, or before.
    fn wake(&mut self, place: usize, due: Monotonic, world: &mut World) {
        let host = &mut self.hosts[place];
        if host.next_turn.is_none_or(|next| due < next) {
            host.next_turn = Some(due);
            let (node, life, shard) = (self.id, self.life, host.me);
            world.schedule.at(due, Event::Turn { node, life, shard });
        }
    }

    /// A shard's turn.
    pub(super) fn turn(&mut self, shard: ShardId, world: &mut World) -> Result<(), Violation> {
        let (place, now) = (usize::from(shard.0), world.now());
        if self.hosts[place].next_turn != Some(now) {
            return Ok(());
        }
        self.hosts[place].next_turn = None;
        self.wait_for_others(world);
        if self.paused_until > now {
            let until = self.paused_until;
            self.wake(place, until, world);
            return Ok(());
        }
        let (node, count) = (self.id, self.hosts[place].inbox_count());
        let words = [u64::from(node.0), u64::from(shard.0), u64_from(count)];
        world.trace.event(now, "turn", &words, || format!("{node}.{shard} takes {count}"));
        let clock = self.clock.now(now);
        self.hosts[place].turn(clock).map_err(|violation| violation.at(now))?;
        self.after_turn(place, world)
    }

    /// On an overloaded machine a node runs for a moment, and then stands still for longer.
    fn wait_for_others(&mut self, world: &World) {
        let (now, standstill_ns_max) = (world.now(), world.swarm.standstill_ns_max);
        if standstill_ns_max > 0 && now >= self.runs_until {
            let until =
                now.after_ns(standstill_ns_max / 8 + self.overload.below(standstill_ns_max));
            self.pause(until);
            self.runs_until = until.after_ns(1 + self.overload.below(RUN_NS_MAX));
        }
    }

    /// Nobody is said to have lost something who hasn't.
    fn check_witness(&mut self, place: usize, world: &mut World) -> Result<(), Violation> {
        let Some(node) = self.hosts[place].rolled_back.take() else { return Ok(()) };
        world.report.mark("disk found to be another one", 1);
        if world.unsound.contains(&NodeId(node.0)) {
            return Ok(());
        }
        let what = format!("node {}: the disk of node {node} went back in time, it says", self.id);
        Err(Violation::new(Checker::Sense, what).at(world.now()))
    }

    /// Performs what a shard wants done, looks at how it stands, and sees when it goes on.
    fn after_turn(&mut self, place: usize, world: &mut World) -> Result<(), Violation> {
        self.perform(place, world)?;
        self.check_witness(place, world)?;
        self.observe(place, world)?;
        // A process that stops leaves nothing behind that it hadn't before.
        self.look_for_new_life(world);
        self.is_lost &= !self.is_serving() || self.is_rolled_back();
        if let Some(deadline) = self.hosts[place].shard.next_deadline() {
            // A turn takes some time, however little it does.
            let due = self.clock.when(deadline).max(world.now().after_ns(NS_PER_US));
            self.wake(place, due, world);
        }
        self.go_on_stopping(world);
        Ok(())
    }

    fn perform(&mut self, place: usize, world: &mut World) -> Result<(), Violation> {
        let now = world.now();
        let output = &mut self.hosts[place].output;
        for link in output.links.values_mut().filter(|link| !link.outgoing.is_empty()) {
            let bytes = link.outgoing.split().to_vec();
            world.network.send(now, link.connection, Side::Acceptor, bytes);
        }
        self.perform_for_peers(place, world).map_err(|violation| violation.at(now))?;
        let output = &mut self.hosts[place].output;
        let messages = std::mem::take(&mut output.messages);
        for (to, message) in messages {
            self.send_to_shard(place, to, message, world);
        }
        self.begin_disk_jobs(place, world);
        let damaged = std::mem::take(&mut self.hosts[place].output.damaged);
        if let Some((segment, offset)) = damaged.first()
            && !self.disk.is_damaged()
        {
            let what = format!(
                "node {}: segment {segment} is said to be damaged at {offset}, and isn't",
                self.id
            );
            return Err(Violation::new(Checker::Sense, what).at(now));
        }
        world.report.mark("damage reported while running", u64_from(damaged.len()));
        Ok(())
    }

    fn send_to_shard(
        &mut self,
        place: usize,
        to: ShardId,
        message: MeshMessage,
        world: &mut World,
    ) {
        let is_forward = matches!(message, MeshMessage::Forward { .. });
        let count = if is_forward && self.disk.forwards_twice() { 2 } else { 1 };
        let from = self.hosts[place].me;
        for _ in 0..count {
            let due = world.now().after_ns(1 + self.prng.below(MESH_DELAY_NS_MAX));
            let last = self.mesh_arrivals.entry((from, to)).or_default();
            *last = due.max(*last);
            let (node, life, message) = (self.id, self.life, message.clone());
            world.schedule.at(*last, Event::Mesh { node, life, from, to, message });
            self.mesh_count += 1;
        }
    }

    /// A message from one shard to another arrives.
    pub(super) fn on_mesh(
        &mut self,
        from: ShardId,
        to: ShardId,
        message: MeshMessage,
        world: &mut World,
    ) {
        self.mesh_count -= 1;
        self.put(usize::from(to.0), Incoming::Mesh(from, message), world);
    }

    /// Lets the checkers see a shard.
    fn observe(&mut self, place: usize, world: &mut World) -> Result<(), Violation> {
        let now = world.now();
        let shard = &mut self.hosts[place].shard;
        let mut changed: Vec<(PartitionId, PartitionState)> = Vec::new();
        shard.take_changed(usize::MAX, |partition, state| changed.push((partition, state)));
        for (partition, state) in changed {
            let digest = shard.digest(partition);
            let PartitionState { status, term, last, sync_point, .. } = state;
            let (id, words) = (self.id, [u64::from(self.id.0), term.0, last.0]);
            world.trace.event(now, "state", &words, || {
                format!("{id} #{partition} {status:?} {term}: {sync_point} of {last}")
            });
            world
                .replicas
                .observe(self.id, partition, state, digest)
                .map_err(|violation| violation.at(now))?;
            let inside = Inside::of(shard.replica(partition), digest);
            if world.replicas.has_moved(self.id, &inside) {
                let words = [u64::from(self.id.0), u64::from(partition.0), inside.view.0];
                world.trace.event(now, "view", &words, || format!("{} {inside}", self.id));
            }
            let acknowledged = world.acknowledged.last_before(partition, inside.view);
            world
                .replicas
                .look_into(self.id, &inside, acknowledged)
                .map_err(|violation| violation.at(now))?;
        }
        self.turns_count += 1;
        if self.turns_count.is_multiple_of(TURNS_PER_CHECK) {
            let mut metrics = ServiceMetrics::default();
            shard.measure(&mut metrics);
            let shard_count = u16::try_from(self.hosts.len()).unwrap_or(u16::MAX);
            let segment_size_bytes = u64_from(world.swarm.segment_size_bytes);
            resources::check(self.id, shard_count, segment_size_bytes, &metrics.gauges)
                .map_err(|violation| violation.at(now))?;
            world.report.mark("slots carried over", metrics.counters.carried.min(1));
            world.report.mark("checkpoint recorded", metrics.checkpoints.checkpoints_count.min(1));
        }
        Ok(())
    }

    /// Whether all partitions are in a view and all of their slots are stable.
    pub(super) fn is_settled(&self) -> bool {
        self.is_serving() && self.has_taken_all()
    }

    /// Whether nothing waits for a turn of its shards.
    fn has_taken_all(&self) -> bool {
        self.hosts.iter().all(|host| host.inbox_count() == 0)
    }

    /// Somebody looks how much room is left.
    pub(super) fn tell_space(&mut self, world: &mut World) {
        if matches!(self.activity, Activity::Running | Activity::Stopping) {
            let left_size_bytes = self.disk.left_size_bytes();
            for place in 0..self.hosts.len() {
                self.put(place, Incoming::Space(left_size_bytes), world);
            }
        }
    }

    /// It is time to read everything again.
    pub(super) fn scrub(&mut self, world: &mut World) {
        if self.activity == Activity::Running {
            for place in 0..self.hosts.len() {
                self.put(place, Incoming::ScrubDue, world);
            }
        }
    }

    /// Damages the disk. What was damaged; `None`: there was nothing to damage.
    pub(super) fn damage(&mut self, fault: Fault, world: &mut World) -> Option<String> {
        let what = self.disk.damage(fault)?;
        world.unsound.insert(self.id);
        world.claims.forget_member(self.id);
        Some(what)
    }

    /// The disk is gone, with the process on it.
    pub(super) fn lose_disk(&mut self, world: &mut World) {
        self.crash(world, Crash::Power);
        self.disk.lose();
        self.is_lost = true;
        world.unsound.insert(self.id);
        world.replicas.forget_member(self.id);
        world.claims.forget_member(self.id);
        if let Activity::Refused(_) = self.activity {
            self.activity = Activity::Down;
            self.restart_later(world);
        }
    }
}

/// What a node is called as a member: in the order of ids.
pub(super) fn member_name(id: NodeId) -> String {
    format!("node-{id}")
}
