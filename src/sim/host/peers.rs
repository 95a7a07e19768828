//! The shard's connections to those of other nodes, as its turns see them.

use bytes::{Bytes, BytesMut};

use super::ShardHost;
use crate::base::ids::{NodeId, PartitionId};
use crate::base::shards::ShardMap;
use crate::base::time::Now;
use crate::shard::Input;
use crate::sim::ConnectionId;
use crate::sim::checker::{Checker, Violation};
use crate::sim::greeting::Greeting;
use crate::sim::network::Side;

/// Something about a connection to another node.
#[derive(Debug)]
pub(in crate::sim) enum PeerIncoming {
    /// A connection that was dialled is open.
    Opened(ConnectionId, NodeId),
    /// The other end has greeted.
    Greeting(ConnectionId, Side, Greeting),
    /// It says something.
    Frame(ConnectionId, Bytes),
    /// It is gone.
    Closed(ConnectionId),
    /// A process isn't there: its host has refused a connection.
    Refused(NodeId),
}

/// A connection to a shard of another node.
#[derive(Debug)]
pub(in crate::sim) struct PeerLink {
    pub(in crate::sim) connection: ConnectionId,
    pub(in crate::sim) side: Side,
    pub(in crate::sim) node: NodeId,
    shard_count: u16,
    partitions: std::ops::Range<u32>,
    /// What is to be sent.
    pub(in crate::sim) outgoing: BytesMut,
}

impl PeerLink {
    /// The node at the other end.
    pub(in crate::sim) const fn node(&self) -> crate::sim::NodeId {
        crate::sim::NodeId(self.node.0)
    }

    /// Whether it leads to the shard of a node that holds a partition.
    pub(super) fn leads_to(&self, node: NodeId, partition: PartitionId) -> bool {
        self.node == node && self.partitions.contains(&partition.0)
    }
}

impl ShardHost {
    pub(super) fn take_peer(&mut self, now: Now, incoming: PeerIncoming) {
        match incoming {
            PeerIncoming::Opened(connection, node) => {
                self.greet(now, (connection, Side::Dialer), node);
            }
            PeerIncoming::Greeting(connection, side, greeting) => {
                self.on_greeting(now, (connection, side), &greeting);
            }
            PeerIncoming::Frame(connection, payload) => {
                let link = self.output.peers.iter().find(|link| link.connection == connection);
                if let Some(from) = link.map(|link| link.node) {
                    self.shard.handle(now, Input::Peer { from, payload }, &mut self.output);
                }
            }
            PeerIncoming::Closed(connection) => self.lose_peer(now, connection, false),
            PeerIncoming::Refused(node) => {
                let partitions = 0..self.shards.partition_count();
                let input = Input::PeerDisconnected { node, partitions, refused: true };
                self.shard.handle(now, input, &mut self.output);
            }
        }
        self.end_refused();
    }

    /// Says who speaks, and what is known of lives at this moment.
    fn greet(&mut self, now: Now, way: (ConnectionId, Side), to: NodeId) {
        let greeting = Greeting {
            node: self.node,
            shard: self.me,
            shard_count: self.shards.shard_count(),
            life: self.life,
            clock: now.wall,
            partitions: self.shard.greeting(to),
        };
        let (connection, side) = way;
        self.greeted.entry(connection).or_insert_with(|| self.boots.of(to));
        self.output.greetings.push((connection, side, greeting.encode()));
    }

    fn on_greeting(&mut self, now: Now, way: (ConnectionId, Side), greeting: &Greeting) {
        let (connection, side) = way;
        let Some(known) = self.greeted.get(&connection) else {
            // Who has dialled greets once more when it has the answer: until then it may be a
            // process that is gone, whose greeting was long on its way.
            self.greet(now, way, greeting.node);
            return;
        };
        let Greeting { node, shard, shard_count, life, clock, ref partitions } = *greeting;
        let is_again = self.output.peers.iter().any(|link| link.connection == connection);
        if !is_again {
            if !self.boots.on_answer(node, life.boot_epoch, *known) {
                self.output.cut.push(connection);
                self.greeted.remove(&connection);
                return;
            }
            let shards = ShardMap::new(self.shards.partition_count(), shard_count);
            let all = shards.partitions_of(shard);
            // An older connection with the same end is none any more: perhaps another life's.
            let overlaps =
                |other: &std::ops::Range<u32>| other.start < all.end && all.start < other.end;
            let peers = self.output.peers.iter();
            let older: Vec<ConnectionId> = peers
                .filter(|link| link.node == node)
                .filter(|link| link.shard_count != shard_count || overlaps(&link.partitions))
                .map(|link| link.connection)
                .collect();
            for connection in older {
                self.cut_peer(now, connection);
            }
            self.greet(now, way, node);
            let outgoing = BytesMut::new();
            let partitions = all;
            let link = PeerLink { connection, side, node, shard_count, partitions, outgoing };
            self.output.peers.push(link);
        }
        let input = Input::PeerConnected { node, life, clock, partitions };
        self.shard.handle(now, input, &mut self.output);
        self.rolled_back = self.rolled_back.or(self.shard.take_rolled_back().map(|_| node));
    }

    fn cut_peer(&mut self, now: Now, connection: ConnectionId) {
        self.output.cut.push(connection);
        self.lose_peer(now, connection, false);
    }

    fn lose_peer(&mut self, now: Now, connection: ConnectionId, refused: bool) {
        self.greeted.remove(&connection);
        let peers = &mut self.output.peers;
        let Some(place) = peers.iter().position(|link| link.connection == connection) else {
            return;
        };
        let PeerLink { node, partitions, .. } = peers.remove(place);
        let input = Input::PeerDisconnected { node, partitions, refused };
        self.shard.handle(now, input, &mut self.output);
    }

    /// The shard has ended the connection to a node that sends what no member can: here nobody
    /// does.
    fn end_refused(&mut self) {
        if let Some((node, error)) = self.output.refused.take() {
            let what = format!("node {node} is said to send what no member can: {error}");
            self.violation = Some(Violation::new(Checker::Sense, what));
        }
    }
}
