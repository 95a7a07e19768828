//! What the clients do and are told, written down as they do it.
//!
//! One history, one clock, one lock: an operation is written down before it is sent, and its answer
//! after it came, so that the order of what is written is an order in time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::limits::CHAOS_PARTITION_COUNT;
use crate::base::time::Monotonic;
use crate::runtime::clock::Clock;
use crate::sim::ClientId;
use crate::sim::checker::{Checker, Violation};
use crate::sim::history::{Action, History, Outcome, Universe};

/// The maps and keys of a run: few, so that clients meet, and some in each partition.
const MAP_COUNT: u8 = 2;
const KEY_COUNT: u16 = 60;

/// The history of a run that goes on.
#[derive(Debug)]
pub(super) struct Record {
    clock: Clock,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    history: History,
    /// What nodes said that no node may say.
    violations: Vec<Violation>,
}

impl Record {
    /// Nothing yet.
    pub(super) fn start() -> Self {
        let universe = Universe::new(MAP_COUNT, KEY_COUNT, CHAOS_PARTITION_COUNT);
        let written = Written { history: History::new(universe), violations: Vec::new() };
        Self { clock: Clock::start(), written: Mutex::new(written) }
    }

    pub(super) fn now(&self) -> Monotonic {
        self.clock.monotonic()
    }

    /// Looks at the history, or makes new values for it.
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut History) -> T) -> T {
        look(&mut self.lock().history)
    }

    /// A client is about to ask something.
    pub(super) fn invoke(&self, client: ClientId, action: Action) -> usize {
        let mut written = self.lock();
        let now = self.clock.monotonic();
        written.history.invoke(client, action, now)
    }

    /// It was told something. What no node may say counts as an answer that nobody knows.
    pub(super) fn end(
        &self,
        operation: usize,
        understand: impl FnOnce(&History) -> Result<Outcome, String>,
    ) {
        let mut written = self.lock();
        let now = self.clock.monotonic();
        let outcome = understand(&written.history).unwrap_or_else(|what| {
            let action = written.history.operations[operation].action;
            let violation = Violation::new(Checker::Sense, format!("{action:?}: {what}"));
            written.violations.push(violation.at(now));
            Outcome::Unknown
        });
        written.history.end(operation, outcome, now);
    }

    /// All of it, when nobody writes any more.
    pub(super) fn finish(self) -> (History, Vec<Violation>) {
        let written = self.written.into_inner().unwrap_or_else(PoisonError::into_inner);
        (written.history, written.violations)
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::base::ids::{Index, PartitionId};
    use crate::sim::history::{Freshness, Key};

    #[test]
    fn every_partition_has_keys() {
        let keyed: BTreeSet<PartitionId> = Record::start().with(|history| {
            let universe = &history.universe;
            universe.keys().map(|key| universe.partition_of(key)).collect()
        });
        assert_eq!(keyed, (0..CHAOS_PARTITION_COUNT).map(PartitionId).collect());
    }

    #[test]
    fn nonsense_is_a_violation_and_nobody_knows_what_came_of_it() {
        let record = Record::start();
        let key = Key { map: 0, number: 1 };
        let get = Action::Get { key, freshness: Freshness::Linearizable };
        let first = record.invoke(ClientId(1), get);
        let second = record.invoke(ClientId(2), get);
        record.end(second, |_| Err("a page of nothing".to_owned()));
        record.end(first, |_| Ok(Outcome::Found { index: Index(1), entry: None }));
        let (history, violations) = record.finish();
        assert_eq!(history.operations[second].outcome, Outcome::Unknown);
        assert_eq!((violations.len(), violations[0].checker), (1, Checker::Sense));
        // In the order in which it happened, by one clock.
        let [first, second] = [&history.operations[first], &history.operations[second]];
        assert!(first.invoked < second.invoked && second.ended < first.ended);
        assert!(first.invoked.at <= second.invoked.at && second.ended.map(|end| end.at).is_some());
    }
}
