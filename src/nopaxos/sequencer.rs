//! Stamps commands. Active in one term at most, and only when the member's own replica, in this
//! process, has adopted that term's view with this member as its sequencer: a restarted process
//! never stamps in a term that it stamped in before (S1, S3).

use crate::base::ids::{Index, MessageId, TermId};
use crate::base::time::Timestamp;

/// The sequencer of one partition.
#[derive(Debug, Default)]
pub struct Sequencer {
    active: Option<Active>,
}

#[derive(Debug)]
struct Active {
    term: TermId,
    base: Index,
    next: MessageId,
    last_timestamp: Timestamp,
}

/// A command's place: what the sequencer has given to no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The term.
    pub term: TermId,
    /// The number within the term.
    pub message_id: MessageId,
    /// The sequencer's time, never before that of an earlier stamp.
    pub timestamp: Timestamp,
    /// The slot: base + message id.
    pub index: Index,
}

impl Sequencer {
    /// Begins a term.
    ///
    /// # Panics
    /// If it is active already: a term ends before another begins.
    pub fn activate(&mut self, term: TermId, base: Index, last_timestamp: Timestamp) {
        assert!(self.active.is_none(), "a sequencer leaves its term before it begins another");
        self.active = Some(Active { term, base, next: MessageId(1), last_timestamp });
    }

    /// Ends the term for ever (S2).
    pub fn deactivate(&mut self) {
        self.active = None;
    }

    /// Whether it stamps.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// The next stamp at wall time `now`; `None` when not active. Time never goes back in a log:
    /// after a clock was set back, stamps repeat the last time until the clock has caught up (S4).
    pub fn stamp(&mut self, now: Timestamp) -> Option<Stamp> {
        let active = self.active.as_mut()?;
        let message_id = active.next;
        active.next = message_id.next();
        active.last_timestamp = active.last_timestamp.max(now);
        Some(Stamp {
            term: active.term,
            message_id,
            timestamp: active.last_timestamp,
            index: active.base.plus(message_id.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_number_from_one_and_never_go_back_in_time() {
        let mut sequencer = Sequencer::default();
        assert_eq!(sequencer.stamp(Timestamp(1)), None);
        sequencer.activate(TermId(3), Index(10), Timestamp(50));
        let stamps: Vec<_> = [40, 60, 55]
            .map(|now| sequencer.stamp(Timestamp(now)).unwrap())
            .map(|stamp| (stamp.message_id.0, stamp.index.0, stamp.timestamp.0))
            .to_vec();
        assert_eq!(stamps, [(1, 11, 50), (2, 12, 60), (3, 13, 60)]);
        sequencer.deactivate();
        assert_eq!(sequencer.stamp(Timestamp(70)), None);
    }
}
