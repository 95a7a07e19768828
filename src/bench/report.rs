//! What a run measured, as a table for people.

use std::fmt;

use hdrhistogram::Histogram;

use super::mix::Kind;
use super::recorder::{Counts, Interval, place};
use crate::base::time::{NS_PER_S, NS_PER_US};

/// Above this share of its time the generator itself may be what is measured.
pub const BUSY_PERCENT_MAX: u64 = 80;
/// The percentiles of every table, as shares: `99.9 / 100.0` is a little more than 0.999, and would
/// be the next value.
pub const PERCENTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];
/// A percentile with fewer samples beyond it says little.
pub const SAMPLES_BEYOND_MIN: f64 = 10.0;

/// What a run measured.
#[derive(Clone, Debug)]
pub struct Report {
    /// All latencies.
    pub total: Interval,
    /// Everything that was counted.
    pub counts: Counts,
    /// How long after their time requests were sent, in nanoseconds.
    pub send_delays_ns: Histogram<u64>,
    /// How long was measured.
    pub duration_ns: u64,
    /// Requests had times fixed beforehand.
    pub is_open: bool,
}

impl Report {
    /// Requests that were answered as they should be.
    #[must_use]
    pub fn answers(&self) -> u64 {
        let all = self.total.all_ns().len();
        all.saturating_sub(self.counts.timeouts + self.counts.unsent)
    }

    /// Answers per second.
    #[must_use]
    pub fn answers_per_second(&self) -> u64 {
        let product = u128::from(self.answers()) * u128::from(NS_PER_S);
        crate::base::cast::low_u64(product / u128::from(self.duration_ns.max(1)))
    }

    /// The generators' own load, in percent of their cores.
    #[must_use]
    pub fn busy_percent(&self) -> u64 {
        self.counts.busy_ns.saturating_mul(100) / self.counts.measured_ns.max(1)
    }

    /// Whether every answer was right.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.counts.violations == 0
    }

    fn write_trouble(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        for (code, count) in &counts.refusals {
            writeln!(f, "  refused     {count} with code {code}")?;
        }
        for (name, count) in [
            ("timeouts", counts.timeouts),
            ("never sent", counts.unsent),
            ("strays", counts.strays),
        ] {
            if count > 0 {
                writeln!(f, "  {name:<12}{count}")?;
            }
        }
        if counts.violations > 0 {
            writeln!(f, "WRONG ANSWERS {}", counts.violations)?;
        }
        for violation in &counts.first_violations {
            writeln!(f, "  {violation}")?;
        }
        Ok(())
    }

    fn write_sending(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        if self.is_open {
            writeln!(
                f,
                "sent          {}, {} late, {} held back by full connections",
                counts.sent, counts.late, counts.held_back
            )?;
            write_us(f, "send delay 99", self.send_delays_ns.value_at_quantile(0.99))?;
        }
        let busy = self.busy_percent();
        write!(f, "generator     {busy} % busy")?;
        if busy > BUSY_PERCENT_MAX {
            write!(f, " (WARNING: above {BUSY_PERCENT_MAX} %: it may be the limit itself)")?;
        }
        writeln!(f)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let loop_kind = if self.is_open { "open loop  " } else { "closed loop" };
        writeln!(f, "{loop_kind}   {} answers/s", self.answers_per_second())?;
        writeln!(f, "answers       {}", self.answers())?;
        writeln!(f, "errors        {}", self.counts.errors())?;
        self.write_trouble(f)?;
        if self.counts.echoes > 0 {
            writeln!(f, "echoes        {}: that was no map", self.counts.echoes)?;
        }
        write_percentiles(f, &self.total.all_ns())?;
        for kind in Kind::ALL {
            let latencies = &self.total.latencies_ns[place(kind)];
            if !latencies.is_empty() && latencies.len() < self.total.all_ns().len() {
                let name = kind.name();
                writeln!(f, "of {name}: {}", latencies.len())?;
                write_us(f, "  p50", latencies.value_at_quantile(0.5))?;
                write_us(f, "  p99", latencies.value_at_quantile(0.99))?;
            }
        }
        self.write_sending(f)
    }
}

/// Writes one line for each percentile, and the maximum.
///
/// # Errors
/// If the formatter says so.
pub fn write_percentiles(f: &mut fmt::Formatter<'_>, latencies_ns: &Histogram<u64>) -> fmt::Result {
    for (name, share) in PERCENTILES {
        write_us(f, name, latencies_ns.value_at_quantile(share))?;
    }
    write_us(f, "max", latencies_ns.max())
}

fn write_us(f: &mut fmt::Formatter<'_>, name: &str, value_ns: u64) -> fmt::Result {
    let (us, tenths) = (value_ns / NS_PER_US, value_ns % NS_PER_US / 100);
    writeln!(f, "{name:<14}{us}.{tenths} µs")
}

/// An empty histogram of latencies: three significant digits, up to a minute.
///
/// # Panics
/// Never: the bounds are constants that fit.
#[must_use]
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60 * NS_PER_S, 3).expect("the bounds are in order")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::expectation::Violation;

    fn report(busy_ns: u64) -> Report {
        let mut total = Interval::new(0);
        for us in 1..=1_000 {
            total.latencies_ns[place(Kind::Read)].saturating_record(us * NS_PER_US);
        }
        let measured_ns = NS_PER_S / 2;
        let counts = Counts { strays: 2, busy_ns, measured_ns, ..Counts::default() };
        let send_delays_ns = latencies();
        Report { total, counts, send_delays_ns, duration_ns: NS_PER_S / 2, is_open: false }
    }

    #[test]
    fn table_has_all_percentiles_count_errors_and_rate() {
        let table = report(0).to_string();
        for part in [
            "closed loop   2000 answers/s",
            "answers       1000",
            "errors        2",
            "p99.99",
            "max",
        ] {
            assert!(table.contains(part), "{part} is missing in\n{table}");
        }
        assert!(!table.contains("WARNING"));
        assert!(!table.contains("late"), "a closed loop has no times to be late for");
    }

    #[test]
    fn generator_that_was_the_limit_itself_says_so() {
        assert!(report(NS_PER_S / 2).to_string().contains("100 % busy (WARNING"));
    }

    #[test]
    fn wrong_answers_are_told_with_the_first_of_them() {
        let mut report = report(0);
        report.counts.violation(Violation::Stale { key: 7, known: 5, found: 0 });
        let table = report.to_string();
        assert!(!report.is_right());
        assert!(table.contains("WRONG ANSWERS 1\n  key 7: nothing was found"), "{table}");
    }

    #[test]
    fn requests_without_an_answer_are_in_the_latencies_and_no_answers() {
        let mut report = report(0);
        report.counts.timeouts = 10;
        report.counts.unsent = 5;
        assert_eq!((report.answers(), report.counts.errors()), (985, 17));
    }
}
