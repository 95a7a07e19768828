//! What is said of a run in the end: tables for people.

use std::collections::BTreeMap;
use std::fmt;

use super::check::{Gap, gaps, longest};
use super::counters::Counters;
use super::fault::FaultClass;
use super::nemesis::Event;
use crate::base::cast::u64_from;
use crate::base::time::{NS_PER_MS, NS_PER_S};
use crate::sim::checker::Violation;
use crate::sim::history::{Action, History, Outcome};

/// A run that is over.
#[derive(Debug)]
pub struct Report {
    /// What all was drawn from.
    pub seed: u64,
    /// How many nodes there were.
    pub node_count: usize,
    /// How long the load lasted, in ns.
    pub load_ns: u64,
    /// What was done to the cluster.
    pub faults: BTreeMap<FaultClass, FaultRow>,
    /// What the clients asked, by its name.
    pub operations: BTreeMap<&'static str, OperationRow>,
    /// The longest time without an acknowledged write.
    pub longest_gap: Gap,
    /// When the load began.
    pub begun: Gap,
    /// Stamped commands that the proxies lost.
    pub lost_count: u64,
    /// Connections between members that were made.
    pub connection_count: u64,
    /// What the nodes counted.
    pub counters: Counters,
    /// States of keys that were checked.
    pub observation_count: usize,
    /// What must not be.
    pub violations: Vec<Violation>,
}

/// All faults of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRow {
    /// How many.
    pub count: u64,
    /// How long they lasted together, in ns.
    pub lasted_ns: u64,
    /// The longest time from healing to all nodes being ready, in ns.
    pub recovery_ns_max: u64,
    /// The longest time without an acknowledged write that touched one of them, in ns.
    pub gap_ns_max: u64,
}

/// All operations of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationRow {
    /// They were done.
    pub done: u64,
    /// Their condition didn't hold.
    pub refused: u64,
    /// They certainly had no effect.
    pub failed: u64,
    /// Nobody knows.
    pub unknown: u64,
}

pub(super) fn fault_rows(gaps: &[Gap], events: &[Event]) -> BTreeMap<FaultClass, FaultRow> {
    let mut rows: BTreeMap<FaultClass, FaultRow> = BTreeMap::new();
    for event in events {
        let row = rows.entry(event.class).or_default();
        row.count += 1;
        row.lasted_ns += event.healed.since_ns(event.begun);
        row.recovery_ns_max = row.recovery_ns_max.max(event.well.since_ns(event.healed));
        let gap = longest(gaps, Gap { from: event.begun, to: event.well });
        row.gap_ns_max = row.gap_ns_max.max(gap.map_or(0, Gap::ns));
    }
    rows
}

pub(super) fn operation_rows(history: &History) -> BTreeMap<&'static str, OperationRow> {
    let mut rows: BTreeMap<&'static str, OperationRow> = BTreeMap::new();
    for operation in &history.operations {
        let name = match operation.action {
            Action::Put { condition: None, .. } => "put",
            Action::Put { condition: Some(_), .. } => "put if",
            Action::Remove { .. } => "remove",
            Action::Get { .. } => "get",
            Action::Exists { .. } => "exists",
            _ => "other",
        };
        let row = rows.entry(name).or_default();
        let count = match operation.outcome {
            Outcome::Open | Outcome::Unknown => &mut row.unknown,
            Outcome::Failed(_) => &mut row.failed,
            Outcome::ConditionFailed { .. } => &mut row.refused,
            _ => &mut row.done,
        };
        *count += 1;
    }
    rows
}

/// The longest time without an acknowledged write.
pub(super) fn longest_gap(history: &History, load: Gap) -> Gap {
    longest(&gaps(history, load), load).unwrap_or(load)
}

impl Report {
    /// How many operations there were.
    #[must_use]
    pub fn operation_count(&self) -> u64 {
        let rows = self.operations.values();
        rows.map(|row| row.done + row.refused + row.failed + row.unknown).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ns: u64| ns / NS_PER_MS;
        let seconds = |ns: u64| format!("{}.{}", ns / NS_PER_S, ns / (NS_PER_S / 10) % 10);
        writeln!(
            f,
            "seed {}, {} nodes, {} s of load",
            self.seed,
            self.node_count,
            seconds(self.load_ns)
        )?;
        writeln!(
            f,
            "\n{:<10} {:>6} {:>8} {:>14} {:>16}",
            "fault", "times", "s", "recovery max", "longest gap"
        )?;
        for (class, row) in &self.faults {
            writeln!(
                f,
                "{:<10} {:>6} {:>8} {:>11} ms {:>13} ms",
                class.name(),
                row.count,
                seconds(row.lasted_ns),
                ms(row.recovery_ns_max),
                ms(row.gap_ns_max)
            )?;
        }
        writeln!(
            f,
            "\n{:<10} {:>9} {:>9} {:>9} {:>9}",
            "operation", "done", "refused", "failed", "unknown"
        )?;
        for (name, row) in &self.operations {
            let OperationRow { done, refused, failed, unknown } = row;
            writeln!(f, "{name:<10} {done:>9} {refused:>9} {failed:>9} {unknown:>9}")?;
        }
        let gap = self.longest_gap;
        writeln!(f, "\n{:<44} {}", "operations", self.operation_count())?;
        writeln!(f, "{:<44} {}", "states of keys that were checked", self.observation_count)?;
        writeln!(f, "{:<44} {}", "connections between members", self.connection_count)?;
        writeln!(f, "{:<44} {}", "stamped commands that were lost", self.lost_count)?;
        for (family, value) in &self.counters {
            writeln!(f, "{family:<44} {value}")?;
        }
        writeln!(
            f,
            "{:<44} {} ms (from {} s on)",
            "longest time without an acknowledged write",
            ms(gap.ns()),
            seconds(gap.from.since_ns(self.begun.from))
        )?;
        writeln!(f, "{:<44} {}", "violations", u64_from(self.violations.len()))?;
        self.violations.iter().try_for_each(|violation| writeln!(f, "  {violation}"))
    }
}
