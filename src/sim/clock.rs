//! A node's clocks: a monotonic one that begins anew with each process, and the wall clock, which
//! is wrong by some amount, runs a little too fast or too slow, and jumps.

use crate::base::time::{Monotonic, NS_PER_S, Now, Timestamp};

/// The wall clock of a node without any error when a run begins.
const WALL_AT_START: Timestamp = Timestamp(1_700_000_000 * NS_PER_S);
/// Parts in a million.
const MILLION: i128 = 1_000_000;

/// A node's clocks.
#[derive(Clone, Debug, Default)]
pub struct NodeClock {
    /// How far the wall clock is off.
    offset_ns: i64,
    /// How much too fast the wall clock runs, in parts per million.
    drift_ppm: i32,
    /// When the process began.
    process_began: Monotonic,
}

impl NodeClock {
    /// Clocks with these errors.
    #[must_use]
    pub const fn new(offset_ns: i64, drift_ppm: i32) -> Self {
        Self { offset_ns, drift_ppm, process_began: Monotonic(0) }
    }

    /// A process begins: its monotonic clock does.
    pub const fn begin_process(&mut self, now: Monotonic) {
        self.process_began = now;
    }

    /// The wall clock is set.
    pub const fn jump(&mut self, ns: i64) {
        self.offset_ns = self.offset_ns.saturating_add(ns);
    }

    /// What the clocks say.
    #[must_use]
    pub fn now(&self, now: Monotonic) -> Now {
        let monotonic = Monotonic(now.since_ns(self.process_began));
        let drifted = i128::from(now.0) * i128::from(self.drift_ppm) / MILLION;
        let wall = i128::from(WALL_AT_START.0) + i128::from(now.0) + drifted;
        let wall = (wall + i128::from(self.offset_ns)).max(0);
        Now { monotonic, wall: Timestamp(u64::try_from(wall).unwrap_or(u64::MAX)) }
    }

    /// When the process's monotonic clock will say `at`.
    #[must_use]
    pub const fn when(&self, at: Monotonic) -> Monotonic {
        self.process_began.after_ns(at.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_clock_begins_with_its_process_and_no_jump_moves_it() {
        let mut clock = NodeClock::new(0, 50);
        clock.begin_process(Monotonic(700));
        clock.jump(-1_000_000);
        assert_eq!(clock.now(Monotonic(1_000)).monotonic, Monotonic(300));
        assert_eq!(clock.when(Monotonic(300)), Monotonic(1_000));
    }

    #[test]
    fn wall_clock_is_off_drifts_and_jumps_both_ways() {
        let wall = |clock: &NodeClock, at| clock.now(Monotonic(at)).wall.0 - WALL_AT_START.0;
        let mut clock = NodeClock::new(5_000, 100);
        assert_eq!(wall(&clock, 0), 5_000);
        assert_eq!(wall(&clock, 10_000_000), 10_000_000 + 1_000 + 5_000);
        clock.jump(-4_000);
        assert_eq!(wall(&clock, 0), 1_000);
        clock.jump(i64::MIN);
        assert!(clock.now(Monotonic(0)).wall < WALL_AT_START);
    }
}
