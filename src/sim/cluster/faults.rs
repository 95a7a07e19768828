//! What goes wrong, when it does.

use super::{Cluster, Event, World};
use crate::base::cast::{low_u32, u64_from, usize_from};
use crate::base::ids::PartitionId;
use crate::base::time::{Monotonic, NS_PER_MS, NS_PER_S};
use crate::sim::disk::Crash;
use crate::sim::fault::Fault;
use crate::sim::network::Endpoint;
use crate::sim::node::Node;
use crate::sim::{ClientId, NodeId};
use crate::storage::wal::Durability;

/// How long something lasts at most, as a rule.
const LASTING_NS_MAX: u64 = 600 * NS_PER_MS;
/// The same once in a while.
const LONG_LASTING_NS_MAX: u64 = 4 * NS_PER_S;
/// How far a clock jumps at most.
const JUMP_NS_MAX: u64 = 3_600 * NS_PER_S;

impl Cluster {
    /// A kind of fault is due, and again after a while.
    pub(super) fn on_fault(&mut self, fault: Fault, mean_ns: u64) {
        if !self.world.is_active {
            return;
        }
        let delay_ns = mean_ns / 2 + self.world.prng.below(mean_ns);
        self.world.schedule.after(delay_ns, Event::Fault(fault, mean_ns));
        let place = usize_from(self.world.prng.below(u64_from(self.nodes.len())));
        if let Some(text) = self.make(fault, place) {
            let now = self.world.now();
            let words = [u64_from(place)];
            self.world.trace.event(now, fault.name(), &words, || format!("node {place} {text}"));
            self.world.report.fault(fault);
        }
    }

    /// Makes a fault, of a node if it is a node's. What it was; `None`: it isn't possible now.
    fn make(&mut self, fault: Fault, place: usize) -> Option<String> {
        let until = self.lasting();
        let may_lose = self.may_lose(place);
        if !self.lets_happen(fault) {
            return None;
        }
        if fault == Fault::DiskRolledBack {
            return self.roll_back(place);
        }
        if !may_lose && self.is_loss(fault) {
            return None;
        }
        let is_everywhere = self.world.promises_durability() && self.world.prng.one_in(6);
        let Self { world, nodes, .. } = self;
        let may_crash = world.may_crash() && (may_lose || world.promises_durability());
        let node = &mut nodes[place];
        match fault {
            Fault::Kill => node.crash(world, Crash::Process),
            Fault::PowerLoss if is_everywhere => {
                nodes.iter_mut().for_each(|node| node.crash(world, Crash::Power));
            }
            Fault::PowerLoss => node.crash(world, Crash::Power),
            Fault::CleanStop => node.stop(world),
            Fault::Pause => node.pause(until),
            Fault::Rehome => {
                node.change_shard_count(world);
                let crashes = may_crash && world.prng.one_in(2);
                end_process(node, crashes, world);
            }
            Fault::Break => return self.break_one(),
            Fault::Transfer => return self.transfer_to(place),
            Fault::Partition | Fault::OneWay | Fault::Clog => {
                return Some(self.disturb_way(fault, place, until));
            }
            Fault::SlowDisk => node.disk.slow_down(until),
            Fault::FullDisk => {
                node.disk.set_full(true);
                node.tell_space(world);
                world.schedule.at(until, Event::Room(node.id));
            }
            Fault::WriteError => node.disk.fail_write(),
            Fault::ReadError => {
                node.will_lose(world);
                node.disk.fail_reads(1 + low_u32(world.prng.below(3)));
                end_process(node, may_crash, world);
            }
            Fault::BitFlip | Fault::LostWrite | Fault::Misdirected | Fault::CheckpointFlip => {
                let what = node.damage(fault, world)?;
                // Half of the time the next start finds it, else whoever reads it before.
                if world.prng.one_in(2) {
                    node.crash(world, Crash::Process);
                }
                return Some(what);
            }
            Fault::DiskLost => node.lose_disk(world),
            Fault::DiskRolledBack => return None,
            Fault::LostCommand => return Some(world.losses.begin(until)),
            Fault::ClockJump => {
                let ns = i64::try_from(world.prng.below(JUMP_NS_MAX)).unwrap_or(0);
                node.clock.jump(if world.prng.one_in(2) { ns } else { -ns });
            }
        }
        Some(String::new())
    }

    /// Whether a fault makes a node forget what it has promised.
    fn is_loss(&self, fault: Fault) -> bool {
        let durability = self.world.swarm.durability;
        match fault {
            Fault::Kill | Fault::PowerLoss => durability != Durability::Sync,
            // A process that was told to stop keeps what it had promised, where it can.
            Fault::CleanStop | Fault::Rehome => durability == Durability::None,
            // A log that can't be read is mended by the other members.
            Fault::ReadError => self.nodes.len() > 1,
            _ => fault.is_damage() || fault.is_loss(),
        }
    }

    /// Whether the others can make good for what a node loses now: a majority of all members keeps
    /// what it has promised. A lone node has no others: which faults it bears, its seed has said.
    pub(super) fn may_lose(&self, place: usize) -> bool {
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != place);
        let weak_count = others.filter(|(_, node)| !node.is_whole()).count();
        self.nodes.len() == 1 || weak_count < (self.nodes.len() - 1) / 2
    }

    /// Until when something lasts that begins now.
    fn lasting(&mut self) -> Monotonic {
        let prng = &mut self.world.prng;
        let most = if prng.one_in(5) { LONG_LASTING_NS_MAX } else { LASTING_NS_MAX };
        let lasting_ns = prng.below(most);
        self.world.now().after_ns(lasting_ns)
    }

    fn break_one(&mut self) -> Option<String> {
        let world = &mut self.world;
        let open: Vec<_> = world.network.open_connections().collect();
        if open.is_empty() {
            return None;
        }
        let chosen = open[usize_from(world.prng.below(u64_from(open.len())))];
        world.network.break_off(world.schedule.now(), chosen);
        Some(format!("connection {}", chosen.0))
    }

    /// A node is to lead a partition that another one leads.
    fn transfer_to(&mut self, place: usize) -> Option<String> {
        let Self { world, nodes, .. } = self;
        let partition = world.prng.below(u64::from(world.swarm.partition_count));
        let partition = PartitionId(low_u32(partition));
        let to = nodes[place].id;
        let leader = nodes.iter_mut().find(|node| node.leads(partition, world))?;
        leader.transfer(partition, to, world);
        Some(format!("instead of {} leads {partition}", leader.id))
    }

    /// Disturbs the way between a node and another end.
    fn disturb_way(&mut self, fault: Fault, place: usize, until: Monotonic) -> String {
        let node = Endpoint::Node(self.nodes[place].id);
        let others: Vec<Endpoint> = self
            .nodes
            .iter()
            .map(|node| Endpoint::Node(NodeId(node.id.0)))
            .chain(self.clients.iter().map(|client| Endpoint::Client(ClientId(client.id.0))))
            .filter(|end| *end != node)
            .collect();
        let world = &mut self.world;
        let other = others[usize_from(world.prng.below(u64_from(others.len())))];
        // Now and then all other nodes are at the other end.
        let is_alone = world.prng.one_in(3);
        let is_node = |end: &&Endpoint| matches!(end, Endpoint::Node(_));
        let ends: Vec<Endpoint> = match is_alone && self.nodes.len() > 1 {
            true => others.iter().filter(is_node).copied().collect(),
            false => vec![other],
        };
        let is_outward = world.prng.one_in(2);
        let ways = ends.into_iter().flat_map(|other| match (fault, is_outward) {
            (Fault::Partition, _) => vec![(node, other), (other, node)],
            (_, true) => vec![(node, other)],
            (_, false) => vec![(other, node)],
        });
        let ways: Vec<(Endpoint, Endpoint)> = ways.collect();
        for &(from, to) in &ways {
            match fault {
                Fault::Clog => world.network.clog(from, to, until),
                _ => world.network.block(from, to, until),
            }
        }
        format!("{ways:?} until {}", until.0 / NS_PER_MS)
    }
}

/// A process ends so that it starts again: killed, or told to stop.
fn end_process(node: &mut Node, crashes: bool, world: &mut World) {
    match crashes {
        true => node.crash(world, Crash::Process),
        false => node.stop(world),
    }
}
