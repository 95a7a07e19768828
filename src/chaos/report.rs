//! What is said of a run in the end: tables for people.

use std::collections::BTreeMap;
use std::fmt;

use super::check::{Gap, Gaps, Standstill};
use super::counters::Counters;
use super::fault::FaultClass;
use super::nemesis::Event;
use crate::base::cast::u64_from;
use crate::base::ids::PartitionId;
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
    /// How many clients.
    pub client_count: u32,
    /// Where sequencers stood, as `serve` was told it.
    pub sequencer: String,
    /// What was done to the cluster.
    pub faults: BTreeMap<FaultClass, FaultRow>,
    /// What the clients asked, by its name.
    pub operations: BTreeMap<&'static str, OperationRow>,
    /// From the beginning of the load to its end.
    pub load: Gap,
    /// The longest times without an acknowledged write of the cluster.
    pub standstill: Standstill,
    /// The same of each partition that has keys.
    pub standstills: BTreeMap<PartitionId, Standstill>,
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
    /// The same of one partition.
    pub partition_gap_ns_max: u64,
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

pub(super) fn fault_rows(gaps: &Gaps, events: &[Event]) -> BTreeMap<FaultClass, FaultRow> {
    let mut rows: BTreeMap<FaultClass, FaultRow> = BTreeMap::new();
    for event in events {
        let row = rows.entry(event.class).or_default();
        row.count += 1;
        row.lasted_ns += event.healed.since_ns(event.begun);
        row.recovery_ns_max = row.recovery_ns_max.max(event.well.since_ns(event.healed));
        let (whole, of_one) = gaps.longest(Gap { from: event.begun, to: event.well });
        row.gap_ns_max = row.gap_ns_max.max(whole.ns());
        row.partition_gap_ns_max = row.partition_gap_ns_max.max(of_one.ns());
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
        writeln!(
            f,
            "seed {}, {} nodes, sequencer {}, {} s of load by {} clients",
            self.seed,
            self.node_count,
            self.sequencer,
            seconds(self.load.ns()),
            self.client_count
        )?;
        self.write_faults(f)?;
        self.write_operations(f)?;
        self.write_standstills(f)?;
        writeln!(f)?;
        for (what, count) in [
            ("operations", self.operation_count()),
            ("states of keys that were checked", u64_from(self.observation_count)),
            ("connections between members, through proxies", self.connection_count),
            ("stamped commands that were lost on the way", self.lost_count),
        ] {
            writeln!(f, "{what:<50} {count:>9}")?;
        }
        for (what, count) in &self.counters {
            writeln!(f, "{what:<50} {count:>9}")?;
        }
        writeln!(f, "{:<50} {:>9}", "violations", self.violations.len())?;
        self.violations.iter().try_for_each(|violation| writeln!(f, "  {violation}"))
    }
}

impl Report {
    fn write_faults(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<10} {:>6} {:>8} {:>14} {:>16} {:>16}",
            "fault", "times", "s", "recovery max", "longest gap", "of a partition"
        )?;
        for (class, row) in &self.faults {
            writeln!(
                f,
                "{:<10} {:>6} {:>8} {:>11} ms {:>13} ms {:>13} ms",
                class.name(),
                row.count,
                seconds(row.lasted_ns),
                row.recovery_ns_max / NS_PER_MS,
                row.gap_ns_max / NS_PER_MS,
                row.partition_gap_ns_max / NS_PER_MS
            )?;
        }
        Ok(())
    }

    fn write_operations(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<10} {:>9} {:>16} {:>10} {:>16}",
            "operation", "done", "condition false", "no effect", "outcome unknown"
        )?;
        for (name, row) in &self.operations {
            let OperationRow { done, refused, failed, unknown } = row;
            writeln!(f, "{name:<10} {done:>9} {refused:>16} {failed:>10} {unknown:>16}")?;
        }
        Ok(())
    }

    fn write_standstills(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<28} {:>30} {:>30}",
            "longest without a write", "a majority was well", "a fault excuses it"
        )?;
        let since = |gap: Gap| {
            let from = seconds(gap.from.since_ns(self.load.from));
            format!("{} ms, from {from} s on", gap.ns() / NS_PER_MS)
        };
        let mut row = |what: String, standstill: &Standstill| {
            let demanded = since(standstill.demanded);
            let excused = standstill.excused.map_or_else(|| "-".to_owned(), since);
            writeln!(f, "{what:<28} {demanded:>30} {excused:>30}")
        };
        row("in the whole cluster".to_owned(), &self.standstill)?;
        let mut rows = self.standstills.iter();
        rows.try_for_each(|(partition, found)| row(format!("in partition {partition}"), found))
    }
}

fn seconds(ns: u64) -> String {
    format!("{}.{}", ns / NS_PER_S, ns / (NS_PER_S / 10) % 10)
}
