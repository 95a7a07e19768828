//! From a checkpoint's bytes to a partition's map.
//!
//! The bytes may be damaged, and are then refused. Nothing is allocated because the bytes announce
//! it: an item waits until it is whole, and one longer than any that a checkpoint has is refused by
//! its first bytes.

use std::fmt;

use super::{FLAG_AGE, FLAG_TTL, ITEM_END, ITEM_ENTRY, ITEM_MAP, ITEM_SESSION};
use crate::base::cast::{u64_from, usize_from};
use crate::base::ids::{Index, Sequence, SessionId};
use crate::base::limits::{
    ENTRY_TTL_MS_MAX, KEY_SIZE_BYTES_MAX, MAP_NAME_SIZE_BYTES_MAX, NAMED_MAP_COUNT_MAX,
    SESSION_RESULTS_SIZE_BYTES_MAX, SESSION_TTL_S_MAX, SESSION_TTL_S_MIN, SESSION_WINDOW_COUNT,
    VALUE_SIZE_BYTES_MAX,
};
use crate::base::time::Timestamp;
use crate::map::arena::Arena;
use crate::map::digest::StateDigest;
use crate::map::expiry::{ExpiryKey, Horizon};
use crate::map::hasher::KeyHasher;
use crate::map::operation;
use crate::map::partition::PartitionMap;
use crate::map::record::{MS_MAX, MapId, NewRecord};
use crate::map::sessions::{Session, StoredResult};

/// Why bytes are not the checkpoint that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// An item of a kind that there is not.
    Item {
        /// Its first byte.
        first_byte: u8,
    },
    /// A number has more than 64 bits.
    Number,
    /// A name that no map can have.
    MapName,
    /// Two maps of one name.
    MapTwice,
    /// More maps than a partition may have.
    TooManyMaps,
    /// A map without entries.
    MapEmpty,
    /// An entry of a map that was not named before it.
    UnknownMap {
        /// The map's number.
        number: u64,
    },
    /// An entry has more to it than this release knows of.
    UnknownFlags {
        /// All flags.
        flags: u64,
    },
    /// A key that is empty or too long.
    KeySize {
        /// Its length.
        size_bytes: u64,
    },
    /// A value that is too long.
    ValueSize {
        /// Its length.
        size_bytes: u64,
    },
    /// A time that no entry can have.
    Time,
    /// A session that none can be; what is wrong.
    Session(SessionFault),
    /// Two entries of one key.
    KeyTwice,
    /// An entry's version is 0, or newer than the checkpoint.
    Version {
        /// The version.
        version: Index,
    },
    /// The shard's memory for entries is used up.
    NoRoom,
    /// The number of entries differs from the one at the end.
    EntryCount {
        /// The one at the end.
        written: u64,
        /// How many were loaded.
        loaded: u64,
    },
    /// Something follows the end.
    AfterEnd,
    /// The end is missing.
    Incomplete,
    /// The state's digest is not the one that it should be.
    Digest {
        /// What it should be.
        expected: StateDigest,
        /// What was loaded.
        loaded: StateDigest,
    },
}

/// What is wrong with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionFault {
    /// Its id is 0, or that of another one, or after the checkpoint; or it is one too many.
    Id,
    /// No session lives that long, or was active at that time.
    Time,
    /// Its results are too many, too long, or not in their order within the window.
    Results,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Item { first_byte } => write!(f, "an item begins with {first_byte:#04x}"),
            Self::Number => f.write_str("a number has more than 64 bits"),
            Self::MapName => f.write_str("no map can have the name of one"),
            Self::MapTwice => f.write_str("two maps have the same name"),
            Self::TooManyMaps => {
                write!(f, "there are more than {NAMED_MAP_COUNT_MAX} maps")
            }
            Self::MapEmpty => f.write_str("a map has no entries"),
            Self::UnknownMap { number } => write!(f, "an entry is of map {number}, which is none"),
            Self::UnknownFlags { flags } => {
                write!(f, "an entry has flags {flags:#x}, which this release doesn't know")
            }
            Self::KeySize { size_bytes } => write!(f, "a key has {size_bytes} bytes"),
            Self::ValueSize { size_bytes } => write!(f, "a value has {size_bytes} bytes"),
            Self::Time => f.write_str("no entry can have the times of one"),
            Self::Session(SessionFault::Id) => f.write_str("a session has an id that can't be"),
            Self::Session(SessionFault::Time) => {
                f.write_str("no session can have the times of one")
            }
            Self::Session(SessionFault::Results) => {
                f.write_str("no session can have the results of one")
            }
            Self::KeyTwice => f.write_str("two entries have the same key"),
            Self::Version { version } => {
                write!(f, "an entry has version {version}, which isn't one of the checkpoint's")
            }
            Self::NoRoom => f.write_str("the shard has no memory left for entries"),
            Self::EntryCount { written, loaded } => {
                write!(f, "there should be {written} entries, but there are {loaded}")
            }
            Self::AfterEnd => f.write_str("something follows the end"),
            Self::Incomplete => f.write_str("the end is missing"),
            Self::Digest { expected, loaded } => {
                let (StateDigest(expected), StateDigest(loaded)) = (expected, loaded);
                write!(f, "the state's digest should be {expected:032x}, but is {loaded:032x}")
            }
        }
    }
}

impl std::error::Error for LoadError {}

/// Loads a map from the concatenated slices of a checkpoint, given in pieces of any size.
#[derive(Debug)]
pub struct MapLoader {
    map: PartitionMap,
    /// The lives of the maps, by their numbers in the checkpoint.
    maps: Vec<MapId>,
    /// The beginning of an item whose end is in a later piece.
    begun: Vec<u8>,
    entry_count: u64,
    version_max: Index,
    session_max: SessionId,
    has_ended: bool,
    /// Nothing can be loaded any more.
    failed: Option<LoadError>,
}

/// One item of a checkpoint.
#[derive(Debug)]
enum Item<'a> {
    Map(&'a str),
    Entry(Entry<'a>),
    Session(SessionId, Session),
    End { entry_count: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    map: u64,
    version: Index,
    created_ms: u64,
    updated_ms: u64,
    ttl_ms: u64,
    key: &'a [u8],
    value: &'a [u8],
}

impl MapLoader {
    /// Loads into an empty map, whose entries will be in `arena`.
    #[must_use]
    pub fn new(hasher: KeyHasher, arena: &mut Arena) -> Self {
        Self {
            map: PartitionMap::new(hasher, arena),
            maps: Vec::new(),
            begun: Vec::new(),
            entry_count: 0,
            version_max: Index(0),
            session_max: SessionId(0),
            has_ended: false,
            failed: None,
        }
    }

    /// Loads the next piece.
    ///
    /// # Errors
    /// Why the bytes are no checkpoint; all that can be done then is [`MapLoader::discard`].
    pub fn feed(&mut self, arena: &mut Arena, bytes: &[u8]) -> Result<(), LoadError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let loaded = self.load_all(arena, bytes);
        self.failed = loaded.err();
        loaded
    }

    fn load_all(&mut self, arena: &mut Arena, bytes: &[u8]) -> Result<(), LoadError> {
        if self.begun.is_empty() {
            let rest = self.load_items(arena, bytes)?;
            self.begun.extend_from_slice(rest);
            return Ok(());
        }
        let mut begun = std::mem::take(&mut self.begun);
        begun.extend_from_slice(bytes);
        let rest_size_bytes = self.load_items(arena, &begun)?.len();
        begun.drain(..begun.len() - rest_size_bytes);
        self.begun = begun;
        Ok(())
    }

    /// Loads all whole items; what is left is the beginning of one.
    fn load_items<'a>(
        &mut self,
        arena: &mut Arena,
        mut bytes: &'a [u8],
    ) -> Result<&'a [u8], LoadError> {
        while !bytes.is_empty() {
            if self.has_ended {
                return Err(LoadError::AfterEnd);
            }
            let mut reader = Reader { rest: bytes };
            let item = match reader.item() {
                Ok(item) => item,
                Err(Stop::NotWhole) => break,
                Err(Stop::Wrong(error)) => return Err(error),
            };
            bytes = reader.rest;
            match item {
                Item::Map(name) => self.load_map(name)?,
                Item::Entry(entry) => self.load_entry(arena, &entry)?,
                Item::Session(id, session) => self.load_session(id, session)?,
                Item::End { entry_count: written } if written != self.entry_count => {
                    return Err(LoadError::EntryCount { written, loaded: self.entry_count });
                }
                Item::End { .. } => self.has_ended = true,
            }
        }
        Ok(bytes)
    }

    fn load_map(&mut self, name: &str) -> Result<(), LoadError> {
        if self.maps.len() >= NAMED_MAP_COUNT_MAX {
            return Err(LoadError::TooManyMaps);
        }
        if self.map.maps.find(name).is_some() {
            return Err(LoadError::MapTwice);
        }
        self.maps.push(self.map.maps.bind(name, Index(0)));
        Ok(())
    }

    fn load_entry(&mut self, arena: &mut Arena, entry: &Entry<'_>) -> Result<(), LoadError> {
        let Entry { map: number, version, created_ms, updated_ms, ttl_ms, key, value } = *entry;
        let place = usize::try_from(number).ok();
        let map = place.and_then(|place| self.maps.get(place));
        let &map = map.ok_or(LoadError::UnknownMap { number })?;
        let hash = self.map.hasher.hash(self.map.maps.life(map).name(), key);
        if self.map.find(arena, map, key, hash).is_some() {
            return Err(LoadError::KeyTwice);
        }
        if arena.pages_size_bytes_left() == 0 {
            return Err(LoadError::NoRoom);
        }
        let removed = false;
        let new = NewRecord { map, version, created_ms, updated_ms, ttl_ms, removed, key, value };
        if ttl_ms > 0 {
            let key = ExpiryKey { expires_ms: updated_ms + ttl_ms, version };
            if self.map.maps.life(map).has_expiry(key) {
                return Err(LoadError::Version { version });
            }
        }
        self.map.load(arena, hash, &new);
        self.version_max = self.version_max.max(version);
        self.entry_count += 1;
        Ok(())
    }

    fn load_session(&mut self, id: SessionId, session: Session) -> Result<(), LoadError> {
        if !self.map.sessions.load(id, session) {
            return Err(LoadError::Session(SessionFault::Id));
        }
        self.session_max = self.session_max.max(id);
        Ok(())
    }

    /// Whether everything was fed, and is the state with this digest as of `applied`.
    ///
    /// # Errors
    /// If it isn't.
    pub fn check(&self, applied: Index, digest: StateDigest) -> Result<(), LoadError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if !self.has_ended {
            return Err(LoadError::Incomplete);
        }
        if self.version_max > applied {
            return Err(LoadError::Version { version: self.version_max });
        }
        if self.session_max.0 > applied.0 {
            return Err(LoadError::Session(SessionFault::Id));
        }
        if self.map.map_count() != self.maps.len() {
            return Err(LoadError::MapEmpty);
        }
        let (expected, loaded) = (digest, self.map.digest());
        if expected != loaded { Err(LoadError::Digest { expected, loaded }) } else { Ok(()) }
    }

    /// The map, if everything was fed and is the state with this digest as of `applied`, a slot
    /// with this time.
    ///
    /// # Errors
    /// As [`MapLoader::check`]; what was loaded stays in the arena then, so whoever goes on with it
    /// checks first, and discards.
    pub fn finish(
        self,
        applied: Index,
        time: Timestamp,
        digest: StateDigest,
    ) -> Result<PartitionMap, LoadError> {
        self.check(applied, digest)?;
        let mut map = self.map;
        map.horizon = Horizon::at(time.as_ms());
        map.applied = applied;
        map.committed = applied;
        Ok(map)
    }

    /// Frees what was loaded.
    pub fn discard(self, arena: &mut Arena) {
        self.map.discard(arena);
    }
}

/// Why an item can't be read.
enum Stop {
    /// Its end is still to come.
    NotWhole,
    /// It is none.
    Wrong(LoadError),
}

/// Reads items from a slice.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn item(&mut self) -> Result<Item<'a>, Stop> {
        match self.byte()? {
            ITEM_MAP => {
                let size_bytes = self.varint()?;
                if size_bytes > u64_from(MAP_NAME_SIZE_BYTES_MAX) {
                    return Err(Stop::Wrong(LoadError::MapName));
                }
                let name = operation::checked_map(self.bytes(size_bytes)?);
                name.map(Item::Map).map_err(|_| Stop::Wrong(LoadError::MapName))
            }
            ITEM_ENTRY => self.entry().map(Item::Entry),
            ITEM_SESSION => self.session(),
            ITEM_END => Ok(Item::End { entry_count: self.varint()? }),
            first_byte => Err(Stop::Wrong(LoadError::Item { first_byte })),
        }
    }

    /// Checks each field before it looks at the next one, so that what is wrong is refused however
    /// little of it is there.
    fn entry(&mut self) -> Result<Entry<'a>, Stop> {
        let map = self.varint()?;
        let flags = self.varint()?;
        if flags & !(FLAG_AGE | FLAG_TTL) != 0 {
            return Err(Stop::Wrong(LoadError::UnknownFlags { flags }));
        }
        let version = Index(self.varint()?);
        if version == Index(0) {
            return Err(Stop::Wrong(LoadError::Version { version }));
        }
        let updated_ms = self.varint()?;
        let age_ms = if flags & FLAG_AGE != 0 { self.varint()? } else { 0 };
        let created_ms = updated_ms.checked_sub(age_ms).filter(|_| updated_ms <= MS_MAX);
        let created_ms = created_ms.ok_or(Stop::Wrong(LoadError::Time))?;
        let ttl_ms = if flags & FLAG_TTL != 0 { self.varint()? } else { 0 };
        if ttl_ms > ENTRY_TTL_MS_MAX || (ttl_ms == 0) != (flags & FLAG_TTL == 0) {
            return Err(Stop::Wrong(LoadError::Time));
        }
        let key_size_bytes = self.varint()?;
        if key_size_bytes == 0 || key_size_bytes > u64_from(KEY_SIZE_BYTES_MAX) {
            return Err(Stop::Wrong(LoadError::KeySize { size_bytes: key_size_bytes }));
        }
        let value_size_bytes = self.varint()?;
        if value_size_bytes > u64_from(VALUE_SIZE_BYTES_MAX) {
            return Err(Stop::Wrong(LoadError::ValueSize { size_bytes: value_size_bytes }));
        }
        let key = self.bytes(key_size_bytes)?;
        let value = self.bytes(value_size_bytes)?;
        Ok(Entry { map, version, created_ms, updated_ms, ttl_ms, key, value })
    }

    /// As an entry, field by field.
    fn session(&mut self) -> Result<Item<'a>, Stop> {
        let wrong = |fault| Stop::Wrong(LoadError::Session(fault));
        let id = SessionId(self.varint()?);
        if id == SessionId(0) {
            return Err(wrong(SessionFault::Id));
        }
        let ttl_s = u32::try_from(self.varint()?).ok();
        let ttl_s = ttl_s.filter(|ttl_s| (SESSION_TTL_S_MIN..=SESSION_TTL_S_MAX).contains(ttl_s));
        let ttl_s = ttl_s.ok_or_else(|| wrong(SessionFault::Time))?;
        let active_s = self.varint()?;
        if active_s > MS_MAX / 1_000 {
            return Err(wrong(SessionFault::Time));
        }
        let ack_below = Sequence(self.varint()?);
        let count = self.varint()?;
        if ack_below == Sequence(0) || count > SESSION_WINDOW_COUNT {
            return Err(wrong(SessionFault::Results));
        }
        let (mut results, mut size_bytes_left) = (Vec::new(), SESSION_RESULTS_SIZE_BYTES_MAX);
        let mut least = ack_below.0;
        for _ in 0..count {
            let sequence = self.varint()?;
            let size_bytes = self.varint()?;
            let is_in_window = sequence >= least && sequence - ack_below.0 < SESSION_WINDOW_COUNT;
            if !is_in_window
                || size_bytes == 0
                || size_bytes > u64_from(SESSION_RESULTS_SIZE_BYTES_MAX)
            {
                return Err(wrong(SessionFault::Results));
            }
            let result = StoredResult::new(self.bytes(size_bytes)?);
            let left = size_bytes_left.checked_sub(result.long_size_bytes());
            size_bytes_left = left.ok_or_else(|| wrong(SessionFault::Results))?;
            results.push((Sequence(sequence), result));
            least = sequence.saturating_add(1);
        }
        Ok(Item::Session(id, Session::loaded(ttl_s, active_s, ack_below, results)))
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        let (&first, rest) = self.rest.split_first().ok_or(Stop::NotWhole)?;
        self.rest = rest;
        Ok(first)
    }

    fn varint(&mut self) -> Result<u64, Stop> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits {
                return Err(Stop::Wrong(LoadError::Number));
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Stop::Wrong(LoadError::Number))
    }

    fn bytes(&mut self, size_bytes: u64) -> Result<&'a [u8], Stop> {
        let (bytes, rest) =
            self.rest.split_at_checked(usize_from(size_bytes)).ok_or(Stop::NotWhole)?;
        self.rest = rest;
        Ok(bytes)
    }
}
