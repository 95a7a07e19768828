//! The highest rate at which a node keeps its promise: a search over runs at fixed rates.
//!
//! The rate is doubled until the promise is broken and then narrowed from both sides, on a scale
//! of ratios, until both are near enough. Each step is a run of its own; the search only looks at
//! whether the promise held. Noise can break it at a rate that would do: what comes out is a rate
//! at which it held, next to one at which it didn't.

use std::fmt;

use super::report::{PERCENTILES, Report};
use super::schedule::float;

/// The search ends when the rate that failed is at most so much above the one that held.
const PRECISION: f64 = 1.05;
/// Steps of a search, whatever comes of them.
const STEP_COUNT_MAX: u32 = 40;
/// A rate that isn't reached isn't kept: so much of it must be answered.
const ANSWERED_SHARE_MIN: f64 = 0.99;

/// A promise: so many of all requests take less than that.
#[derive(Clone, Debug, PartialEq)]
pub struct Slo {
    /// The percentile's name.
    pub percentile: String,
    /// Its share of all requests.
    pub share: f64,
    /// What it must stay below, in nanoseconds.
    pub below_ns: u64,
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} < {} µs", self.percentile, self.below_ns / crate::base::time::NS_PER_US)
    }
}

impl Slo {
    /// `p99<1ms`, with the duration read by `duration_ns`.
    #[must_use]
    pub fn parse(text: &str, duration_ns: impl FnOnce(&str) -> Option<u64>) -> Option<Self> {
        let (name, duration) = text.split_once('<')?;
        let (percentile, share) = PERCENTILES.iter().find(|(known, _)| *known == name)?;
        let below_ns = duration_ns(duration).filter(|ns| *ns > 0)?;
        Some(Self { percentile: (*percentile).to_owned(), share: *share, below_ns })
    }

    /// Whether a run at `rate` kept it: without an error, at that rate, and fast enough.
    #[must_use]
    pub fn is_kept(&self, report: &Report, rate: f64) -> bool {
        let answered = float(report.answers_per_second());
        report.counts.errors() == 0
            && report.is_right()
            && answered >= rate * ANSWERED_SHARE_MIN
            && report.total.all_ns().value_at_quantile(self.share) < self.below_ns
    }
}

/// Where a search stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    held: Option<f64>,
    failed: Option<f64>,
    first: f64,
    step_count: u32,
}

impl Search {
    /// Begins with this rate.
    #[must_use]
    pub fn from(first: f64) -> Self {
        Self { held: None, failed: None, first, step_count: 0 }
    }

    /// The rate to try next; none: the search is over.
    #[must_use]
    pub fn next_rate(&self) -> Option<f64> {
        if self.step_count >= STEP_COUNT_MAX {
            return None;
        }
        match (self.held, self.failed) {
            (None, None) => Some(self.first),
            (Some(held), None) => Some(held * 2.0),
            (None, Some(failed)) => Some(failed / 2.0).filter(|rate| *rate >= 1.0),
            (Some(held), Some(failed)) if failed / held > PRECISION => Some((held * failed).sqrt()),
            _ => None,
        }
    }

    /// The promise was kept at this rate, or not.
    pub fn tried(&mut self, rate: f64, is_kept: bool) {
        self.step_count += 1;
        if is_kept {
            self.held = Some(rate);
        } else {
            self.failed = Some(rate);
        }
    }

    /// The highest rate at which the promise was kept.
    #[must_use]
    pub fn held(&self) -> Option<f64> {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(first: f64, limit: f64) -> (Option<f64>, u32) {
        let mut search = Search::from(first);
        while let Some(rate) = search.next_rate() {
            search.tried(rate, rate <= limit);
        }
        (search.held(), search.step_count)
    }

    #[test]
    fn search_ends_just_below_the_limit_from_wherever_it_begins() {
        for first in [10.0, 1_000.0, 5_000_000.0] {
            for limit in [100.0, 87_654.0, 2_000_000.0] {
                let (held, step_count) = search(first, limit);
                let held = held.expect("a rate that holds");
                assert!(held <= limit && limit < held * PRECISION, "{first} {limit}: {held}");
                assert!(step_count < 30, "{step_count}");
            }
        }
    }

    #[test]
    fn search_for_what_no_rate_keeps_or_every_rate_does_ends_too() {
        assert_eq!(search(1_000.0, 0.0).0, None);
        let (held, step_count) = search(1_000.0, f64::INFINITY);
        assert_eq!((held.is_some(), step_count), (true, STEP_COUNT_MAX));
    }

    #[test]
    fn promises_name_a_percentile_and_a_duration() {
        let ns = |text: &str| text.strip_suffix("ms")?.parse::<u64>().ok().map(|ms| ms * 1_000_000);
        let slo = Slo::parse("p99.9<2ms", ns).expect("a promise");
        assert_eq!((slo.share, slo.below_ns), (0.999, 2_000_000));
        assert_eq!(slo.to_string(), "p99.9 < 2000 µs");
        for wrong in ["p98<1ms", "p99", "p99>1ms", "p99<1", "p99<0ms", "<1ms"] {
            assert_eq!(Slo::parse(wrong, ns), None, "{wrong}");
        }
    }
}
