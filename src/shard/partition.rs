//! One partition of a shard: the machines of its protocol and its slice of the maps.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::Effects;
use super::digests::Digests;
use super::exchange::Installed;
use super::reads::WaitingRead;
use crate::base::ids::{Incarnation, Index, MemberId, NodeId, Origin, TermId};
use crate::base::time::Monotonic;
use crate::map::outcome::Outcome;
use crate::map::partition::PartitionMap;
use crate::nopaxos::{Group, Member, Round};
use crate::storage::witness::Witness;
use crate::wire::peer::PeerEncoder;
use crate::wire::request::Kind;
use crate::wire::response::{self, ResponsePrefix};

/// A partition. The machine of its protocol stands apart from what that acts upon.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) member: Member<Waiter>,
    pub(super) view: PartitionView,
}

/// What a member acts upon.
#[derive(Debug)]
pub(super) struct PartitionView {
    pub(super) group: Group,
    pub(super) map: PartitionMap,
    /// Of the map, at some indexes.
    pub(super) digests: Digests,
    /// Strings that begin with this belong to the partition.
    pub(super) cursor_tag: Box<[u8]>,
    /// The term of the view that was started last.
    pub(super) term: TermId,
    /// What all responses of this term begin with.
    pub(super) prefix: ResponsePrefix,
    /// Cleared maps have left entries that are to be freed.
    pub(super) sweeping: bool,
    /// The slot of the last tick that was stamped here.
    pub(super) ticked: Index,
    /// Bytes of slots that aren't stable yet.
    pub(super) unsynced_size_bytes: usize,
    /// Bytes of results that may not be given out yet.
    pub(super) results_size_bytes: usize,
    /// A checkpoint is due, and in the shard's queue.
    pub(super) checkpoint_due: bool,
    /// The length of the last one; 0: there was none.
    pub(super) checkpoint_size_bytes: u64,
    /// Bytes of the map that do not lie in the arena, as they are counted for the shard.
    pub(super) own_size_bytes: u64,
    /// It waits to be shown anew.
    pub(super) changed: bool,
    /// Which nodes the members are.
    pub(super) nodes: Vec<NodeId>,
    /// Writes what is said to them.
    pub(super) encoder: PeerEncoder,
    /// Which life of each of them is at the other end of its connection.
    pub(super) lives: Vec<Incarnation>,
    /// What each of them has said of its disk.
    pub(super) witnesses: Vec<Witness>,
    /// The connection to each of them.
    pub(super) links: Vec<PeerLink>,
    /// When something is due, as it stands in the shard's table.
    pub(super) timer: Option<Monotonic>,
    /// A checkpoint of another member was put in the place of the map; the log doesn't know yet.
    pub(super) installed: Option<Installed>,
    /// Without a durable log: how far the checkpoint reaches that was recorded last, if the member
    /// doesn't know yet.
    pub(super) covered: Option<Index>,
    /// The last round that is complete, and what its reads reflect.
    pub(super) round_done: (Round, Index),
    /// Reads that wait for a round of the members, in the order of rounds.
    pub(super) round_reads: VecDeque<(Round, WaitingRead)>,
}

/// Who waits for what comes of a command or query: told exactly once, one way or the other.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiter {
    /// A client, of this node or of another.
    Asker(Asker),
    /// An operation on all partitions: its place in the table of gathers.
    Gather {
        /// The place.
        gather: usize,
        /// When it gives up.
        deadline: Monotonic,
    },
    /// A streamed answer that goes on with it: its place in the table of those that wait.
    Stream {
        /// The place.
        stream: usize,
        /// When it gives up.
        deadline: Monotonic,
    },
    /// Nobody.
    Nobody,
}

/// Somebody who waits for the answer to one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    /// Where the answer goes.
    pub(super) to: Recipient,
    /// What the answer repeats.
    pub(super) correlation: u64,
    /// Of which kind it is.
    pub(super) kind: Kind,
    /// When it gives up.
    pub(super) deadline: Monotonic,
}

/// Where an answer goes. It is encoded the same way for both.
#[derive(Clone, Copy, Debug)]
pub(super) enum Recipient {
    /// To a client of this node.
    Client(Origin),
    /// To another member's node, which has passed the request on.
    Member {
        /// The member.
        member: MemberId,
        /// Which of the connections to it: the next one may be to another process, that has given
        /// the correlation id to another request.
        connection: u32,
    },
}

/// The connection to a member, as its partition sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PeerLink {
    /// There is one.
    pub(super) is_connected: bool,
    /// How many have broken; it wraps around.
    pub(super) breaks_count: u32,
}

impl Asker {
    /// Where the answer goes, if anybody is there still.
    pub(super) fn buffer<'a>(
        &self,
        view: &PartitionView,
        effects: &'a mut impl Effects,
    ) -> Option<&'a mut BytesMut> {
        match self.to {
            Recipient::Client(origin) => effects.reply_buffer(origin, true),
            Recipient::Member { member, connection } => {
                let place = usize::from(member.0);
                let PeerLink { is_connected, breaks_count } = view.links[place];
                let is_there = is_connected && breaks_count == connection;
                if !is_there {
                    return None;
                }
                effects.peer_buffer(view.nodes[place], view.group.partition())
            }
        }
    }

    /// Where the next frame for a client of this node goes; `last`: the answer ends with it. Other
    /// nodes are given nothing of several frames, and nothing of a whole map.
    pub(super) fn client_buffer<'a>(
        &self,
        last: bool,
        effects: &'a mut impl Effects,
    ) -> Option<&'a mut BytesMut> {
        match self.to {
            Recipient::Client(origin) => effects.reply_buffer(origin, last),
            Recipient::Member { .. } => None,
        }
    }

    /// Gives an answer.
    pub(super) fn reply(
        &self,
        buffer: &mut BytesMut,
        prefix: &ResponsePrefix,
        index: Index,
        result: &[u8],
    ) {
        let encode = match self.kind {
            Kind::Command => response::encode_command_response,
            Kind::Query => response::encode_query_response,
        };
        encode(buffer, prefix, self.correlation, index, result);
    }

    /// As [`Asker::reply`], with an outcome that isn't encoded yet.
    pub(super) fn reply_with(
        &self,
        buffer: &mut BytesMut,
        prefix: &ResponsePrefix,
        index: Index,
        outcome: &Outcome<'_>,
    ) {
        let (size, write) = (outcome.encoded_size_bytes(), |out: &mut _| outcome.encode(out));
        let correlation = self.correlation;
        match self.kind {
            Kind::Command => response::encode_command_response_with(
                buffer,
                prefix,
                correlation,
                index,
                size,
                write,
            ),
            Kind::Query => response::encode_query_response_with(
                buffer,
                prefix,
                correlation,
                index,
                size,
                write,
            ),
        }
    }
}

impl Waiter {
    pub(super) fn deadline(&self) -> Monotonic {
        match self {
            Self::Asker(asker) => asker.deadline,
            Self::Gather { deadline, .. } | Self::Stream { deadline, .. } => *deadline,
            Self::Nobody => Monotonic(u64::MAX),
        }
    }

    /// Whether this node may pass on what it waits for: another one's was passed on already.
    pub(super) fn is_of_this_node(&self) -> bool {
        match self {
            Self::Asker(asker) => matches!(asker.to, Recipient::Client(_)),
            Self::Gather { .. } | Self::Stream { .. } => true,
            Self::Nobody => false,
        }
    }
}
