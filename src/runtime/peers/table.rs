//! Which connections to other nodes a shard has, and when it dials those that it lacks.
//!
//! Nothing here does any I/O: who drives it says what became of connections ([`Peers::opened`],
//! [`Peers::lost`]) and does what comes of it.

use std::ops::Range;
use std::sync::Arc;

use super::{PeerNetwork, WayId};
use crate::base::ids::{BootEpoch, NodeId, PartitionId, ShardId};
use crate::base::limits::{PEER_BACKOFF_NS_MAX, PEER_BACKOFF_NS_MIN};
use crate::base::prng::Prng;
use crate::base::shards::ShardMap;
use crate::base::time::Monotonic;
use crate::runtime::uring::Key;
use crate::storage::witness::LatestBoots;
use crate::wire::peer::hello::{Hello, Lane};

/// A connection that lived so long was a good one: the next one is dialled soon.
const GOOD_LIFE_NS: u64 = PEER_BACKOFF_NS_MAX;

/// A shard's connections to other nodes; none of a node that is alone.
#[derive(Debug, Default)]
pub struct Peers {
    network: Option<Arc<PeerNetwork>>,
    /// Which partitions this shard owns, and which nodes hold each of them.
    own: Range<u32>,
    holders: Vec<Vec<NodeId>>,
    prng: Option<Prng>,
    /// The other nodes, by their ids.
    nodes: Vec<Option<PeerNode>>,
    boots: LatestBoots,
    /// When the first of all lines is due.
    next_due: Option<Monotonic>,
    connected_count: usize,
}

/// Another node.
#[derive(Debug)]
struct PeerNode {
    id: NodeId,
    /// How it spreads partitions over its shards, as far as is known.
    shards: ShardMap,
    /// The first of its shards with which this one may have to do.
    first_shard: u16,
    /// Both lanes to each of these.
    ways: Vec<[Way; 2]>,
    /// Why it was refused, or refuses, as it was logged last.
    complaint: Option<String>,
}

/// One lane to a shard of another node.
#[derive(Debug)]
struct Way {
    /// Both shards hold some partition.
    is_needed: bool,
    line: Line,
    backoff_ns: u64,
    /// When the line was opened last.
    opened_at: Monotonic,
    /// Of the process at the other end.
    process_nonce: u64,
    /// The shard was told that this process is gone.
    is_gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// Nothing is to be done: the other side dials, or both shards have nothing in common.
    Idle,
    /// It is dialled then, by who dials; the other side only looks whether somebody listens.
    Due(Monotonic),
    Dialling(Key),
    Open(Key),
}

/// A connection that is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Which one.
    pub way: WayId,
    /// Only to see whether somebody listens.
    pub is_probe: bool,
}

/// What follows when a connection is there or gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Connections that are to be cut.
    pub cut: Vec<Key>,
    /// The partitions of shards that are no longer connected.
    pub gone: Vec<Range<u32>>,
}

impl Peers {
    /// Those of a shard of this node.
    #[must_use]
    pub fn new(network: Arc<PeerNetwork>, me: ShardId, shard_count: u16, now: Monotonic) -> Self {
        let own = ShardMap::new(network.partition_count, shard_count).partitions_of(me);
        let holders = own.clone().map(|partition| network.cluster.members(PartitionId(partition)));
        let salt = format!("peers of shard {me}");
        let mut peers = Self {
            holders: holders.collect(),
            own,
            prng: Some(Prng::new(network.process_nonce, &salt)),
            nodes: network.cluster.nodes().map(|_| None).collect(),
            boots: LatestBoots::default(),
            next_due: None,
            connected_count: 0,
            network: Some(Arc::clone(&network)),
        };
        for node in network.cluster.nodes().filter(|node| *node != network.cluster.me()) {
            peers.nodes[usize::from(node.0)] = Some(peers.node_with(node, shard_count, now));
        }
        peers.reckon();
        peers
    }

    /// What is known of the cluster; `None`: the node is alone.
    #[must_use]
    pub fn network(&self) -> Option<&Arc<PeerNetwork>> {
        self.network.as_ref()
    }

    /// How many nodes are connected.
    #[must_use]
    pub fn connected_count(&self) -> usize {
        self.connected_count
    }

    /// When [`Peers::take_due`] has something.
    #[must_use]
    pub fn next_due(&self) -> Option<Monotonic> {
        self.next_due
    }

    /// The connection on which something is said to a node about a partition of this shard.
    #[must_use]
    pub fn key(&self, node: NodeId, partition: PartitionId, lane: Lane) -> Option<Key> {
        let node = self.nodes.get(usize::from(node.0))?.as_ref()?;
        let shard = node.shards.owner(partition);
        let ways = node.ways.get(usize::from(shard.0.checked_sub(node.first_shard)?))?;
        let way = &ways[place_of(lane)];
        way.line.open().filter(|_| way.is_of_process_of(&ways[0]))
    }

    /// All connections to a node.
    #[must_use]
    pub fn keys(&self, node: NodeId) -> Vec<Key> {
        let node = self.nodes.get(usize::from(node.0)).and_then(Option::as_ref);
        node.map_or(Vec::new(), PeerNode::keys)
    }

    /// All connections to all nodes.
    pub fn all_keys(&self) -> impl Iterator<Item = Key> + use<> {
        let keys: Vec<Key> = self.nodes.iter().flatten().flat_map(PeerNode::keys).collect();
        keys.into_iter()
    }

    /// Whether what comes on a connection counts: it is of the process with which protocol is
    /// spoken.
    #[must_use]
    pub fn is_current(&self, way: WayId, key: Key) -> bool {
        let Some((node, place)) = self.place(way) else { return false };
        let found = &node.ways[place][place_of(way.lane)];
        found.line == Line::Open(key) && found.is_of_process_of(&node.ways[place][0])
    }

    /// The partitions of a shard of another node.
    #[must_use]
    pub fn partitions_of(&self, way: WayId) -> Range<u32> {
        self.place(way).map_or(0..0, |(node, _)| node.shards.partitions_of(way.shard))
    }

    /// Whether there is such a connection at all.
    #[must_use]
    pub fn knows(&self, way: WayId) -> bool {
        self.place(way).is_some_and(|(node, place)| node.ways[place][0].is_needed)
    }

    /// The partitions that this shard and one of another node have both.
    #[must_use]
    pub fn shared(&self, way: WayId) -> Range<u32> {
        let theirs = self.partitions_of(way);
        theirs.start.max(self.own.start)..theirs.end.min(self.own.end)
    }

    /// A connection that is to be made now. [`Peers::dialling`] must follow.
    pub fn take_due(&mut self, now: Monotonic) -> Option<Due> {
        if self.next_due.is_none_or(|due| now < due) {
            return None;
        }
        let network = self.network.as_ref()?;
        for node in self.nodes.iter().flatten() {
            for (place, ways) in node.ways.iter().enumerate() {
                for (way, lane) in ways.iter().zip([Lane::Protocol, Lane::Bulk]) {
                    if matches!(way.line, Line::Due(due) if due <= now) {
                        let shard = ShardId(place_shard(node, place));
                        let way = WayId { node: node.id, shard, lane };
                        return Some(Due { way, is_probe: !network.dials(node.id) });
                    }
                }
            }
        }
        None
    }

    /// It is being made.
    pub fn dialling(&mut self, way: WayId, key: Key) {
        if let Some(way) = self.way(way) {
            way.line = Line::Dialling(key);
        }
        self.reckon();
    }

    /// It can't even be tried.
    pub fn not_dialled(&mut self, way: WayId, now: Monotonic) {
        self.retry(way, now);
        self.reckon();
    }

    /// The latest boot of a node that was heard of: to be kept with what is said to it.
    #[must_use]
    pub fn latest_boot(&self, node: NodeId) -> BootEpoch {
        self.boots.of(node)
    }

    /// A node has answered what was said to it when `known` was its latest boot. False: it may be
    /// the last words of a process that is gone, and counts for nothing.
    pub fn on_answer(&mut self, hello: &Hello, known: BootEpoch) -> bool {
        self.boots.on_answer(hello.member, hello.boot_epoch, known)
    }

    /// A connection is there: both sides have said who they are.
    pub fn opened(&mut self, id: WayId, key: Key, hello: &Hello, now: Monotonic) -> Change {
        let mut change = Change::default();
        let dials = self.network.as_ref().is_some_and(|network| network.dials(id.node));
        let Some((node, place)) = self.place_mut(id) else { return change };
        let former = node.ways[place][place_of(id.lane)].line;
        match former {
            Line::Dialling(other) | Line::Open(other) if other != key => change.cut.push(other),
            Line::Idle | Line::Due(_) | Line::Dialling(_) | Line::Open(_) => {}
        }
        if id.lane == Lane::Protocol {
            if matches!(former, Line::Open(other) if other != key) {
                change.gone.push(node.shards.partitions_of(id.shard));
            }
            let [_, bulk] = &mut node.ways[place];
            if dials && bulk.line == Line::Idle {
                bulk.line = Line::Due(now);
            }
        }
        let way = &mut node.ways[place][place_of(id.lane)];
        way.line = Line::Open(key);
        way.opened_at = now;
        way.process_nonce = hello.process_nonce;
        way.is_gone = false;
        node.complaint = None;
        let [protocol, bulk] = &node.ways[place];
        if protocol.line.open().is_some() && !bulk.is_of_process_of(protocol) {
            // It is of a process that is gone.
            change.cut.extend(bulk.line.open());
        }
        self.reckon();
        change
    }

    /// A connection is gone, or was never made.
    pub fn lost(&mut self, id: WayId, key: Key, now: Monotonic) -> Change {
        let mut change = Change::default();
        let Some((node, place)) = self.place_mut(id) else { return change };
        let former = node.ways[place][place_of(id.lane)].line;
        if former != Line::Dialling(key) && former != Line::Open(key) {
            return change;
        }
        let was_open = former == Line::Open(key);
        if was_open && id.lane == Lane::Protocol {
            change.gone.push(node.shards.partitions_of(id.shard));
            change.cut.extend(node.ways[place][1].line.open());
        }
        let way = &mut node.ways[place][place_of(id.lane)];
        if was_open && now.since_ns(way.opened_at) >= GOOD_LIFE_NS {
            way.backoff_ns = PEER_BACKOFF_NS_MIN;
        }
        self.retry(id, now);
        self.reckon();
        change
    }

    /// Nobody listens at the node's address. True: its shard isn't told yet that it is gone.
    pub fn refused(&mut self, id: WayId) -> bool {
        let dials = self.network.as_ref().is_some_and(|network| network.dials(id.node));
        let Some((node, place)) = self.place_mut(id) else { return false };
        let way = &mut node.ways[place][place_of(id.lane)];
        if !dials {
            // We know what we wanted to know.
            way.line = Line::Idle;
        }
        let is_news = id.lane == Lane::Protocol && !std::mem::replace(&mut way.is_gone, true);
        self.reckon();
        is_news
    }

    /// What a node and we can't agree on: it is not dialled again soon. True: it wasn't said yet.
    pub fn complain(&mut self, node: NodeId, complaint: &str) -> bool {
        let Some(Some(node)) = self.nodes.get_mut(usize::from(node.0)) else { return true };
        for way in node.ways.iter_mut().flatten() {
            way.backoff_ns = PEER_BACKOFF_NS_MAX;
        }
        let is_news = node.complaint.as_deref() != Some(complaint);
        if is_news {
            node.complaint = Some(complaint.to_owned());
        }
        is_news
    }

    /// A node has said how many shards it has. `Some`: not as many as was assumed.
    pub fn learn_shards(&mut self, node: NodeId, count: u16, now: Monotonic) -> Option<Change> {
        let known = self.nodes.get(usize::from(node.0))?.as_ref()?;
        if known.shards.shard_count() == count {
            return None;
        }
        let mut change = Change { cut: known.keys(), gone: Vec::new() };
        for (place, [protocol, _]) in known.ways.iter().enumerate() {
            if protocol.line.open().is_some() {
                let shard = ShardId(place_shard(known, place));
                change.gone.push(known.shards.partitions_of(shard));
            }
        }
        self.nodes[usize::from(node.0)] = Some(self.node_with(node, count, now));
        self.reckon();
        Some(change)
    }

    /// A node with so many shards, none of them connected.
    fn node_with(&self, id: NodeId, shard_count: u16, now: Monotonic) -> PeerNode {
        let network = self.network.as_ref().expect("a node that is alone has no others");
        let shards = ShardMap::new(network.partition_count, shard_count);
        let first = shards.owner(PartitionId(self.own.start)).0;
        let last = shards.owner(PartitionId(self.own.end - 1)).0;
        let way = |is_needed, line| Way {
            is_needed,
            line,
            backoff_ns: PEER_BACKOFF_NS_MIN,
            opened_at: now,
            process_nonce: 0,
            is_gone: false,
        };
        let ways = (first..=last).map(|shard| {
            let is_needed = self.shares(id, &shards.partitions_of(ShardId(shard)));
            let is_dialled = is_needed && network.dials(id);
            let line = if is_dialled { Line::Due(now) } else { Line::Idle };
            [way(is_needed, line), way(is_needed, Line::Idle)]
        });
        PeerNode { id, shards, first_shard: first, ways: ways.collect(), complaint: None }
    }

    /// Whether a node holds some of this shard's partitions that are among these.
    fn shares(&self, node: NodeId, theirs: &Range<u32>) -> bool {
        let held = self.own.clone().zip(&self.holders);
        let me = self.network.as_ref().map(|network| network.cluster.me());
        held.filter(|(partition, _)| theirs.contains(partition)).any(|(_, holders)| {
            holders.contains(&node) && me.is_some_and(|me| holders.contains(&me))
        })
    }

    /// When a line that isn't there is tried again.
    fn retry(&mut self, id: WayId, now: Monotonic) {
        let dials = self.network.as_ref().is_some_and(|network| network.dials(id.node));
        let draw = self.prng.as_mut().map_or(0, Prng::next_u64);
        let Some((node, place)) = self.place_mut(id) else { return };
        let [protocol, _] = &node.ways[place];
        // Its protocol's line comes first.
        let waits = id.lane == Lane::Bulk && (!dials || protocol.line.open().is_none());
        let way = &mut node.ways[place][place_of(id.lane)];
        if waits || !way.is_needed {
            way.line = Line::Idle;
            return;
        }
        let half_ns = way.backoff_ns / 2;
        way.line = Line::Due(now.after_ns(half_ns + draw % half_ns));
        way.backoff_ns = (2 * way.backoff_ns).min(PEER_BACKOFF_NS_MAX);
    }

    fn place(&self, id: WayId) -> Option<(&PeerNode, usize)> {
        let node = self.nodes.get(usize::from(id.node.0))?.as_ref()?;
        let place = usize::from(id.shard.0.checked_sub(node.first_shard)?);
        (place < node.ways.len()).then_some((node, place))
    }

    fn place_mut(&mut self, id: WayId) -> Option<(&mut PeerNode, usize)> {
        let node = self.nodes.get_mut(usize::from(id.node.0))?.as_mut()?;
        let place = usize::from(id.shard.0.checked_sub(node.first_shard)?);
        (place < node.ways.len()).then_some((node, place))
    }

    fn way(&mut self, id: WayId) -> Option<&mut Way> {
        let (node, place) = self.place_mut(id)?;
        Some(&mut node.ways[place][place_of(id.lane)])
    }

    /// Reckons what follows from all lines.
    fn reckon(&mut self) {
        let nodes = || self.nodes.iter().flatten();
        let ways = nodes().flat_map(|node| node.ways.iter().flatten());
        let due = ways.filter_map(|way| match way.line {
            Line::Due(due) => Some(due),
            Line::Idle | Line::Dialling(_) | Line::Open(_) => None,
        });
        let next_due = due.min();
        let connected_count = nodes().filter(|node| node.is_connected()).count();
        (self.next_due, self.connected_count) = (next_due, connected_count);
    }
}

impl PeerNode {
    /// Whether all shards of it are connected that hold something of this one's.
    fn is_connected(&self) -> bool {
        let mut needed = self.ways.iter().filter(|[protocol, _]| protocol.is_needed).peekable();
        needed.peek().is_some() && needed.all(|[protocol, _]| protocol.line.open().is_some())
    }

    fn keys(&self) -> Vec<Key> {
        let lines = self.ways.iter().flatten().map(|way| way.line);
        let key = |line| match line {
            Line::Dialling(key) | Line::Open(key) => Some(key),
            Line::Idle | Line::Due(_) => None,
        };
        lines.filter_map(key).collect()
    }
}

impl Way {
    /// Whether it is open to the same process as the lane with the protocol is.
    fn is_of_process_of(&self, protocol: &Self) -> bool {
        protocol.line.open().is_some() && self.process_nonce == protocol.process_nonce
    }
}

impl Line {
    const fn open(self) -> Option<Key> {
        match self {
            Self::Open(key) => Some(key),
            Self::Idle | Self::Due(_) | Self::Dialling(_) => None,
        }
    }
}

const fn place_of(lane: Lane) -> usize {
    match lane {
        Lane::Protocol => 0,
        Lane::Bulk => 1,
    }
}

fn place_shard(node: &PeerNode, place: usize) -> u16 {
    node.first_shard + crate::base::cast::u16_from(place)
}

#[cfg(test)]
mod tests;
