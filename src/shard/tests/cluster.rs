//! Nodes of a cluster, joined as a network joins them: what one shard says to another arrives in
//! order until the connection breaks.

use super::*;

const BOOT: u64 = 1;
const NODE_COUNT: usize = 3;

/// A cluster of nodes with a shard each. A node that is down has left its disk.
struct Net {
    nodes: Vec<Result<Host, Disk>>,
    /// What is under way, by who says it to whom.
    links: BTreeMap<(usize, usize), VecDeque<Bytes>>,
    connected: BTreeSet<(usize, usize)>,
    boots: Vec<u64>,
    prng: Prng,
    clock: Monotonic,
}

impl Net {
    fn start(seed: u64) -> Self {
        let mut net = Self {
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

    fn boot(&mut self, node: usize) {
        let former = std::mem::replace(&mut self.nodes[node], Err(Disk::default()));
        let Err(disk) = former else { panic!("node {node} is up already") };
        let names: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let nodes = Cluster::new(names.clone(), &names[node], NODE_COUNT);
        let boot = self.boots[node];
        self.boots[node] += 1;
        let mut host =
            Host::boot_member(nodes, (ShardId(0), 1), disk, (Durability::Sync, boot), u64::MAX);
        host.now.monotonic = host.now.monotonic.max(self.clock);
        host.now.wall = Timestamp(host.now.monotonic.0);
        self.nodes[node] = Ok(host);
        for other in (0..NODE_COUNT).filter(|other| *other != node) {
            self.connect(node, other);
        }
    }

    fn host(&mut self, node: usize) -> &mut Host {
        self.nodes[node].as_mut().unwrap_or_else(|_| panic!("node {node} is down"))
    }

    fn is_up(&self, node: usize) -> bool {
        self.nodes[node].is_ok()
    }

    fn connect(&mut self, one: usize, other: usize) {
        if !self.is_up(one) || !self.is_up(other) {
            return;
        }
        for (from, to) in [(one, other), (other, one)] {
            self.links.insert((from, to), VecDeque::new());
            self.connected.insert((from, to));
        }
        for (from, to) in [(one, other), (other, one)] {
            let lives = self.host(from).shard.lives(id(to));
            let host = self.host(to);
            let clock = host.now.wall;
            host.handle(Input::PeerConnected { node: id(from), clock, lives: &lives });
        }
    }

    fn disconnect(&mut self, one: usize, other: usize, refused: bool) {
        for (from, to) in [(one, other), (other, one)] {
            self.links.remove(&(from, to));
            if self.connected.remove(&(from, to)) && self.is_up(to) {
                let input = Input::PeerDisconnected { node: id(from), refused };
                self.host(to).handle(input);
            }
        }
    }

    /// The process is gone, and what wasn't durable with it.
    fn kill(&mut self, node: usize) {
        let host = std::mem::replace(&mut self.nodes[node], Err(Disk::default()));
        let Ok(mut host) = host else { panic!("node {node} is down already") };
        host.disk.unfinished = None;
        self.nodes[node] = Err(host.disk);
        for other in (0..NODE_COUNT).filter(|other| *other != node) {
            self.disconnect(node, other, true);
        }
    }

    /// Puts what the nodes said on its way.
    fn collect(&mut self) {
        for from in 0..NODE_COUNT {
            let Ok(host) = &mut self.nodes[from] else { continue };
            for (to, bytes) in std::mem::take(&mut host.asked.sent) {
                let mut bytes = bytes.freeze();
                let link = self.links.get_mut(&(from, usize::from(to.0)));
                let Some(link) = link else { continue };
                while !bytes.is_empty() {
                    let prefix = bytes.split_to(FRAME_PREFIX_SIZE_BYTES);
                    let size = u32::from_be_bytes(prefix[1..].try_into().unwrap());
                    link.push_back(bytes.split_to(usize_from_u32(size)));
                }
            }
        }
    }

    /// One of the things that can happen; `false`: only time can pass.
    fn step(&mut self) -> bool {
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
    fn run_for(&mut self, ns: u64) {
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
    fn stamper(&self, key: &str) -> Option<usize> {
        let slot = crate::wire::route::key_slot(key.as_bytes());
        let partition = u32::from(slot) * PARTITION_COUNT / 16_384;
        (0..NODE_COUNT).find(|node| {
            self.nodes[*node].as_ref().is_ok_and(|host| {
                host.shard.partitions[usize_from_u32(partition)].member.is_stamping()
            })
        })
    }

    fn put(&mut self, key: &str, value: &str) -> Option<Outcome> {
        let node = self.stamper(key)?;
        let correlation = self.host(node).put(key, value);
        self.answer(node, correlation)
    }

    fn get(&mut self, key: &str) -> Option<String> {
        let node = self.stamper(key).expect("somebody stamps");
        let correlation = self.host(node).query(get(key));
        match self.answer(node, correlation) {
            Some(Outcome::Found(found)) => {
                found.entry.map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
            }
            other => panic!("no answer to a get: {other:?}"),
        }
    }

    fn answer(&mut self, node: usize, correlation: u64) -> Option<Outcome> {
        for _ in 0..200 {
            if let Some(mut answers) = self.host(node).answers().remove(&correlation) {
                return Some(answers.remove(0).1);
            }
            self.run_for(NS_PER_S / 100);
        }
        None
    }

    fn wait_until_ready(&mut self) {
        for _ in 0..1_000 {
            if self.nodes.iter().flatten().all(|host| host.shard.is_ready()) {
                return;
            }
            self.run_for(NS_PER_S / 100);
        }
        panic!("no view in ten seconds");
    }

    fn assert_converged(&mut self) {
        self.run_for(3 * NS_PER_S);
        let digests: Vec<_> = self.nodes.iter().flatten().map(Host::digests).collect();
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "replicas differ");
    }
}

fn id(node: usize) -> NodeId {
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
