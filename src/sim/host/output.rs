//! What a shard does to the world in a turn: gathered, to be performed when the turn is over.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use slab::Slab;

use super::peers::PeerLink;
use crate::base::cast::{u32_from, usize_from_u32};
use crate::base::ids::{AskId, NodeId, Origin, PartitionId, SegmentId, ShardId};
use crate::shard::Effects;
use crate::sim::ConnectionId;
use crate::sim::network::Side;
use crate::storage::block::SegmentWrite;
use crate::storage::carry::SegmentRead;
use crate::storage::checkpoint::CheckpointStep;
use crate::storage::record::LiveSegment;
use crate::storage::wal::SegmentWanted;
use crate::wire::peer::PeerError;

/// A client's connection to a shard.
#[derive(Debug)]
pub(in crate::sim) struct Link {
    pub(in crate::sim) connection: ConnectionId,
    /// What came and isn't a whole frame yet.
    pub(super) incoming: BytesMut,
    /// What is to be sent.
    pub(in crate::sim) outgoing: BytesMut,
    /// Nothing is read from it any more, and it is closed when what is to be sent was.
    pub(in crate::sim) is_closing: bool,
}

/// What one shard says to another of its node.
#[derive(Clone, Debug)]
pub(in crate::sim) enum MeshMessage {
    /// A request of one of its clients.
    Forward { origin: Origin, payload: Bytes },
    /// What came of it: whole frames.
    Answer { origin: Origin, frames: BytesMut },
    /// A part of an operation on a whole map.
    Ask { ask: AskId, request: BytesMut },
    /// What came of it.
    Share { ask: AskId, answer: BytesMut },
}

/// Who waits for an answer in another shard.
#[derive(Clone, Copy, Debug)]
enum Guest {
    Request { home: ShardId, origin: Origin },
    Share { home: ShardId, ask: AskId },
}

/// What a turn has brought about.
#[derive(Debug)]
pub(in crate::sim) struct Output {
    me: ShardId,
    pub(in crate::sim) links: BTreeMap<u32, Link>,
    guests: Slab<(Guest, BytesMut)>,
    /// Connections to shards of other nodes on which something can be said.
    pub(in crate::sim) peers: Vec<PeerLink>,
    /// What is said on connections before all else.
    pub(in crate::sim) greetings: Vec<(ConnectionId, Side, Vec<u8>)>,
    /// Connections that are to be closed.
    pub(in crate::sim) cut: Vec<ConnectionId>,
    /// A node that sends what no member can.
    pub(super) refused: Option<(NodeId, String)>,
    pub(in crate::sim) messages: Vec<(ShardId, MeshMessage)>,
    pub(in crate::sim) writes: Vec<SegmentWrite>,
    pub(in crate::sim) segments: Vec<SegmentWanted>,
    pub(in crate::sim) reads: Vec<SegmentRead>,
    pub(in crate::sim) scrubs: Vec<Vec<LiveSegment>>,
    pub(in crate::sim) damaged: Vec<(SegmentId, u64)>,
    pub(in crate::sim) steps: Vec<CheckpointStep>,
}

impl Output {
    pub(super) fn new(me: ShardId) -> Self {
        Self {
            me,
            links: BTreeMap::new(),
            guests: Slab::new(),
            peers: Vec::new(),
            greetings: Vec::new(),
            cut: Vec::new(),
            refused: None,
            messages: Vec::new(),
            writes: Vec::new(),
            segments: Vec::new(),
            reads: Vec::new(),
            scrubs: Vec::new(),
            damaged: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// Takes a request of another shard in; what it is called until it is answered.
    pub(super) fn admit_request(&mut self, home: ShardId, origin: Origin) -> Origin {
        self.admit(home, Guest::Request { home, origin })
    }

    /// The same of a share.
    pub(super) fn admit_share(&mut self, home: ShardId, ask: AskId) -> Origin {
        self.admit(home, Guest::Share { home, ask })
    }

    fn admit(&mut self, home: ShardId, guest: Guest) -> Origin {
        let place = self.guests.insert((guest, BytesMut::new()));
        Origin { home, connection: u32_from(place), generation: 0, stream: 0 }
    }

    /// A request needs no answer any more.
    pub(super) fn finish(&mut self, origin: Origin) {
        if origin.home != self.me {
            let _ = self.reply_buffer(origin, true);
        }
    }

    /// Whether the turn has brought nothing about that anybody outside would notice.
    pub(super) fn is_empty(&self) -> bool {
        self.links.values().all(|link| link.outgoing.is_empty())
            && self.peers.iter().all(|link| link.outgoing.is_empty())
            && self.greetings.is_empty()
            && self.cut.is_empty()
            && self.refused.is_none()
            && self.messages.is_empty()
            && self.writes.is_empty()
            && self.segments.is_empty()
            && self.reads.is_empty()
            && self.scrubs.is_empty()
            && self.damaged.is_empty()
            && self.steps.is_empty()
    }

    /// Whether nothing of another shard waits for an answer.
    pub(super) fn has_no_guests(&self) -> bool {
        self.guests.is_empty()
    }
}

impl Effects for Output {
    fn reply_buffer(&mut self, origin: Origin, last: bool) -> Option<&mut BytesMut> {
        if origin.home == self.me {
            return self.links.get_mut(&origin.connection).map(|link| &mut link.outgoing);
        }
        let place = usize_from_u32(origin.connection);
        if !last {
            return self.guests.get_mut(place).map(|(_, frames)| frames);
        }
        let (guest, frames) = self.guests.remove(place);
        let (home, message) = match guest {
            Guest::Request { home, origin } => (home, MeshMessage::Answer { origin, frames }),
            Guest::Share { home, ask } => (home, MeshMessage::Share { ask, answer: frames }),
        };
        self.messages.push((home, message));
        match self.messages.last_mut() {
            Some((_, MeshMessage::Answer { frames, .. })) => Some(frames),
            Some((_, MeshMessage::Share { answer, .. })) => Some(answer),
            _ => None,
        }
    }

    fn ask(&mut self, to: ShardId, ask: AskId, request: &[u8]) {
        self.messages.push((to, MeshMessage::Ask { ask, request: request.into() }));
    }

    fn peer_buffer(&mut self, to: NodeId, partition: PartitionId) -> Option<&mut BytesMut> {
        let link = self.peers.iter_mut().find(|link| link.leads_to(to, partition))?;
        Some(&mut link.outgoing)
    }

    fn refuse_peer(&mut self, node: NodeId, error: &PeerError) {
        self.refused = Some((node, error.to_string()));
    }

    fn write(&mut self, write: SegmentWrite) {
        self.writes.push(write);
    }

    fn prepare_segment(&mut self, wanted: SegmentWanted) {
        self.segments.push(wanted);
    }

    fn read_segment(&mut self, read: SegmentRead) {
        self.reads.push(read);
    }

    fn scrub(&mut self, segments: Vec<LiveSegment>) {
        self.scrubs.push(segments);
    }

    fn report_damage(&mut self, segment: SegmentId, offset: u64) {
        self.damaged.push((segment, offset));
    }

    fn checkpoint(&mut self, step: CheckpointStep) {
        self.steps.push(step);
    }
}
