//! What of the log is on the disk as it stands in memory. Memory is ahead: slots are appended,
//! values become no-ops and checkpoints take the place of slots before any of it is durable, and a
//! member says nothing of it until it is (W3, W4, W6).

use std::collections::VecDeque;

use super::{Replica, Status};
use crate::base::ids::Index;
use crate::mark;

/// Which slots are durable, as they stand.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Durable {
    /// All slots up to here were durable when they were appended.
    pub(super) appended: Index,
    /// Slots that have become no-ops since, which isn't durable yet, in the order of the appends.
    pub(super) no_ops: VecDeque<Index>,
    /// Checkpoints that were put in the place of slots, which isn't durable yet, each with what was
    /// stable before: above that the disk may hold other slots until then (W6).
    pub(super) checkpoints: VecDeque<(Index, Index)>,
}

impl Durable {
    /// All slots up to here are durable as they are.
    pub(super) fn index(&self) -> Index {
        let before = self.checkpoints.front().map_or(self.appended, |(_, before)| *before);
        let index = self.appended.min(before);
        self.no_ops.iter().fold(index, |index, no_op| index.min(no_op.previous()))
    }
}

impl Replica {
    /// The durable log begins at `first` now.
    pub(in crate::nopaxos) fn on_truncated(&mut self, first: Index) {
        self.truncated = self.truncated.max(first);
        // A vote is of what the log held when the view was promised (K3).
        if self.status == Status::Normal {
            self.note_truncated();
        }
    }

    /// What was let go isn't spoken of any more: from now on, or from the next vote on.
    pub(super) fn note_truncated(&mut self) {
        if self.truncated > self.first {
            mark!("log-truncated");
            self.first = self.truncated;
            self.log.forget_no_ops(self.first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_end_before_whatever_is_on_its_way_to_the_disk() {
        let mut durable = Durable { appended: Index(9), ..Durable::default() };
        assert_eq!(durable.index(), Index(9));
        durable.no_ops.extend([Index(8), Index(5)]);
        assert_eq!(durable.index(), Index(4));
        durable.checkpoints.extend([(Index(6), Index(2)), (Index(7), Index(6))]);
        assert_eq!(
            durable.index(),
            Index(2),
            "the disk may hold other slots above what was stable"
        );
        durable.checkpoints.pop_front();
        durable.no_ops.clear();
        assert_eq!(durable.index(), Index(6));
    }
}
