//! The replica of one partition: its log, its views, and what it has executed.
//!
//! A replica moves between two statuses. In [`Status::Normal`] it appends what the sequencer
//! stamps; the leader also executes each slot at once, ahead of commitment, and can undo it. In
//! [`Status::ViewChange`] it has promised a view (durably, W1) and waits for it to be adopted
//! (durably, W2). Everything that leaves the member waits for the durable log (W3): a result is
//! handed out by [`Replica::on_persisted`] alone.

pub mod log;
pub mod log_merge;
mod request;
mod sync;
mod view_change;

use std::collections::VecDeque;

use self::log::{Log, Slot};
use self::log_merge::Vote;
use super::{Effects, Group, Persist, Persisted};
use crate::base::chain::Chain;
use crate::base::ids::{Index, TermId};
use crate::base::payload::ResultBytes;
use crate::base::time::Timestamp;

/// What a replica is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is part of its view.
    Normal,
    /// It has left its last view and waits for a new one.
    ViewChange,
}

/// What a replica had when its process ended, as the durable log tells.
#[derive(Debug, Default)]
pub struct Restored {
    /// The highest view promised.
    pub view: TermId,
    /// The highest view adopted.
    pub last_normal: TermId,
    /// The base of `last_normal`.
    pub base: Index,
    /// The first slot still in the durable log.
    pub first: Index,
    /// The stable prefix: executed already.
    pub sync_point: Index,
    /// The chain digest at `sync_point`.
    pub chain: Chain,
    /// The timestamp of the slot at `sync_point`.
    pub timestamp: Timestamp,
    /// The slots above `sync_point`.
    pub slots: Vec<Slot>,
}

/// The replica of one partition.
#[derive(Debug)]
pub struct Replica {
    group: Group,
    /// The highest view promised; never decreases (I8).
    view: TermId,
    /// The highest view adopted; the log is of this view.
    last_normal: TermId,
    base: Index,
    status: Status,
    log: Log,
    /// The first slot in the durable log.
    first: Index,
    /// Slots up to here are durable.
    durable: Index,
    /// Slots up to here are executed; the leader's may be undone above `sync_point`.
    applied: Index,
    /// Slots up to here were answered to the collector, or belong to earlier terms.
    responded: Index,
    /// Slots up to here are as the leader's; never above `durable`.
    prepared: Index,
    /// Slots up to here are stable: held by a quorum, never undone.
    sync_point: Index,
    /// The sync point last written to the durable log.
    sync_point_written: Index,
    /// Bytes of the commands between the two.
    unwritten_size_bytes: usize,
    /// What came of the slots (responded, applied].
    results: VecDeque<ResultBytes>,
    /// How many bytes `results` holds.
    results_size_bytes: usize,
    /// For each member, the highest view that it asked for.
    endorsed: Vec<TermId>,
    votes: Vec<Option<Vote>>,
    /// The view that is being adopted once W2 is durable: its term and base. Set once in a term
    /// (M1).
    adopting: Option<(TermId, Index)>,
}

impl Replica {
    /// A replica with what its member had before; a new one with [`Restored::default`].
    ///
    /// # Panics
    /// If what was restored contradicts itself.
    #[must_use]
    pub fn new(group: Group, restored: Restored) -> Self {
        assert!(restored.last_normal <= restored.view, "a view is promised before it is adopted");
        let mut log = Log::new(restored.sync_point, restored.chain, restored.timestamp);
        for slot in restored.slots {
            log.append(slot);
        }
        let last = log.last();
        assert!(restored.base <= last, "a view's base is in the log");
        let count = group.count();
        Self {
            group,
            view: restored.view,
            last_normal: restored.last_normal,
            base: restored.base,
            status: Status::ViewChange,
            log,
            first: restored.first.max(Index(1)),
            durable: last,
            applied: restored.sync_point,
            responded: restored.sync_point,
            prepared: restored.sync_point,
            sync_point: restored.sync_point,
            sync_point_written: restored.sync_point,
            unwritten_size_bytes: 0,
            results: VecDeque::new(),
            results_size_bytes: 0,
            endorsed: vec![TermId(0); count],
            votes: vec![None; count],
            adopting: None,
        }
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// What the replica is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status
    }

    /// The highest view promised.
    #[must_use]
    pub fn view(&self) -> TermId {
        self.view
    }

    /// The highest view adopted.
    #[must_use]
    pub fn last_normal(&self) -> TermId {
        self.last_normal
    }

    /// The base of the view adopted.
    #[must_use]
    pub fn base(&self) -> Index {
        self.base
    }

    /// The log above the sync point.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Bytes of results that may not be given out yet. A command of a few bytes can have a whole
    /// value as its result.
    #[must_use]
    pub fn results_size_bytes(&self) -> usize {
        self.results_size_bytes
    }

    /// The first slot in the durable log.
    #[must_use]
    pub fn first(&self) -> Index {
        self.first
    }

    /// Slots up to here are durable.
    #[must_use]
    pub fn durable(&self) -> Index {
        self.durable
    }

    /// Slots up to here are stable.
    #[must_use]
    pub fn sync_point(&self) -> Index {
        self.sync_point
    }

    /// Slots up to here are executed.
    #[must_use]
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// Whether this member leads the view that it is part of.
    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.status == Status::Normal && self.group.leader(self.view) == self.group.me()
    }

    /// Something became durable, in the order in which it was handed to [`Effects::persist`].
    pub fn on_persisted(&mut self, persisted: Persisted, effects: &mut impl Effects) {
        match persisted {
            Persisted::Slots(index) => self.on_slots_persisted(index, effects),
            Persisted::View(term) => self.on_view_persisted(term, effects),
            Persisted::Adopted(term) => self.on_adopted(term, effects),
        }
        self.assert_watermarks();
    }

    fn on_slots_persisted(&mut self, index: Index, effects: &mut impl Effects) {
        assert!(index <= self.log.last(), "only what was appended becomes durable");
        self.durable = self.durable.max(index);
        if self.is_leading() {
            self.respond(effects);
            self.sync(effects);
        }
    }

    /// The order of the watermarks, cheap enough for every step (I9, I15).
    fn assert_watermarks(&self) {
        assert!(self.sync_point <= self.prepared, "a sync point is prepared first");
        assert!(self.prepared <= self.durable, "what is prepared is durable");
        assert!(self.durable <= self.log.last(), "what is durable was appended");
        assert!(self.sync_point <= self.applied, "what is stable is executed");
        assert!(self.applied <= self.log.last(), "what is executed was appended");
        assert!(self.last_normal <= self.view, "a view is promised before it is adopted");
    }
}

#[cfg(test)]
mod tests;
