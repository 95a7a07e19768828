//! The verdicts on made-up rounds, whose truth is known.

use super::*;
use crate::bench::schedule::unit;

/// Rounds around 100 µs and 150,000 a second that scatter by `spread`, half of it shared by both
/// sides of a pair; the second side is `factor` times as slow.
fn rounds(seed: u64, pair_count: usize, spread: f64, factor: f64) -> Vec<Series> {
    let mut prng = Prng::new(seed, "rounds");
    // The sum of three is near enough to a bell, and now and then a round is far off.
    let mut noise = move || {
        let bell: f64 = (0..3).map(|_| unit(&mut prng) - 0.5).sum();
        let outlier = if prng.one_in(20) { 3.0 } else { 1.0 };
        bell * spread * outlier
    };
    let metrics = [
        ("p50", Unit::Nanoseconds, 100_000.0),
        ("p99", Unit::Nanoseconds, 300_000.0),
        ("throughput", Unit::PerSecond, 150_000.0),
    ];
    let series = metrics.map(|(name, unit, base): (_, _, f64)| {
        let factor = if unit == Unit::Nanoseconds { factor } else { 1.0 / factor };
        let pair = |_| {
            let shared = noise();
            let a = base * (shared + noise()).exp();
            let b = base * factor * (shared + noise()).exp();
            (a, b)
        };
        let pairs = (0..pair_count).map(pair).collect();
        Series { name: name.to_owned(), unit, is_judged: true, is_supported: true, pairs }
    });
    series.to_vec()
}

fn verdicts(all: &[Series]) -> Vec<Verdict> {
    judge(all, &Thresholds::default()).into_iter().map(|metric| metric.verdict).collect()
}

fn share(count: usize, of: u64) -> f64 {
    float(u64_from(count)) / float(of)
}

#[test]
fn side_that_does_not_differ_is_rarely_called_faster_or_slower() {
    // Promised are 5 % for all metrics together, also where the noise is above the threshold; of
    // 2,000 trials that is known to within 1.5 %, three standard deviations. Where the noise is
    // below it, there is nothing to promise.
    for (spread, share_max) in [(0.005, 0.0), (0.03, 0.065), (0.15, 0.065)] {
        let is_alarm = |verdict: &Verdict| matches!(verdict, Verdict::Faster | Verdict::Slower);
        let alarms =
            (0..2_000).filter(|seed| verdicts(&rounds(*seed, 8, spread, 1.0)).iter().any(is_alarm));
        let share = share(alarms.count(), 2_000);
        assert!(share <= share_max, "spread {spread}: {share}");
    }
}

#[test]
fn tenth_more_is_seen_with_eight_pairs() {
    for seed in 0..200 {
        let slower = verdicts(&rounds(seed, 8, 0.02, 1.1));
        assert_eq!(slower, [Verdict::Slower; 3], "seed {seed}");
        let faster = verdicts(&rounds(seed, 8, 0.02, 1.0 / 1.1));
        assert_eq!(faster, [Verdict::Faster; 3], "seed {seed}");
    }
}

#[test]
fn quiet_side_that_does_not_differ_is_the_same() {
    let same = (0..200)
        .filter(|seed| verdicts(&rounds(*seed, 8, 0.005, 1.0)) == [Verdict::Same; 3])
        .count();
    assert!(same > 190, "{same}");
}

#[test]
fn change_below_the_threshold_is_never_called_slower_however_certain() {
    for seed in 0..100 {
        let verdicts = verdicts(&rounds(seed, 10, 0.000_1, 1.02));
        assert_eq!(verdicts, [Verdict::Same; 3], "seed {seed}");
    }
}

#[test]
fn change_of_a_few_nanoseconds_is_none() {
    let pairs = vec![(1_000.0, 1_200.0); 8];
    let series = |unit| Series {
        name: "p50".to_owned(),
        unit,
        is_judged: true,
        is_supported: true,
        pairs: pairs.clone(),
    };
    assert_eq!(verdicts(&[series(Unit::Nanoseconds)]), [Verdict::Same]);
    // A rate has no floor.
    assert_eq!(verdicts(&[series(Unit::PerSecond)]), [Verdict::Faster]);
}

#[test]
fn too_few_pairs_are_inconclusive_and_say_how_many_are_missing() {
    let all = rounds(1, 4, 0.02, 1.3);
    // Three metrics take seven pairs.
    assert_eq!(verdicts(&all), [Verdict::Inconclusive { more_rounds: Some(3) }; 3]);
    let six = rounds(1, 6, 0.02, 1.3);
    assert_eq!(verdicts(&six), [Verdict::Inconclusive { more_rounds: Some(1) }; 3]);
    assert_eq!(verdicts(&six[..1]), [Verdict::Slower], "one metric alone takes six");
}

#[test]
fn noise_above_the_threshold_is_inconclusive() {
    let mut inconclusive = 0;
    for seed in 0..50 {
        for verdict in verdicts(&rounds(seed, 8, 0.3, 1.0)) {
            inconclusive += usize::from(matches!(verdict, Verdict::Inconclusive { .. }));
            assert_ne!(verdict, Verdict::Same, "seed {seed}");
        }
    }
    assert!(inconclusive > 140, "{inconclusive}");
}

#[test]
fn metric_without_enough_samples_is_not_judged_and_costs_the_others_nothing() {
    let mut all = rounds(1, 6, 0.02, 1.3);
    all[1].is_supported = false;
    all[2].is_judged = false;
    assert_eq!(verdicts(&all), [Verdict::Slower, Verdict::Unsupported, Verdict::NotJudged]);
}

#[test]
fn false_alarms_are_counted_on_the_rounds_of_one_side() {
    // However much slower the second side is: only the first one is looked at.
    let alarms = false_alarms(&rounds(1, 8, 0.03, 2.0), &Thresholds::default());
    assert_eq!(alarms.resamples, 1_000);
    assert!(alarms.alarms <= 50, "{alarms:?}");
    let few = false_alarms(&rounds(1, 5, 0.03, 2.0), &Thresholds::default());
    assert_eq!(few, FalseAlarms { resamples: 0, alarms: 0 });
}

#[test]
fn ratio_and_percent_say_which_side_is_slower() {
    let judged = judge(&rounds(1, 8, 0.000_1, 1.25), &Thresholds::default());
    for metric in &judged {
        assert!((metric.slower_percent() - 25.0).abs() < 0.5, "{metric:?}");
        let (low, high) = metric.interval.expect("enough rounds");
        assert!(low <= metric.ratio && metric.ratio <= high);
    }
    assert!(judged[0].ratio > 1.2 && judged[2].ratio < 0.85);
}
