//! Which key a request is about: a number, chosen from those that there are.
//!
//! The zipfian choice is that of the Yahoo! Cloud Serving Benchmark (Gray et al., *Quickly
//! generating billion-record synthetic databases*, SIGMOD 1994). Key 0 is the most popular one;
//! neighbours in popularity aren't neighbours in the map, because its partitions and tables hash.

use crate::base::prng::Prng;

use super::schedule::{float, unit, whole};

/// How keys are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KeyChoice {
    /// Each as often as any other.
    Uniform,
    /// Few of them often: the more, the nearer `theta` is to 1.
    Zipfian {
        /// Above 0, below 1; 0.99 is usual.
        theta: f64,
    },
    /// One after the other, round and round.
    Sequential,
    /// Zipfian from the key that was inserted last.
    Latest {
        /// As of [`KeyChoice::Zipfian`].
        theta: f64,
    },
}

/// Draws keys.
#[derive(Clone, Debug)]
pub struct Keys {
    choice: KeyChoice,
    /// The keys that there are: those from 0 up to this.
    count: u64,
    zipf: Option<Zipf>,
    prng: Prng,
    next: u64,
}

impl Keys {
    /// From the keys 0 up to `count`. A sequential choice begins with `first`.
    ///
    /// # Panics
    /// If there is no key, or theta isn't between 0 and 1.
    #[must_use]
    pub fn new(choice: KeyChoice, count: u64, first: u64, seed: u64) -> Self {
        assert!(count > 0, "there is a key to choose");
        let zipf = match choice {
            KeyChoice::Zipfian { theta } | KeyChoice::Latest { theta } => {
                Some(Zipf::new(count, theta))
            }
            KeyChoice::Uniform | KeyChoice::Sequential => None,
        };
        Self { choice, count, zipf, prng: Prng::new(seed, "keys"), next: first % count }
    }

    /// The next key.
    pub fn draw(&mut self) -> u64 {
        match (self.choice, &self.zipf) {
            (KeyChoice::Zipfian { .. }, Some(zipf)) => zipf.draw(&mut self.prng),
            (KeyChoice::Latest { .. }, Some(zipf)) => {
                self.count - 1 - zipf.draw(&mut self.prng).min(self.count - 1)
            }
            (KeyChoice::Sequential, _) => {
                let key = self.next;
                self.next = if key + 1 >= self.count { 0 } else { key + 1 };
                key
            }
            _ => self.prng.below(self.count),
        }
    }

    /// There is one key more, which is chosen from now on.
    pub fn insert(&mut self) -> u64 {
        self.count += 1;
        if let Some(zipf) = &mut self.zipf {
            zipf.grow();
        }
        self.count - 1
    }
}

/// The constants of the method, for the ranks 0 up to `count`.
#[derive(Clone, Debug)]
struct Zipf {
    count: u64,
    theta: f64,
    zeta: f64,
    zeta_2: f64,
}

impl Zipf {
    fn new(count: u64, theta: f64) -> Self {
        assert!(theta > 0.0 && theta < 1.0, "theta lies between 0 and 1");
        let term = |rank: u64| float(rank).powf(-theta);
        Self { count, theta, zeta: (1..=count).map(term).sum(), zeta_2: 1.0 + term(2) }
    }

    fn grow(&mut self) {
        self.count += 1;
        self.zeta += float(self.count).powf(-self.theta);
    }

    fn draw(&self, prng: &mut Prng) -> u64 {
        let u = unit(prng);
        let scaled = u * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < self.zeta_2 {
            return 1.min(self.count - 1);
        }
        let alpha = 1.0 / (1.0 - self.theta);
        let eta = (1.0 - (2.0 / float(self.count)).powf(1.0 - self.theta))
            / (1.0 - self.zeta_2 / self.zeta);
        let rank = float(self.count) * (eta * u - eta + 1.0).powf(alpha);
        whole(rank).min(self.count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u64 = 400_000;

    fn counts(choice: KeyChoice, count: u64) -> Vec<u64> {
        let mut keys = Keys::new(choice, count, 0, 3);
        let mut counts = vec![0; crate::base::cast::usize_from(count)];
        for _ in 0..DRAWS {
            counts[crate::base::cast::usize_from(keys.draw())] += 1;
        }
        counts
    }

    #[test]
    fn uniform_choice_takes_every_key_as_often() {
        for count in counts(KeyChoice::Uniform, 100) {
            assert!((3_600..4_400).contains(&count), "{count}");
        }
    }

    #[test]
    fn zipfian_choice_falls_with_the_power_of_the_rank() {
        for theta in [0.5, 0.99] {
            let counts = counts(KeyChoice::Zipfian { theta }, 1_000);
            let zeta: f64 = (1..=1_000).map(|rank| float(rank).powf(-theta)).sum();
            // The first two ranks are exact in this method.
            for rank in [1, 2] {
                let expected = float(DRAWS) * float(rank).powf(-theta) / zeta;
                let found = float(counts[crate::base::cast::usize_from(rank - 1)]);
                assert!((found / expected - 1.0).abs() < 0.05, "{theta} {rank}: {found}");
            }
            // The rest is approximated: the first hundred together are near enough.
            let expected: f64 = (1..=100).map(|rank| float(rank).powf(-theta)).sum::<f64>() / zeta;
            let found = float(counts[..100].iter().sum()) / float(DRAWS);
            assert!((found / expected - 1.0).abs() < 0.05, "{theta}: {found} of {expected}");
            assert!(counts.iter().all(|count| *count > 0), "every key is chosen at times");
        }
    }

    #[test]
    fn sequential_choice_goes_round_from_where_it_was_told() {
        let mut keys = Keys::new(KeyChoice::Sequential, 4, 6, 1);
        let drawn: Vec<u64> = (0..6).map(|_| keys.draw()).collect();
        assert_eq!(drawn, [2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn latest_choice_prefers_what_was_inserted_last() {
        let mut keys = Keys::new(KeyChoice::Latest { theta: 0.99 }, 100, 0, 1);
        for expected in 100..200 {
            assert_eq!(keys.insert(), expected);
        }
        let drawn: Vec<u64> = (0..10_000).map(|_| keys.draw()).collect();
        assert!(drawn.iter().all(|key| *key < 200));
        let newest = drawn.iter().filter(|key| **key == 199).count();
        assert!(newest > 1_000, "{newest}");
    }

    #[test]
    fn one_key_is_enough_for_every_choice() {
        let theta = 0.9;
        for choice in [
            KeyChoice::Uniform,
            KeyChoice::Sequential,
            KeyChoice::Zipfian { theta },
            KeyChoice::Latest { theta },
        ] {
            let mut keys = Keys::new(choice, 1, 0, 1);
            assert_eq!((0..100).map(|_| keys.draw()).max(), Some(0), "{choice:?}");
        }
    }
}
