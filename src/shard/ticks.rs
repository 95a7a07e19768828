//! Ticks: what expires in a partition that nobody writes to is removed all the same, and stays
//! hidden whatever clock is asked later.

use super::partition::{Partition, Waiter};
use super::{Core, Effects, Shard};
use crate::base::cast::u32_from;
use crate::base::ids::PartitionId;
use crate::base::limits::{TICK_INTERVAL_NS, TICKS_PER_TURN_COUNT_MAX};
use crate::map::operation::{Command, Operation, TICK};
use crate::map::partition::PartitionMap;
use crate::mark;

impl Core {
    /// Makes sure that somebody looks when the next entry or session of a partition expires.
    #[inline]
    pub(super) fn expect_expiry(&mut self, map: &PartitionMap) {
        if let Some(expiry) = map.next_expiry() {
            let left_ns = expiry.0.saturating_sub(self.now.wall.0);
            let due = self.now.monotonic.after_ns(left_ns.max(TICK_INTERVAL_NS));
            self.tick_due = Some(self.tick_due.map_or(due, |other| other.min(due)));
        }
    }
}

impl Shard {
    /// Stamps ticks where something has expired: a bounded number, a slot of one of which removes a
    /// bounded number of entries.
    pub(super) fn tick(&mut self, effects: &mut impl Effects) {
        self.core.tick_due = None;
        let first = self.core.config.partitions.start;
        let mut left = TICKS_PER_TURN_COUNT_MAX;
        let tick = Command {
            map: "",
            session: None,
            timeout_ms: 0,
            no_forward: true,
            operation: Operation::Tick,
        };
        for place in 0..self.partitions.len() {
            let partition = PartitionId(first + u32_from(place));
            while left > 0 && self.has_expired(place) && self.may_tick(place) {
                mark!("tick");
                let index = self.partitions[place].member.next_index();
                self.submit(partition, Waiter::Nobody, TICK, &tick, None, effects);
                self.partitions[place].view.ticked = index.unwrap_or_default();
                left -= 1;
            }
            self.core.expect_expiry(&self.partitions[place].view.map);
        }
    }

    /// Whether a tick would remove something: by the time that it would have, which isn't this
    /// node's if its clock is ahead of the others'.
    fn has_expired(&self, place: usize) -> bool {
        let Partition { member, view } = &self.partitions[place];
        let time = member.stamp_time(self.core.now.wall);
        view.map.next_expiry().zip(time).is_some_and(|(expiry, time)| expiry <= time)
    }

    /// Whether a tick would be taken, and the last one isn't still under way: who doesn't execute
    /// what it stamps at once would stamp ever more of them, and fill the log. If it isn't, the
    /// next look comes soon enough.
    fn may_tick(&self, place: usize) -> bool {
        let Partition { member, view } = &self.partitions[place];
        // An index that will be stamped anew is one of a view that came to nothing.
        let is_stamped = member.next_index().is_some_and(|next| view.ticked < next);
        let is_under_way = is_stamped && member.replica().applied() < view.ticked;
        !is_under_way && self.core.admit(&self.partitions[place], TICK.len()).is_ok()
    }
}
