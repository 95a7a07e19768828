//! `summary.json`: what a run measured, for programs. Its fields are described in
//! `bench-results/README.md`; whoever changes their meaning raises [`SUMMARY_SCHEMA_VERSION`].

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::mix::Kind;
use super::recorder::place;
use super::report::{PERCENTILES, Report, SAMPLES_BEYOND_MIN};
use super::schedule::float;
use super::surroundings::Build;
use crate::base::time::NS_PER_S;
use crate::proto::p2pmap::v1::NodeStatus;

/// The version of `summary.json`.
pub const SUMMARY_SCHEMA_VERSION: u32 = 1;
/// The name of its schema.
pub const SUMMARY_SCHEMA: &str = "p2pmap-bench-summary";

/// What a product of a count and a share may be off by.
const ROUNDING: f64 = 1e-6;

/// The percentiles of one histogram, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// How many values.
    pub count: u64,
    /// The least.
    pub min: u64,
    /// By name: `p50`, `p90`, `p99`, `p99.9`, `p99.99`.
    pub percentiles: BTreeMap<String, u64>,
    /// The greatest.
    pub max: u64,
    /// Percentiles with fewer than ten values beyond them.
    pub unsupported: Vec<String>,
}

/// What was measured: a node, as it described itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its build.
    pub build: Build,
    /// `sync`, `async` or `none`.
    pub durability: String,
    /// `spin` or `park`.
    pub idle: String,
    /// The processors of its shards.
    pub cores: Vec<u32>,
    /// Its partitions.
    pub partition_count: u32,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountSummary {
    /// Requests answered as they should be.
    pub answers: u64,
    /// All of the following five, up to `strays`.
    pub errors: u64,
    /// Refusals by code.
    pub refused: BTreeMap<u64, u64>,
    /// Requests without an answer. Their latencies count up to when the generator gave up.
    pub timeouts: u64,
    /// Requests that never had room to be sent. As `timeouts`.
    pub never_sent: u64,
    /// Answers that no request had asked for.
    pub strays: u64,
    /// Requests sent.
    pub sent: u64,
    /// Sent late by the generator's own fault.
    pub late: u64,
    /// Sent after their time because all connections were full.
    pub held_back: u64,
    /// Reads that found nothing.
    pub absent: u64,
    /// Answers that were the request itself: what was measured is an echo.
    pub echoes: u64,
}

/// What came of checking answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Whether they were checked.
    pub enabled: bool,
    /// How many.
    pub checked: u64,
    /// Wrong or stale ones.
    pub wrong: u64,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// [`SUMMARY_SCHEMA`].
    pub schema: String,
    /// [`SUMMARY_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The scenario's name.
    pub scenario: String,
    /// Which of several rounds.
    pub round: Option<u32>,
    /// When measuring began: UTC.
    pub started: String,
    /// `open` or `closed`.
    pub loop_kind: String,
    /// Everything that was asked for.
    pub settings: BTreeMap<String, String>,
    /// What was measured; none: it didn't say.
    pub server: Option<Server>,
    /// How long was measured, in seconds.
    pub duration_s: f64,
    /// Answers a second.
    pub throughput_per_s: f64,
    /// What was counted.
    pub counts: CountSummary,
    /// What came of checking answers.
    pub verification: Verification,
    /// Of all requests, in nanoseconds.
    pub latency_ns: Latency,
    /// Of each kind of request.
    pub latency_by_kind_ns: BTreeMap<String, Latency>,
    /// How long after their time requests were sent, in nanoseconds.
    pub send_delay_ns: Latency,
    /// The generator's own load.
    pub generator_busy_percent: u64,
    /// Time that was taken from the machine, in percent.
    pub steal_percent: f64,
}

/// What a summary says of a run beside what was measured.
#[derive(Clone, Debug)]
pub struct About {
    /// The scenario's name.
    pub scenario: String,
    /// Which of several rounds.
    pub round: Option<u32>,
    /// When measuring began: UTC.
    pub started: String,
    /// Everything that was asked for.
    pub settings: BTreeMap<String, String>,
    /// What was measured.
    pub server: Option<Server>,
    /// Whether answers were checked.
    pub verified: bool,
    /// Time that was taken from the machine, in percent.
    pub steal_percent: f64,
}

impl Server {
    /// As it describes itself.
    #[must_use]
    pub fn of(status: &NodeStatus) -> Self {
        Self {
            build: Build { version: status.version.clone(), commit: status.commit.clone() },
            durability: status.durability.clone(),
            idle: status.idle.clone(),
            cores: status.shards.iter().map(|shard| shard.core).collect(),
            partition_count: status.partition_count,
        }
    }
}

impl Latency {
    /// Of a histogram.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let value =
            |(name, share): (&str, f64)| (name.to_owned(), histogram.value_at_quantile(share));
        let count = float(histogram.len());
        let is_weak =
            |(_, share): &(&str, f64)| count * (1.0 - share) + ROUNDING < SAMPLES_BEYOND_MIN;
        Self {
            count: histogram.len(),
            min: if histogram.is_empty() { 0 } else { histogram.min() },
            percentiles: PERCENTILES.into_iter().map(value).collect(),
            max: histogram.max(),
            unsupported: PERCENTILES
                .into_iter()
                .filter(is_weak)
                .map(|(name, _)| name.to_owned())
                .collect(),
        }
    }
}

impl Summary {
    /// Of a run.
    #[must_use]
    pub fn of(report: &Report, about: About) -> Self {
        let counts = &report.counts;
        let kinds = Kind::ALL.into_iter().filter_map(|kind| {
            let histogram = &report.total.latencies_ns[place(kind)];
            (!histogram.is_empty()).then(|| (kind.name().to_owned(), Latency::of(histogram)))
        });
        let duration_s = float(report.duration_ns) / float(NS_PER_S);
        Self {
            schema: SUMMARY_SCHEMA.to_owned(),
            schema_version: SUMMARY_SCHEMA_VERSION,
            scenario: about.scenario,
            round: about.round,
            started: about.started,
            loop_kind: if report.is_open { "open" } else { "closed" }.to_owned(),
            settings: about.settings,
            server: about.server,
            duration_s,
            throughput_per_s: float(report.answers()) / duration_s,
            counts: CountSummary {
                answers: report.answers(),
                errors: counts.errors(),
                refused: counts.refusals.clone(),
                timeouts: counts.timeouts,
                never_sent: counts.unsent,
                strays: counts.strays,
                sent: counts.sent,
                late: counts.late,
                held_back: counts.held_back,
                absent: counts.absent,
                echoes: counts.echoes,
            },
            verification: Verification {
                enabled: about.verified,
                checked: counts.checked,
                wrong: counts.violations,
            },
            latency_ns: Latency::of(&report.total.all_ns()),
            latency_by_kind_ns: kinds.collect(),
            send_delay_ns: Latency::of(&report.send_delays_ns),
            generator_busy_percent: report.busy_percent(),
            steal_percent: about.steal_percent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::latencies;

    #[test]
    fn percentiles_that_few_samples_lie_beyond_are_named() {
        let mut histogram = latencies();
        for value in 1..=5_000 {
            histogram.saturating_record(value);
        }
        let latency = Latency::of(&histogram);
        assert_eq!((latency.count, latency.min), (5_000, 1));
        assert_eq!(latency.percentiles["p50"], histogram.value_at_quantile(0.5));
        // 5,000 samples: five beyond p99.9.
        assert_eq!(latency.unsupported, ["p99.9", "p99.99"]);
        assert_eq!(Latency::of(&latencies()).unsupported.len(), PERCENTILES.len());
    }
}
