//! What there is to say of runs.

use std::fmt::Write as _;

use crate::base::time::{NS_PER_MS, NS_PER_S};
use crate::sim::report::Summary;

/// What there is to say of all runs, which took so long.
pub(super) fn told(summary: &Summary, real_ns: u64) -> String {
    let Summary { runs_count, virtual_ns, events_count, operations_count, .. } = *summary;
    let per_second = |count: u64| count.saturating_mul(NS_PER_S) / real_ns.max(1);
    let mut text = String::new();
    let mut line = |name: &str, what: String| {
        // Writing to a string doesn't fail.
        let _ = writeln!(text, "{name:<10} {what}");
    };
    let violations_count = summary.violations.len();
    let s = format!("{}.{:03} s", real_ns / NS_PER_S, real_ns % NS_PER_S / NS_PER_MS);
    line("runs", format!("{runs_count} in {s}, {} a second", per_second(runs_count)));
    let virtual_s = virtual_ns / NS_PER_S;
    let speed = virtual_ns / real_ns.max(1);
    line("time", format!("{virtual_s} s virtual, {speed} of them in a real one"));
    line("events", format!("{events_count}, {} a second", per_second(events_count)));
    let outcomes: Vec<String> =
        summary.outcomes.iter().map(|(name, count)| format!("{count} {name}")).collect();
    line("operations", format!("{operations_count}: {}", outcomes.join(", ")));
    let (ordered, given_up) = summary.searched;
    line("checked", format!("{} states of a key", summary.observations_count));
    line("searched", format!("{ordered} keys, {given_up} given up"));
    for (fault, (times, runs)) in &summary.faults {
        line("fault", format!("{fault:<18} {times} times in {runs} runs"));
    }
    for (place, (times, runs)) in &summary.marks {
        line("mark", format!("{place:<46} {times} times in {runs} runs"));
    }
    for place in summary.never_hit() {
        line("never", place.to_owned());
    }
    line("violations", violations_count.to_string());
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::report::Report;

    #[test]
    fn every_place_is_told_of_hit_or_not() {
        let mut report = Report::default();
        report.mark("undo", 3);
        let mut summary = Summary::default();
        summary.add(&report);
        let text = told(&summary, NS_PER_S);
        let has = |name: &str, what: &str| {
            text.lines().any(|line| line.starts_with(name) && line.contains(what))
        };
        assert!(has("mark", "undo") && has("never", "adopt") && has("never", "segment recycled"));
        assert!(!has("never", "undo") && !has("mark", "adopt"));
    }
}
