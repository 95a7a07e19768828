//! What a run measured, as a table for people.

use std::fmt;

use hdrhistogram::Histogram;

use crate::base::time::{NS_PER_S, NS_PER_US};

/// Above this share of its time the generator itself may be what is measured.
const BUSY_PERCENT_MAX: u64 = 80;
/// The percentiles of every table.
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("p99.99", 99.99)];

/// What a closed-loop run measured.
#[derive(Clone, Debug)]
pub struct Report {
    /// Latencies in nanoseconds, of answers without error.
    pub latencies_ns: Histogram<u64>,
    /// Answers that were errors, or that no request had asked for.
    pub errors_count: u64,
    /// How long was measured.
    pub duration_ns: u64,
    /// For how much of that the generator itself was working.
    pub busy_ns: u64,
}

impl Report {
    /// Answers per second.
    #[must_use]
    pub fn answers_per_second(&self) -> u64 {
        let product = u128::from(self.latencies_ns.len()) * u128::from(NS_PER_S);
        crate::base::cast::low_u64(product / u128::from(self.duration_ns.max(1)))
    }

    /// The generator's own load, in percent of its core.
    #[must_use]
    pub fn busy_percent(&self) -> u64 {
        self.busy_ns.saturating_mul(100) / self.duration_ns.max(1)
    }

    /// The latency that so many percent of the answers didn't exceed, in nanoseconds.
    #[must_use]
    pub fn percentile_ns(&self, percent: f64) -> u64 {
        self.latencies_ns.value_at_percentile(percent)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let latencies = &self.latencies_ns;
        writeln!(f, "closed loop   {} answers/s", self.answers_per_second())?;
        writeln!(f, "answers       {}", latencies.len())?;
        writeln!(f, "errors        {}", self.errors_count)?;
        write_percentiles(f, latencies)?;
        let busy = self.busy_percent();
        write!(f, "generator     {busy} % busy")?;
        if busy > BUSY_PERCENT_MAX {
            write!(f, " (WARNING: above {BUSY_PERCENT_MAX} %: it may be the limit itself)")?;
        }
        writeln!(f)
    }
}

/// Writes one line for each percentile, and the maximum.
///
/// # Errors
/// If the formatter says so.
pub fn write_percentiles(f: &mut fmt::Formatter<'_>, latencies_ns: &Histogram<u64>) -> fmt::Result {
    for (name, percent) in PERCENTILES {
        write_us(f, name, latencies_ns.value_at_percentile(percent))?;
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

    fn report(busy_ns: u64) -> Report {
        let mut latencies_ns = latencies();
        for us in 1..=1_000 {
            latencies_ns.saturating_record(us * NS_PER_US);
        }
        Report { latencies_ns, errors_count: 2, duration_ns: NS_PER_S / 2, busy_ns }
    }

    #[test]
    fn table_has_all_percentiles_count_errors_and_rate() {
        let table = report(0).to_string();
        for part in ["2000 answers/s", "answers       1000", "errors        2", "p99.99", "max"] {
            assert!(table.contains(part), "{part} is missing in\n{table}");
        }
        assert!(!table.contains("WARNING"));
    }

    #[test]
    fn generator_that_was_the_limit_itself_says_so() {
        assert!(report(NS_PER_S / 2).to_string().contains("100 % busy (WARNING"));
    }
}
