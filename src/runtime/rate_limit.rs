//! Keeps a misbehaving peer from filling the log.

use crate::base::time::{Monotonic, NS_PER_S};

/// Lines of one kind per second.
const PER_SECOND_COUNT: u64 = 5;

/// Admits a few lines a second and counts those that it doesn't.
#[derive(Debug, Default)]
pub struct RateLimit {
    second: u64,
    admitted: u64,
    suppressed: u64,
}

impl RateLimit {
    /// Whether a line may be written now; if so, how many were suppressed before it.
    pub fn admit(&mut self, now: Monotonic) -> Option<u64> {
        let second = now.0 / NS_PER_S;
        if second != self.second {
            self.second = second;
            self.admitted = 0;
        }
        if self.admitted == PER_SECOND_COUNT {
            self.suppressed += 1;
            return None;
        }
        self.admitted += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_rate_are_counted_and_reported_with_the_next_one() {
        let mut limit = RateLimit::default();
        let admitted = (0..8).filter(|_| limit.admit(Monotonic(1)).is_some()).count();
        assert_eq!(admitted, 5);
        assert_eq!(limit.admit(Monotonic(NS_PER_S)), Some(3));
        assert_eq!(limit.admit(Monotonic(NS_PER_S)), Some(0));
    }
}
