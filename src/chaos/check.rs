//! What must hold in the end: of the history, of the time without acknowledged writes, and of what
//! the nodes say when nobody disturbs them any more.

use super::nemesis::Event;
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

/// All times without an acknowledged write, from the load's beginning to its end.
pub(super) fn gaps(history: &History, load: Gap) -> Vec<Gap> {
    let is_acknowledged = |outcome: &Outcome| {
        matches!(
            outcome,
            Outcome::Written { .. } | Outcome::Removed { .. } | Outcome::ConditionFailed { .. }
        )
    };
    let written = history
        .operations
        .iter()
        .filter(|operation| operation.action.is_write() && is_acknowledged(&operation.outcome));
    let ended = written.filter_map(|operation| operation.ended).map(|moment| moment.at);
    let mut times: Vec<Monotonic> = ended.filter(|at| (load.from..load.to).contains(at)).collect();
    times.extend([load.from, load.to]);
    times.sort_unstable();
    times.windows(2).map(|pair| Gap { from: pair[0], to: pair[1] }).collect()
}

/// The longest of the gaps that touch a stretch of time.
pub(super) fn longest(gaps: &[Gap], stretch: Gap) -> Option<Gap> {
    let touches = |gap: &&Gap| gap.from < stretch.to && stretch.from < gap.to;
    gaps.iter().filter(touches).copied().max_by_key(|gap| gap.ns())
}

/// That writes went on wherever no fault excuses it.
pub(super) fn progress(
    gaps: &[Gap],
    events: &[Event],
    load: Gap,
    stall_ns_max: u64,
) -> Result<(), Violation> {
    let excuses = events.iter().filter(|event| !event.class.demands_progress());
    let mut from = load.from;
    let mut demanded = Vec::new();
    for event in excuses {
        demanded.push(Gap { from, to: event.begun });
        from = event.well;
    }
    demanded.push(Gap { from, to: load.to });
    let clipped = demanded.iter().flat_map(|stretch| gaps.iter().map(|gap| gap.within(*stretch)));
    match clipped.max_by_key(|gap| gap.ns()) {
        Some(gap) if gap.ns() > stall_ns_max => {
            let since = gap.from.since_ns(load.from);
            let what = format!(
                "no write was acknowledged for {} ms, from {}.{:01} s of the run on, though a \
                 majority of members was there",
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
