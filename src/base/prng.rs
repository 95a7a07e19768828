//! Seeded randomness. One stream per concern, each derived from the run's seed and a salt, so that
//! one more draw in one of them doesn't change all the others.

/// xoshiro256++ 1.0 (Blackman and Vigna), seeded by SplitMix64. Not for secrets.
#[derive(Clone, Debug)]
pub struct Prng {
    state: [u64; 4],
}

impl Prng {
    /// The stream `salt` of the run `seed`.
    #[must_use]
    pub fn new(seed: u64, salt: &str) -> Self {
        let salt = crate::base::checksum::digest128(salt.as_bytes());
        let mut x = seed ^ crate::base::cast::low_u64(salt);
        let mut next = || {
            x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = x;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        Self { state: [next(), next(), next(), next()] }
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let [s0, s1, s2, s3] = self.state;
        let result = s0.wrapping_add(s3).rotate_left(23).wrapping_add(s0);
        let s2 = s2 ^ s0;
        let s3 = s3 ^ s1;
        self.state = [s0 ^ s3, s1 ^ s2, s2 ^ (s1 << 17), s3.rotate_left(45)];
        result
    }

    /// A number below `bound`, without bias worth mentioning (Lemire's multiplication).
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below 0");
        let product = u128::from(self.next_u64()) * u128::from(bound);
        crate::base::cast::low_u64(product >> 64)
    }

    /// True once in `count` times on average.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ_by_salt() {
        let draw = |seed, salt| Prng::new(seed, salt).next_u64();
        assert_eq!(draw(1, "network"), draw(1, "network"));
        assert_ne!(draw(1, "network"), draw(1, "disk"));
        assert_ne!(draw(1, "network"), draw(2, "network"));
    }

    #[test]
    fn numbers_stay_below_their_bound_and_reach_it() {
        let mut prng = Prng::new(7, "test");
        let mut seen = [false; 5];
        for _ in 0..1_000 {
            seen[crate::base::cast::usize_from(prng.below(5))] = true;
        }
        assert_eq!(seen, [true; 5]);
    }
}
