//! A histogram of fixed size for the hot path: log-linear buckets, one writer.
//!
//! Every power of two is cut into [`SUB_BUCKET_COUNT`] equal buckets, so a value read back is at
//! most a sixteenth too high, from nanoseconds to a minute. The boundaries are the same on every
//! core, every node and in every release: histograms are merged by adding their buckets, and the
//! sum of two is what one histogram of both would have been. Count, sum and maximum are exact.
//!
//! Why not `hdrhistogram`, which the load generator uses: it takes its range and precision at run
//! time, grows, and fails; here a plain array does, and recording is a shift, a few additions and
//! no branch.

use crate::base::cast::{u64_from, usize_from};

/// Buckets of a power of two.
pub const SUB_BUCKET_COUNT: usize = 16;
const SUB_BUCKET_BITS: u32 = SUB_BUCKET_COUNT.trailing_zeros();
/// Values above 2 to this count as the last bucket's: 69 seconds, in nanoseconds.
const VALUE_BITS: u32 = 36;
/// The buckets of a histogram.
pub const BUCKET_COUNT: usize = (VALUE_BITS - SUB_BUCKET_BITS + 1) as usize * SUB_BUCKET_COUNT;
const WORD_COUNT: usize = BUCKET_COUNT.div_ceil(64);

/// How often which values came, all of one kind: nanoseconds, or items of a batch.
///
/// Bucket `b` counts the values above [`bound`]`(b - 1)` and up to [`bound`]`(b)`; the last one
/// those beyond as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64; BUCKET_COUNT]>,
    count: u64,
    sum: u64,
    max: u64,
    /// A bit for each bucket that has changed since [`Histogram::take_changed`].
    changed: [u64; WORD_COUNT],
}

/// The largest value that belongs to a bucket.
///
/// # Panics
/// If there is no such bucket.
#[must_use]
pub const fn bound(bucket: usize) -> u64 {
    assert!(bucket < BUCKET_COUNT, "a bucket of the histogram");
    if bucket < SUB_BUCKET_COUNT {
        return u64_from(bucket + 1);
    }
    let octave = bucket / SUB_BUCKET_COUNT - 1;
    let step = bucket % SUB_BUCKET_COUNT + SUB_BUCKET_COUNT + 1;
    u64_from(step) << octave
}

/// The bucket of a value.
#[inline]
const fn bucket_of(value: u64) -> usize {
    const LAST: u64 = (1 << VALUE_BITS) - 1;
    // A bucket's bound belongs to it: so the bounds are those that "less or equal" speaks of.
    let before = value.saturating_sub(1);
    let before = if before < LAST { before } else { LAST };
    // Below the first power of two that has more values than buckets, each value has its own.
    let octave = u64::BITS - 1 - SUB_BUCKET_BITS - (before | 1 << SUB_BUCKET_BITS).leading_zeros();
    usize_from(((octave as u64) << SUB_BUCKET_BITS) + (before >> octave))
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: Box::new([0; BUCKET_COUNT]),
            count: 0,
            sum: 0,
            max: 0,
            changed: [0; WORD_COUNT],
        }
    }
}

impl Histogram {
    /// Counts a value.
    #[inline]
    pub fn record(&mut self, value: u64) {
        self.record_many(value, 1);
    }

    /// Counts a value that came `count` times: all items of a batch that have the same.
    #[inline]
    pub fn record_many(&mut self, value: u64, count: u64) {
        let bucket = bucket_of(value);
        self.counts[bucket] += count;
        self.count += count;
        self.sum = self.sum.wrapping_add(value.wrapping_mul(count));
        self.max = self.max.max(value);
        self.changed[bucket / 64] |= 1 << (bucket % 64);
    }

    /// A histogram with these counts: what was published by another thread or node. The count
    /// follows from them.
    #[must_use]
    pub fn from_parts(counts: impl IntoIterator<Item = (usize, u64)>, sum: u64, max: u64) -> Self {
        let mut histogram = Self { sum, max, ..Self::default() };
        for (bucket, count) in counts {
            // Another release's buckets are ours; a bucket that isn't comes from no release.
            let Some(place) = histogram.counts.get_mut(bucket) else { continue };
            *place = place.saturating_add(count);
            histogram.count = histogram.count.saturating_add(count);
        }
        histogram
    }

    /// Adds what another one has counted.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in other.buckets() {
            self.counts[bucket] = self.counts[bucket].saturating_add(count);
            self.changed[bucket / 64] |= 1 << (bucket % 64);
        }
        self.count = self.count.saturating_add(other.count);
        self.sum = self.sum.wrapping_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// What was counted since `earlier`, an older state of the same histogram. The greatest value
    /// of that time is only known to its bucket.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let counts = std::iter::zip(self.counts.iter(), earlier.counts.iter());
        let counts = counts.map(|(now, then)| now.saturating_sub(*then)).enumerate();
        let sum = self.sum.wrapping_sub(earlier.sum);
        let mut since = Self::from_parts(counts, sum, 0);
        let last = since.buckets().last().map_or(0, |(bucket, _)| bound(bucket));
        since.max = if since.count == 0 { 0 } else { last.min(self.max) };
        since
    }

    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum of all values; it wraps around after 584 years of nanoseconds.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The greatest value.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The buckets that count anything, in their order, with how much.
    pub fn buckets(&self) -> impl Iterator<Item = (usize, u64)> {
        self.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }

    /// The value that this share of all values doesn't exceed, as far as the buckets tell: at most
    /// a sixteenth too high, and never above the greatest. 0 if nothing was counted.
    ///
    /// # Panics
    /// If `parts_per_million` is more than a million.
    #[must_use]
    pub fn quantile(&self, parts_per_million: u64) -> u64 {
        const MILLION: u128 = 1_000_000;
        let share = u128::from(parts_per_million);
        assert!(share <= MILLION, "a share of all values");
        let rank = (u128::from(self.count) * share).div_ceil(MILLION).max(1);
        let mut below = 0;
        for (bucket, count) in self.buckets() {
            below += u128::from(count);
            if below >= rank {
                let is_last = bucket == BUCKET_COUNT - 1;
                return if is_last { self.max } else { bound(bucket).min(self.max) };
            }
        }
        self.max
    }

    /// Calls `visit` with each bucket that has changed since the last call, and its count.
    pub fn take_changed(&mut self, mut visit: impl FnMut(usize, u64)) {
        for (word, bits) in self.changed.iter_mut().enumerate() {
            while *bits != 0 {
                let bucket = word * 64 + usize_from(u64::from(bits.trailing_zeros()));
                visit(bucket, self.counts[bucket]);
                *bits &= *bits - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    /// Values of all sizes, small ones as often as large ones.
    fn values(seed: u64, count: usize) -> Vec<u64> {
        let mut prng = Prng::new(seed, "values");
        (0..count)
            .map(|_| {
                let bits = prng.below(40);
                prng.below(1 << bits)
            })
            .collect()
    }

    fn histogram_of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        for value in values {
            histogram.record(*value);
        }
        histogram
    }

    #[test]
    fn each_bound_belongs_to_its_bucket_and_the_next_value_to_the_next() {
        for bucket in 0..BUCKET_COUNT - 1 {
            assert_eq!(bucket_of(bound(bucket)), bucket);
            assert_eq!(bucket_of(bound(bucket) + 1), bucket + 1);
        }
        assert_eq!(bucket_of(0), 0);
        for beyond in [bound(BUCKET_COUNT - 1), 1 << VALUE_BITS, u64::MAX] {
            assert_eq!(bucket_of(beyond), BUCKET_COUNT - 1);
        }
        assert_eq!(bound(BUCKET_COUNT - 1), 1 << VALUE_BITS);
    }

    #[test]
    fn buckets_are_no_wider_than_a_sixteenth_of_what_is_in_them() {
        for bucket in 1..BUCKET_COUNT {
            let (below, bound) = (bound(bucket - 1), bound(bucket));
            assert!(bound > below);
            let exact = bucket < SUB_BUCKET_COUNT && bound - below == 1;
            assert!(exact || (bound - below) * 16 <= below, "{below} to {bound}");
        }
    }

    #[test]
    fn quantiles_are_within_a_sixteenth_of_the_exact_ones() {
        for seed in 0..200 {
            let mut values = values(seed, 1 + usize_from(seed * 7));
            values.retain(|value| *value <= 1 << VALUE_BITS);
            let histogram = histogram_of(&values);
            values.sort_unstable();
            for parts_per_million in [0, 1, 500_000, 900_000, 990_000, 999_000, 1_000_000] {
                let rank = (u64_from(values.len()) * parts_per_million).div_ceil(1_000_000).max(1);
                let Some(exact) = values.get(usize_from(rank) - 1).copied() else { continue };
                let found = histogram.quantile(parts_per_million);
                assert!(found >= exact, "seed {seed}: {found} is below {exact}");
                let wide = if exact == 0 { 1 } else { exact / 16 };
                assert!(found - exact <= wide, "seed {seed}: {found} is not near {exact}");
            }
        }
    }

    #[test]
    fn merging_is_counting_everything_in_one() {
        for seed in 0..50 {
            let (left, right) = (values(seed, 300), values(seed + 1_000, 500));
            let mut merged = histogram_of(&left);
            merged.merge(&histogram_of(&right));
            assert_eq!(merged, histogram_of(&[left, right].concat()));
        }
    }

    #[test]
    fn count_sum_and_maximum_are_exact() {
        let values = values(7, 10_000);
        let histogram = histogram_of(&values);
        assert_eq!(histogram.count(), 10_000);
        assert_eq!(histogram.sum(), values.iter().sum::<u64>());
        assert_eq!(histogram.max(), values.iter().copied().max().unwrap_or_default());
        assert_eq!(histogram.buckets().map(|(_, count)| count).sum::<u64>(), 10_000);
        assert_eq!(histogram.quantile(1_000_000), histogram.max());
    }

    #[test]
    fn value_of_many_counts_as_often() {
        let mut many = Histogram::default();
        many.record_many(1_000, 3);
        many.record_many(5, 0);
        assert_eq!(many.count(), 3);
        assert_eq!(many.sum(), 3_000);
        assert_eq!(many.buckets().collect::<Vec<_>>(), [(bucket_of(1_000), 3)]);
    }

    #[test]
    fn changes_are_told_once_and_add_up_to_the_whole() {
        let mut copy = [0; BUCKET_COUNT];
        let mut histogram = Histogram::default();
        for seed in 0..20 {
            for value in values(seed, 40) {
                histogram.record(value);
            }
            histogram.take_changed(|bucket, count| copy[bucket] = count);
            assert_eq!(copy, *histogram.counts);
        }
        histogram.take_changed(|bucket, _| panic!("bucket {bucket} has not changed"));
        let (sum, max) = (histogram.sum(), histogram.max());
        assert_eq!(Histogram::from_parts(copy.into_iter().enumerate(), sum, max), histogram);
    }

    #[test]
    fn what_came_since_is_told_from_what_came_before() {
        let mut histogram = histogram_of(&[1_000_000, 7]);
        let earlier = histogram.clone();
        assert_eq!(histogram.since(&earlier).count(), 0);
        assert_eq!(histogram.since(&earlier).max(), 0);
        histogram.record_many(100, 2);
        let since = histogram.since(&earlier);
        assert_eq!((since.count(), since.sum()), (2, 200));
        assert!((100..107).contains(&since.max()));
        assert_eq!(since.quantile(500_000), since.max());
    }

    #[test]
    fn buckets_that_no_release_has_are_left_out() {
        let histogram = Histogram::from_parts([(3, 2), (BUCKET_COUNT, 5), (usize::MAX, 1)], 9, 4);
        assert_eq!(histogram.count(), 2);
        assert_eq!(Histogram::default().quantile(990_000), 0);
    }
}
