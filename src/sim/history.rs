//! What clients asked and were told, and in which order: the material of the checkers.
//!
//! Every put writes a value of its own, so that whoever reads it says which put it saw. What is
//! done for certain without an effect, with one, or nobody knows ([`Outcome`]) is told apart.

use std::collections::BTreeMap;

use super::ClientId;
use crate::base::cast::{u64_from, usize_from};
use crate::base::ids::{Index, PartitionId};
use crate::base::time::Monotonic;
use crate::proto::p2pmap::v1::error::Code;
use crate::wire::route::Router;

/// One of the keys of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The number of its map.
    pub map: u8,
    /// Its own number.
    pub number: u16,
}

/// What a put wrote: each writes another value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValueId(pub u64);

/// A value as somebody saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which put wrote it.
    pub value: ValueId,
    /// Its version: the slot of the command that wrote it.
    pub version: Index,
    /// The log's time of that slot.
    pub updated_ms: i64,
}

/// What must hold for a write to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// The key is absent.
    Absent,
    /// It is present.
    Present,
    /// It has this version.
    Version(Index),
    /// It has this value.
    Value(ValueId),
}

/// What an operation on a map is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One partition of it.
    Partition(PartitionId),
    /// All of it.
    Whole,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It reflects all that was answered before.
    Linearizable,
    /// It reflects this slot of its partition at least.
    Stale(Index),
}

/// What becomes of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionStep {
    /// It is opened.
    Open {
        /// How long it outlives its last command.
        ttl_ms: u64,
    },
    /// It is kept alive.
    Keep,
    /// It is closed.
    Close,
}

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sets a key's value.
    Put {
        /// The key.
        key: Key,
        /// The value.
        value: ValueId,
        /// On which condition.
        condition: Option<Expectation>,
        /// What was there before is to be told.
        wants_previous: bool,
    },
    /// Removes a key.
    Remove {
        /// The key.
        key: Key,
        /// On which condition.
        condition: Option<Expectation>,
        /// What was there before is to be told.
        wants_previous: bool,
    },
    /// Removes all entries of a map.
    Clear {
        /// The map.
        map: u8,
        /// All of it?
        scope: Scope,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: Key,
        /// How fresh.
        freshness: Freshness,
    },
    /// Asks whether a key is present.
    Exists {
        /// The key.
        key: Key,
        /// How fresh.
        freshness: Freshness,
    },
    /// Asks how many entries there are.
    Size {
        /// The map.
        map: u8,
        /// All of it?
        scope: Scope,
    },
    /// Opens, keeps or closes a session of the client.
    Session {
        /// Where.
        partition: PartitionId,
        /// Which of these.
        step: SessionStep,
    },
    /// Asks for entries.
    Entries {
        /// The map.
        map: u8,
        /// All of it?
        scope: Scope,
        /// How many at most.
        limit: u32,
    },
}

impl Action {
    /// Whether it may change something.
    #[must_use]
    pub const fn is_write(&self) -> bool {
        matches!(
            self,
            Self::Put { .. } | Self::Remove { .. } | Self::Clear { .. } | Self::Session { .. }
        )
    }

    /// The key that it is about, if it is about one.
    #[must_use]
    pub const fn key(&self) -> Option<Key> {
        match *self {
            Self::Put { key, .. }
            | Self::Remove { key, .. }
            | Self::Get { key, .. }
            | Self::Exists { key, .. } => Some(key),
            Self::Clear { .. }
            | Self::Size { .. }
            | Self::Session { .. }
            | Self::Entries { .. } => None,
        }
    }
}

/// Entries of one partition as they were at one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSeen {
    /// The partition.
    pub partition: PartitionId,
    /// The slot.
    pub index: Index,
    /// The entries.
    pub items: Vec<(Key, Seen)>,
    /// There may be more in this partition.
    pub is_cut: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It isn't over.
    Open,
    /// Nobody knows: a write may have been done, or be done later, or never.
    Unknown,
    /// It has certainly had no effect.
    Failed(Code),
    /// A put was done.
    Written {
        /// Its slot.
        index: Index,
        /// What it replaced, if that was asked for.
        previous: Option<Seen>,
    },
    /// Its condition didn't hold.
    ConditionFailed {
        /// Its slot.
        index: Index,
        /// What was there.
        current: Option<Seen>,
    },
    /// A removal was done.
    Removed {
        /// Its slot.
        index: Index,
        /// Whether there was something.
        existed: bool,
        /// What there was, if that was asked for.
        previous: Option<Seen>,
    },
    /// A clear was done; of a whole map without a slot.
    Cleared {
        /// Its slot; 0: it has several.
        index: Index,
        /// How many entries there were.
        entries: u64,
    },
    /// A key's entry.
    Found {
        /// The slot that this reflects.
        index: Index,
        /// The entry.
        entry: Option<Seen>,
    },
    /// Whether a key is present.
    Exists {
        /// The slot that this reflects.
        index: Index,
        /// Whether it is.
        exists: bool,
    },
    /// How many entries there are.
    Sized {
        /// The slot that this reflects; 0: several.
        index: Index,
        /// So many.
        entries: u64,
        /// So many bytes of keys and values.
        size_bytes: u64,
    },
    /// A session was opened, kept or closed.
    Session {
        /// The slot.
        index: Index,
        /// Which session.
        id: u64,
    },
    /// Entries.
    Listed(Vec<PageSeen>),
}

/// A point in the order of everything that clients did and were told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Its place in the order.
    pub number: u64,
    /// The time.
    pub at: Monotonic,
}

/// A request and what came of it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Whose.
    pub client: ClientId,
    /// What was asked.
    pub action: Action,
    /// When.
    pub invoked: Moment,
    /// When it was over for the client; `None`: it isn't, or it is not known whether it will ever
    /// have an effect.
    pub ended: Option<Moment>,
    /// What came of it.
    pub outcome: Outcome,
}

/// The keys of a run and where they belong.
#[derive(Clone, Debug)]
pub struct Universe {
    /// The named maps.
    pub map_count: u8,
    /// The keys of each.
    pub key_count: u16,
    /// The partitions.
    pub partition_count: u32,
    router: Router,
}

impl Universe {
    /// So many keys in so many maps.
    #[must_use]
    pub fn new(map_count: u8, key_count: u16, partition_count: u32) -> Self {
        Self { map_count, key_count, partition_count, router: Router::new(partition_count) }
    }

    /// A key's bytes: the same in all maps.
    #[must_use]
    pub fn key_bytes(key: Key) -> Vec<u8> {
        format!("key-{}", key.number).into_bytes()
    }

    /// The key with these bytes.
    #[must_use]
    pub fn key_of(&self, map: u8, bytes: &[u8]) -> Option<Key> {
        let text = std::str::from_utf8(bytes).ok()?;
        let number = text.strip_prefix("key-")?.parse().ok()?;
        (number < self.key_count && map < self.map_count).then_some(Key { map, number })
    }

    /// A map's name.
    #[must_use]
    pub fn map_name(map: u8) -> String {
        format!("map-{map}")
    }

    /// Where a key belongs.
    #[must_use]
    pub fn partition_of(&self, key: Key) -> PartitionId {
        self.router.partition_of_key(&Self::key_bytes(key))
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = Key> + use<> {
        let (map_count, key_count) = (self.map_count, self.key_count);
        (0..map_count).flat_map(move |map| (0..key_count).map(move |number| Key { map, number }))
    }
}

/// Everything that clients did.
#[derive(Clone, Debug)]
pub struct History {
    /// The keys.
    pub universe: Universe,
    /// The operations, in the order in which they were invoked.
    pub operations: Vec<Operation>,
    /// The log's time of slots, in ms, as far as anybody has seen them.
    pub slot_times: BTreeMap<(PartitionId, Index), u64>,
    /// How long the values are, by number.
    value_sizes: Vec<usize>,
    /// How long those of them are present that expire, in ms.
    value_ttls: BTreeMap<ValueId, u64>,
    next_moment: u64,
}

impl History {
    /// A history without operations.
    #[must_use]
    pub const fn new(universe: Universe) -> Self {
        Self {
            universe,
            operations: Vec::new(),
            slot_times: BTreeMap::new(),
            value_sizes: Vec::new(),
            value_ttls: BTreeMap::new(),
            next_moment: 0,
        }
    }

    /// A value that nobody has written yet, so many bytes long.
    pub fn new_value(&mut self, size_bytes: usize) -> ValueId {
        self.value_sizes.push(size_bytes.max(size_of::<u64>()));
        ValueId(u64_from(self.value_sizes.len()) - 1)
    }

    /// Whoever puts a value lets it expire so long after.
    pub fn set_ttl(&mut self, value: ValueId, ttl_ms: u64) {
        self.value_ttls.insert(value, ttl_ms);
    }

    /// How long a value is present; `None`: until it is removed.
    #[must_use]
    pub fn ttl_ms(&self, value: ValueId) -> Option<u64> {
        self.value_ttls.get(&value).copied()
    }

    /// Whether any value expires.
    #[must_use]
    pub fn has_ttls(&self) -> bool {
        !self.value_ttls.is_empty()
    }

    /// How long a value is.
    #[must_use]
    pub fn value_size_bytes(&self, value: ValueId) -> usize {
        self.value_sizes[usize_from(value.0)]
    }

    /// A value's bytes: its number, and filling that depends on it.
    #[must_use]
    pub fn value_bytes(&self, value: ValueId) -> Vec<u8> {
        let number = value.0.to_le_bytes();
        let mut bytes = number.to_vec();
        bytes.resize(self.value_size_bytes(value), number[0] ^ 0xA5);
        bytes
    }

    /// The value with these bytes; `None`: nobody wrote them.
    #[must_use]
    pub fn value_of(&self, bytes: &[u8]) -> Option<ValueId> {
        let value = ValueId(u64::from_le_bytes(*bytes.first_chunk()?));
        let is_known = value.0 < u64_from(self.value_sizes.len());
        (is_known && self.value_bytes(value) == bytes).then_some(value)
    }

    /// A client asks something; returns the operation's number.
    pub fn invoke(&mut self, client: ClientId, action: Action, at: Monotonic) -> usize {
        let invoked = self.moment(at);
        let outcome = Outcome::Open;
        self.operations.push(Operation { client, action, invoked, ended: None, outcome });
        self.operations.len() - 1
    }

    /// It is over for the client.
    ///
    /// # Panics
    /// If it was over already.
    pub fn end(&mut self, operation: usize, outcome: Outcome, at: Monotonic) {
        let moment = self.moment(at);
        let found = &mut self.operations[operation];
        assert_eq!(found.outcome, Outcome::Open, "an operation ends once");
        // A write of unknown outcome may be done at any later time.
        let never_ends = outcome == Outcome::Unknown && found.action.is_write();
        found.ended = (!never_ends).then_some(moment);
        found.outcome = outcome;
    }

    /// The partition that an operation is about; `None`: all.
    #[must_use]
    pub fn partition_of(&self, action: &Action) -> Option<PartitionId> {
        match *action {
            Action::Clear { scope, .. }
            | Action::Size { scope, .. }
            | Action::Entries { scope, .. } => match scope {
                Scope::Partition(partition) => Some(partition),
                Scope::Whole => None,
            },
            Action::Session { partition, .. } => Some(partition),
            Action::Put { key, .. }
            | Action::Remove { key, .. }
            | Action::Get { key, .. }
            | Action::Exists { key, .. } => Some(self.universe.partition_of(key)),
        }
    }

    /// How many operations came to which kind of end: for reports.
    #[must_use]
    pub fn outcome_counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for operation in &self.operations {
            let name = match operation.outcome {
                Outcome::Open => "open",
                Outcome::Unknown => "unknown",
                Outcome::Failed(_) => "failed",
                Outcome::ConditionFailed { .. } => "condition failed",
                _ => "done",
            };
            *counts.entry(name).or_default() += 1;
        }
        counts
    }

    const fn moment(&mut self, at: Monotonic) -> Moment {
        self.next_moment += 1;
        Moment { number: self.next_moment, at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_apart_and_bytes_that_nobody_wrote_are_none() {
        let mut history = History::new(Universe::new(1, 4, 4));
        let values: Vec<ValueId> = [3, 8, 500, 8].map(|size| history.new_value(size)).to_vec();
        for &value in &values {
            let mut bytes = history.value_bytes(value);
            assert_eq!(history.value_of(&bytes), Some(value));
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            assert_eq!(history.value_of(&bytes), None);
            bytes.pop();
            assert_eq!(history.value_of(&bytes), None);
        }
    }

    #[test]
    fn keys_are_found_by_their_bytes_and_others_are_none() {
        let universe = Universe::new(2, 40, 6);
        for key in universe.keys() {
            assert_eq!(universe.key_of(key.map, &Universe::key_bytes(key)), Some(key));
        }
        for bytes in [&b"key-40"[..], b"key-", b"kay-1", b"\xFF"] {
            assert_eq!(universe.key_of(0, bytes), None);
        }
    }

    #[test]
    fn write_of_unknown_outcome_never_ends_and_a_read_does() {
        let mut history = History::new(Universe::new(1, 4, 4));
        let key = Key { map: 0, number: 1 };
        let freshness = Freshness::Linearizable;
        let remove = Action::Remove { key, condition: None, wants_previous: false };
        for (action, ends) in [(remove, false), (Action::Get { key, freshness }, true)] {
            let operation = history.invoke(ClientId(0), action, Monotonic(1));
            history.end(operation, Outcome::Unknown, Monotonic(2));
            assert_eq!(history.operations[operation].ended.is_some(), ends);
        }
    }
}
