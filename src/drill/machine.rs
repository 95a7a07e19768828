//! What the machine gave to whom: without it nobody can tell whether a long gap was the cluster's
//! or a busy machine's.

use std::fs;

use crate::base::time::{Monotonic, NS_PER_MS};

/// `/proc/stat` counts in hundredths of a second, whatever the kernel's own tick.
const TICK_NS: u64 = 10 * NS_PER_MS;

/// Counts of the kernel at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) at: Monotonic,
    /// What the hypervisor took of all processors, in ns.
    steal_ns: u64,
    /// How long ready threads of the processes waited for a processor, in ns.
    queue_ns: u64,
}

/// What lies between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) time_ns: u64,
    pub(super) steal_ns: u64,
    pub(super) queue_ns: u64,
}

impl Reading {
    /// Of these processes, now.
    pub(super) fn take(pids: &[u32], at: Monotonic) -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let queue_ns = pids.iter().map(|pid| queue_ns_of(*pid)).sum();
        Self { at, steal_ns: steal_ns_in(&stat), queue_ns }
    }

    /// Since an earlier one. Of processes that have ended meanwhile nothing is known.
    pub(super) fn since(&self, earlier: &Self) -> Taken {
        Taken {
            time_ns: self.at.since_ns(earlier.at),
            steal_ns: self.steal_ns.saturating_sub(earlier.steal_ns),
            queue_ns: self.queue_ns.saturating_sub(earlier.queue_ns),
        }
    }
}

impl Taken {
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            time_ns: self.time_ns + other.time_ns,
            steal_ns: self.steal_ns + other.steal_ns,
            queue_ns: self.queue_ns + other.queue_ns,
        }
    }
}

/// The first line is of all processors: `cpu user nice system idle iowait irq softirq steal …`
fn steal_ns_in(stat: &str) -> u64 {
    let first = stat.lines().next().and_then(|line| line.strip_prefix("cpu "));
    let steal = first.and_then(|line| line.split_ascii_whitespace().nth(7)?.parse::<u64>().ok());
    steal.unwrap_or_default().saturating_mul(TICK_NS)
}

fn queue_ns_of(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let threads = threads.filter_map(Result::ok);
    let lines = threads.filter_map(|one| fs::read_to_string(one.path().join("schedstat")).ok());
    lines.map(|line| waited_ns_in(&line)).sum()
}

/// `ran waited slices`, the times in ns.
fn waited_ns_in(schedstat: &str) -> u64 {
    let waited = schedstat.split_ascii_whitespace().nth(1);
    waited.and_then(|waited| waited.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_that_the_kernel_documents() {
        let stat = "cpu  5 6 7 8 9 0 1 42 0 0\ncpu0 5 6 7 8 9 0 1 7 0 0\n";
        assert_eq!(steal_ns_in(stat), 420 * NS_PER_MS);
        assert_eq!(waited_ns_in("123 456 7\n"), 456);
        for unknown in ["", "cpu", "cpu  x y"] {
            assert_eq!((steal_ns_in(unknown), waited_ns_in(unknown.trim())), (0, 0), "{unknown}");
        }
    }
}
