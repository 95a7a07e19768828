//! What can be said of paired measurements without supposing how they are distributed.
//!
//! Given are the log ratios of n pairs of rounds. If the two sides don't differ, each ratio is as
//! likely as its inverse: the *sign-flip test* compares the mean with those of all 2ⁿ choices of
//! signs. Which shifts of the data that test accepts is known in closed form (Hartigan, *Using
//! subsample values as typical values*, JASA 1969): the means of the 2ⁿ − 1 subsets cut the line
//! into 2ⁿ parts that hold the true value with the same probability. So one sorted list of subset
//! means gives the interval and the p-value, and they never contradict each other.

use crate::base::cast::{u64_from, usize_from};
use crate::base::prng::Prng;
use crate::bench::schedule::{float, whole};

/// Up to so many pairs all subsets are looked at, beyond it a sample of them.
const EXACT_COUNT_MAX: usize = 12;
/// Subsets of a sample, and one.
const SAMPLE_COUNT: u64 = 1 << EXACT_COUNT_MAX;

/// The sorted means of subsets of the data.
#[derive(Clone, Debug)]
pub struct SubsetMeans {
    sorted: Vec<f64>,
    mean: f64,
}

impl SubsetMeans {
    /// Of these values.
    ///
    /// # Panics
    /// If there are none, or one isn't a number.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        assert!(!values.is_empty(), "there is something to compare");
        assert!(values.iter().all(|value| value.is_finite()), "values are numbers");
        let subset_mean = |contains: &dyn Fn(usize) -> bool| {
            let chosen = values.iter().enumerate().filter(|(place, _)| contains(*place));
            let (sum, count) =
                chosen.fold((0.0, 0), |(sum, count), (_, value)| (sum + value, count + 1));
            (count > 0).then(|| sum / float(count))
        };
        let mut sorted: Vec<f64> = if values.len() <= EXACT_COUNT_MAX {
            let subsets = 1..(1_u64 << values.len());
            subsets.filter_map(|bits| subset_mean(&|place| bits >> place & 1 == 1)).collect()
        } else {
            // The seed is fixed: the same data has the same result.
            let mut prng = Prng::new(1, "subsets");
            let draw = |_| {
                let words: Vec<u64> =
                    (0..values.len().div_ceil(64)).map(|_| prng.next_u64()).collect();
                subset_mean(&|place| words[place / 64] >> (place % 64) & 1 == 1)
            };
            (1..SAMPLE_COUNT).filter_map(draw).collect()
        };
        sorted.sort_by(f64::total_cmp);
        let mean = values.iter().sum::<f64>() / float(u64_from(values.len()));
        Self { sorted, mean }
    }

    /// The mean of all values.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// How likely a mean at least so far from 0 is if there is no difference: two-sided.
    #[must_use]
    pub fn p_value(&self) -> f64 {
        let part_count = u64_from(self.sorted.len()) + 1;
        let below = self.sorted.iter().filter(|mean| **mean <= 0.0).count();
        let above = self.sorted.iter().filter(|mean| **mean >= 0.0).count();
        let rest = u64_from(below.min(above)) + 1;
        (2.0 * float(rest) / float(part_count)).min(1.0)
    }

    /// An interval that holds the true value with a probability of at least 1 − `alpha`. None:
    /// there are too few values for one.
    #[must_use]
    pub fn interval(&self, alpha: f64) -> Option<(f64, f64)> {
        let part_count = u64_from(self.sorted.len()) + 1;
        let outside = usize_from(whole(alpha / 2.0 * float(part_count)));
        let first = outside.checked_sub(1)?;
        let last = self.sorted.len().checked_sub(outside)?;
        Some((*self.sorted.get(first)?, *self.sorted.get(last)?))
    }
}

/// Holm's step-down: which of these p-values are significant together at `alpha`.
#[must_use]
pub fn holm(p_values: &[f64], alpha: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut significant = vec![false; p_values.len()];
    for (rank, place) in order.into_iter().enumerate() {
        let left = u64_from(p_values.len() - rank);
        if p_values[place] > alpha / float(left) {
            break;
        }
        significant[place] = true;
    }
    significant
}

/// The fewest pairs with which one of `metric_count` metrics can be significant at all.
#[must_use]
pub fn pair_count_min(metric_count: usize, alpha: f64) -> usize {
    let smallest = |pairs: i32| 2.0 * 0.5_f64.powi(pairs);
    let needed = alpha / float(u64_from(metric_count.max(1)));
    let pairs = (1..64).find(|pairs| smallest(*pairs) <= needed).unwrap_or(64);
    usize::try_from(pairs).unwrap_or(64)
}

/// The standard deviation of values, as far as a sample tells it.
#[must_use]
pub fn deviation(values: &[f64]) -> f64 {
    let count = float(u64_from(values.len()));
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    (squares / (count - 1.0).max(1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::schedule::unit;

    /// Normally distributed values, by the method of Box and Muller.
    fn normal(prng: &mut Prng, mean: f64, deviation: f64) -> f64 {
        let radius = (-2.0 * (1.0 - unit(prng)).ln()).sqrt();
        mean + deviation * radius * (std::f64::consts::TAU * unit(prng)).cos()
    }

    /// The p-value by definition: flips all signs.
    fn flipped(values: &[f64]) -> f64 {
        let sum = |bits: u64| -> f64 {
            let signed = values.iter().enumerate();
            signed.map(|(i, value)| if bits >> i & 1 == 1 { -value } else { *value }).sum()
        };
        let observed = sum(0).abs() - 1e-12;
        let count = 1_u64 << values.len();
        float(u64_from((0..count).filter(|bits| sum(*bits).abs() >= observed).count()))
            / float(count)
    }

    #[test]
    fn p_value_is_that_of_flipping_all_signs() {
        let mut prng = Prng::new(5, "values");
        for count in 1..=10 {
            for shift in [0.0, 0.3, 1.0] {
                let values: Vec<f64> = (0..count).map(|_| normal(&mut prng, shift, 1.0)).collect();
                let found = SubsetMeans::of(&values).p_value();
                assert!((found - flipped(&values)).abs() < 1e-9, "{values:?}: {found}");
            }
        }
    }

    #[test]
    fn five_pairs_prove_nothing_and_six_just_do() {
        let ones = |count| SubsetMeans::of(&vec![0.1; count]);
        assert!(ones(5).p_value() > 0.05);
        assert_eq!(ones(5).interval(0.05), None);
        assert!((ones(6).p_value() - 0.03125).abs() < 1e-12);
        assert!(ones(6).interval(0.05).is_some());
        assert_eq!(pair_count_min(1, 0.05), 6);
        assert_eq!(pair_count_min(3, 0.05), 7);
        assert_eq!(pair_count_min(7, 0.05), 9);
    }

    #[test]
    fn interval_holds_the_truth_as_often_as_it_promises() {
        let mut prng = Prng::new(9, "values");
        for count in [6, 8, 10] {
            let held = (0..2_000).filter(|_| {
                let values: Vec<f64> = (0..count).map(|_| normal(&mut prng, 0.7, 1.0)).collect();
                let (low, high) = SubsetMeans::of(&values).interval(0.05).expect("enough values");
                low <= 0.7 && 0.7 <= high
            });
            let share = float(u64_from(held.count())) / 2_000.0;
            assert!((0.94..0.985).contains(&share), "{count}: {share}");
        }
    }

    #[test]
    fn interval_and_p_value_agree_on_what_is_excluded() {
        let mut prng = Prng::new(11, "values");
        for _ in 0..2_000 {
            let shift = 2.0 * unit(&mut prng);
            let values: Vec<f64> = (0..8).map(|_| normal(&mut prng, shift, 1.0)).collect();
            let means = SubsetMeans::of(&values);
            let (low, high) = means.interval(0.05).expect("enough values");
            let excludes = low > 0.0 || high < 0.0;
            assert_eq!(excludes, means.p_value() <= 0.05, "{values:?}");
        }
    }

    #[test]
    fn sample_of_subsets_is_near_the_exact_result() {
        let mut prng = Prng::new(3, "values");
        let values: Vec<f64> = (0..EXACT_COUNT_MAX).map(|_| normal(&mut prng, 0.4, 1.0)).collect();
        let exact = SubsetMeans::of(&values);
        // Three values more, so that a sample is drawn; they leave the mean as it is.
        let more = [values.clone(), vec![exact.mean(); 3]].concat();
        let sampled = SubsetMeans::of(&more);
        assert_eq!(sampled.sorted.len() + 1, usize_from(SAMPLE_COUNT));
        assert!((sampled.mean() - exact.mean()).abs() < 1e-12);
        let width = |means: &SubsetMeans| {
            let (low, high) = means.interval(0.05).expect("enough values");
            high - low
        };
        let ratio = width(&sampled) / width(&exact);
        assert!((0.7..1.0).contains(&ratio), "{ratio}");
    }

    #[test]
    fn holm_lets_the_smallest_through_first_and_stops_at_the_first_that_fails() {
        assert_eq!(holm(&[0.04, 0.01, 0.03], 0.05), [false, true, false]);
        assert_eq!(holm(&[0.01, 0.02, 0.04], 0.05), [true, true, true]);
        assert_eq!(holm(&[0.02, 0.02, 0.02], 0.05), [false, false, false]);
        assert_eq!(holm(&[], 0.05), Vec::<bool>::new());
    }
}
