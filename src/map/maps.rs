//! The named maps of a partition: what each holds, and which name means which life of a map.
//!
//! A name is bound to a life as long as it has entries, or a command that may be undone touched it.
//! Clearing a map binds its name to a fresh life, so that all entries of the old one vanish at
//! once; they stay in the table as garbage until they are swept. How many names have entries is a
//! function of the state alone, and so equal on all members; it is bounded. Numbers of lives, and
//! bindings without entries, are a member's own business.
//!
//! Each life has its own order of expiry: a clear takes it away with the entries, at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::{
    cast::{u32_from, u64_from, usize_from_u32},
    checksum::digest128,
    ids::Index,
    limits::NAMED_MAP_COUNT_MAX,
    time::Timestamp,
};

use super::arena::RecordRef;
use super::digest::StateDigest;
use super::expiry::{EXPIRY_SIZE_BYTES, Expiries, ExpiryKey};
use super::record::{MapId, Record};

/// The number of a map's entries and the bytes of their keys and values. Entries that have expired
/// count until they are removed, which is a matter of the index alone and not of a read's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapSize {
    /// Entries.
    pub entries: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

impl MapSize {
    const fn plus(self, other: Self) -> Self {
        Self { entries: self.entries + other.entries, bytes: self.bytes + other.bytes }
    }

    const fn minus(self, other: Self) -> Self {
        Self { entries: self.entries - other.entries, bytes: self.bytes - other.bytes }
    }
}

/// One entry's share of its map's size and of the state's digest, and its place in the order of
/// expiry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weight {
    bytes: u64,
    digest: StateDigest,
    expiry: Option<(ExpiryKey, RecordRef)>,
}

/// How a life of a map stands to its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Binding {
    /// The name means this life.
    Bound,
    /// The map was cleared by a command that may be undone.
    Cleared,
    /// The map was cleared for good; its entries wait to be swept.
    Garbage,
    /// It is gone, and only a checkpoint still asks what it was.
    Gone,
}

/// One life of a named map.
#[derive(Debug)]
pub(super) struct NamedMap {
    name: Arc<str>,
    name_digest: u128,
    binding: Binding,
    size: MapSize,
    digest: StateDigest,
    /// Its entries that have a time to live.
    expiries: Expiries,
    /// No command after this one wrote to it.
    written: Index,
    /// How many undo records refer to it.
    journaled_count: u32,
    /// The clear that began this life and the life that it ended, while it may be undone.
    predecessor: Option<(Index, MapId)>,
    /// The command that began this life.
    began: Index,
    /// The clear that ended it.
    ended: Option<Index>,
}

impl NamedMap {
    /// The map's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What it holds.
    pub(super) const fn size(&self) -> MapSize {
        self.size
    }

    /// No command after this one wrote to it.
    pub(super) const fn written(&self) -> Index {
        self.written
    }

    /// Whether its name meant it at `as_of`; it had begun by then.
    pub(super) fn is_bound_as_of(&self, as_of: Index) -> bool {
        self.ended.is_none_or(|ended| ended > as_of)
    }

    /// Whether its entries wait to be swept.
    pub(super) fn is_garbage(&self) -> bool {
        self.binding == Binding::Garbage
    }

    /// Whether an entry has this place in its order of expiry.
    pub(super) fn has_expiry(&self, key: ExpiryKey) -> bool {
        self.expiries.contains(key)
    }

    /// What a record of this map adds to size and digest.
    #[inline]
    pub(super) fn weight(&self, at: RecordRef, record: &Record<'_>) -> Weight {
        Weight {
            bytes: u64_from(record.body().len()),
            digest: StateDigest::of_entry(self.name_digest, record),
            expiry: ExpiryKey::of(record).map(|key| (key, at)),
        }
    }
}

/// The named maps of a partition.
#[derive(Debug, Default)]
pub(super) struct Maps {
    /// A tree: it grows without a rehash, and no choice of names makes it slow.
    names: BTreeMap<Arc<str>, MapId>,
    lives: Vec<Option<Box<NamedMap>>>,
    free: Vec<MapId>,
    /// Names with at least one entry.
    nonempty_count: usize,
    garbage_count: usize,
    /// Of all entries of bound lives.
    digest: StateDigest,
    /// Bytes of all names.
    names_size_bytes: usize,
    /// Lives that had begun by then are not dropped, for a checkpoint.
    kept_as_of: Option<Index>,
    /// Lives that are kept for a checkpoint alone.
    gone: Vec<MapId>,
    /// Of all of them as well.
    size: MapSize,
    /// The next entry to expire of each bound life that has any.
    due: BTreeSet<(ExpiryKey, MapId)>,
    /// When the first of them does. 0: there is none.
    next_due_ms: u64,
    /// Entries that have a time to live, of all lives.
    expiring_count: usize,
}

/// What a name takes beside its bytes, roughly: its share of a node of the tree, its allocation's
/// head.
const NAME_OVERHEAD_BYTES: usize = 40;

impl Maps {
    /// The life that a name means.
    #[inline]
    pub(super) fn find(&self, name: &str) -> Option<MapId> {
        self.names.get(name).copied()
    }

    /// The life that a name meant at `as_of`; its entries may be newer.
    #[inline]
    pub(super) fn find_as_of(&self, name: &str, as_of: Index) -> Option<MapId> {
        let mut id = self.find(name)?;
        while let Some((cleared, old)) = self.life(id).predecessor
            && cleared > as_of
        {
            id = old;
        }
        Some(id)
    }

    /// A life that is in use.
    #[inline]
    pub(super) fn life(&self, id: MapId) -> &NamedMap {
        self.lives[usize_from_u32(id.0)].as_deref().expect("the life of a record is in use")
    }

    #[inline]
    fn life_mut(&mut self, id: MapId) -> &mut NamedMap {
        self.lives[usize_from_u32(id.0)].as_deref_mut().expect("the life of a record is in use")
    }

    /// Whether a first entry for `id` (`None`: a name without binding) would be one name too many.
    #[inline]
    pub(super) fn is_full_for(&self, id: Option<MapId>) -> bool {
        self.nonempty_count >= NAMED_MAP_COUNT_MAX
            && id.is_none_or(|id| self.life(id).size.entries == 0)
    }

    /// What all maps hold.
    pub(super) const fn size(&self) -> MapSize {
        self.size
    }

    /// The digest of all entries.
    pub(super) const fn digest(&self) -> StateDigest {
        self.digest
    }

    /// Whether an entry has expired.
    #[inline]
    pub(super) const fn is_due(&self, time: Timestamp) -> bool {
        self.next_due_ms != 0 && self.next_due_ms <= time.as_ms()
    }

    /// When the next entry expires.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        (self.next_due_ms > 0).then_some(self.next_due_ms)
    }

    /// The next entry to expire.
    pub(super) fn next_due(&self) -> Option<(ExpiryKey, RecordRef)> {
        let (_, id) = self.due.first()?;
        self.life(*id).expiries.first()
    }

    /// Whether there is anything to sweep.
    pub(super) const fn has_garbage(&self) -> bool {
        self.garbage_count > 0
    }

    /// The number of names with entries.
    pub(super) const fn nonempty_count(&self) -> usize {
        self.nonempty_count
    }

    /// The life that a name means, from now on if there is none.
    #[inline]
    pub(super) fn bind(&mut self, name: &str, at: Index) -> MapId {
        match self.find(name) {
            Some(id) => id,
            None => self.start_life(Arc::from(name), None, at),
        }
    }

    fn start_life(
        &mut self,
        name: Arc<str>,
        predecessor: Option<(Index, MapId)>,
        at: Index,
    ) -> MapId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.lives.push(None);
            MapId(u32_from(self.lives.len() - 1))
        });
        self.insert_name(Arc::clone(&name), id);
        self.lives[usize_from_u32(id.0)] = Some(Box::new(NamedMap {
            name_digest: digest128(name.as_bytes()),
            name,
            binding: Binding::Bound,
            size: MapSize::default(),
            digest: StateDigest::default(),
            expiries: Expiries::default(),
            written: Index(0),
            journaled_count: 0,
            predecessor,
            began: at,
            ended: None,
        }));
        id
    }

    fn insert_name(&mut self, name: Arc<str>, id: MapId) {
        let size_bytes = name.len() + NAME_OVERHEAD_BYTES;
        if self.names.insert(name, id).is_none() {
            self.names_size_bytes += size_bytes;
        }
    }

    fn remove_name(&mut self, name: &str) {
        if self.names.remove(name).is_some() {
            self.names_size_bytes -= name.len() + NAME_OVERHEAD_BYTES;
        }
    }

    /// An entry took the place of another one, as of a command or its undoing.
    #[inline]
    pub(super) fn account(
        &mut self,
        id: MapId,
        removed: Option<Weight>,
        added: Option<Weight>,
        at: Index,
    ) {
        let life = self.life_mut(id);
        assert!(life.binding == Binding::Bound, "only the present life of a map is written to");
        life.written = at;
        let was_empty = life.size.entries == 0;
        let (before, size_before) = (life.digest, life.size);
        if let Some(removed) = removed {
            life.size.entries -= 1;
            life.size.bytes -= removed.bytes;
            life.digest = life.digest.minus(removed.digest);
        }
        if let Some(added) = added {
            life.size.entries += 1;
            life.size.bytes += added.bytes;
            life.digest = life.digest.plus(added.digest);
        }
        let (after, size_after) = (life.digest, life.size);
        let expired = removed.and_then(|removed| removed.expiry);
        let expiring = added.and_then(|added| added.expiry);
        if expired.is_some() || expiring.is_some() {
            self.reorder(id, expired, expiring);
        }
        let is_empty = size_after.entries == 0;
        self.digest = self.digest.minus(before).plus(after);
        self.size = self.size.minus(size_before).plus(size_after);
        match (was_empty, is_empty) {
            (true, false) => self.nonempty_count += 1,
            (false, true) => self.nonempty_count -= 1,
            (true, true) | (false, false) => {}
        }
    }

    /// An entry with a time to live took the place of another one, or one of them is none.
    #[cold]
    fn reorder(
        &mut self,
        id: MapId,
        removed: Option<(ExpiryKey, RecordRef)>,
        added: Option<(ExpiryKey, RecordRef)>,
    ) {
        let expiries = &mut self.life_mut(id).expiries;
        let first_before = expiries.first();
        if let Some((key, _)) = removed {
            expiries.remove(key);
        }
        if let Some((key, at)) = added {
            expiries.insert(key, at);
        }
        let first = expiries.first();
        self.expiring_count += usize::from(added.is_some());
        self.expiring_count -= usize::from(removed.is_some());
        if first != first_before {
            self.expect(id, first_before, false);
            self.expect(id, first, true);
        }
    }

    /// Notes or forgets the next entry of a life that expires.
    fn expect(&mut self, id: MapId, first: Option<(ExpiryKey, RecordRef)>, is_due: bool) {
        let Some((key, _)) = first else { return };
        let changed = if is_due { self.due.insert((key, id)) } else { self.due.remove(&(key, id)) };
        assert!(changed, "the next entry to expire of each life is known");
        self.next_due_ms = self.due.first().map_or(0, |(key, _)| key.expires_ms);
    }

    /// Ends the life of a map with entries; its name is without binding.
    pub(super) fn clear(&mut self, id: MapId, at: Index) {
        self.detach(id, Binding::Garbage, at);
        let name = Arc::clone(&self.life(id).name);
        self.remove_name(&name);
        self.garbage_count += 1;
    }

    /// Ends the life of a map with entries by a command that may be undone; the fresh life.
    pub(super) fn clear_reversibly(&mut self, id: MapId, at: Index) -> MapId {
        self.detach(id, Binding::Cleared, at);
        let name = Arc::clone(&self.life(id).name);
        let fresh = self.start_life(name, Some((at, id)), at);
        self.life_mut(fresh).written = at;
        fresh
    }

    /// A clear can't be undone any more.
    pub(super) fn commit_clear(&mut self, id: MapId, fresh: MapId) {
        self.life_mut(fresh).predecessor = None;
        self.life_mut(id).binding = Binding::Garbage;
        self.garbage_count += 1;
    }

    /// Undoes a clear: `fresh` has no entries any more.
    pub(super) fn undo_clear(&mut self, id: MapId, fresh: MapId) {
        let life = self.life_mut(fresh);
        assert!(life.size.entries == 0, "what came after the clear was undone before it");
        life.binding = Binding::Cleared;
        life.predecessor = None;
        let life = self.life_mut(id);
        life.binding = Binding::Bound;
        life.ended = None;
        let (name, digest, size) = (Arc::clone(&life.name), life.digest, life.size);
        let first = life.expiries.first();
        self.expect(id, first, true);
        self.insert_name(name, id);
        self.digest = self.digest.plus(digest);
        self.size = self.size.plus(size);
        self.nonempty_count += 1;
    }

    fn detach(&mut self, id: MapId, binding: Binding, at: Index) {
        let life = self.life_mut(id);
        assert!(life.binding == Binding::Bound, "only the present life of a map is cleared");
        assert!(life.size.entries > 0, "a map without entries isn't cleared");
        life.binding = binding;
        life.ended = Some(at);
        let (digest, size, first) = (life.digest, life.size, life.expiries.first());
        self.expect(id, first, false);
        self.digest = self.digest.minus(digest);
        self.size = self.size.minus(size);
        self.nonempty_count -= 1;
    }

    /// An undo record refers to the life.
    #[inline]
    pub(super) fn hold(&mut self, id: MapId) {
        self.life_mut(id).journaled_count += 1;
    }

    /// An undo record that referred to the life is gone.
    #[inline]
    pub(super) fn let_go(&mut self, id: MapId) {
        self.life_mut(id).journaled_count -= 1;
        self.drop_if_unused(id);
    }

    /// An entry of a life that ended was swept.
    pub(super) fn count_swept(&mut self, id: MapId, expiry: Option<ExpiryKey>) {
        let life = self.life_mut(id);
        assert!(life.is_garbage(), "only garbage is swept");
        life.size.entries -= 1;
        if let Some(key) = expiry {
            life.expiries.remove(key);
            self.expiring_count -= 1;
        }
        self.drop_if_unused(id);
    }

    /// Drops a life without entries to which no undo record refers.
    #[inline]
    pub(super) fn drop_if_unused(&mut self, id: MapId) {
        let life = self.life(id);
        if life.size.entries == 0 && life.journaled_count == 0 {
            self.drop_life(id);
        }
    }

    #[cold]
    fn drop_life(&mut self, id: MapId) {
        let kept_as_of = self.kept_as_of;
        let life = self.life_mut(id);
        assert!(life.expiries.is_empty(), "a life without entries has none that expire");
        let binding = std::mem::replace(&mut life.binding, Binding::Gone);
        let is_kept = kept_as_of.is_some_and(|as_of| life.began <= as_of);
        let name = Arc::clone(&life.name);
        match binding {
            Binding::Bound => self.remove_name(&name),
            Binding::Garbage => self.garbage_count -= 1,
            Binding::Cleared => {}
            Binding::Gone => unreachable!("what is gone has no entries to lose"),
        }
        if is_kept {
            self.gone.push(id);
        } else {
            self.lives[usize_from_u32(id.0)] = None;
            self.free.push(id);
        }
    }

    /// From now on keeps all lives that have begun by now, until [`Maps::keep_no_lives`].
    pub(super) const fn keep_lives(&mut self, as_of: Index) {
        self.kept_as_of = Some(as_of);
    }

    /// No life is kept any more. Those that were are dropped by [`Maps::drop_gone`].
    pub(super) const fn keep_no_lives(&mut self) {
        self.kept_as_of = None;
    }

    /// Whether there are lives to be dropped by [`Maps::drop_gone`].
    pub(super) const fn has_gone(&self) -> bool {
        self.kept_as_of.is_none() && !self.gone.is_empty()
    }

    /// Drops up to `count_max` lives that were kept, if they are no more; how many.
    pub(super) fn drop_gone(&mut self, count_max: usize) -> usize {
        if self.kept_as_of.is_some() {
            return 0;
        }
        let count = count_max.min(self.gone.len());
        for id in self.gone.drain(self.gone.len() - count..) {
            self.lives[usize_from_u32(id.0)] = None;
            self.free.push(id);
        }
        count
    }

    /// Bytes of names, lives and orders of expiry, roughly.
    pub(super) fn size_bytes(&self) -> u64 {
        let lives = (self.lives.len() - self.free.len()) * size_of::<NamedMap>();
        let expiries = (self.expiring_count + self.due.len()) * EXPIRY_SIZE_BYTES;
        let places = self.lives.capacity() * size_of::<usize>();
        u64_from(self.names_size_bytes + lives + places + expiries)
    }
}
