//! Queries: answers about the state as of an index, whatever was executed since, and at a time.
//!
//! An entry is hidden once it has expired by the time of the index or by the query's own, which
//! may be later: a log's time stands still while nobody writes. A query whose answer must be final
//! has no time of its own: what one clock hides, the next one may show. How much a map holds is a
//! matter of the index alone: what is hidden counts until it is removed (`expiry.rs`).

use crate::base::{cast::usize_from_u32, ids::Index, limits, time::Timestamp};

use super::arena::{Arena, RecordRef};
use super::hasher::KeyHash;
use super::journal::Write;
use super::maps::MapSize;
use super::operation::QueryOperation;
use super::outcome::{Outcome, Page, Sink, Versioned};
use super::partition::PartitionMap;
use super::record::{MapId, Record};

/// What a query's answer amounts to, for the one who merges answers of several partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Entries in a page; 0 for other answers.
    pub item_count: usize,
    /// Bytes of keys and values in a page; 0 for other answers.
    pub size_bytes: usize,
    /// Whether nothing is left for another page; true for other answers.
    pub is_finished: bool,
}

/// What a query's answer reflects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsOf {
    /// The state as if no later command had been executed.
    pub index: Index,
    /// What has expired by then is hidden. It may be earlier than the index's time; then that
    /// counts.
    pub time: Timestamp,
    /// When it is asked: what is left of an entry's life is counted from then on.
    pub asked: Timestamp,
}

/// Which entries a page takes up.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    /// Only keys that begin with this.
    pub prefix: &'a [u8],
    /// Only what comes after this key; empty: from the beginning. The key need not exist.
    pub start_after: &'a [u8],
    /// At most so many entries; at least 1.
    pub limit: usize,
    /// Leave the values out.
    pub keys_only: bool,
    /// Keys and values at most; a single entry may exceed it.
    pub size_bytes_max: usize,
    /// No further page of the table is visited once so many records were.
    pub visited_count_max: usize,
    /// What a `next` that is no key begins with, so that it is routed to this partition.
    pub cursor_tag: &'a [u8],
}

impl PartitionMap {
    /// Answers a query and appends the encoded `Result` to `out`. `hash` is that of the map and the
    /// key; size and entries have none and ignore it. An index below [`PartitionMap::committed`] is
    /// taken for it: what it would take to look further back is gone.
    pub fn query(
        &self,
        arena: &Arena,
        as_of: AsOf,
        (map, operation): (&str, &QueryOperation<'_>),
        hash: KeyHash,
        out: &mut impl Sink,
    ) -> Answer {
        let outcome = self.answer(arena, as_of, (map, operation), hash);
        outcome.encode(out);
        match outcome {
            Outcome::Page(page) => Answer {
                item_count: page.items.len(),
                size_bytes: page.size_bytes,
                is_finished: page.next.is_empty(),
            },
            _ => Answer { is_finished: true, ..Answer::default() },
        }
    }

    /// As [`PartitionMap::query`], for callers that need the answer's length before its bytes.
    #[must_use]
    pub fn answer<'a>(
        &'a self,
        arena: &'a Arena,
        as_of: AsOf,
        (map, operation): (&str, &QueryOperation<'_>),
        hash: KeyHash,
    ) -> Outcome<'a> {
        match *operation {
            QueryOperation::Get { key } => {
                let record = self.entry(arena, as_of, (map, key), hash);
                Outcome::Found(record.map(|record| self.versioned(&record, as_of)))
            }
            QueryOperation::Exists { key } => {
                Outcome::Existence(self.entry(arena, as_of, (map, key), hash).is_some())
            }
            QueryOperation::Size => {
                let size = self.size(as_of.index, map);
                Outcome::Sized { entries: size.entries, bytes: size.bytes }
            }
            QueryOperation::Entries { prefix, start_after, limit, keys_only } => {
                Outcome::Page(self.entries(
                    arena,
                    as_of,
                    map,
                    &Scan {
                        prefix,
                        start_after,
                        limit: usize_from_u32(limit),
                        keys_only,
                        size_bytes_max: limits::ENTRIES_SIZE_BYTES_MAX,
                        visited_count_max: limits::ENTRIES_VISITED_COUNT_MAX,
                        cursor_tag: &[],
                    },
                ))
            }
        }
    }

    /// What all maps hold, with what may still be undone.
    #[must_use]
    pub fn total_size(&self) -> MapSize {
        self.maps.size()
    }

    /// What a map holds as of `as_of`.
    #[must_use]
    pub fn size(&self, as_of: Index, map: &str) -> MapSize {
        let as_of = as_of.max(self.committed);
        let id = self.maps.find_as_of(map, as_of);
        let size = id.map(|id| {
            let life = self.maps.life(id);
            let changed = life.written() > as_of;
            let then = changed.then(|| self.journal.size_as_of(id, as_of)).flatten();
            then.unwrap_or_else(|| life.size())
        });
        size.unwrap_or_default()
    }

    /// A page of a map's entries, in the order of (hash, key).
    ///
    /// If the page ends because enough records were visited, its `next` is the last visited key of
    /// this map; if none was visited, it is a string that stands between what was visited and what
    /// wasn't, not a key.
    #[must_use]
    pub fn entries<'a>(
        &'a self,
        arena: &'a Arena,
        as_of: AsOf,
        map: &str,
        scan: &Scan<'_>,
    ) -> Page<'a> {
        let as_of = self.clamped(as_of);
        let mut page = Page::default();
        let Some(id) = self.maps.find_as_of(map, as_of.index) else { return page };
        let start = (!scan.start_after.is_empty())
            .then(|| (self.hasher.hash(map, scan.start_after), scan.start_after));
        let first = start.map_or(KeyHash(0), |(hash, _)| hash);
        let mut from = first;
        let mut stop_at = scan.visited_count_max;
        let mut last_seen: Option<&[u8]> = None;
        let mut batch: Vec<(KeyHash, Record<'a>)> = Vec::new();
        loop {
            batch.clear();
            let last = self.table.visit_page(&arena.tables, from, |at| {
                page.visited_count += 1;
                let Some(record) = self.member_as_of(arena, at, id, as_of) else { return };
                let hash = self.hasher.hash(map, record.key());
                if start.is_none_or(|start| (hash, record.key()) > start) {
                    batch.push((hash, record));
                }
            });
            batch.sort_unstable_by_key(|(hash, record)| (*hash, record.key()));
            for (_, record) in &batch {
                if record.key().starts_with(scan.prefix)
                    && !take(&mut page, (record.key(), self.versioned(record, as_of)), scan)
                {
                    let (last, _) = page.items.last().expect("a full page has an item");
                    page.next = last.to_vec();
                    return page;
                }
                last_seen = Some(record.key());
            }
            let Some(next) = last.0.checked_add(1) else { return page };
            if page.visited_count >= stop_at {
                let seen = last_seen.map(<[u8]>::to_vec);
                let between = || self.key_between(map, first, KeyHash(next), scan.cursor_tag);
                if let Some(key) = seen.or_else(between) {
                    page.next = key;
                    return page;
                }
                stop_at = 2 * page.visited_count;
            }
            from = KeyHash(next);
        }
    }

    /// An index as of which the state can be read.
    #[inline]
    fn clamped(&self, as_of: AsOf) -> AsOf {
        AsOf { index: as_of.index.max(self.committed), ..as_of }
    }

    /// What has expired by then is hidden.
    fn now_ms(&self, as_of: AsOf) -> u64 {
        as_of.time.as_ms().max(self.horizon.as_of(as_of.index))
    }

    #[inline]
    fn versioned<'a>(&self, record: &Record<'a>, as_of: AsOf) -> Versioned<'a> {
        // An entry that is shown has some time left, whatever the clock says.
        Versioned::of(record, || {
            let last_ms = record.expires_ms().unwrap_or_default().saturating_sub(1);
            self.now_ms(self.clamped(as_of)).max(as_of.asked.as_ms()).min(last_ms)
        })
    }

    /// The entry of a key.
    #[inline]
    fn entry<'a>(
        &self,
        arena: &'a Arena,
        as_of: AsOf,
        (map, key): (&str, &[u8]),
        hash: KeyHash,
    ) -> Option<Record<'a>> {
        debug_assert_eq!(hash, self.hasher.hash(map, key), "the hash is that of map and key");
        let as_of = self.clamped(as_of);
        let id = self.maps.find_as_of(map, as_of.index)?;
        let (_, at) = self.find(arena, id, key, hash)?;
        self.visible(arena, at, as_of)
    }

    /// The entry as of `as_of` of the key that `at` is the newest record of, if it is one of
    /// `id`'s.
    fn member_as_of<'a>(
        &self,
        arena: &'a Arena,
        at: RecordRef,
        id: MapId,
        as_of: AsOf,
    ) -> Option<Record<'a>> {
        let record = arena.records.record(at);
        if record.map == id { self.visible(arena, at, as_of) } else { None }
    }

    /// The record that was valid at `as_of` of the key that `at` is the newest record of.
    #[inline]
    fn visible<'a>(&self, arena: &'a Arena, at: RecordRef, as_of: AsOf) -> Option<Record<'a>> {
        let newest = arena.records.record(at);
        let record = match newest.version <= as_of.index {
            true => newest,
            false => self.replaced(arena, (at, newest), as_of.index)?,
        };
        if record.ttl_ms != 0 && record.is_expired(self.now_ms(as_of)) {
            return None;
        }
        (!record.removed).then_some(record)
    }

    /// The record of a key as of `as_of`, where the newest is newer. It is looked for from both
    /// ends: the key's changes lead back from the newest one, and among all changes since `as_of`
    /// its first one says what it replaced. Of `n` changes that takes `2 √n` steps or so, for
    /// either the key has few of them or the first isn't far.
    fn replaced<'a>(
        &self,
        arena: &'a Arena,
        (at, newest): (RecordRef, Record<'a>),
        as_of: Index,
    ) -> Option<Record<'a>> {
        let mut write = self.journal.write_of(at, newest.version);
        let (map, hash) = (write.map, write.hash);
        let is_key = |write: &Write| {
            (write.map, write.hash) == (map, hash)
                && arena.records.record(write.new).key() == newest.key()
        };
        let mut since = self.journal.writes_after(as_of);
        loop {
            if let Some(first) = since.next().flatten().filter(is_key) {
                return first.old.map(|old| arena.records.record(old));
            }
            let old = write.old?;
            let record = arena.records.record(old);
            if record.version <= as_of {
                return Some(record);
            }
            write = self.journal.write_of(old, record.version);
        }
    }

    /// A string that begins with `tag` and whose hash lies in the upper half of `first..end`: all
    /// of that range was visited and holds no key of this map. It takes as many tries as the range
    /// goes into the whole, twice; a range that would take too many is to be made wider.
    fn key_between(&self, map: &str, first: KeyHash, end: KeyHash, tag: &[u8]) -> Option<Vec<u8>> {
        let middle = KeyHash(first.0 + (end.0 - first.0) / 2);
        let mut candidate = tag.to_vec();
        let found = (0..KEY_TRY_COUNT_MAX).find(|number: &u64| {
            candidate.truncate(tag.len());
            candidate.extend_from_slice(&number.to_le_bytes());
            let hash = self.hasher.hash(map, &candidate);
            middle < hash && hash < end
        });
        found.map(|_| candidate)
    }
}

/// How many strings are tried in search of one with a hash in a certain range. They take about as
/// long as visiting a tenth as many records.
const KEY_TRY_COUNT_MAX: u64 = 8_192;

/// Adds an entry to a page unless the page is full.
fn take<'a>(page: &mut Page<'a>, (key, entry): (&'a [u8], Versioned<'a>), scan: &Scan<'_>) -> bool {
    let value: &[u8] = if scan.keys_only { &[] } else { entry.value };
    let size_bytes = key.len() + value.len();
    let is_full =
        page.items.len() >= scan.limit || page.size_bytes + size_bytes > scan.size_bytes_max;
    if is_full && !page.items.is_empty() {
        return false;
    }
    page.items.push((key, Versioned { value, ..entry }));
    page.size_bytes += size_bytes;
    true
}
