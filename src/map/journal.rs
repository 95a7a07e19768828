//! What it takes to undo the commands that are not stable yet, and to read the state before them.
//!
//! An undo record names the record that its command wrote and the one that it replaced; the latter
//! is kept until the command is committed. The version of a record is the index of its command: so
//! from any record that is too new for a reader, its undo record leads to the one before it. A
//! removal writes a record too, one without a value, so that absent keys have this thread as well.
//! A command may have several undo records: those of what had expired come before its own.

use std::collections::VecDeque;

use crate::base::{cast::u64_from, ids::Index};

use super::arena::RecordRef;
use super::hasher::KeyHash;
use super::maps::MapSize;
use super::record::MapId;

/// How one change that a command made is undone.
#[derive(Clone, Copy, Debug)]
pub(super) struct UndoRecord {
    /// The command.
    pub(super) index: Index,
    /// The map that it wrote to.
    pub(super) map: MapId,
    /// What the map held before.
    pub(super) before: MapSize,
    /// What was changed.
    pub(super) change: Change,
}

/// What a command changed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    /// A key's record.
    Put {
        /// The key.
        hash: KeyHash,
        /// The record before, if any; it may stand for a removal.
        old: Option<RecordRef>,
        /// The record that was written.
        new: RecordRef,
    },
    /// A present key was removed.
    Removed {
        /// The key.
        hash: KeyHash,
        /// The record before.
        old: RecordRef,
        /// The record that stands for the removal.
        new: RecordRef,
    },
    /// The map was cleared.
    Cleared {
        /// The life that its name means since.
        fresh: MapId,
    },
}

/// How a command changed a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Write {
    /// The life of the map that it wrote to.
    pub(super) map: MapId,
    /// The key.
    pub(super) hash: KeyHash,
    /// The record before, if any; it may stand for a removal.
    pub(super) old: Option<RecordRef>,
    /// The record that was written; it may stand for a removal.
    pub(super) new: RecordRef,
}

impl UndoRecord {
    /// The key's change, if it was one key's.
    fn write(&self) -> Option<Write> {
        let map = self.map;
        match self.change {
            Change::Put { hash, old, new } => Some(Write { map, hash, old, new }),
            Change::Removed { hash, old, new } => Some(Write { map, hash, old: Some(old), new }),
            Change::Cleared { .. } => None,
        }
    }
}

/// The undo records of a partition, in the order of the log.
#[derive(Debug, Default)]
pub(super) struct Journal {
    records: VecDeque<UndoRecord>,
}

impl Journal {
    /// Adds the record of the newest command.
    #[inline]
    pub(super) fn push(&mut self, record: UndoRecord) {
        let last = self.records.back();
        assert!(last.is_none_or(|last| last.index <= record.index), "commands come in order");
        self.records.push_back(record);
    }

    /// Takes the oldest record if it is not after `index`.
    pub(super) fn pop_committed(&mut self, index: Index) -> Option<UndoRecord> {
        let is_committed = self.records.front().is_some_and(|record| record.index <= index);
        if is_committed { self.records.pop_front() } else { None }
    }

    /// Takes the newest record if it is after `index`.
    pub(super) fn pop_undone(&mut self, index: Index) -> Option<UndoRecord> {
        let is_undone = self.records.back().is_some_and(|record| record.index > index);
        if is_undone { self.records.pop_back() } else { None }
    }

    /// How `new` came to be, which the command at `index` wrote.
    pub(super) fn write_of(&self, new: RecordRef, index: Index) -> Write {
        let position = self.records.partition_point(|record| record.index < index);
        let of_command = self.records.range(position..).take_while(|record| record.index == index);
        let write = of_command.filter_map(UndoRecord::write).find(|write| write.new == new);
        write
            .expect("a version that isn't stable is journaled, and names the command that wrote it")
    }

    /// What the commands after `index` did, the oldest first; `None`: not to one key.
    pub(super) fn writes_after(&self, index: Index) -> impl Iterator<Item = Option<Write>> + '_ {
        let position = self.records.partition_point(|record| record.index <= index);
        self.records.range(position..).map(UndoRecord::write)
    }

    /// What a map held as of `as_of`, if a later command wrote to it.
    pub(super) fn size_as_of(&self, map: MapId, as_of: Index) -> Option<MapSize> {
        let position = self.records.partition_point(|record| record.index <= as_of);
        let mut later = self.records.range(position..);
        later.find(|record| record.map == map).map(|record| record.before)
    }

    /// How many changes can be undone.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Bytes of the records.
    pub(super) fn size_bytes(&self) -> u64 {
        u64_from(self.records.capacity() * size_of::<UndoRecord>())
    }
}
