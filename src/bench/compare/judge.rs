//! Verdicts on one scenario, from the rounds of both sides.
//!
//! A metric is called slower or faster if three things hold: the sign-flip test is significant
//! after Holm's correction over the metrics that were fixed beforehand, the interval excludes no
//! change, and the effect is larger than a threshold in percent *and* a floor in nanoseconds. It
//! is called the same if the whole interval lies within those. Anything else is inconclusive.

use std::fmt;

use serde::Serialize;

use super::statistics::{SubsetMeans, deviation, holm, pair_count_min};
use crate::base::cast::{u64_from, usize_from};
use crate::base::prng::Prng;
use crate::bench::schedule::{float, whole};

/// How certain a verdict is.
pub const ALPHA: f64 = 0.05;
/// The fewest pairs that are judged.
pub const PAIR_COUNT_MIN: usize = 6;
/// Rounds that are promised to help, at most.
const MORE_ROUNDS_MAX: usize = 100;
/// Normal quantiles: for a significant metric among a few, and for one interval.
const QUANTILE_SIGNIFICANT: f64 = 2.6;
const QUANTILE_INTERVAL: f64 = 2.2;

/// Below what an effect doesn't count.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Thresholds {
    /// A change of less than this, in percent.
    pub percent: f64,
    /// A change of a latency of less than this.
    pub floor_ns: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { percent: 3.0, floor_ns: 300.0 }
    }
}

/// What a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// A latency: less is faster.
    Nanoseconds,
    /// A rate: more is faster.
    PerSecond,
}

/// One metric of all rounds, side by side.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// What it is.
    pub unit: Unit,
    /// It is one of those fixed beforehand.
    pub is_judged: bool,
    /// Every round had enough samples for it.
    pub is_supported: bool,
    /// Both sides of each pair of rounds.
    pub pairs: Vec<(f64, f64)>,
}

/// What can be said of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// The second side is faster.
    Faster,
    /// The second side is slower.
    Slower,
    /// There is no difference that matters.
    Same,
    /// Nothing can be said yet.
    Inconclusive {
        /// How many rounds more would probably do; none: more than a hundred.
        more_rounds: Option<usize>,
    },
    /// There are too few samples beyond the percentile.
    Unsupported,
    /// It isn't one of the metrics that were fixed beforehand.
    NotJudged,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Faster => f.write_str("faster"),
            Self::Slower => f.write_str("SLOWER"),
            Self::Same => f.write_str("same"),
            Self::Inconclusive { more_rounds: Some(1) } => {
                f.write_str("inconclusive: 1 more round needed")
            }
            Self::Inconclusive { more_rounds: Some(count) } => {
                write!(f, "inconclusive: {count} more rounds needed")
            }
            Self::Inconclusive { more_rounds: None } => {
                write!(f, "inconclusive: more than {MORE_ROUNDS_MAX} rounds needed")
            }
            Self::Unsupported => f.write_str("too few samples beyond it"),
            Self::NotJudged => f.write_str("-"),
        }
    }
}

/// A metric with what can be said of it.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// Its name.
    pub name: String,
    /// What it is.
    pub unit: Unit,
    /// The geometric means of both sides.
    pub a: f64,
    /// As `a`.
    pub b: f64,
    /// b / a: the geometric mean of the rounds' ratios.
    pub ratio: f64,
    /// An interval for it, of 95 % or a little more; none: there are too few rounds.
    pub interval: Option<(f64, f64)>,
    /// Of the sign-flip test, before Holm's correction.
    pub p: f64,
    /// What can be said.
    #[serde(flatten)]
    pub verdict: Verdict,
}

impl Judged {
    /// By how much the second side is slower, in percent; negative: faster.
    #[must_use]
    pub fn slower_percent(&self) -> f64 {
        match self.unit {
            Unit::Nanoseconds => (self.ratio - 1.0) * 100.0,
            Unit::PerSecond => (1.0 / self.ratio - 1.0) * 100.0,
        }
    }
}

/// How often a side that is compared with itself is called faster or slower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FalseAlarms {
    /// Comparisons of rounds drawn from one side.
    pub resamples: u64,
    /// Those in which any metric was called faster or slower.
    pub alarms: u64,
}

/// Judges all metrics of a scenario together.
#[must_use]
pub fn judge(all: &[Series], thresholds: &Thresholds) -> Vec<Judged> {
    let counts = |series: &Series| series.is_judged && series.is_supported;
    let metric_count = all.iter().filter(|series| counts(series)).count();
    let measured: Vec<Measured> = all.iter().map(Measured::of).collect();
    let family: Vec<f64> = std::iter::zip(all, &measured)
        .filter(|(series, _)| counts(series))
        .map(|(_, measured)| measured.means.p_value())
        .collect();
    let mut significant = holm(&family, ALPHA).into_iter();
    std::iter::zip(all, measured)
        .map(|(series, measured)| {
            let verdict = if !series.is_judged {
                Verdict::NotJudged
            } else if !series.is_supported {
                Verdict::Unsupported
            } else {
                let is_significant = significant.next().unwrap_or(false);
                measured.verdict(series, thresholds, is_significant, metric_count)
            };
            measured.judged(series, verdict)
        })
        .collect()
}

/// Compares a side with itself: pairs of different rounds, drawn again and again.
#[must_use]
pub fn false_alarms(all: &[Series], thresholds: &Thresholds) -> FalseAlarms {
    let pair_count = all.first().map_or(0, |series| series.pairs.len());
    if pair_count < PAIR_COUNT_MIN {
        return FalseAlarms { resamples: 0, alarms: 0 };
    }
    let judged: Vec<&Series> = all.iter().filter(|series| series.is_judged).collect();
    let mut prng = Prng::new(1, "false alarms");
    let resamples: u64 = if pair_count > 9 { 200 } else { 1_000 };
    let mut is_alarm = || {
        let rounds: Vec<(usize, usize)> = (0..pair_count)
            .map(|_| {
                let one = prng.below(u64_from(pair_count));
                let other = (one + 1 + prng.below(u64_from(pair_count - 1))) % u64_from(pair_count);
                (usize_from(one), usize_from(other))
            })
            .collect();
        let of_rounds = |series: &&Series| Series {
            pairs: rounds
                .iter()
                .map(|(one, other)| (series.pairs[*one].0, series.pairs[*other].0))
                .collect(),
            ..(*series).clone()
        };
        let resampled: Vec<Series> = judged.iter().map(of_rounds).collect();
        judge(&resampled, thresholds)
            .iter()
            .any(|metric| matches!(metric.verdict, Verdict::Faster | Verdict::Slower))
    };
    let alarms = u64_from((0..resamples).filter(|_| is_alarm()).count());
    FalseAlarms { resamples, alarms }
}

/// The log ratios of a series.
struct Measured {
    logs: Vec<f64>,
    means: SubsetMeans,
    /// The geometric mean of the first side.
    a: f64,
}

impl Measured {
    fn of(series: &Series) -> Self {
        // A latency of 0 is one below the clock's resolution.
        let ln = |value: f64| value.max(1.0).ln();
        let logs: Vec<f64> = series.pairs.iter().map(|(a, b)| ln(*b) - ln(*a)).collect();
        let count = float(u64_from(series.pairs.len()));
        let a = (series.pairs.iter().map(|(a, _)| ln(*a)).sum::<f64>() / count).exp();
        Self { means: SubsetMeans::of(&logs), logs, a }
    }

    /// The largest log ratio that doesn't count.
    fn band(&self, unit: Unit, thresholds: &Thresholds) -> f64 {
        let floor = match unit {
            Unit::Nanoseconds => thresholds.floor_ns / self.a,
            Unit::PerSecond => 0.0,
        };
        (1.0 + (thresholds.percent / 100.0).max(floor)).ln()
    }

    fn verdict(
        &self,
        series: &Series,
        thresholds: &Thresholds,
        is_significant: bool,
        metric_count: usize,
    ) -> Verdict {
        let band = self.band(series.unit, thresholds);
        let effect = self.means.mean();
        let interval = self.means.interval(ALPHA).filter(|_| self.logs.len() >= PAIR_COUNT_MIN);
        if let Some((low, high)) = interval {
            let excludes_none = low > 0.0 || high < 0.0;
            if is_significant && excludes_none && effect.abs() > band {
                let is_slower = (effect > 0.0) == (series.unit == Unit::Nanoseconds);
                return if is_slower { Verdict::Slower } else { Verdict::Faster };
            }
            if -band <= low && high <= band {
                return Verdict::Same;
            }
        }
        Verdict::Inconclusive { more_rounds: self.more_rounds(band, metric_count) }
    }

    /// How many rounds more would narrow the interval enough, as far as these rounds tell.
    fn more_rounds(&self, band: f64, metric_count: usize) -> Option<usize> {
        let effect = self.means.mean().abs();
        let (margin, quantile) = if effect > band {
            (effect, QUANTILE_SIGNIFICANT)
        } else {
            (band - effect, QUANTILE_INTERVAL)
        };
        let needed = (quantile * deviation(&self.logs) / margin).powi(2).ceil();
        if needed.is_nan() || needed > float(u64_from(MORE_ROUNDS_MAX + self.logs.len())) {
            return None;
        }
        let at_least = pair_count_min(metric_count, ALPHA).max(PAIR_COUNT_MIN);
        let needed = usize_from(whole(needed)).max(at_least);
        let more = needed.saturating_sub(self.logs.len()).max(1);
        (more <= MORE_ROUNDS_MAX).then_some(more)
    }

    fn judged(&self, series: &Series, verdict: Verdict) -> Judged {
        let ratio = self.means.mean().exp();
        let interval = self.means.interval(ALPHA).map(|(low, high)| (low.exp(), high.exp()));
        Judged {
            name: series.name.clone(),
            unit: series.unit,
            a: self.a,
            b: self.a * ratio,
            ratio,
            interval,
            p: self.means.p_value(),
            verdict,
        }
    }
}

#[cfg(test)]
#[path = "judge/tests.rs"]
mod tests;
