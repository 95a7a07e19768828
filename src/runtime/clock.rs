//! The only place where a server's clocks are read.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::base::cast::low_u64;
use crate::base::time::{Monotonic, NS_PER_S, Now, Timestamp};

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

    /// The CPU time of the calling thread, in nanoseconds: a system call.
    #[must_use]
    pub fn thread_cpu_ns() -> u64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let part = |value: i64| u64::try_from(value).unwrap_or_default();
        part(time.tv_sec) * NS_PER_S + part(time.tv_nsec)
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
