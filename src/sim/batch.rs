//! Many runs, on many cores: each run is one thread's, so how many there are changes nothing.

use std::cell::Cell;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicU64, Ordering};

use super::cluster::{Options, run};
use super::report::{Report, Summary};

thread_local! {
    /// The seed of the run that this thread is at.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The seed of the run that the calling thread is at: for whoever reports a panic.
#[must_use]
pub fn seed_of_this_thread() -> Option<u64> {
    SEED.get()
}

/// Runs one seed.
#[must_use]
pub fn run_seed(seed: u64, options: Options) -> Report {
    SEED.set(Some(seed));
    let report = run(seed, options);
    SEED.set(None);
    report
}

/// Runs all seeds of a range on so many threads. `observe` is told of each run when it is over,
/// and says whether others shall begin: all lower seeds than one that was run are run.
///
/// # Panics
/// If a run does.
pub fn run_seeds(
    seeds: Range<u64>,
    jobs: usize,
    options: Options,
    observe: impl Fn(&Report) -> ControlFlow<()> + Sync,
) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut summary = Summary::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return summary;
            }
            let report = run_seed(seed, options);
            let is_enough = observe(&report).is_break();
            summary.add(&report);
            if is_enough {
                next.store(seeds.end, Ordering::Relaxed);
            }
        }
    };
    let mut whole = Summary::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            whole.merge(thread.join().expect("a run that panics ends the process"));
        }
    });
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_does_not_depend_on_the_number_of_threads() {
        let observe = |_: &Report| ControlFlow::Continue(());
        let summary = |jobs| format!("{:?}", run_seeds(0..4, jobs, Options::default(), observe));
        assert_eq!(summary(1), summary(3));
        assert_eq!(seed_of_this_thread(), None);
    }

    #[test]
    fn no_seed_is_begun_after_one_that_is_enough() {
        let observe = |report: &Report| match report.seed {
            1 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        let summary = run_seeds(0..1_000, 1, Options::default(), observe);
        assert_eq!(summary.runs_count, 2);
    }
}
