//! What happened in a run: every event is folded into one number, so that two runs are the same if
//! and only if (but for chance in 2⁶⁴) their numbers are; and, if somebody reads it, a line each.

use crate::base::cast::low_u64;
use crate::base::checksum::digest128;
use crate::base::time::{Monotonic, NS_PER_US};

/// Where lines go.
pub type TraceSink = fn(&str);

/// The trace of a run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    events_count: u64,
    sink: Option<TraceSink>,
}

impl Trace {
    /// A trace whose lines go to `sink`, if there is one.
    #[must_use]
    pub const fn new(sink: Option<TraceSink>) -> Self {
        Self { hash: 0x9E37_79B9_7F4A_7C15, events_count: 0, sink }
    }

    /// Folds an event: its name, and what tells it from others of its name. `line` says it to
    /// people; it is asked only if somebody reads.
    pub fn event(
        &mut self,
        now: Monotonic,
        name: &'static str,
        words: &[u64],
        line: impl FnOnce() -> String,
    ) {
        self.events_count += 1;
        self.fold(now.0);
        self.fold(low_u64(digest128(name.as_bytes())));
        for &word in words {
            self.fold(word);
        }
        if let Some(sink) = self.sink {
            let us = now.0 / NS_PER_US;
            let (ms, rest) = (us / 1_000, us % 1_000);
            sink(&format!("{ms:>6}.{rest:03} {name:<14} {}", line()));
        }
    }

    /// The number that stands for all events.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events there were.
    #[must_use]
    pub const fn events_count(&self) -> u64 {
        self.events_count
    }

    const fn fold(&mut self, word: u64) {
        let mixed = (self.hash ^ word).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
        self.hash = mixed.rotate_left(29) ^ (mixed >> 32);
    }
}

/// A number that stands for bytes.
#[must_use]
pub fn word_of(bytes: &[u8]) -> u64 {
    low_u64(digest128(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(events: &[(u64, &'static str, u64)]) -> u64 {
        let mut trace = Trace::new(None);
        for &(at, name, word) in events {
            trace.event(Monotonic(at), name, &[word], String::new);
        }
        assert_eq!(trace.events_count(), crate::base::cast::u64_from(events.len()));
        trace.hash()
    }

    #[test]
    fn every_difference_between_two_runs_shows() {
        let run = [(1, "send", 7), (2, "crash", 0), (2, "send", 8)];
        assert_eq!(hash(&run), hash(&run));
        let others: [&[(u64, &'static str, u64)]; 5] = [
            &run[..2],
            &[(1, "send", 7), (2, "send", 8), (2, "crash", 0)],
            &[(1, "send", 7), (3, "crash", 0), (2, "send", 8)],
            &[(1, "send", 6), (2, "crash", 0), (2, "send", 8)],
            &[(1, "sent", 7), (2, "crash", 0), (2, "send", 8)],
        ];
        for other in others {
            assert_ne!(hash(other), hash(&run), "{other:?}");
        }
    }
}
