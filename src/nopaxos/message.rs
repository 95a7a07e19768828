//! What members of a partition say to each other: the seed's messages, understood. How they are
//! written in bytes: `wire::peer`.
//!
//! A view is named by its term alone: its leader follows from the term ([`Group::leader`]), and
//! what a message says of it is checked when the message is decoded. Who sent a message is the
//! connection's business, not the message's; only a [`Message::Recover`] that is relayed is about
//! somebody else.
//!
//! [`Group::leader`]: super::Group::leader

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::base::chain::Chain;
use crate::base::ids::{Incarnation, Index, MemberId, MessageId, TermId};
use crate::base::limits::{ENTRY_OVERHEAD_SIZE_BYTES, REPAIR_RANGE_COUNT_MAX};
use crate::base::payload::ResultBytes;
use crate::base::time::Timestamp;

/// One message between two members of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// `CommandRequest`: a stamped command, from the sequencer or, repeated, from who holds it.
    Command(Stamped),
    /// `CommandResponse`: the sender holds all slots up to `index` in this view.
    CommandResponse {
        /// The view.
        term: TermId,
        /// The command; with [`Answer::Ack`] the last one of those that are acked.
        message_id: MessageId,
        /// Its slot.
        index: Index,
        /// What came of it.
        answer: Answer,
    },
    /// `QueryRequest`: a query, or a barrier that many queries share, stamped by the sequencer.
    Query {
        /// The view.
        term: TermId,
        /// Its number in the term; queries take no slots.
        query_id: u64,
        /// The slot that the answer must cover.
        covers: Index,
        /// The encoded `p2pmap.v1.Query`; empty for a barrier.
        value: Bytes,
    },
    /// `QueryResponse`: the sender is still in the view, and this far.
    QueryResponse {
        /// The view.
        term: TermId,
        /// The query.
        query_id: u64,
        /// A follower's durable last slot; the slot that the leader's answer reflects.
        index: Index,
        /// The leader's encoded `Result`; empty from followers and for a barrier.
        value: Bytes,
    },
    /// `SlotLookup`: the sender lacks this command.
    SlotLookup {
        /// The view.
        term: TermId,
        /// The missing command.
        message_id: MessageId,
    },
    /// `GapCommitRequest`: the leader has made this slot a no-op.
    GapCommitRequest {
        /// The view.
        term: TermId,
        /// The slot.
        index: Index,
    },
    /// `GapCommitResponse`: the slot is a no-op here, durably, and all slots before it are there.
    GapCommitResponse {
        /// The view.
        term: TermId,
        /// The slot.
        index: Index,
    },
    /// `ViewChangeRequest`: the sender endorses a view. It promises nothing.
    ViewChangeRequest {
        /// The view.
        term: TermId,
    },
    /// `ViewChange`: the sender's vote, to the leader of the view.
    ViewChange {
        /// The view that is to begin.
        term: TermId,
        /// The last view that the voter had adopted; its log is of that view. 0: none.
        last_normal: TermId,
        /// The base of `last_normal`.
        base: Index,
        /// The voter's log.
        log: LogSummary,
    },
    /// `ViewChangeRepair`: the new leader asks a voter for what its merge lacks.
    ViewChangeRepair {
        /// The view that is to begin.
        term: TermId,
        /// The request's number; the answer repeats it.
        request: u64,
        /// What is wanted.
        wanted: Wanted,
    },
    /// `ViewChangeRepairResponse`: closes the answer to a `ViewChangeRepair`.
    ViewChangeRepairResponse {
        /// The view that is to begin.
        term: TermId,
        /// The request.
        request: u64,
        /// A chunk of the checkpoint that was wanted, if it is still there.
        chunk: Option<CheckpointPart>,
        /// Those of the wanted slots that the voter holds as values.
        values: Vec<SlotRange>,
    },
    /// `StartView`: the log with which a view starts.
    StartView {
        /// The view.
        term: TermId,
        /// The view whose logs were merged.
        source_term: TermId,
        /// The merged log; its last slot is the view's base.
        log: LogSummary,
    },
    /// `ViewRepair`: a member asks the leader for what it lacks of the view's log.
    ViewRepair {
        /// The view.
        term: TermId,
        /// The request's number.
        request: u64,
        /// What is wanted; nothing: the `StartView`.
        wanted: Wanted,
    },
    /// `ViewRepairResponse`: slots and chunks, to a member that adopts or to a leader that merges.
    ViewRepairResponse {
        /// The view.
        term: TermId,
        /// A chunk of a checkpoint.
        chunk: Option<CheckpointPart>,
        /// Slots, ascending.
        entries: Vec<Entry>,
    },
    /// `SyncPrepare`: the leader's log up to the proposed sync point.
    SyncPrepare {
        /// The view.
        term: TermId,
        /// The distance of the proposed sync point from the base of the view.
        message_id: MessageId,
        /// From the slot after the leader's sync point to the proposed one.
        log: LogSummary,
    },
    /// `SyncRepair`: a follower lacks slots that are to become stable.
    SyncRepair {
        /// The view.
        term: TermId,
        /// What is wanted.
        wanted: Wanted,
    },
    /// `SyncRepairResponse`: slots and chunks.
    SyncRepairResponse {
        /// The view.
        term: TermId,
        /// A chunk of a checkpoint.
        chunk: Option<CheckpointPart>,
        /// Slots, ascending.
        entries: Vec<Entry>,
    },
    /// `SyncResponse`: the sender's durable log is the leader's up to here.
    SyncResponse {
        /// The view.
        term: TermId,
        /// The slot.
        index: Index,
    },
    /// `SyncCommit`: the leader's sync point.
    SyncCommit {
        /// The view.
        term: TermId,
        /// The distance of the sync point from the base of the view; 0 if it is below.
        message_id: MessageId,
        /// The sync point.
        sync_point: Index,
    },
    /// `Recover`: a member has lost what it held in an earlier life.
    Recover {
        /// Whom it is about: the sender, unless it is relayed.
        member: MemberId,
        /// Which attempt.
        attempt: RecoveryId,
    },
    /// `RecoverResponse`: what a recovering member needs to know.
    RecoverResponse {
        /// Which attempt.
        attempt: RecoveryId,
        /// The view; 0: the sender has never been in one.
        term: TermId,
        /// The distance of the sender's last slot from the base of the view.
        message_id: MessageId,
        /// The first chunk of the leader's checkpoint.
        chunk: Option<CheckpointPart>,
        /// The leader's slots after it, as many as fit.
        entries: Vec<Entry>,
    },
    /// `Ping`: the sender is in this view. A follower echoes the leader's.
    Ping {
        /// The view.
        term: TermId,
    },
}

/// A stamped command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped {
    /// The view.
    pub term: TermId,
    /// Its number in the term, from 1: its slot is the base of the view and this.
    pub message_id: MessageId,
    /// The sequencer's time.
    pub timestamp: Timestamp,
    /// The encoded `p2pmap.v1.Command`; never empty.
    pub value: Bytes,
}

/// What a response to a command says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A follower holds it.
    Ack,
    /// The leader has executed it: the encoded `p2pmap.v1.Result`.
    Result(ResultBytes),
    /// The leader has made its slot a no-op: it can be stamped anew.
    Dropped,
}

/// A stretch of a log: where it begins and ends, and which of its slots are no-ops.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSummary {
    /// The first slot that the sender holds. If it is after `last`, the stretch is empty.
    pub first: Index,
    /// The last slot.
    pub last: Index,
    /// The no-ops in [first, last].
    pub no_ops: BTreeSet<Index>,
    /// The chain digest at `last`.
    pub chain: Chain,
}

/// A slot on its way to another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The slot.
    pub index: Index,
    /// Its message id in the term that stamped it.
    pub message_id: MessageId,
    /// The sequencer's time; of a no-op nothing.
    pub timestamp: Timestamp,
    /// The command; `None`: a no-op.
    pub value: Option<Bytes>,
}

impl Entry {
    /// What it counts for in a repair: sender and receiver count alike.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.value.as_ref().map_or(0, Bytes::len) + ENTRY_OVERHEAD_SIZE_BYTES
    }
}

/// Slots without a hole between them, both ends among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRange {
    /// The first slot.
    pub first: Index,
    /// The last slot; not before the first.
    pub last: Index,
}

/// What a repair asks for: a chunk of a checkpoint, or slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The checkpoint's index; 0: none is wanted. Which chunk: the request's number.
    pub checkpoint: Index,
    /// Slots: ascending, disjoint, at most [`RANGE_COUNT_MAX`].
    pub slots: Vec<SlotRange>,
}

/// How many ranges a repair names at most.
pub const RANGE_COUNT_MAX: usize = REPAIR_RANGE_COUNT_MAX;

/// One chunk of a checkpoint. All chunks of a transfer come from one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointPart {
    /// The last slot that the checkpoint covers.
    pub index: Index,
    /// Bytes of the whole.
    pub size_bytes: u64,
    /// Which chunk, from 0.
    pub number: u64,
    /// Bytes of each chunk but the last.
    pub chunk_size_bytes: u32,
    /// The digest of the whole.
    pub digest: [u8; 32],
    /// The chunk's bytes.
    pub data: Bytes,
}

/// Which attempt to recover: an answer to another one counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryId {
    /// The life of the member that recovers; 0: it asks which one it is.
    pub incarnation: Incarnation,
    /// New for each attempt.
    pub nonce: u128,
}

impl Message {
    /// The view that it is about; `None`: it is about none.
    #[must_use]
    pub fn term(&self) -> Option<TermId> {
        match self {
            Self::Command(Stamped { term, .. })
            | Self::CommandResponse { term, .. }
            | Self::Query { term, .. }
            | Self::QueryResponse { term, .. }
            | Self::SlotLookup { term, .. }
            | Self::GapCommitRequest { term, .. }
            | Self::GapCommitResponse { term, .. }
            | Self::ViewChangeRequest { term }
            | Self::ViewChange { term, .. }
            | Self::ViewChangeRepair { term, .. }
            | Self::ViewChangeRepairResponse { term, .. }
            | Self::StartView { term, .. }
            | Self::ViewRepair { term, .. }
            | Self::ViewRepairResponse { term, .. }
            | Self::SyncPrepare { term, .. }
            | Self::SyncRepair { term, .. }
            | Self::SyncRepairResponse { term, .. }
            | Self::SyncResponse { term, .. }
            | Self::SyncCommit { term, .. }
            | Self::RecoverResponse { term, .. }
            | Self::Ping { term } => Some(*term).filter(|term| *term > TermId(0)),
            Self::Recover { .. } => None,
        }
    }
}
