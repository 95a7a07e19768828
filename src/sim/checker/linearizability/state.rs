//! What was seen against what the log made of it.

use std::collections::BTreeMap;

use super::super::Violation;
use super::facts::{Facts, Observation, View};
use super::order::reached_before;
use super::violation;
use crate::base::cast::u64_from;
use crate::base::ids::{Index, PartitionId};
use crate::sim::history::{
    Action, Freshness, Key, Operation, Outcome, Scope, Seen, Universe, ValueId,
};

/// What a command made of a key, by slot.
type Writes = BTreeMap<Index, Option<ValueId>>;

/// The log as far as it is known.
struct Log<'f, 'h> {
    facts: &'f Facts<'h>,
    writes: BTreeMap<Key, Writes>,
    /// When the first put of a key was asked for of which nobody knows whether it was done.
    unknown_puts: BTreeMap<Key, u64>,
    /// The same of anything that may have changed a map.
    unknown_writes: BTreeMap<u8, u64>,
    /// Clears of whole maps that were done.
    clears: Vec<WholeClear>,
}

/// A clear of a whole map that was done.
struct WholeClear {
    operation: usize,
    map: u8,
    ended: u64,
    /// The slots that each partition had reached before it was asked for.
    reached: BTreeMap<PartitionId, Index>,
}

/// A value that vanished, though no known command removed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Vanished {
    /// Who vanished.
    version: Index,
    /// The end of the operation that missed it first.
    missed_by: u64,
    operation: usize,
}

pub(super) fn check(facts: &Facts<'_>) -> Result<(), Violation> {
    let log = Log::new(facts);
    let mut vanished: BTreeMap<Key, BTreeMap<Index, Vanished>> = BTreeMap::new();
    for observation in &facts.observations {
        if let Some(found) = log.check(observation)? {
            let values = vanished.entry(observation.key).or_default();
            let first = values.entry(found.version).or_insert(found);
            first.missed_by = first.missed_by.min(found.missed_by);
        }
    }
    for (key, values) in vanished {
        log.check_vanished(key, values.into_values().collect())?;
    }
    log.check_times()?;
    log.check_sizes()
}

fn writes(facts: &Facts<'_>) -> BTreeMap<Key, Writes> {
    let history = facts.history;
    let mut writes: BTreeMap<Key, Writes> = BTreeMap::new();
    for (partition, found) in &facts.partitions {
        for placed in &found.commands {
            let operation = &history.operations[placed.operation];
            match (operation.action, &operation.outcome) {
                (_, Outcome::ConditionFailed { .. } | Outcome::Removed { existed: false, .. }) => {}
                (Action::Put { key, value, .. }, _) => {
                    writes.entry(key).or_default().insert(placed.index, Some(value));
                }
                (Action::Remove { key, .. }, _) => {
                    writes.entry(key).or_default().insert(placed.index, None);
                }
                (Action::Clear { map, .. }, _) => {
                    for key in keys_of(&history.universe, map, *partition) {
                        writes.entry(key).or_default().insert(placed.index, None);
                    }
                }
                _ => {}
            }
        }
    }
    writes
}

fn keys_of(universe: &Universe, map: u8, partition: PartitionId) -> impl Iterator<Item = Key> {
    let is_there = move |key: &Key| key.map == map && universe.partition_of(*key) == partition;
    universe.keys().filter(is_there)
}

impl<'f, 'h> Log<'f, 'h> {
    fn new(facts: &'f Facts<'h>) -> Self {
        let operations = &facts.history.operations;
        let mut unknown_puts = BTreeMap::new();
        let mut unknown_writes = BTreeMap::new();
        // In the order in which they were asked for: the first of each stays.
        for operation in operations {
            let is_unknown = matches!(operation.outcome, Outcome::Unknown | Outcome::Open);
            let invoked = operation.invoked.number;
            match operation.action {
                // Nobody knows when what has expired is removed.
                Action::Put { key, value, .. } if facts.history.ttl_ms(value).is_some() => {
                    if is_unknown && facts.version_of(value).is_none() {
                        unknown_puts.entry(key).or_insert(invoked);
                    }
                    unknown_writes.entry(key.map).or_insert(invoked);
                }
                Action::Put { key, value, .. }
                    if is_unknown && facts.version_of(value).is_none() =>
                {
                    unknown_puts.entry(key).or_insert(invoked);
                    unknown_writes.entry(key.map).or_insert(invoked);
                }
                Action::Remove { key, .. } if is_unknown => {
                    unknown_writes.entry(key.map).or_insert(invoked);
                }
                Action::Clear { map, scope } => {
                    let is_done = !matches!(operation.outcome, Outcome::Failed(_));
                    if is_unknown || scope == Scope::Whole && is_done {
                        unknown_writes.entry(map).or_insert(invoked);
                    }
                }
                _ => {}
            }
        }
        let clears = facts.whole_clears.iter().filter_map(|&number| {
            let operation = &operations[number];
            let Action::Clear { map, .. } = operation.action else { return None };
            let reached =
                facts.partitions.keys().map(|id| (*id, reached_before(facts, *id, number)));
            let ended = operation.ended?.number;
            Some(WholeClear { operation: number, map, ended, reached: reached.collect() })
        });
        let clears = clears.collect();
        Self { facts, writes: writes(facts), unknown_puts, unknown_writes, clears }
    }
}

impl Log<'_, '_> {
    fn last_write(&self, key: Key, as_of: Index) -> Option<(Index, Option<ValueId>)> {
        let writes = self.writes.get(&key)?;
        writes.range(..=as_of).next_back().map(|(index, value)| (*index, *value))
    }

    /// Checks what somebody saw of a key; says so if a value must have been removed by somebody
    /// whose outcome nobody knows.
    fn check(&self, observation: &Observation) -> Result<Option<Vanished>, Violation> {
        let Observation { operation, key, as_of, view } = *observation;
        let last = self.last_write(key, as_of);
        match (view, last) {
            (View::Is(seen), Some((index, Some(value))))
                if index == seen.version && value == seen.value =>
            {
                self.not_expired_before(observation, index, value)?;
                self.not_cleared_before(observation, seen)?;
                Ok(None)
            }
            (View::Is(_), _) => Err(self.wrong(observation, last)),
            (View::Present, Some((index, Some(value)))) => {
                // Or what nobody knows of was put there meanwhile.
                match self.may_be_put(key, operation) {
                    true => Ok(None),
                    false => self.not_expired_before(observation, index, value).map(|()| None),
                }
            }
            (View::Present, _) if self.may_be_put(key, operation) => Ok(None),
            (View::Present, _) => Err(self.wrong(observation, last)),
            (View::Absent, Some((version, Some(value))))
                if self.may_have_expired(observation, version, value) =>
            {
                Ok(None)
            }
            (View::Absent, Some((version, Some(_)))) => {
                Ok(Some(Vanished { version, missed_by: self.ended(operation), operation }))
            }
            (View::Absent, _) => Ok(None),
        }
    }

    /// The log's time when somebody saw a key: that of its own slot if it was a command, else of
    /// the slot that a read reflects.
    fn log_time_of(&self, observation: &Observation) -> Option<u64> {
        let Observation { operation, key, as_of, .. } = *observation;
        let is_command = self.operation(operation).action.is_write();
        let index = if is_command { as_of.next() } else { as_of };
        self.slot_time(key, index)
    }

    fn slot_time(&self, key: Key, index: Index) -> Option<u64> {
        let history = self.facts.history;
        history.slot_times.get(&(history.universe.partition_of(key), index)).copied()
    }

    /// Whether what was put in a slot isn't there any more by the log's time. `None`: nobody knows.
    fn has_expired(
        &self,
        observation: &Observation,
        version: Index,
        value: ValueId,
    ) -> Option<bool> {
        let Some(ttl_ms) = self.facts.history.ttl_ms(value) else { return Some(false) };
        let put = self.slot_time(observation.key, version)?;
        Some(self.log_time_of(observation)? >= put.saturating_add(ttl_ms))
    }

    /// What has expired isn't seen.
    fn not_expired_before(
        &self,
        observation: &Observation,
        version: Index,
        value: ValueId,
    ) -> Result<(), Violation> {
        if self.has_expired(observation, version, value) != Some(true) {
            return Ok(());
        }
        let what = format!("{} of slot {version} outlives its time", observation.key);
        Err(violation(self.facts.history, &what, &[observation.operation]))
    }

    /// Whether what is absent may be so because its time was over: by the log's time alone, which
    /// hides it from commands and reads alike.
    fn may_have_expired(&self, observation: &Observation, version: Index, value: ValueId) -> bool {
        let expires = self.facts.history.ttl_ms(value).is_some();
        expires && self.has_expired(observation, version, value) != Some(false)
    }

    fn operation(&self, number: usize) -> &Operation {
        &self.facts.history.operations[number]
    }

    fn wrong(
        &self,
        observation: &Observation,
        last: Option<(Index, Option<ValueId>)>,
    ) -> Violation {
        let Observation { operation, key, as_of, view } = observation;
        let what = format!("{key} as of slot {as_of}: seen {view:?}, but the log says {last:?}");
        violation(self.facts.history, &what, &[*operation])
    }

    /// What was there before a whole map was cleared isn't there when that is done.
    fn not_cleared_before(&self, observation: &Observation, seen: Seen) -> Result<(), Violation> {
        let reader = self.operation(observation.operation);
        let stale = Freshness::Linearizable;
        let is_fresh = match reader.action {
            Action::Get { freshness, .. } | Action::Exists { freshness, .. } => freshness == stale,
            _ => true,
        };
        let partition = self.facts.history.universe.partition_of(observation.key);
        for clear in &self.clears {
            let reached = clear.reached.get(&partition).copied().unwrap_or_default();
            if is_fresh
                && clear.map == observation.key.map
                && clear.ended < reader.invoked.number
                && seen.version <= reached
            {
                let what = format!("{} outlives the clear of its map", observation.key);
                let involved = [clear.operation, observation.operation];
                return Err(violation(self.facts.history, &what, &involved));
            }
        }
        Ok(())
    }

    /// Whether a put of unknown outcome that nobody saw can have been there.
    fn may_be_put(&self, key: Key, seen_by: usize) -> bool {
        self.unknown_puts.get(&key).is_some_and(|invoked| *invoked < self.ended(seen_by))
    }

    /// When an operation ended; the end of time if it didn't.
    fn ended(&self, number: usize) -> u64 {
        self.operation(number).ended.map_or(u64::MAX, |ended| ended.number)
    }

    /// Each value that vanished takes a removal of its own, asked for before it was missed.
    fn check_vanished(&self, key: Key, mut vanished: Vec<Vanished>) -> Result<(), Violation> {
        let removes = |operation: &Operation| {
            let is_unknown = matches!(operation.outcome, Outcome::Unknown | Outcome::Open);
            match operation.action {
                Action::Remove { key: removed, .. } => is_unknown && removed == key,
                // It may have replaced what was there, and have expired.
                Action::Put { key: replaced, value, .. } => {
                    let expires = self.facts.history.ttl_ms(value).is_some();
                    is_unknown && replaced == key && expires
                }
                Action::Clear { map, scope: Scope::Whole } => {
                    map == key.map && !matches!(operation.outcome, Outcome::Failed(_))
                }
                Action::Clear { map, scope: Scope::Partition(partition) } => {
                    is_unknown
                        && map == key.map
                        && partition == self.facts.history.universe.partition_of(key)
                }
                _ => false,
            }
        };
        let operations = self.facts.history.operations.iter();
        let removals: Vec<u64> = operations
            .filter(|operation| removes(operation))
            .map(|operation| operation.invoked.number)
            .collect();
        vanished.sort_unstable_by_key(|found| found.missed_by);
        for (place, found) in vanished.iter().enumerate() {
            let possible = removals.iter().filter(|invoked| **invoked < found.missed_by).count();
            if possible <= place {
                let what = format!("{key} of slot {} vanished: nobody removed it", found.version);
                return Err(violation(self.facts.history, &what, &[found.operation]));
            }
        }
        Ok(())
    }

    /// The log's time doesn't go back from slot to slot.
    fn check_times(&self) -> Result<(), Violation> {
        let mut times: BTreeMap<(PartitionId, Index), (i64, usize)> = BTreeMap::new();
        for observation in &self.facts.observations {
            let Observation { operation, key, view: View::Is(seen), .. } = *observation else {
                continue;
            };
            if seen.updated_ms > 0 {
                let partition = self.facts.history.universe.partition_of(key);
                times.insert((partition, seen.version), (seen.updated_ms, operation));
            }
        }
        let pairs = times.iter().zip(times.iter().skip(1));
        for (((one, _), (before, first)), ((other, index), (after, second))) in pairs {
            if one == other && before > after {
                let what = format!("the time of partition {one} goes back at slot {index}");
                return Err(violation(self.facts.history, &what, &[*first, *second]));
            }
        }
        Ok(())
    }

    /// Sizes, and what clears say that there was, where the state is known for certain.
    fn check_sizes(&self) -> Result<(), Violation> {
        for (number, operation) in self.facts.history.operations.iter().enumerate() {
            let (map, scope, as_of, entries, size_bytes) =
                match (operation.action, &operation.outcome) {
                    (
                        Action::Size { map, scope },
                        Outcome::Sized { index, entries, size_bytes },
                    ) => (map, scope, *index, *entries, Some(*size_bytes)),
                    (Action::Clear { map, scope }, Outcome::Cleared { index, entries }) => {
                        (map, scope, index.previous(), *entries, None)
                    }
                    _ => continue,
                };
            let Scope::Partition(partition) = scope else { continue };
            if self.is_uncertain(map, number) {
                continue;
            }
            let (expected, bytes) = self.size(map, partition, as_of);
            if entries != expected || size_bytes.is_some_and(|size_bytes| size_bytes != bytes) {
                let what = format!(
                    "map {map} of partition {partition} has {expected} entries and {bytes} bytes \
                     as of slot {as_of}"
                );
                return Err(violation(self.facts.history, &what, &[number]));
            }
        }
        Ok(())
    }

    /// Whether something may have been done to a map of which nobody knows the slot.
    fn is_uncertain(&self, map: u8, by: usize) -> bool {
        self.unknown_writes.get(&map).is_some_and(|invoked| *invoked < self.ended(by))
    }

    fn size(&self, map: u8, partition: PartitionId, as_of: Index) -> (u64, u64) {
        let history = self.facts.history;
        let present = keys_of(&history.universe, map, partition).filter_map(|key| {
            let (_, value) = self.last_write(key, as_of)?;
            let size = Universe::key_bytes(key).len() + history.value_size_bytes(value?);
            Some(u64_from(size))
        });
        present.fold((0, 0), |(entries, bytes), size| (entries + 1, bytes + size))
    }
}
