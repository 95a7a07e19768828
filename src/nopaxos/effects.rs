//! What a member wants done, and what it is told when it is done.

use super::message::{CheckpointPart, Message, SlotRange};
use super::replica::log::Slot;
use crate::base::chain::Chain;
use crate::base::ids::{Incarnation, Index, MemberId, TermId};
use crate::base::payload::ResultBytes;
use crate::base::time::Timestamp;

/// The world as a [`Member`](super::Member) sees it. The shard implements it. `W` says who waits
/// for a command or a query.
///
/// Nothing here may call the member again: what comes of an effect is a later input.
pub trait Effects<W> {
    /// Appends to the durable log. Completion comes as [`Persisted`], in the order of the appends.
    fn persist(&mut self, record: Persist<'_>);

    /// Whether the durable log has room for values of so many bytes beside what is spared for the
    /// protocol. A member that has none takes no slots in, as if they had been lost on their way:
    /// what else it logs, and above all the checkpoints that make room, must not wait behind them.
    fn has_room(&mut self, size_bytes: usize) -> bool;

    /// Executes a slot on the state machine, with undo, and returns the encoded result: a leader,
    /// ahead of commitment. Slots come in order; no-ops are not executed.
    fn execute(&mut self, index: Index, slot: &Slot) -> ResultBytes;

    /// Executes a slot that is stable: a follower. Nobody wants the result, it is never undone.
    fn apply(&mut self, index: Index, slot: &Slot);

    /// Undoes all that was executed above `index`.
    fn undo_to(&mut self, index: Index);

    /// Slots up to `index` are stable: they will never be undone.
    fn stabilise(&mut self, index: Index);

    /// A command is complete: a quorum holds it, the leader has executed it.
    fn answer(&mut self, waiter: W, index: Index, result: ResultBytes);

    /// Nothing, or nothing that is known, came of a command or a query.
    fn give_back(&mut self, waiter: W, why: GivenBack);

    /// Reads that were told to wait for a round up to `round` may be answered now, each with the
    /// state as of `index`.
    fn readable(&mut self, round: Round, index: Index);

    /// All rounds that are under way came to nothing: the view was left.
    fn unreadable(&mut self);

    /// Evaluates a query with the state as of `index`, which is not after what is executed: a
    /// leader, for a sequencer on another member. Returns the encoded result.
    fn evaluate(&mut self, index: Index, query: &[u8]) -> ResultBytes;

    /// A query that was handed in by [`Member::query`](super::Member::query) is answered.
    fn answer_query(&mut self, waiter: W, index: Index, result: &[u8]);

    /// Sends a message to another member, in the order of the calls.
    fn send(&mut self, to: MemberId, message: Message);

    /// Sends what isn't in memory: to be read from the disk first. May be dropped under load: the
    /// other member asks again.
    fn send_stored(&mut self, to: MemberId, stored: Stored);

    /// Keeps a chunk of a checkpoint that comes from another member. What came of it is told by
    /// [`Member::on_chunk`](super::Member::on_chunk); a chunk of another checkpoint than the one
    /// before begins a new one.
    fn receive_chunk(&mut self, part: CheckpointPart);

    /// Puts the checkpoint that was received whole in the place of the state. Its slots are stable.
    fn install(&mut self, index: Index);

    /// A view was adopted.
    fn view_started(&mut self, started: ViewStarted);

    /// The current view was left: its sequencer and collector have stopped for ever.
    fn view_left(&mut self);
}

/// Which round of reads. Rounds are numbered in the order in which they begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Round(pub u64);

/// A view that was adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewStarted {
    /// The view.
    pub term: TermId,
    /// The last slot of the log with which it starts.
    pub base: Index,
    /// The timestamp of that slot: stamps never go back behind it.
    pub last_timestamp: Timestamp,
    /// Whether this member is the term's sequencer.
    pub sequencing: bool,
}

/// Why a waiter is told that it gets no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenBack {
    /// It has left no trace: try again, elsewhere or later.
    NotTaken,
    /// It may or may not take effect: the view changed before a quorum answered.
    Unknown,
}

/// What the durable log is told.
#[derive(Clone, Copy, Debug)]
pub enum Persist<'a> {
    /// A slot was appended.
    Slot(Index, &'a Slot),
    /// A slot that was a value has become a no-op (W4, W5).
    NoOp(Index, &'a Slot),
    /// A view was promised (W1).
    View(TermId),
    /// A slot of a view that is being adopted; it counts once its [`Persist::Adopt`] is durable.
    Stage {
        /// The view.
        term: TermId,
        /// The slot's place.
        index: Index,
        /// The slot.
        slot: &'a Slot,
    },
    /// A view was adopted (W2).
    Adopt {
        /// The view.
        term: TermId,
        /// The last slot of the log with which it starts.
        base: Index,
        /// Own slots up to this one were kept but for those that were staged; those above are
        /// dropped. Above `base` only if stable slots reach beyond it, a checkpoint's that was
        /// installed or a recovering member's own: then the log ends there.
        kept: Index,
        /// The chain digest at `base`; [`Chain::NONE`] if it isn't known.
        chain: Chain,
    },
    /// Slots up to here are stable. Written lazily: on restart it is a lower bound.
    SyncPoint(Index),
    /// The checkpoint that was received counts from here on: it replaces the log up to `index`,
    /// and all of it if it ends below.
    Checkpoint {
        /// The last slot that it covers.
        index: Index,
        /// The chain digest there.
        chain: Chain,
    },
    /// Lives of members grew (W7).
    Lives {
        /// The member's own.
        incarnation: Incarnation,
        /// The highest known of each member.
        crash_vector: &'a [Incarnation],
        /// What the log holds is not all that this member has promised: a process that finds this
        /// recovers from the others ([`Restored::is_lost`](super::Restored::is_lost)).
        is_lost: bool,
    },
}

/// What became durable: one for each [`Persist`] but [`Persist::Stage`] and
/// [`Persist::SyncPoint`], in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persisted {
    /// All slots up to here were appended.
    Slots(Index),
    /// This slot has become a no-op.
    NoOp(Index),
    /// The promise of a view (W1).
    View(TermId),
    /// The adoption of a view (W2).
    Adopted(TermId),
    /// The checkpoint that was received.
    Checkpoint(Index),
    /// The crash vector (W7).
    Lives,
}

/// What another member wants and memory doesn't hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Slots, no-ops among them, ascending, in messages of about 1 MiB: at most
    /// [`REPAIR_SIZE_BYTES_MAX`](crate::base::limits::REPAIR_SIZE_BYTES_MAX) in all, counted as
    /// [`Entry::size_bytes`](super::message::Entry::size_bytes), one entry more than fits. Slots
    /// that the durable log doesn't hold are left out.
    Slots {
        /// The message to put them into: its entries are replaced.
        reply: Message,
        /// Which.
        ranges: Vec<SlotRange>,
        /// What is sent after them, on the same connection.
        then: Option<Message>,
    },
    /// A chunk of a checkpoint.
    Chunk {
        /// The message to put it into: its chunk is replaced. If the checkpoint isn't there any
        /// more the message goes without one.
        reply: Message,
        /// Which checkpoint; 0: the newest.
        index: Index,
        /// Which chunk.
        number: u64,
    },
}

/// What came of a chunk that was handed to [`Effects::receive_chunk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkOutcome {
    /// It was kept; the next may come.
    Kept,
    /// It was the last: the checkpoint is whole and durable, and its digest fits.
    Complete {
        /// The chain digest at its index.
        chain: Chain,
        /// The timestamp there.
        timestamp: Timestamp,
    },
    /// The checkpoint is damaged, or there is no room for it.
    Failed,
    /// Another checkpoint is coming in: this one is to be asked for again after a while.
    Busy,
}
