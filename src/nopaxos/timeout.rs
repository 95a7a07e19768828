//! All that a member waits for, as one flat table: no heap, no callbacks.

use crate::base::time::Monotonic;

/// What a member waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timeout {
    /// What was received is to be acknowledged at the end of the turn.
    Flush,
    /// The slot after the last is missing (G1, G2).
    Gap,
    /// A leader gives up looking for the missing slots (G4).
    GapGivenUp,
    /// No-ops are without their quorum (G4).
    GapCommit,
    /// The sync point may move (Y1).
    Sync,
    /// Members have not answered the last `SyncPrepare`.
    SyncResend,
    /// A `SyncPrepare` waits for slots (Y2).
    SyncRepair,
    /// The leader, or the sequencer, shows that it is there.
    Ping,
    /// The leader, the sequencer or the followers are silent (T1, T4).
    Silence,
    /// The view change takes too long (T2).
    ViewChange,
    /// Votes and started views are repeated.
    ViewChangeRetry,
    /// Endorsements are repeated.
    Endorse,
    /// The votes are a quorum, more may come.
    MergeGrace,
    /// What an adoption lacks is asked for again.
    Fetch,
    /// The next piece of a checkpoint is asked for again.
    Chunk,
    /// A recovering member asks again.
    Recover,
    /// The leader's place is to be handed over.
    Transfer,
    /// Stamped commands are without acks.
    Retransmit,
    /// Queries are without responses.
    QueryRetry,
}

const COUNT: usize = Timeout::QueryRetry as usize + 1;

/// When each is due.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Timeouts([Monotonic; COUNT]);

/// Far away: not waited for.
const NEVER: Monotonic = Monotonic(u64::MAX);

impl Default for Timeouts {
    fn default() -> Self {
        Self([NEVER; COUNT])
    }
}

impl Timeouts {
    /// Waits until `due`, whatever was waited for before.
    pub(super) fn set(&mut self, timeout: Timeout, due: Monotonic) {
        self.0[timeout as usize] = due;
    }

    /// Waits until `due` unless it waits already.
    pub(super) fn arm(&mut self, timeout: Timeout, due: Monotonic) {
        if !self.is_set(timeout) {
            self.set(timeout, due);
        }
    }

    /// Waits no longer.
    pub(super) fn cancel(&mut self, timeout: Timeout) {
        self.0[timeout as usize] = NEVER;
    }

    /// Whether it waits.
    pub(super) fn is_set(&self, timeout: Timeout) -> bool {
        self.0[timeout as usize] != NEVER
    }

    /// Whether its time has come; then it waits no longer.
    pub(super) fn take(&mut self, timeout: Timeout, now: Monotonic) -> bool {
        let due = self.0[timeout as usize] <= now;
        if due {
            self.cancel(timeout);
        }
        due
    }

    /// The earliest.
    pub(super) fn next(&self) -> Option<Monotonic> {
        self.0.iter().copied().min().filter(|due| *due != NEVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_due_once() {
        let mut timeouts = Timeouts::default();
        assert_eq!(timeouts.next(), None);
        timeouts.set(Timeout::Gap, Monotonic(5));
        timeouts.arm(Timeout::Gap, Monotonic(3));
        timeouts.arm(Timeout::Ping, Monotonic(7));
        assert_eq!(timeouts.next(), Some(Monotonic(5)));
        assert!(!timeouts.take(Timeout::Gap, Monotonic(4)));
        assert!(timeouts.take(Timeout::Gap, Monotonic(5)));
        assert!(!timeouts.take(Timeout::Gap, Monotonic(6)));
        assert_eq!(timeouts.next(), Some(Monotonic(7)));
        timeouts.cancel(Timeout::Ping);
        assert_eq!(timeouts.next(), None);
    }
}
