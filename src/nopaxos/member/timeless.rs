//! A member without time, for the model: what waits may happen at once or never.

use super::*;

impl<W: Copy> Member<W> {
    /// Forgets what only time has told, so that members that will do the same are the same.
    /// `keeps`: what may still time out. `seed`: of the process.
    pub(in crate::nopaxos) fn forget_time(&mut self, keeps: &[Timeout], seed: u64) {
        self.replica.forget_time(keeps, seed);
        self.beside.ignored = Ignored::default();
        self.timeouts = Timeouts::default();
        self.retransmit = [None; MEMBER_COUNT_MAX];
        self.deadline = None;
    }

    /// Whether it waits for something of the replica.
    pub(in crate::nopaxos) fn waits_for(&self, timeout: Timeout) -> bool {
        self.replica.timeouts.is_set(timeout)
    }

    /// The time of something has come.
    pub(in crate::nopaxos) fn time_out(
        &mut self,
        timeout: Timeout,
        now: Now,
        effects: &mut impl Effects<W>,
    ) {
        self.replica.timeouts.set(timeout, now.monotonic);
        self.on_deadline(now, effects);
    }
}
