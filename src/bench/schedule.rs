//! When requests are meant to be sent: fixed before the first one is, whatever the node answers.
//!
//! Arrivals are made on a scale on which one is expected for each unit (every 1 for a constant
//! rate, exponential gaps for a Poisson process) and then laid over time by the inverse of the
//! expected count: a straight line for a steady rate, a parabola while the rate is ramped up.

use crate::base::prng::Prng;
use crate::base::time::NS_PER_S;

/// How requests follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// Evenly.
    Constant,
    /// As those of many independent clients: with exponential gaps.
    Poisson,
}

/// The times of all requests of a run, in nanoseconds from its start, in order and without end.
#[derive(Clone, Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    rate: f64,
    ramp_ns: f64,
    /// The expected count at the next request.
    next_count: f64,
    /// The time of the next request.
    next_ns: u64,
    gaps: Prng,
}

impl Schedule {
    /// Requests at `rate` a second, reached evenly over `ramp_ns`. `phase` (from 0 to 1) shifts a
    /// constant rate by that part of a gap, so that several generators don't send at once.
    ///
    /// # Panics
    /// If the rate isn't a positive number.
    #[must_use]
    pub fn new(arrivals: Arrivals, rate: f64, ramp_ns: u64, phase: f64, seed: u64) -> Self {
        assert!(rate.is_finite() && rate > 0.0, "a rate is positive");
        let mut schedule = Self {
            arrivals,
            rate,
            ramp_ns: float(ramp_ns),
            next_count: phase,
            next_ns: 0,
            gaps: Prng::new(seed, "arrivals"),
        };
        if arrivals == Arrivals::Poisson {
            schedule.next_count = exponential(&mut schedule.gaps);
        }
        schedule.next_ns = schedule.time_of(schedule.next_count);
        schedule
    }

    /// The time of the next request.
    #[must_use]
    pub fn peek(&self) -> u64 {
        self.next_ns
    }

    /// Goes on to the one after it.
    pub fn advance(&mut self) {
        self.next_count += match self.arrivals {
            Arrivals::Constant => 1.0,
            Arrivals::Poisson => exponential(&mut self.gaps),
        };
        self.next_ns = self.time_of(self.next_count);
    }

    /// When so many are expected to have come: the inverse of `rate * t * t / (2 * ramp)` up to the
    /// end of the ramp, and of a straight line from there.
    fn time_of(&self, count: f64) -> u64 {
        let at_full_rate_ns = count * float(NS_PER_S) / self.rate;
        let ns = if at_full_rate_ns < self.ramp_ns / 2.0 {
            (2.0 * self.ramp_ns * at_full_rate_ns).sqrt()
        } else {
            // The ramp lets half of what the full rate would have through.
            self.ramp_ns / 2.0 + at_full_rate_ns
        };
        whole(ns)
    }
}

/// A draw from the exponential distribution with mean 1.
fn exponential(prng: &mut Prng) -> f64 {
    -(1.0 - unit(prng)).ln()
}

/// A number from 0 up to but not including 1: 53 random bits.
#[must_use]
pub fn unit(prng: &mut Prng) -> f64 {
    float(prng.next_u64() >> 11) / float(1 << 53)
}

/// A count as a float: exact up to 2⁵³, which is 104 days of nanoseconds.
#[allow(clippy::cast_precision_loss)]
#[must_use]
pub fn float(value: u64) -> f64 {
    value as f64
}

/// A float that isn't negative as a whole number, rounded down; the nearest one that there is.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
#[must_use]
pub fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(mut schedule: Schedule, count: usize) -> Vec<u64> {
        let mut next = || {
            let ns = schedule.peek();
            schedule.advance();
            ns
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn constant_rate_is_even_and_does_not_drift() {
        let times = times(Schedule::new(Arrivals::Constant, 3.0, 0, 0.0, 1), 3_000_001);
        assert_eq!(times[..4], [0, 333_333_333, 666_666_666, 1_000_000_000]);
        assert_eq!(times[3_000_000], 1_000_000 * NS_PER_S);
        let half = Schedule::new(Arrivals::Constant, 2.0, 0, 0.5, 1);
        assert_eq!(half.peek(), 250_000_000);
    }

    #[test]
    fn poisson_has_the_rate_and_the_spread_of_its_name() {
        let times = times(Schedule::new(Arrivals::Poisson, 1e6, 0, 0.0, 7), 200_000);
        let gaps: Vec<f64> = times.windows(2).map(|pair| float(pair[1] - pair[0])).collect();
        let count = float(crate::base::cast::u64_from(gaps.len()));
        let mean = gaps.iter().sum::<f64>() / count;
        assert!((mean - 1_000.0).abs() < 10.0, "{mean}");
        let longer = gaps.iter().filter(|gap| **gap > 1_000.0).count();
        let share = float(crate::base::cast::u64_from(longer)) / count;
        // e to the -1: what an exponential has beyond its mean.
        assert!((share - 0.3679).abs() < 0.01, "{share}");
        let again = Schedule::new(Arrivals::Poisson, 1e6, 0, 0.0, 7);
        assert_eq!(again.peek(), times[0]);
        assert_ne!(Schedule::new(Arrivals::Poisson, 1e6, 0, 0.0, 8).peek(), times[0]);
    }

    #[test]
    fn ramp_sends_half_of_what_the_full_rate_would_and_then_the_full_rate() {
        let times = times(Schedule::new(Arrivals::Constant, 1e4, NS_PER_S, 0.0, 1), 20_000);
        let in_ramp = times.iter().filter(|ns| **ns < NS_PER_S).count();
        assert_eq!(in_ramp, 5_000);
        let second = times.iter().filter(|ns| (NS_PER_S..2 * NS_PER_S).contains(*ns)).count();
        assert_eq!(second, 10_000);
        assert!(times.is_sorted());
        // In the first half of the ramp a quarter of it.
        assert_eq!(times.iter().filter(|ns| **ns < NS_PER_S / 2).count(), 1_250);
    }

    #[test]
    #[should_panic(expected = "positive")]
    fn rate_of_nothing_is_refused() {
        let _ = Schedule::new(Arrivals::Constant, 0.0, 0, 0.0, 1);
    }
}
