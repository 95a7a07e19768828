//! Time as plain numbers. Nothing here reads a clock: hosts do, and pass [`Now`] in.

/// A point of a clock that never goes back, in nanoseconds since a start of the host's choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// The point `duration_ns` later, or the end of time.
    #[inline]
    #[must_use]
    pub const fn after_ns(self, duration_ns: u64) -> Self {
        Self(self.0.saturating_add(duration_ns))
    }

    /// Nanoseconds from `earlier` to here; 0 if it isn't earlier.
    #[inline]
    #[must_use]
    pub const fn since_ns(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A point of calendar time: nanoseconds since 1970 (UTC). The log's time; wide enough until 2554.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Whole milliseconds since 1970.
    #[inline]
    #[must_use]
    pub const fn as_ms(self) -> u64 {
        self.0 / NS_PER_MS
    }

    /// Whole seconds since 1970, and the nanoseconds of the second that has begun.
    #[inline]
    #[must_use]
    pub const fn parts(self) -> (u64, u32) {
        #[allow(clippy::cast_possible_truncation)]
        let nanos = (self.0 % NS_PER_S) as u32;
        (self.0 / NS_PER_S, nanos)
    }

    /// The inverse of [`Timestamp::parts`]; `None` if it is out of range.
    #[must_use]
    pub fn from_parts(seconds: u64, nanos: u32) -> Option<Self> {
        if u64::from(nanos) >= NS_PER_S {
            return None;
        }
        seconds.checked_mul(NS_PER_S)?.checked_add(u64::from(nanos)).map(Self)
    }
}

/// What a host's clocks say at the beginning of a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For deadlines and latencies.
    pub monotonic: Monotonic,
    /// For the log's timestamps.
    pub wall: Timestamp,
}

/// Nanoseconds in a microsecond.
pub const NS_PER_US: u64 = 1_000;
/// Nanoseconds in a millisecond.
pub const NS_PER_MS: u64 = 1_000_000;
/// Nanoseconds in a second.
pub const NS_PER_S: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_survive_being_taken_apart() {
        let time = Timestamp(1_700_000_000_123_456_789);
        let (seconds, nanos) = time.parts();
        assert_eq!((seconds, nanos), (1_700_000_000, 123_456_789));
        assert_eq!(Timestamp::from_parts(seconds, nanos), Some(time));
        assert_eq!(time.as_ms(), 1_700_000_000_123);
    }

    #[test]
    fn parts_out_of_range_are_refused() {
        assert_eq!(Timestamp::from_parts(0, 1_000_000_000), None);
        assert_eq!(Timestamp::from_parts(u64::MAX, 0), None);
    }
}
