//! Stamps commands. Active in one term at most, and only when the member's own replica, in this
//! process, has adopted that term's view with this member as its sequencer: a restarted process
//! never stamps in a term that it stamped in before (S1, S3).

use crate::base::ids::{Index, MemberId, MessageId, TermId};
use crate::base::limits::{CLOCK_AHEAD_NS_MAX, MEMBER_COUNT_MAX};
use crate::base::time::Timestamp;

/// The sequencer of one partition.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub struct Sequencer {
    active: Option<Active>,
    /// It is active and stamps nothing: its place is about to be handed over, or nobody hears it.
    paused: bool,
    /// How far each member's clock is ahead of this one's, as far as it is known.
    clocks: [Option<i64>; MEMBER_COUNT_MAX],
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
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
        assert!(self.active.is_none(), "a sequencer leaves its term before it begins another (I6)");
        self.active = Some(Active { term, base, next: MessageId(1), last_timestamp });
        self.paused = false;
    }

    /// Ends the term for ever (S2).
    pub fn deactivate(&mut self) {
        self.active = None;
    }

    /// Whether it has a term.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// Whether it stamps.
    #[must_use]
    #[inline]
    pub fn is_stamping(&self) -> bool {
        self.active.is_some() && !self.paused
    }

    /// Stops stamping for a while, or goes on.
    pub fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// The slot that the next command will have.
    #[must_use]
    #[inline]
    pub fn next_index(&self) -> Option<Index> {
        self.active.as_ref().map(|active| active.base.plus(active.next.0))
    }

    /// The slot of the last stamp, the base of the term at least.
    #[must_use]
    pub fn last_index(&self) -> Option<Index> {
        self.next_index().map(Index::previous)
    }

    /// A member has said what its clock says.
    pub fn on_clock(&mut self, member: MemberId, own: Timestamp, other: Timestamp) {
        let ahead = i128::from(other.0) - i128::from(own.0);
        self.clocks[usize::from(member.0)] = i64::try_from(ahead).ok();
    }

    /// The next stamp at wall time `now`; `None` when it doesn't stamp. Time never goes back in a
    /// log: after a clock was set back, stamps repeat the last time until the clock has caught up;
    /// nor does one clock that runs ahead carry the log's time with it (S4).
    #[inline]
    pub fn stamp(&mut self, now: Timestamp, quorum_count: usize) -> Option<Stamp> {
        let timestamp = self.time(now, quorum_count)?;
        let active = self.active.as_mut()?;
        let message_id = active.next;
        active.next = message_id.next();
        active.last_timestamp = timestamp;
        Some(Stamp {
            term: active.term,
            message_id,
            timestamp: active.last_timestamp,
            index: active.base.plus(message_id.0),
        })
    }

    /// The time that the next stamp has at wall time `now`; `None` when it doesn't stamp.
    #[must_use]
    pub fn time(&self, now: Timestamp, quorum_count: usize) -> Option<Timestamp> {
        let active = self.active.as_ref().filter(|_| !self.paused)?;
        let bound = match quorum_count {
            1 => now,
            _ => self.clock_bound(now, quorum_count),
        };
        Some(active.last_timestamp.max(now.min(bound)))
    }

    /// What a majority's clocks allow; no bound as long as fewer are known.
    fn clock_bound(&self, now: Timestamp, quorum_count: usize) -> Timestamp {
        let mut aheads: arrayvec::ArrayVec<i64, MEMBER_COUNT_MAX> =
            self.clocks.iter().flatten().copied().collect();
        if aheads.len() + 1 < quorum_count || aheads.is_full() {
            return Timestamp(u64::MAX);
        }
        aheads.push(0);
        aheads.sort_unstable();
        let median = aheads[aheads.len() / 2];
        Timestamp(now.0.saturating_add_signed(median).saturating_add(CLOCK_AHEAD_NS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_number_from_one_and_never_go_back_in_time() {
        let mut sequencer = Sequencer::default();
        assert_eq!(sequencer.stamp(Timestamp(1), 1), None);
        sequencer.activate(TermId(3), Index(10), Timestamp(50));
        assert_eq!(sequencer.last_index(), Some(Index(10)));
        let stamps: Vec<_> = [40, 60, 55]
            .map(|now| sequencer.stamp(Timestamp(now), 1).unwrap())
            .map(|stamp| (stamp.message_id.0, stamp.index.0, stamp.timestamp.0))
            .to_vec();
        assert_eq!(stamps, [(1, 11, 50), (2, 12, 60), (3, 13, 60)]);
        sequencer.pause(true);
        assert_eq!(sequencer.stamp(Timestamp(70), 1), None);
        sequencer.pause(false);
        assert_eq!(sequencer.next_index(), Some(Index(14)));
        sequencer.deactivate();
        assert_eq!(sequencer.stamp(Timestamp(70), 1), None);
    }

    #[test]
    fn one_clock_that_runs_ahead_does_not_carry_the_log_with_it() {
        let mut sequencer = Sequencer::default();
        sequencer.activate(TermId(1), Index(0), Timestamp(0));
        let hour = 3_600_000_000_000;
        let mine = Timestamp(10 * hour);
        let before = sequencer.stamp(mine, 2).unwrap();
        assert_eq!(before.timestamp, mine, "nobody else's clock is known");
        sequencer.deactivate();
        sequencer.activate(TermId(2), Index(0), Timestamp(0));
        for member in [1, 2] {
            sequencer.on_clock(MemberId(member), mine, Timestamp(9 * hour));
        }
        assert_eq!(sequencer.time(mine, 2), Some(Timestamp(9 * hour + CLOCK_AHEAD_NS_MAX)));
        let stamp = sequencer.stamp(mine, 2).unwrap();
        assert_eq!(stamp.timestamp, Timestamp(9 * hour + CLOCK_AHEAD_NS_MAX));
    }
}
