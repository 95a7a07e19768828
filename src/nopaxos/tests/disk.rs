//! What a member's disk holds: what was written, and what of it is durable.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::base::chain::Chain;
use crate::base::ids::{Incarnation, Index, TermId};
use crate::base::time::Timestamp;
use crate::nopaxos::replica::log::Slot;
use crate::nopaxos::{Persist, Persisted, Restored};

/// A record as it was written.
#[derive(Clone, Debug)]
pub(super) enum Record {
    Slot(Index, Slot),
    NoOp(Index, Slot),
    View(TermId),
    Stage(TermId, Index, Slot),
    Adopt { term: TermId, base: Index, kept: Index, chain: Chain },
    SyncPoint(Index),
    Checkpoint(Snapshot),
    Lives { incarnation: Incarnation, crash_vector: Vec<Incarnation>, is_lost: bool },
}

/// A state with its place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) index: Index,
    pub(super) chain: Chain,
    pub(super) timestamp: Timestamp,
    pub(super) state: u128,
}

impl Record {
    pub(super) fn of(persist: Persist<'_>, received: Option<Snapshot>) -> Self {
        match persist {
            Persist::Slot(index, slot) => Self::Slot(index, slot.clone()),
            Persist::NoOp(index, slot) => Self::NoOp(index, slot.clone()),
            Persist::View(term) => Self::View(term),
            Persist::Stage { term, index, slot } => Self::Stage(term, index, slot.clone()),
            Persist::Adopt { term, base, kept, chain } => Self::Adopt { term, base, kept, chain },
            Persist::SyncPoint(index) => Self::SyncPoint(index),
            Persist::Checkpoint { index, .. } => {
                let received = received.expect("a received checkpoint is installed first");
                assert_eq!(received.index, index);
                Self::Checkpoint(received)
            }
            Persist::Lives { incarnation, crash_vector, is_lost } => {
                Self::Lives { incarnation, crash_vector: crash_vector.to_vec(), is_lost }
            }
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Slot(..) => "Slot",
            Self::NoOp(..) => "NoOp",
            Self::View(_) => "View",
            Self::Stage(..) => "Stage",
            Self::Adopt { .. } => "Adopt",
            Self::SyncPoint(_) => "SyncPoint",
            Self::Checkpoint(_) => "Checkpoint",
            Self::Lives { .. } => "Lives",
        }
    }

    /// What is said when it is durable.
    pub(super) fn persisted(&self) -> Option<Persisted> {
        match self {
            Self::Slot(index, _) => Some(Persisted::Slots(*index)),
            Self::NoOp(index, _) => Some(Persisted::NoOp(*index)),
            Self::View(term) => Some(Persisted::View(*term)),
            Self::Adopt { term, .. } => Some(Persisted::Adopted(*term)),
            Self::Checkpoint(snapshot) => Some(Persisted::Checkpoint(snapshot.index)),
            Self::Lives { .. } => Some(Persisted::Lives),
            Self::Stage(..) | Self::SyncPoint(_) => None,
        }
    }
}

/// What a sequence of records amounts to.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) view: TermId,
    pub(super) last_normal: TermId,
    pub(super) base: Index,
    /// Slots after `first`, without holes.
    pub(super) slots: BTreeMap<Index, Slot>,
    pub(super) last: Index,
    pub(super) sync_point: Index,
    pub(super) checkpoint: Snapshot,
    pub(super) incarnation: Incarnation,
    pub(super) crash_vector: Vec<Incarnation>,
    pub(super) is_lost: bool,
    staging: TermId,
    staged: BTreeMap<Index, Slot>,
}

impl Image {
    pub(super) fn apply(&mut self, record: &Record) {
        match record {
            Record::Slot(index, slot) => {
                assert_eq!(*index, self.last.next(), "slots are appended without a hole");
                self.slots.insert(*index, slot.clone());
                self.last = *index;
            }
            Record::NoOp(index, slot) => {
                assert!(*index > self.sync_point && *index <= self.last, "an unstable slot");
                assert!(slot.value.is_none());
                self.slots.insert(*index, slot.clone());
            }
            Record::View(term) => {
                assert!(*term >= self.view, "a promise goes back");
                self.view = *term;
            }
            Record::Stage(term, index, slot) => {
                assert!(*index > self.sync_point, "a stable slot is staged");
                if self.staging != *term {
                    self.staged.clear();
                    self.staging = *term;
                }
                self.staged.insert(*index, slot.clone());
            }
            Record::Adopt { term, base, kept, chain } => self.adopt(*term, *base, *kept, *chain),
            Record::SyncPoint(index) => {
                assert!(*index <= self.last, "a sync point is in the log");
                self.sync_point = self.sync_point.max(*index);
            }
            Record::Checkpoint(snapshot) => self.take_checkpoint(*snapshot),
            Record::Lives { incarnation, crash_vector, is_lost } => {
                let mut lives = self.crash_vector.iter().zip(crash_vector);
                assert!(lives.all(|(old, new)| old <= new), "W7: a crash vector goes back");
                assert!(*incarnation >= self.incarnation, "a member's life goes back");
                self.incarnation = *incarnation;
                self.crash_vector.clone_from(crash_vector);
                self.is_lost = *is_lost;
            }
        }
    }

    pub(super) fn take_checkpoint(&mut self, snapshot: Snapshot) {
        self.checkpoint = snapshot;
        self.slots = self.slots.split_off(&snapshot.index.next());
        if snapshot.index > self.last {
            self.last = snapshot.index;
        }
        self.sync_point = self.sync_point.max(snapshot.index);
    }

    fn adopt(&mut self, term: TermId, base: Index, kept: Index, chain: Chain) {
        assert!(kept >= self.sync_point, "stable slots are kept");
        assert!(kept <= self.last);
        assert!(term >= self.last_normal && term >= self.view, "an adoption goes back");
        self.slots.split_off(&kept.next());
        if self.staging == term {
            for (index, slot) in std::mem::take(&mut self.staged) {
                if index > self.checkpoint.index {
                    assert!(index <= base);
                    self.slots.insert(index, slot);
                }
            }
        }
        self.last = base.max(kept);
        let count = crate::base::cast::usize_from(self.last.since(self.checkpoint.index));
        assert_eq!(self.slots.len(), count, "an adopted log has no hole");
        if chain != Chain::NONE && base >= self.checkpoint.index {
            assert_eq!(self.chain(base), chain, "an adopted log is what it was said");
        }
        (self.view, self.last_normal, self.base) = (term, term, base);
    }

    /// The digest at a slot that isn't below the checkpoint.
    pub(super) fn chain(&self, index: Index) -> Chain {
        let mut chain = self.checkpoint.chain;
        for (at, slot) in self.slots.range(..=index) {
            chain = slot.extend(chain, *at);
        }
        chain
    }

    /// What a process finds that starts with this.
    pub(super) fn restored(&self) -> Restored {
        let mut timestamp = self.checkpoint.timestamp;
        let mut restored = Restored {
            view: self.view,
            last_normal: self.last_normal,
            base: self.base,
            first: self.checkpoint.index.next(),
            sync_point: self.sync_point,
            chain: self.chain(self.sync_point),
            timestamp,
            no_ops: BTreeSet::new(),
            slots: Vec::new(),
            incarnation: self.incarnation,
            crash_vector: self.crash_vector.clone(),
            is_lost: self.is_lost,
        };
        for (index, slot) in &self.slots {
            let mut slot = slot.clone();
            if slot.value.is_none() {
                slot.timestamp = timestamp;
            }
            timestamp = slot.timestamp;
            if *index > self.sync_point {
                restored.slots.push(slot);
            } else {
                restored.timestamp = timestamp;
                restored.no_ops.extend(slot.value.is_none().then_some(*index));
            }
        }
        restored
    }
}

/// A disk: records become durable in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) written: Image,
    pub(super) durable: Image,
    in_flight: VecDeque<Record>,
    /// The kinds of the records that were ever appended, and of those that became durable.
    pub(super) kinds: [Vec<&'static str>; 2],
}

impl Disk {
    pub(super) fn append(&mut self, record: Record) {
        self.written.apply(&record);
        self.kinds[0].push(record.kind());
        self.in_flight.push_back(record);
    }

    /// The oldest record that isn't durable becomes so.
    pub(super) fn make_durable(&mut self) -> Option<Persisted> {
        let record = self.in_flight.pop_front()?;
        self.durable.apply(&record);
        self.kinds[1].push(record.kind());
        record.persisted()
    }

    /// The power is cut: `survivors` of the records in flight have made it.
    pub(super) fn crash(&mut self, survivors: usize) {
        for _ in 0..survivors.min(self.in_flight.len()) {
            self.make_durable();
        }
        self.in_flight.clear();
        self.durable.staged.clear();
        self.written = self.durable.clone();
    }

    /// A disk of which nothing is known: a process that finds it recovers.
    pub(super) fn blank() -> Self {
        let mut disk = Self::default();
        disk.durable.is_lost = true;
        disk.written.is_lost = true;
        disk
    }

    /// The end of what was written may be lost.
    pub(super) fn lose(&mut self) {
        self.durable.is_lost = true;
        self.written.is_lost = true;
    }

    pub(super) fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn checkpoint(&mut self, snapshot: Snapshot) {
        // Records in flight are about slots above it, or are covered by it.
        assert!(self.in_flight.is_empty());
        self.written.take_checkpoint(snapshot);
        self.durable.take_checkpoint(snapshot);
    }
}
