//! One partition of a shard: the machines of its protocol and its slice of the maps.

use std::collections::VecDeque;

use super::Effects;
use super::exchange::Installed;
use super::reads::WaitingRead;
use crate::base::ids::{Incarnation, Index, NodeId, Origin, TermId};
use crate::base::time::Monotonic;
use crate::map::outcome::Outcome;
use crate::map::partition::PartitionMap;
use crate::nopaxos::{Group, Member, Round};
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
    /// Strings that begin with this belong to the partition.
    pub(super) cursor_tag: Box<[u8]>,
    /// The term of the view that was started last.
    pub(super) term: TermId,
    /// What all responses of this term begin with.
    pub(super) prefix: ResponsePrefix,
    /// Cleared maps have left entries that are to be freed.
    pub(super) sweeping: bool,
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
    /// Whether there is a connection to each of them.
    pub(super) connected: Vec<bool>,
    /// When something is due, as it stands in the shard's table.
    pub(super) timer: Option<Monotonic>,
    /// A checkpoint of another member was put in the place of the map; the log doesn't know yet.
    pub(super) installed: Option<Installed>,
    /// The last round that is complete, and what its reads reflect.
    pub(super) round_done: (Round, Index),
    /// Reads that wait for a round of the members, in the order of rounds.
    pub(super) round_reads: VecDeque<(Round, WaitingRead)>,
}

/// Who waits for a command.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiter {
    /// A client.
    Client(Asker),
    /// A command to all partitions: its place in the table of gathers.
    Gather {
        /// The place.
        gather: usize,
        /// When it gives up.
        deadline: Monotonic,
    },
    /// Nobody.
    Nobody,
}

/// A client that waits for the answer to one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    /// Where the answer goes.
    pub(super) origin: Origin,
    /// What the answer repeats.
    pub(super) correlation: u64,
    /// Of which kind it is.
    pub(super) kind: Kind,
    /// When it gives up.
    pub(super) deadline: Monotonic,
}

impl Asker {
    /// Gives the client its answer, if it is still there.
    pub(super) fn reply(
        &self,
        prefix: &ResponsePrefix,
        index: Index,
        result: &[u8],
        effects: &mut impl Effects,
    ) {
        let Some(buffer) = effects.reply_buffer(self.origin, true) else { return };
        let encode = match self.kind {
            Kind::Command => response::encode_command_response,
            Kind::Query => response::encode_query_response,
        };
        encode(buffer, prefix, self.correlation, index, result);
    }

    /// As [`Asker::reply`], with an outcome that isn't encoded yet.
    pub(super) fn reply_with(
        &self,
        prefix: &ResponsePrefix,
        index: Index,
        outcome: &Outcome<'_>,
        effects: &mut impl Effects,
    ) {
        let Some(buffer) = effects.reply_buffer(self.origin, true) else { return };
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
            Self::Client(asker) => asker.deadline,
            Self::Gather { deadline, .. } => *deadline,
            Self::Nobody => Monotonic(u64::MAX),
        }
    }
}
