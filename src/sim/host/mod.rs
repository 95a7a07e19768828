//! One shard as the simulator hosts it: what a core's loop and its service are in earnest. Frames
//! are cut out of what connections bring, decoded and routed here, by the same functions; a turn
//! takes what has come in its order, requests in passes, and what the shard wants done is performed
//! when the turn is over.

mod output;
mod pass;
mod peers;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use bytes::{Buf as _, Bytes, BytesMut};

pub(super) use self::output::{Link, MeshMessage, Output};
pub(super) use self::peers::PeerIncoming;
use super::ConnectionId;
use super::checker::rest::{Rest, TurnSeen};
use super::checker::{Checker, Violation};
use crate::base::ids::{BootEpoch, NodeId, Origin, PartitionId, SegmentId, ShardId};
use crate::base::limits::PASS_COUNT_MAX;
use crate::base::shards::ShardMap;
use crate::base::time::{Monotonic, Now};
use crate::shard::{Input, SegmentBlocks, Shard};
use crate::storage::block::SegmentWrite;
use crate::storage::checkpoint::CheckpointProgress;
use crate::storage::witness::{LatestBoots, Life};
use crate::wire::frame;
use crate::wire::response::ResponsePrefix;
use crate::wire::route::Router;

/// Something that has come to a shard and waits for its turn.
#[derive(Debug)]
pub(super) enum Incoming {
    /// Bytes on a client's connection.
    Bytes(u32, Bytes),
    /// Something about a connection to another node.
    Peer(PeerIncoming),
    /// Another shard of the node says something.
    Mesh(ShardId, MeshMessage),
    /// A write of the log is durable.
    Written(SegmentWrite),
    /// A segment is ready, or can't be.
    Prepared(SegmentId, bool),
    /// Blocks of a segment were read, or can't be.
    Read(SegmentBlocks),
    /// It is time to read everything again.
    ScrubDue,
    /// A segment isn't what was written.
    SegmentDamaged(SegmentId),
    /// Nor is a checkpoint.
    CheckpointDamaged(PartitionId),
    /// So many bytes are left on the disk.
    Space(u64),
    /// A checkpoint gets on.
    Checkpoint(CheckpointProgress),
    /// Another node shall lead a partition.
    Transfer(PartitionId, NodeId),
    /// The node goes down, and nothing more is asked of the shard.
    Close,
}

/// A shard with what is around it.
#[derive(Debug)]
pub(super) struct ShardHost {
    pub(super) shard: Shard,
    pub(super) me: ShardId,
    node: NodeId,
    pub(super) output: Output,
    /// Which process of the node it is.
    pub(super) life: Life,
    /// A node whose disk went back in time, as it was found.
    pub(super) rolled_back: Option<NodeId>,
    cluster: String,
    router: Router,
    shards: ShardMap,
    own: Range<u32>,
    prefix: ResponsePrefix,
    inbox: VecDeque<Incoming>,
    boots: LatestBoots,
    /// Connections to other nodes on which was greeted, with the latest boot of the node at that
    /// moment.
    greeted: BTreeMap<ConnectionId, BootEpoch>,
    /// When the next turn is.
    pub(super) next_turn: Option<Monotonic>,
    rest: Rest,
    /// Clients' writes are refused, and nothing more is read from them.
    pub(super) is_closing: bool,
    /// What the turn found wrong with what it was given.
    violation: Option<Violation>,
}

impl ShardHost {
    pub(super) fn new(
        shard: Shard,
        (node, life, me): (NodeId, Life, ShardId),
        names: (&str, &str),
        shards: ShardMap,
    ) -> Self {
        let (cluster, member) = names;
        Self {
            shard,
            me,
            node,
            output: Output::new(me),
            life,
            rolled_back: None,
            cluster: cluster.to_owned(),
            router: Router::new(shards.partition_count()),
            own: shards.partitions_of(me),
            shards,
            prefix: ResponsePrefix::new(cluster, None, member, None),
            inbox: VecDeque::new(),
            boots: LatestBoots::default(),
            greeted: BTreeMap::new(),
            next_turn: None,
            rest: Rest::default(),
            is_closing: false,
            violation: None,
        }
    }

    /// Something comes; it is taken in the next turn.
    pub(super) fn put(&mut self, incoming: Incoming) {
        self.inbox.push_back(incoming);
    }

    /// How much waits for the next turn.
    pub(super) fn inbox_count(&self) -> usize {
        self.inbox.len()
    }

    /// A client has connected.
    pub(super) fn connect(&mut self, slot: u32, connection: ConnectionId) {
        let (incoming, outgoing) = (BytesMut::new(), BytesMut::new());
        let link = Link { connection, incoming, outgoing, is_closing: false };
        self.output.links.insert(slot, link);
    }

    /// A client's connection is gone.
    pub(super) fn disconnect(&mut self, slot: u32) {
        self.output.links.remove(&slot);
    }

    /// Whether nothing of another shard is with this one.
    pub(super) fn is_quiet(&self) -> bool {
        self.output.has_no_guests()
    }

    /// One turn: everything that has come, then what is due.
    ///
    /// # Errors
    /// If what came makes no sense.
    pub(super) fn turn(&mut self, now: Now) -> Result<(), Violation> {
        let has_come = !self.inbox.is_empty();
        let mut frames: Vec<(Origin, Bytes)> = Vec::new();
        while let Some(incoming) = self.inbox.pop_front() {
            match incoming {
                Incoming::Bytes(slot, bytes) => self.take_bytes(slot, &bytes, &mut frames),
                Incoming::Mesh(home, MeshMessage::Forward { origin, payload }) => {
                    let origin = self.output.admit_request(home, origin);
                    frames.push((origin, payload));
                }
                other => {
                    self.passes(now, &mut frames);
                    self.take(now, other);
                }
            }
        }
        self.passes(now, &mut frames);
        if self.shard.next_deadline().is_some_and(|due| due <= now.monotonic) {
            self.shard.handle(now, Input::Deadline, &mut self.output);
        }
        self.violation.take().map_or(Ok(()), Err)?;
        let is_busy = has_come || !self.output.is_empty() || self.shard.changed_count() > 0;
        let is_due_again = self.shard.next_deadline().is_some_and(|due| due <= now.monotonic);
        let node = crate::sim::NodeId(self.node.0);
        self.rest.check((node, self.me), TurnSeen { is_busy, is_due_again })
    }

    fn take(&mut self, now: Now, incoming: Incoming) {
        let input = match incoming {
            Incoming::Written(write) => Input::Written(write),
            Incoming::Prepared(segment, true) => Input::SegmentPrepared(segment),
            Incoming::Prepared(segment, false) => Input::SegmentRefused(segment),
            Incoming::Read(read) => Input::SegmentRead(read),
            Incoming::ScrubDue => Input::ScrubDue,
            Incoming::SegmentDamaged(segment) => Input::SegmentDamaged(segment),
            Incoming::CheckpointDamaged(partition) => Input::CheckpointDamaged(partition),
            Incoming::Space(left_size_bytes) => Input::DiskSpace(left_size_bytes),
            Incoming::Checkpoint(progress) => Input::Checkpoint(progress),
            Incoming::Transfer(partition, to) => Input::TransferLeadership { partition, to },
            Incoming::Close => Input::Close,
            Incoming::Mesh(home, message) => return self.take_message(now, home, message),
            Incoming::Peer(incoming) => return self.take_peer(now, incoming),
            Incoming::Bytes(..) => return,
        };
        self.shard.handle(now, input, &mut self.output);
    }

    fn take_message(&mut self, now: Now, home: ShardId, message: MeshMessage) {
        match message {
            MeshMessage::Answer { origin, frames } => {
                if let Some(link) = self.output.links.get_mut(&origin.connection) {
                    link.outgoing.extend_from_slice(&frames);
                }
            }
            MeshMessage::Ask { ask, request } => {
                let origin = self.output.admit_share(home, ask);
                let input = Input::ShareAsked { origin, request: &request };
                self.shard.handle(now, input, &mut self.output);
            }
            MeshMessage::Share { ask, answer } => {
                let input = Input::ShareAnswered { ask, answer: &answer };
                self.shard.handle(now, input, &mut self.output);
            }
            MeshMessage::Forward { .. } => {}
        }
    }

    /// Cuts frames out of what a connection has brought.
    fn take_bytes(&mut self, slot: u32, bytes: &[u8], frames: &mut Vec<(Origin, Bytes)>) {
        let Some(link) = self.output.links.get_mut(&slot) else { return };
        if link.is_closing || self.is_closing {
            return;
        }
        link.incoming.extend_from_slice(bytes);
        let origin = Origin { home: self.me, connection: slot, generation: 0, stream: 0 };
        loop {
            match frame::next(&link.incoming) {
                Ok(None) => return,
                Ok(Some((_, payload))) => {
                    let mut whole = link.incoming.split_to(payload.end);
                    whole.advance(payload.start);
                    frames.push((origin, whole.freeze()));
                }
                Err(error) => {
                    let what = format!("a client's frame was not understood: {error}");
                    self.violation = Some(Violation::new(Checker::Sense, what));
                    return;
                }
            }
        }
    }

    fn passes(&mut self, now: Now, frames: &mut Vec<(Origin, Bytes)>) {
        for pass in frames.chunks(PASS_COUNT_MAX) {
            self.pass(now, pass);
        }
        frames.clear();
    }
}
