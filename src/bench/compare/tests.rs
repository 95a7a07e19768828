//! Folders of results, made up and compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use hdrhistogram::Histogram;

use super::run_folder::ResultsError;
use super::*;
use crate::base::prng::Prng;
use crate::base::time::{NS_PER_S, Timestamp};
use crate::bench::mix::Kind;
use crate::bench::recorder::{Counts, Interval, place};
use crate::bench::report::{Report, latencies};
use crate::bench::results::{ResultFolder, write_environment};
use crate::bench::summary::About;
use crate::bench::surroundings::{Build, Environment};

fn environment(commit: &str) -> Environment {
    let build = Build { version: "0.1.0".to_owned(), commit: commit.to_owned() };
    Environment { generator: build.clone(), ..Environment::of_this_machine(Some(build), None) }
}

/// A report with so many latencies around 100 µs times `factor`.
fn report(seed: u64, count: u64, factor: u64) -> Report {
    let mut prng = Prng::new(seed, "latencies");
    let mut total = Interval::new(0);
    let base = 100_000 * factor / 100 + prng.below(1_000);
    let histogram: &mut Histogram<u64> = &mut total.latencies_ns[place(Kind::Read)];
    for _ in 0..count {
        histogram.saturating_record(base + prng.below(base));
    }
    let counts = Counts::default();
    let send_delays_ns = latencies();
    Report { total, counts, send_delays_ns, duration_ns: 1_000_000_000, is_open: true }
}

fn about(round: u32, rate: &str) -> About {
    About {
        scenario: "get-1".to_owned(),
        round: Some(round),
        started: "2026-11-23T09:32:16Z".to_owned(),
        settings: BTreeMap::from([("rate_per_s".to_owned(), rate.to_owned())]),
        server: None,
        verified: true,
        steal_percent: 0.0,
    }
}

/// A folder with `rounds` rounds; `factor` is its slowness in percent.
pub(super) fn run(below: &Path, name: &str, rounds: u32, factor: u64, rate: &str) -> RunFolder {
    let folder = below.join(name);
    write_environment(&folder, &environment(name)).expect("written");
    for round in 1..=rounds {
        let report = report(u64::from(round) + factor * 1_000, 20_000, factor);
        let result = ResultFolder::create(&folder, "get-1", Some(round)).expect("made");
        let mut log = result.interval_log(Timestamp(NS_PER_S)).expect("a file");
        log.add(&report.total);
        log.finish().expect("written");
        let summary = Summary::of(&report, about(round, rate));
        result.write(&report.total.all_ns(), &summary).expect("written");
    }
    RunFolder::read(&folder).expect("its own")
}

pub(super) fn options() -> CompareOptions {
    CompareOptions { thresholds: Thresholds::default(), metrics: None, allow_different: false }
}

#[test]
fn slower_side_is_called_slower_and_the_same_side_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let a = run(folder.path(), "aaaa", 8, 100, "1000");
    let b = run(folder.path(), "bbbb", 8, 110, "1000");
    let comparison = compare(&a, &b, &options()).expect("they compare");
    assert!(comparison.is_slower_by(5.0));
    assert!(!comparison.is_slower_by(15.0));
    let scenario = &comparison.scenarios[0];
    assert_eq!((scenario.pair_count, scenario.errors), (8, (0, 0)));
    let verdict = |name: &str| {
        let mut metrics = scenario.metrics.iter();
        metrics.find(|metric| metric.name == name).map(|metric| metric.verdict)
    };
    assert_eq!(verdict("p50"), Some(Verdict::Slower));
    // 20,000 samples: two beyond p99.99, which nobody asked for in any case.
    assert_eq!(verdict("p99.99"), Some(Verdict::NotJudged));
    assert_eq!(verdict("max"), Some(Verdict::NotJudged));
    let text = comparison.to_string();
    for part in ["SLOWER", "A against A: 0 of 1000", "get-1: open loop, 8 pairs", "(aaaa)"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let json = serde_json::to_value(&comparison).expect("plain data");
    assert_eq!(json["scenarios"][0]["metrics"][0]["verdict"], "slower");
    assert!(!compare(&a, &a, &options()).expect("they compare").is_slower_by(0.0));
}

#[test]
fn percentile_without_enough_samples_is_not_judged_though_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let a = run(folder.path(), "aaaa", 6, 100, "1000");
    let metrics = Some(vec!["p99.99".to_owned()]);
    let comparison = compare(&a, &a, &CompareOptions { metrics, ..options() }).expect("compare");
    let weak = comparison.scenarios[0].metrics.iter().find(|metric| metric.name == "p99.99");
    assert_eq!(weak.map(|metric| metric.verdict), Some(Verdict::Unsupported));
    let metrics = Some(vec!["p98".to_owned()]);
    let error = compare(&a, &a, &CompareOptions { metrics, ..options() }).expect_err("no metric");
    assert_eq!(error, CompareError::Metric("p98".to_owned()));
}

#[test]
fn different_settings_and_surroundings_are_refused_by_name_unless_allowed() {
    let folder = tempfile::tempdir().expect("a folder");
    let a = run(folder.path(), "aaaa", 6, 100, "1000");
    let mut b = run(folder.path(), "bbbb", 6, 100, "2000");
    b.environment.kernel = "7.0".to_owned();
    let error = compare(&a, &b, &options()).expect_err("they differ").to_string();
    assert!(error.contains("get-1: rate_per_s: 1000 | 2000"), "{error}");
    assert!(error.contains("kernel: "), "{error}");
    let allowed = CompareOptions { allow_different: true, ..options() };
    let comparison = compare(&a, &b, &allowed).expect("allowed");
    assert_eq!(comparison.differences.len(), 2);
    assert!(comparison.to_string().contains("different: kernel"));
}

#[test]
fn rounds_of_one_side_that_differ_among_themselves_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let a = run(folder.path(), "aaaa", 6, 100, "1000");
    let mut b = a.clone();
    let rounds = b.scenarios.get_mut("get-1").expect("the scenario");
    let round = rounds.get_mut(&4).expect("a round");
    round.summary.settings.insert("depth".to_owned(), "9".to_owned());
    let error = compare(&a, &b, &options()).expect_err("they differ").to_string();
    assert!(error.contains("get-1: depth: none | 9"), "{error}");
}

#[test]
fn run_with_wrong_answers_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let a = run(folder.path(), "aaaa", 6, 100, "1000");
    let mut b = a.clone();
    let rounds = b.scenarios.get_mut("get-1").expect("the scenario");
    rounds.get_mut(&2).expect("a round").summary.verification.wrong = 1;
    assert!(matches!(compare(&a, &b, &options()), Err(CompareError::Wrong(_))));
}

#[test]
fn results_are_found_by_their_commit_the_latest_first() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["20261123T090000Z-abc123", "20261124T090000Z-abc123-dirty"] {
        run(folder.path(), name, 1, 100, "1000");
    }
    let found = RunFolder::find("abc1", folder.path()).expect("found");
    assert!(found.path.ends_with("20261124T090000Z-abc123-dirty"));
    let unknown = RunFolder::find("def", folder.path());
    assert!(matches!(unknown, Err(ResultsError::Unknown(..))), "{unknown:?}");
}

#[test]
fn results_without_surroundings_or_of_another_schema_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    run(folder.path(), "aaaa", 1, 100, "1000");
    let path = folder.path().join("aaaa");
    let file = path.join("get-1/round-01/summary.json");
    let text = fs::read_to_string(&file).expect("written");
    let newer = text.replace("\"schema_version\": 1", "\"schema_version\": 2");
    fs::write(&file, newer).expect("written");
    assert!(matches!(RunFolder::read(&path), Err(ResultsError::Schema(..))));
    fs::write(&file, &text[..text.len() / 2]).expect("written");
    assert!(matches!(RunFolder::read(&path), Err(ResultsError::Malformed(..))));
    fs::remove_file(path.join("environment.json")).expect("removed");
    assert!(matches!(RunFolder::read(&path), Err(ResultsError::File(..))));
}
