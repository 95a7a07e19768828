//! Virtual time: what is to happen, in the one order in which it happens.
//!
//! The order is total: by time, and at one time by the order in which events were scheduled. So a
//! run is a function of its seed, and time costs nothing: it goes on to the next event at once.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::base::time::Monotonic;

/// The events that are to come, and the time.
#[derive(Debug)]
pub struct Schedule<E> {
    now: Monotonic,
    /// Distinguishes events of the same time.
    next_number: u64,
    queue: BinaryHeap<Scheduled<E>>,
}

#[derive(Debug)]
struct Scheduled<E> {
    due: Monotonic,
    number: u64,
    event: E,
}

impl<E> Scheduled<E> {
    const fn key(&self) -> (Monotonic, u64) {
        (self.due, self.number)
    }
}

/// The greatest is the next one.
impl<E> Ord for Scheduled<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Scheduled<E> {}

impl<E> Default for Schedule<E> {
    fn default() -> Self {
        Self { now: Monotonic(0), next_number: 0, queue: BinaryHeap::new() }
    }
}

impl<E> Schedule<E> {
    /// The time.
    #[must_use]
    pub const fn now(&self) -> Monotonic {
        self.now
    }

    /// How many events are to come.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Lets something happen at `due`, or at once if that is past.
    pub fn at(&mut self, due: Monotonic, event: E) {
        let (due, number) = (due.max(self.now), self.next_number);
        self.next_number += 1;
        self.queue.push(Scheduled { due, number, event });
    }

    /// Lets something happen in `delay_ns`.
    pub fn after(&mut self, delay_ns: u64, event: E) {
        self.at(self.now.after_ns(delay_ns), event);
    }

    /// Goes on to the next event; `None`: nothing is to come.
    pub fn advance(&mut self) -> Option<E> {
        let Scheduled { due, event, .. } = self.queue.pop()?;
        assert!(due >= self.now, "time doesn't go back");
        self.now = due;
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_at_one_time_in_the_order_in_which_they_were_scheduled() {
        let mut schedule = Schedule::default();
        schedule.after(20, 'd');
        for event in ['a', 'b', 'c'] {
            schedule.after(10, event);
        }
        schedule.at(Monotonic(30), 'e');
        let mut order = Vec::new();
        while let Some(event) = schedule.advance() {
            order.push((schedule.now().0, event));
        }
        assert_eq!(order, [(10, 'a'), (10, 'b'), (10, 'c'), (20, 'd'), (30, 'e')]);
        assert!(schedule.is_empty());
    }

    #[test]
    fn what_is_past_happens_at_once() {
        let mut schedule = Schedule::default();
        schedule.after(10, 1);
        schedule.advance();
        schedule.at(Monotonic(3), 2);
        assert_eq!((schedule.advance(), schedule.now()), (Some(2), Monotonic(10)));
    }
}
