//! A process's connections to those of other nodes: dialled, dialled again when they break, and cut
//! into frames. What the frames mean is their sender's and receiver's business.
//!
//! Two nodes may have different numbers of shards, so a shard here has a connection to each shard
//! there that holds partitions which both have. Which those are, nobody knows before they have
//! talked: a shard dials for one of its partitions, hears which others come with it, and dials for
//! those that are left. Of two nodes the one with the lower id dials.
//!
//! A connection that breaks loses what was on its way: whoever needs an answer asks again. After a
//! reconnection some of what was said last is said once more ([`Network::resend`]; what may be,
//! says [`super::again`]), for a sender can't know what has arrived.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Buf as _, Bytes, BytesMut};

use super::network::{Endpoint, Lane, Network, Side};
use super::{ConnectionId, NodeId};
use crate::base::ids::{PartitionId, ShardId};
use crate::base::time::{Monotonic, NS_PER_MS};
use crate::wire::frame::{self, Flag, FrameError};

/// Before a shard dials again, at least.
const BACKOFF_NS_MIN: u64 = NS_PER_MS;
/// The same at most.
const BACKOFF_NS_MAX: u64 = 100 * NS_PER_MS;

/// A shard's way to a node that it dials.
#[derive(Debug)]
struct Way {
    /// The partitions that the shard and the node share.
    shared: Vec<PartitionId>,
    /// The partitions of the shards at the other end of each connection.
    covered: BTreeMap<ConnectionId, Range<u32>>,
    /// A connection of which it isn't known yet where it leads.
    begun: Option<ConnectionId>,
    due: Monotonic,
    backoff_ns: u64,
}

impl Way {
    /// A partition for which there is no connection.
    fn uncovered(&self) -> Option<PartitionId> {
        let is_covered =
            |partition: &&PartitionId| self.covered.values().any(|all| all.contains(&partition.0));
        self.shared.iter().find(|partition| !is_covered(partition)).copied()
    }
}

/// A connection to another node.
#[derive(Debug)]
pub struct Link {
    /// The shard here.
    pub shard: ShardId,
    /// The node there.
    pub node: NodeId,
    /// Which side of the connection this process is.
    pub side: Side,
    /// What came and isn't a whole frame yet.
    received: BytesMut,
}

/// A frame, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What its payload is.
    pub flag: Flag,
    /// The payload.
    pub payload: Bytes,
}

/// What became of a connection that is gone.
#[derive(Debug)]
pub enum Gone {
    /// It was open.
    Open(Link),
    /// It never was: nobody listens there, or nothing gets through.
    Dialed(ShardId, NodeId),
}

/// The connections of one process to the others.
#[derive(Debug)]
pub struct Links {
    me: NodeId,
    ways: BTreeMap<(ShardId, NodeId), Way>,
    open: BTreeMap<ConnectionId, Link>,
}

impl Links {
    /// A process without connections.
    #[must_use]
    pub const fn new(me: NodeId) -> Self {
        Self { me, ways: BTreeMap::new(), open: BTreeMap::new() }
    }

    /// A shard here wants to be connected to those of a node that hold these partitions. Of two
    /// nodes only the one with the lower id wants it; for the other this does nothing.
    pub fn want(&mut self, shard: ShardId, node: NodeId, shared: Vec<PartitionId>) {
        if self.me < node && !shared.is_empty() {
            let way = Way {
                shared,
                covered: BTreeMap::new(),
                begun: None,
                due: Monotonic(0),
                backoff_ns: BACKOFF_NS_MIN,
            };
            self.ways.insert((shard, node), way);
        }
    }

    /// When [`Links::dial`] has something to do.
    #[must_use]
    pub fn next_dial(&self) -> Option<Monotonic> {
        let is_idle = |way: &&Way| way.begun.is_none() && way.uncovered().is_some();
        self.ways.values().filter(is_idle).map(|way| way.due).min()
    }

    /// Dials what is due.
    pub fn dial(&mut self, now: Monotonic, network: &mut Network) {
        for (&(shard, node), way) in &mut self.ways {
            if way.begun.is_none()
                && way.due <= now
                && let Some(partition) = way.uncovered()
            {
                let (me, to) = (Endpoint::Node(self.me), Endpoint::Node(node));
                way.begun = Some(network.dial(now, me, to, Lane::Peer(shard, partition)));
            }
        }
    }

    /// A connection that was dialled is open; the shard that wanted it. `None`: it is not wanted
    /// any more.
    pub fn on_opened(&mut self, connection: ConnectionId) -> Option<ShardId> {
        let found = self.ways.iter().find(|(_, way)| way.begun == Some(connection));
        let (&(shard, node), _) = found?;
        let received = BytesMut::new();
        self.open.insert(connection, Link { shard, node, side: Side::Dialer, received });
        Some(shard)
    }

    /// Another node has dialled for a partition of a shard here, and was accepted.
    pub fn on_accepted(&mut self, connection: ConnectionId, shard: ShardId, node: NodeId) {
        let received = BytesMut::new();
        self.open.insert(connection, Link { shard, node, side: Side::Acceptor, received });
    }

    /// The shard at the other end has said which partitions it has.
    pub fn on_greeted(&mut self, now: Monotonic, connection: ConnectionId, all: Range<u32>) {
        let Some(link) = self.open.get(&connection) else { return };
        if let Some(way) = self.ways.get_mut(&(link.shard, link.node))
            && way.begun.take_if(|begun| *begun == connection).is_some()
        {
            way.covered.insert(connection, all);
            (way.due, way.backoff_ns) = (now, BACKOFF_NS_MIN);
        }
    }

    /// A connection is gone, or was never made. What it was; `None`: nobody knows it.
    pub fn on_closed(&mut self, now: Monotonic, connection: ConnectionId) -> Option<Gone> {
        let link = self.open.remove(&connection);
        for (&(shard, node), way) in &mut self.ways {
            let was_begun = way.begun.take_if(|begun| *begun == connection).is_some();
            if was_begun || way.covered.remove(&connection).is_some() {
                way.due = now.after_ns(way.backoff_ns);
                way.backoff_ns = (2 * way.backoff_ns).min(BACKOFF_NS_MAX);
                return Some(link.map_or(Gone::Dialed(shard, node), Gone::Open));
            }
        }
        link.map(Gone::Open)
    }

    /// A connection that is open.
    #[must_use]
    pub fn link(&self, connection: ConnectionId) -> Option<&Link> {
        self.open.get(&connection)
    }

    /// All connections that are open.
    pub fn open(&self) -> impl Iterator<Item = (ConnectionId, Side)> + '_ {
        self.open.iter().map(|(connection, link)| (*connection, link.side))
    }

    /// Bytes came on a connection: the frames that are whole now.
    ///
    /// # Errors
    /// If they aren't frames.
    pub fn on_bytes(
        &mut self,
        connection: ConnectionId,
        bytes: &[u8],
    ) -> Result<Vec<Frame>, FrameError> {
        let Some(link) = self.open.get_mut(&connection) else { return Ok(Vec::new()) };
        link.received.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some((header, payload)) = frame::next(&link.received)? {
            let mut whole = link.received.split_to(payload.end);
            whole.advance(payload.start);
            frames.push(Frame { flag: header.flag, payload: whole.freeze() });
        }
        Ok(frames)
    }
}

#[cfg(test)]
mod tests;
