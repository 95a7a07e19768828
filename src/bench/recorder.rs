//! What a generator counts while it loads: histograms for each interval, by kind of request, and
//! everything else as plain counts. Intervals are given out as they end and taken back when they
//! have been read, so that a run doesn't allocate while it measures.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::expectation::Violation;
use super::mix::Kind;
use super::report::latencies;

/// Answers that were wrong: so many are told, the others counted.
const VIOLATION_COUNT_MAX: usize = 5;

/// The latencies of an interval in nanoseconds, by kind.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Its number, from 0.
    pub number: u64,
    /// Answers that were as they should be, and requests that never had one: for how long those
    /// had waited when the run ended.
    pub latencies_ns: [Histogram<u64>; Kind::ALL.len()],
    /// Refusals.
    pub refusals_ns: Histogram<u64>,
}

impl Interval {
    /// An empty one.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self {
            number,
            latencies_ns: std::array::from_fn(|_| latencies()),
            refusals_ns: latencies(),
        }
    }

    /// Makes it an empty one with another number; its memory stays.
    pub fn reset(&mut self, number: u64) {
        self.number = number;
        self.latencies_ns.iter_mut().for_each(Histogram::reset);
        self.refusals_ns.reset();
    }

    /// Adds another one of the same time.
    ///
    /// # Panics
    /// Never: all histograms have the same bounds.
    pub fn add(&mut self, other: &Self) {
        let pairs = self.latencies_ns.iter_mut().zip(&other.latencies_ns);
        for (own, others) in pairs.chain([(&mut self.refusals_ns, &other.refusals_ns)]) {
            own.add(others).expect("histograms of one kind have the same bounds");
        }
    }

    /// All kinds together, without refusals.
    ///
    /// # Panics
    /// Never: all histograms have the same bounds.
    #[must_use]
    pub fn all_ns(&self) -> Histogram<u64> {
        let mut all = latencies();
        for histogram in &self.latencies_ns {
            all.add(histogram).expect("histograms of one kind have the same bounds");
        }
        all
    }
}

/// What a generator counts beside latencies. All of it is about requests that were meant to be sent
/// while it measured.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Requests that were sent.
    pub sent: u64,
    /// Of these, those that were sent more than
    /// [`LATE_SEND_NS`](crate::base::limits::LATE_SEND_NS) after their time though a connection was
    /// free: the generator's own fault.
    pub late: u64,
    /// Those that waited for a connection with room: the node's fault, or too low a depth.
    pub held_back: u64,
    /// Requests without an answer when the generator gave up.
    pub timeouts: u64,
    /// Requests that were never sent, because no connection had room until the end.
    pub unsent: u64,
    /// Answers that no request had asked for, or that couldn't be read.
    pub strays: u64,
    /// Answers that were the request itself.
    pub echoes: u64,
    /// Reads that found nothing.
    pub absent: u64,
    /// Refusals by code.
    pub refusals: BTreeMap<u64, u64>,
    /// Wrong and stale answers, during warm-up as well.
    pub violations: u64,
    /// The first of them.
    pub first_violations: Vec<Violation>,
    /// Answers that were checked, during warm-up as well.
    pub checked: u64,
    /// For how long the generator was working, while it measured.
    pub busy_ns: u64,
    /// For how long it measured.
    pub measured_ns: u64,
}

impl Counts {
    /// Notes a wrong answer.
    pub fn violation(&mut self, violation: Violation) {
        self.violations += 1;
        if self.first_violations.len() < VIOLATION_COUNT_MAX {
            self.first_violations.push(violation);
        }
    }

    /// All that went wrong short of a wrong answer.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.refusals.values().sum::<u64>() + self.timeouts + self.unsent + self.strays
    }

    /// Adds those of another generator of the same run.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.late += other.late;
        self.held_back += other.held_back;
        self.timeouts += other.timeouts;
        self.unsent += other.unsent;
        self.strays += other.strays;
        self.echoes += other.echoes;
        self.absent += other.absent;
        for (code, count) in &other.refusals {
            *self.refusals.entry(*code).or_default() += count;
        }
        self.violations += other.violations;
        let room = VIOLATION_COUNT_MAX - self.first_violations.len();
        self.first_violations.extend(other.first_violations.iter().take(room));
        self.checked += other.checked;
        self.busy_ns += other.busy_ns;
        self.measured_ns += other.measured_ns;
    }
}

/// A generator's own interval and counts.
#[derive(Debug)]
pub struct Recorder {
    /// The interval that is being recorded.
    pub interval: Box<Interval>,
    /// Everything else.
    pub counts: Counts,
    /// How long after their time requests were sent, in nanoseconds.
    pub send_delays_ns: Histogram<u64>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            interval: Box::new(Interval::new(0)),
            counts: Counts::default(),
            send_delays_ns: latencies(),
        }
    }
}

impl Recorder {
    /// Counts a latency.
    pub fn latency(&mut self, kind: Kind, latency_ns: u64) {
        self.interval.latencies_ns[place(kind)].saturating_record(latency_ns.max(1));
    }

    /// Counts a refusal.
    pub fn refusal(&mut self, code: u64, latency_ns: u64) {
        *self.counts.refusals.entry(code).or_default() += 1;
        self.interval.refusals_ns.saturating_record(latency_ns.max(1));
    }
}

/// A kind's place among all.
#[must_use]
pub fn place(kind: Kind) -> usize {
    Kind::ALL.iter().position(|one| *one == kind).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_add_up_and_are_empty_again_after_a_reset() {
        let mut recorder = Recorder::default();
        recorder.latency(Kind::Read, 0);
        recorder.latency(Kind::Write, 5_000);
        recorder.refusal(4, 100);
        let mut sum = Interval::new(0);
        sum.add(&recorder.interval);
        sum.add(&recorder.interval);
        assert_eq!((sum.all_ns().len(), sum.refusals_ns.len()), (4, 2));
        assert_eq!(sum.latencies_ns[place(Kind::Write)].len(), 2);
        sum.reset(3);
        assert_eq!((sum.number, sum.all_ns().len(), sum.refusals_ns.len()), (3, 0, 0));
    }

    #[test]
    fn everything_that_went_wrong_is_an_error() {
        let mut counts = Counts { timeouts: 1, unsent: 2, strays: 4, ..Counts::default() };
        counts.refusals.insert(3, 8);
        let mut sum = counts.clone();
        sum.add(&counts);
        assert_eq!((counts.errors(), sum.errors()), (15, 30));
    }

    #[test]
    fn first_violations_are_kept_and_the_others_counted() {
        let mut counts = Counts::default();
        for key in 0..8 {
            counts.violation(Violation::Stale { key, known: 2, found: 1 });
        }
        let mut sum = counts.clone();
        sum.add(&counts);
        assert_eq!((sum.violations, sum.first_violations.len()), (16, VIOLATION_COUNT_MAX));
    }
}
