//! What came of a run, and of many.

use std::collections::BTreeMap;

use super::checker::Violation;
use super::fault::Fault;
use crate::base::mark;

/// What a run may come by in the simulator itself; the marks of the code under test are listed by
/// [`mark`].
pub const PLACES: [&str; 21] = [
    "checkpoint failed",
    "checkpoint installed at a start",
    "checkpoint recorded",
    "damage refused at a start",
    "damage reported while running",
    "disk found to be another one",
    "disk rolled back",
    "garbage segment removed",
    "interrupted while partitions were moved",
    "log allowed to be larger",
    "partition suspect at a start",
    "partitions moved to another number of shards",
    "scrub found damage",
    "segment recycled",
    "segment refused",
    "sent again after a reconnection",
    "slots carried over",
    "start after a clean end",
    "start failed and tried again",
    "torn tail cut",
    "write error ended the node",
];

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The run.
    pub seed: u64,
    /// What must not be, if something was.
    pub violation: Option<Violation>,
    /// Stands for everything that happened: the same seed has the same one.
    pub trace_hash: u64,
    /// How much happened.
    pub events_count: u64,
    /// How long it was, in virtual time.
    pub virtual_ns: u64,
    /// How many operations the clients had.
    pub operations_count: u64,
    /// How many of them came to which end.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// How many states of a key were checked.
    pub observations_count: u64,
    /// For how many keys any order was searched and found, and for how many the search gave up.
    pub searched: (u64, u64),
    /// How often each kind of fault was there.
    pub faults: BTreeMap<Fault, u64>,
    /// How often the run came by which place.
    pub marks: BTreeMap<&'static str, u64>,
}

impl Report {
    /// A fault was made.
    pub fn fault(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    /// The run came by a place, so many times.
    ///
    /// # Panics
    /// If the place isn't listed: nobody would miss it.
    pub fn mark(&mut self, place: &'static str, count: u64) {
        assert!(PLACES.contains(&place) || mark::ALL.contains(&place), "{place} is listed");
        if count > 0 {
            *self.marks.entry(place).or_default() += count;
        }
    }
}

/// What came of many runs.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many there were.
    pub runs_count: u64,
    /// How long they were together, in virtual time.
    pub virtual_ns: u64,
    /// How much happened.
    pub events_count: u64,
    /// How many operations clients had.
    pub operations_count: u64,
    /// How many of them came to which end.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// How many states of a key were checked.
    pub observations_count: u64,
    /// For how many keys any order was searched and found, and for how many the search gave up.
    pub searched: (u64, u64),
    /// Faults, and in how many runs there were any of that kind.
    pub faults: BTreeMap<Fault, (u64, u64)>,
    /// Places, and how many runs came by.
    pub marks: BTreeMap<&'static str, (u64, u64)>,
    /// The runs in which something was that must not be, the lowest seed first.
    pub violations: BTreeMap<u64, Violation>,
}

impl Summary {
    /// The places that no run came by.
    pub fn never_hit(&self) -> impl Iterator<Item = &'static str> + '_ {
        let places = PLACES.into_iter().chain(mark::ALL);
        places.filter(|place| !self.marks.contains_key(place))
    }

    /// Adds a run.
    pub fn add(&mut self, report: &Report) {
        self.runs_count += 1;
        self.virtual_ns += report.virtual_ns;
        self.events_count += report.events_count;
        self.operations_count += report.operations_count;
        self.observations_count += report.observations_count;
        self.searched.0 += report.searched.0;
        self.searched.1 += report.searched.1;
        for (name, count) in &report.outcomes {
            *self.outcomes.entry(name).or_default() += count;
        }
        for (fault, count) in &report.faults {
            let (times, runs) = self.faults.entry(*fault).or_default();
            (*times, *runs) = (*times + count, *runs + 1);
        }
        for (place, count) in &report.marks {
            let (times, runs) = self.marks.entry(place).or_default();
            (*times, *runs) = (*times + count, *runs + 1);
        }
        if let Some(violation) = &report.violation {
            self.violations.insert(report.seed, violation.clone());
        }
    }

    /// Adds what others have added.
    pub fn merge(&mut self, other: Self) {
        self.runs_count += other.runs_count;
        self.virtual_ns += other.virtual_ns;
        self.events_count += other.events_count;
        self.operations_count += other.operations_count;
        self.observations_count += other.observations_count;
        self.searched.0 += other.searched.0;
        self.searched.1 += other.searched.1;
        for (name, count) in other.outcomes {
            *self.outcomes.entry(name).or_default() += count;
        }
        for (fault, (times, runs)) in other.faults {
            let known = self.faults.entry(fault).or_default();
            *known = (known.0 + times, known.1 + runs);
        }
        for (place, (times, runs)) in other.marks {
            let known = self.marks.entry(place).or_default();
            *known = (known.0 + times, known.1 + runs);
        }
        self.violations.extend(other.violations);
    }
}

#[cfg(test)]
mod tests {
    use super::super::checker::Checker;
    use super::*;

    #[test]
    fn summary_is_the_same_however_its_runs_are_put_together() {
        let reports: Vec<Report> = (0..6)
            .map(|seed| {
                let mut report = Report { seed, virtual_ns: seed * 10, ..Report::default() };
                report.fault(if seed % 2 == 0 { Fault::Kill } else { Fault::Break });
                report.mark("segment recycled", seed % 3);
                if seed == 4 {
                    report.violation = Some(Violation::new(Checker::Search, "wrong"));
                }
                report
            })
            .collect();
        let of = |reports: &[Report]| {
            let mut summary = Summary::default();
            reports.iter().for_each(|report| summary.add(report));
            summary
        };
        let whole = of(&reports);
        let mut merged = of(&reports[4..]);
        merged.merge(of(&reports[..4]));
        assert_eq!(format!("{whole:?}"), format!("{merged:?}"));
        assert_eq!(whole.faults[&Fault::Kill], (3, 3));
        assert_eq!(whole.marks["segment recycled"], (6, 4));
        let count = PLACES.len() + mark::ALL.len();
        assert_eq!(whole.never_hit().count(), count - 1);
        assert!(whole.never_hit().all(|place| place != "segment recycled"));
        assert_eq!(whole.violations.keys().copied().collect::<Vec<_>>(), [4]);
    }
}
