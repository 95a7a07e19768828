//! A run: nodes and clients, the world around them, and what goes wrong in it.
//!
//! It has three parts. First clients ask and faults happen, as the seed says. Then everything is
//! healed, and what was asked must come to its end. Last, one client reads everything. What all of
//! them were told is then held against what must hold; what can be looked at while the run goes on
//! is looked at in each turn, so that later progress hides nothing.

mod faults;
mod rollback;

use std::collections::BTreeSet;

use self::rollback::Image;
use super::checker::claims::Claims;
use super::checker::durability::Acknowledged;
use super::checker::replicas::Replicas;
use super::checker::{Checker, Violation, linearizability, search};
use super::client::{Client, Wake};
use super::disk::Plant;
use super::fault::Fault;
use super::history::{Action, Freshness, History, Scope, Universe};
use super::host::MeshMessage;
use super::loss::Losses;
use super::network::{Endpoint, Lane, Network, NetworkEvent, Side};
use super::node::{Activity, DiskJob, Node};
use super::report::Report;
use super::schedule::Schedule;
use super::swarm::{Swarm, node_count_of};
use super::trace::{Trace, TraceSink, word_of};
use super::{ClientId, NodeId};
use crate::base::cast::{u64_from, usize_from_u32};
use crate::base::ids::{PartitionId, ShardId};
use crate::base::mark;
use crate::base::mutant::{self, Mutant};
use crate::base::prng::Prng;
use crate::base::time::{Monotonic, NS_PER_MS, NS_PER_S};
use crate::storage::wal::Durability;

/// The name of every simulated cluster.
pub(super) const CLUSTER: &str = "simulated";
/// How long after everything was healed all must have come to its end.
const HEALED_NS_MAX: u64 = 60 * NS_PER_S;
/// How often it is looked whether it has.
const LOOK_INTERVAL_NS: u64 = 10 * NS_PER_MS;
/// After everything has come to rest: logs are proven, checkpoints finished.
const REST_NS: u64 = 200 * NS_PER_MS;
/// Something that happens. What is about a process is void if its life is over.
#[derive(Debug)]
pub(super) enum Event {
    Network(NetworkEvent),
    Restart { node: NodeId, life: u64 },
    Started { node: NodeId, life: u64 },
    Dial { node: NodeId, life: u64 },
    Turn { node: NodeId, life: u64, shard: ShardId },
    Mesh { node: NodeId, life: u64, from: ShardId, to: ShardId, message: MeshMessage },
    Disk { node: NodeId, life: u64, shard: ShardId, job: DiskJob },
    Client { client: ClientId, wake: Wake },
    Fault(Fault, u64),
    Room(NodeId),
    StopIsDue { node: NodeId, life: u64 },
    Scrub,
    Heal,
    Look,
    End,
}

/// What a run is made of, beside its seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Where a line of each event goes, if anybody reads.
    pub trace: Option<TraceSink>,
    /// A defect to be found, of the simulator's own.
    pub plant: Option<Plant>,
    /// A defect to be found, of the code under test.
    pub mutant: Option<Mutant>,
    /// How many nodes there are; `None`: the seed says it.
    pub node_count: Option<usize>,
}

/// What nodes and clients have around them.
#[derive(Debug)]
pub(super) struct World {
    pub(super) schedule: Schedule<Event>,
    pub(super) network: Network,
    pub(super) losses: Losses,
    pub(super) trace: Trace,
    pub(super) swarm: Swarm,
    pub(super) report: Report,
    pub(super) replicas: Replicas,
    pub(super) acknowledged: Acknowledged,
    pub(super) claims: Claims,
    /// Nodes whose disks have lost something, once at least.
    pub(super) unsound: BTreeSet<NodeId>,
    /// Clients ask, and faults happen.
    pub(super) is_active: bool,
    pub(super) hash_key: [u8; 16],
    prng: Prng,
}

impl World {
    /// The time.
    pub(super) const fn now(&self) -> Monotonic {
        self.schedule.now()
    }

    /// Whether what was acknowledged is durable.
    pub(super) fn promises_durability(&self) -> bool {
        self.swarm.durability == Durability::Sync
    }

    /// Whether processes may be stopped without a word.
    pub(super) fn may_crash(&self) -> bool {
        self.is_active && (self.promises_durability() || self.swarm.node_count() > 1)
    }

    fn take_network_events(&mut self) {
        for (due, event) in self.network.take_events() {
            self.schedule.at(due, Event::Network(event));
        }
    }
}

/// A run.
#[derive(Debug)]
pub struct Cluster {
    world: World,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    history: History,
    /// What a disk was a while ago.
    image: Option<Image>,
    healed_at: Option<Monotonic>,
    /// The last questions were asked.
    is_closing: bool,
    is_over: bool,
}

/// Runs a cluster from its seed to its end.
#[must_use]
pub fn run(seed: u64, options: Options) -> Report {
    let node_count = options.node_count.unwrap_or_else(|| node_count_of(seed));
    run_swarm(seed, Swarm::new(seed, node_count), options)
}

/// The same with what the seed would have decided said otherwise.
#[must_use]
pub fn run_swarm(seed: u64, swarm: Swarm, options: Options) -> Report {
    mutant::switch(options.mutant);
    // What this thread ran before is not this run's.
    drop(mark::take());
    let report = Cluster::new(seed, swarm, options).run();
    mutant::switch(None);
    report
}

impl Cluster {
    fn new(seed: u64, swarm: Swarm, options: Options) -> Self {
        let mut prng = Prng::new(seed, "world");
        let halves = [prng.next_u64().to_le_bytes(), prng.next_u64().to_le_bytes()];
        let mut hash_key = [0; 16];
        hash_key.copy_from_slice(halves.as_flattened());
        let mix = &swarm.workload;
        let universe = Universe::new(mix.map_count, mix.key_count, swarm.partition_count);
        let (client_count, node_count) = (mix.client_count, swarm.node_count());
        let claims = Claims::new(seed, swarm.durability);
        let world = World {
            schedule: Schedule::default(),
            network: Network::new(seed, swarm.network),
            losses: Losses::new(seed, node_count),
            trace: Trace::new(options.trace),
            swarm,
            report: Report { seed, ..Report::default() },
            replicas: Replicas::default(),
            acknowledged: Acknowledged::default(),
            claims,
            unsound: BTreeSet::new(),
            is_active: true,
            hash_key,
            prng,
        };
        let ids = (0..u8::try_from(node_count).unwrap_or(u8::MAX)).map(NodeId);
        let nodes = ids.map(|id| Node::new(id, seed, &world, options.plant)).collect();
        let clients =
            (0..client_count).map(|id| Client::new(ClientId(id), seed, node_count)).collect();
        Self {
            world,
            nodes,
            clients,
            history: History::new(universe),
            image: None,
            healed_at: None,
            is_closing: false,
            is_over: false,
        }
    }

    fn run(mut self) -> Report {
        let checked = self.begin_and_go_on().and_then(|()| self.check_end());
        let Self { mut world, history, .. } = self;
        let report = &mut world.report;
        report.violation = checked.err();
        report.trace_hash = world.trace.hash();
        report.events_count = world.trace.events_count();
        report.virtual_ns = world.schedule.now().0;
        report.operations_count = u64_from(history.operations.len());
        report.outcomes = history.outcome_counts();
        for (place, count) in mark::take() {
            report.mark(place, count);
        }
        world.report
    }

    fn begin_and_go_on(&mut self) -> Result<(), Violation> {
        let Self { world, nodes, clients, .. } = self;
        let World { trace, swarm, .. } = world;
        trace.event(Monotonic(0), "run", &[], || format!("{swarm:?}"));
        nodes.iter_mut().for_each(|node| node.begin_start(world));
        clients.iter_mut().for_each(|client| client.begin(world));
        for (fault, mean_ns) in world.swarm.faults.clone() {
            let delay_ns = world.prng.below(2 * mean_ns);
            world.schedule.after(delay_ns, Event::Fault(fault, mean_ns));
        }
        if world.swarm.scrub_interval_ns > 0 {
            world.schedule.after(world.swarm.scrub_interval_ns, Event::Scrub);
        }
        world.schedule.after(world.swarm.active_ns, Event::Heal);
        while !self.is_over {
            self.world.take_network_events();
            let event = self.world.schedule.advance();
            self.on_event(event.expect("the end of the run is to come"))?;
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event) -> Result<(), Violation> {
        let Self { world, nodes, clients, history, .. } = self;
        let node_of = |node: NodeId| usize::from(node.0);
        match event {
            Event::Network(event) => return self.on_network(event),
            Event::Restart { node, life } => {
                let node = &mut nodes[node_of(node)];
                if node.life == life && node.activity == Activity::Down {
                    node.begin_start(world);
                }
            }
            Event::Started { node, life } if nodes[node_of(node)].life == life => {
                return nodes[node_of(node)].on_started(world);
            }
            Event::Dial { node, life } if nodes[node_of(node)].life == life => {
                nodes[node_of(node)].dial(world);
            }
            Event::Turn { node, life, shard } if nodes[node_of(node)].life == life => {
                return nodes[node_of(node)].turn(shard, world);
            }
            Event::Mesh { node, life, from, to, message } if nodes[node_of(node)].life == life => {
                nodes[node_of(node)].on_mesh(from, to, message, world);
            }
            Event::Disk { node, life, shard, job } if nodes[node_of(node)].life == life => {
                return nodes[node_of(node)].on_disk(shard, job, world);
            }
            Event::StopIsDue { node, life } if nodes[node_of(node)].life == life => {
                nodes[node_of(node)].go_on_stopping(world);
            }
            Event::Started { .. }
            | Event::StopIsDue { .. }
            | Event::Dial { .. }
            | Event::Turn { .. }
            | Event::Mesh { .. }
            | Event::Disk { .. } => {}
            Event::Client { client, wake } => {
                clients[usize_from_u32(client.0)].on_wake(wake, world, history);
            }
            Event::Fault(fault, mean_ns) => self.on_fault(fault, mean_ns),
            Event::Room(node) => {
                nodes[node_of(node)].disk.set_full(false);
                nodes[node_of(node)].tell_space(world);
            }
            Event::Scrub => {
                nodes.iter_mut().for_each(|node| node.scrub(world));
                if world.is_active {
                    world.schedule.after(world.swarm.scrub_interval_ns, Event::Scrub);
                }
            }
            Event::Heal => self.heal(),
            Event::Look => return self.look(),
            // While all rested something may have expired, of which the log tells the others.
            Event::End => match converged(world, nodes.len()) {
                Ok(()) => self.is_over = true,
                Err(_) => world.schedule.after(LOOK_INTERVAL_NS, Event::Look),
            },
        }
        Ok(())
    }

    fn on_network(&mut self, event: NetworkEvent) -> Result<(), Violation> {
        let Self { world, nodes, clients, history, .. } = self;
        let now = world.now();
        let node_of = |node: NodeId| usize::from(node.0);
        let client_of = |client: ClientId| usize_from_u32(client.0);
        match event {
            NetworkEvent::Dialed(id) => match world.network.ends(id) {
                Some((Endpoint::Node(from), Endpoint::Node(to), Lane::Peer(_, partition))) => {
                    nodes[node_of(to)].on_peer(id, (from, partition), world);
                }
                Some((_, Endpoint::Node(node), _)) => {
                    nodes[node_of(node)].on_client(id, world);
                }
                Some(_) | None => {}
            },
            NetworkEvent::Opened(id) => match world.network.ends(id) {
                Some((Endpoint::Client(client), ..)) => {
                    clients[client_of(client)].on_opened(id, world);
                }
                Some((Endpoint::Node(node), ..)) => nodes[node_of(node)].on_opened(id, world),
                None => {}
            },
            NetworkEvent::Arrival { connection, to } => {
                let Some((dialer, acceptor, _)) = world.network.ends(connection) else {
                    return Ok(());
                };
                let bytes = world.network.arrivals(now, connection, to).concat();
                if bytes.is_empty() {
                    return Ok(());
                }
                let end = if to == Side::Dialer { dialer } else { acceptor };
                let words = [connection.0, u64::from(to == Side::Dialer), word_of(&bytes)];
                world.trace.event(now, "arrival", &words, || {
                    format!("connection {}: {} bytes for {end:?}", connection.0, bytes.len())
                });
                match end {
                    Endpoint::Node(node) => {
                        let taken = nodes[node_of(node)].on_bytes(connection, bytes, world);
                        return taken.map_err(|violation| violation.at(now));
                    }
                    Endpoint::Client(client) => {
                        let client = &mut clients[client_of(client)];
                        return client.on_bytes(connection, &bytes, world, history);
                    }
                }
            }
            NetworkEvent::Closed { connection, end, refused } => {
                let words = [connection.0];
                world.trace.event(now, "closed", &words, || {
                    format!("connection {} for {end:?}", connection.0)
                });
                world.network.forget(connection);
                match end {
                    Endpoint::Node(node) => {
                        nodes[node_of(node)].on_closed(connection, refused, world);
                    }
                    Endpoint::Client(client) => {
                        clients[client_of(client)].on_closed(connection, world, history);
                    }
                }
            }
            NetworkEvent::Unblocked { from, to } => world.network.on_unblocked(now, from, to),
        }
        Ok(())
    }

    /// The faults end; what was begun must come to its end.
    fn heal(&mut self) {
        let Self { world, nodes, .. } = self;
        let now = world.now();
        world.is_active = false;
        world.trace.event(now, "heal", &[], String::new);
        world.network.heal(now);
        world.losses.heal();
        for node in nodes.iter_mut() {
            node.disk.heal();
            node.pause(Monotonic(0));
            node.tell_space(world);
            let is_refused = matches!(node.activity, Activity::Refused(_));
            if is_refused && world.swarm.node_count() > 1 {
                // The others have what was on it.
                node.lose_disk(world);
            }
        }
        self.healed_at = Some(now);
        self.world.schedule.after(LOOK_INTERVAL_NS, Event::Look);
    }

    /// Looks whether everything has come to its end, and goes on with the run if it has.
    fn look(&mut self) -> Result<(), Violation> {
        let Self { world, nodes, clients, .. } = self;
        let now = world.now();
        let is_over = clients.iter().all(Client::is_done);
        let is_refused = nodes.iter().any(|node| matches!(node.activity, Activity::Refused(_)));
        // On overloaded machines all must be done as well; only there is never a moment in which
        // nothing waits for any of them.
        let is_overloaded = world.swarm.standstill_ns_max > 0;
        let is_settled = match is_overloaded {
            true => nodes.iter().all(Node::is_serving),
            false => nodes.iter().all(Node::is_settled),
        };
        if is_over && is_refused && nodes.len() == 1 {
            // Nobody else has what was damaged.
            self.is_over = true;
            return Ok(());
        }
        let rests = converged(world, nodes.len());
        if is_over && is_settled && self.is_closing && rests.is_ok() {
            world.schedule.after(REST_NS, Event::End);
            return Ok(());
        }
        if is_over && is_settled && !self.is_closing {
            if is_overloaded {
                // Then it is looked again.
                world.swarm.standstill_ns_max = 0;
            } else {
                self.is_closing = true;
                self.ask_last();
            }
        } else if self.healed_at.is_some_and(|at| now.since_ns(at) > HEALED_NS_MAX) {
            let open = clients.iter().filter(|client| !client.is_done()).count();
            let activities: Vec<&Activity> = nodes.iter().map(|node| &node.activity).collect();
            let rests = rests.err().map_or(String::new(), |violation| violation.what);
            let what = format!("{open} clients wait, the nodes are {activities:?}; {rests}");
            return Err(Violation::new(Checker::Progress, what).at(now));
        }
        self.world.schedule.after(LOOK_INTERVAL_NS, Event::Look);
        Ok(())
    }

    /// One client reads everything.
    fn ask_last(&mut self) {
        let universe = &self.history.universe;
        let mut questions: Vec<Action> = universe
            .keys()
            .map(|key| Action::Get { key, freshness: Freshness::Linearizable })
            .collect();
        for map in 0..universe.map_count {
            if self.nodes.len() == 1 {
                let limit = 2 * u32::from(universe.key_count);
                questions.push(Action::Entries { map, scope: Scope::Whole, limit });
                questions.push(Action::Size { map, scope: Scope::Whole });
            }
            for partition in (0..universe.partition_count).map(PartitionId) {
                questions.push(Action::Size { map, scope: Scope::Partition(partition) });
            }
        }
        self.clients[0].ask_last(questions, &mut self.world);
    }

    fn check_end(&mut self) -> Result<(), Violation> {
        self.check_rolled_back()?;
        let Self { world, nodes, history, .. } = self;
        if nodes.iter().all(Node::is_serving) {
            converged(world, nodes.len())?;
            world.replicas.hold_all(&world.acknowledged)?;
        }
        history.slot_times = world.replicas.slot_times().collect();
        let checked = linearizability::check(history)?;
        world.report.observations_count = u64_from(checked.observations_count);
        let (ordered, given_up) = search::check(history)?;
        world.report.searched = (u64_from(ordered), u64_from(given_up));
        Ok(())
    }
}

/// That all replicas of each partition are in one state, and all of it is stable.
fn converged(world: &World, node_count: usize) -> Result<(), Violation> {
    let mut partitions = (0..world.swarm.partition_count).map(PartitionId);
    partitions
        .try_for_each(|partition| world.replicas.have_converged(partition, node_count))
        .map_err(|violation| violation.at(world.now()))
}

#[cfg(test)]
mod tests;
