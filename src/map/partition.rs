//! One partition's slice of all named maps: it executes commands (`execute.rs`) and undoes them.
//!
//! Deterministic: the same commands at the same indexes and times give the same results and the
//! same digest on every member, whatever was executed and undone in between. Time is the log's
//! alone: that of the slot that is executed.

mod execute;

use crate::base::mutant::{self, Mutant};
use crate::base::{cast::u64_from, ids::Index, time::NS_PER_MS, time::Timestamp};

use super::arena::{Arena, Growth, RecordRef, Records};
use super::checkpoint::Checkpoint;
use super::digest::StateDigest;
use super::expiry::{EXPIRY_SIZE_BYTES, ExpiryKey, Horizon};
use super::hasher::{KeyHash, KeyHasher};
use super::journal::{Change, Journal};
use super::maps::{Maps, Weight};
use super::operation::Ttl;
use super::record::{MapId, NewRecord, Record, RecordSize, record_size_bytes};
use super::sessions::Sessions;
use super::table::{Keys, Place, Table};

/// Whether a command may have to be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo {
    /// It is not stable yet: what it replaces is kept until [`PartitionMap::commit`].
    Keep,
    /// It is stable already, as is everything before it.
    Discard,
}

/// When and how a command is executed.
#[derive(Clone, Copy, Debug)]
pub struct Execution {
    /// The command's index: the version of what it writes.
    pub index: Index,
    /// The sequencer's timestamp.
    pub time: Timestamp,
    /// Whether it may have to be undone.
    pub undo: Undo,
}

/// One partition's slice of all named maps. Its entries live in its shard's [`Arena`], which every
/// method is given; it must always be the same one.
#[derive(Debug)]
pub struct PartitionMap {
    pub(super) hasher: KeyHasher,
    pub(super) table: Table,
    pub(super) maps: Maps,
    pub(super) journal: Journal,
    pub(super) sessions: Sessions,
    /// Up to when what has expired is hidden.
    pub(super) horizon: Horizon,
    /// The last command that was executed and not undone.
    pub(super) applied: Index,
    /// Commands up to here can't be undone. Not after `applied` unless no-ops lie between.
    pub(super) committed: Index,
    /// The checkpoint that is under way.
    pub(super) checkpoint: Option<Box<Checkpoint>>,
    /// Where sweeping goes on.
    sweep_from: KeyHash,
}

/// What the table must know about records.
struct KeysOf<'a> {
    hasher: KeyHasher,
    records: &'a Records,
    maps: &'a Maps,
}

impl Keys for KeysOf<'_> {
    fn hash(&self, record: RecordRef) -> KeyHash {
        let record = self.records.record(record);
        self.hasher.hash(self.maps.life(record.map).name(), record.key())
    }

    fn touch(&self, record: RecordRef) {
        self.records.touch(record);
    }
}

/// What a write finds at its key.
#[derive(Clone, Copy)]
struct Target<'a> {
    map: &'a str,
    key: &'a [u8],
    hash: KeyHash,
    /// The present life of the map, if it has one.
    id: Option<MapId>,
    /// The key's place in the table; it may be held by a removal.
    found: Option<(Place, RecordRef)>,
}

impl Target<'_> {
    /// The key's record that is part of the state; it may have expired.
    #[inline]
    fn stored<'a>(&self, arena: &'a Arena) -> Option<Record<'a>> {
        self.found.map(|(_, at)| arena.records.record(at)).filter(|record| !record.removed)
    }
}

impl PartitionMap {
    /// A partition without entries.
    #[must_use]
    pub fn new(hasher: KeyHasher, arena: &mut Arena) -> Self {
        Self {
            hasher,
            table: Table::new(&mut arena.tables),
            maps: Maps::default(),
            journal: Journal::default(),
            sessions: Sessions::default(),
            horizon: Horizon::default(),
            applied: Index(0),
            committed: Index(0),
            checkpoint: None,
            sweep_from: KeyHash(0),
        }
    }

    /// Begins to load the lines of a key: the first stage of a pass.
    #[inline]
    pub fn touch_lines(&self, arena: &Arena, hash: KeyHash) {
        self.table.touch_lines(&arena.tables, hash);
    }

    /// Begins to load the record of a key: the second stage of a pass.
    #[inline]
    pub fn touch_record(&self, arena: &Arena, hash: KeyHash) {
        if let Some(record) = self.table.candidate(&arena.tables, hash) {
            arena.records.touch(record);
        }
    }

    /// Commands up to `index` will not be undone: releases what was kept for that.
    pub fn commit(&mut self, arena: &mut Arena, index: Index) {
        self.committed = self.committed.max(index);
        self.sessions.commit(index);
        self.horizon.commit(index);
        while let Some(record) = self.journal.pop_committed(index) {
            match record.change {
                Change::Put { hash, old: Some(old), .. } => self.free(arena, hash, old),
                Change::Put { old: None, .. } => {}
                Change::Removed { hash, old, new } => {
                    self.free(arena, hash, old);
                    self.drop_removal(arena, hash, new);
                }
                Change::Cleared { fresh } => {
                    self.maps.commit_clear(record.map, fresh);
                    self.maps.let_go(fresh);
                }
            }
            self.maps.let_go(record.map);
        }
    }

    /// Undoes the commands after `index`, the newest first. A checkpoint of what is undone is void
    /// ([`PartitionMap::checkpoint_is_void`]).
    ///
    /// # Panics
    /// If one of them is committed.
    pub fn undo_to(&mut self, arena: &mut Arena, index: Index) {
        assert!(index >= self.committed, "what is committed is never undone");
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.on_undo(index);
        }
        if mutant::is(Mutant::SessionsNotUndone) {
            self.sessions.commit(self.applied);
        } else {
            self.sessions.undo_to(index);
        }
        self.horizon.undo_to(index);
        while let Some(record) = self.journal.pop_undone(index) {
            match record.change {
                Change::Put { hash, old, new } => {
                    self.undo_write(arena, (record.map, hash, new), old, index);
                }
                Change::Removed { hash, old, new } => {
                    self.undo_write(arena, (record.map, hash, new), Some(old), index);
                }
                Change::Cleared { fresh } => {
                    self.maps.undo_clear(record.map, fresh);
                    self.maps.let_go(fresh);
                }
            }
            self.maps.let_go(record.map);
        }
        self.applied = self.applied.min(index);
    }

    /// Frees what cleared maps and a checkpoint that ended early have left, page by page, until
    /// `budget` records and pages were looked at. Returns whether there is more to do.
    pub fn sweep(&mut self, arena: &mut Arena, budget: usize) -> bool {
        let mut visited_count = 0;
        while self.maps.has_garbage() && visited_count < budget {
            visited_count += self.sweep_page(arena);
        }
        while self.has_released_checkpoint() && visited_count < budget {
            visited_count += self.release_step(arena);
        }
        self.maps.has_garbage() || self.has_released_checkpoint()
    }

    /// Sweeps the next page; how many records it looked at, and one for the page.
    fn sweep_page(&mut self, arena: &mut Arena) -> usize {
        let mut visited_count = 1;
        let mut swept: Vec<(KeyHash, RecordRef)> = Vec::new();
        let keys = KeysOf { hasher: self.hasher, records: &arena.records, maps: &self.maps };
        let last = self.table.retain_page(&mut arena.tables, self.sweep_from, |at| {
            visited_count += 1;
            let is_garbage = keys.maps.life(keys.records.record(at).map).is_garbage();
            if is_garbage {
                swept.push((keys.hash(at), at));
            }
            !is_garbage
        });
        for (hash, at) in swept {
            let record = arena.records.record(at);
            let (map, expiry) = (record.map, ExpiryKey::of(&record));
            self.free(arena, hash, at);
            self.maps.count_swept(map, expiry);
        }
        self.sweep_from = KeyHash(last.0.wrapping_add(1));
        visited_count
    }

    /// What a put would take of memory, other than for the journal and its session.
    #[must_use]
    pub fn put_growth(
        &self,
        arena: &Arena,
        (map, key, value_size_bytes): (&str, &[u8], usize),
        (hash, ttl): (KeyHash, Ttl),
        time: Timestamp,
    ) -> Growth {
        let target = self.target(arena, map, key, hash);
        let updated_ms = time.as_ms();
        let current = target.stored(arena).filter(|record| !record.is_expired(updated_ms));
        let created_ms = current.map_or(updated_ms, |record| record.created_ms);
        let ttl_ms = execute::ttl_ms(ttl, updated_ms, current.as_ref());
        let size_bytes = record_size_bytes(&RecordSize {
            map: target.id.unwrap_or(MapId(u32::MAX)),
            age_ms: updated_ms.saturating_sub(created_ms),
            ttl_ms,
            key_size_bytes: key.len(),
            value_size_bytes,
        });
        let has_place = target.found.is_some() || self.table.has_room(&arena.tables, hash);
        let for_table = if has_place { 0 } else { arena.tables.growth_size_bytes() };
        // The order of expiry doesn't lie in the arena: memory that was freed there is no help.
        let for_expiry = if ttl_ms == 0 { 0 } else { u64_from(EXPIRY_SIZE_BYTES) };
        Growth {
            size_bytes: arena.records.growth_size_bytes(size_bytes) + for_table + for_expiry,
            fits_freed: for_table + for_expiry == 0 && arena.records.fits_freed(size_bytes),
        }
    }

    /// When the next entry or session expires. If the log's time is to go there although nobody
    /// writes, the sequencer stamps a [`TICK`](super::operation::TICK), and more of them as long
    /// as something is due: a slot removes a bounded number.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Timestamp> {
        let entry = self.maps.next_due_ms();
        let next_ms = entry.into_iter().chain(self.sessions.next_due_ms()).min()?;
        Some(Timestamp(next_ms.saturating_mul(NS_PER_MS)))
    }

    /// How many sessions there are, those that have expired and aren't removed yet among them.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// The digest of all entries and sessions: equal on all members that have executed the same
    /// commands.
    #[must_use]
    pub const fn digest(&self) -> StateDigest {
        self.maps.digest().plus(self.sessions.digest())
    }

    /// The last command that was executed and not undone.
    #[must_use]
    pub const fn applied(&self) -> Index {
        self.applied
    }

    /// Commands up to here can't be undone.
    #[must_use]
    pub const fn committed(&self) -> Index {
        self.committed
    }

    /// How many changes can be undone.
    #[must_use]
    pub fn undo_count(&self) -> usize {
        self.journal.len() + self.sessions.undo_count()
    }

    /// The number of maps with entries.
    #[must_use]
    pub const fn map_count(&self) -> usize {
        self.maps.nonempty_count()
    }

    /// Bytes of the partition that do not lie in the arena.
    #[must_use]
    pub fn own_size_bytes(&self) -> u64 {
        self.table.size_bytes()
            + self.maps.size_bytes()
            + self.journal.size_bytes()
            + self.sessions.size_bytes()
            + self.horizon.size_bytes()
            + u64_from(size_of::<Self>())
    }

    /// Adds an entry for a key that has none, as a checkpoint has it.
    pub(super) fn load(&mut self, arena: &mut Arena, hash: KeyHash, new: &NewRecord<'_>) {
        let at = arena.records.insert(new);
        let weight = self.maps.life(new.map).weight(at, &arena.records.record(at));
        self.insert(arena, hash, at);
        self.maps.account(new.map, None, Some(weight), new.version);
    }

    /// Frees everything. Nothing can be undone, and no checkpoint is under way.
    ///
    /// # Panics
    /// If there is something that could be undone.
    pub fn discard(self, arena: &mut Arena) {
        assert!(self.undo_count() == 0, "an undo record's records would be lost");
        let mut first = Some(0);
        while let Some(hash) = first {
            let visit = |at| arena.records.free(at);
            first = self.table.visit_page(&arena.tables, KeyHash(hash), visit).0.checked_add(1);
        }
        self.table.dispose(&mut arena.tables);
    }

    fn target<'a>(&self, arena: &Arena, map: &'a str, key: &'a [u8], hash: KeyHash) -> Target<'a> {
        debug_assert_eq!(hash, self.hasher.hash(map, key), "the hash is that of map and key");
        let id = self.maps.find(map);
        let found = id.and_then(|id| self.find(arena, id, key, hash));
        Target { map, key, hash, id, found }
    }

    /// The newest record of a key, be it a removal.
    #[inline]
    pub(super) fn find(
        &self,
        arena: &Arena,
        id: MapId,
        key: &[u8],
        hash: KeyHash,
    ) -> Option<(Place, RecordRef)> {
        self.table.find(&arena.tables, hash, |at| {
            let record = arena.records.record(at);
            record.map == id && record.key() == key
        })
    }

    pub(super) fn insert(&mut self, arena: &mut Arena, hash: KeyHash, record: RecordRef) {
        let keys = KeysOf { hasher: self.hasher, records: &arena.records, maps: &self.maps };
        self.table.insert(&mut arena.tables, hash, record, &keys);
    }

    /// A removal is committed: unless its key was written again, it leaves the table.
    fn drop_removal(&mut self, arena: &mut Arena, hash: KeyHash, removal: RecordRef) {
        let found = self.table.find(&arena.tables, hash, |at| at == removal);
        if let Some((place, _)) = found {
            self.table.remove(&mut arena.tables, hash, place);
            self.free(arena, hash, removal);
        }
    }

    /// Frees a record of this hash that is in the table no more, unless a checkpoint needs it.
    #[inline]
    fn free(&mut self, arena: &mut Arena, hash: KeyHash, at: RecordRef) {
        let size_bytes = || arena.records.size_bytes(at);
        if !self.table.keep(&mut arena.tables, hash, at, size_bytes) {
            arena.records.free(at);
        }
    }

    /// Puts `old` back where `new` is.
    fn undo_write(
        &mut self,
        arena: &mut Arena,
        (map, hash, new): (MapId, KeyHash, RecordRef),
        old: Option<RecordRef>,
        index: Index,
    ) {
        let weigh = |at: RecordRef| -> Option<Weight> {
            let record: Record<'_> = arena.records.record(at);
            (!record.removed).then(|| self.maps.life(map).weight(at, &record))
        };
        let (removed, added) = (weigh(new), old.and_then(weigh));
        self.maps.account(map, removed, added, index);

        let place = self.table.find(&arena.tables, hash, |at| at == new);
        let (place, _) = place.expect("what isn't undone yet is in the table");
        // A removal that is committed has no undo record any more that would take it away.
        let is_spent = |old: &RecordRef| {
            let record = arena.records.record(*old);
            record.removed && record.version <= self.committed
        };
        match old.filter(|old| !is_spent(old)) {
            Some(old) => self.table.replace(&mut arena.tables, hash, place, old),
            None => {
                self.table.remove(&mut arena.tables, hash, place);
                if let Some(old) = old {
                    self.free(arena, hash, old);
                }
            }
        }
        self.free(arena, hash, new);
    }
}

#[cfg(test)]
mod tests;
