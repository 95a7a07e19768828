//! Two results side by side: is the second one slower?
//!
//! Compared are rounds, not samples: those of one run aren't independent. The n-th round of one
//! side is held against the n-th of the other, which were measured one after the other. What is
//! said of them is [`mod@judge`]'s; [`statistics`] has the mathematics.

pub mod distribution;
pub mod judge;
pub mod page;
pub mod run_folder;
pub mod statistics;
pub mod table;

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use self::judge::{FalseAlarms, Judged, Series, Thresholds, Unit, Verdict, false_alarms, judge};
use self::run_folder::{Round, RunFolder};
use super::report::{BUSY_PERCENT_MAX, PERCENTILES};
use super::schedule::float;
use super::summary::{Server, Summary};

/// The version of what `--json` prints.
const COMPARISON_SCHEMA_VERSION: u32 = 1;

/// How to compare.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// Below what an effect doesn't count.
    pub thresholds: Thresholds,
    /// The metrics that are judged; none: p50, p99 and p99.9 of an open loop; throughput, p50 and
    /// p99 of a closed one.
    pub metrics: Option<Vec<String>>,
    /// Compare what was measured in different surroundings.
    pub allow_different: bool,
}

/// All that can be said of two results.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// `p2pmap-bench-comparison`.
    pub schema: &'static str,
    /// The version of the schema.
    pub schema_version: u32,
    /// The folder and the node's commit of the first side.
    pub a: Side,
    /// And of the second one.
    pub b: Side,
    /// Below what an effect doesn't count.
    pub thresholds: Thresholds,
    /// What differs in the surroundings, if that was allowed.
    pub differences: Vec<String>,
    /// Scenarios that only one side has.
    pub unmatched: Vec<String>,
    /// Those of both.
    pub scenarios: Vec<ScenarioComparison>,
}

/// A side of a comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// Its folder.
    pub folder: String,
    /// The commit of the node; of the generator if there was no node of ours.
    pub commit: String,
}

/// All that can be said of a scenario.
#[derive(Clone, Debug, Serialize)]
pub struct ScenarioComparison {
    /// Its name.
    pub name: String,
    /// `open` or `closed`.
    pub loop_kind: String,
    /// Pairs of rounds.
    pub pair_count: usize,
    /// All metrics.
    pub metrics: Vec<Judged>,
    /// Errors of all rounds of both sides.
    pub errors: (u64, u64),
    /// The greatest busy share of the generator.
    pub generator_busy_percent: u64,
    /// The first side compared with itself.
    pub false_alarms: FalseAlarms,
}

/// Why two results don't compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareError {
    /// They are of different surroundings or settings.
    Different(Vec<String>),
    /// A run had wrong answers: its figures are those of something that doesn't work.
    Wrong(String),
    /// They have no scenario in common.
    NothingInCommon,
    /// A metric that there is none of.
    Metric(String),
}

impl fmt::Display for CompareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Different(differences) => {
                write!(
                    f,
                    "they were measured in different surroundings (--allow-different compares them \
                     all the same):"
                )?;
                differences.iter().try_for_each(|difference| write!(f, "\n  {difference}"))
            }
            Self::Wrong(folder) => write!(f, "{folder}: answers were wrong, see summary.json"),
            Self::NothingInCommon => f.write_str("they have no scenario in common"),
            Self::Metric(name) => write!(f, "there is no metric {name:?}; there are {}", metrics()),
        }
    }
}

impl std::error::Error for CompareError {}

/// The names of all metrics.
fn metrics() -> String {
    let names = PERCENTILES.iter().map(|(name, _)| *name).chain(["max", "throughput"]);
    names.collect::<Vec<_>>().join(", ")
}

impl Comparison {
    /// Whether a judged metric is slower by at least so many percent.
    #[must_use]
    pub fn is_slower_by(&self, percent: f64) -> bool {
        let mut all = self.scenarios.iter().flat_map(|scenario| &scenario.metrics);
        all.any(|metric| metric.verdict == Verdict::Slower && metric.slower_percent() >= percent)
    }
}

/// Compares two results.
///
/// # Errors
/// If they don't compare.
pub fn compare(
    a: &RunFolder,
    b: &RunFolder,
    options: &CompareOptions,
) -> Result<Comparison, CompareError> {
    if let Some(metrics_wanted) = &options.metrics {
        let known = metrics();
        let is_unknown = |name: &&String| !known.split(", ").any(|known| known == name.as_str());
        if let Some(name) = metrics_wanted.iter().find(is_unknown) {
            return Err(CompareError::Metric(name.clone()));
        }
    }
    let names = |run: &RunFolder| run.scenarios.keys().cloned().collect::<BTreeSet<String>>();
    let (of_a, of_b) = (names(a), names(b));
    let differences = differences(a, b);
    if !differences.is_empty() && !options.allow_different {
        return Err(CompareError::Different(differences));
    }
    let mut scenarios = Vec::new();
    for name in of_a.intersection(&of_b) {
        scenarios.push(scenario(name, pairs(a, b, name), options)?);
    }
    if scenarios.iter().all(|scenario| scenario.pair_count == 0) {
        return Err(CompareError::NothingInCommon);
    }
    Ok(Comparison {
        schema: "p2pmap-bench-comparison",
        schema_version: COMPARISON_SCHEMA_VERSION,
        a: Side::of(a),
        b: Side::of(b),
        thresholds: options.thresholds,
        differences,
        unmatched: of_a.symmetric_difference(&of_b).cloned().collect(),
        scenarios,
    })
}

impl Side {
    fn of(run: &RunFolder) -> Self {
        let build = run.environment.server.as_ref().unwrap_or(&run.environment.generator);
        Self { folder: run.path.display().to_string(), commit: build.commit.clone() }
    }
}

/// The rounds that both sides have, side by side.
fn pairs<'a>(a: &'a RunFolder, b: &'a RunFolder, name: &str) -> Vec<(&'a Round, &'a Round)> {
    let (Some(a), Some(b)) = (a.scenarios.get(name), b.scenarios.get(name)) else {
        return Vec::new();
    };
    a.iter().filter_map(|(number, round)| Some((round, b.get(number)?))).collect()
}

/// Everything that two results must have in common and don't.
fn differences(a: &RunFolder, b: &RunFolder) -> Vec<String> {
    let mut all = a.environment.differences(&b.environment);
    for (name, rounds) in &a.scenarios {
        let others = b.scenarios.get(name);
        let (Some(first), Some(others)) = (rounds.values().next(), others) else { continue };
        // All rounds of both sides are held against the first one of them.
        let rest = rounds.values().skip(1).chain(others.values());
        let mut of_scenario: Vec<String> = Vec::new();
        for round in rest {
            of_scenario.extend(settings_differences(&first.summary, &round.summary));
        }
        of_scenario.sort();
        of_scenario.dedup();
        all.extend(of_scenario.into_iter().map(|difference| format!("{name}: {difference}")));
    }
    all
}

fn settings_differences(a: &Summary, b: &Summary) -> Vec<String> {
    let none = "none".to_owned();
    let names: BTreeSet<&String> = a.settings.keys().chain(b.settings.keys()).collect();
    let settings = names.into_iter().map(|name| {
        let value = |of: &Summary| of.settings.get(name).unwrap_or(&none).clone();
        (name.clone(), value(a), value(b))
    });
    let of_node = |of: &Summary| match &of.server {
        Some(Server { durability, idle, cores, partition_count, .. }) => {
            [durability.clone(), idle.clone(), format!("{cores:?}"), partition_count.to_string()]
        }
        None => std::array::from_fn(|_| "it didn't say".to_owned()),
    };
    let node = ["durability", "idle", "cores", "partitions"].into_iter();
    let node = node.zip(of_node(a).into_iter().zip(of_node(b)));
    settings
        .chain(node.map(|(name, (a, b))| (format!("node's {name}"), a, b)))
        .filter(|(_, a, b)| a != b)
        .map(|(name, a, b)| format!("{name}: {a} | {b}"))
        .collect()
}

fn scenario(
    name: &str,
    pairs: Vec<(&Round, &Round)>,
    options: &CompareOptions,
) -> Result<ScenarioComparison, CompareError> {
    let rounds = || pairs.iter().flat_map(|(a, b)| [*a, *b]);
    if let Some(round) = rounds().find(|round| round.summary.verification.wrong > 0) {
        return Err(CompareError::Wrong(round.folder.display().to_string()));
    }
    let loop_kind = pairs.first().map_or("open", |(a, _)| a.summary.loop_kind.as_str());
    let by_default: &[&str] = match loop_kind {
        "closed" => &["throughput", "p50", "p99"],
        _ => &["p50", "p99", "p99.9"],
    };
    let is_judged = |metric: &str| match &options.metrics {
        Some(metrics) => metrics.iter().any(|name| name == metric),
        None => by_default.contains(&metric),
    };
    let percentiles = PERCENTILES.iter().map(|(name, _)| Series {
        name: (*name).to_owned(),
        unit: Unit::Nanoseconds,
        is_judged: is_judged(name),
        is_supported: rounds()
            .all(|round| !round.summary.latency_ns.unsupported.iter().any(|weak| weak == name)),
        pairs: values(&pairs, |summary| {
            float(summary.latency_ns.percentiles.get(*name).copied().unwrap_or(0))
        }),
    });
    let other = |name: &str, unit, pairs| Series {
        name: name.to_owned(),
        unit,
        is_judged: is_judged(name),
        is_supported: true,
        pairs,
    };
    let max = values(&pairs, |summary| float(summary.latency_ns.max));
    let throughput = values(&pairs, |summary| summary.throughput_per_s);
    let others =
        [other("max", Unit::Nanoseconds, max), other("throughput", Unit::PerSecond, throughput)];
    let all: Vec<Series> = match pairs.is_empty() {
        true => Vec::new(),
        false => percentiles.chain(others).collect(),
    };
    let errors = |side: fn(&(&Round, &Round)) -> u64| pairs.iter().map(side).sum();
    Ok(ScenarioComparison {
        name: name.to_owned(),
        loop_kind: loop_kind.to_owned(),
        pair_count: pairs.len(),
        metrics: judge(&all, &options.thresholds),
        errors: (
            errors(|(a, _)| a.summary.counts.errors),
            errors(|(_, b)| b.summary.counts.errors),
        ),
        generator_busy_percent: rounds()
            .map(|round| round.summary.generator_busy_percent)
            .max()
            .unwrap_or(0),
        false_alarms: false_alarms(&all, &options.thresholds),
    })
}

fn values(pairs: &[(&Round, &Round)], value: impl Fn(&Summary) -> f64) -> Vec<(f64, f64)> {
    pairs.iter().map(|(a, b)| (value(&a.summary), value(&b.summary))).collect()
}

impl ScenarioComparison {
    /// The generator may have been the limit itself.
    #[must_use]
    pub fn is_generator_bound(&self) -> bool {
        self.generator_busy_percent > BUSY_PERCENT_MAX
    }
}

#[cfg(test)]
mod tests;
