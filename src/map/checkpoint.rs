//! A partition's state as bytes, taken in slices while commands go on, and loaded again.
//!
//! A checkpoint holds the state as of the index at which it began. A walk over the table
//! (`table/walk.rs`) keeps what is overwritten or removed ahead of it, `maps` keeps the maps that
//! are cleared or emptied, and `sessions` writes those that change before their turn, so that what
//! is written is neither older nor newer. What may be undone at that index is part of it; a
//! checkpoint of commands that were undone is void, and the caller must abort it. Removals that may
//! be undone, and what cleared maps have left, are not part of the state. What has expired and is
//! not removed yet is.
//!
//! # The bytes
//!
//! A sequence of items, each with a first byte that says what it is; numbers are LEB128 varints:
//!
//! ```text
//! 1 map     name length | name
//! 2 entry   map | flags | version | updated_ms | [age_ms] | [ttl_ms]
//!           | key length | value length | key | value
//! 3 end     number of entries
//! 4 session id | ttl_s | active_s | ack_below | number of results
//!           | of each: sequence | length | result
//! ```
//!
//! Maps are numbered from 0 in the order of their items, each of which comes before its entries;
//! there is none without entries. `age_ms` is how long before its last write the key came to be; it
//! is there if flag 1 is set. `ttl_ms` is how long after its last write the entry expires; it is
//! there if flag 2 is set. Other flags, of entries that have more to them, are for later; they are
//! refused until then. The order of entries and sessions means nothing; the results of a session
//! ascend. The bytes have neither version nor checksum: the file that they are in has both.
//!
//! Sessions and flag 2 came later. A checkpoint without them is byte for byte what it was before;
//! a release that doesn't know them refuses one that has them, by name of the item or the flags.
//!
//! # What is held back
//!
//! While a checkpoint is under way memory grows by a copy of 512 bytes of each page that was
//! written to ahead of the walk, about 7 bytes per key, by the records that were overwritten or
//! removed there, and by sessions that changed before they were written, which come first. At most,
//! if all of a partition is rewritten before the walk comes to it, it is the partition's own size
//! as of the beginning.

mod loader;

pub use self::loader::{LoadError, MapLoader, SessionFault};

use super::arena::Arena;
use super::maps::Maps;
use super::partition::PartitionMap;
use super::record::{MapId, Record};
use super::sessions::Saved;
use super::table::Visit;
use crate::base::cast::{u64_from, usize_from, usize_from_u32};
use crate::base::ids::Index;

/// A map's name.
const ITEM_MAP: u8 = 1;
/// An entry.
const ITEM_ENTRY: u8 = 2;
/// The end.
const ITEM_END: u8 = 3;
/// A session.
pub(super) const ITEM_SESSION: u8 = 4;
/// The entry has an age.
const FLAG_AGE: u64 = 1;
/// The entry has a time to live.
const FLAG_TTL: u64 = 2;
/// Coming to a page costs as much as so many records.
const PAGE_COST_RECORDS: usize = 8;

/// What one slice may take: it ends when either is reached.
#[derive(Clone, Copy, Debug)]
pub struct SliceBudget {
    /// Records and sessions that it looks at.
    pub record_count: usize,
    /// Bytes that it appends or gives back; the last entry may exceed them.
    pub size_bytes: usize,
}

/// Whether a checkpoint is at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is another slice.
    More,
    /// This was the last slice; the checkpoint is not under way any more.
    Done,
}

/// A checkpoint that is under way.
#[derive(Debug)]
pub(super) struct Checkpoint {
    /// The state as of this index.
    index: Index,
    is_void: bool,
    /// The number of each life's map item plus one; 0, or none at all: it has none yet.
    numbers: Vec<u32>,
    map_count: u32,
    entry_count: u64,
}

impl Checkpoint {
    /// Commands after `index` are undone.
    pub(super) fn on_undo(&mut self, index: Index) {
        self.is_void |= index < self.index;
    }

    /// Appends the record's entry, if it is part of the state, and before it its map, if it is the
    /// first of it.
    fn write(&mut self, maps: &Maps, record: &Record<'_>, out: &mut Vec<u8>) {
        let life = maps.life(record.map);
        if record.removed || !life.is_bound_as_of(self.index) {
            return;
        }
        let number = self.number(record.map, life.name(), out);
        let age_ms = record.updated_ms - record.created_ms;
        let flags =
            if age_ms == 0 { 0 } else { FLAG_AGE } | if record.ttl_ms == 0 { 0 } else { FLAG_TTL };
        out.push(ITEM_ENTRY);
        for field in [u64::from(number), flags, record.version.0, record.updated_ms] {
            push_varint(out, field);
        }
        if age_ms != 0 {
            push_varint(out, age_ms);
        }
        if record.ttl_ms != 0 {
            push_varint(out, record.ttl_ms);
        }
        push_varint(out, u64_from(record.key().len()));
        push_varint(out, u64_from(record.value().len()));
        out.extend_from_slice(record.body());
        self.entry_count += 1;
    }

    /// The number of a life's map item, which is appended if there is none yet.
    fn number(&mut self, map: MapId, name: &str, out: &mut Vec<u8>) -> u32 {
        let place = usize_from_u32(map.0);
        if self.numbers.len() <= place {
            self.numbers.resize(place + 1, 0);
        }
        if self.numbers[place] == 0 {
            out.push(ITEM_MAP);
            push_varint(out, u64_from(name.len()));
            out.extend_from_slice(name.as_bytes());
            self.map_count += 1;
            self.numbers[place] = self.map_count;
        }
        self.numbers[place] - 1
    }

    fn write_end(&self, out: &mut Vec<u8>) {
        out.push(ITEM_END);
        push_varint(out, self.entry_count);
    }
}

impl PartitionMap {
    /// Begins a checkpoint of the state as of [`PartitionMap::applied`]. Releases what is left of
    /// one that was aborted, if sweeping hasn't done so by now
    /// ([`PartitionMap::has_released_checkpoint`]): all of it at once.
    ///
    /// # Panics
    /// If one is under way.
    pub fn begin_checkpoint(&mut self, arena: &mut Arena) {
        assert!(self.checkpoint.is_none(), "one checkpoint at a time");
        while self.has_released_checkpoint() {
            self.release_step(arena);
        }
        self.table.begin_walk();
        self.maps.keep_lives(self.applied);
        self.sessions.begin_saving(self.applied);
        self.checkpoint = Some(Box::new(Checkpoint {
            index: self.applied,
            is_void: false,
            numbers: Vec::new(),
            map_count: 0,
            entry_count: 0,
        }));
    }

    /// Appends the next slice to `out`.
    ///
    /// # Panics
    /// If no checkpoint is under way, or if it is void.
    pub fn checkpoint_slice(
        &mut self,
        arena: &mut Arena,
        budget: SliceBudget,
        out: &mut Vec<u8>,
    ) -> Progress {
        let checkpoint = self.checkpoint.as_mut().expect("a checkpoint is under way");
        assert!(!checkpoint.is_void, "a void checkpoint is aborted");
        let before = out.len();
        // Giving a large record back costs about as much as appending it.
        let (mut visited_count, mut freed_size_bytes) = (0, 0);
        while visited_count < budget.record_count.max(1)
            && out.len() - before + freed_size_bytes < budget.size_bytes.max(1)
        {
            let size_bytes_left = budget.size_bytes.saturating_sub(out.len() - before);
            if self.sessions.save(size_bytes_left, out) == Saved::Some {
                visited_count += 1;
                continue;
            }
            let Arena { records, tables } = arena;
            match self.table.step_walk(tables, |at| records.touch(at)) {
                Visit::Page => visited_count += PAGE_COST_RECORDS,
                Visit::Record { record: at, is_kept } => {
                    visited_count += 1;
                    checkpoint.write(&self.maps, &records.record(at), out);
                    if is_kept {
                        let size_bytes = records.size_bytes(at);
                        self.table.count_freed(size_bytes);
                        records.free(at);
                        freed_size_bytes += usize_from(size_bytes);
                    }
                }
                Visit::End => {
                    checkpoint.write_end(out);
                    self.checkpoint = None;
                    self.maps.keep_no_lives();
                    return Progress::Done;
                }
            }
        }
        Progress::More
    }

    /// Ends a checkpoint before it is done. What was kept for it is released by
    /// [`PartitionMap::sweep`], little by little.
    ///
    /// # Panics
    /// If none is under way.
    pub fn abort_checkpoint(&mut self, arena: &mut Arena) {
        assert!(self.checkpoint.is_some(), "a checkpoint is under way");
        self.checkpoint = None;
        self.table.release_walk();
        self.maps.keep_no_lives();
        self.sessions.stop_saving();
        // Often this is all that there is to release.
        self.release_step(arena);
    }

    /// The index of the checkpoint that is under way.
    #[must_use]
    pub fn checkpoint_index(&self) -> Option<Index> {
        self.checkpoint.as_ref().map(|checkpoint| checkpoint.index)
    }

    /// Whether commands of the checkpoint that is under way were undone: it must be aborted.
    #[must_use]
    pub fn checkpoint_is_void(&self) -> bool {
        self.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.is_void)
    }

    /// Bytes that are kept for a checkpoint: copies of pages, records that nobody else needs, and
    /// sessions that were written before their turn.
    #[must_use]
    pub fn checkpoint_held_size_bytes(&self) -> u64 {
        self.table.walk_size_bytes() + self.sessions.saving_size_bytes()
    }

    /// Whether something is left of a checkpoint that has ended, for [`PartitionMap::sweep`] to
    /// release.
    #[must_use]
    pub fn has_released_checkpoint(&self) -> bool {
        self.checkpoint.is_none() && (self.table.is_walked() || self.maps.has_gone())
    }

    /// Releases a little of what is left of a checkpoint that has ended; how much, in records.
    pub(super) fn release_step(&mut self, arena: &mut Arena) -> usize {
        if !self.table.is_walked() {
            return self.maps.drop_gone(PAGE_COST_RECORDS);
        }
        match self.table.step_walk(&mut arena.tables, |_| {}) {
            Visit::Record { record, is_kept: true } => {
                self.table.count_freed(arena.records.size_bytes(record));
                arena.records.free(record);
                1
            }
            Visit::Record { is_kept: false, .. } => 1,
            Visit::Page | Visit::End => PAGE_COST_RECORDS,
        }
    }
}

pub(super) fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests;
