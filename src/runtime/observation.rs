//! What a loop measures of itself: how long its turns take, how long reads are in it, and whether
//! a turn that took too long had the core at all.
//!
//! All of it with the one clock reading that a turn begins with. A turn ends where the next one
//! begins, so it includes the submission of its work and whatever ran in between; the time in which
//! the loop sleeps is no turn. Every ten milliseconds, and after a turn that took too long, it is
//! asked as well what the thread got of its core ([`ThreadUsage`]): what was taken from it, by the
//! scheduler or the hypervisor, is told from what it has spent or has given away by blocking.

use std::collections::VecDeque;

use super::thread_usage::{ThreadReading, ThreadUsage};
use crate::base::limits::STALL_NS;
use crate::base::time::{Monotonic, NS_PER_MS};
use crate::metrics::LoopMetrics;
use crate::metrics::stage::{Stage, Stages};

/// How often it is read what the thread got of its core.
const WINDOW_NS: u64 = 10 * NS_PER_MS;

/// A loop's own measurements.
#[derive(Debug)]
pub struct Observation<T> {
    /// Those of the loop; others belong to what measures them.
    pub stages: Stages,
    before: Option<TurnBefore>,
    /// When the oldest completion of this turn was taken from the kernel.
    arrived: Monotonic,
    /// When the completions that wait were taken, and how many then.
    reaped: VecDeque<(Monotonic, usize)>,
    waiting_count: usize,
    /// Reads that the service has answered so far.
    reads_count: u64,
    asleep_since: Option<Monotonic>,
    window: Window,
    thread: T,
}

/// A turn that has ended when the next one begins.
#[derive(Clone, Copy, Debug)]
struct TurnBefore {
    began: Monotonic,
    arrived: Monotonic,
    reads_count: u64,
    busy: bool,
}

/// A short time over which what the thread got is held against the clock.
#[derive(Clone, Copy, Debug)]
struct Window {
    began: Monotonic,
    /// What was read then.
    reading: ThreadReading,
    /// How long the loop has slept since.
    slept_ns: u64,
}

impl<T: ThreadUsage> Observation<T> {
    /// For the loop on this thread.
    #[must_use]
    pub fn new(now: Monotonic, thread: T) -> Self {
        Self {
            stages: Stages::default(),
            before: None,
            arrived: now,
            reaped: VecDeque::new(),
            waiting_count: 0,
            reads_count: 0,
            asleep_since: None,
            window: Window { began: now, reading: thread.read(), slept_ns: 0 },
            thread,
        }
    }

    /// A turn begins, and the one before it has ended. So many completions wait to be handled.
    #[inline]
    pub fn turn_begins(
        &mut self,
        now: Monotonic,
        completion_count: usize,
        metrics: &mut LoopMetrics,
    ) {
        if completion_count > self.waiting_count {
            self.reaped.push_back((now, completion_count - self.waiting_count));
        }
        self.waiting_count = completion_count;
        self.arrived = self.reaped.front().map_or(now, |(at, _)| *at);
        if let Some(since) = self.asleep_since.take() {
            self.window.slept_ns += now.since_ns(since);
            // Sleeping is blocking as well.
            self.window.reading.blocked_count = self.thread.blocked_count();
        }
        let took_ns = self.before.take().map_or(0, |before| self.turn_ended(before, now));
        if took_ns > STALL_NS || now.since_ns(self.window.began) >= WINDOW_NS {
            self.close_window(now, took_ns, metrics);
        }
    }

    /// All of the turn that began at `began` was done but for its submission. So many completions
    /// are left, and so many reads were ever answered.
    #[inline]
    pub fn turn_ends(
        &mut self,
        began: Monotonic,
        busy: bool,
        completion_count: usize,
        reads_count: u64,
    ) {
        let mut handled = self.waiting_count - completion_count;
        self.waiting_count = completion_count;
        while let Some((_, count)) = self.reaped.front_mut() {
            if *count > handled {
                *count -= handled;
                break;
            }
            handled -= *count;
            self.reaped.pop_front();
        }
        let reads_before = std::mem::replace(&mut self.reads_count, reads_count);
        let arrived = self.arrived;
        let reads_count = reads_count - reads_before;
        self.before = Some(TurnBefore { began, arrived, reads_count, busy });
    }

    /// A pass of so many frames was handed over.
    #[inline]
    pub fn pass(&mut self, frame_count: u64) {
        self.stages.of_mut(Stage::PassFrames).record(frame_count);
    }

    /// The loop may sleep from now until its next turn: that isn't part of the turn before.
    pub fn sleeps(&mut self, now: Monotonic) {
        self.before = None;
        self.asleep_since = Some(now);
    }

    /// Returns how long it took.
    #[inline]
    fn turn_ended(&mut self, before: TurnBefore, now: Monotonic) -> u64 {
        let took_ns = now.since_ns(before.began);
        if before.busy {
            self.stages.of_mut(Stage::Turn).record(took_ns);
        }
        if before.reads_count > 0 {
            let read_ns = now.since_ns(before.arrived);
            self.stages.of_mut(Stage::Read).record_many(read_ns, before.reads_count);
        }
        took_ns
    }

    /// Holds what the thread got against the clock; `took_ns`: the length of the turn that has
    /// ended.
    fn close_window(&mut self, now: Monotonic, took_ns: u64, metrics: &mut LoopMetrics) {
        let reading = self.thread.read();
        let window =
            std::mem::replace(&mut self.window, Window { began: now, reading, slept_ns: 0 });
        metrics.run_queue_wait_ns = reading.waited_ns;
        if took_ns <= STALL_NS {
            return;
        }
        let before = window.reading;
        let waited_ns = reading.waited_ns.saturating_sub(before.waited_ns);
        let off_core_ns = if reading.blocked_count > before.blocked_count {
            // Some of the time it has given away itself: only what the scheduler says counts.
            waited_ns
        } else {
            // It was always ready to run: when it didn't, somebody else had the core.
            let awake_ns = now.since_ns(window.began).saturating_sub(window.slept_ns);
            awake_ns.saturating_sub(reading.ran_ns.saturating_sub(before.ran_ns)).max(waited_ns)
        };
        let off_core_ns = off_core_ns.min(took_ns);
        metrics.stalls_count += 1;
        metrics.stalls_ns += took_ns;
        metrics.stalls_off_core_ns += off_core_ns;
        metrics.stalls_off_core_count += u64::from(took_ns - off_core_ns <= STALL_NS);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    const MS: u64 = NS_PER_MS;

    /// What a test says that the thread got.
    #[derive(Clone, Debug, Default)]
    struct ToldUsage(Rc<Cell<ThreadReading>>);

    impl ThreadUsage for ToldUsage {
        fn read(&self) -> ThreadReading {
            self.0.get()
        }

        fn blocked_count(&self) -> u64 {
            self.0.get().blocked_count
        }
    }

    /// A loop whose turns are told in milliseconds.
    struct Told {
        observation: Observation<ToldUsage>,
        metrics: LoopMetrics,
        usage: ToldUsage,
    }

    impl Told {
        fn new() -> Self {
            let usage = ToldUsage::default();
            let observation = Observation::new(Monotonic(0), usage.clone());
            Self { observation, metrics: LoopMetrics::default(), usage }
        }

        /// The thread had the core until then for so long.
        fn ran(&mut self, ms: u64) -> &mut Self {
            self.change(|reading| reading.ran_ns += ms * MS)
        }

        /// The thread waited for the core for so long.
        fn waited(&mut self, ms: u64) -> &mut Self {
            self.change(|reading| reading.waited_ns += ms * MS)
        }

        /// The thread has given its core away.
        fn blocked(&mut self) -> &mut Self {
            self.change(|reading| reading.blocked_count += 1)
        }

        fn change(&mut self, change: impl FnOnce(&mut ThreadReading)) -> &mut Self {
            let mut reading = self.usage.0.get();
            change(&mut reading);
            self.usage.0.set(reading);
            self
        }

        fn turn(&mut self, at_ms: u64, busy: bool) -> &mut Self {
            self.turn_with(at_ms, busy, 0, 0, 0)
        }

        fn turn_with(
            &mut self,
            at_ms: u64,
            busy: bool,
            completions: usize,
            left: usize,
            reads: u64,
        ) -> &mut Self {
            let now = Monotonic(at_ms * MS);
            self.observation.turn_begins(now, completions, &mut self.metrics);
            let reads = self.observation.reads_count + reads;
            self.observation.turn_ends(now, busy, left, reads);
            self
        }

        fn stalls(&self) -> [u64; 4] {
            let LoopMetrics { stalls_count, stalls_ns, .. } = self.metrics;
            let LoopMetrics { stalls_off_core_count, stalls_off_core_ns, .. } = self.metrics;
            [stalls_count, stalls_ns / MS, stalls_off_core_count, stalls_off_core_ns / MS]
        }
    }

    #[test]
    fn turn_of_a_millisecond_is_none_too_long_and_a_longer_one_is_a_stall() {
        let mut told = Told::new();
        told.turn(0, true).ran(1).turn(1, true);
        assert_eq!(told.stalls(), [0; 4]);
        told.ran(3).turn(4, true);
        assert_eq!(told.stalls(), [1, 3, 0, 0]);
        let turns = told.observation.stages.of(Stage::Turn);
        assert_eq!((turns.count(), turns.sum()), (2, 4 * MS));
    }

    #[test]
    fn stall_without_the_core_is_told_from_one_with_it() {
        let mut told = Told::new();
        told.turn(0, true).turn(20, true);
        assert_eq!(told.stalls(), [1, 20, 1, 20]);
        // Of seven milliseconds it had the core for five: too long all the same.
        told.ran(5).turn(27, false);
        assert_eq!(told.stalls(), [2, 27, 1, 22]);
        // Of five it had it for one.
        told.ran(1).turn(32, false);
        assert_eq!(told.stalls(), [3, 32, 2, 26]);
    }

    #[test]
    fn sleep_is_no_part_of_a_turn_and_no_time_without_the_core() {
        let mut told = Told::new();
        told.turn(0, true).ran(1).turn(1, false);
        told.observation.sleeps(Monotonic(MS));
        told.blocked().turn(9, true);
        assert_eq!(told.stalls(), [0; 4]);
        // The window began at 0; in it the loop slept for 8 and ran for 4. That it blocked to
        // sleep says nothing of the turn.
        told.ran(3).turn(12, false);
        assert_eq!(told.stalls(), [1, 3, 0, 0]);
        told.turn(14, false);
        assert_eq!(told.stalls(), [2, 5, 1, 2]);
    }

    #[test]
    fn turn_that_blocked_is_excused_only_for_what_the_scheduler_says() {
        let mut told = Told::new();
        told.turn(0, true).blocked().turn(5, true);
        assert_eq!(told.stalls(), [1, 5, 0, 0]);
        told.blocked().waited(2).turn(10, true);
        assert_eq!(told.stalls(), [2, 10, 0, 2]);
        told.blocked().waited(4).turn(15, true);
        assert_eq!(told.stalls(), [3, 15, 1, 6]);
        assert_eq!(told.metrics.run_queue_wait_ns, 6 * MS);
    }

    #[test]
    fn idle_turns_are_not_among_the_measured_ones() {
        let mut told = Told::new();
        told.turn(0, false).turn(1, true).turn(1, false);
        assert_eq!(told.observation.stages.of(Stage::Turn).count(), 1);
    }

    #[test]
    fn read_counts_from_when_the_oldest_completion_of_its_turn_was_taken() {
        let mut told = Told::new();
        // Two completions, of which one is left; then one more comes, and all are handled.
        told.ran(20).turn_with(0, true, 2, 1, 3).turn_with(1, true, 2, 0, 5);
        told.turn_with(2, true, 1, 0, 7).turn(3, false);
        let reads = told.observation.stages.of(Stage::Read);
        assert_eq!(reads.count(), 15);
        // 3 reads took 1 ms, 5 took 2 ms for one of them had waited, and 7 took 1 ms.
        assert_eq!(reads.sum(), (3 + 10 + 7) * MS);
        assert!(told.observation.reaped.is_empty());
    }
}
