//! A comparison as a table for people.

use std::fmt;

use super::Comparison;
use super::ScenarioComparison;
use super::judge::{ALPHA, Judged, PAIR_COUNT_MIN, Unit};
use crate::base::time::NS_PER_US;
use crate::bench::schedule::float;

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "A  {}  ({})", self.a.folder, self.a.commit)?;
        writeln!(f, "B  {}  ({})", self.b.folder, self.b.commit)?;
        for difference in &self.differences {
            writeln!(f, "!  different: {difference}")?;
        }
        for name in &self.unmatched {
            writeln!(f, "!  only one side has {name}")?;
        }
        self.scenarios.iter().try_for_each(|scenario| write!(f, "\n{scenario}"))?;
        let thresholds = &self.thresholds;
        writeln!(
            f,
            "\nratio: B / A, the geometric mean of all pairs of rounds, with a {:.0} % interval. A \
             verdict takes a\nsign-flip test that holds after Holm's correction over the judged \
             metrics of a scenario, and a change of\nmore than {} % and {} ns.",
            (1.0 - ALPHA) * 100.0,
            thresholds.percent,
            thresholds.floor_ns
        )
    }
}

impl fmt::Display for ScenarioComparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, loop_kind, pair_count, .. } = self;
        writeln!(f, "{name}: {loop_kind} loop, {pair_count} pairs of rounds")?;
        writeln!(
            f,
            "  {:<12} {:>12} {:>12}  {:>7}  {:<17} verdict",
            "", "A", "B", "ratio", "interval"
        )?;
        self.metrics.iter().try_for_each(|metric| writeln!(f, "  {}", Row(metric)))?;
        writeln!(f, "  {:<12} {:>12} {:>12}", "errors", self.errors.0, self.errors.1)?;
        let alarms = &self.false_alarms;
        if alarms.resamples > 0 {
            writeln!(
                f,
                "  A against A: {} of {} comparisons of its own rounds called it faster or slower",
                alarms.alarms, alarms.resamples
            )?;
        } else {
            writeln!(f, "  !  fewer than {PAIR_COUNT_MIN} pairs of rounds: nothing is judged")?;
        }
        if self.is_generator_bound() {
            let busy = self.generator_busy_percent;
            writeln!(f, "  !  the generator was {busy} % busy: it may be the limit itself")?;
        }
        Ok(())
    }
}

/// A line of the table.
struct Row<'a>(&'a Judged);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Judged { name, unit, a, b, ratio, interval, verdict, .. } = self.0;
        let interval = match interval {
            Some((low, high)) => format!("{low:.3} to {high:.3}"),
            None => "unknown".to_owned(),
        };
        let (a, b) = (figure(*a, *unit), figure(*b, *unit));
        write!(f, "{name:<12} {a:>12} {b:>12}  {ratio:>7.3}  {interval:<17} {verdict}")
    }
}

/// A figure with its unit.
#[must_use]
pub fn figure(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Nanoseconds => format!("{:.1} µs", value / float(NS_PER_US)),
        Unit::PerSecond => format!("{value:.0}/s"),
    }
}
