//! What a history says for certain, put where it belongs: which command has which slot, which read
//! reflects which, and what was seen of which key as of which slot.

use std::collections::BTreeMap;

use super::super::Violation;
use super::violation;
use crate::base::ids::{Index, PartitionId};
use crate::sim::history::{
    Action, Expectation, Freshness, History, Key, Operation, Outcome, PageSeen, Scope, Seen,
    ValueId,
};

/// An operation, and its slot or the one that it reflects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Placed {
    pub(super) index: Index,
    pub(super) operation: usize,
}

/// What an operation saw of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Is(Seen),
    Present,
    Absent,
}

/// What an operation saw of a key as of a slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observation {
    pub(super) operation: usize,
    pub(super) key: Key,
    pub(super) as_of: Index,
    pub(super) view: View,
}

/// What is known of one partition.
#[derive(Debug, Default)]
pub(super) struct PartitionFacts {
    /// Commands that were executed, by slot.
    pub(super) commands: Vec<Placed>,
    /// Linearizable reads.
    pub(super) reads: Vec<Placed>,
}

/// What is known.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) history: &'a History,
    pub(super) partitions: BTreeMap<PartitionId, PartitionFacts>,
    pub(super) observations: Vec<Observation>,
    /// The version of each value that has one, as far as anybody knows.
    pub(super) versions: BTreeMap<ValueId, Index>,
    /// Which value was put in a slot: the same the other way round.
    values: BTreeMap<(PartitionId, Index), ValueId>,
    /// Clears of whole maps that were done: a slot in each partition, which nobody knows.
    pub(super) whole_clears: Vec<usize>,
    /// Which operation puts a value.
    putters: BTreeMap<ValueId, usize>,
}

impl<'a> Facts<'a> {
    pub(super) fn gather(history: &'a History) -> Result<Self, Violation> {
        let putters = history.operations.iter().enumerate().filter_map(|(number, operation)| {
            let Action::Put { value, .. } = operation.action else { return None };
            Some((value, number))
        });
        let mut facts = Self {
            history,
            partitions: BTreeMap::new(),
            observations: Vec::new(),
            versions: BTreeMap::new(),
            values: BTreeMap::new(),
            whole_clears: Vec::new(),
            putters: putters.collect(),
        };
        for (number, operation) in history.operations.iter().enumerate() {
            facts.take(number, operation)?;
        }
        facts.reveal();
        for partition in facts.partitions.values_mut() {
            partition.commands.sort_unstable();
        }
        Ok(facts)
    }

    /// The version that a put has, if anybody knows it.
    pub(super) fn version_of(&self, value: ValueId) -> Option<Index> {
        self.versions.get(&value).copied()
    }

    fn take(&mut self, number: usize, operation: &Operation) -> Result<(), Violation> {
        let Operation { action, outcome, .. } = operation;
        match (*action, outcome) {
            (_, Outcome::Open | Outcome::Unknown | Outcome::Failed(_)) => Ok(()),
            (
                Action::Put { key, value, condition, wants_previous },
                Outcome::Written { index, previous },
            ) => {
                self.command(number, key, *index);
                self.note_version(number, value, *index)?;
                self.condition_held(number, key, condition, *index);
                match previous {
                    _ if !wants_previous => Ok(()),
                    previous => self.see(number, key, index.previous(), *previous),
                }
            }
            (
                Action::Put { key, condition: Some(condition), .. }
                | Action::Remove { key, condition: Some(condition), .. },
                Outcome::ConditionFailed { index, current },
            ) => {
                self.command(number, key, *index);
                if holds(condition, *current) {
                    return Err(self.contradiction("a condition that holds failed", &[number]));
                }
                self.see(number, key, index.previous(), *current)
            }
            (
                Action::Remove { key, condition, wants_previous },
                Outcome::Removed { index, existed, previous },
            ) => {
                self.command(number, key, *index);
                self.condition_held(number, key, condition, *index);
                if previous.is_some() != (*existed && wants_previous) {
                    return Err(self.contradiction("a removal contradicts itself", &[number]));
                }
                match previous {
                    Some(previous) => self.see(number, key, index.previous(), Some(*previous)),
                    None => {
                        let view = if *existed { View::Present } else { View::Absent };
                        self.observe(number, key, index.previous(), view);
                        Ok(())
                    }
                }
            }
            (Action::Session { partition, .. }, Outcome::Session { index, .. }) => {
                self.place_command(number, partition, *index);
                Ok(())
            }
            (Action::Clear { scope, .. }, Outcome::Cleared { index, .. }) => {
                match scope {
                    Scope::Partition(partition) => self.place_command(number, partition, *index),
                    Scope::Whole => self.whole_clears.push(number),
                }
                Ok(())
            }
            _ => self.take_read(number, operation),
        }
    }

    fn take_read(&mut self, number: usize, operation: &Operation) -> Result<(), Violation> {
        match (operation.action, &operation.outcome) {
            (Action::Get { key, freshness }, Outcome::Found { index, entry }) => {
                self.place_read(number, key, freshness, *index)?;
                self.see(number, key, *index, *entry)
            }
            (Action::Exists { key, freshness }, Outcome::Exists { index, exists }) => {
                self.place_read(number, key, freshness, *index)?;
                let view = if *exists { View::Present } else { View::Absent };
                self.observe(number, key, *index, view);
                Ok(())
            }
            (Action::Size { scope, .. }, Outcome::Sized { index, .. }) => {
                if let Scope::Partition(partition) = scope {
                    let placed = Placed { index: *index, operation: number };
                    self.partitions.entry(partition).or_default().reads.push(placed);
                }
                Ok(())
            }
            (Action::Entries { map, limit, .. }, Outcome::Listed(pages)) => {
                let count: usize = pages.iter().map(|page| page.items.len()).sum();
                if u64::from(limit) < crate::base::cast::u64_from(count) {
                    return Err(self.contradiction("more entries than asked for", &[number]));
                }
                pages.iter().try_for_each(|page| self.take_page(number, map, page))
            }
            _ => Err(self.contradiction("answered with something else", &[number])),
        }
    }

    fn take_page(&mut self, number: usize, map: u8, page: &PageSeen) -> Result<(), Violation> {
        let PageSeen { partition, index, ref items, is_cut } = *page;
        let placed = Placed { index, operation: number };
        self.partitions.entry(partition).or_default().reads.push(placed);
        let universe = &self.history.universe;
        for (place, (key, seen)) in items.iter().enumerate() {
            let is_twice = items[..place].iter().any(|(other, _)| other == key);
            if is_twice || universe.partition_of(*key) != partition || key.map != map {
                return Err(self.contradiction("a list of what isn't there", &[number]));
            }
            self.see(number, *key, index, Some(*seen))?;
        }
        if !is_cut {
            let is_absent = |key: &Key| {
                key.map == map
                    && universe.partition_of(*key) == partition
                    && !items.iter().any(|(listed, _)| listed == key)
            };
            let absent: Vec<Key> = universe.keys().filter(is_absent).collect();
            for key in absent {
                self.observe(number, key, index, View::Absent);
            }
        }
        Ok(())
    }

    /// Puts of unknown outcome whose value was seen have taken effect, in the slot that it says.
    fn reveal(&mut self) {
        for (value, operation) in self.putters.clone() {
            let found = &self.history.operations[operation];
            let (Outcome::Unknown | Outcome::Open, Action::Put { key, .. }) =
                (&found.outcome, found.action)
            else {
                continue;
            };
            if let Some(index) = self.version_of(value) {
                self.command(operation, key, index);
            }
        }
    }

    fn command(&mut self, operation: usize, key: Key, index: Index) {
        self.place_command(operation, self.history.universe.partition_of(key), index);
    }

    fn place_command(&mut self, operation: usize, partition: PartitionId, index: Index) {
        self.partitions.entry(partition).or_default().commands.push(Placed { index, operation });
    }

    fn place_read(
        &mut self,
        number: usize,
        key: Key,
        freshness: Freshness,
        index: Index,
    ) -> Result<(), Violation> {
        match freshness {
            Freshness::Linearizable => {
                let partition = self.history.universe.partition_of(key);
                let placed = Placed { index, operation: number };
                self.partitions.entry(partition).or_default().reads.push(placed);
                Ok(())
            }
            Freshness::Stale(min_index) if index < min_index => {
                Err(self.contradiction("an answer older than what was asked for", &[number]))
            }
            Freshness::Stale(_) => Ok(()),
        }
    }

    fn condition_held(
        &mut self,
        number: usize,
        key: Key,
        condition: Option<Expectation>,
        index: Index,
    ) {
        let before = index.previous();
        match condition {
            None => {}
            Some(Expectation::Absent) => self.observe(number, key, before, View::Absent),
            Some(Expectation::Present) => self.observe(number, key, before, View::Present),
            Some(Expectation::Version(version)) => {
                let slot = (self.history.universe.partition_of(key), version);
                let value = self.values.get(&slot).copied();
                let value = value.filter(|value| self.key_of(*value) == Some(key));
                let view = value.map_or(View::Present, |value| {
                    View::Is(Seen { value, version, updated_ms: 0 })
                });
                self.observe(number, key, before, view);
            }
            Some(Expectation::Value(value)) => {
                let view = self.version_of(value).map_or(View::Present, |version| {
                    View::Is(Seen { value, version, updated_ms: 0 })
                });
                self.observe(number, key, before, view);
            }
        }
    }

    /// An operation saw a key, its entry or that there is none.
    fn see(
        &mut self,
        number: usize,
        key: Key,
        as_of: Index,
        seen: Option<Seen>,
    ) -> Result<(), Violation> {
        let Some(seen) = seen else {
            self.observe(number, key, as_of, View::Absent);
            return Ok(());
        };
        self.note_version(number, seen.value, seen.version)?;
        let Some(&putter) = self.putters.get(&seen.value) else {
            return Err(self.contradiction("a value that nobody put was seen", &[number]));
        };
        let operations = &self.history.operations;
        let put = &operations[putter];
        if self.key_of(seen.value) != Some(key) {
            return Err(self.contradiction("a value was seen at another key", &[number, putter]));
        }
        if matches!(put.outcome, Outcome::Failed(_) | Outcome::ConditionFailed { .. }) {
            return Err(self.contradiction("a put without effect was seen", &[number, putter]));
        }
        if operations[number].ended.is_some_and(|ended| ended < put.invoked) {
            return Err(self.contradiction("a value was seen before its put", &[number, putter]));
        }
        self.observe(number, key, as_of, View::Is(seen));
        Ok(())
    }

    fn observe(&mut self, operation: usize, key: Key, as_of: Index, view: View) {
        self.observations.push(Observation { operation, key, as_of, view });
    }

    fn key_of(&self, value: ValueId) -> Option<Key> {
        let putter = self.putters.get(&value)?;
        self.history.operations[*putter].action.key()
    }

    fn note_version(
        &mut self,
        number: usize,
        value: ValueId,
        version: Index,
    ) -> Result<(), Violation> {
        if let Some(key) = self.key_of(value) {
            let partition = self.history.universe.partition_of(key);
            self.values.entry((partition, version)).or_insert(value);
        }
        match self.versions.insert(value, version) {
            Some(before) if before != version => {
                let what = format!("one put took effect in slot {before} and in slot {version}");
                let putter = self.putters.get(&value).copied();
                let involved: Vec<usize> = putter.into_iter().chain([number]).collect();
                Err(self.contradiction(&what, &involved))
            }
            _ => Ok(()),
        }
    }

    fn contradiction(&self, what: &str, operations: &[usize]) -> Violation {
        violation(self.history, what, operations)
    }
}

/// Whether a condition holds of what is there.
fn holds(condition: Expectation, current: Option<Seen>) -> bool {
    match condition {
        Expectation::Absent => current.is_none(),
        Expectation::Present => current.is_some(),
        Expectation::Version(version) => current.is_some_and(|seen| seen.version == version),
        Expectation::Value(value) => current.is_some_and(|seen| seen.value == value),
    }
}
