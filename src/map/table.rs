//! A partition's table: from a key's hash to its record.
//!
//! The table is a sequence of pages, each for a contiguous range of the hash; the directory leads
//! to them. The low bits of the hash give a tag and the first of a key's two candidate lines; the
//! tag alone gives the distance to the second one, so that an entry can be moved to its other line
//! without looking at its key. A key goes to the emptier line; if both are full, an entry of theirs
//! makes room by moving. So a page takes 96 keys, but for bad luck, before it splits in two halves,
//! which costs one look at each of its records and nothing else in the table. Equal hashes can't be
//! told apart by splitting; beyond a depth that no honest hash reaches, the rest goes into a stash.
//!
//! The table does not read records. Where it must (to compare keys, to split) the caller does.
//!
//! A checkpoint walks over the table as it was ([`walk`]) while it is written to.

use std::collections::BTreeMap;

use crate::base::cast::u32_from;

pub(super) use self::walk::Visit;
use self::walk::Walk;
use super::arena::RecordRef;
use super::directory::{DEPTH_MAX, Directory};
use super::hasher::KeyHash;
use super::page_pool::{CELLS_PER_LINE, LINES_PER_PAGE, Line, PageId, PagePool};

/// What a table must ask about records.
pub(super) trait Keys {
    /// The hash of the record's key.
    fn hash(&self, record: RecordRef) -> KeyHash;
    /// Begins to load the record.
    fn touch(&self, record: RecordRef);
}

/// Where an entry is, until the table changes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// On a page.
    Cell {
        /// The page.
        page: PageId,
        /// The line on the page.
        line: usize,
        /// The cell in the line.
        cell: usize,
    },
    /// In the stash.
    Stash {
        /// The page that it did not fit.
        page: PageId,
        /// Its place in that page's part of the stash.
        position: usize,
    },
}

/// A partition's table.
#[derive(Debug)]
pub(super) struct Table {
    directory: Directory,
    /// Entries of pages that are full and can't be split. Empty but for broken secrets.
    stash: BTreeMap<PageId, Vec<RecordRef>>,
    /// A checkpoint's walk over the table as it was.
    walk: Option<Walk>,
}

/// What a hash says about a key's place on its page.
#[derive(Clone, Copy)]
struct Spot {
    tag: u8,
    first: usize,
}

impl Spot {
    #[inline]
    fn of(hash: KeyHash) -> Self {
        let [low, next, ..] = hash.0.to_le_bytes();
        Self { tag: next.max(1), first: usize::from(low) % LINES_PER_PAGE }
    }

    #[inline]
    fn second(self) -> usize {
        other_line(self.first, self.tag)
    }
}

/// The other candidate line of an entry with this tag. Never the same line, and its own inverse.
#[inline]
fn other_line(line: usize, tag: u8) -> usize {
    line ^ (usize::from(tag) % (LINES_PER_PAGE - 1) + 1)
}

impl Table {
    /// An empty table of one page.
    pub(super) fn new(pool: &mut PagePool) -> Self {
        let directory = Directory::new(pool.allocate(0));
        Self { directory, stash: BTreeMap::new(), walk: None }
    }

    /// Begins to load the lines where the key may be.
    #[inline]
    pub(super) fn touch_lines(&self, pool: &PagePool, hash: KeyHash) {
        let page = self.directory.page(hash.0);
        let spot = Spot::of(hash);
        let first = pool.line(page, spot.first).tag(0);
        let second = pool.line(page, spot.second()).tag(0);
        std::hint::black_box(first ^ second);
    }

    /// The first record that may be the key's.
    #[inline]
    pub(super) fn candidate(&self, pool: &PagePool, hash: KeyHash) -> Option<RecordRef> {
        let page = self.directory.page(hash.0);
        let spot = Spot::of(hash);
        [spot.first, spot.second()].into_iter().find_map(|line| {
            let line = pool.line(page, line);
            line.cells(spot.tag).next().and_then(|cell| line.record(cell))
        })
    }

    /// The entry with this hash that satisfies `is_match`, among those with an equal tag.
    #[inline]
    pub(super) fn find(
        &self,
        pool: &PagePool,
        hash: KeyHash,
        mut is_match: impl FnMut(RecordRef) -> bool,
    ) -> Option<(Place, RecordRef)> {
        let page = self.directory.page(hash.0);
        let spot = Spot::of(hash);
        for line in [spot.first, spot.second()] {
            let cells = pool.line(page, line);
            for cell in cells.cells(spot.tag) {
                let record = cells.record(cell).expect("a cell with a tag has a record");
                if is_match(record) {
                    return Some((Place::Cell { page, line, cell }, record));
                }
            }
        }
        if pool.line(page, spot.first).is_stashed() {
            return self.find_stashed(page, is_match);
        }
        None
    }

    #[cold]
    fn find_stashed(
        &self,
        page: PageId,
        mut is_match: impl FnMut(RecordRef) -> bool,
    ) -> Option<(Place, RecordRef)> {
        let records = self.stash.get(&page)?;
        let position = records.iter().position(|record| is_match(*record))?;
        Some((Place::Stash { page, position }, records[position]))
    }

    /// Replaces the record of an entry with this hash by another one of the same key.
    #[inline]
    pub(super) fn replace(
        &mut self,
        pool: &mut PagePool,
        hash: KeyHash,
        place: Place,
        record: RecordRef,
    ) {
        self.preserve(pool, hash);
        match place {
            Place::Cell { page, line, cell } => pool.line_mut(page, line).replace(cell, record),
            Place::Stash { page, position } => {
                self.stash.get_mut(&page).expect("the page is stashed")[position] = record;
            }
        }
    }

    /// Removes an entry with this hash.
    pub(super) fn remove(&mut self, pool: &mut PagePool, hash: KeyHash, place: Place) {
        self.preserve(pool, hash);
        match place {
            Place::Cell { page, line, cell } => {
                let line = pool.line_mut(page, line);
                line.clear(cell);
                if line.cells(0).count() == CELLS_PER_LINE_U32 {
                    self.join_if_empty(pool, hash.0);
                }
            }
            Place::Stash { page, position } => {
                let records = self.stash.get_mut(&page).expect("the page is stashed");
                records.swap_remove(position);
                if records.is_empty() {
                    self.stash.remove(&page);
                    pool.set_stashed(page, false);
                    self.join_if_empty(pool, hash.0);
                }
            }
        }
    }

    /// Whether an entry with this hash finds room as it comes, without a split.
    pub(super) fn has_room(&self, pool: &PagePool, hash: KeyHash) -> bool {
        let page = self.directory.page(hash.0);
        let spot = Spot::of(hash);
        [spot.first, spot.second()]
            .into_iter()
            .any(|line| pool.line(page, line).cells(0).count() > 0)
    }

    /// Adds an entry for a key that has none.
    #[inline]
    pub(super) fn insert(
        &mut self,
        pool: &mut PagePool,
        hash: KeyHash,
        record: RecordRef,
        keys: &impl Keys,
    ) {
        self.preserve(pool, hash);
        loop {
            let page = self.directory.page(hash.0);
            if place(pool, page, Spot::of(hash), record) {
                return;
            }
            let depth = pool.line(page, 0).depth();
            if depth == DEPTH_MAX {
                pool.set_stashed(page, true);
                self.stash.entry(page).or_default().push(record);
                return;
            }
            self.split(pool, hash, page, depth, keys);
        }
    }

    /// Gives the upper half of a page's range to a new page. Entries keep their lines.
    #[cold]
    fn split(
        &mut self,
        pool: &mut PagePool,
        hash: KeyHash,
        page: PageId,
        depth: u32,
        keys: &impl Keys,
    ) {
        let upper = pool.allocate(depth + 1);
        pool.set_depth(page, depth + 1);
        for record in pool.page(page).iter().flat_map(records_of) {
            keys.touch(record);
        }
        for number in 0..LINES_PER_PAGE {
            let mut kept = *pool.line(page, number);
            let mut moved = *pool.line(upper, number);
            let mut moved_count = 0;
            for cell in 0..CELLS_PER_LINE {
                let Some(record) = kept.record(cell) else { continue };
                if (keys.hash(record).0 << depth) >> 63 == 1 {
                    moved.set(moved_count, kept.tag(cell), record);
                    kept.clear(cell);
                    moved_count += 1;
                }
            }
            *pool.line_mut(page, number) = kept;
            *pool.line_mut(upper, number) = moved;
        }
        pool.set_copy(upper, pool.copy_of(page, 0));
        self.directory.split(hash.0, depth, upper);
    }

    /// Passes all records of `hash`'s page to `visit`. Returns the last hash of the page's range.
    pub(super) fn visit_page(
        &self,
        pool: &PagePool,
        hash: KeyHash,
        mut visit: impl FnMut(RecordRef),
    ) -> KeyHash {
        let page = self.directory.page(hash.0);
        pool.page(page).iter().flat_map(records_of).for_each(&mut visit);
        if let Some(stashed) = self.stash.get(&page) {
            stashed.iter().copied().for_each(&mut visit);
        }
        KeyHash(hash.0 | (u64::MAX >> pool.line(page, 0).depth()))
    }

    /// Removes the entries of `hash`'s page that `keep` refuses. Returns the last hash of the
    /// page's range.
    pub(super) fn retain_page(
        &mut self,
        pool: &mut PagePool,
        hash: KeyHash,
        mut keep: impl FnMut(RecordRef) -> bool,
    ) -> KeyHash {
        let page = self.directory.page(hash.0);
        for line in 0..LINES_PER_PAGE {
            for cell in 0..CELLS_PER_LINE {
                let record = pool.line(page, line).record(cell);
                if record.is_some_and(|record| !keep(record)) {
                    self.preserve(pool, hash);
                    pool.line_mut(page, line).clear(cell);
                }
            }
        }
        if self.stash.contains_key(&page) {
            self.preserve(pool, hash);
        }
        if let Some(stashed) = self.stash.get_mut(&page) {
            stashed.retain(|record| keep(*record));
            if stashed.is_empty() {
                self.stash.remove(&page);
                pool.set_stashed(page, false);
            }
        }
        let last = KeyHash(hash.0 | (u64::MAX >> pool.line(page, 0).depth()));
        self.join_if_empty(pool, hash.0);
        last
    }

    /// Joins `hash`'s page with that of the other half of their range as long as one is empty.
    fn join_if_empty(&mut self, pool: &mut PagePool, hash: u64) {
        loop {
            let page = self.directory.page(hash);
            let depth = pool.line(page, 0).depth();
            let Some(buddy) = self.directory.buddy(hash, depth) else { return };
            if self.is_ahead_of_walk(hash | (u64::MAX >> (depth - 1))) {
                return;
            }
            // A page with a stash stays as deep as it is: it must never be split.
            let is_stashed = [page, buddy].map(|page| pool.line(page, 0).is_stashed());
            if pool.line(buddy, 0).depth() != depth || is_stashed.contains(&true) {
                return;
            }
            let is_empty = |page| pool.page(page).iter().all(|line| records_of(line).count() == 0);
            let (kept, dropped) = match (is_empty(page), is_empty(buddy)) {
                (true, _) => (buddy, page),
                (false, true) => (page, buddy),
                (false, false) => return,
            };
            self.directory.join(hash, depth, kept);
            pool.set_depth(kept, depth - 1);
            pool.free(dropped);
        }
    }

    /// Gives all pages back, with their entries.
    pub(super) fn dispose(self, pool: &mut PagePool) {
        assert!(self.walk.is_none(), "no checkpoint is under way");
        let mut first = Some(0);
        while let Some(hash) = first {
            let page = self.directory.page(hash);
            first = (hash | (u64::MAX >> pool.line(page, 0).depth())).checked_add(1);
            pool.free(page);
        }
    }

    /// Bytes of the directory.
    pub(super) fn size_bytes(&self) -> u64 {
        self.directory.size_bytes()
    }
}

/// The records of a line.
fn records_of(line: &Line) -> impl Iterator<Item = RecordRef> + '_ {
    (0..CELLS_PER_LINE).filter_map(|cell| line.record(cell))
}

/// Puts a record on a page, if there is room or room can be made by moving one other entry.
#[inline]
fn place(pool: &mut PagePool, page: PageId, spot: Spot, record: RecordRef) -> bool {
    let (first, second) = (spot.first, spot.second());
    let first_free = pool.line(page, first).cells(0);
    let second_free = pool.line(page, second).cells(0);
    let (line, mut free) = if first_free.count() >= second_free.count() {
        (first, first_free)
    } else {
        (second, second_free)
    };
    let free = free.next().map(|cell| (line, cell));
    let Some((line, cell)) = free.or_else(|| make_room(pool, page, [first, second])) else {
        return false;
    };
    pool.line_mut(page, line).set(cell, spot.tag, record);
    true
}

/// Moves an entry of two full lines to its other line; the cell that this freed.
#[cold]
fn make_room(pool: &mut PagePool, page: PageId, full: [usize; 2]) -> Option<(usize, usize)> {
    for line in full {
        for cell in 0..CELLS_PER_LINE {
            let tag = pool.line(page, line).tag(cell);
            let other = other_line(line, tag);
            let Some(free) = pool.line(page, other).cells(0).next() else { continue };
            let record = pool.line(page, line).record(cell).expect("the line is full");
            pool.line_mut(page, other).set(free, tag, record);
            pool.line_mut(page, line).clear(cell);
            return Some((line, cell));
        }
    }
    None
}

const CELLS_PER_LINE_U32: u32 = u32_from(CELLS_PER_LINE);
// The documentation above says so.
const _: () = assert!(LINES_PER_PAGE * CELLS_PER_LINE == 96);

mod walk;

#[cfg(test)]
mod tests;
