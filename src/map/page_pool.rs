//! The pages of all tables of a shard, and the lines that they consist of.
//!
//! A line is one cache line: twelve cells of a one-byte tag and a four-byte reference, and four
//! bytes for the page's own notes. A page has eight lines. They come in chunks of 64 KiB, so that
//! the pool grows without ever moving what it has.

use crate::base::cast::{low_u32, u32_from, u64_from, usize_from_u32};

use super::arena::RecordRef;

/// Cells of a line.
pub(super) const CELLS_PER_LINE: usize = 12;
/// Lines of a page.
pub(super) const LINES_PER_PAGE: usize = 8;

const PAGES_PER_CHUNK: usize = 128;
const CHUNK_SIZE_BYTES: usize = PAGES_PER_CHUNK * PAGE_SIZE_BYTES;
/// Bytes of a page.
pub(super) const PAGE_SIZE_BYTES: usize = LINES_PER_PAGE * LINE_SIZE_BYTES;
const LINE_SIZE_BYTES: usize = 64;
const _: () = assert!(size_of::<Line>() == LINE_SIZE_BYTES);

/// A page's number in its shard's pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PageId(pub(super) u32);

/// One cache line of a table.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Line {
    /// References to records; 0 in free cells.
    refs: [u32; CELLS_PER_LINE],
    /// The tags of the cells (0 in free ones), then the notes.
    tags: [u8; 16],
}

/// Where a line keeps how many bits of the hash all keys of its page share.
const NOTE_DEPTH: usize = 12;
/// Where a line keeps what else is to be known of its page.
const NOTE_FLAGS: usize = 13;
/// The page has more entries in the table's stash.
const FLAG_STASHED: u8 = 1;
/// A checkpoint has a copy of the page.
const FLAG_COPIED: u8 = 2;
/// Where a page's lines keep the number of its copy, half of it each in turn; and where a copy's
/// lines mark cells, a bit each.
const NOTE_COPY: std::ops::Range<usize> = 14..16;

impl Line {
    const EMPTY: Self = Self { refs: [0; CELLS_PER_LINE], tags: [0; 16] };

    /// The cells with this tag; tag 0: the free ones.
    #[inline]
    pub(super) fn cells(&self, tag: u8) -> Cells {
        const LOW: u64 = 0x7F7F_7F7F_7F7F_7F7F;
        /// A bit for each byte that is zero: exact, unlike the shorter well-known trick.
        const fn zero_bytes(word: u64) -> u64 {
            !(((word & LOW) + LOW) | word | LOW)
        }
        let tags = u128::from_le_bytes(self.tags);
        let pattern = u64::from(tag) * 0x0101_0101_0101_0101;
        let first = zero_bytes(crate::base::cast::low_u64(tags) ^ pattern);
        let second = zero_bytes(
            u64::from(low_u32(crate::base::cast::low_u64(tags >> 64))) ^ (pattern >> 32),
        );
        // The upper half of `second` compared four bytes that aren't there.
        Cells { first, second: second & 0xFFFF_FFFF }
    }

    /// The reference in a cell.
    #[inline]
    pub(super) const fn record(&self, cell: usize) -> Option<RecordRef> {
        RecordRef::from_number(self.refs[cell])
    }

    /// The tag of a cell.
    #[inline]
    pub(super) const fn tag(&self, cell: usize) -> u8 {
        self.tags[cell]
    }

    /// Fills a cell.
    #[inline]
    pub(super) const fn set(&mut self, cell: usize, tag: u8, record: RecordRef) {
        debug_assert!(tag != 0 && cell < CELLS_PER_LINE, "tag 0 marks free cells");
        self.tags[cell] = tag;
        self.refs[cell] = record.number();
    }

    /// Replaces a cell's reference.
    #[inline]
    pub(super) const fn replace(&mut self, cell: usize, record: RecordRef) {
        debug_assert!(self.refs[cell] != 0, "the cell is in use");
        self.refs[cell] = record.number();
    }

    /// Empties a cell.
    #[inline]
    pub(super) const fn clear(&mut self, cell: usize) {
        debug_assert!(cell < CELLS_PER_LINE, "a line has twelve cells");
        self.tags[cell] = 0;
        self.refs[cell] = 0;
    }

    /// How many bits of the hash all keys of the page share.
    #[inline]
    pub(super) fn depth(&self) -> u32 {
        u32::from(self.tags[NOTE_DEPTH])
    }

    /// Whether the page has more entries in the table's stash.
    #[inline]
    pub(super) const fn is_stashed(&self) -> bool {
        self.tags[NOTE_FLAGS] & FLAG_STASHED != 0
    }

    /// Whether a checkpoint has a copy of the page.
    #[inline]
    pub(super) const fn is_copied(&self) -> bool {
        self.tags[NOTE_FLAGS] & FLAG_COPIED != 0
    }

    /// Whether a cell of a copy is marked.
    #[inline]
    pub(super) fn is_marked(&self, cell: usize) -> bool {
        self.copy_note() >> cell & 1 == 1
    }

    /// Marks a cell of a copy.
    #[inline]
    pub(super) fn mark(&mut self, cell: usize) {
        debug_assert!(cell < CELLS_PER_LINE, "a line has twelve cells");
        self.set_copy_note(self.copy_note() | 1 << cell);
    }

    #[inline]
    fn copy_note(&self) -> u16 {
        u16::from_le_bytes([self.tags[NOTE_COPY.start], self.tags[NOTE_COPY.end - 1]])
    }

    #[inline]
    fn set_copy_note(&mut self, note: u16) {
        self.tags[NOTE_COPY].copy_from_slice(&note.to_le_bytes());
    }

    #[inline]
    const fn set_flag(&mut self, flag: u8, is_set: bool) {
        if is_set {
            self.tags[NOTE_FLAGS] |= flag;
        } else {
            self.tags[NOTE_FLAGS] &= !flag;
        }
    }
}

/// Some of a line's cells, in order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cells {
    first: u64,
    second: u64,
}

impl Iterator for Cells {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.first != 0 {
            let cell = usize_from_u32(self.first.trailing_zeros() / 8);
            self.first &= self.first - 1;
            return Some(cell);
        }
        if self.second != 0 {
            let cell = 8 + usize_from_u32(self.second.trailing_zeros() / 8);
            self.second &= self.second - 1;
            return Some(cell);
        }
        None
    }
}

impl Cells {
    /// How many they are.
    #[inline]
    pub(super) const fn count(self) -> u32 {
        self.first.count_ones() + self.second.count_ones()
    }
}

/// Eight lines: the keys of one range of the hash.
type Page = [Line; LINES_PER_PAGE];

/// The pages of all tables of a shard.
#[derive(Debug, Default)]
pub(super) struct PagePool {
    chunks: Vec<Box<[Page; PAGES_PER_CHUNK]>>,
    page_count: u32,
    free: Vec<PageId>,
}

impl PagePool {
    /// Takes an empty page for keys that share `depth` bits of their hash.
    ///
    /// # Panics
    /// If there are 2³¹ pages.
    pub(super) fn allocate(&mut self, depth: u32) -> PageId {
        let page = self.free.pop().unwrap_or_else(|| {
            let page = PageId(self.page_count);
            assert!(page.0 < 1 << 31, "the pool has no page left");
            if usize_from_u32(page.0) == self.chunks.len() * PAGES_PER_CHUNK {
                let chunk = vec![[Line::EMPTY; LINES_PER_PAGE]; PAGES_PER_CHUNK];
                let chunk = chunk.into_boxed_slice();
                self.chunks.push(chunk.try_into().expect("the size is that of a chunk"));
            }
            self.page_count += 1;
            page
        });
        *self.page_mut(page) = [Line::EMPTY; LINES_PER_PAGE];
        self.set_depth(page, depth);
        page
    }

    /// Gives an empty page back.
    pub(super) fn free(&mut self, page: PageId) {
        self.free.push(page);
    }

    /// A line of a page; only the low bits of `line` count.
    #[inline]
    pub(super) fn line(&self, page: PageId, line: usize) -> &Line {
        &self.page(page)[line % LINES_PER_PAGE]
    }

    /// A line of a page; only the low bits of `line` count.
    #[inline]
    pub(super) fn line_mut(&mut self, page: PageId, line: usize) -> &mut Line {
        &mut self.page_mut(page)[line % LINES_PER_PAGE]
    }

    /// A page's lines.
    #[inline]
    pub(super) fn page(&self, page: PageId) -> &Page {
        let page = usize_from_u32(page.0);
        &self.chunks[page / PAGES_PER_CHUNK][page % PAGES_PER_CHUNK]
    }

    #[inline]
    fn page_mut(&mut self, page: PageId) -> &mut Page {
        let page = usize_from_u32(page.0);
        &mut self.chunks[page / PAGES_PER_CHUNK][page % PAGES_PER_CHUNK]
    }

    /// Notes in all lines of a page how many bits of the hash its keys share.
    pub(super) fn set_depth(&mut self, page: PageId, depth: u32) {
        let depth = depth.to_le_bytes()[0];
        for line in self.page_mut(page) {
            line.tags[NOTE_DEPTH] = depth;
        }
    }

    /// Notes in all lines of a page whether it has entries in the stash.
    pub(super) fn set_stashed(&mut self, page: PageId, is_stashed: bool) {
        for line in self.page_mut(page) {
            line.set_flag(FLAG_STASHED, is_stashed);
        }
    }

    /// A copy of a page, with nothing marked.
    pub(super) fn duplicate(&mut self, page: PageId) -> PageId {
        let depth = self.line(page, 0).depth();
        let copy = self.allocate(depth);
        *self.page_mut(copy) = *self.page(page);
        self.set_copy(copy, None);
        copy
    }

    /// Notes in all lines of a page which copy it has.
    pub(super) fn set_copy(&mut self, page: PageId, copy: Option<PageId>) {
        let [a, b, c, d] = copy.map_or(0, |copy| copy.0).to_le_bytes();
        let halves = [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])];
        for (line, half) in self.page_mut(page).iter_mut().zip(halves.into_iter().cycle()) {
            line.set_flag(FLAG_COPIED, copy.is_some());
            line.set_copy_note(half);
        }
    }

    /// The copy of a page. Looks at `line` and the one beside it.
    #[inline]
    pub(super) fn copy_of(&self, page: PageId, line: usize) -> Option<PageId> {
        let line = self.line(page, line & !1).is_copied().then_some(line & !1)?;
        let [low, high] = [line, line | 1].map(|line| self.line(page, line).copy_note());
        let ([a, b], [c, d]) = (low.to_le_bytes(), high.to_le_bytes());
        Some(PageId(u32::from_le_bytes([a, b, c, d])))
    }

    /// Bytes that have to be taken from the system if one more page is needed.
    pub(super) fn growth_size_bytes(&self) -> u64 {
        let is_full = usize_from_u32(self.page_count) == self.chunks.len() * PAGES_PER_CHUNK;
        if is_full && self.free.is_empty() { u64_from(CHUNK_SIZE_BYTES) } else { 0 }
    }

    /// Bytes of pages in use.
    pub(super) fn used_bytes(&self) -> u64 {
        let count = self.page_count - u32_from(self.free.len());
        u64::from(count) * u64_from(PAGE_SIZE_BYTES)
    }

    /// Bytes of all chunks.
    pub(super) fn reserved_bytes(&self) -> u64 {
        u64_from(self.chunks.len() * CHUNK_SIZE_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_found_by_tag_and_notes_are_not_taken_for_cells() {
        let mut line = Line::EMPTY;
        let record = RecordRef::from_number(9).unwrap();
        assert_eq!(line.cells(0).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
        for cell in [0, 3, 7, 8, 11] {
            line.set(cell, 5, record);
        }
        line.set(4, 4, record);
        line.tags[12..].copy_from_slice(&[5, 5, 0, 4]);
        assert_eq!(line.cells(5).collect::<Vec<_>>(), [0, 3, 7, 8, 11]);
        assert_eq!(line.cells(5).count(), 5);
        assert_eq!(line.cells(4).collect::<Vec<_>>(), [4]);
        assert_eq!(line.cells(0).collect::<Vec<_>>(), [1, 2, 5, 6, 9, 10]);
        assert_eq!(line.cells(1).count(), 0);
    }

    #[test]
    fn every_tag_is_matched_exactly() {
        let record = RecordRef::from_number(1).unwrap();
        for (a, b) in (1..=255).flat_map(|a| (1..=255).map(move |b| (a, b))) {
            let mut line = Line::EMPTY;
            line.set(2, a, record);
            line.set(3, b, record);
            line.set(10, b, record);
            let expected: &[usize] = if a == b { &[2, 3, 10] } else { &[2] };
            assert_eq!(line.cells(a).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn freed_pages_are_handed_out_again_empty() {
        let mut pool = PagePool::default();
        let page = pool.allocate(3);
        pool.line_mut(page, 1).set(0, 1, RecordRef::from_number(1).unwrap());
        pool.set_stashed(page, true);
        pool.set_copy(page, Some(PageId(7)));
        let used_bytes = pool.used_bytes();
        pool.free(page);
        assert_eq!(pool.used_bytes(), used_bytes - 512);
        assert_eq!(pool.allocate(4), page);
        assert_eq!(pool.line(page, 1).cells(0).count(), 12);
        assert_eq!((pool.line(page, 7).depth(), pool.line(page, 7).is_stashed()), (4, false));
        assert_eq!(pool.copy_of(page, 7), None);
    }

    #[test]
    fn copy_has_the_cells_of_its_page_and_marks_of_its_own() {
        let mut pool = PagePool::default();
        let page = pool.allocate(5);
        let record = RecordRef::from_number(3);
        pool.line_mut(page, 6).set(11, 9, record.unwrap());
        pool.set_stashed(page, true);
        let copy = pool.duplicate(page);
        let far = PageId(0x00AB_CDEF);
        pool.set_copy(page, Some(far));
        for line in 0..LINES_PER_PAGE {
            assert_eq!(pool.copy_of(page, line), Some(far));
            assert!(pool.line(page, line).is_copied() && pool.line(page, line).is_stashed());
            assert_eq!(pool.copy_of(copy, line), None);
        }
        let line = pool.line_mut(copy, 6);
        assert_eq!((line.record(11), line.tag(11), line.depth()), (record, 9, 5));
        line.mark(11);
        line.mark(0);
        assert!(line.is_marked(0) && !line.is_marked(10) && line.is_marked(11));
        assert_eq!(line.cells(9).collect::<Vec<_>>(), [11]);
    }
}
