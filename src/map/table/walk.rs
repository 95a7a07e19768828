//! A walk over a table as it was when the walk began, in the order of the hash, while the table
//! goes on being written to.
//!
//! The first write to a page that the walk has yet to visit makes a copy of it: 512 bytes, in the
//! pool of pages. The page's lines say that it has a copy, and which one, so that the next write
//! sees it on a line that it needs anyway; if the page is split, both halves name the same copy.
//! Pages that are ahead are never joined. So each page's copy covers a range of the hash that the
//! walk comes to as a whole, whatever has become of the page.
//!
//! A record of a copy must outlive the walk's visit. Who wants to free one asks [`Table::keep`],
//! which marks it in the copy: then the walk hands it over with its visit, to be freed by whoever
//! walks. What a copy doesn't have is freed as ever.
//!
//! The walk visits copies only: a page without one gets it first. So a page can be visited record
//! by record, with writes in between.

use std::collections::BTreeMap;

use super::{CELLS_PER_LINE, LINES_PER_PAGE, Spot, Table};
use crate::base::cast::u64_from;
use crate::map::arena::RecordRef;
use crate::map::hasher::KeyHash;
use crate::map::page_pool::{PAGE_SIZE_BYTES, PageId, PagePool};

/// A walk that is under way.
#[derive(Debug)]
pub(super) struct Walk {
    /// Where the range of the present copy begins: what comes before was visited.
    next: u64,
    /// The copy that is being visited, and the line from which on it has cells left.
    present: Option<(PageId, usize)>,
    /// How many copies there are.
    copy_count: usize,
    /// Bytes of records that are kept for the walk alone.
    kept_size_bytes: u64,
    /// What was in the stash for the pages that copies were made of.
    stashes: BTreeMap<PageId, Vec<Stashed>>,
    /// The walk only looks for what is kept.
    is_releasing: bool,
}

#[derive(Clone, Copy, Debug)]
struct Stashed {
    record: RecordRef,
    is_kept: bool,
}

/// What a step of a walk came upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::map) enum Visit {
    /// A page; its records follow.
    Page,
    /// A record.
    Record {
        /// The record.
        record: RecordRef,
        /// It is kept for the walk alone, which is to free it now.
        is_kept: bool,
    },
    /// The end: the walk is over.
    End,
}

impl Table {
    /// Begins a walk over the table as it is.
    ///
    /// # Panics
    /// If another one is under way.
    pub(in crate::map) fn begin_walk(&mut self) {
        assert!(self.walk.is_none(), "one walk at a time");
        self.walk = Some(Walk {
            next: 0,
            present: None,
            copy_count: 0,
            kept_size_bytes: 0,
            stashes: BTreeMap::new(),
            is_releasing: false,
        });
    }

    /// From now on the walk visits only what is kept for it, and keeps nothing more.
    pub(in crate::map) fn release_walk(&mut self) {
        if let Some(walk) = &mut self.walk {
            walk.is_releasing = true;
        }
    }

    /// Whether a walk is under way, be it only to release what was kept.
    #[inline]
    pub(in crate::map) const fn is_walked(&self) -> bool {
        self.walk.is_some()
    }

    /// Bytes of the walk's copies, and of the records that are kept for it alone.
    pub(in crate::map) fn walk_size_bytes(&self) -> u64 {
        self.walk
            .as_ref()
            .map_or(0, |walk| walk.kept_size_bytes + u64_from(walk.copy_count * PAGE_SIZE_BYTES))
    }

    /// Whether a walk has yet to visit what has this hash.
    #[inline]
    pub(in crate::map) fn is_ahead_of_walk(&self, hash: u64) -> bool {
        self.walk.as_ref().is_some_and(|walk| hash >= walk.next)
    }

    /// Makes a copy of `hash`'s page before it is written to, if a walk wants it.
    #[inline]
    pub(super) fn preserve(&mut self, pool: &mut PagePool, hash: KeyHash) {
        if self.is_ahead_of_walk(hash.0) {
            self.copy_page(pool, hash);
        }
    }

    #[inline(never)]
    fn copy_page(&mut self, pool: &mut PagePool, hash: KeyHash) {
        let page = self.directory.page(hash.0);
        let line = pool.line(page, Spot::of(hash).first);
        let walk = self.walk.as_mut().expect("a walk is under way");
        if line.is_copied() || walk.is_releasing {
            return;
        }
        let is_stashed = line.is_stashed();
        let copy = pool.duplicate(page);
        pool.set_copy(page, Some(copy));
        walk.copy_count += 1;
        if is_stashed {
            let stash = &self.stash[&page];
            let stash = stash.iter().map(|&record| Stashed { record, is_kept: false });
            walk.stashes.insert(copy, stash.collect());
        }
    }

    /// A record of this hash and size is in the table no more and nobody else needs it. Whether the
    /// walk does: then it must not be freed until the walk hands it over.
    #[inline]
    pub(in crate::map) fn keep(
        &mut self,
        pool: &mut PagePool,
        hash: KeyHash,
        record: RecordRef,
        size_bytes: impl FnOnce() -> u64,
    ) -> bool {
        let keeps = self.is_ahead_of_walk(hash.0) && self.keep_ahead(pool, hash, record);
        if let Some(walk) = self.walk.as_mut().filter(|_| keeps) {
            walk.kept_size_bytes += size_bytes();
        }
        keeps
    }

    #[inline(never)]
    fn keep_ahead(&mut self, pool: &mut PagePool, hash: KeyHash, record: RecordRef) -> bool {
        let walk = self.walk.as_mut().expect("a walk is under way");
        let spot = Spot::of(hash);
        let page = self.directory.page(hash.0);
        let Some(copy) = pool.copy_of(page, spot.first).filter(|_| !walk.is_releasing) else {
            return false;
        };
        for line in [spot.first, spot.second()] {
            let line = pool.line_mut(copy, line);
            let cell = line.cells(spot.tag).find(|cell| line.record(*cell) == Some(record));
            if let Some(cell) = cell {
                assert!(!line.is_marked(cell), "a record was freed twice");
                line.mark(cell);
                return true;
            }
        }
        let mut stashed = walk.stashes.get_mut(&copy).into_iter().flatten();
        let found = stashed.find(|stashed| stashed.record == record);
        found.is_some_and(|found| {
            assert!(!found.is_kept, "a record was freed twice");
            found.is_kept = true;
            true
        })
    }

    /// A record of this size, which was kept for the walk, is freed.
    pub(in crate::map) fn count_freed(&mut self, size_bytes: u64) {
        if let Some(walk) = &mut self.walk {
            walk.kept_size_bytes -= size_bytes;
        }
    }

    /// The walk's next step. Records of a page that it comes to are passed to `touch`.
    ///
    /// # Panics
    /// If no walk is under way.
    pub(in crate::map) fn step_walk(
        &mut self,
        pool: &mut PagePool,
        touch: impl FnMut(RecordRef),
    ) -> Visit {
        let walk = self.walk.as_mut().expect("a walk is under way");
        let Some((copy, from)) = walk.present else { return self.enter_page(pool, touch) };
        for number in from..LINES_PER_PAGE {
            let line = pool.line_mut(copy, number);
            for cell in 0..CELLS_PER_LINE {
                if let Some(record) = line.record(cell) {
                    let is_kept = line.is_marked(cell);
                    line.clear(cell);
                    walk.present = Some((copy, number));
                    return Visit::Record { record, is_kept };
                }
            }
        }
        walk.present = Some((copy, LINES_PER_PAGE));
        if let Some(Stashed { record, is_kept }) = walk.stashes.get_mut(&copy).and_then(Vec::pop) {
            return Visit::Record { record, is_kept };
        }
        walk.stashes.remove(&copy);
        walk.copy_count -= 1;
        let last = walk.next | (u64::MAX >> pool.line(copy, 0).depth());
        self.leave_pages(pool, last);
        pool.free(copy);
        match &self.walk {
            Some(_) => self.enter_page(pool, touch),
            None => Visit::End,
        }
    }

    /// Comes to the page after what was visited.
    fn enter_page(&mut self, pool: &mut PagePool, touch: impl FnMut(RecordRef)) -> Visit {
        let walk = self.walk.as_ref().expect("a walk is under way");
        let (next, is_releasing) = (walk.next, walk.is_releasing);
        if is_releasing && walk.copy_count == 0 {
            self.walk = None;
            self.join_if_empty(pool, next.saturating_sub(1));
            return Visit::End;
        }
        self.copy_page(pool, KeyHash(next));
        let page = self.directory.page(next);
        let copy = pool.copy_of(page, 0);
        match copy {
            Some(copy) => {
                if !is_releasing {
                    pool.page(copy).iter().flat_map(super::records_of).for_each(touch);
                }
                self.walk.as_mut().expect("it was there").present = Some((copy, 0));
            }
            None => self.leave_pages(pool, next | (u64::MAX >> pool.line(page, 0).depth())),
        }
        if self.walk.is_some() { Visit::Page } else { Visit::End }
    }

    /// Everything up to `last` was visited: pages there have no copy any more, and those that were
    /// emptied in the meantime are joined.
    fn leave_pages(&mut self, pool: &mut PagePool, last: u64) {
        let walk = self.walk.as_mut().expect("a walk is under way");
        let first = walk.next;
        walk.present = None;
        match last.checked_add(1) {
            Some(next) => walk.next = next,
            None => {
                assert_eq!(walk.copy_count, 0, "each copy was visited");
                self.walk = None;
            }
        }
        let mut at = Some(first);
        while let Some(hash) = at.filter(|hash| *hash <= last) {
            let page = self.directory.page(hash);
            if pool.line(page, 0).is_copied() {
                pool.set_copy(page, None);
            }
            at = (hash | (u64::MAX >> pool.line(page, 0).depth())).checked_add(1);
        }
        let mut at = Some(first);
        while let Some(hash) = at.filter(|hash| *hash <= last) {
            self.join_if_empty(pool, hash);
            let page = self.directory.page(hash);
            at = (hash | (u64::MAX >> pool.line(page, 0).depth())).checked_add(1);
        }
    }
}
