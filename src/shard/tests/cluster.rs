//! Nodes of a cluster, joined as a network joins them: what one shard says to another arrives in
//! order until the connection breaks.

mod recorded;
mod rolled_back;
mod scenarios;
mod transfers;

use std::ops::Range;

use super::*;
use crate::base::limits::FRAME_SENT_SIZE_BYTES_MAX;
use crate::nopaxos::Status;
use crate::nopaxos::replica::Replica;
use crate::storage::witness::Life;
use crate::wire::route::Router;

const BOOT: u64 = 1;
pub(super) const NODE_COUNT: usize = 3;

/// Says of a frame on its way whether it is lost.
type Loses = Box<dyn FnMut(usize, usize, &message::Message) -> bool>;

/// How a cluster is made.
#[derive(Clone, Copy, Debug)]
struct Form {
    sequencer_offset: u8,
    log_segment_count: u64,
    durability: Durability,
}

impl Default for Form {
    fn default() -> Self {
        let durability = Durability::Sync;
        Self { sequencer_offset: 0, log_segment_count: LOG_SEGMENT_COUNT, durability }
    }
}

/// A cluster of nodes with a shard each. A node that is down has left its disk.
pub(super) struct Net {
    pub(super) nodes: Vec<Result<Host, Disk>>,
    /// What is under way, by who says it to whom.
    pub(super) links: BTreeMap<(usize, usize), VecDeque<Bytes>>,
    connected: BTreeSet<(usize, usize)>,
    boots: Vec<u64>,
    prng: Prng,
    pub(super) clock: Monotonic,
    form: Form,
    pub(super) loses: Option<Loses>,
    /// The partitions that each node could not go on with when it started last.
    suspects: Vec<Vec<PartitionId>>,
}

impl Net {
    pub(super) fn start(seed: u64) -> Self {
        Self::start_as(seed, Form::default())
    }

    fn start_as(seed: u64, form: Form) -> Self {
        let mut net = Self {
            form,
            loses: None,
            suspects: vec![Vec::new(); NODE_COUNT],
            nodes: (0..NODE_COUNT).map(|_| Err(Disk::default())).collect(),
            links: BTreeMap::new(),
            connected: BTreeSet::new(),
            boots: vec![BOOT; NODE_COUNT],
            prng: Prng::new(seed, "network"),
            clock: Monotonic(NS_PER_S),
        };
        for node in 0..NODE_COUNT {
            net.boot(node);
        }
        net
    }

    pub(super) fn boot(&mut self, node: usize) {
        let former = std::mem::replace(&mut self.nodes[node], Err(Disk::default()));
        let Err(disk) = former else { panic!("node {node} is up already") };
        let names: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let nodes = Cluster::new(names.clone(), &names[node], NODE_COUNT);
        let boot = self.boots[node];
        self.boots[node] += 1;
        let Form { sequencer_offset, log_segment_count, durability } = self.form;
        let place = Place { nodes, sequencer_offset, log_segment_count };
        let (mut host, suspects) =
            Host::boot_from(place, (ShardId(0), 1), disk, (durability, boot), u64::MAX)
                .expect("its own log");
        self.suspects[node] = suspects.iter().map(|suspect| suspect.partition).collect();
        host.now.monotonic = host.now.monotonic.max(self.clock);
        host.now.wall = Timestamp(host.now.monotonic.0);
        self.nodes[node] = Ok(host);
        for other in (0..NODE_COUNT).filter(|other| *other != node) {
            self.connect(node, other);
        }
    }

    pub(super) fn host(&mut self, node: usize) -> &mut Host {
        self.nodes[node].as_mut().unwrap_or_else(|_| panic!("node {node} is down"))
    }

    fn is_up(&self, node: usize) -> bool {
        self.nodes[node].is_ok()
    }

    pub(super) fn connect(&mut self, one: usize, other: usize) {
        if !self.is_up(one) || !self.is_up(other) {
            return;
        }
        for (from, to) in [(one, other), (other, one)] {
            self.links.insert((from, to), VecDeque::new());
            self.connected.insert((from, to));
        }
        for (from, to) in [(one, other), (other, one)] {
            let partitions = &*self.host(from).shard.greeting(id(to));
            let boot = self.boots[from];
            let life = Life { boot_epoch: BootEpoch(boot), nonce: boot };
            let host = self.host(to);
            let (node, clock) = (id(from), host.now.wall);
            host.handle(Input::PeerConnected { node, life, clock, partitions });
        }
    }

    pub(super) fn disconnect(&mut self, one: usize, other: usize, refused: bool) {
        for (from, to) in [(one, other), (other, one)] {
            self.links.remove(&(from, to));
            if self.connected.remove(&(from, to)) && self.is_up(to) {
                let partitions = 0..PARTITION_COUNT;
                let input = Input::PeerDisconnected { node: id(from), partitions, refused };
                self.host(to).handle(input);
            }
        }
    }

    /// The process is gone, and what wasn't durable with it.
    pub(super) fn kill(&mut self, node: usize) {
        self.end(node, false);
    }

    /// The power is gone: of the writes in flight any blocks may be on the disk.
    fn cut_power(&mut self, node: usize) {
        self.end(node, true);
    }

    fn end(&mut self, node: usize, tears: bool) {
        let host = std::mem::replace(&mut self.nodes[node], Err(Disk::default()));
        let Ok(mut host) = host else { panic!("node {node} is down already") };
        if tears {
            host.tear(&mut self.prng);
        }
        host.disk.unfinished = None;
        self.nodes[node] = Err(host.disk);
        for other in (0..NODE_COUNT).filter(|other| *other != node) {
            self.disconnect(node, other, true);
        }
    }

    /// Puts what the nodes said on its way.
    pub(super) fn collect(&mut self) {
        for from in 0..NODE_COUNT {
            let Ok(host) = &mut self.nodes[from] else { continue };
            for (to, bytes) in std::mem::take(&mut host.asked.sent) {
                let mut bytes = bytes.freeze();
                let link = self.links.get_mut(&(from, usize::from(to.0)));
                let Some(link) = link else { continue };
                while !bytes.is_empty() {
                    let prefix = bytes.split_to(FRAME_PREFIX_SIZE_BYTES);
                    let size = u32::from_be_bytes(prefix[1..].try_into().unwrap());
                    let frame = bytes.split_to(usize_from_u32(size));
                    assert!(prefix.len() + frame.len() <= FRAME_SENT_SIZE_BYTES_MAX);
                    let is_lost = self.loses.as_mut().is_some_and(|loses| {
                        let message = Message::decode(frame.clone()).unwrap().message.unwrap();
                        loses(from, usize::from(to.0), &message)
                    });
                    if !is_lost {
                        link.push_back(frame);
                    }
                }
            }
        }
    }

    /// One of the things that can happen; `false`: only time can pass.
    pub(super) fn step(&mut self) -> bool {
        self.collect();
        let mut choices: Vec<(usize, Option<usize>)> = Vec::new();
        for (&(from, to), link) in &self.links {
            if !link.is_empty() && self.is_up(to) {
                choices.push((to, Some(from)));
            }
        }
        for node in 0..NODE_COUNT {
            if let Ok(host) = &self.nodes[node]
                && !(host.asked.writes.is_empty()
                    && host.asked.segments.is_empty()
                    && host.asked.reads.is_empty()
                    && host.asked.steps.is_empty())
            {
                choices.push((node, None));
            }
        }
        if choices.is_empty() {
            return false;
        }
        let choice = self.prng.below(u64_from(choices.len()));
        let (node, from) = choices[usize_from(choice)];
        self.clock = self.clock.after_ns(2_000);
        let (clock, draw) = (self.clock, self.prng.next_u64());
        let frame = from.and_then(|from| self.links.get_mut(&(from, node))?.pop_front());
        let host = self.host(node);
        host.now.monotonic = clock.max(host.now.monotonic);
        host.now.wall = Timestamp(host.now.monotonic.0);
        match (from, frame) {
            (Some(from), Some(payload)) => {
                host.handle(Input::Peer { from: id(from), payload });
            }
            _ => {
                host.step(draw);
            }
        }
        true
    }

    /// Lets everything happen for a while, on a network that loses nothing.
    pub(super) fn run_for(&mut self, ns: u64) {
        let end = self.clock.after_ns(ns);
        while self.clock < end {
            if self.step() {
                continue;
            }
            let due = self.nodes.iter().flatten().filter_map(|host| host.shard.next_deadline());
            self.clock = self.clock.max(due.min().unwrap_or(end).min(end)).after_ns(1_000);
            let clock = self.clock;
            for host in self.nodes.iter_mut().flatten() {
                host.now.monotonic = clock.max(host.now.monotonic);
                host.now.wall = Timestamp(host.now.monotonic.0);
                if host.shard.next_deadline().is_some_and(|due| due <= clock) {
                    host.handle(Input::Deadline);
                }
            }
        }
    }

    /// The node that stamps commands for a key.
    pub(super) fn stamper(&self, key: &str) -> Option<usize> {
        let partition = usize_from_u32(partition_of(key).0);
        let member = |node: &usize| {
            Some(&self.nodes[*node].as_ref().ok()?.shard.partitions[partition].member)
        };
        let stamps = |node: &usize| member(node).is_some_and(Member::is_stamping);
        let view = |node: &usize| member(node).map(|member| member.replica().view());
        (0..NODE_COUNT).filter(stamps).max_by_key(view)
    }

    /// Where a node is with the partition of a key.
    fn replica(&self, node: usize, key: &str) -> &Replica {
        let host = self.nodes[node].as_ref().unwrap_or_else(|_| panic!("node {node} is down"));
        host.shard.partitions[usize_from_u32(partition_of(key).0)].member.replica()
    }

    /// Cuts a node off the others, or joins it with them again.
    fn isolate(&mut self, node: usize) {
        for other in (0..NODE_COUNT).filter(|other| *other != node) {
            self.disconnect(node, other, false);
        }
    }

    fn join(&mut self, node: usize) {
        for other in (0..NODE_COUNT).filter(|other| *other != node) {
            self.connect(node, other);
        }
    }

    /// What a node that is down has left.
    fn disk(&mut self, node: usize) -> &mut Disk {
        self.nodes[node].as_mut().err().expect("the node is down")
    }

    /// Writes keys, and says what is known to be there: all of them were acknowledged.
    fn put_all(&mut self, keys: Range<u32>, value: &str) -> BTreeMap<String, String> {
        let mut written = BTreeMap::new();
        for number in keys {
            let key = format!("k{number}");
            let put = self.put(&key, value);
            assert!(matches!(put, Some(Outcome::Written(_))), "{key}: {put:?}");
            written.insert(key, value.to_owned());
        }
        written
    }

    /// Everything that was acknowledged is there, whoever leads now.
    fn assert_has(&mut self, written: &BTreeMap<String, String>) {
        for (key, value) in written {
            for _ in 0..500 {
                if self.stamper(key).is_some() {
                    break;
                }
                self.run_for(NS_PER_S / 100);
            }
            assert_eq!(self.get(key).as_ref(), Some(value), "{key}");
        }
    }

    /// Where each node is with each of its partitions' views.
    fn views(&self) -> Vec<(TermId, Status)> {
        let partitions = self.nodes.iter().flatten().flat_map(|host| &host.shard.partitions);
        let replicas = partitions.map(|found| found.member.replica());
        replicas.map(|replica| (replica.view(), replica.status())).collect()
    }

    /// Runs until a node has nothing left to recover: it is part of all of its views.
    fn wait_until_whole(&mut self, node: usize) {
        for _ in 0..2_000 {
            let host = self.host(node);
            let mut partitions = host.shard.partitions.iter();
            if partitions.all(|found| found.member.replica().status() == Status::Normal) {
                return;
            }
            self.run_for(NS_PER_S / 100);
        }
        panic!("node {node} doesn't recover in twenty seconds");
    }

    pub(super) fn put(&mut self, key: &str, value: &str) -> Option<Outcome> {
        let node = self.stamper(key)?;
        let correlation = self.host(node).put(key, value);
        self.answer(node, correlation)
    }

    pub(super) fn get(&mut self, key: &str) -> Option<String> {
        let node = self.stamper(key).expect("somebody stamps");
        let correlation = self.host(node).query(get(key));
        match self.answer(node, correlation) {
            Some(Outcome::Found(found)) => {
                found.entry.map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
            }
            other => panic!("no answer to a get: {other:?}"),
        }
    }

    pub(super) fn answer(&mut self, node: usize, correlation: u64) -> Option<Outcome> {
        for _ in 0..200 {
            if let Some(mut answers) = self.host(node).answers().remove(&correlation) {
                return Some(answers.remove(0).1);
            }
            self.run_for(NS_PER_S / 100);
        }
        None
    }

    pub(super) fn wait_until_ready(&mut self) {
        for _ in 0..1_000 {
            if self.nodes.iter().flatten().all(|host| host.shard.is_ready()) {
                return;
            }
            self.run_for(NS_PER_S / 100);
        }
        panic!("no view in ten seconds");
    }

    pub(super) fn assert_converged(&mut self) {
        self.run_for(3 * NS_PER_S);
        let digests: Vec<_> = self.nodes.iter().flatten().map(Host::digests).collect();
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "replicas differ");
    }
}

fn partition_of(key: &str) -> PartitionId {
    Router::new(PARTITION_COUNT).partition_of_key(key.as_bytes())
}

pub(super) fn id(node: usize) -> NodeId {
    NodeId(u8::try_from(node).unwrap())
}

#[test]
fn three_nodes_agree_on_what_was_written_to_any_of_their_partitions() {
    let mut net = Net::start(1);
    net.wait_until_ready();
    for number in 0..50 {
        let put = net.put(&format!("k{number}"), "v");
        assert!(matches!(put, Some(Outcome::Written(_))), "{put:?}");
    }
    assert_eq!(net.get("k7").as_deref(), Some("v"));
    assert_eq!(net.get("none"), None);
    net.assert_converged();
}

#[test]
fn what_was_acknowledged_survives_the_loss_of_any_node_and_its_return() {
    for seed in 0..6 {
        let mut net = Net::start(seed);
        net.wait_until_ready();
        let mut written = Vec::new();
        for round in 0..4 {
            for number in 0..20 {
                let (key, value) = (format!("k{number}"), format!("{round}"));
                if let Some(Outcome::Written(_)) = net.put(&key, &value) {
                    written.push((key, value));
                }
            }
            let victim = usize_from(net.prng.below(3));
            net.kill(victim);
            net.run_for(2 * NS_PER_S);
            let put = net.put("while it was down", &format!("{round}"));
            assert!(matches!(put, Some(Outcome::Written(_))), "seed {seed}: {put:?}");
            for (key, value) in &written {
                assert_eq!(net.get(key).as_ref(), Some(value), "seed {seed}: {key}");
            }
            written.clear();
            net.boot(victim);
            net.wait_until_ready();
        }
        net.assert_converged();
    }
}

#[test]
fn leader_that_lags_behind_what_a_voter_has_let_go_takes_its_checkpoint() {
    let mut net = Net::start(3);
    net.wait_until_ready();
    net.put("k", "first");
    let old_leader = net.stamper("k").expect("somebody stamps");
    // The leader of the next term, and the only one that has everything then.
    let (lagging, voter) = ((old_leader + 1) % NODE_COUNT, (old_leader + 2) % NODE_COUNT);
    let slot = crate::wire::route::key_slot(b"k");
    let place = usize_from_u32(u32::from(slot) * PARTITION_COUNT / 16_384);
    let of = |net: &mut Net, node: usize| {
        let replica = net.host(node).shard.partitions[place].member.replica();
        (replica.view(), replica.first(), replica.log().last())
    };
    let (_, _, held) = of(&mut net, lagging);
    net.kill(lagging);
    let value = "v".repeat(1 << 20);
    for _ in 0..3 * LOG_SEGMENT_COUNT {
        let put = net.put("k", &value);
        assert!(matches!(put, Some(Outcome::Written(_))), "{put:?}");
    }
    net.put("k", "last");
    let (term, first, _) = of(&mut net, voter);
    assert!(first > held.next(), "{first} of what {held} is the last");
    net.boot(lagging);
    net.disconnect(lagging, old_leader, false);
    net.run_for(NS_PER_S / 100);
    net.kill(old_leader);
    net.wait_until_ready();
    assert_eq!(of(&mut net, lagging).0, term.next(), "it took more than one view change");
    assert_eq!(net.stamper("k"), Some(lagging));
    assert_eq!(net.get("k").as_deref(), Some("last"));
    net.boot(old_leader);
    net.assert_converged();
}
