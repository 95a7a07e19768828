//! Entries with a time to live: which of them expire next, and up to when what has expired is
//! hidden.
//!
//! All of it goes by the log's time, which is the timestamp of the slot that is executed; no
//! member looks at its own clock. An entry whose time has come by the time of a slot is absent for
//! that slot's command and for all later ones, and for reads as of that slot or later. Each slot,
//! before its command, removes up to [`EXPIRED_PER_SLOT_COUNT_MAX`] such entries of whatever map,
//! in the order of (time of expiry, version): so all members remove the same ones at the same
//! index, and no slot takes long because a million entries expire in one second. What is hidden
//! and not removed yet is still part of the state: of the digest, of a map's size, of a checkpoint
//! and of the number of maps.
//!
//! A read is as of an index that may be below the last one executed; its own time may be later
//! than the log's. It hides what has expired by the later of its time and the index's
//! ([`Horizon::as_of`]).
//!
//! [`EXPIRED_PER_SLOT_COUNT_MAX`]: crate::base::limits::EXPIRED_PER_SLOT_COUNT_MAX

use std::collections::{BTreeMap, VecDeque};

use crate::base::{cast::u64_from, ids::Index};

use super::arena::RecordRef;
use super::partition::Undo;
use super::record::Record;

/// What an entry takes in the order of expiry, at most: a third of a node of the tree for a key and
/// a reference, if the node is as empty as it may be.
pub(super) const EXPIRY_SIZE_BYTES: usize = 64;

/// An entry's place in the order of expiry. A version belongs to one entry of the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ExpiryKey {
    /// When it expires.
    pub(super) expires_ms: u64,
    /// Its version.
    pub(super) version: Index,
}

impl ExpiryKey {
    /// The place of a record that is present, if it has a time to live.
    #[inline]
    pub(super) fn of(record: &Record<'_>) -> Option<Self> {
        let expires_ms = record.expires_ms()?;
        Some(Self { expires_ms, version: record.version })
    }
}

/// The entries of one life of a map that have a time to live, in the order of expiry.
#[derive(Debug, Default)]
pub(super) struct Expiries(BTreeMap<ExpiryKey, RecordRef>);

impl Expiries {
    /// The one that expires next.
    pub(super) fn first(&self) -> Option<(ExpiryKey, RecordRef)> {
        self.0.first_key_value().map(|(key, record)| (*key, *record))
    }

    /// Whether an entry has this place.
    pub(super) fn contains(&self, key: ExpiryKey) -> bool {
        self.0.contains_key(&key)
    }

    /// Adds an entry.
    pub(super) fn insert(&mut self, key: ExpiryKey, record: RecordRef) {
        let before = self.0.insert(key, record);
        assert!(before.is_none(), "a version belongs to one entry");
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, key: ExpiryKey) {
        let before = self.0.remove(&key);
        assert!(before.is_some(), "an entry with a time to live has its place");
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Up to when entries that have expired are hidden, as of any index that may be undone to.
///
/// That is the time of the last slot that found something expired: another slot has hidden nothing
/// that its predecessors hadn't. So it only changes with slots that remove entries, and costs those
/// nothing that have no time to live.
#[derive(Debug, Default)]
pub(super) struct Horizon {
    now_ms: u64,
    /// Slots that moved it and may be undone, and where it was before.
    moves: VecDeque<(Index, u64)>,
}

impl Horizon {
    /// The horizon of a state that was loaded: the time of its last slot.
    pub(super) const fn at(now_ms: u64) -> Self {
        Self { now_ms, moves: VecDeque::new() }
    }

    /// The slot at `index` finds something expired.
    pub(super) fn advance(&mut self, index: Index, now_ms: u64, undo: Undo) {
        let before = self.now_ms;
        self.now_ms = before.max(now_ms);
        if undo == Undo::Keep && before < now_ms {
            self.moves.push_back((index, before));
        }
    }

    /// Where it was as of `index`; not before what was committed.
    #[inline]
    pub(super) fn as_of(&self, index: Index) -> u64 {
        if self.moves.is_empty() { self.now_ms } else { self.moved_as_of(index) }
    }

    fn moved_as_of(&self, index: Index) -> u64 {
        let later = self.moves.partition_point(|(moved, _)| *moved <= index);
        self.moves.get(later).map_or(self.now_ms, |(_, before)| *before)
    }

    /// Slots up to `index` will not be undone.
    pub(super) fn commit(&mut self, index: Index) {
        while self.moves.front().is_some_and(|(moved, _)| *moved <= index) {
            self.moves.pop_front();
        }
    }

    /// Slots after `index` are undone.
    pub(super) fn undo_to(&mut self, index: Index) {
        while let Some((_, before)) = self.moves.pop_back_if(|(moved, _)| *moved > index) {
            self.now_ms = before;
        }
    }

    /// Bytes of what may be undone.
    pub(super) fn size_bytes(&self) -> u64 {
        u64_from(self.moves.capacity() * size_of::<(Index, u64)>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn horizon_is_known_as_of_every_index_that_may_be_undone_to() {
        let mut horizon = Horizon::default();
        horizon.advance(Index(3), 10, Undo::Discard);
        horizon.advance(Index(5), 20, Undo::Keep);
        horizon.advance(Index(6), 20, Undo::Keep);
        horizon.advance(Index(9), 30, Undo::Keep);
        let as_of = |horizon: &Horizon| [3, 4, 5, 8, 9, 10].map(|at| horizon.as_of(Index(at)));
        assert_eq!(as_of(&horizon), [10, 10, 20, 20, 30, 30]);
        horizon.commit(Index(5));
        assert_eq!(as_of(&horizon)[2..], [20, 20, 30, 30]);
        horizon.undo_to(Index(8));
        assert_eq!(as_of(&horizon)[2..], [20; 4]);
        horizon.advance(Index(9), 25, Undo::Keep);
        assert_eq!(horizon.as_of(Index(9)), 25);
        horizon.undo_to(Index(5));
        assert_eq!((horizon.as_of(Index(9)), horizon.size_bytes() > 0), (20, true));
    }
}
