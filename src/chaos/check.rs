//! What must hold in the end: of the history, of the time without acknowledged writes, and of what
//! the nodes say when nobody disturbs them any more.

use std::collections::BTreeMap;

use super::nemesis::Event;
use crate::base::ids::PartitionId;
use crate::base::time::{Monotonic, NS_PER_MS, NS_PER_S};
use crate::sim::checker::{Checker, Violation, linearizability};
use crate::sim::history::{History, Outcome};

/// A stretch of time in which no write was acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// From the acknowledgement before it, or the beginning.
    pub from: Monotonic,
    /// To the next one, or the end.
    pub to: Monotonic,
}

impl Gap {
    /// How long it was.
    #[must_use]
    pub const fn ns(self) -> u64 {
        self.to.since_ns(self.from)
    }

    /// The part of it that is also in another stretch.
    fn within(self, other: Self) -> Self {
        let from = self.from.max(other.from);
        Self { from, to: self.to.min(other.to).max(from) }
    }
}

/// All times without an acknowledged write, from the load's beginning to its end: to the whole
/// cluster first, then to each partition that has keys.
#[derive(Debug)]
pub(super) struct Gaps {
    pub(super) whole: Vec<Gap>,
    pub(super) partitions: BTreeMap<PartitionId, Vec<Gap>>,
}

impl Gaps {
    pub(super) fn of(history: &History, load: Gap) -> Self {
        let mut whole = Vec::new();
        // Nobody writes to a partition that none of the keys belongs to.
        let keys = history.universe.keys();
        let mut partitions: BTreeMap<PartitionId, Vec<Monotonic>> =
            keys.map(|key| (history.universe.partition_of(key), Vec::new())).collect();
        for operation in &history.operations {
            let is_acknowledged = matches!(
                operation.outcome,
                Outcome::Written { .. } | Outcome::Removed { .. } | Outcome::ConditionFailed { .. }
            );
            let Some(ended) = operation.ended.filter(|_| is_acknowledged) else { continue };
            if (load.from..load.to).contains(&ended.at) {
                whole.push(ended.at);
                let partition = history.partition_of(&operation.action);
                if let Some(times) = partition.and_then(|found| partitions.get_mut(&found)) {
                    times.push(ended.at);
                }
            }
        }
        let between = |mut times: Vec<Monotonic>| {
            times.extend([load.from, load.to]);
            times.sort_unstable();
            times.windows(2).map(|pair| Gap { from: pair[0], to: pair[1] }).collect()
        };
        let partitions = partitions.into_iter().map(|(id, times)| (id, between(times))).collect();
        Self { whole: between(whole), partitions }
    }

    /// The longest one of all that touches a stretch of time, and the longest of one partition.
    pub(super) fn longest(&self, stretch: Gap) -> (Gap, Gap) {
        let of_each = self.partitions.values().filter_map(|gaps| longest(gaps, stretch));
        let of_one = of_each.max_by_key(|gap| gap.ns());
        (longest(&self.whole, stretch).unwrap_or(stretch), of_one.unwrap_or(stretch))
    }
}

/// The longest of the gaps that touch a stretch of time.
fn longest(gaps: &[Gap], stretch: Gap) -> Option<Gap> {
    let touches = |gap: &&Gap| gap.from < stretch.to && stretch.from < gap.to;
    gaps.iter().filter(touches).copied().max_by_key(|gap| gap.ns())
}

/// The stretches of a load in which writes must go on, and those in which a fault excuses it that
/// they don't.
#[derive(Debug)]
pub(super) struct Stretches {
    demanded: Vec<Gap>,
    excused: Vec<Gap>,
}

impl Stretches {
    pub(super) fn of(events: &[Event], load: Gap) -> Self {
        let mut from = load.from;
        let (mut demanded, mut excused) = (Vec::new(), Vec::new());
        for event in events.iter().filter(|event| !event.class.demands_progress()) {
            demanded.push(Gap { from, to: event.begun });
            excused.push(Gap { from: event.begun, to: event.well }.within(load));
            from = event.well.min(load.to);
        }
        demanded.push(Gap { from, to: load.to });
        Self { demanded, excused }
    }

    /// The longest of some gaps, as far as they lie in either.
    pub(super) fn longest(&self, gaps: &[Gap]) -> Standstill {
        let within = |stretches: &[Gap]| {
            let of =
                |stretch: &Gap| gaps.iter().map(|gap| gap.within(*stretch)).collect::<Vec<_>>();
            stretches.iter().flat_map(of).max_by_key(|gap| gap.ns())
        };
        let demanded = within(&self.demanded).unwrap_or_default();
        Standstill { demanded, excused: within(&self.excused) }
    }
}

/// The longest times without an acknowledged write, of the cluster or of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standstill {
    /// While a majority of members was well.
    pub demanded: Gap,
    /// While a fault was there that excuses it; `None`: there was none.
    pub excused: Option<Gap>,
}

/// That writes went on in every partition wherever no fault excuses it.
pub(super) fn progress(
    gaps: &Gaps,
    events: &[Event],
    load: Gap,
    stall_ns_max: u64,
) -> Result<(), Violation> {
    let stretches = Stretches::of(events, load);
    let stalls = gaps.partitions.iter();
    let stalls = stalls.map(|(partition, gaps)| (partition, stretches.longest(gaps).demanded));
    match stalls.max_by_key(|(_, gap)| gap.ns()) {
        Some((partition, gap)) if gap.ns() > stall_ns_max => {
            let since = gap.from.since_ns(load.from);
            let what = format!(
                "no write was acknowledged in partition {partition} for {} ms, from {}.{} s of \
                 the run on, though a majority of members was there",
                gap.ns() / NS_PER_MS,
                since / NS_PER_S,
                since / (NS_PER_S / 10) % 10
            );
            Err(Violation::new(Checker::Progress, what).at(gap.to))
        }
        _ => Ok(()),
    }
}

/// What the clients were told, as a whole.
pub(super) fn history(history: &History) -> Result<linearizability::Checked, Violation> {
    linearizability::check(history)
}

#[cfg(test)]
mod tests;
