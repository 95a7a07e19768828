//! One deadline per connection, looked at a few times a second.
//!
//! None of them needs to be exact (seconds, all of them), almost none ever comes, and most are set
//! and cleared with each answer: so setting is a store into a flat array and looking is a scan of
//! it, and there is no heap and no queue that could grow.

use crate::base::cast::{u32_from, usize_from_u32};
use crate::base::time::{Monotonic, NS_PER_MS};

/// How often they are looked at.
const SWEEP_INTERVAL_NS: u64 = 250 * NS_PER_MS;
const NEVER: Monotonic = Monotonic(u64::MAX);

/// The deadlines of a table of connections, by slot.
#[derive(Debug, Default)]
pub struct Deadlines {
    by_slot: Vec<Monotonic>,
    count: usize,
    swept_at: Monotonic,
}

impl Deadlines {
    /// Sets or moves the deadline of a slot.
    pub fn set(&mut self, slot: u32, deadline: Monotonic) {
        let slot = usize_from_u32(slot);
        if slot >= self.by_slot.len() {
            self.by_slot.resize(slot + 1, NEVER);
        }
        self.count += usize::from(self.by_slot[slot] == NEVER);
        self.by_slot[slot] = deadline;
    }

    /// Forgets the deadline of a slot.
    pub fn clear(&mut self, slot: u32) {
        if let Some(deadline) = self.by_slot.get_mut(usize_from_u32(slot)) {
            self.count -= usize::from(*deadline != NEVER);
            *deadline = NEVER;
        }
    }

    /// When to look again; `None` if no deadline is set.
    #[must_use]
    pub fn next_sweep(&self) -> Option<Monotonic> {
        (self.count > 0).then(|| self.swept_at.after_ns(SWEEP_INTERVAL_NS))
    }

    /// The slots whose deadlines come until then. Looks at all.
    pub fn until(&self, by: Monotonic) -> impl Iterator<Item = u32> + '_ {
        let slots = self.by_slot.iter().enumerate();
        slots.filter(move |(_, deadline)| **deadline <= by).map(|(slot, _)| u32_from(slot))
    }

    /// Appends the slots whose deadline has come, and forgets these deadlines. Does nothing before
    /// [`Deadlines::next_sweep`], and says whether it did.
    pub fn sweep(&mut self, now: Monotonic, overdue: &mut Vec<u32>) -> bool {
        if self.next_sweep().is_none_or(|next| now < next) {
            return false;
        }
        self.swept_at = now;
        for (slot, deadline) in self.by_slot.iter_mut().enumerate() {
            if *deadline <= now {
                *deadline = NEVER;
                self.count -= 1;
                overdue.push(u32_from(slot));
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(deadlines: &mut Deadlines, now: u64) -> Vec<u32> {
        let mut overdue = Vec::new();
        let _ = deadlines.sweep(Monotonic(now * NS_PER_MS), &mut overdue);
        overdue
    }

    #[test]
    fn only_overdue_slots_are_found_and_each_once() {
        let mut deadlines = Deadlines::default();
        deadlines.set(3, Monotonic(900 * NS_PER_MS));
        deadlines.set(1, Monotonic(5_000 * NS_PER_MS));
        assert!(sweep(&mut deadlines, 800).is_empty());
        assert_eq!(sweep(&mut deadlines, 1_100), [3]);
        assert!(sweep(&mut deadlines, 2_000).is_empty());
        let until = |ms| deadlines.until(Monotonic(ms * NS_PER_MS)).count();
        assert_eq!([4_999, 5_000].map(until), [0, 1]);
        assert_eq!(sweep(&mut deadlines, 6_000), [1]);
        assert_eq!(deadlines.next_sweep(), None);
    }

    #[test]
    fn cleared_and_moved_deadlines_are_counted_once() {
        let mut deadlines = Deadlines::default();
        deadlines.clear(7);
        deadlines.set(0, Monotonic(1));
        deadlines.set(0, Monotonic(2));
        assert!(deadlines.next_sweep().is_some());
        deadlines.clear(0);
        deadlines.clear(0);
        assert_eq!(deadlines.next_sweep(), None);
    }

    #[test]
    fn nothing_is_scanned_more_often_than_needed() {
        let mut deadlines = Deadlines::default();
        deadlines.set(0, Monotonic(0));
        assert!(sweep(&mut deadlines, 249).is_empty());
        assert_eq!(sweep(&mut deadlines, 250), [0]);
    }
}
