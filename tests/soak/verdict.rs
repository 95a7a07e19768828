//! The bounds that a long run must keep.

use p2pmap::base::cast::u64_from;

use crate::load::{PARTITION_COUNT, SLOT_COUNT, VALUE_SIZE_BYTES};
use crate::sample::{Report, Sample};
use crate::{Run, WORKER_COUNT};

/// From here on a run is long enough to say something about memory.
const SECONDS_FOR_SLOPE: u64 = 45;
/// What the line through the resident sizes may rise by after the warm-up: a share of their mean,
/// and a little for what the allocator does at first.
const RESIDENT_RISE: f64 = 0.02;
const RESIDENT_RISE_BYTES: f64 = (4 << 20) as f64;
/// What the entries of all workers are at most, with 64 bytes each for keys and times.
const STATE_SIZE_BYTES_MAX: f64 = (PARTITION_COUNT as u64
    * SLOT_COUNT
    * u64_from(WORKER_COUNT)
    * u64_from(VALUE_SIZE_BYTES + 64)) as f64;
/// What checkpoints may take: the last one of each partition and the next, with a tenth for their
/// framing; two blocks of each that is nearly empty; and the files that are always there.
const CHECKPOINTS_SIZE_BYTES_MAX: f64 = 2.0 * 1.1 * STATE_SIZE_BYTES_MAX + (2 << 20) as f64;
/// Clients must not notice checkpoints.
const CHECKPOINT_RATIO_MAX: f64 = 2.0;
/// Answers without which a percentile of a thousandth says nothing.
const ANSWER_COUNT_MIN: u64 = 20_000;

/// The bounds that were broken.
pub(crate) fn failures(run: &Run, report: &Report) -> Vec<String> {
    let checks = [refused(report), disk(run, report), memory(run, report)];
    let full = [checkpoints(report), latency(report), turns(report)];
    let mut failures: Vec<String> = checks.into_iter().flatten().collect();
    for failure in full.into_iter().flatten() {
        if run.is_full() {
            failures.push(failure);
        } else {
            println!("in a full run this would be a failure: {failure}");
        }
    }
    failures
}

/// The load is moderate, and room comes back by itself: nothing needs to be refused.
fn refused(report: &Report) -> Option<String> {
    let count = report.refused_count;
    (count > 0).then(|| format!("{count} operations were refused"))
}

fn disk(run: &Run, report: &Report) -> Option<String> {
    let most = report.samples.iter().map(|sample| sample.disk_size_bytes).max()? as f64;
    let bound = run.log_size_bytes_max as f64 + CHECKPOINTS_SIZE_BYTES_MAX;
    println!("disk: {most:.0} bytes at most, bound {bound:.0}");
    (most > bound).then(|| format!("the disk took {most:.0} bytes, more than {bound:.0}"))
}

fn memory(run: &Run, report: &Report) -> Option<String> {
    let warm = report.warm();
    let rise = rise(warm);
    let resident = |sample: &Sample| sample.resident_size_bytes as f64;
    let mean = warm.iter().map(resident).sum::<f64>() / warm.len().max(1) as f64;
    let bound = mean * RESIDENT_RISE + RESIDENT_RISE_BYTES;
    println!(
        "memory: the line through it rises by {rise:.0} bytes after the warm-up, bound {bound:.0}"
    );
    let failed = run.seconds >= SECONDS_FOR_SLOPE && rise > bound;
    failed
        .then(|| format!("memory grew by {rise:.0} bytes after the warm-up, more than {bound:.0}"))
}

/// By how much the straight line rises that fits the resident sizes best (least squares).
fn rise(samples: &[Sample]) -> f64 {
    let count = samples.len() as f64;
    let (x, y) = (
        |sample: &Sample| sample.at.as_secs_f64(),
        |sample: &Sample| sample.resident_size_bytes as f64,
    );
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return 0.0 };
    let x_mean = samples.iter().map(x).sum::<f64>() / count;
    let y_mean = samples.iter().map(y).sum::<f64>() / count;
    let spread: f64 = samples.iter().map(|sample| (x(sample) - x_mean).powi(2)).sum();
    let together: f64 =
        samples.iter().map(|sample| (x(sample) - x_mean) * (y(sample) - y_mean)).sum();
    if spread > 0.0 { together / spread * (x(last) - x(first)) } else { 0.0 }
}

/// A run that took none shows nothing about them.
fn checkpoints(report: &Report) -> Option<String> {
    match report.last_metric("p2pmap_checkpoints_total") {
        Some(count) if count > 0.0 => None,
        Some(_) => Some("no checkpoint was taken".to_owned()),
        None => Some("the node has no metrics, or doesn't count checkpoints".to_owned()),
    }
}

fn latency(report: &Report) -> Option<String> {
    let (with, without) = (&report.with_checkpoint, &report.without_checkpoint);
    if with.len().min(without.len()) < ANSWER_COUNT_MIN {
        return Some(format!(
            "too few answers to compare: {} with a checkpoint under way, {} without",
            with.len(),
            without.len()
        ));
    }
    let p999 = |latencies: &hdrhistogram::Histogram<u64>| latencies.value_at_quantile(0.999) as f64;
    let ratio = p999(with) / p999(without).max(1.0);
    println!(
        "p99.9 with a checkpoint under way / without: {ratio:.2}, bound {CHECKPOINT_RATIO_MAX}"
    );
    (ratio > CHECKPOINT_RATIO_MAX).then(|| format!("checkpoints raise p99.9 {ratio:.2} times"))
}

/// Turns of more than a millisecond that would have been as long if the loop had had its core all
/// the while, as far as the guest's kernel and the pauses of a loop that does nothing tell.
fn turns(report: &Report) -> Option<String> {
    let (Some(long), Some(off_core)) = (
        report.last_metric("p2pmap_stalls_total"),
        report.last_metric("p2pmap_stalls_off_core_total"),
    ) else {
        return Some("the node doesn't count long turns".to_owned());
    };
    let machine = &report.machine;
    let allowed = machine.allowed_count(report.ran);
    println!(
        "turns over 1 ms: {long:.0}, of which {off_core:.0} because the loop was kept from its \
         core (it waited {:?} for one, and the host took {:?}).\n\
         A loop that only looks at the clock lost more than 1 ms {} times in {:?} on this core \
         (longest {:?}); the node ran {:?}, so {allowed:.1} of its turns are put down to the \
         machine",
        report.waited, report.stolen, machine.count, machine.ran, machine.longest, report.ran
    );
    let own = long - off_core;
    (own > allowed).then(|| format!("{own:.0} turns took over 1 ms by themselves"))
}

impl Report {
    fn last_metric(&self, name: &str) -> Option<f64> {
        self.samples.last()?.metrics.get(name).copied()
    }
}

#[test]
fn line_through_samples_rises_by_what_they_grow() {
    let sample = |second: u64, resident_size_bytes| Sample {
        at: std::time::Duration::from_secs(second),
        disk_size_bytes: 0,
        resident_size_bytes,
        metrics: Default::default(),
    };
    let growing: Vec<Sample> = (0..10).map(|second| sample(second, 1_000 + second * 7)).collect();
    assert!((rise(&growing) - 63.0).abs() < 1e-6);
    let flat: Vec<Sample> = (0..10).map(|second| sample(second, 500)).collect();
    assert!(rise(&flat).abs() < 1e-6);
    assert!(rise(&[]).abs() < 1e-6 && rise(&growing[..1]).abs() < 1e-6);
}
