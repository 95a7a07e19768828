//! A process's connections to those of other nodes: who dials whom, and what comes of it.

use super::{Activity, Node};
use crate::base::cast::u64_from;
use crate::base::ids::{PartitionId, ShardId};
use crate::base::shards::ShardMap;
use crate::sim::again;
use crate::sim::checker::{Checker, Violation};
use crate::sim::cluster::{Event, World};
use crate::sim::greeting::Greeting;
use crate::sim::host::{Incoming, PeerIncoming};
use crate::sim::links::{Frame, Gone};
use crate::sim::transcript::transcript;
use crate::sim::{ConnectionId, NodeId};
use crate::wire::frame::Flag;

impl Node {
    /// The process has its shards: they want to be connected to those of the other nodes.
    pub(super) fn begin_peers(&mut self, world: &mut World) {
        let cluster = self.nodes(world);
        let shards = self.shards(world);
        for shard in (0..self.shard_count).map(ShardId) {
            for node in cluster.nodes().filter(|node| *node != cluster.me()) {
                let own = shards.partitions_of(shard).map(PartitionId);
                let shared = own.filter(|partition| cluster.members(*partition).contains(&node));
                self.peers.want(shard, NodeId(node.0), shared.collect());
            }
        }
        self.dial_later(world);
    }

    /// Whether the node leads a partition.
    pub(in crate::sim) fn leads(&self, partition: PartitionId, world: &World) -> bool {
        let place = usize::from(self.shards(world).owner(partition).0);
        self.is_serving() && self.hosts[place].shard.replica(partition).is_leading()
    }

    /// Somebody says that another node shall lead a partition.
    pub(in crate::sim) fn transfer(
        &mut self,
        partition: PartitionId,
        to: NodeId,
        world: &mut World,
    ) {
        let to = crate::base::ids::NodeId(to.0);
        let place = usize::from(self.shards(world).owner(partition).0);
        self.put(place, Incoming::Transfer(partition, to), world);
    }

    fn shards(&self, world: &World) -> ShardMap {
        ShardMap::new(world.swarm.partition_count, self.shard_count)
    }

    /// Sees to it that others are dialled when it is time.
    fn dial_later(&mut self, world: &mut World) {
        let due = self.peers.next_dial();
        if let Some(due) = due
            && self.next_dial.is_none_or(|next| due < next)
        {
            self.next_dial = Some(due);
            world.schedule.at(due, Event::Dial { node: self.id, life: self.life });
        }
    }

    /// It is time to dial.
    pub(in crate::sim) fn dial(&mut self, world: &mut World) {
        self.next_dial = None;
        self.peers.dial(world.schedule.now(), &mut world.network);
        self.dial_later(world);
    }

    /// A shard of another node has dialled for the shard here that holds a partition.
    pub(in crate::sim) fn on_peer(
        &mut self,
        connection: ConnectionId,
        (node, partition): (NodeId, PartitionId),
        world: &mut World,
    ) {
        let now = world.now();
        if self.activity != Activity::Running {
            world.network.refuse(now, connection);
        } else if world.network.accept(now, connection) {
            let shard = self.shards(world).owner(partition);
            self.peers.on_accepted(connection, shard, node);
        }
    }

    /// A connection that was dialled is open.
    pub(in crate::sim) fn on_opened(&mut self, connection: ConnectionId, world: &mut World) {
        let opened = self.peers.on_opened(connection);
        let link = self.peers.link(connection);
        if let (Some(shard), Some(link)) = (opened, link) {
            let node = crate::base::ids::NodeId(link.node.0);
            self.put_peer(shard, PeerIncoming::Opened(connection, node), world);
        } else {
            let now = world.now();
            world.network.close(now, connection, crate::sim::network::Side::Dialer);
        }
    }

    fn put_peer(&mut self, shard: ShardId, incoming: PeerIncoming, world: &mut World) {
        self.put(usize::from(shard.0), Incoming::Peer(incoming), world);
    }

    /// Bytes of another node.
    pub(super) fn on_peer_bytes(
        &mut self,
        connection: ConnectionId,
        bytes: &[u8],
        world: &mut World,
    ) -> Result<(), Violation> {
        let wrong = |what: String| Violation::new(Checker::Sense, what);
        let frames = self.peers.on_bytes(connection, bytes);
        let frames = frames.map_err(|error| wrong(format!("a node's frame: {error}")))?;
        for Frame { flag, payload } in frames {
            let Some(link) = self.peers.link(connection) else { return Ok(()) };
            let (shard, side) = (link.shard, link.side);
            let incoming = match flag {
                Flag::Message => PeerIncoming::Frame(connection, payload),
                Flag::Ping => return Err(wrong("connections notice each other's end here".into())),
                Flag::Hello => {
                    let greeting = Greeting::decode(&payload);
                    let greeting = greeting.ok_or_else(|| wrong("no greeting".to_owned()))?;
                    let all = ShardMap::new(world.swarm.partition_count, greeting.shard_count);
                    let all = all.partitions_of(greeting.shard);
                    self.peers.on_greeted(world.schedule.now(), connection, all);
                    PeerIncoming::Greeting(connection, side, greeting)
                }
            };
            self.put_peer(shard, incoming, world);
        }
        self.dial_later(world);
        Ok(())
    }

    /// A connection to another node is gone, or was never made.
    pub(super) fn on_peer_closed(
        &mut self,
        connection: ConnectionId,
        refused: bool,
        world: &mut World,
    ) {
        match self.peers.on_closed(world.schedule.now(), connection) {
            Some(Gone::Open(link)) => {
                self.put_peer(link.shard, PeerIncoming::Closed(connection), world);
            }
            Some(Gone::Dialed(shard, node)) if refused => {
                let node = crate::base::ids::NodeId(node.0);
                self.put_peer(shard, PeerIncoming::Refused(node), world);
            }
            Some(Gone::Dialed(..)) | None => {}
        }
        self.dial_later(world);
    }

    /// Sends what a turn has to say to other nodes.
    ///
    /// # Errors
    /// If it contradicts what was said before, or claims what isn't durable.
    pub(super) fn perform_for_peers(
        &mut self,
        place: usize,
        world: &mut World,
    ) -> Result<(), Violation> {
        let now = world.now();
        let quorum_count = world.swarm.node_count() / 2 + 1;
        let mut is_probed = false;
        let output = &mut self.hosts[place].output;
        for connection in std::mem::take(&mut output.cut) {
            if let Some(Gone::Open(link)) = self.peers.on_closed(now, connection) {
                world.network.close(now, connection, link.side);
            }
        }
        for (connection, side, greeting) in std::mem::take(&mut output.greetings) {
            world.network.send(now, connection, side, greeting);
            if output.peers.iter().any(|link| link.connection == connection) {
                let count = world.network.resend(now, connection, side);
                world.report.mark("sent again after a reconnection", u64_from(count.min(1)));
            }
        }
        // What was damaged the others make good for.
        let is_checked = world.promises_durability() && !self.disk.is_damaged();
        let durable = is_checked.then_some(&self.queues[place].durable);
        for link in output.peers.iter_mut().filter(|link| !link.outgoing.is_empty()) {
            let bytes = link.outgoing.split().to_vec();
            let words = [u64::from(self.id.0), link.connection.0];
            world.trace.event(now, "says", &words, || {
                format!("{} to {}: {}", self.id, link.node, transcript(&bytes))
            });
            let durable = |partition| durable.and_then(|log| log.standing(partition));
            is_probed |= world.claims.on_sent(self.id, &bytes, quorum_count, durable)?;
            let bytes = world.losses.sift(now, link.node(), bytes);
            if world.swarm.network.resend_percent > 0 {
                world.network.keep(link.connection, link.side, again::of(&bytes));
            }
            if !bytes.is_empty() {
                world.network.send(now, link.connection, link.side, bytes);
            }
        }
        self.dial_later(world);
        if is_probed { self.probe(place, world) } else { Ok(()) }
    }
}
