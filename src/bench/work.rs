//! What a generator has to do, and when.

use super::schedule::Schedule;
use crate::base::time::Monotonic;

/// What a generator has to do.
#[derive(Debug)]
pub enum Work {
    /// Give the keys from `next` up to `end` their first values, `step` apart.
    Preload {
        /// The first of them.
        next: u64,
        /// The first that isn't one of them.
        end: u64,
        /// From one to the next.
        step: u64,
    },
    /// Ask when there is room.
    Closed,
    /// Ask when it is time.
    Open(Schedule),
    /// Take answers.
    Drain,
}

/// When a load begins, is measured and ends.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The schedule's 0.
    pub begin: Monotonic,
    /// Requests from here on are measured.
    pub measure: Monotonic,
    /// The first that isn't asked any more.
    pub end: Monotonic,
}

impl Span {
    /// Whether a request of this time is measured.
    #[must_use]
    pub fn measures(&self, intended: Monotonic) -> bool {
        self.measure <= intended && intended < self.end
    }
}

impl Work {
    /// The time of the next request, if it has come.
    #[must_use]
    pub fn due(&self, now: Monotonic, span: &Span) -> Option<Monotonic> {
        match self {
            Self::Preload { next, end, .. } => (next < end).then_some(now),
            Self::Closed => (now < span.end).then_some(now),
            Self::Open(schedule) => {
                let intended = span.begin.after_ns(schedule.peek());
                (intended <= now && intended < span.end).then_some(intended)
            }
            Self::Drain => None,
        }
    }

    /// Takes it; the key, if it is given.
    pub fn take(&mut self) -> Option<u64> {
        match self {
            Self::Preload { next, step, .. } => {
                let key = *next;
                *next += *step;
                Some(key)
            }
            Self::Open(schedule) => {
                schedule.advance();
                None
            }
            Self::Closed | Self::Drain => None,
        }
    }
}
