//! What the hypervisor takes of each processor: time in which nothing of ours could run and that no
//! counter of the scheduler shows.

use std::collections::BTreeMap;

use crate::base::time::NS_PER_MS;

/// `/proc/stat` counts in hundredths of a second, whatever the kernel's own tick.
const TICK_NS: u64 = 10 * NS_PER_MS;

/// The time taken of each processor since the machine's start, in nanoseconds; empty if the kernel
/// doesn't say.
pub(super) fn read_ns() -> BTreeMap<usize, u64> {
    std::fs::read_to_string("/proc/stat").map_or_else(|_| BTreeMap::new(), |stat| parse_ns(&stat))
}

fn parse_ns(stat: &str) -> BTreeMap<usize, u64> {
    stat.lines().filter_map(processor_and_ns).collect()
}

/// `cpu3 user nice system idle iowait irq softirq steal …`
fn processor_and_ns(line: &str) -> Option<(usize, u64)> {
    let mut words = line.split_ascii_whitespace();
    let processor = words.next()?.strip_prefix("cpu")?.parse().ok()?;
    let ticks: u64 = words.nth(7)?.parse().ok()?;
    Some((processor, ticks.saturating_mul(TICK_NS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_is_the_eighth_number_of_each_processor() {
        let stat = "cpu  595248 728781 213467 795154 43578 0 18614 2213 0 0\n\
                    cpu0 284851 361728 108586 401567 33372 0 7664 1086 0 0\n\
                    cpu11 310396 367053 104880 393586 10206 0 10950 1127 0 0\n\
                    intr 12345\nctxt 9\n";
        let expected = [(0, 10_860_000_000), (11, 11_270_000_000)];
        assert_eq!(parse_ns(stat), BTreeMap::from(expected));
    }

    #[test]
    fn lines_that_say_nothing_are_left_out() {
        for stat in ["", "cpu0", "cpu0 1 2 3", "cpux 1 2 3 4 5 6 7 8", "cpu0 1 2 3 4 5 6 7 x"] {
            assert_eq!(parse_ns(stat), BTreeMap::new(), "{stat:?}");
        }
        assert!(!read_ns().is_empty(), "Linux counts it for each processor");
    }
}
