//! A replica without time, for the model.

use super::*;

impl Replica {
    /// Forgets who was heard when and who wishes which view: none of it carries any safety, and the
    /// model lets everybody wish everything at any time.
    pub(in crate::nopaxos) fn forget_time(&mut self, keeps: &[Timeout], seed: u64) {
        let mut timeouts = Timeouts::default();
        for timeout in keeps.iter().filter(|timeout| self.timeouts.is_set(**timeout)) {
            timeouts.set(*timeout, Monotonic(u64::MAX - 1));
        }
        self.timeouts = timeouts;
        self.prng = Prng::new(seed, "timeless");
        self.peers = [Peer::default(); MEMBER_COUNT_MAX];
        self.election = Election::new(self.group.count());
        self.sync.forget_time();
        self.lookups_answered.clear();
    }
}
