//! A shard's memory for its partitions' entries and tables, without `unsafe`.
//!
//! Records lie on pages of 2 MiB. A page is cut into spans of 32 KiB; a span holds places of one
//! size, in steps of 4 bytes, and returns to the common stock when its last record is freed. So an
//! entry loses less than 4 bytes to its size class, and memory that one size has left serves
//! another. A record beyond [`SMALL_SIZE_BYTES_MAX`] is an allocation of its own. Either way four
//! bytes name it: a [`RecordRef`] counts 4-byte words on the pages, and numbers large records above
//! them.
//!
//! Inserting and freeing take constant time. Nothing is ever moved. Pages are kept once they were
//! needed; a new one is mapped, not touched, so its cost is spread over its first use.

use std::num::NonZeroU32;

use crate::base::cast::{u16_from, u32_from, u64_from, usize_from, usize_from_u32};
use crate::base::limits::MEMORY_SIZE_BYTES_SPARE;

use super::page_pool::PagePool;
use super::record::{NewRecord, Record};

/// The unit of memory.
pub const PAGE_SIZE_BYTES: usize = 2 << 20;
/// The longest record that shares a page with others.
pub const SMALL_SIZE_BYTES_MAX: usize = 2_048;
/// The bytes on pages of one arena at most; the shard refuses writes before it gets there.
pub const PAGES_SIZE_BYTES_MAX: usize = PAGE_COUNT_MAX * PAGE_SIZE_BYTES;

const WORD_SIZE_BYTES: usize = 4;
const SPAN_SIZE_BYTES: usize = 32 << 10;
pub(super) const SPANS_PER_PAGE: usize = PAGE_SIZE_BYTES / SPAN_SIZE_BYTES;
const WORDS_PER_PAGE: usize = PAGE_SIZE_BYTES / WORD_SIZE_BYTES;
pub(super) const WORDS_PER_SPAN: usize = SPAN_SIZE_BYTES / WORD_SIZE_BYTES;
pub(super) const CLASS_COUNT: usize = SMALL_SIZE_BYTES_MAX / WORD_SIZE_BYTES + 1;
/// Seven eighths of the references name words on pages, the rest large records.
const PAGE_COUNT_MAX: usize = 7 << 10;
const LARGE_REF_MIN: u32 = 7 << 29;
/// From here on the allocator gives an allocation pages of its own.
const MAPPED_SIZE_BYTES_MIN: usize = 128 << 10;
/// Spans in stock that puts leave to removals at the bound of memory.
const SPARE_SPAN_COUNT: usize = usize_from(MEMORY_SIZE_BYTES_SPARE) / SPAN_SIZE_BYTES;
/// What a page's list of spans takes.
const SPANS_SIZE_BYTES: usize = SPANS_PER_PAGE * size_of::<Span>();
/// Where a record is touched.
const TOUCHED: [usize; 3] = [0, 48, 96];
const LARGE_PER_CHUNK: usize = 1_024;
const LARGE_COUNT_MAX: usize = (1 << 29) - 1;

// References to words on pages end where those to large records begin.
const _: () = assert!(PAGE_COUNT_MAX * WORDS_PER_PAGE == 7 << 29);
// A page's free spans are one word of bits; a place in a span fits the links of free places.
const _: () = assert!(SPANS_PER_PAGE == u64::BITS as usize);
const _: () = assert!(WORDS_PER_SPAN < u16::MAX as usize);

/// Names a record for as long as it isn't freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordRef(NonZeroU32);

impl RecordRef {
    /// As a plain number, never 0.
    #[inline]
    pub(super) const fn number(self) -> u32 {
        self.0.get()
    }

    /// The inverse of [`RecordRef::number`].
    #[inline]
    pub(super) const fn from_number(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    #[inline]
    fn at(self) -> At {
        let number = self.0.get() - 1;
        if number >= LARGE_REF_MIN {
            let number = usize_from_u32(number - LARGE_REF_MIN);
            return At::Large {
                chunk: number / LARGE_PER_CHUNK,
                position: number % LARGE_PER_CHUNK,
            };
        }
        let word = usize_from_u32(number);
        At::Page { page: word / WORDS_PER_PAGE, word: word % WORDS_PER_PAGE }
    }
}

/// What a reference says.
enum At {
    Page { page: usize, word: usize },
    Large { chunk: usize, position: usize },
}

/// What a put would take of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Bytes that would have to be taken from the system.
    pub size_bytes: u64,
    /// Memory that was freed will do, without what is left to removals
    /// ([`crate::base::limits::MEMORY_SIZE_BYTES_SPARE`]).
    pub fits_freed: bool,
}

/// How much memory a shard's entries take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaUsage {
    /// Records, rounded up to their size classes.
    pub records_used_bytes: u64,
    /// The pages and allocations that they lie in.
    pub records_reserved_bytes: u64,
    /// Pages of tables that are in use.
    pub tables_used_bytes: u64,
    /// The memory that they lie in.
    pub tables_reserved_bytes: u64,
}

/// A shard's memory for records and pages of tables.
#[derive(Debug, Default)]
pub struct Arena {
    /// Where the records are. Apart from `tables`, so that a table can be changed while the
    /// records are read.
    pub(super) records: Records,
    /// Where the pages of all partitions' tables are.
    pub(super) tables: PagePool,
}

impl Arena {
    /// An arena that has reserved nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The memory in use and reserved, by kind.
    #[must_use]
    pub fn usage(&self) -> ArenaUsage {
        ArenaUsage {
            records_used_bytes: self.records.used_bytes,
            records_reserved_bytes: self.records.reserved_bytes(),
            tables_used_bytes: self.tables.used_bytes(),
            tables_reserved_bytes: self.tables.reserved_bytes(),
        }
    }

    /// Bytes that pages for records can still take.
    #[must_use]
    pub fn pages_size_bytes_left(&self) -> u64 {
        u64_from(PAGES_SIZE_BYTES_MAX - self.records.pages.len() * PAGE_SIZE_BYTES)
    }

    /// Bytes of records and tables in use.
    #[must_use]
    pub fn bytes_used(&self) -> u64 {
        let usage = self.usage();
        usage.records_used_bytes + usage.tables_used_bytes
    }

    /// Bytes taken from the system for records and tables.
    #[must_use]
    pub fn bytes_reserved(&self) -> u64 {
        let usage = self.usage();
        usage.records_reserved_bytes + usage.tables_reserved_bytes
    }
}

/// The records' part of an arena.
#[derive(Debug)]
pub(super) struct Records {
    pages: Vec<Page>,
    /// Pages with spans in stock; the last one is used first.
    stocked: Vec<u32>,
    /// Spans in stock.
    stock_count: usize,
    /// For each size in words, the first of the spans that have a free place.
    classes: Box<[Option<SpanRef>; CLASS_COUNT]>,
    /// Large records, in chunks so that their list never moves as a whole.
    large: Vec<Vec<Box<[u8]>>>,
    large_free: Vec<u32>,
    /// What the large ones take of the heap.
    large_bytes: u64,
    used_bytes: u64,
}

/// What an allocation takes of the heap, as the usual allocators have it: a word for its size and
/// rounded up to two words, or, from a certain size on, to pages of its own.
fn heap_size_bytes(size_bytes: usize) -> u64 {
    let rounded = match size_bytes {
        MAPPED_SIZE_BYTES_MIN.. => (size_bytes + 16).next_multiple_of(4_096),
        _ => (size_bytes + 8).next_multiple_of(16),
    };
    u64_from(rounded)
}

#[derive(Debug)]
struct Page {
    bytes: Box<[u8; PAGE_SIZE_BYTES]>,
    spans: Box<[Span; SPANS_PER_PAGE]>,
    /// One bit for each span in stock.
    stock: u64,
}

/// 32 KiB of places of one size.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    /// The size of a place in words.
    class: u16,
    live_count: u16,
    /// The first freed place, as its word in the span plus one; 0: none. It holds the next.
    freed: u16,
    /// The first word that was never used.
    fresh: u16,
    /// Neighbours in the list of spans of this class that have a free place.
    next: Option<SpanRef>,
    previous: Option<SpanRef>,
}

/// A span's number in the arena plus one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SpanRef(NonZeroU32);

impl SpanRef {
    fn new(page: usize, span: usize) -> Self {
        let number = u32_from(page * SPANS_PER_PAGE + span + 1);
        Self(NonZeroU32::new(number).expect("one was added"))
    }

    const fn page(self) -> usize {
        usize_from_u32(self.0.get() - 1) / SPANS_PER_PAGE
    }

    const fn span(self) -> usize {
        usize_from_u32(self.0.get() - 1) % SPANS_PER_PAGE
    }
}

impl Span {
    const fn has_room(&self) -> bool {
        self.freed != 0 || self.fresh as usize + self.class as usize <= WORDS_PER_SPAN
    }
}

impl Default for Records {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
            stocked: Vec::new(),
            stock_count: 0,
            classes: Box::new([None; CLASS_COUNT]),
            large: Vec::new(),
            large_free: Vec::new(),
            large_bytes: 0,
            used_bytes: 0,
        }
    }
}

impl Records {
    /// The record that `at` names.
    #[inline]
    pub(super) fn record(&self, at: RecordRef) -> Record<'_> {
        Record::read(self.bytes(at))
    }

    /// Loads a record's first cache lines without waiting for them. The loads of a pass overlap:
    /// that is what a pass is for. (A prefetch instruction would need `unsafe`.)
    #[inline]
    pub(super) fn touch(&self, at: RecordRef) {
        let bytes = self.bytes(at);
        // A record of 98 bytes lies on two or three lines, and is read to its end.
        let touched = TOUCHED.map(|offset| bytes.get(offset).copied().unwrap_or(0));
        std::hint::black_box(touched);
    }

    /// Stores a record.
    ///
    /// # Panics
    /// If all references are taken: 14 GiB on pages, or 2²⁹ large records.
    #[inline]
    pub(super) fn insert(&mut self, new: &NewRecord<'_>) -> RecordRef {
        let size_bytes = new.size_bytes();
        if size_bytes > SMALL_SIZE_BYTES_MAX {
            return self.insert_large(new, size_bytes);
        }
        let class = size_bytes.div_ceil(WORD_SIZE_BYTES);
        let span = match self.classes[class] {
            Some(span) => span,
            None => self.start_span(class),
        };
        let (page, span) = (span.page(), span.span());
        let word = self.take_place(page, span);
        let at = word * WORD_SIZE_BYTES;
        new.write(&mut self.pages[page].bytes[at..at + size_bytes]);
        self.used_bytes += u64_from(class * WORD_SIZE_BYTES);
        let number = u32_from(page * WORDS_PER_PAGE + word + 1);
        RecordRef::from_number(number).expect("one was added")
    }

    /// How much [`Records::free`] gives back.
    pub(super) fn size_bytes(&self, at: RecordRef) -> u64 {
        match at.at() {
            At::Page { page, word } => {
                let class = self.pages[page].spans[word / WORDS_PER_SPAN].class;
                u64::from(class) * u64_from(WORD_SIZE_BYTES)
            }
            At::Large { chunk, position } => u64_from(self.large[chunk][position].len()),
        }
    }

    /// How many words a record takes of a page; `None`: it has an allocation of its own.
    pub(super) fn class(&self, at: RecordRef) -> Option<usize> {
        match at.at() {
            At::Page { page, word } => {
                Some(usize::from(self.pages[page].spans[word / WORDS_PER_SPAN].class))
            }
            At::Large { .. } => None,
        }
    }

    /// Gives a record's memory back. Its reference must not be used again.
    #[inline]
    pub(super) fn free(&mut self, at: RecordRef) {
        match at.at() {
            At::Page { page, word } => self.free_place(page, word),
            At::Large { chunk, position } => {
                let bytes = std::mem::take(&mut self.large[chunk][position]);
                assert!(!bytes.is_empty(), "a large record was freed twice");
                self.used_bytes -= u64_from(bytes.len());
                self.large_bytes -= heap_size_bytes(bytes.len());
                self.large_free.push(u32_from(chunk * LARGE_PER_CHUNK + position));
            }
        }
    }

    fn reserved_bytes(&self) -> u64 {
        let pages = self.pages.len() * (PAGE_SIZE_BYTES + SPANS_SIZE_BYTES);
        let large_lists = self.large.len() * LARGE_PER_CHUNK * size_of::<Box<[u8]>>();
        u64_from(pages + large_lists) + self.large_bytes
    }

    /// Bytes that have to be taken from the system for one more record of this size.
    pub(super) fn growth_size_bytes(&self, size_bytes: usize) -> u64 {
        if size_bytes > SMALL_SIZE_BYTES_MAX {
            return heap_size_bytes(size_bytes);
        }
        let class = size_bytes.div_ceil(WORD_SIZE_BYTES);
        let has_room = self.classes[class].is_some() || !self.stocked.is_empty();
        if has_room { 0 } else { u64_from(PAGE_SIZE_BYTES + SPANS_SIZE_BYTES) }
    }

    /// From the record's first byte on; what follows the record is not part of it.
    #[inline]
    fn bytes(&self, at: RecordRef) -> &[u8] {
        match at.at() {
            At::Page { page, word } => &self.pages[page].bytes[word * WORD_SIZE_BYTES..],
            At::Large { chunk, position } => &self.large[chunk][position],
        }
    }

    #[cold]
    fn insert_large(&mut self, new: &NewRecord<'_>, size_bytes: usize) -> RecordRef {
        let mut bytes = vec![0; size_bytes].into_boxed_slice();
        new.write(&mut bytes);
        self.used_bytes += u64_from(size_bytes);
        self.large_bytes += heap_size_bytes(size_bytes);
        let number = if let Some(number) = self.large_free.pop() {
            let index = usize_from_u32(number);
            self.large[index / LARGE_PER_CHUNK][index % LARGE_PER_CHUNK] = bytes;
            number
        } else {
            if self.large.last().is_none_or(|chunk| chunk.len() == LARGE_PER_CHUNK) {
                self.large.push(Vec::with_capacity(LARGE_PER_CHUNK));
            }
            let chunk = self.large.len() - 1;
            let position = self.large[chunk].len();
            self.large[chunk].push(bytes);
            let number = chunk * LARGE_PER_CHUNK + position;
            assert!(number < LARGE_COUNT_MAX, "the arena has no reference left");
            u32_from(number)
        };
        RecordRef::from_number(LARGE_REF_MIN + number + 1).expect("one was added")
    }

    /// Whether one more record of this size fits what was freed, without the last spans in stock.
    pub(super) fn fits_freed(&self, size_bytes: usize) -> bool {
        let class = size_bytes.div_ceil(WORD_SIZE_BYTES);
        size_bytes <= SMALL_SIZE_BYTES_MAX
            && (self.classes[class].is_some() || self.stock_count > SPARE_SPAN_COUNT)
    }

    /// Takes a free place of a span that has one; its word on the page.
    #[inline]
    fn take_place(&mut self, page: usize, span: usize) -> usize {
        let Page { bytes, spans, .. } = &mut self.pages[page];
        let state = &mut spans[span];
        let word = if state.freed == 0 {
            let word = span * WORDS_PER_SPAN + usize::from(state.fresh);
            state.fresh += state.class;
            word
        } else {
            let word = span * WORDS_PER_SPAN + usize::from(state.freed - 1);
            let at = word * WORD_SIZE_BYTES;
            state.freed = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
            if state.freed != 0 {
                // The link after this one will be wanted next, and freed places are cold.
                let next = span * WORDS_PER_SPAN + usize::from(state.freed - 1);
                std::hint::black_box(bytes[next * WORD_SIZE_BYTES]);
            }
            word
        };
        state.live_count += 1;
        if !state.has_room() {
            self.unlink(SpanRef::new(page, span));
        }
        word
    }

    #[inline]
    fn free_place(&mut self, page: usize, word: usize) {
        let Page { bytes, spans, .. } = &mut self.pages[page];
        let span = word / WORDS_PER_SPAN;
        let state = &mut spans[span];
        assert!(state.live_count > 0, "a record was freed twice");
        let was_full = !state.has_room();
        let at = word * WORD_SIZE_BYTES;
        bytes[at..at + 2].copy_from_slice(&state.freed.to_le_bytes());
        state.freed = u16_from(word % WORDS_PER_SPAN + 1);
        state.live_count -= 1;
        self.used_bytes -= u64::from(state.class) * u64_from(WORD_SIZE_BYTES);
        let is_empty = state.live_count == 0;
        let span = SpanRef::new(page, span);
        if is_empty {
            if !was_full {
                self.unlink(span);
            }
            self.stock_span(span);
        } else if was_full {
            self.link(span);
        }
    }

    /// Takes a span from the stock for records of `class` words.
    #[cold]
    fn start_span(&mut self, class: usize) -> SpanRef {
        let page = match self.stocked.last() {
            Some(page) => usize_from_u32(*page),
            None => self.start_page(),
        };
        let state = &mut self.pages[page];
        let span = usize_from_u32(state.stock.trailing_zeros());
        state.stock &= state.stock - 1;
        self.stock_count -= 1;
        if state.stock == 0 {
            self.stocked.pop();
        }
        state.spans[span] = Span { class: u16_from(class), ..Span::default() };
        let span = SpanRef::new(page, span);
        self.link(span);
        span
    }

    /// Returns an empty span to the stock.
    #[cold]
    fn stock_span(&mut self, span: SpanRef) {
        let state = &mut self.pages[span.page()];
        if state.stock == 0 {
            self.stocked.push(u32_from(span.page()));
        }
        state.stock |= 1 << span.span();
        self.stock_count += 1;
    }

    fn start_page(&mut self) -> usize {
        assert!(self.pages.len() < PAGE_COUNT_MAX, "the arena has no reference left");
        let bytes = vec![0; PAGE_SIZE_BYTES].into_boxed_slice();
        self.pages.push(Page {
            bytes: bytes.try_into().expect("the size is that of a page"),
            spans: Box::new([Span::default(); SPANS_PER_PAGE]),
            stock: u64::MAX,
        });
        let page = self.pages.len() - 1;
        self.stock_count += SPANS_PER_PAGE;
        self.stocked.push(u32_from(page));
        page
    }

    /// Puts a span at the head of its class's list.
    fn link(&mut self, span: SpanRef) {
        let class = usize::from(self.span(span).class);
        let next = self.classes[class].replace(span);
        if let Some(next) = next {
            self.span(next).previous = Some(span);
        }
        let state = self.span(span);
        state.next = next;
        state.previous = None;
    }

    /// Takes a span out of its class's list.
    fn unlink(&mut self, span: SpanRef) {
        let Span { class, next, previous, .. } = *self.span(span);
        match previous {
            Some(previous) => self.span(previous).next = next,
            None => self.classes[usize::from(class)] = next,
        }
        if let Some(next) = next {
            self.span(next).previous = previous;
        }
    }

    #[inline]
    fn span(&mut self, span: SpanRef) -> &mut Span {
        &mut self.pages[span.page()].spans[span.span()]
    }
}

#[cfg(test)]
mod tests;
