//! `bench compare`: is the second result slower than the first?

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;

use super::super::Verdict;
use super::super::failure::Failure;
use crate::bench::compare::judge::Thresholds;
use crate::bench::compare::page::Page;
use crate::bench::compare::run_folder::RunFolder;
use crate::bench::compare::{CompareOptions, Comparison, compare};

/// Results are folders that `bench run --out` has written, or commits that have one in
/// --results-dir. Each one after the first is compared with the first, round by round: use
/// --round, and measure in turns.
///
/// Exit codes: 0 nothing is slower, or --fail-on wasn't given; 1 something is slower, as --fail-on
/// says; 2 they don't compare, or can't be read.
#[derive(Debug, Args)]
pub(in crate::cli) struct BenchCompareArgs {
    /// What the others are compared with.
    #[arg(value_name = "A")]
    first: String,
    /// What is compared with it.
    #[arg(value_name = "B", required = true)]
    others: Vec<String>,
    /// Exit with 1 if a judged metric is slower by at least so much: `slower:5%`.
    #[arg(long, value_name = "slower:PERCENT%", value_parser = fail_on)]
    fail_on: Option<f64>,
    /// The metrics that are judged, of p50, p90, p99, p99.9, p99.99, max, throughput [default: p50,
    /// p99, p99.9; of closed loops throughput, p50, p99].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    metrics: Option<Vec<String>>,
    /// A change of less than this many percent is none.
    #[arg(long, value_name = "PERCENT", default_value_t = 3.0, value_parser = positive)]
    threshold: f64,
    /// A change of a latency of less than this many nanoseconds is none.
    #[arg(long, value_name = "NANOSECONDS", default_value_t = 300.0, value_parser = positive)]
    floor: f64,
    /// Compare results of different surroundings or settings.
    #[arg(long)]
    allow_different: bool,
    /// Where to look for results of commits.
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    results_dir: PathBuf,
    /// Print JSON, one object a line for each comparison.
    #[arg(long)]
    json: bool,
    /// Also write a page with charts for a browser: one file, which needs nothing else.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(super) fn run(args: &BenchCompareArgs) -> Result<Verdict, Failure> {
    let find = |name: &String| {
        RunFolder::find(name, &args.results_dir).map_err(|e| Failure::new(e.to_string()))
    };
    let options = CompareOptions {
        thresholds: Thresholds { percent: args.threshold, floor_ns: args.floor },
        metrics: args.metrics.clone(),
        allow_different: args.allow_different,
    };
    let mut sides = vec![find(&args.first)?];
    let mut comparisons = Vec::new();
    let mut verdict = Verdict::Done;
    for (place, name) in args.others.iter().enumerate() {
        let other = find(name)?;
        let comparison = compare(&sides[0], &other, &options)
            .map_err(|e| Failure::new(format!("{} and {name}: {e}", args.first)))?;
        print(&comparison, args.json, place > 0)?;
        if args.fail_on.is_some_and(|percent| comparison.is_slower_by(percent)) {
            verdict = Verdict::Negative;
        }
        sides.push(other);
        comparisons.push(comparison);
    }
    if let Some(file) = &args.html {
        let page = Page::read(&sides, &comparisons).map_err(|e| Failure::new(e.to_string()))?;
        let written = fs::write(file, page.to_string());
        written.map_err(|e| Failure::new(format!("cannot write {}: {e}", file.display())))?;
    }
    Ok(verdict)
}

fn print(comparison: &Comparison, json: bool, is_further: bool) -> Result<(), Failure> {
    let text = if json {
        // Its maps have strings for keys, and its numbers are finite or become null.
        let line = serde_json::to_string(comparison).unwrap_or_default();
        format!("{line}\n")
    } else {
        format!("{}{comparison}", if is_further { "\n" } else { "" })
    };
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|e| Failure::stdout(&e))
}

fn fail_on(text: &str) -> Result<f64, String> {
    let percent = text.strip_prefix("slower:").and_then(|rest| rest.strip_suffix('%'));
    percent.ok_or_else(|| "expected slower:PERCENT%, e.g. slower:5%".to_owned()).and_then(positive)
}

fn positive(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0);
    value.ok_or_else(|| "expected a number of at least 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_is_asked_for_in_percent() {
        assert_eq!(fail_on("slower:5%"), Ok(5.0));
        assert_eq!(fail_on("slower:0.5%"), Ok(0.5));
        for wrong in ["slower:5", "faster:5%", "slower:-1%", "slower:x%", "slower:NaN%", ""] {
            assert!(fail_on(wrong).is_err(), "{wrong}");
        }
    }
}
