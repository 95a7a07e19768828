//! What a replica wants done, and what it is told when it is done.

use super::replica::log::Slot;
use crate::base::chain::Chain;
use crate::base::ids::{Index, TermId};
use crate::base::payload::ResultBytes;
use crate::base::time::Timestamp;

/// The world as a [`Replica`](super::Replica) sees it. The shard implements it.
pub trait Effects {
    /// Appends to the durable log. Completion comes as [`Persisted`], in the order of the appends.
    fn persist(&mut self, record: Persist<'_>);

    /// Executes a slot on the state machine, with undo, and returns the encoded result. Slots come
    /// in order; no-ops are not executed.
    fn execute(&mut self, index: Index, slot: &Slot) -> ResultBytes;

    /// Undoes all that was executed above `index`.
    fn undo_to(&mut self, index: Index);

    /// Slots up to `index` are stable: they will never be undone. Their commands, `size_bytes` in
    /// all, have left memory.
    fn stabilise(&mut self, index: Index, size_bytes: usize);

    /// The leader's explicit `CommandResponse` for a slot of its own view, to the collector.
    fn respond(&mut self, index: Index, result: ResultBytes);

    /// A view was adopted.
    fn view_started(&mut self, started: ViewStarted);

    /// The current view was left: its sequencer and collector stop for ever.
    fn view_left(&mut self);
}

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

/// What the durable log is told.
#[derive(Clone, Copy, Debug)]
pub enum Persist<'a> {
    /// A slot was appended.
    Slot(Index, &'a Slot),
    /// A view was promised (W1).
    View(TermId),
    /// A view was adopted (W2).
    Adopt {
        /// The view.
        term: TermId,
        /// The last slot of the log with which it starts.
        base: Index,
        /// Own slots up to this one were kept.
        kept: Index,
        /// The chain digest at `base`.
        chain: Chain,
    },
    /// Slots up to here are stable. Written lazily: on restart it is a lower bound.
    SyncPoint(Index),
}

/// What became durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persisted {
    /// All slots up to here.
    Slots(Index),
    /// The promise of a view (W1).
    View(TermId),
    /// The adoption of a view (W2).
    Adopted(TermId),
}
