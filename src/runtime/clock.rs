//! The only place where a server's clocks are read.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::base::cast::low_u64;
use crate::base::time::{Monotonic, Now, Timestamp};

/// The clocks of this process. All its copies count from the same start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is where clocks are read")]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Nanoseconds since the start.
    #[inline]
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is where clocks are read")]
    pub fn monotonic(&self) -> Monotonic {
        Monotonic(low_u64(Instant::now().duration_since(self.start).as_nanos()))
    }

    /// Both clocks.
    #[inline]
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is where clocks are read")]
    pub fn now(&self) -> Now {
        // A machine whose clock says that it is before 1970 gets 1970.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { monotonic: self.monotonic(), wall: Timestamp(low_u64(wall.as_nanos())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_never_goes_back_and_copies_agree() {
        let clock = Clock::start();
        let copy = clock;
        let first = clock.monotonic();
        let second = copy.monotonic();
        let third = clock.now().monotonic;
        assert!(first <= second && second <= third);
    }

    #[test]
    fn wall_time_is_this_century() {
        assert!(Clock::start().now().wall > Timestamp(1_600_000_000 * 1_000_000_000));
    }
}
